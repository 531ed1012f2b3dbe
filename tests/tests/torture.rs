//! The messages of RFC 4475 and RFC 5118 over UDP and TCP: no crash, no hang, and the right answer for those that have
//! one. What is allowed here is what an edge that authenticates before it looks at bodies may say.

use nebula_tests::system::System;
use nebula_tests::testdata;
use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// No answer: a response that belongs to nothing, or a request that cannot be answered.
const SILENCE: &[u16] = &[];

/// An unauthenticated request that is well formed.
const CHALLENGED: &[u16] = &[401];

/// OPTIONS needs no credentials: found or not.
const OPTIONS: &[u16] = &[200, 404];

/// A method that we don't have (RFC 3261 sections 8.2.1 and 21.5.2).
const NO_SUCH_METHOD: &[u16] = &[405, 501];

const BAD: &[u16] = &[400];

/// File, answer over UDP, and over TCP where the stream makes a difference.
const EXPECTED: &[(&str, &[u16], Option<&[u16]>)] = &[
    // RFC 4475 section 3.1.1: valid
    // Its To has a tag: it belongs to a dialog that we don't have.
    ("rfc4475/wsinv.dat", &[481], None),
    ("rfc4475/intmeth.dat", NO_SUCH_METHOD, None),
    ("rfc4475/esc01.dat", CHALLENGED, None),
    ("rfc4475/escnull.dat", CHALLENGED, None),
    ("rfc4475/esc02.dat", NO_SUCH_METHOD, None),
    ("rfc4475/lwsdisp.dat", OPTIONS, None),
    ("rfc4475/longreq.dat", CHALLENGED, None),
    ("rfc4475/dblreq.dat", CHALLENGED, None),
    ("rfc4475/semiuri.dat", OPTIONS, None),
    ("rfc4475/transports.dat", OPTIONS, None),
    ("rfc4475/mpart01.dat", NO_SUCH_METHOD, None),
    ("rfc4475/unreason.dat", SILENCE, None),
    ("rfc4475/noreason.dat", SILENCE, None),
    // 3.1.2: invalid
    // Its Via is what is broken: over UDP there is nowhere to answer to, a connection is its own way back.
    ("rfc4475/badinv01.dat", SILENCE, Some(BAD)),
    // Over TCP the promised body may still come.
    ("rfc4475/clerr.dat", BAD, Some(SILENCE)),
    ("rfc4475/ncl.dat", BAD, None),
    ("rfc4475/scalar02.dat", BAD, None),
    ("rfc4475/scalarlg.dat", SILENCE, None),
    ("rfc4475/quotbal.dat", BAD, None),
    ("rfc4475/ltgtruri.dat", BAD, None),
    ("rfc4475/lwsruri.dat", BAD, None),
    ("rfc4475/lwsstart.dat", BAD, None),
    ("rfc4475/trws.dat", BAD, None),
    ("rfc4475/escruri.dat", BAD, None),
    // "An element could reject it" or ignore a Date that it has no use for.
    ("rfc4475/baddate.dat", &[400, 401], None),
    ("rfc4475/regbadct.dat", BAD, None),
    ("rfc4475/badaspec.dat", BAD, None),
    // "May be lenient": a display name that is neither token nor quoted.
    ("rfc4475/baddn.dat", &[400, 200, 404], None),
    ("rfc4475/badvers.dat", &[505], None),
    ("rfc4475/mismatch01.dat", BAD, None),
    ("rfc4475/mismatch02.dat", &[400, 405, 501], None),
    ("rfc4475/bigcode.dat", SILENCE, None),
    // 3.2: transaction
    ("rfc4475/badbranch.dat", &[200, 404, 400], None),
    // 3.3: application
    ("rfc4475/insuf.dat", &[400], None),
    ("rfc4475/unkscm.dat", &[416], None),
    ("rfc4475/novelsc.dat", &[416], None),
    ("rfc4475/unksm2.dat", &[400, 401, 416], None),
    ("rfc4475/bext01.dat", &[420], None),
    ("rfc4475/invut.dat", &[415, 401], None),
    ("rfc4475/regaut01.dat", CHALLENGED, None),
    ("rfc4475/multi01.dat", BAD, None),
    ("rfc4475/mcl01.dat", BAD, None),
    ("rfc4475/bcast.dat", SILENCE, None),
    // RFC 4475 3.3.11: a proxy answers 483; a user agent that is the target may process it.
    ("rfc4475/zeromf.dat", &[483, 200, 404], None),
    ("rfc4475/cparam01.dat", CHALLENGED, None),
    ("rfc4475/cparam02.dat", CHALLENGED, None),
    ("rfc4475/regescrt.dat", CHALLENGED, None),
    // It accepts no body that an answer could have.
    ("rfc4475/sdp01.dat", &[406, 401], None),
    // 3.4: RFC 2543
    ("rfc4475/inv2543.dat", CHALLENGED, None),
    // RFC 5118
    ("rfc5118/ipv6-good", CHALLENGED, None),
    ("rfc5118/ipv6-bad", BAD, None),
    ("rfc5118/port-ambiguous", CHALLENGED, None),
    ("rfc5118/port-unambiguous", CHALLENGED, None),
    ("rfc5118/via-received-param-with-delim", &[481], None),
    ("rfc5118/via-received-param-no-delim", OPTIONS, None),
    ("rfc5118/ipv6-in-sdp", CHALLENGED, None),
    ("rfc5118/mult-ip-in-header", &[481], None),
    ("rfc5118/mult-ip-in-sdp", CHALLENGED, None),
    ("rfc5118/ipv4-mapped-ipv6", CHALLENGED, None),
    // RFC 5118 4.9: the two-colon form is right; the three-colon one comes from a flaw in RFC 3261's grammar and should
    // be tolerated.
    ("rfc5118/ipv6-correct-abnf-2-colons", OPTIONS, None),
    ("rfc5118/ipv6-bug-abnf-3-colons", &[200, 404, 400], None),
];

/// How long to wait for an answer. Within it, the answer to a later OPTIONS ends the wait.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);

fn status(message: &[u8]) -> Option<u16> {
    let line = message.split(|b| *b == b'\n').next()?;
    std::str::from_utf8(line).ok()?.strip_prefix("SIP/2.0 ")?.get(..3)?.parse().ok()
}

/// An OPTIONS of our own: when it is answered, whatever came before has been dealt with.
fn probe(n: usize, local: SocketAddr, transport: &str) -> String {
    format!(
        "OPTIONS sip:nebula@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/{transport} {local};branch=z9hG4bKprobe{n};rport\r\n\
         From: <sip:probe@127.0.0.1>;tag=p{n}\r\nTo: <sip:nebula@127.0.0.1>\r\nCall-ID: probe-{n}\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    )
}

fn is_probe(message: &[u8], n: usize) -> bool {
    String::from_utf8_lossy(message).contains(&format!("probe-{n}\r\n"))
}

/// The first Via, as far as a torturer leaves one.
fn via(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let is_via = |line: &&str| line.to_ascii_lowercase().starts_with("via") || line.starts_with("v:");
    text.lines().find(is_via).unwrap_or_default().to_owned()
}

/// The port that a response is sent to over UDP (RFC 3261 section 18.2.2): that of the top Via, or the default.
fn reply_port(message: &[u8]) -> u16 {
    let via = via(message);
    let default = if via.contains("SIP/2.0/TLS") { 5061 } else { 5060 };
    let sent_by = via.split("SIP/2.0/").nth(1).and_then(|s| s.split_once(' ')).map(|(_, rest)| rest);
    let host_port = sent_by.and_then(|s| s.split(';').next()).unwrap_or_default().trim();
    let port = host_port.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']'));
    port.and_then(|(_, port)| port.parse().ok()).unwrap_or(default)
}

/// The message with this port in its top Via, where that can be told by plain means.
fn with_reply_port(message: &[u8], port: u16) -> Option<Vec<u8>> {
    let via = via(message);
    let start = message.windows(via.len().max(1)).position(|window| window == via.as_bytes())?;
    let (protocol, rest) = via.split_once(' ').and_then(|(name, rest)| {
        let (transport, rest) = rest.trim_start().split_once(' ')?;
        transport.starts_with("SIP/2.0/").then(|| (format!("{name} {transport}"), rest))
    })?;
    let (sent_by, params) = rest.split_at(rest.find([';', ',']).unwrap_or(rest.len()));
    let host = match sent_by.trim().rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => sent_by.trim(),
    };
    let edited = format!("{protocol} {host}:{port}{params}");
    Some([&message[..start], edited.as_bytes(), &message[start + via.len()..]].concat())
}

/// Where the answer to a message will come to, and the message. Answers go to the Via's port at the source address: an
/// address of loopback that nobody else uses. Should somebody hold that port on all addresses (another SIP server on
/// 5060), the Via is given another one.
fn listening(n: usize, message: &[u8]) -> Option<(UdpSocket, Vec<u8>)> {
    let ip = Ipv4Addr::new(127, 75, (n / 250) as u8, (n % 250 + 1) as u8);
    if let Ok(socket) = UdpSocket::bind((ip, reply_port(message))) {
        return Some((socket, message.to_vec()));
    }
    let socket = UdpSocket::bind((ip, 0)).expect("an address of loopback");
    let port = socket.local_addr().expect("bound").port();
    Some((socket, with_reply_port(message, port)?))
}

/// Messages that share a branch and a sender would be retransmissions of each other (RFC 3261 section 17.2.3): they go to
/// different systems.
fn rounds() -> Option<Vec<Vec<(usize, Vec<u8>)>>> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let mut rounds: Vec<Vec<(usize, Vec<u8>)>> = Vec::new();
    for (n, (file, ..)) in EXPECTED.iter().enumerate() {
        let message = std::fs::read(testdata::find(file)?).expect("readable");
        let round = seen.entry(via(&message)).or_default();
        if rounds.len() == *round {
            rounds.push(Vec::new());
        }
        rounds[*round].push((n, message));
        *round += 1;
    }
    Some(rounds)
}

/// Collects the failures of one transport, so that a run tells all of them at once.
fn check(send: impl Fn(&System, usize, &[u8]) -> Option<Vec<u16>>, over_tcp: bool) {
    let mut wrong = BTreeMap::new();
    for round in rounds().into_iter().flatten() {
        let system = System::start();
        for (n, message) in round {
            let (file, udp, tcp) = &EXPECTED[n];
            let expected = if over_tcp { tcp.unwrap_or(udp) } else { udp };
            let Some(answers) = send(&system, n, &message) else {
                eprintln!("skipped: {file}: the port of its Via is taken");
                continue;
            };
            // Provisional responses may come before; retransmissions of the same answer may come after.
            let last = answers.iter().copied().rfind(|code| *code >= 200);
            let right = last.map_or(expected.is_empty(), |code| expected.contains(&code));
            if !right {
                wrong.insert(*file, format!("answered {answers:?}, expected one of {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn over_udp() {
    let probe_socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    probe_socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
    let local = probe_socket.local_addr().expect("bound");
    check(
        |system, n, message| {
            let (socket, message) = listening(n, message)?;
            socket.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            socket.send_to(&message, system.sip()).expect("sent");
            probe_socket.send_to(probe(n, local, "UDP").as_bytes(), system.sip()).expect("sent");
            let (mut answers, mut buffer, mut probed) = (Vec::new(), vec![0; 65_536], false);
            let end = Instant::now() + ANSWER_DEADLINE;
            // The edge handles datagrams in the order of their arrival, but looks users up aside: after the probe's answer
            // a moment more is given.
            let mut quiet = 0;
            while quiet < 5 {
                assert!(Instant::now() < end, "message {n} keeps the edge from answering OPTIONS");
                if !probed && let Ok((length, _)) = probe_socket.recv_from(&mut buffer) {
                    probed = is_probe(&buffer[..length], n);
                }
                match socket.recv_from(&mut buffer) {
                    Ok((length, _)) => answers.extend(status(&buffer[..length])),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => quiet += usize::from(probed),
                    Err(e) => panic!("{e}"),
                }
            }
            Some(answers)
        },
        false,
    );
}

#[test]
fn over_tcp() {
    check(
        |system, n, message| {
            let mut stream = TcpStream::connect(system.sip()).expect("connected");
            stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
            let local = stream.local_addr().expect("bound");
            stream.write_all(message).expect("sent");
            // The stream may be closed on us, or the probe be taken for the missing part of a body.
            stream.write_all(probe(n, local, "TCP").as_bytes()).ok();
            let (mut received, mut buffer, mut quiet) = (Vec::new(), vec![0; 65_536], 0);
            while quiet < 8 {
                match stream.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => received.extend_from_slice(&buffer[..length]),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => quiet += 1,
                    Err(_) => break,
                }
            }
            let text = String::from_utf8_lossy(&received).into_owned();
            let responses = text.split("SIP/2.0 ").skip(1).filter(|r| r.len() > 3 && !is_probe(r.as_bytes(), n));
            Some(responses.filter_map(|r| r.get(..3)?.parse().ok()).collect())
        },
        true,
    );
}
