//! No file descriptor left: live calls go on, new ones get 503, and nothing spins. Alone in its process, for it lowers the
//! process' limit.

mod common;

use std::time::{Duration, Instant};

use common::*;
use nebula_bus::contract::Accepted;
use nebula_bus::contract::to_proxy as ask;
use nebula_bus::contract::to_switchboard as tell;
use nebula_sip::Method;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;

fn limit(current: u64) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("a limit");
}

fn cpu() -> Duration {
    let at = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(at.tv_sec.try_into().expect("positive"), at.tv_nsec.try_into().expect("positive"))
}

#[tokio::test]
async fn live_calls_go_on_and_new_ones_get_503() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone.new_request(Method::Invite, "1001", "live", 1).with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let reply = tell::Invited { call_id: "call-1".into(), switchboard: Switchboard::id() };
    let asked = rig.switchboard.expect::<tell::ChannelInvite>(reply).await;
    let params = ask::Answer { channel_id: asked.channel_id, sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelAnswer>(params).await.expect("answered");
    let ok = phone.response(200).await;
    let ack = phone.in_dialog(Method::Ack, &invite, &ok, 2);
    phone.send(ack.to_bytes()).await;

    let mut other = rig.phone("1001").await;
    let knocking = TcpSocket::new_v4().expect("a socket");
    let before = getrlimit(Resource::Nofile).current;
    limit(0);
    // The kernel takes the connection; nobody can accept it.
    let mut knocking = soon("a connection", knocking.connect(rig.edge.local_addr())).await.expect("connected");
    let (began, cpu_began) = (Instant::now(), cpu());
    let mut n = 0;
    let refusal = soon("503", async {
        loop {
            n += 1;
            let invite = other.new_request(Method::Invite, "1000", &format!("new-{n}"), 1);
            other.send(invite.to_bytes()).await;
            let response = loop {
                match other.receive().await {
                    nebula_sip::Message::Response(response) if response.status.is_final() => break response,
                    _ => {}
                }
            };
            other.send(other.ack_of_refusal(&invite, &response).to_bytes()).await;
            if response.status.get() == 503 {
                return response;
            }
        }
    })
    .await;
    assert_eq!(refusal.headers.retry_after().unwrap(), Some(5));
    // The live call is served meanwhile, and its end reported.
    let update = phone.in_dialog(Method::Update, &invite, &ok, 3);
    phone.send(update.to_bytes()).await;
    phone.response(200).await;
    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    let (wall, burnt) = (began.elapsed(), cpu() - cpu_began);
    assert!(burnt < Duration::from_millis(200) + wall / 2, "{burnt:?} of CPU in {wall:?}");

    limit(before.expect("limited"));
    // The connection that waited is served now.
    let register = format!(
        "OPTIONS sip:nebula SIP/2.0\r\nVia: SIP/2.0/TCP {};branch=z9hG4bKk\r\nMax-Forwards: 70\r\n\
         From: <sip:1000@nebula>;tag=k\r\nTo: <sip:nebula>\r\nCall-ID: knock\r\nCSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n",
        knocking.local_addr().expect("an address")
    );
    knocking.write_all(register.as_bytes()).await.expect("written");
    let mut answer = [0; 12];
    soon("an answer", knocking.read_exact(&mut answer)).await.expect("read");
    assert_eq!(&answer, b"SIP/2.0 200 ");
}
