//! Every request refused once, at every step.

use nebula_bus::contract::{CauseKind, EndedBy};

use super::{rig::*, talk::talking};
use crate::call::*;

#[test]
fn setup_fails_with_the_code_that_says_why() {
    for (request, failure, code, kind) in [
        ("create remote offer", Failure::Incompatible, 488, CauseKind::Incompatible),
        ("create remote offer", Failure::Busy, 503, CauseKind::Internal),
        ("create remote offer", Failure::Unavailable, 503, CauseKind::Internal),
        ("create local offer", Failure::Internal, 500, CauseKind::Internal),
        ("dial", Failure::Busy, 503, CauseKind::Internal),
        ("dial", Failure::Unavailable, 503, CauseKind::Internal),
        ("remote answer", Failure::Incompatible, 488, CauseKind::Incompatible),
        ("local answer", Failure::Internal, 500, CauseKind::Internal),
        ("bridge", Failure::Internal, 500, CauseKind::Internal),
    ] {
        let mut rig = Rig::new(1);
        rig.fail(request, failure).settle();
        if rig.channels.contains_key(B) {
            rig.answer(B, Some("b")).settle();
        }
        assert_eq!(rig.asked(A), [format!("reject {code}")], "{request}");
        let cdr = rig.over();
        assert_eq!((cdr.cause, cdr.ended_by, cdr.sip_code), (kind, EndedBy::System, code), "{request}");
    }
}

#[test]
fn no_row_no_call() {
    let mut rig = Rig::new(1);
    rig.shell.clear();
    rig.input(Input::Recorded(Err(Failure::Unavailable)));
    assert_eq!(rig.settle().over().sip_code, 503);
    assert_eq!(rig.asked(A), ["reject 503"]);
}

#[test]
fn a_look_up_that_fails() {
    let mut rig = Rig::new(1);
    rig.shell.clear();
    rig.input(Input::Located(Err(Failure::Internal)));
    rig.settle().over();
    assert_eq!(rig.asked(A), ["reject 500"]);
}

#[test]
fn one_fork_of_two_cannot_be_dialled() {
    let mut rig = Rig::new(2);
    rig.fail("dial", Failure::Unknown).settle();
    assert!(!rig.channels.contains_key(B));
    rig.answer(C, Some("c")).settle();
    assert_eq!(rig.call.state(), State::Answered);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn early_media_that_fails_leaves_the_ringing() {
    for request in ["remote answer", "local answer", "bridge"] {
        let mut rig = Rig::new(1);
        rig.settle().fail(request, Failure::Internal).progress(B, "early").settle();
        assert_ne!(rig.call.state(), State::Ending, "{request}");
        rig.answer(B, Some("early")).settle();
        assert_eq!(rig.call.state(), State::Answered, "{request}");
        assert!(!rig.bridges.is_empty());
        rig.leave(A, 200, CauseKind::Normal).settle().over();
    }
}

#[test]
fn a_caller_that_cannot_be_answered_ends_the_call() {
    let mut rig = Rig::new(1);
    rig.settle().fail("answer", Failure::Unknown).answer(B, Some("b")).settle();
    rig.over();
    assert_eq!(rig.asked(B).last(), Some(&"hangup 481"));
}

#[test]
fn a_change_that_fails_is_refused_and_undone() {
    for (request, code) in [("remote offer", 488), ("local offer", 488), ("reinvite", 488), ("local answer", 488)] {
        let mut rig = talking();
        rig.fail(request, Failure::Incompatible).reinvite(A, Some("x")).settle();
        if rig.channels[B].outgoing.is_some() {
            rig.answer(B, Some("y")).settle();
        }
        assert_eq!(rig.asked(A).last(), Some(&format!("reject {code}").as_str()), "{request}");
        if request == "local answer" {
            rig.answer(B, Some("the old session")).settle();
        }
        assert_eq!(rig.call.state(), State::Answered);
        rig.reinvite(B, Some("again")).settle().answer(A, Some("fine")).settle();
        assert!(rig.asked(B).last().is_some_and(|asked| asked.starts_with("answer")), "{request}");
        rig.leave(A, 200, CauseKind::Normal).settle().over();
    }
}

#[test]
fn an_answer_to_a_change_that_cannot_be_taken_ends_the_call() {
    let mut rig = talking();
    rig.reinvite(A, Some("x")).settle().fail("remote answer", Failure::Incompatible).answer(B, Some("y")).settle();
    assert_eq!(rig.asked(A).iter().rev().take(2).collect::<Vec<_>>(), [&"hangup 488", &"reject 487"]);
    rig.over();
}

#[test]
fn a_record_is_made_although_media_is_gone() {
    let mut rig = talking();
    rig.fail("destroy", Failure::Unavailable).fail("destroy", Failure::Unavailable);
    rig.leave(A, 200, CauseKind::Normal).settle();
    let cdr = &rig.cdrs[0];
    assert!(cdr.legs.iter().all(|leg| leg.stats.is_null()));
    assert_eq!(rig.call.state(), State::Ended);
}
