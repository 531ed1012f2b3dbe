//! Messages that cross, come twice, late or for nobody.

use nebula_bus::contract::{CauseKind, EndedBy};

use super::{rig::*, talk::talking};
use crate::call::*;

#[test]
fn cancel_before_anything_is_there() {
    let mut rig = Rig::new(1);
    rig.leave(A, 487, CauseKind::Cancelled);
    assert!(rig.step_event());
    rig.settle();
    assert_eq!(rig.asked(A), Vec::<&str>::new(), "the proxy answers a CANCEL itself");
    assert!(!rig.channels.contains_key(B), "nobody was dialled");
    let cdr = rig.over();
    assert_eq!((cdr.cause, cdr.ended_by, cdr.sip_code), (CauseKind::Cancelled, EndedBy::Caller, 487));
}

#[test]
fn cancel_before_the_callee_is_dialled() {
    let mut rig = Rig::new(1);
    while rig.call.state() == State::Routing {
        assert!(rig.step_shell() || rig.step_media() || rig.step_reply(0));
    }
    rig.leave(A, 487, CauseKind::Cancelled).settle();
    assert!(!rig.channels.contains_key(B));
    assert_eq!(rig.media(B), ["create local offer", "destroy"], "the stream that came late is closed");
    rig.over();
}

#[test]
fn cancel_while_ringing() {
    let mut rig = Rig::new(2);
    rig.settle().ring(B).settle().leave(A, 487, CauseKind::Cancelled).settle();
    assert_eq!((rig.asked(B), rig.asked(C)), (vec!["dial", "hangup 487"], vec!["dial", "hangup 487"]));
    rig.over();
}

#[test]
fn cancel_crosses_the_200() {
    // The callee's 200 is on its way when the caller's CANCEL is handled.
    let mut rig = Rig::new(1);
    rig.settle().leave(A, 487, CauseKind::Cancelled).answer(B, Some("b")).settle();
    assert_eq!(rig.asked(B), ["dial", "hangup 487"]);
    assert_eq!(rig.over().answered_unix_ms, None);
    // And the other way round: answered, but the caller has not been told.
    let mut rig = Rig::new(1);
    rig.settle().answer(B, Some("b")).leave(A, 487, CauseKind::Cancelled).settle();
    assert_eq!(rig.asked(B), ["dial", "hangup 487"]);
    assert_eq!((rig.over().answered_unix_ms, rig.over().ended_by), (None, EndedBy::Caller));
}

#[test]
fn two_forks_answer_at_once() {
    let mut rig = Rig::new(2);
    rig.settle().answer(B, Some("b")).answer(C, Some("c")).settle();
    assert_eq!(rig.call.state(), State::Answered);
    assert_eq!(rig.asked(C), ["dial", "hangup 200"]);
    assert_eq!(rig.bridges, [("stream-0".to_owned(), "stream-1".to_owned())]);
    rig.leave(B, 200, CauseKind::Normal).settle();
    let cdr = rig.over();
    assert_eq!(cdr.legs.iter().map(|leg| leg.answered).collect::<Vec<_>>(), [true, true, false]);
}

#[test]
fn the_200_comes_twice() {
    let mut rig = talking();
    let before = rig.asked(A).len();
    rig.event(B, ChannelEvent::Answered { sdp: Some("again".into()) }).settle();
    assert_eq!((rig.asked(A).len(), rig.call.state()), (before, State::Answered));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn both_hang_up_at_once() {
    let mut rig = talking();
    rig.leave(A, 200, CauseKind::Normal).leave(B, 200, CauseKind::Normal).settle();
    assert_eq!(rig.over().ended_by, EndedBy::Caller);
}

#[test]
fn the_callee_hangs_up_before_the_caller_is_answered() {
    let mut rig = Rig::new(1);
    rig.settle().answer(B, Some("b")).leave(B, 200, CauseKind::Normal).settle();
    assert_eq!(rig.asked(A), ["reject 480"]);
    assert_eq!((rig.over().answered_unix_ms, rig.over().ended_by), (None, EndedBy::Callee));
}

#[test]
fn a_fork_dies_while_another_rings() {
    let mut rig = Rig::new(2);
    rig.settle().ring(B).settle().leave(B, 408, CauseKind::Network).settle().answer(C, Some("c")).settle();
    assert_eq!(rig.call.state(), State::Answered);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn the_early_fork_dies_and_another_answers() {
    let mut rig = Rig::new(2);
    rig.settle().progress(B, "early").settle().leave(B, 486, CauseKind::Busy).settle().answer(C, Some("c")).settle();
    rig.pass(1_000);
    assert_eq!(rig.asked(A).last(), Some(&"reinvite offer of stream-0"), "the caller's early answer fitted B");
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn no_rtp_ends_a_talk_but_no_ringing_and_no_hold() {
    let timeout = |rig: &mut Rig, channel| {
        let stream_id = rig.stream_of(channel).into();
        rig.input(Input::StreamTimeout { stream_id });
        rig.settle();
        rig.pass(5_000);
    };
    let mut rig = Rig::new(1);
    rig.settle().ring(B).settle();
    timeout(&mut rig, A);
    assert_eq!(rig.call.state(), State::Ringing);
    rig.answer(B, Some("hold")).settle();
    timeout(&mut rig, A);
    assert_eq!(rig.call.state(), State::Answered, "held from the start");
    rig.input(Input::StreamTimeout { stream_id: "stream-9".into() });
    rig.leave(A, 200, CauseKind::Normal).settle().over();

    let mut rig = talking();
    timeout(&mut rig, B);
    let cdr = rig.over();
    assert_eq!((cdr.cause, cdr.ended_by), (CauseKind::RtpTimeout, EndedBy::System));
    assert_eq!((rig.asked(A).last(), rig.asked(B).last()), (Some(&"hangup 200"), Some(&"hangup 200")));
}

#[test]
fn who_hung_up_unheard_is_no_silence() {
    let mut rig = talking();
    rig.pass(60_000);
    let stream_id = rig.stream_of(A).into();
    rig.input(Input::StreamTimeout { stream_id });
    rig.settle();
    assert_eq!(rig.call.state(), State::Answered, "somebody may have left");
    rig.channels.get_mut(A).expect("there").alive = false;
    let event = ChannelEvent::Hangup { cause: cause(200, CauseKind::Normal) };
    rig.input(Input::Channel { channel_id: A.into(), age_ms: 59_000, event });
    let cdr = rig.settle().over();
    assert_eq!((cdr.cause, cdr.ended_by), (CauseKind::Normal, EndedBy::Caller));
    assert_eq!(cdr.billed_ms(), 1_000, "it ended when the phone said so");
}

#[test]
fn a_dataplane_that_comes_back_with_the_streams_keeps_the_call() {
    let mut rig = talking();
    let lost = || Input::DataplaneLost { media: "media".into() };
    rig.input(lost());
    rig.pass(1_000);
    rig.back(&["stream-0".into(), "stream-1".into(), "stream-7".into()]);
    rig.pass(60_000);
    assert_eq!(rig.call.state(), State::Answered);
    rig.input(Input::DataplaneLost { media: "another".into() });
    assert!(rig.call.deadline_ms().is_some_and(|at| at > rig.now_ms + 60_000));
    rig.input(lost());
    rig.back(&["stream-0".into()]);
    assert_eq!(rig.settle().over().cause, CauseKind::Crash);

    let mut rig = talking();
    rig.input(lost());
    rig.pass(2_000);
    assert_eq!(rig.over().cause, CauseKind::Crash);
}

#[test]
fn inputs_for_nobody_and_after_the_end_change_nothing() {
    let mut rig = talking();
    for channel in ["nobody", "call-9"] {
        rig.event(channel, ChannelEvent::Hangup { cause: cause(200, CauseKind::Normal) });
        rig.event(channel, ChannelEvent::Answered { sdp: None });
    }
    rig.settle();
    rig.input(Input::Reply { id: RpcId(9_999), result: Ok(Reply::Accepted) });
    rig.input(Input::Recorded(Ok(())));
    rig.input(Input::Located(Ok(Vec::new())));
    rig.input(Input::Timeout);
    assert_eq!(rig.settle().call.state(), State::Answered);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
    for channel in [A, B] {
        rig.event(channel, ChannelEvent::Hangup { cause: cause(200, CauseKind::Normal) });
        rig.event(channel, ChannelEvent::Reinvite { sdp: None });
    }
    rig.input(Input::Hangup { cause: cause(200, CauseKind::Normal) });
    rig.settle().over();
}
