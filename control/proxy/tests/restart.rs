//! The edge dies and is started again on the same port: what was answered goes on, what was in set-up ends.

mod common;

use common::*;
use nebula_bus::contract::to_proxy as ask;
use nebula_bus::contract::to_switchboard as tell;
use nebula_bus::contract::{Accepted, Cause, CauseKind, ChannelId, Destination, Party};
use nebula_proxy::Options;
use nebula_sip::{Message, Method, Name, Request, Response};

fn invited() -> tell::Invited {
    tell::Invited { call_id: "call-1".into(), switchboard: Switchboard::id() }
}

fn normal() -> Cause {
    Cause { sip_code: 200, kind: CauseKind::Normal, text: String::new() }
}

/// A phone calls and hears it ring.
async fn ringing(rig: &mut Rig, phone: &mut Phone) -> (Request, ChannelId) {
    let invite = phone.new_request(Method::Invite, "1001", "call-a@test", 1).with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let asked = rig.switchboard.expect::<tell::ChannelInvite>(invited()).await;
    rig.ask::<ask::ChannelRing>(ask::Channel { channel_id: asked.channel_id.clone() }).await.expect("rings");
    phone.response(180).await;
    (invite, asked.channel_id)
}

/// A phone called and was answered, but has not acknowledged.
async fn answered(rig: &mut Rig, phone: &mut Phone) -> (Request, Response, ChannelId) {
    let (invite, channel_id) = ringing(rig, phone).await;
    let params = ask::Answer { channel_id: channel_id.clone(), sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelAnswer>(params).await.expect("answered");
    (invite, phone.response(200).await, channel_id)
}

/// A phone that called talks.
async fn talking(rig: &mut Rig, phone: &mut Phone) -> (Request, Response, ChannelId) {
    let (invite, ok, channel_id) = answered(rig, phone).await;
    let ack = phone.in_dialog(Method::Ack, &invite, &ok, 2);
    phone.send(ack.to_bytes()).await;
    // When this is answered, the ACK has been seen.
    let options = phone.in_dialog(Method::Options, &invite, &ok, 3);
    phone.send(options.to_bytes()).await;
    phone.response(200).await;
    (invite, ok, channel_id)
}

fn dial_to(phone: &Phone) -> ask::Dial {
    ask::Dial {
        channel_id: "leg-b".into(),
        call_id: "call-1".into(),
        switchboard: Switchboard::id(),
        from: Party { user: "1000".into(), display: None },
        to: Party { user: "1001".into(), display: None },
        destination: Destination {
            uri: format!("sip:{}@{}", phone.user, phone.address),
            transport: phone.transport().to_lowercase(),
            address: phone.address.to_string(),
            path: Vec::new(),
        },
        sdp: Some(OFFER.to_owned()),
        max_forwards: 68,
    }
}

/// We called a phone and it answered.
async fn called(rig: &mut Rig, phone: &mut Phone) -> (Request, Response) {
    rig.ask::<ask::ChannelDial>(dial_to(phone)).await.expect("dialled");
    let invite = phone.request(Method::Invite).await;
    let ok = phone.answer(&invite, 200).with_body("application/sdp", ANSWER);
    phone.send(ok.to_bytes()).await;
    phone.request(Method::Ack).await;
    rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;
    (invite, ok)
}

/// The next request of this method; 200s that are repeated meanwhile are passed over.
async fn request_between_repeats(phone: &mut Phone, method: Method) -> Request {
    loop {
        match phone.receive().await {
            Message::Request(request) if request.method == method => return request,
            Message::Response(response) if response.status.get() == 200 => {}
            other => panic!("{method} expected, got {}", String::from_utf8_lossy(&other.to_bytes())),
        }
    }
}

#[tokio::test]
async fn a_call_that_was_answered_goes_on_for_the_phone() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = talking(&mut rig, &mut phone).await;
    // Twice: what was taken up is kept again.
    let mut rig = rig.restart().await.restart().await;
    assert_eq!(rig.edge.channels(), 1, "the leg is there before anything else");

    let hold = phone.in_dialog(Method::Invite, &invite, &ok, 4).with_body("application/sdp", OFFER);
    phone.send(hold.to_bytes()).await;
    let asked = rig.switchboard.expect::<tell::ChannelReinvite>(Accepted {}).await;
    assert_eq!((asked.channel_id.clone(), asked.sdp.as_deref()), (channel_id.clone(), Some(OFFER)));
    let params = ask::Answer { channel_id: channel_id.clone(), sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelAnswer>(params).await.expect("answered");
    let held = loop {
        let ok = phone.response(200).await;
        if ok.headers.cseq().unwrap().number == 4 {
            break ok;
        }
    };
    assert_eq!(held.body, ANSWER);
    let ack = phone.in_dialog(Method::Ack, &invite, &held, 4);
    phone.send(ack.to_bytes()).await;

    let update = phone.in_dialog(Method::Update, &invite, &ok, 5);
    phone.send(update.to_bytes()).await;
    phone.response(200).await;
    let info = phone.in_dialog(Method::Info, &invite, &ok, 6).with_body("application/dtmf-relay", "Signal=7\r\n");
    phone.send(info.to_bytes()).await;
    phone.response(200).await;
    assert_eq!(rig.switchboard.expect::<tell::ChannelDtmf>(Accepted {}).await.digit, '7');

    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.channel_id, ended.cause), (channel_id, normal()));
    rig.edge.drain();
    soon("the last leg's end", rig.edge.drained()).await;
    assert_eq!(rig.kept().await, [], "nothing is left of the leg");
}

#[tokio::test]
async fn a_call_that_was_answered_goes_on_for_the_switchboard() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    let (_, ok) = called(&mut rig, &mut phone).await;
    let mut rig = rig.restart().await;
    // Its ACK was lost: the 200 comes again, to the next process. (What was told is told again, under its old key.)
    phone.send(ok.to_bytes()).await;
    assert_eq!(phone.request(Method::Ack).await.headers.cseq().unwrap().number, 1);

    let offer = ask::Answer { channel_id: "leg-b".into(), sdp: Some(OFFER.into()) };
    rig.ask::<ask::ChannelReinvite>(offer).await.expect("asked");
    let reinvite = phone.request(Method::Invite).await;
    assert!(reinvite.headers.cseq().unwrap().number > 1);
    assert_eq!(reinvite.headers.to().unwrap().tag(), ok.headers.to().unwrap().tag());
    phone.send(phone.answer(&reinvite, 200).with_body("application/sdp", ANSWER).to_bytes()).await;
    phone.request(Method::Ack).await;
    rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;

    rig.ask::<ask::ChannelHangup>(tell::Ended { channel_id: "leg-b".into(), cause: normal() }).await.expect("ended");
    let bye = phone.request(Method::Bye).await;
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    rig.edge.drain();
    soon("the last leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_caller_in_setup_gets_503_and_the_switchboard_is_told() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, channel_id) = ringing(&mut rig, &mut phone).await;
    let mut rig = rig.restart().await;
    let refusal = phone.response(503).await;
    assert_eq!(refusal.headers.retry_after().unwrap(), Some(5));
    assert_eq!(refusal.headers.cseq().unwrap(), invite.headers.cseq().unwrap());
    // Repeated until its ACK, like any refusal.
    assert_eq!(phone.response(503).await, refusal);
    phone.send(phone.ack_of_refusal(&invite, &refusal).to_bytes()).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.channel_id, ended.cause.kind), (channel_id, CauseKind::Crash));
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_caller_whose_switchboard_had_not_answered_gets_503() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone.new_request(Method::Invite, "1001", "call-a@test", 1).with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let unanswered = rig.switchboard.swallow::<tell::ChannelInvite>().await;
    let rig = rig.restart().await;
    let refusal = phone.response(503).await;
    phone.send(phone.ack_of_refusal(&invite, &refusal).to_bytes()).await;
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
    drop(unanswered);
}

#[tokio::test]
async fn a_phone_that_rings_is_cancelled() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    rig.ask::<ask::ChannelDial>(dial_to(&phone)).await.expect("dialled");
    let invite = phone.request(Method::Invite).await;
    phone.send(phone.answer(&invite, 180).to_bytes()).await;
    rig.switchboard.expect::<tell::ChannelRinging>(Accepted {}).await;
    let mut rig = rig.restart().await;
    // It was kept when it was dialled, so the INVITE goes out once more before it is known to ring.
    let cancel = loop {
        match phone.receive().await {
            Message::Request(request) if request.method == Method::Cancel => break request,
            Message::Request(again) => {
                assert_eq!(again, invite);
                phone.send(phone.answer(&invite, 180).to_bytes()).await;
            }
            other => panic!("{}", String::from_utf8_lossy(&other.to_bytes())),
        }
    };
    assert_eq!(cancel.headers.via_top().unwrap().branch(), invite.headers.via_top().unwrap().branch());
    phone.send(phone.answer(&cancel, 200).to_bytes()).await;
    phone.send(phone.answer(&invite, 487).to_bytes()).await;
    phone.request(Method::Ack).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.channel_id, ended.cause.kind), ("leg-b".into(), CauseKind::Crash));
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_dial_that_is_delivered_to_the_next_process_too_rings_nobody_twice() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    rig.ask::<ask::ChannelDial>(dial_to(&phone)).await.expect("dialled");
    let invite = phone.request(Method::Invite).await;
    phone.send(phone.answer(&invite, 180).to_bytes()).await;
    rig.switchboard.expect::<tell::ChannelRinging>(Accepted {}).await;
    let mut rig = rig.restart().await;
    rig.ask::<ask::ChannelDial>(dial_to(&phone)).await.expect("it was dialled");
    loop {
        match phone.receive().await {
            Message::Request(request) if request.method == Method::Cancel => {
                phone.send(phone.answer(&request, 200).to_bytes()).await;
                phone.send(phone.answer(&invite, 487).to_bytes()).await;
            }
            Message::Request(request) if request.method == Method::Invite => {
                assert_eq!(request, invite, "the same INVITE again");
                phone.send(phone.answer(&invite, 180).to_bytes()).await;
            }
            Message::Request(request) if request.method == Method::Ack => break,
            other => panic!("{}", String::from_utf8_lossy(&other.to_bytes())),
        }
    }
    rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    while rig.edge.channels() > 0 {
        tokio::task::yield_now().await;
    }
    // Nor when nothing is left of the leg.
    rig.ask::<ask::ChannelDial>(dial_to(&phone)).await.expect("it was dialled");
    assert_eq!(rig.edge.channels(), 0);
    phone.silence().await;
}

#[tokio::test]
async fn a_phone_that_answers_meanwhile_is_acknowledged_and_hung_up() {
    let rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    rig.ask::<ask::ChannelDial>(dial_to(&phone)).await.expect("dialled");
    let invite = phone.request(Method::Invite).await;
    let crashed = rig.crash().await;
    let ok = phone.answer(&invite, 200).with_body("application/sdp", ANSWER);
    let mut rig = crashed.start().await;
    phone.send(ok.to_bytes()).await;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        match phone.receive().await {
            Message::Request(request) if request.method == Method::Invite => {}
            Message::Request(request) if request.method == Method::Bye => {
                phone.send(phone.answer(&request, 200).to_bytes()).await;
                seen.push(request.method);
            }
            Message::Request(request) => seen.push(request.method),
            other => panic!("{}", String::from_utf8_lossy(&other.to_bytes())),
        }
    }
    assert_eq!(seen, [Method::Ack, Method::Bye]);
    rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_200_without_its_ack_goes_on_being_repeated() {
    let mut rig = Rig::with(Options { t1_ms: 50, ..Options::default() }).await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = answered(&mut rig, &mut phone).await;
    let rig = rig.restart().await;
    while phone.response(200).await != ok {}
    let again = phone.response(200).await;
    assert_eq!(again, ok);
    let ack = phone.in_dialog(Method::Ack, &invite, &ok, 2);
    phone.send(ack.to_bytes()).await;
    rig.ask::<ask::ChannelHangup>(tell::Ended { channel_id, cause: normal() }).await.expect("ended");
    // BYE waits for the ACK (RFC 3261 15).
    let bye = request_between_repeats(&mut phone, Method::Bye).await;
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn requests_of_ours_under_way_are_repeated() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    called(&mut rig, &mut phone).await;
    let offer = ask::Answer { channel_id: "leg-b".into(), sdp: Some(OFFER.into()) };
    rig.ask::<ask::ChannelReinvite>(offer).await.expect("asked");
    let reinvite = phone.request(Method::Invite).await;
    let mut rig = rig.restart().await;
    assert_eq!(phone.request(Method::Invite).await, reinvite, "the very same");
    phone.send(phone.answer(&reinvite, 200).with_body("application/sdp", ANSWER).to_bytes()).await;
    phone.request(Method::Ack).await;
    assert_eq!(rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await.sdp.as_deref(), Some(ANSWER));

    rig.ask::<ask::ChannelHangup>(tell::Ended { channel_id: "leg-b".into(), cause: normal() }).await.expect("ended");
    let bye = phone.request(Method::Bye).await;
    let rig = rig.restart().await;
    rig.switchboard.rest();
    assert_eq!(phone.request(Method::Bye).await, bye, "the very same");
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_report_that_nobody_confirmed_is_told_by_the_next_process() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = talking(&mut rig, &mut phone).await;
    let Rig { edge, bus, store, switchboard, keep, snapshots, options } = rig;
    drop(switchboard);
    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    // A switchboard that is not there for the edge yet.
    let switchboard = Switchboard::on(&nebula_bus::Bus::local(), "elsewhere");
    let crashed = Rig { edge, bus: bus.clone(), store, switchboard, keep, snapshots, options }.crash().await;
    let mut rig = crashed.start().await;
    // A BYE that is repeated because its 200 was lost is answered again.
    let again = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(again.to_bytes()).await;
    phone.response(200).await;
    rig.switchboard = Switchboard::on(&bus, "switchboard-test");
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.channel_id, ended.cause), (channel_id, normal()));
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
    phone.send(bye.to_bytes()).await;
    phone.response(481).await;
}

#[tokio::test]
async fn a_phone_on_a_connection_comes_back_over_another() {
    let mut rig = Rig::new().await;
    let mut phone = Phone::tcp("1000", rig.edge.local_addr()).await;
    let (invite, ok, _) = talking(&mut rig, &mut phone).await;
    let mut rig = rig.restart().await;
    let mut phone = Phone::tcp("1000", rig.edge.local_addr()).await;
    let update = phone.in_dialog(Method::Update, &invite, &ok, 5);
    phone.send(update.to_bytes()).await;
    phone.response(200).await;
    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
}

#[tokio::test]
async fn a_challenge_of_the_last_process_is_good_for_the_next() {
    let rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let register = phone.new_request(Method::Register, "1000", "register", 1).with(Name::Expires, "600");
    phone.send(register.to_bytes()).await;
    let unauthorized = phone.response(401).await;
    let rig = rig.restart().await;
    let mut again = phone.authorize(register, &unauthorized, PASSWORD);
    let branch = phone.branch();
    again.headers.set(Name::CSeq, "2 REGISTER");
    again.headers.edit_via_top(|via| via.params.set("branch", Some(&branch))).unwrap();
    phone.send(again.to_bytes()).await;
    phone.response(200).await;
    rig.edge.stop().await;
}

#[tokio::test]
async fn snapshots_of_another_version_stop_the_start_and_are_left_alone() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (_, _, channel_id) = talking(&mut rig, &mut phone).await;
    let Crashed { bus, store, keep, options, .. } = rig.crash().await;
    let member = enter(&keep, "test").await;
    member.snapshots.put(format!("leg/{channel_id}"), r#"{"kind":"leg","v":99,"d":{}}"#);
    member.snapshots.flush().await;
    let member = enter(&keep, "test").await;
    let bound = nebula_proxy::bind(Options { port: 0, ..options }).await.expect("bound");
    let Err(error) = bound.serve(bus, store, member) else { panic!("another version was read") };
    let text = error.to_string();
    assert!(text.contains("\"leg\"") && text.contains("99") && text.contains("[1]"), "{text}");
    let left = enter(&keep, "test").await.restored;
    assert!(left.iter().any(|(key, _)| *key == format!("leg/{channel_id}")));
}

#[tokio::test]
async fn a_call_costs_few_and_small_snapshots() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    talking(&mut rig, &mut phone).await;
    let kept = rig.kept().await;
    let [(_, bytes)] = &kept[..] else { panic!("{} snapshots", kept.len()) };
    assert!(bytes.len() < 4096, "{} bytes: {}", bytes.len(), String::from_utf8_lossy(bytes));
}

#[tokio::test]
async fn a_leg_whose_call_ended_meanwhile_is_ended() {
    let mut rig = Rig::new().await;
    let (mut phone, mut other) = (rig.phone("1000").await, rig.phone("1001").await);
    talking(&mut rig, &mut phone).await;
    called(&mut rig, &mut other).await;
    let mut rig = rig.restart().await;
    assert_eq!(rig.edge.channels(), 2);
    for _ in 0..2 {
        let (asked, call) = rig.switchboard.swallow_late::<tell::CallGet>().await;
        assert_eq!(asked.call_id.as_str(), "call-1");
        call.reply(Err(nebula_bus::Error::business("unknown_call", "no such call")));
    }
    for phone in [&mut phone, &mut other] {
        let bye = phone.request(Method::Bye).await;
        phone.send(phone.answer(&bye, 200).to_bytes()).await;
    }
    rig.edge.drain();
    soon("the legs' end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_called_phone_whose_call_was_lost_by_a_restarted_switchboard_is_hung_up() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1001").await;
    called(&mut rig, &mut phone).await;
    // Nothing of the call was kept when its switchboard died; the next one of its name says nothing of it.
    let (asked, call) = rig.switchboard.swallow_late::<tell::CallGet>().await;
    assert_eq!(asked.call_id.as_str(), "call-1");
    call.reply(Err(nebula_bus::Error::business("unknown_call", "no such call")));
    let bye = phone.request(Method::Bye).await;
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
}

#[tokio::test]
async fn an_edge_whose_name_was_taken_ends() {
    let rig = Rig::new().await;
    let _other = enter(&rig.keep, "test").await;
    rig.snapshots.put("leg/nobody", "{}");
    soon("the fence", rig.snapshots.fenced()).await;
    soon("the end", async {
        while rig.edge.is_running() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
