//! The switchboard dials a phone: ring, early media, answer, refusal, CANCEL and its race with 200, forks.

mod common;

use common::*;
use nebula_bus::contract::to_proxy as ask;
use nebula_bus::contract::to_switchboard as tell;
use nebula_bus::contract::{Accepted, Cause, CauseKind, ChannelId, Destination, Party};
use nebula_proxy::Options;
use nebula_sip::{Method, Name, Request};

fn dial_to(phone: &Phone, sdp: Option<&str>) -> ask::Dial {
    ask::Dial {
        channel_id: "leg-b".into(),
        call_id: "call-1".into(),
        switchboard: Switchboard::id(),
        from: Party { user: "1000".into(), display: Some("Alice \"A\"".into()) },
        to: Party { user: "1001".into(), display: None },
        destination: Destination {
            uri: format!("sip:{}@{};transport={}", phone.user, phone.address, phone.transport().to_lowercase()),
            transport: phone.transport().to_lowercase(),
            address: phone.address.to_string(),
            path: Vec::new(),
        },
        sdp: sdp.map(str::to_owned),
        max_forwards: 68,
    }
}

fn leg() -> ChannelId {
    "leg-b".into()
}

fn hangup() -> tell::Ended {
    let cause = Cause { sip_code: 487, kind: CauseKind::Cancelled, text: "Caller gave up".into() };
    tell::Ended { channel_id: leg(), cause }
}

/// Dials the phone; the INVITE as it got there.
async fn dialled(rig: &Rig, phone: &mut Phone) -> Request {
    rig.ask::<ask::ChannelDial>(dial_to(phone, Some(OFFER))).await.expect("dialled");
    phone.request(Method::Invite).await
}

async fn a_whole_call(mut rig: Rig, mut phone: Phone) {
    let invite = dialled(&rig, &mut phone).await;
    assert_eq!((invite.body.as_ref(), invite.headers.max_forwards().unwrap()), (OFFER.as_bytes(), Some(68)));
    let from = invite.headers.from().unwrap();
    assert_eq!(from.uri.user().as_deref(), Some("1000"));
    assert_eq!(from.display_name().as_deref(), Some("Alice \"A\""));
    assert!(invite.headers.lists(Name::Supported, "100rel") && invite.headers.lists(Name::Allow, "UPDATE"));
    // Dialled again with the same name: taken on already.
    rig.ask::<ask::ChannelDial>(dial_to(&phone, Some(OFFER))).await.expect("idempotent");

    phone.send(phone.answer(&invite, 100).to_bytes()).await;
    phone.send(phone.answer(&invite, 180).to_bytes()).await;
    let told = rig.switchboard.expect::<tell::ChannelRinging>(Accepted {}).await;
    assert_eq!((told.channel_id, told.sip_code), (leg(), 180));
    phone.send(phone.answer(&invite, 183).with_body("application/sdp", ANSWER).to_bytes()).await;
    let told = rig.switchboard.expect::<tell::ChannelProgress>(Accepted {}).await;
    assert_eq!((told.sip_code, told.sdp.as_deref()), (183, Some(ANSWER)));
    let ok = phone.answer(&invite, 200).with_body("application/sdp", ANSWER);
    phone.send(ok.to_bytes()).await;
    let ack = phone.request(Method::Ack).await;
    assert_eq!(ack.uri, invite_contact(&ok));
    let told = rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;
    assert_eq!(told.sdp.as_deref(), Some(ANSWER));
    // The ACK was lost: the 200 comes again.
    phone.send(ok.to_bytes()).await;
    assert_eq!(phone.request(Method::Ack).await.headers.cseq().unwrap().number, 1);

    let bye = phone.in_their_dialog(Method::Bye, &invite, &ok, 1).with(Name::Reason, "Q.850;cause=16");
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.cause.kind, ended.cause.text.as_str()), (CauseKind::Normal, "Q.850;cause=16"));
    rig.edge.drain();
    soon("the last leg's end", rig.edge.drained()).await;
}

fn invite_contact(response: &nebula_sip::Response) -> nebula_sip::Uri {
    response.headers.contact().unwrap().unwrap().uri
}

#[tokio::test]
async fn over_udp() {
    let rig = Rig::new().await;
    let phone = rig.phone("1001").await;
    a_whole_call(rig, phone).await;
}

#[tokio::test]
async fn over_a_connection_that_the_phone_made() {
    let rig = Rig::new().await;
    let mut phone = Phone::tcp("1001", rig.edge.local_addr()).await;
    let options = phone.new_request(Method::Options, "1001", "hello", 1);
    phone.send(options.to_bytes()).await;
    phone.response(200).await;
    a_whole_call(rig, phone).await;
}

#[tokio::test]
async fn refusals_become_causes() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    let table = [
        (486, CauseKind::Busy),
        (603, CauseKind::Rejected),
        (480, CauseKind::NoAnswer),
        (404, CauseKind::Unreachable),
        (488, CauseKind::Incompatible),
        (407, CauseKind::Rejected),
        (302, CauseKind::Unreachable),
    ];
    for (status, kind) in table {
        let channel_id = ChannelId(format!("leg-{status}"));
        let dial = ask::Dial { channel_id: channel_id.clone(), ..dial_to(&phone, Some(OFFER)) };
        rig.ask::<ask::ChannelDial>(dial).await.expect("dialled");
        let invite = phone.request(Method::Invite).await;
        phone.send(phone.answer(&invite, status).to_bytes()).await;
        phone.request(Method::Ack).await;
        let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
        assert_eq!((ended.channel_id, ended.cause.sip_code, ended.cause.kind), (channel_id, status, kind));
    }
}

/// Waits until the leg's name is free again.
async fn gone(rig: &Rig) {
    soon("the leg's end", async {
        while rig.edge.channels() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_phone_that_is_silent_is_given_up() {
    let mut rig = Rig::with(Options { t1_ms: 10, t2_ms: 40, ..Options::default() }).await;
    let mut phone = rig.phone("1001").await;
    dialled(&rig, &mut phone).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.cause.sip_code, ended.cause.kind), (408, CauseKind::Network));
}

#[tokio::test]
async fn a_phone_that_only_rings_is_cancelled() {
    let mut rig = Rig::with(Options { setup_timeout_s: 1, ..Options::default() }).await;
    let mut phone = rig.phone("1001").await;
    let invite = dialled(&rig, &mut phone).await;
    phone.send(phone.answer(&invite, 180).to_bytes()).await;
    rig.switchboard.expect::<tell::ChannelRinging>(Accepted {}).await;
    let cancel = phone.request(Method::Cancel).await;
    phone.send(phone.answer(&cancel, 200).to_bytes()).await;
    phone.send(phone.answer(&invite, 487).to_bytes()).await;
    phone.request(Method::Ack).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.cause.sip_code, ended.cause.kind), (408, CauseKind::NoAnswer));
}

#[tokio::test]
async fn a_connection_that_is_not_taken_is_network() {
    let mut rig = Rig::new().await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let mut phone = rig.phone("1001").await;
    phone.address = listener.local_addr().unwrap();
    drop(listener);
    let mut dial = dial_to(&phone, Some(OFFER));
    dial.destination.transport = "tcp".into();
    rig.ask::<ask::ChannelDial>(dial).await.expect("taken on");
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.cause.sip_code, ended.cause.kind), (503, CauseKind::Network));
}

#[tokio::test]
async fn a_hangup_before_the_first_response_waits_for_it() {
    let rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    let invite = dialled(&rig, &mut phone).await;
    rig.ask::<ask::ChannelHangup>(hangup()).await.unwrap();
    phone.silence().await;
    phone.send(phone.answer(&invite, 180).to_bytes()).await;
    let cancel = phone.request(Method::Cancel).await;
    assert_eq!(cancel.headers.get(Name::Reason), Some("SIP;cause=487;text=\"Caller gave up\""));
    phone.send(phone.answer(&cancel, 200).to_bytes()).await;
    phone.send(phone.answer(&invite, 487).to_bytes()).await;
    phone.request(Method::Ack).await;
    gone(&rig).await;
}

#[tokio::test]
async fn a_200_that_crosses_the_cancel_is_ended_by_bye() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    let invite = dialled(&rig, &mut phone).await;
    phone.send(phone.answer(&invite, 180).to_bytes()).await;
    rig.switchboard.expect::<tell::ChannelRinging>(Accepted {}).await;
    rig.ask::<ask::ChannelHangup>(hangup()).await.unwrap();
    let cancel = phone.request(Method::Cancel).await;
    phone.send(phone.answer(&invite, 200).with_body("application/sdp", ANSWER).to_bytes()).await;
    phone.request(Method::Ack).await;
    let bye = phone.request(Method::Bye).await;
    phone.send(phone.answer(&cancel, 481).to_bytes()).await;
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    gone(&rig).await;
}

#[tokio::test]
async fn a_reliable_183_gets_its_prack() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    let invite = dialled(&rig, &mut phone).await;
    let progress = phone
        .answer(&invite, 183)
        .with(Name::Require, "100rel")
        .with(Name::RSeq, "7")
        .with_body("application/sdp", ANSWER);
    phone.send(progress.to_bytes()).await;
    let prack = phone.request(Method::Prack).await;
    assert_eq!(prack.headers.rack().unwrap().unwrap().to_string(), "7 1 INVITE");
    phone.send(phone.answer(&prack, 200).to_bytes()).await;
    rig.switchboard.expect::<tell::ChannelProgress>(Accepted {}).await;
    // Repeated: neither news nor acknowledged again.
    phone.send(progress.to_bytes()).await;
    phone.silence().await;
}

#[tokio::test]
async fn a_second_fork_that_answers_is_ended() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    let invite = dialled(&rig, &mut phone).await;
    phone.send(phone.answer(&invite, 200).with_body("application/sdp", ANSWER).to_bytes()).await;
    phone.request(Method::Ack).await;
    rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;
    let mut other = phone.answer(&invite, 200).with_body("application/sdp", ANSWER);
    other.headers.set_to_tag("another").unwrap();
    phone.send(other.to_bytes()).await;
    let ack = phone.request(Method::Ack).await;
    assert_eq!(ack.headers.to().unwrap().tag(), Some("another"));
    let bye = phone.request(Method::Bye).await;
    assert_eq!(bye.headers.to().unwrap().tag(), Some("another"));
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    assert_eq!(rig.edge.channels(), 1);
}

#[tokio::test]
async fn without_our_offer_the_ack_waits_for_our_answer() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    rig.ask::<ask::ChannelDial>(dial_to(&phone, None)).await.unwrap();
    let invite = phone.request(Method::Invite).await;
    assert!(invite.body.is_empty());
    phone.send(phone.answer(&invite, 200).with_body("application/sdp", OFFER).to_bytes()).await;
    let told = rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;
    assert_eq!(told.sdp.as_deref(), Some(OFFER));
    rig.ask::<ask::ChannelAnswer>(ask::Answer { channel_id: leg(), sdp: Some(ANSWER.into()) }).await.unwrap();
    assert_eq!(phone.request(Method::Ack).await.body, ANSWER);
}

#[tokio::test]
async fn a_422_is_tried_again_with_the_peers_interval() {
    let mut rig = Rig::with(Options { session_expires_s: 120, ..Options::default() }).await;
    let mut phone = rig.phone("1001").await;
    let invite = dialled(&rig, &mut phone).await;
    assert_eq!(invite.headers.session_expires().unwrap().unwrap().interval_s, 120);
    phone.send(phone.answer(&invite, 422).with(Name::MinSe, "600").to_bytes()).await;
    phone.request(Method::Ack).await;
    let again = phone.request(Method::Invite).await;
    assert_eq!(again.headers.session_expires().unwrap().unwrap().interval_s, 600);
    assert_eq!(again.headers.min_se().unwrap(), Some(600));
    assert_eq!((again.headers.cseq().unwrap().number, again.body.as_ref()), (2, OFFER.as_bytes()));
    phone.send(phone.answer(&again, 200).with_body("application/sdp", ANSWER).to_bytes()).await;
    assert_eq!(phone.request(Method::Ack).await.headers.cseq().unwrap().number, 2);
    rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;
}

#[tokio::test]
async fn a_destination_that_makes_no_sense_is_refused() {
    let rig = Rig::new().await;
    let phone = rig.phone("1001").await;
    let mut dial = dial_to(&phone, Some(OFFER));
    dial.destination.uri = "not a uri".into();
    assert!(rig.ask::<ask::ChannelDial>(dial).await.unwrap_err().is("unreachable"));
    let mut dial = dial_to(&phone, Some(OFFER));
    dial.destination.transport = "pigeon".into();
    assert!(rig.ask::<ask::ChannelDial>(dial).await.unwrap_err().is("unreachable"));
    assert_eq!(rig.edge.channels(), 0);
}
