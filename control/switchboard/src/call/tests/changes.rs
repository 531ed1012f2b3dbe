//! Re-INVITE and UPDATE: hold, glare, refusals, changes without an offer, and changes that the end overtakes.

use nebula_bus::contract::CauseKind;

use super::{rig::*, talk::talking};
use crate::call::*;

#[test]
fn hold_and_resume_pass_through() {
    let mut rig = talking();
    rig.reinvite(A, Some("sendonly")).settle();
    assert_eq!(rig.asked(B).last(), Some(&"reinvite offer of stream-1"));
    rig.answer(B, Some("recvonly")).settle();
    assert_eq!(rig.asked(A).last(), Some(&"answer answer like stream-1"));
    assert_eq!(rig.media(A)[2..], ["remote offer", "local answer"]);
    assert_eq!(rig.media(B)[2..], ["local offer", "remote answer"]);
    rig.reinvite(B, Some("sendrecv")).settle().answer(A, Some("sendrecv")).settle();
    assert_eq!(rig.asked(B).last(), Some(&"answer answer like stream-0"));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_refused_change_rolls_both_back() {
    let mut rig = talking();
    rig.reinvite(A, Some("video")).settle().refuse(B, 488).settle();
    assert_eq!(rig.asked(A).last(), Some(&"reject 488"));
    assert_eq!((rig.media(A).last(), rig.media(B).last()), (Some(&"rollback"), Some(&"rollback")));
    rig.reinvite(A, Some("again")).settle().answer(B, Some("fine")).settle();
    assert_eq!(rig.asked(A).last(), Some(&"answer answer like stream-1"));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_phone_that_is_silent_refuses() {
    let mut rig = talking();
    rig.reinvite(A, Some("x")).settle().pass(40_000);
    assert_eq!(rig.asked(A).last(), Some(&"reject 408"));
    assert_eq!(rig.call.state(), State::Answered);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn glare_is_refused_with_491_both_ways() {
    let mut rig = talking();
    rig.reinvite(A, Some("from a")).reinvite(B, Some("from b")).settle();
    assert_eq!(rig.asked(B).iter().filter(|asked| **asked == "reject 491").count(), 1);
    // The phone was glaring itself and refuses ours.
    rig.refuse(B, 491).settle();
    assert_eq!(rig.asked(A).last(), Some(&"reject 491"));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_change_before_the_answer_is_refused() {
    let mut rig = Rig::new(1);
    rig.settle().progress(B, "early").settle().reinvite(A, Some("update")).settle();
    assert_eq!(rig.asked(A).last(), Some(&"reject 491"));
    assert_eq!(rig.answer(B, Some("early")).settle().call.state(), State::Answered);
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn the_same_change_told_twice_is_one() {
    let mut rig = talking();
    rig.reinvite(A, Some("x"));
    rig.event(A, ChannelEvent::Reinvite { sdp: Some("x".into()) }).settle().answer(B, Some("y")).settle();
    assert!(!rig.asked(A).iter().any(|asked| asked.starts_with("reject")));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_hang_up_by_either_side_answers_the_open_change() {
    for (who, told) in [(A, B), (B, A)] {
        for stage in 0..2 {
            let mut rig = talking();
            rig.reinvite(A, Some("x"));
            match stage {
                0 => assert!(rig.step_event()),
                _ => _ = rig.settle(),
            }
            rig.leave(who, 200, CauseKind::Normal).settle();
            assert_eq!(rig.asked(told).last(), Some(&"hangup 200"));
            if who == B {
                assert_eq!(rig.asked(A).iter().rev().nth(1), Some(&"reject 487"));
            }
            rig.over();
        }
    }
}

#[test]
fn a_change_without_an_offer_gets_ours_and_its_answer_in_the_ack() {
    let mut rig = talking();
    rig.reinvite(B, None).settle();
    assert_eq!(rig.asked(B).last(), Some(&"answer offer of stream-1"));
    rig.reinvite(A, Some("meanwhile")).settle();
    assert_eq!(rig.asked(A).last(), Some(&"reject 491"));
    rig.ack(B, Some("plain")).settle();
    assert_eq!(rig.media(B).last(), Some(&"remote answer"));
    assert_eq!(rig.asked(A).last(), Some(&"reject 491"), "nothing changed for the other");
    // The phone answers with a hold: that concerns the other.
    rig.reinvite(B, None).settle().ack(B, Some("hold")).settle();
    assert_eq!(rig.asked(A).last(), Some(&"reinvite offer of stream-0"));
    rig.answer(A, Some("held")).settle();
    rig.reinvite(B, None).settle().ack(B, None).settle();
    assert_eq!(rig.media(B).last(), Some(&"rollback"));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_change_of_an_echo_call_is_answered_here() {
    let mut rig = Rig::dialling("*43", Some("offer"), 0);
    rig.settle().reinvite(A, Some("sendonly")).settle();
    assert_eq!(rig.asked(A)[1..], ["answer answer like itself"]);
    rig.reinvite(A, None).settle();
    assert_eq!(rig.asked(A)[2..], ["answer offer of stream-0"]);
    rig.ack(A, Some("answer")).settle();
    assert_eq!(rig.media(A).last(), Some(&"remote answer"));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}

#[test]
fn a_2xx_without_sdp_to_our_offer_is_no_answer() {
    let mut rig = talking();
    rig.reinvite(A, Some("x")).settle().answer(B, None).settle();
    assert_eq!(rig.asked(A).last(), Some(&"reject 488"));
    rig.leave(A, 200, CauseKind::Normal).settle().over();
}
