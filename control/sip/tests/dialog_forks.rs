//! The forks of one INVITE: several early dialogs, one winner, the others ended; a repeated 2xx gets its ACK again; and
//! the 2xx of the other side, repeated until that ACK comes.

mod transaction_support;

use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_sip::dialog::{Due, FORKS_MAX, Forks, Heard, State, Unacknowledged};
use nebula_sip::reliable::Verdict;
use nebula_sip::timers::Base;
use nebula_sip::{Method, Name, Response};
use transaction_support::*;

fn forks() -> Forks {
    Forks::new(outgoing(Method::Invite))
}

fn from_fork(status: u16, tag: &str) -> Response {
    answer(&outgoing_bytes(), status, tag)
}

fn outgoing_bytes() -> Bytes {
    outgoing(Method::Invite).with(Name::Via, "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa").to_bytes()
}

fn early(tag: &str) -> Heard {
    Heard::Early { remote_tag: tag.into(), reliable: None }
}

#[test]
fn each_fork_has_its_early_dialog() {
    let mut forks = forks();
    assert_eq!(forks.receive(&from_fork(100, "")), Ok(Heard::Trying));
    assert_eq!(forks.receive(&from_fork(180, "a")), Ok(early("a")));
    assert_eq!(forks.receive(&from_fork(180, "b")), Ok(early("b")));
    assert_eq!(forks.receive(&from_fork(183, "a")), Ok(early("a")));
    let tags: Vec<_> = forks.early().map(|dialog| dialog.id().remote_tag.to_string()).collect();
    assert_eq!(tags, ["a", "b"]);
    assert_eq!(forks.early_mut("b").map(|dialog| dialog.state()), Some(State::Early));
    assert_eq!(forks.receive(&from_fork(486, "a")), Ok(Heard::Refused));
}

#[test]
fn the_first_2xx_wins_and_the_second_is_surplus() {
    let mut forks = forks();
    forks.receive(&from_fork(180, "a")).unwrap();
    forks.receive(&from_fork(180, "b")).unwrap();
    let Ok(Heard::Answered(winner)) = forks.receive(&from_fork(200, "b")) else { panic!("not answered") };
    assert_eq!((&*winner.id().remote_tag, winner.state()), ("b", State::Confirmed));
    let Ok(Heard::Surplus(mut other)) = forks.receive(&from_fork(200, "a")) else { panic!("not surplus") };
    assert_eq!(other.state(), State::Confirmed);
    let ack = other.ack(&from_fork(200, "a")).unwrap();
    let bye = other.request(Method::Bye);
    assert_eq!(ack.headers.to().unwrap().tag(), Some("a"));
    assert_eq!((ack.headers.get(Name::CSeq), bye.headers.get(Name::CSeq)), (Some("7 ACK"), Some("8 BYE")));
    assert_eq!(forks.receive(&from_fork(180, "b")), Ok(Heard::Trying), "late");
    assert!(matches!(forks.receive(&from_fork(200, "c")), Ok(Heard::Surplus(_))), "without a provisional");
}

#[test]
fn a_repeated_2xx_gets_the_ack_that_was_sent() {
    let mut forks = forks();
    assert!(matches!(forks.receive(&from_fork(200, "a")), Ok(Heard::Answered(_))));
    assert_eq!(forks.receive(&from_fork(200, "a")), Ok(Heard::Repeated { ack: None }), "not sent yet");
    forks.acknowledged("a", Bytes::from_static(b"ACK a"));
    forks.acknowledged("z", Bytes::from_static(b"ACK z"));
    let again = Heard::Repeated { ack: Some(Bytes::from_static(b"ACK a")) };
    assert_eq!(forks.receive(&from_fork(200, "a")), Ok(again.clone()));
    assert_eq!(forks.receive(&from_fork(200, "a")), Ok(again));
}

#[test]
fn a_2xx_that_cannot_be_used_leaves_the_early_dialog() {
    let mut forks = forks();
    forks.receive(&from_fork(180, "a")).unwrap();
    let mut broken = from_fork(200, "a");
    broken.headers.set(Name::RecordRoute, "<sip:p1");
    assert!(forks.receive(&broken).is_err());
    assert!(matches!(forks.receive(&from_fork(200, "a")), Ok(Heard::Answered(_))));
}

#[test]
fn forks_are_bounded() {
    let mut forks = forks();
    for n in 0..FORKS_MAX {
        assert_eq!(forks.receive(&from_fork(180, &format!("t{n}"))), Ok(early(&format!("t{n}"))));
    }
    assert_eq!(forks.receive(&from_fork(180, "more")), Ok(Heard::Ignored));
    assert_eq!(forks.receive(&from_fork(200, "more")), Ok(Heard::Ignored));
    assert_eq!(forks.ignored(), 2);
    assert!(matches!(forks.receive(&from_fork(200, "t5")), Ok(Heard::Answered(_))));
}

#[test]
fn reliable_provisionals_are_counted_per_fork() {
    let mut forks = forks();
    let mut reliable = |tag: &str, rseq: u32| {
        let response = from_fork(183, tag).with(Name::Require, "100rel").with(Name::RSeq, rseq.to_string());
        match forks.receive(&response) {
            Ok(Heard::Early { reliable, .. }) => reliable,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(reliable("a", 10), Some(Verdict::Acknowledge));
    assert_eq!(reliable("b", 90), Some(Verdict::Acknowledge));
    assert_eq!(reliable("a", 10), Some(Verdict::Repeated));
    assert_eq!(reliable("a", 12), Some(Verdict::OutOfOrder));
    assert_eq!(reliable("a", 11), Some(Verdict::Acknowledge));
}

#[test]
fn a_2xx_of_ours_is_repeated_through_its_transaction_until_its_ack_comes() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    let ok = reply(&invite, 200);
    let first = bytes_of(&end.respond(id, &ok));
    let mut waiting = Unacknowledged::new(end.now, Base::default(), 1, ok);
    let mut instants = Vec::new();
    while end.ms() < 8_000 {
        let at = waiting.next_timeout().expect("no ACK yet");
        end.run_until_ms((at - end.start).as_millis() as u64);
        let Some(Due::Repeat(response)) = waiting.handle_timeout(end.now) else { panic!("not due") };
        assert_eq!(bytes_of(&end.respond(id, response)), first);
        instants.push(end.ms());
    }
    assert_eq!(instants, [500, 1_500, 3_500, 7_500, 11_500]);
    assert!(!waiting.is_acknowledged_by(&incoming("ACK", "z9hG4bKb", 2)));
    assert!(!waiting.is_acknowledged_by(&incoming("BYE", "z9hG4bKb", 1)));
    assert!(waiting.is_acknowledged_by(&incoming("ACK", "z9hG4bKb", 1)));
}

#[test]
fn a_2xx_of_ours_without_ack_ends_in_a_bye_after_64_t1() {
    let start = Instant::now();
    let mut waiting = Unacknowledged::new(start, Base::default(), 1, reply(&incoming("INVITE", "z9hG4bKa", 1), 200));
    let mut last = None;
    while let Some(at) = waiting.next_timeout() {
        last = Some((at - start, waiting.handle_timeout(at) == Some(Due::GiveUp)));
    }
    assert_eq!(last, Some((Duration::from_secs(32), true)));
}
