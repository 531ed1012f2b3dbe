//! A phone calls: ring, early media, answer, change, keys, hang-up, and the ways it can end before.

mod common;

use common::*;
use nebula_bus::contract::to_proxy as ask;
use nebula_bus::contract::to_switchboard as tell;
use nebula_bus::contract::{Accepted, Cause, CauseKind, ChannelId};
use nebula_proxy::Options;
use nebula_sip::{Method, Name, Request, Response};

fn invited() -> tell::Invited {
    tell::Invited { call_id: "call-1".into(), switchboard: Switchboard::id() }
}

fn normal() -> Cause {
    Cause { sip_code: 200, kind: CauseKind::Normal, text: String::new() }
}

/// A call that rings: the INVITE as sent, its 180 and the switchboard's view.
async fn ringing(rig: &mut Rig, phone: &mut Phone, to: &str) -> (Request, Response, tell::Invite) {
    let invite = phone.new_request(Method::Invite, to, "call-a@test", 1).with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let asked = rig.switchboard.expect::<tell::ChannelInvite>(invited()).await;
    rig.ask::<ask::ChannelRing>(ask::Channel { channel_id: asked.channel_id.clone() }).await.expect("rings");
    let rings = phone.response(180).await;
    (invite, rings, asked)
}

/// A call that was answered and acknowledged.
async fn talking(rig: &mut Rig, phone: &mut Phone) -> (Request, Response, ChannelId) {
    let (invite, _, asked) = ringing(rig, phone, "1001").await;
    answer(rig, &asked.channel_id).await;
    let ok = phone.response(200).await;
    let ack = phone.in_dialog(Method::Ack, &invite, &ok, 2);
    phone.send(ack.to_bytes()).await;
    // When this is answered, the ACK has been seen.
    let options = phone.in_dialog(Method::Options, &invite, &ok, 3);
    phone.send(options.to_bytes()).await;
    phone.response(200).await;
    (invite, ok, asked.channel_id)
}

async fn answer(rig: &Rig, channel_id: &ChannelId) {
    let params = ask::Answer { channel_id: channel_id.clone(), sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelAnswer>(params).await.expect("answered");
}

async fn a_whole_call(mut rig: Rig, mut phone: Phone) {
    let (invite, rings, asked) = ringing(&mut rig, &mut phone, "1001").await;
    assert_eq!(asked.from.user, "1000");
    assert_eq!(asked.from.display.as_deref(), Some("The 1000"));
    assert_eq!((asked.to.as_str(), asked.customer_id.as_str()), ("1001", "c1"));
    assert_eq!((asked.sdp.as_deref(), asked.max_forwards), (Some(OFFER), 69));
    assert_eq!((asked.source.as_str(), asked.sip_call_id.as_str()), (&*phone.address.to_string(), "call-a@test"));
    assert_eq!(&asked.proxy, rig.edge.instance());
    assert!(rings.headers.to().unwrap().tag().is_some());

    let early = ask::Progress { channel_id: asked.channel_id.clone(), sip_code: 183, sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelProgress>(early).await.unwrap();
    assert_eq!(phone.response(183).await.body, ANSWER);

    answer(&rig, &asked.channel_id).await;
    let ok = phone.response(200).await;
    assert_eq!(ok.body, ANSWER);
    assert_eq!(ok.headers.to().unwrap().tag(), rings.headers.to().unwrap().tag());
    assert!(ok.headers.lists(Name::Allow, "UPDATE") && ok.headers.lists(Name::Supported, "timer"));
    assert!(ok.headers.session_expires().unwrap().is_some());
    assert_eq!(rig.edge.channels(), 1);
    let ack = phone.in_dialog(Method::Ack, &invite, &ok, 2);
    phone.send(ack.to_bytes()).await;

    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.channel_id, ended.cause), (asked.channel_id.clone(), normal()));
    rig.edge.drain();
    soon("the last leg's end", rig.edge.drained()).await;

    let gone = rig.ask::<ask::ChannelRing>(ask::Channel { channel_id: asked.channel_id.clone() }).await;
    assert!(gone.unwrap_err().is("unknown_channel"));
    let hangup = tell::Ended { channel_id: asked.channel_id, cause: normal() };
    rig.ask::<ask::ChannelHangup>(hangup).await.expect("what is gone is hung up");
    let stray = phone.in_dialog(Method::Bye, &invite, &ok, 21);
    phone.send(stray.to_bytes()).await;
    phone.response(481).await;
    rig.edge.stop().await;
}

#[tokio::test]
async fn over_udp() {
    let rig = Rig::new().await;
    let phone = rig.phone("1000").await;
    a_whole_call(rig, phone).await;
}

#[tokio::test]
async fn over_tcp() {
    let rig = Rig::new().await;
    let phone = Phone::tcp("1000", rig.edge.local_addr()).await;
    a_whole_call(rig, phone).await;
}

#[tokio::test]
async fn refusals_come_in_the_order_of_the_diagram() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    // 400 before 401: no credentials, but nonsense first.
    let bad = phone.new_request(Method::Invite, "9999", "order-1", 1);
    let text = String::from_utf8(bad.to_bytes().to_vec()).unwrap().replace("CSeq: 1 INVITE", "CSeq: one INVITE");
    phone.text(&text).await;
    let refusal = phone.datagram().await;
    assert!(refusal.starts_with("SIP/2.0 400 Bad Request (bad CSeq"), "{refusal}");
    // 401 before 404: nobody learns who exists.
    let invite = phone.new_request(Method::Invite, "9999", "order-2", 1).with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    // 404 with the right credentials.
    let refusal = phone.response(404).await;
    phone.send(phone.ack_of_refusal(&invite, &refusal).to_bytes()).await;
    // A disabled extension and an unknown service number are nobody.
    for (to, call_id) in [("1002", "order-3"), ("*99", "order-4")] {
        let invite = phone.new_request(Method::Invite, to, call_id, 1).with_body("application/sdp", OFFER);
        let invite = phone.send_authorized(invite).await;
        let refusal = phone.response(404).await;
        phone.send(phone.ack_of_refusal(&invite, &refusal).to_bytes()).await;
    }
    // A wrong password is challenged again.
    let invite = phone.new_request(Method::Invite, "1001", "order-5", 1).with_body("application/sdp", OFFER);
    phone.send(invite.to_bytes()).await;
    let unauthorized = phone.response(401).await;
    phone.send(phone.ack_of_refusal(&invite, &unauthorized).to_bytes()).await;
    let mut again = phone.authorize(invite, &unauthorized, "a wrong one");
    let branch = phone.branch();
    again.headers.set(Name::CSeq, "2 INVITE");
    again.headers.edit_via_top(|via| via.params.set("branch", Some(&branch))).unwrap();
    phone.send(again.to_bytes()).await;
    phone.response(401).await;
    // The echo service needs no look-up.
    let mut caller = rig.phone("1000").await;
    let (_, _, asked) = ringing(&mut rig, &mut caller, "*43").await;
    assert_eq!(asked.to, "*43");
}

#[tokio::test]
async fn cancel_ends_the_ringing() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, _, asked) = ringing(&mut rig, &mut phone, "1001").await;
    let cancel = phone.cancel(&invite);
    phone.send(cancel.to_bytes()).await;
    let ok = phone.response(200).await;
    assert_eq!(ok.headers.cseq().unwrap().method, Method::Cancel);
    let terminated = phone.response(487).await;
    phone.send(phone.ack_of_refusal(&invite, &terminated).to_bytes()).await;
    let ended = rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    assert_eq!((ended.channel_id, ended.cause.sip_code), (asked.channel_id, 487));
    assert_eq!(ended.cause.kind, CauseKind::Cancelled);
}

#[tokio::test]
async fn the_switchboard_rejects() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (_, _, asked) = ringing(&mut rig, &mut phone, "1001").await;
    let reject = ask::Reject {
        channel_id: asked.channel_id,
        sip_code: 480,
        reason: Some("Gone fishing".into()),
        retry_after_s: Some(60),
    };
    rig.ask::<ask::ChannelReject>(reject).await.unwrap();
    let refusal = phone.response(480).await;
    assert_eq!((refusal.reason.as_str(), refusal.headers.retry_after().unwrap()), ("Gone fishing", Some(60)));
}

#[tokio::test]
async fn without_a_switchboard_the_caller_hears_503() {
    let rig = Rig::with(Options { rpc_timeout_ms: 300, ..Options::default() }).await;
    let mut phone = rig.phone("1000").await;
    let Rig { edge, switchboard, .. } = rig;
    drop(switchboard);
    let invite = phone.new_request(Method::Invite, "1001", "lonely", 1).with_body("application/sdp", OFFER);
    phone.send_authorized(invite).await;
    let refusal = phone.response(503).await;
    assert_eq!(refusal.headers.retry_after().unwrap(), Some(5));
    edge.drain();
    soon("the leg's end", edge.drained()).await;
}

#[tokio::test]
async fn a_switchboard_that_takes_no_calls_says_when_it_will() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone.new_request(Method::Invite, "1001", "full", 1).with_body("application/sdp", OFFER);
    phone.send_authorized(invite).await;
    let draining = nebula_bus::Error::business("draining", "no new calls").retry_after_s(17);
    rig.switchboard.refuse::<tell::ChannelInvite>(draining).await;
    assert_eq!(phone.response(503).await.headers.retry_after().unwrap(), Some(17));
}

#[tokio::test]
async fn a_switchboard_that_lost_the_call_ends_it() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, _) = talking(&mut rig, &mut phone).await;
    let reinvite = phone.in_dialog(Method::Invite, &invite, &ok, 13).with_body("application/sdp", OFFER);
    phone.send(reinvite.to_bytes()).await;
    let unknown = nebula_bus::Error::business("unknown_channel", "restarted");
    rig.switchboard.refuse::<tell::ChannelReinvite>(unknown).await;
    phone.response(487).await;
    let bye = phone.request(Method::Bye).await;
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
}

#[tokio::test]
async fn the_phone_holds_and_resumes() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = talking(&mut rig, &mut phone).await;
    for (cseq, method) in [(13, Method::Invite), (14, Method::Update)] {
        let held = OFFER.replace("t=0 0\r\n", "t=0 0\r\na=sendonly\r\n");
        let change = phone.in_dialog(method.clone(), &invite, &ok, cseq).with_body("application/sdp", held.clone());
        phone.send(change.to_bytes()).await;
        let told = rig.switchboard.expect::<tell::ChannelReinvite>(Accepted {}).await;
        assert_eq!((&told.channel_id, told.sdp), (&channel_id, Some(held)));
        answer(&rig, &channel_id).await;
        let changed = phone.response(200).await;
        assert_eq!((changed.body.as_ref(), changed.headers.cseq().unwrap().number), (ANSWER.as_bytes(), cseq));
        if method == Method::Invite {
            let ack = phone.in_dialog(Method::Ack, &invite, &ok, cseq);
            phone.send(ack.to_bytes()).await;
        }
    }
    // A refresh says nothing new.
    let refresh = phone.in_dialog(Method::Update, &invite, &ok, 15);
    phone.send(refresh.to_bytes()).await;
    phone.response(200).await;
    // What is refused leaves the call alone.
    let change = phone.in_dialog(Method::Invite, &invite, &ok, 16).with_body("application/sdp", OFFER);
    phone.send(change.to_bytes()).await;
    rig.switchboard.expect::<tell::ChannelReinvite>(Accepted {}).await;
    let reject = ask::Reject { channel_id: channel_id.clone(), sip_code: 488, reason: None, retry_after_s: None };
    rig.ask::<ask::ChannelReject>(reject).await.unwrap();
    phone.response(488).await;
    // Other methods and unknown extensions are refused without harm.
    let refer = phone.in_dialog(Method::Refer, &invite, &ok, 17);
    phone.send(refer.to_bytes()).await;
    phone.response(405).await;
    let unknown = phone.in_dialog(Method::Info, &invite, &ok, 18).with(Name::Require, "teleport");
    phone.send(unknown.to_bytes()).await;
    phone.response(420).await;
    // An old CSeq is out of order.
    let late = phone.in_dialog(Method::Update, &invite, &ok, 2);
    phone.send(late.to_bytes()).await;
    phone.response(500).await;
}

#[tokio::test]
async fn the_switchboard_changes_the_session() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (_, _, channel_id) = talking(&mut rig, &mut phone).await;
    let offer = ask::Answer { channel_id: channel_id.clone(), sdp: Some(OFFER.into()) };
    rig.ask::<ask::ChannelReinvite>(offer.clone()).await.unwrap();
    let reinvite = phone.request(Method::Invite).await;
    assert_eq!(reinvite.body, OFFER);
    let accepted = phone.answer(&reinvite, 200).with_body("application/sdp", ANSWER);
    phone.send(accepted.to_bytes()).await;
    phone.request(Method::Ack).await;
    let told = rig.switchboard.expect::<tell::ChannelAnswered>(Accepted {}).await;
    assert_eq!((&told.channel_id, told.sdp.as_deref()), (&channel_id, Some(ANSWER)));
    // A repeated 2xx is acknowledged again, and is no news.
    phone.send(accepted.to_bytes()).await;
    phone.request(Method::Ack).await;
    // Glare goes back to whoever asked.
    rig.ask::<ask::ChannelReinvite>(offer).await.unwrap();
    let reinvite = phone.request(Method::Invite).await;
    phone.send(phone.answer(&reinvite, 491).to_bytes()).await;
    phone.request(Method::Ack).await;
    let refused = rig.switchboard.expect::<tell::ChannelRefused>(Accepted {}).await;
    assert_eq!(refused.cause.sip_code, 491);
    // And the switchboard hangs up.
    let hangup = tell::Ended { channel_id, cause: normal() };
    rig.ask::<ask::ChannelHangup>(hangup).await.unwrap();
    let bye = phone.request(Method::Bye).await;
    assert!(bye.headers.get(Name::Reason).unwrap().starts_with("SIP;cause=200"));
    phone.send(phone.answer(&bye, 200).to_bytes()).await;
    rig.edge.drain();
    soon("the leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn keys_go_both_ways_by_info() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, channel_id) = talking(&mut rig, &mut phone).await;
    for (cseq, media_type, body) in
        [(13, "application/dtmf-relay", "Signal=5\r\nDuration=250\r\n"), (14, "application/dtmf", "5")]
    {
        let info = phone.in_dialog(Method::Info, &invite, &ok, cseq).with_body(media_type, body);
        phone.send(info.to_bytes()).await;
        phone.response(200).await;
        let key = rig.switchboard.expect::<tell::ChannelDtmf>(Accepted {}).await;
        assert_eq!((&key.channel_id, key.digit), (&channel_id, '5'));
    }
    let other = phone.in_dialog(Method::Info, &invite, &ok, 15).with_body("text/plain", "5");
    phone.send(other.to_bytes()).await;
    let refusal = phone.response(415).await;
    assert!(refusal.headers.get(Name::Accept).unwrap().contains("application/dtmf-relay"));

    let key = tell::Dtmf { channel_id: channel_id.clone(), digit: '#', duration_ms: 90 };
    rig.ask::<ask::ChannelDtmf>(key).await.unwrap();
    let info = phone.request(Method::Info).await;
    assert_eq!(info.body, "Signal=#\r\nDuration=90\r\n");
    phone.send(phone.answer(&info, 200).to_bytes()).await;
    let nonsense = tell::Dtmf { channel_id, digit: '\r', duration_ms: 90 };
    assert!(rig.ask::<ask::ChannelDtmf>(nonsense).await.unwrap_err().is("invalid_params"));
}

#[tokio::test]
async fn reliable_responses_wait_for_prack() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone
        .new_request(Method::Invite, "1001", "reliable", 1)
        .with(Name::Require, "100rel")
        .with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let asked = rig.switchboard.expect::<tell::ChannelInvite>(invited()).await;
    let early = ask::Progress { channel_id: asked.channel_id.clone(), sip_code: 183, sdp: Some(ANSWER.into()) };
    rig.ask::<ask::ChannelProgress>(early).await.unwrap();
    let progress = phone.response(183).await;
    assert!(progress.headers.lists(Name::Require, "100rel"));
    answer(&rig, &asked.channel_id).await;
    let rseq = progress.headers.rseq().unwrap().unwrap();
    // The 200 waits; the 183 comes once more meanwhile.
    let repeated = phone.response(183).await;
    assert_eq!(repeated.headers.rseq().unwrap(), Some(rseq));
    let prack = phone.in_dialog(Method::Prack, &invite, &progress, 3).with(Name::RAck, format!("{rseq} 2 INVITE"));
    phone.send(prack.to_bytes()).await;
    let ok = phone.response(200).await;
    assert_eq!(ok.headers.cseq().unwrap().method, Method::Prack);
    let ok = phone.response(200).await;
    assert_eq!(ok.headers.cseq().unwrap().method, Method::Invite);
    assert!(ok.body.is_empty(), "the 183 had the answer");
}

#[tokio::test]
async fn session_timers_are_agreed_and_too_short_ones_refused() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let invite = phone
        .new_request(Method::Invite, "1001", "timer", 1)
        .with(Name::Supported, "timer")
        .with(Name::SessionExpires, "60")
        .with_body("application/sdp", OFFER);
    let invite = phone.send_authorized(invite).await;
    let refusal = phone.response(422).await;
    assert_eq!(refusal.headers.min_se().unwrap(), Some(90));
    phone.send(phone.ack_of_refusal(&invite, &refusal).to_bytes()).await;

    let invite = phone
        .new_request(Method::Invite, "1001", "timer-2", 1)
        .with(Name::Supported, "timer")
        .with(Name::SessionExpires, "600;refresher=uac")
        .with_body("application/sdp", OFFER);
    phone.send_authorized(invite).await;
    let asked = rig.switchboard.expect::<tell::ChannelInvite>(invited()).await;
    answer(&rig, &asked.channel_id).await;
    let ok = phone.response(200).await;
    assert_eq!(ok.headers.session_expires().unwrap().unwrap().to_string(), "600;refresher=uac");
    assert!(ok.headers.lists(Name::Require, "timer"));
}

#[tokio::test]
async fn what_we_do_not_know_is_refused_as_the_rfc_says() {
    let rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let options = phone.new_request(Method::Options, "1001", "options", 1);
    phone.send(options.to_bytes()).await;
    let ok = phone.response(200).await;
    assert!(ok.headers.lists(Name::Allow, "INVITE") && ok.headers.lists(Name::Supported, "timer"));
    assert_eq!(ok.headers.get(Name::Accept), Some("application/sdp"));

    let unknown = phone.new_request(Method::Invite, "1001", "ext", 1).with(Name::Require, "teleport");
    phone.send(unknown.to_bytes()).await;
    let refusal = phone.response(420).await;
    assert_eq!(refusal.headers.get(Name::Unsupported), Some("teleport"));
    phone.send(phone.ack_of_refusal(&unknown, &refusal).to_bytes()).await;

    let mut loops = phone.new_request(Method::Invite, "1001", "hops", 1);
    loops.headers.set(Name::MaxForwards, "0");
    phone.send(loops.to_bytes()).await;
    let refusal = phone.response(483).await;
    phone.send(phone.ack_of_refusal(&loops, &refusal).to_bytes()).await;

    let stray = phone.new_request(Method::Bye, "1001", "stray", 1);
    phone.send(stray.to_bytes()).await;
    phone.response(481).await;

    let other = phone.new_request(Method::Subscribe, "1001", "subscribe", 1);
    phone.send(other.to_bytes()).await;
    let refusal = phone.response(405).await;
    assert!(refusal.headers.has(Name::Allow));
}

#[tokio::test]
async fn a_draining_edge_takes_no_new_calls() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    let (invite, ok, _) = talking(&mut rig, &mut phone).await;
    rig.edge.drain();
    let mut other = rig.phone("1001").await;
    let refused = other.new_request(Method::Invite, "1000", "too-late", 1).with_body("application/sdp", OFFER);
    other.send(refused.to_bytes()).await;
    let refusal = other.response(503).await;
    assert_eq!(refusal.headers.retry_after().unwrap(), Some(5));
    // The live call goes on until it ends.
    assert_eq!(rig.edge.channels(), 1);
    let bye = phone.in_dialog(Method::Bye, &invite, &ok, 20);
    phone.send(bye.to_bytes()).await;
    phone.response(200).await;
    rig.switchboard.expect::<tell::ChannelHangup>(Accepted {}).await;
    soon("the last leg's end", rig.edge.drained()).await;
}

#[tokio::test]
async fn a_switchboard_that_dies_lets_callers_in_setup_go() {
    let mut rig = Rig::new().await;
    let mut phone = rig.phone("1000").await;
    ringing(&mut rig, &mut phone, "1001").await;
    let Rig { edge, switchboard, .. } = rig;
    drop(switchboard);
    let refusal = phone.response(503).await;
    assert_eq!(refusal.headers.retry_after().unwrap(), Some(5));
    edge.drain();
    soon("the leg's end", edge.drained()).await;
}
