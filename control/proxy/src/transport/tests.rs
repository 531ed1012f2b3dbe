//! The transports over real sockets of this host.

use std::net::Ipv6Addr;
use std::time::Duration;

use nebula_sip::message::{Name, ParseError, Response, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

fn options() -> Options {
    Options { addresses: vec![Ipv4Addr::LOCALHOST.into()], port: 0, ..Options::default() }
}

fn options_request(via: &str, call_id: &str) -> String {
    format!(
        "OPTIONS sip:a@b SIP/2.0\r\nVia: {via}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: {call_id}\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}

async fn next(inbound: &mut mpsc::Receiver<Inbound>) -> Inbound {
    timeout(DEADLINE, inbound.recv()).await.expect("nothing came").expect("channel closed")
}

async fn next_message(inbound: &mut mpsc::Receiver<Inbound>) -> (Flow, Message) {
    match next(inbound).await {
        Inbound { flow, event: Event::Message(message), .. } => (flow, message),
        other => panic!("{other:?}"),
    }
}

async fn next_closed(inbound: &mut mpsc::Receiver<Inbound>) -> Closed {
    loop {
        if let Inbound { event: Event::Closed(why), .. } = next(inbound).await {
            return why;
        }
    }
}

#[tokio::test]
async fn a_datagram_comes_with_its_source_and_is_answered_over_its_flow() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let to = (Ipv4Addr::LOCALHOST, transports.port());
    // Keepalives and garbage come first and must not get in the way.
    for noise in [&b"\r\n\r\n"[..], b"\0\0\0\0", b"", b"garbage", b"SIP/2.0 200 OK\r\n\r\n"] {
        phone.send_to(noise, to).await.unwrap();
    }
    phone.send_to(options_request("SIP/2.0/UDP 10.1.1.1;rport;branch=z9hG4bK1", "c").as_bytes(), to).await.unwrap();

    let (flow, message) = next_message(&mut inbound).await;
    assert_eq!((flow.protocol, flow.remote, flow.connection), (Protocol::Udp, phone.local_addr().unwrap(), 0));
    assert_eq!(flow.local, SocketAddr::from((Ipv4Addr::LOCALHOST, transports.port())));
    let via = message.headers().via_top().unwrap();
    assert_eq!((via.received(), via.rport()), (Some(Ipv4Addr::LOCALHOST.into()), Some(flow.remote.port())));

    let Message::Request(request) = message else { panic!() };
    assert_eq!(transports.send(&flow, Response::to(&request, StatusCode::OK).to_bytes()).unwrap(), flow);
    let mut answer = [0; 2000];
    let (len, from) = timeout(DEADLINE, phone.recv_from(&mut answer)).await.unwrap().unwrap();
    assert_eq!(from, flow.local);
    assert!(answer[..len].starts_with(b"SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP 10.1.1.1;rport="));
}

#[tokio::test]
async fn a_broken_request_comes_with_what_a_refusal_needs() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let broken = options_request("SIP/2.0/UDP 10.1.1.1;branch=z9hG4bK1", "c").replace("<sip:b@b>", "\"x <sip:b@b>");
    phone.send_to(broken.as_bytes(), (Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    let Inbound { event: Event::Malformed(malformed), .. } = next(&mut inbound).await else { panic!() };
    let salvage = malformed.salvage.unwrap();
    assert_eq!(salvage.headers.via_top().unwrap().received(), Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(salvage.headers.get(Name::To), Some("\"x <sip:b@b>"));
}

#[tokio::test]
async fn a_request_whose_via_cannot_be_read_is_refused_over_its_connection() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let broken = options_request("SIP/2.0/TCP 10.1.1.1;;,;,,", "c");
    let to = (Ipv4Addr::LOCALHOST, transports.port());
    UdpSocket::bind("127.0.0.1:0").await.unwrap().send_to(broken.as_bytes(), to).await.unwrap();
    let mut phone = TcpStream::connect(to).await.unwrap();
    phone.write_all(broken.as_bytes()).await.unwrap();
    // Nothing comes of the datagram: nobody could be answered.
    let Inbound { flow, event: Event::Malformed(malformed), .. } = next(&mut inbound).await else { panic!() };
    assert_eq!(flow.protocol, Protocol::Tcp);
    let response = Response::to_salvage(&malformed.salvage.unwrap(), StatusCode::BAD_REQUEST);
    assert_eq!(response.headers.get(Name::Via), Some("SIP/2.0/TCP 10.1.1.1;;,;,,"));
}

#[tokio::test]
async fn a_wildcard_socket_knows_the_address_its_peer_sees() {
    let options = Options { addresses: vec![Ipv4Addr::UNSPECIFIED.into()], port: 0, ..Options::default() };
    let (transports, mut inbound) = Transports::bind(options).await.unwrap();
    let phone = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let request = options_request("SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1", "c");
    phone.send_to(request.as_bytes(), (Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    let (flow, _) = next_message(&mut inbound).await;
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, transports.port()));
    assert_eq!(flow.local, local);
    assert_eq!(transports.flow_to(Protocol::Udp, flow.remote).unwrap().local, local);
    assert_eq!(transports.flow_to(Protocol::Tcp, flow.remote).unwrap().local, local);
    assert!(transports.is_local(Ipv4Addr::LOCALHOST.into()));
    assert!(!transports.is_local("192.0.2.77".parse().unwrap()));
}

#[tokio::test]
async fn ipv6_stands_beside_ipv4_on_one_port() {
    let addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    let Ok((transports, mut inbound)) = Transports::bind(Options { addresses, port: 0, ..Options::default() }).await
    else {
        eprintln!("skipped: no IPv6 here");
        return;
    };
    let phone = UdpSocket::bind("[::1]:0").await.unwrap();
    let request = options_request("SIP/2.0/UDP [2001:db8::9];branch=z9hG4bK1", "c");
    phone.send_to(request.as_bytes(), (Ipv6Addr::LOCALHOST, transports.port())).await.unwrap();
    let (flow, message) = next_message(&mut inbound).await;
    assert!(flow.local.is_ipv6() && flow.remote.is_ipv6());
    assert_eq!(message.headers().via_top().unwrap().received(), Some(Ipv6Addr::LOCALHOST.into()));
}

#[tokio::test]
async fn a_stream_carries_many_messages_in_any_pieces() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let mut phone = TcpStream::connect((Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    let one = |n: u32| options_request("SIP/2.0/TCP 10.1.1.1;branch=z9hG4bK1", &format!("call-{n}"));
    let all = format!("{}{}\r\n\r\n{}", one(1), one(2), one(3));
    let (head, tail) = all.split_at(all.len() - 30);
    phone.write_all(head.as_bytes()).await.unwrap();
    let mut flows = Vec::new();
    for n in 1..=2 {
        let (flow, message) = next_message(&mut inbound).await;
        assert_eq!(message.headers().call_id().unwrap(), format!("call-{n}"));
        flows.push(flow);
    }
    let mut pong = [0; 2];
    timeout(DEADLINE, phone.read_exact(&mut pong)).await.unwrap().unwrap();
    assert_eq!(&pong, b"\r\n");
    phone.write_all(tail.as_bytes()).await.unwrap();
    let (flow, message) = next_message(&mut inbound).await;
    assert_eq!(message.headers().call_id().unwrap(), "call-3");
    assert!(flow.connection != 0 && flows.iter().all(|f| *f == flow));

    drop(phone);
    assert_eq!(next_closed(&mut inbound).await, Closed::Peer);
    assert!(matches!(transports.send(&flow, Bytes::from_static(b"x")), Err(SendError::ConnectionGone)));
}

#[tokio::test]
async fn a_connection_is_made_on_demand_and_used_again() {
    let (ours, mut our_inbound) = Transports::bind(options()).await.unwrap();
    let (theirs, mut their_inbound) = Transports::bind(options()).await.unwrap();
    let to = ours.flow_to(Protocol::Tcp, (Ipv4Addr::LOCALHOST, theirs.port()).into()).unwrap();
    let request = |n: u32| Bytes::from(options_request("SIP/2.0/TCP 10.1.1.1;branch=z9hG4bK1", &format!("call-{n}")));
    let made = ours.send(&to, request(1)).unwrap();
    assert_eq!(ours.send(&to, request(2)).unwrap(), made);
    let (their_flow, _) = next_message(&mut their_inbound).await;
    assert_eq!(next_message(&mut their_inbound).await.0, their_flow);
    // And back over the same connection.
    theirs.send(&their_flow, request(3)).unwrap();
    let (flow, message) = next_message(&mut our_inbound).await;
    assert_eq!((flow.connection, message.headers().call_id().unwrap()), (made.connection, "call-3"));
}

#[tokio::test]
async fn a_peer_that_is_not_there_is_reported() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let to = transports.flow_to(Protocol::Tcp, free).unwrap();
    let made = transports.send(&to, Bytes::from_static(b"x")).unwrap();
    let Inbound { flow, event: Event::Closed(why), .. } = next(&mut inbound).await else { panic!() };
    assert_eq!((flow, why), (made, Closed::Unreachable));
}

#[tokio::test]
async fn a_reader_that_does_not_read_is_closed() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let mut phone = TcpStream::connect((Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    phone.write_all(options_request("SIP/2.0/TCP h;branch=z9hG4bK1", "c").as_bytes()).await.unwrap();
    let (flow, _) = next_message(&mut inbound).await;
    let large = Bytes::from(vec![b'x'; 60_000]);
    let refused = timeout(DEADLINE, async {
        loop {
            match transports.send(&flow, large.clone()) {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error,
            }
        }
    });
    assert!(matches!(refused.await.unwrap(), SendError::SlowReader));
    assert_eq!(next_closed(&mut inbound).await, Closed::SlowReader);
}

#[tokio::test]
async fn a_slow_reader_costs_little_and_slows_nobody() {
    let buffer = 64 * 1024;
    let options = Options { tcp_write_buffer_bytes: buffer, ..options() };
    let (transports, mut inbound) = Transports::bind(options).await.unwrap();
    let to = (Ipv4Addr::LOCALHOST, transports.port());
    // Neither of them takes more than a little unread.
    let slow = tokio::net::TcpSocket::new_v4().unwrap();
    slow.set_recv_buffer_size(4096).unwrap();
    let mut slow = slow.connect(to.into()).await.unwrap();
    let mut quick = TcpStream::connect(to).await.unwrap();
    slow.write_all(options_request("SIP/2.0/TCP h;branch=z9hG4bK1", "slow").as_bytes()).await.unwrap();
    let (slow_flow, _) = next_message(&mut inbound).await;
    quick.write_all(options_request("SIP/2.0/TCP h;branch=z9hG4bK2", "quick").as_bytes()).await.unwrap();
    let (quick_flow, _) = next_message(&mut inbound).await;

    let message = Bytes::from(vec![b'x'; 1000]);
    let mut taken = 0;
    let mut echo = vec![0; message.len()];
    let refused = loop {
        match transports.send(&slow_flow, message.clone()) {
            Ok(_) => taken += message.len(),
            Err(error) => break error,
        }
        // Between any two sends the quick one is served.
        transports.send(&quick_flow, message.clone()).unwrap();
        timeout(DEADLINE, quick.read_exact(&mut echo)).await.unwrap().unwrap();
    };
    assert!(matches!(refused, SendError::SlowReader));
    // Ours, the kernel's (which counts twice what is asked for), and the peer's.
    assert!(taken <= buffer * 4 + 64 * 1024, "{taken} bytes for a reader that reads nothing");
    assert_eq!(next_closed(&mut inbound).await, Closed::SlowReader);
    transports.send(&quick_flow, message.clone()).unwrap();
    timeout(DEADLINE, quick.read_exact(&mut echo)).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_connects_must_say_something() {
    let options = Options { tcp_first_message_timeout: Duration::from_millis(50), ..options() };
    let (transports, mut inbound) = Transports::bind(options).await.unwrap();
    let mut phone = TcpStream::connect((Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    // A keepalive is no message.
    phone.write_all(b"\r\n\r\n").await.unwrap();
    assert_eq!(next_closed(&mut inbound).await, Closed::Timeout);
    let mut talker = TcpStream::connect((Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    talker.write_all(options_request("SIP/2.0/TCP h;branch=z9hG4bK1", "c").as_bytes()).await.unwrap();
    next_message(&mut inbound).await;
    assert!(timeout(Duration::from_millis(200), inbound.recv()).await.is_err(), "it has said something");
}

#[tokio::test]
async fn what_cannot_be_framed_is_handed_on_once_and_then_closed() {
    let (transports, mut inbound) = Transports::bind(options()).await.unwrap();
    let mut phone = TcpStream::connect((Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
    let broken = options_request("SIP/2.0/TCP h;branch=z9hG4bK1", "c").replace("Length: 0", "Length: -9");
    phone.write_all(broken.as_bytes()).await.unwrap();
    let Inbound { flow, event: Event::Malformed(malformed), .. } = next(&mut inbound).await else { panic!() };
    assert!(matches!(malformed.error, ParseError::Header(_)));
    transports.send(&flow, Bytes::from_static(b"SIP/2.0 400 Bad\r\n\r\n")).unwrap();
    assert_eq!(next_closed(&mut inbound).await, Closed::Unframeable);
    let mut answer = Vec::new();
    timeout(DEADLINE, phone.read_to_end(&mut answer)).await.unwrap().unwrap();
    assert_eq!(answer, b"SIP/2.0 400 Bad\r\n\r\n");
}

#[tokio::test]
async fn silence_and_half_messages_end_in_time() {
    let short = Duration::from_millis(50);
    for (idle, message, sent) in [(short, DEADLINE, ""), (DEADLINE, short, "OPTIONS sip:a@b SIP/2.0\r\n")] {
        let options = Options { tcp_idle_timeout: idle, tcp_message_timeout: message, ..options() };
        let (transports, mut inbound) = Transports::bind(options).await.unwrap();
        let mut phone = TcpStream::connect((Ipv4Addr::LOCALHOST, transports.port())).await.unwrap();
        phone.write_all(sent.as_bytes()).await.unwrap();
        assert_eq!(next_closed(&mut inbound).await, Closed::Timeout);
    }
}

#[tokio::test]
async fn connections_have_a_cap() {
    let (transports, mut inbound) = Transports::bind(Options { tcp_connections_max: 1, ..options() }).await.unwrap();
    let to = (Ipv4Addr::LOCALHOST, transports.port());
    let mut first = TcpStream::connect(to).await.unwrap();
    first.write_all(options_request("SIP/2.0/TCP h;branch=z9hG4bK1", "c").as_bytes()).await.unwrap();
    next_message(&mut inbound).await;
    let mut second = TcpStream::connect(to).await.unwrap();
    assert_eq!(timeout(DEADLINE, second.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    let flow = transports.flow_to(Protocol::Tcp, "127.0.0.1:9".parse().unwrap()).unwrap();
    assert!(matches!(transports.send(&flow, Bytes::new()), Err(SendError::TooManyConnections)));
}

#[tokio::test]
async fn a_taken_port_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let Err(error) = Transports::bind(Options { port, ..options() }).await else { panic!("bound twice") };
    let text = error.to_string();
    assert!(text.contains("sip.port") && text.contains(&format!("udp 127.0.0.1:{port}")), "{text}");
}

#[tokio::test]
async fn closing_ends_connections_and_frees_the_port() {
    let (transports, inbound) = Transports::bind(options()).await.unwrap();
    let port = transports.port();
    let mut phone = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    drop(inbound);
    drop(transports);
    assert_eq!(timeout(DEADLINE, phone.read(&mut [0; 1])).await.unwrap().unwrap_or(0), 0);
    let freed = timeout(DEADLINE, async {
        while std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).is_err() {
            tokio::task::yield_now().await;
        }
    });
    freed.await.unwrap();
}
