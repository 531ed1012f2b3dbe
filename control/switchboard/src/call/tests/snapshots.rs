//! What is kept of a call, and what its times are when another process takes it up.

use nebula_bus::contract::{CauseKind, to_proxy::Phase};
use serde_json::Value;

use super::{rig::*, talk::talking};
use crate::call::*;

/// What a call that talks may take in the keep.
const BYTES_MAX: usize = 1_536;

fn restore(bytes: &[u8], now: Now) -> (Call, Vec<Effect>) {
    let mut out = Vec::new();
    let call = Call::restore(bytes, "heir".into(), timing(), now, &mut out).expect("readable");
    (call, out)
}

fn names(out: &[Effect]) -> Vec<&'static str> {
    let name = |effect: &Effect| match effect {
        Effect::Rpc { request: Request::HangUp(_), .. } => "hangup",
        Effect::Rpc { request: Request::Reject(_), .. } => "reject",
        Effect::Rpc { request: Request::Destroy(_), .. } => "destroy",
        Effect::Rpc { request: Request::Update(_), .. } => "update",
        Effect::Record(Record::Answered { .. }) => "answered",
        Effect::Record(Record::Ended(_)) => "ended",
        _ => "other",
    };
    out.iter().map(name).collect()
}

fn stand(call: &mut Call, now: Now, phases: &[(&str, Phase)]) -> Vec<Effect> {
    let mut out = Vec::new();
    let channels = phases.iter().map(|(channel, phase)| ((*channel).into(), *phase)).collect();
    call.handle(now, Input::Adopted { channels }, &mut out);
    out
}

#[test]
fn a_call_that_talks_is_small() {
    let mut rig = talking();
    let bytes = rig.call.snapshot(rig.now()).expect("bytes");
    println!("{} bytes, and {} in memory without its texts", bytes.len(), size_of::<Call>());
    assert!(bytes.len() <= BYTES_MAX, "{}", bytes.len());
    assert!(rig.call.snapshot_due());
    assert!(!rig.call.snapshot_due(), "nothing has changed");
    rig.event(A, ChannelEvent::Dtmf { digit: '1', duration_ms: 100 }).settle();
    assert!(!rig.call.snapshot_due(), "a key press is no news for a successor");
    rig.reinvite(A, Some("hold")).settle();
    assert!(rig.call.snapshot_due());
}

#[test]
fn on_this_host_a_set_clock_changes_nothing() {
    let mut rig = talking();
    rig.pass(30_000);
    let bytes = rig.call.snapshot(rig.now()).expect("bytes");
    for jump_ms in [-3_600_000, 0, 3_600_000] {
        let now = Now { monotonic_ms: rig.now_ms + 700, unix_ms: rig.now().unix_ms + 700 + jump_ms };
        let (call, _) = restore(&bytes, now);
        assert_eq!(call.deadline_ms(), rig.call.deadline_ms());
        assert_eq!(call.view().answered_unix_ms, rig.call.view().answered_unix_ms);
        assert_eq!(call.unix_ms(now.monotonic_ms), rig.call.unix_ms(now.monotonic_ms));
    }
}

#[test]
fn on_another_host_the_times_left_go_on_by_the_wall_clock() {
    let mut rig = talking();
    rig.pass(30_000);
    let saved = rig.call.snapshot(rig.now()).expect("bytes");
    let mut json: Value = serde_json::from_slice(&saved).expect("json");
    json["d"]["moment"]["boot"] = "another".into();
    let away_ms = 7_000;
    let now = Now { monotonic_ms: 900_000_000, unix_ms: rig.now().unix_ms + away_ms };
    let (call, _) = restore(json.to_string().as_bytes(), now);
    let left = |call: &Call, now_ms: u64| call.deadline_ms().expect("the longest duration") - now_ms;
    assert_eq!(left(&call, now.monotonic_ms), left(&rig.call, rig.now_ms) - away_ms as u64);
    assert_eq!(call.view(), rig.call.view());
    assert_eq!(call.unix_ms(now.monotonic_ms), rig.call.unix_ms(rig.now_ms) + away_ms);
}

#[test]
fn a_change_is_undone_and_its_asker_refused() {
    let mut rig = talking();
    rig.reinvite(A, Some("new")).settle();
    let bytes = rig.call.snapshot(rig.now()).expect("bytes");
    let (mut call, out) = restore(&bytes, rig.now());
    assert_eq!(names(&out), ["answered", "update", "update", "reject"]);
    assert!(stand(&mut call, rig.now(), &[(A, Phase::Answered), (B, Phase::Answered)]).is_empty());
    // The peer takes the offer that nobody waits for any more: it is offered the old session.
    let (mut out, mut now) = (Vec::new(), rig.now());
    let event = ChannelEvent::Answered { sdp: Some("late".into()) };
    call.handle(now, Input::Channel { channel_id: B.into(), age_ms: 0, event }, &mut out);
    now.monotonic_ms = call.deadline_ms().expect("a pause");
    call.handle(now, Input::Timeout, &mut out);
    assert_eq!(names(&out), ["update"]);
}

#[test]
fn in_set_up_the_caller_is_refused_at_once() {
    let mut rig = Rig::new(2);
    rig.settle().ring(B).settle();
    let bytes = rig.call.snapshot(rig.now()).expect("bytes");
    let (mut call, out) = restore(&bytes, rig.now());
    assert_eq!(names(&out), [""; 0]);
    let out = stand(&mut call, rig.now(), &[(A, Phase::Early)]);
    assert_eq!(names(&out), ["reject", "destroy", "hangup", "destroy", "hangup", "destroy"]);
    assert!(matches!(&out[0], Effect::Rpc { request: Request::Reject(reject), .. }
        if reject.sip_code == 503 && reject.retry_after_s.is_some()));
}

#[test]
fn what_was_told_to_end_is_told_again() {
    let mut rig = talking();
    rig.leave(A, 200, CauseKind::Normal).step_event();
    let bytes = rig.call.snapshot(rig.now()).expect("bytes");
    let (mut call, out) = restore(&bytes, rig.now());
    assert_eq!(names(&out), ["destroy", "destroy"]);
    let out = stand(&mut call, rig.now(), &[(A, Phase::Gone), (B, Phase::Answered)]);
    assert_eq!(names(&out), ["hangup"]);
}

#[test]
fn damaged_and_foreign_snapshots_are_refused() {
    let rig = talking();
    let bytes = rig.call.snapshot(rig.now()).expect("bytes");
    let mut out = Vec::new();
    for cut in 0..bytes.len() {
        assert!(Call::restore(&bytes[..cut], "heir".into(), timing(), rig.now(), &mut out).is_err());
    }
    assert!(out.is_empty());
}
