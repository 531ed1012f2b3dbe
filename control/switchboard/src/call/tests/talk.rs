//! Calls that go as they should: answered, early media, echo, late offer, keys, and what the record says.

use nebula_bus::contract::{CauseKind, EndedBy};

use super::rig::*;
use crate::call::*;

/// A talks with B.
pub fn talking() -> Rig {
    let mut rig = Rig::new(1);
    rig.settle().ring(B).settle().answer(B, Some("answer of b")).settle();
    assert_eq!(rig.call.state(), State::Answered);
    rig
}

#[test]
fn a_call_is_routed_rung_answered_and_hung_up() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.call.state(), State::Routing);
    rig.settle();
    assert_eq!((rig.call.state(), rig.asked(B)), (State::Dialling, vec!["dial"]));
    rig.ring(B).settle().ring(B).settle();
    assert_eq!((rig.call.state(), rig.asked(A)), (State::Ringing, vec!["ring"]));
    rig.now_ms += 3_000;
    rig.answer(B, Some("answer of b")).settle();
    assert_eq!((rig.call.state(), rig.asked(A)), (State::Answered, vec!["ring", "answer answer like stream-1"]));
    assert_eq!(rig.media(A), ["create remote offer", "local answer"]);
    assert_eq!(rig.media(B), ["create local offer", "remote answer"]);
    assert_eq!(rig.bridges, [("stream-0".to_owned(), "stream-1".to_owned())]);
    rig.now_ms += 10_000;
    rig.leave(A, 200, CauseKind::Normal).settle();
    assert_eq!(rig.asked(B), ["dial", "hangup 200"]);
    let cdr = rig.over();
    assert_eq!((cdr.sip_code, cdr.cause, cdr.ended_by), (200, CauseKind::Normal, EndedBy::Caller));
    assert_eq!((cdr.duration_ms(), cdr.billed_ms()), (13_000, 10_000));
    assert_eq!(cdr.answered_unix_ms, Some(cdr.started_unix_ms + 3_000));
    assert_eq!(cdr.legs.len(), 2);
    assert!(cdr.legs.iter().all(|leg| leg.answered && leg.stats["packets_received"] == 7));
    assert_eq!(rig.records, ["started", "answered", "ended"]);
}

#[test]
fn the_callee_hangs_up() {
    let mut rig = talking();
    rig.leave(B, 200, CauseKind::Normal).settle();
    assert_eq!(rig.over().ended_by, EndedBy::Callee);
    assert_eq!(rig.asked(A).last(), Some(&"hangup 200"));
}

#[test]
fn a_record_has_the_moments_however_late_they_are_told() {
    let late = |rig: &mut Rig, channel: &str, age_ms: u64, event: ChannelEvent| {
        rig.channels.get_mut(channel).expect("there").alive &= !matches!(event, ChannelEvent::Hangup { .. });
        rig.input(Input::Channel { channel_id: channel.into(), age_ms, event });
        rig.settle();
    };
    let mut rig = Rig::new(1);
    rig.settle().ring(B).settle();
    rig.now_ms += 9_000;
    rig.channels.get_mut(B).expect("dialled").outgoing = None;
    late(&mut rig, B, 4_000, ChannelEvent::Answered { sdp: Some("answer of b".into()) });
    rig.now_ms += 20_000;
    late(&mut rig, A, 8_000, ChannelEvent::Hangup { cause: cause(200, CauseKind::Normal) });
    let cdr = rig.over();
    assert_eq!(cdr.answered_unix_ms, Some(cdr.started_unix_ms + 5_000));
    assert_eq!(cdr.ended_unix_ms, cdr.started_unix_ms + 21_000);

    // What cannot be: before the call began, or was answered.
    for age_ms in [60_000, u64::MAX] {
        let mut rig = talking();
        rig.now_ms += 1_000;
        late(&mut rig, B, age_ms, ChannelEvent::Hangup { cause: cause(200, CauseKind::Normal) });
        assert_eq!(rig.over().billed_ms(), 0);
    }
}

#[test]
fn nobody_is_registered() {
    let mut rig = Rig::new(0);
    rig.settle();
    assert_eq!(rig.asked(A), ["reject 480"]);
    assert_eq!(rig.over().cause, CauseKind::Unreachable);
}

#[test]
fn nobody_answers_in_time() {
    let mut rig = Rig::new(2);
    rig.settle().ring(B).settle().pass(59_999);
    assert_eq!(rig.call.state(), State::Ringing);
    rig.pass(2);
    assert_eq!(rig.asked(A), ["ring", "reject 480"]);
    assert_eq!((rig.asked(B), rig.asked(C)), (vec!["dial", "hangup 480"], vec!["dial", "hangup 480"]));
    let cdr = rig.over();
    assert_eq!((cdr.cause, cdr.ended_by, cdr.answered_unix_ms), (CauseKind::NoAnswer, EndedBy::System, None));
}

#[test]
fn a_busy_phone_makes_486() {
    let mut rig = Rig::new(1);
    rig.settle().leave(B, 486, CauseKind::Busy).settle();
    assert_eq!(rig.asked(A), ["reject 486"]);
    assert_eq!((rig.over().cause, rig.over().ended_by), (CauseKind::Busy, EndedBy::Callee));
}

#[test]
fn the_best_refusal_of_all_forks_is_passed_on() {
    let mut rig = Rig::new(2);
    rig.settle().leave(B, 603, CauseKind::Rejected).settle();
    assert_eq!(rig.call.state(), State::Dialling, "the other may still answer");
    rig.leave(C, 486, CauseKind::Busy).settle();
    assert_eq!(rig.asked(A), ["reject 603"]);
    rig.over();
}

#[test]
fn early_media_reaches_the_caller_and_the_200_repeats_it() {
    let mut rig = Rig::new(1);
    rig.settle().progress(B, "early").settle();
    assert_eq!(rig.asked(A), [r#"183 progress Some("answer like stream-1")"#]);
    rig.answer(B, Some("early")).settle();
    assert_eq!(rig.asked(A)[1..], ["answer answer like stream-1"]);
    assert_eq!(rig.media(B), ["create local offer", "remote answer"], "the same answer is not applied twice");
    assert_eq!(rig.bridges.len(), 2, "the media plane is told of the answer");
    assert_eq!(rig.bridges[0], rig.bridges[1]);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_200_without_sdp_means_the_early_answer() {
    let mut rig = Rig::new(1);
    rig.settle().progress(B, "early").settle().answer(B, None).settle();
    assert_eq!(rig.call.state(), State::Answered);
    rig.leave(B, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_200_that_differs_from_the_183_is_applied_and_the_caller_offered_anew() {
    let mut rig = Rig::new(1);
    rig.settle().progress(B, "early").settle().answer(B, Some("other fork downstream")).settle();
    assert_eq!(rig.media(B), ["create local offer", "remote answer", "remote answer"]);
    assert_eq!(rig.asked(A)[1..], ["answer answer like stream-1"]);
    rig.pass(1_000);
    assert_eq!(rig.asked(A)[2..], ["reinvite offer of stream-0"]);
    // The caller glares: again a little later.
    rig.refuse(A, 491).settle();
    assert_eq!(rig.media(A).last(), Some(&"rollback"));
    rig.pass(1_000).answer(A, Some("a again")).settle();
    assert_eq!(rig.media(A).last(), Some(&"remote answer"));
    rig.pass(60_000);
    assert_eq!(rig.asked(A).len(), 4, "once is enough");
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn another_fork_than_the_early_one_answers() {
    let mut rig = Rig::new(2);
    rig.settle().progress(B, "early b").settle().progress(C, "early c").settle();
    assert_eq!(rig.asked(A).len(), 1, "the caller hears one early medium");
    rig.answer(C, Some("answer c")).settle();
    assert_eq!(rig.asked(B), ["dial", "hangup 200"]);
    rig.pass(1_000);
    assert_eq!(rig.asked(A)[1..], ["answer answer like stream-1", "reinvite offer of stream-0"]);
    assert_eq!(rig.bridges.last(), Some(&("stream-0".to_owned(), "stream-2".to_owned())));
    rig.leave(C, 200, CauseKind::Normal).settle().over();
}

#[test]
fn an_answer_during_the_early_join_goes_straight_to_200() {
    let mut rig = Rig::new(1);
    rig.settle().progress(B, "early").answer(B, Some("early")).settle();
    assert_eq!(rig.asked(A), ["answer answer like stream-1"]);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn another_fork_answers_during_the_early_join() {
    let mut rig = Rig::new(2);
    rig.settle().progress(B, "early b").answer(C, Some("answer c")).settle();
    assert_eq!(rig.call.state(), State::Answered);
    assert_eq!(rig.asked(A), ["answer answer like stream-2"], "the abandoned join left the caller's offer open");
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn echo_answers_by_itself() {
    let mut rig = Rig::dialling("*43", Some("offer"), 0);
    rig.settle();
    assert_eq!(rig.asked(A), ["answer answer like itself"]);
    assert_eq!(rig.media(A), ["create remote offer", "local answer"]);
    rig.event(A, ChannelEvent::Dtmf { digit: '1', duration_ms: 100 }).settle();
    rig.leave(A, 200, CauseKind::Normal).settle();
    assert_eq!(rig.over().legs.len(), 1);
}

#[test]
fn echo_of_an_invite_without_sdp() {
    let mut rig = Rig::dialling("*43", None, 0);
    rig.settle();
    assert_eq!(rig.asked(A), ["answer offer of stream-0"]);
    rig.ack(A, Some("answer")).settle();
    assert_eq!(rig.media(A), ["create local offer", "remote answer"]);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn an_invite_without_sdp_is_offered_the_callees_choice() {
    let mut rig = Rig::dialling("1001", None, 1);
    rig.settle().progress(B, "early").settle();
    assert_eq!(rig.asked(A), ["ring"], "no early media without an offer");
    rig.answer(B, Some("answer of b")).settle();
    assert_eq!(rig.media(A), ["create local offer", "local offer"]);
    assert_eq!(rig.asked(A)[1..], ["answer offer of stream-0"]);
    rig.ack(A, Some("answer of a")).settle();
    assert_eq!(rig.media(A).last(), Some(&"remote answer"));
    rig.leave(B, 200, CauseKind::Normal).settle().over();
}

#[test]
fn an_ack_without_the_due_answer_ends_the_call() {
    let mut rig = Rig::dialling("1001", None, 1);
    rig.settle().answer(B, Some("answer of b")).settle().ack(A, None).settle();
    assert_eq!(rig.over().cause, CauseKind::Incompatible);
}

#[test]
fn an_ack_that_never_comes_ends_the_call() {
    let mut rig = Rig::dialling("1001", None, 1);
    rig.settle().answer(B, Some("answer of b")).settle().pass(40_000);
    assert_eq!(rig.over().sip_code, 408);
}

#[test]
fn keys_go_to_the_other_side() {
    let mut rig = talking();
    rig.event(A, ChannelEvent::Dtmf { digit: '5', duration_ms: 160 }).settle();
    rig.event(B, ChannelEvent::Dtmf { digit: '6', duration_ms: 160 }).settle();
    assert_eq!((rig.asked(A).last(), rig.asked(B).last()), (Some(&"dtmf"), Some(&"dtmf")));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn the_longest_duration_ends_a_call() {
    let mut rig = talking();
    rig.pass(timing().duration_ms_max);
    let cdr = rig.over();
    assert_eq!((cdr.cause, cdr.billed_ms()), (CauseKind::Administrative, timing().duration_ms_max as i64));
}

#[test]
fn an_operator_ends_a_call_in_any_state() {
    for stage in 0..4 {
        let mut rig = Rig::new(2);
        match stage {
            0 => {}
            1 => _ = rig.settle(),
            2 => _ = rig.settle().ring(B).settle(),
            _ => _ = rig.settle().answer(B, Some("b")).settle(),
        }
        rig.input(Input::Hangup { cause: cause(503, CauseKind::Administrative) });
        let cdr = rig.settle().over();
        assert_eq!((cdr.cause, cdr.ended_by), (CauseKind::Administrative, EndedBy::System), "stage {stage}");
    }
}
