//! Snapshots: what was saved goes on in another process where it was, and what is damaged is refused.

mod transaction_support;

use std::time::Duration;

use nebula_sip::dialog::{Dialog, Forks, Heard, SavedUnacknowledged, Unacknowledged};
use nebula_sip::message::{Refresher, SessionExpires};
use nebula_sip::reliable::{SavedSender, Sender};
use nebula_sip::session_timer::{self, SavedWatch, Watch};
use nebula_sip::snapshot::{Resume, SnapshotError};
use nebula_sip::timers::Base;
use nebula_sip::transaction::{Layer, Options, Output, SavedTransaction, TransactionId};
use nebula_sip::{Message, Method, Name, NameAddr, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use transaction_support::*;

fn through_json<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let text = serde_json::to_string(value).expect("is JSON");
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A process dies and another takes its transaction up, `down_ms` later.
fn restart(end: End, id: TransactionId, down_ms: u64) -> (End, TransactionId, Vec<Output>) {
    let saved = through_json(&end.layer.save(id, end.now).expect("it lives"));
    let elapsed = Duration::from_millis(down_ms);
    let now = end.now + elapsed;
    let mut layer = Layer::with_keys(Options::default(), [43; 16], [42; 16]);
    let id = layer.resume(saved, &Resume { now, elapsed }).expect("nothing is wrong with it");
    let mut end = End { layer, now, start: end.start };
    let outputs = end.drain();
    (end, id, outputs)
}

#[test]
fn a_bye_in_flight_is_sent_again_at_once_and_answered() {
    let mut end = End::new();
    let (id, bye) = end.send(outgoing(Method::Bye), udp());
    end.run_until_ms(600);
    let (mut end, id, outputs) = restart(end, id, 100);
    assert_eq!(bytes_of(&outputs), std::slice::from_ref(&bye), "the same BYE, with its branch");
    let outputs = end.receive(answer(&bye, 200, "theirs"), udp());
    assert!(matches!(outputs.as_slice(), [Output::Response { id: of, .. }] if *of == id), "{outputs:?}");
    assert_eq!(brief(&bytes_free(end.run_until_ms(60_000))), ["terminated"]);
    assert!(end.layer.is_empty());
}

fn bytes_free(timed: Vec<(u128, Output)>) -> Vec<Output> {
    timed.into_iter().map(|(_, output)| output).collect()
}

#[test]
fn an_unanswered_bye_ends_when_it_would_have_ended() {
    let mut end = End::new();
    let (id, _) = end.send(outgoing(Method::Bye), tcp());
    end.run_until_ms(20_000);
    let (mut end, _, outputs) = restart(end, id, 2_000);
    assert!(matches!(outputs.as_slice(), [Output::Transmit { flow, .. }] if flow.connection == 0), "{outputs:?}");
    let outputs = timed(&end.run_until_ms(60_000));
    assert_eq!(outputs, [(32_000, "timeout".to_owned()), (32_000, "terminated".to_owned())]);
}

#[test]
fn an_open_invite_of_the_peer_is_refused_after_the_restart() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    end.respond(id, &reply(&invite, 180));
    let (mut end, id, outputs) = restart(end, id, 1_000);
    assert!(outputs.is_empty());
    assert_eq!(brief(&end.receive(invite.clone(), udp())), [">180"], "a repeated INVITE is no new one");
    assert_eq!(brief(&end.respond(id, &reply(&invite, 503))), [">503"]);
    let (mut end, _, _) = restart(end, id, 100);
    let repeated = timed(&end.run_until_ms(3_000));
    assert_eq!(repeated, [(1_500, ">503".to_owned()), (2_500, ">503".to_owned())], "timer G goes on");
    assert!(end.receive(incoming("ACK", "z9hG4bKa", 1), udp()).is_empty(), "the ACK is its own");
    end.run_until_ms(20_000);
    assert!(end.layer.is_empty());
}

#[test]
fn a_cancelled_invite_of_ours_is_cancelled_again_and_bounded() {
    let mut end = End::new();
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.receive(answer(&invite, 180, "theirs"), udp());
    end.layer.cancel(end.now, id, Some("SIP;cause=200")).expect("it rings");
    assert_eq!(brief(&end.drain()), [">CANCEL"]);
    end.run_until_ms(10_000);
    let (mut end, id, outputs) = restart(end, id, 0);
    assert_eq!(brief(&outputs), [">CANCEL"]);
    let outputs = timed(&end.run_until_ms(32_000));
    assert_eq!(outputs.last(), Some(&(32_000, "terminated".to_owned())), "as if nothing had happened");
    assert!(end.layer.save(id, end.now).is_none());
    end.run_until_ms(60_000);
    assert!(end.layer.is_empty());
}

#[test]
fn answers_over_a_lost_connection_go_to_where_the_peer_listens() {
    let mut end = End::new();
    let invite = incoming_via("INVITE", "SIP/2.0/TCP 192.0.2.9:5070;branch=z9hG4bKa", 1);
    let flow = nebula_sip::Flow { remote: addr("192.0.2.9:49152"), ..tcp() };
    let id = id_of(&end.receive(invite.clone(), flow));
    let (mut end, id, _) = restart(end, id, 0);
    let outputs = end.respond(id, &reply(&invite, 503));
    let [Output::Transmit { flow, .. }] = outputs.as_slice() else { panic!("{outputs:?}") };
    assert_eq!((flow.remote, flow.connection), (addr("192.0.2.9:5070"), 0));
}

#[test]
fn a_damaged_transaction_is_refused() {
    let mut end = End::new();
    let (bye, _) = end.send(outgoing(Method::Bye), udp());
    let (invite, _) = end.send(outgoing(Method::Invite), udp());
    let peers = incoming("INVITE", "z9hG4bKa", 1);
    let server = id_of(&end.receive(peers.clone(), udp()));
    end.respond(server, &reply(&peers, 486));
    let json = |id| serde_json::to_string(&end.layer.save(id, end.now).expect("it lives")).expect("is JSON");
    let (bye, invite, server) = (json(bye), json(invite), json(server));
    for (text, from, to) in [
        (&bye, "\"deadline\":[\"F\",32000],", ""),
        (&bye, "[\"F\",32000]", "[\"F\",32000000]"),
        (&bye, "[\"F\",32000]", "[\"B\",32000]"),
        (&bye, "\"Trying\"", "\"Terminated\""),
        (&bye, "BYE sip", "BY(E sip"),
        (&bye, "\"Client\"", "\"InviteClient\""),
        (&invite, "INVITE sip:", "SIP/2.0 200 "),
        (&invite, "\"key\":\"", "\"key\":\"0"),
        (&server, "[\"H\",32000]", "null"),
        (&server, "SIP/2.0 486", "SIP/2.0 48x"),
    ] {
        let damaged = text.replacen(from, to, 1);
        assert_ne!(&damaged, text, "{from} is not in {text}");
        let read = serde_json::from_str::<SavedTransaction>(&damaged);
        let resume = Resume { now: end.now, elapsed: Duration::ZERO };
        let taken = read.map(|saved| Layer::new(Options::default(), [1; 16]).resume(saved, &resume));
        assert!(!matches!(taken, Ok(Ok(_))), "{damaged}");
    }
    let saved: SavedTransaction = serde_json::from_str(&bye).expect("whole");
    let resume = Resume { now: end.now, elapsed: Duration::ZERO };
    assert_eq!(end.layer.resume(saved, &resume), Err(SnapshotError::Duplicate));
}

fn dialogs() -> (Dialog, Forks, Response) {
    let invite = outgoing(Method::Invite);
    let mut forks = Forks::new(invite.clone());
    let response = |status: u16, tag: &str| {
        let mut response = reply(&invite.clone().with(Name::Via, "SIP/2.0/UDP h;branch=z9hG4bKx"), status);
        response.headers.set_to_tag(tag).expect("a To");
        response
            .with(Name::Contact, "\"B; x\" <sip:b@192.0.2.9;transport=udp>")
            .with(Name::RecordRoute, "<sip:p1;lr>, <sip:p2>")
    };
    forks.receive(&response(180, "one")).expect("readable");
    let Ok(Heard::Answered(dialog)) = forks.receive(&response(200, "two")) else { panic!("not answered") };
    forks.acknowledged("two", "ACK".into());
    (*dialog, forks, response(200, "two"))
}

#[test]
fn dialogs_and_forks_are_the_same_again() {
    let (mut dialog, forks, success) = dialogs();
    dialog.request(Method::Info);
    let mut again = through_json(&dialog);
    assert_eq!(again.ack(&success), dialog.ack(&success));
    // The snapshot may be older than the last request of the process that died.
    (0..16).for_each(|_| drop(dialog.request(Method::Info)));
    assert_eq!(again, dialog);
    assert_eq!(again.request(Method::Bye), dialog.request(Method::Bye));
    assert_eq!(again.ack(&success), dialog.ack(&success));
    let mut again = through_json(&forks);
    let ids = |forks: &Forks| forks.early().map(|dialog| dialog.id().clone()).collect::<Vec<_>>();
    assert_eq!(ids(&again), ids(&forks));
    assert_eq!(again.receive(&success), Ok(Heard::Repeated { ack: Some("ACK".into()) }));
    let uas = Dialog::uas(&incoming("INVITE", "z9hG4bKa", 1), "ours", NameAddr::parse("<sip:us>").unwrap()).unwrap();
    assert_eq!((through_json(&uas).id(), through_json(&uas).target()), (uas.id(), uas.target()));
}

#[test]
fn a_damaged_dialog_is_refused() {
    let (dialog, forks, _) = dialogs();
    let (dialog, forks) = (serde_json::to_string(&dialog).unwrap(), serde_json::to_string(&forks).unwrap());
    for (from, to) in [
        ("\"local_cseq\":7", "\"local_cseq\":2147483648"),
        ("\"local_cseq\":7", "\"local_cseq\":-1"),
        ("\"target\":\"sip:", "\"target\":\"si p:"),
        ("\"contact\":\"<", "\"contact\":\""),
        ("\"Confirmed\"", "\"Sometime\""),
    ] {
        let damaged = dialog.replacen(from, to, 1);
        assert_ne!(damaged, dialog, "{from}");
        assert!(serde_json::from_str::<Dialog>(&damaged).is_err(), "{damaged}");
    }
    assert!(serde_json::from_str::<Forks>(&forks.replacen("INVITE sip:", "SIP/2.0 200 ", 1)).is_err());
    let many = format!("[{}]", vec!["{\"remote_tag\":\"x\"}"; 33].join(","));
    let damaged = forks.replacen("[{\"remote_tag\":\"two\",\"ack\":\"ACK\"}]", &many, 1);
    assert_ne!(damaged, forks);
    assert!(serde_json::from_str::<Forks>(&damaged).is_err());
}

#[test]
fn messages_of_any_bytes_come_back() {
    let invite = outgoing(Method::Invite).with_body("application/x", vec![0u8, 159, 146, 150]);
    let again = through_json(&invite);
    assert_eq!((again.to_bytes(), again.method), (invite.to_bytes(), Method::Invite));
    let (_, _, success) = dialogs();
    assert_eq!(through_json(&success).to_bytes(), success.to_bytes());
    assert!(
        serde_json::from_str::<Response>(&serde_json::to_string(&invite).unwrap()).is_err(),
        "a request is no response"
    );
    assert!(Message::parse(invite.to_bytes()).is_err(), "without Via it is no message for the wire");
}

#[test]
fn clocks_go_on() {
    let end = End::new();
    let resume = Resume { now: end.now + Duration::from_secs(3), elapsed: Duration::from_secs(3) };
    let (_, _, success) = dialogs();
    let base = Base::default();
    let unacknowledged = Unacknowledged::new(end.now, base, 7, success);
    let saved: SavedUnacknowledged = through_json(&unacknowledged.save(end.now).expect("not over"));
    let mut again = Unacknowledged::resume(saved, base, &resume).expect("whole");
    assert_eq!(again.next_timeout(), Some(resume.now), "what was missed is due");
    assert!(again.handle_timeout(resume.now).is_some());
    while let Some(at) = again.next_timeout() {
        again.handle_timeout(at);
        assert!(at <= end.now + base.lifetime(), "given up when it would have been");
    }

    let agreed = session_timer::settle(Some(SessionExpires { interval_s: 1800, refresher: None })).expect("a timer");
    let watch = Watch::new(end.now, agreed, Refresher::Uac);
    let saved: SavedWatch = through_json(&watch.save(end.now));
    assert_eq!(Watch::resume(saved, &resume), watch);

    let mut sender = Sender::new(base, 7, 1);
    sender.send(end.now, true, |rseq| rseq).expect("none is pending");
    let saved: SavedSender<u32> = through_json(&sender.save(end.now));
    let again = Sender::resume(saved, base, &resume).expect("whole");
    assert_eq!((again.next_timeout(), again.holds_back_success()), (Some(resume.now), true));
}
