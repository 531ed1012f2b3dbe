//! Silence, in virtual time.

mod common;
use common::{Rig, config, rtp};
use nebula_core::driver::Component::Rtp;
use nebula_core::time::Nanos;
use nebula_ring::command::{StreamConfig, StreamId};
use nebula_ring::event::Event;

const A: &str = "192.0.2.1:5000";
const TIMEOUT: Event = Event::RtpTimeout { id: StreamId(1) };

fn rig(rtp_timeout_ms: u32) -> Rig {
    Rig::with(&[StreamConfig { rtp_timeout_ms, ..config(1) }])
}

#[test]
fn each_silence_is_reported_once_and_on_time() {
    let mut rig = rig(30_000);
    rig.pass(29_999);
    assert_eq!(rig.events, []);
    rig.hear(1, Rtp, Some(A), &rtp(8, 1, 0, 9));
    rig.events.clear();
    rig.pass(29_999);
    assert_eq!(rig.events, [], "counted from the last packet");
    rig.pass(2);
    assert_eq!(rig.events, [TIMEOUT]);
    assert!(rig.view(1).timed_out);
    rig.pass(300_000);
    assert_eq!(rig.events, [TIMEOUT], "once");
    rig.hear(1, Rtp, None, &rtp(8, 2, 0, 9));
    assert!(!rig.view(1).timed_out);
    rig.pass(30_001);
    assert_eq!(rig.events, [TIMEOUT, TIMEOUT], "another silence");
}

#[test]
fn foreign_packets_do_not_break_the_silence() {
    let mut rig = rig(1000);
    for _ in 0..100 {
        rig.pass(20);
        rig.hear(1, Rtp, Some("198.51.100.1:1"), &rtp(8, 1, 0, 9));
    }
    assert_eq!(rig.events, [TIMEOUT]);
}

#[test]
fn hold_stops_the_count_and_resuming_starts_it_anew() {
    let mut rig = rig(1000);
    let held = StreamConfig { receive: false, rtp_timeout_ms: 1000, ..config(1) };
    rig.update(1, held.clone());
    rig.pass(10_000);
    assert_eq!(rig.events, []);
    rig.update(1, StreamConfig { receive: true, ..held });
    rig.pass(999);
    assert_eq!(rig.events, []);
    rig.pass(2);
    assert_eq!(rig.events, [TIMEOUT]);
}

#[test]
fn a_bridge_made_anew_starts_the_count_anew() {
    let ringing = |n| StreamConfig { rtp_timeout_ms: 1000, ..config(n) };
    let mut rig = Rig::bridged(ringing(1), StreamConfig { rtp_timeout_ms: 0, ..config(2) });
    let bridge = nebula_ring::command::Command::CreateBridge { a: StreamId(1), b: StreamId(2) };
    rig.pass(1001);
    assert_eq!(rig.events, [TIMEOUT], "nobody spoke while it rang");
    rig.apply(bridge).unwrap();
    assert!(!rig.view(1).timed_out);
    rig.pass(999);
    assert_eq!(rig.events, [TIMEOUT]);
    rig.pass(2);
    assert_eq!(rig.events, [TIMEOUT, TIMEOUT], "nobody speaks now that it is answered");
}

#[test]
fn zero_turns_it_off() {
    let mut rig = rig(0);
    assert_eq!(rig.engine.next_timeout(), None);
    rig.pass(1_000_000);
    assert_eq!(rig.events, []);
}

#[test]
fn a_clock_that_goes_back_or_leaps_does_no_harm() {
    let mut rig = rig(1000);
    rig.now = Nanos(5);
    rig.pass(900_000);
    assert_eq!(rig.events, [], "an earlier time is taken for the latest");
    rig.now = Nanos(u64::MAX);
    rig.pass(0);
    assert_eq!(rig.events, [TIMEOUT]);
}

#[test]
fn many_streams_that_fall_silent_at_once_are_all_reported() {
    let streams = nebula_core::limits::TIMERS_PER_TICK_MAX as u32 * 3;
    let mut rig = Rig::new();
    rig.engine = nebula_core::engine::Engine::new(nebula_core::limits::Limits { streams_max: streams });
    for id in 1..=u64::from(streams) {
        let config = StreamConfig { rtp_timeout_ms: 1000, ..config(1) };
        rig.apply(nebula_ring::command::Command::CreateStream { id: StreamId(id), config }).unwrap();
    }
    rig.pass(2000);
    assert_eq!(rig.events.len(), streams as usize);
    assert!(rig.engine.totals().ticks_cut_short >= 2);
}
