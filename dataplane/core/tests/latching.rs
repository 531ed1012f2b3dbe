//! What the latch means outside: who is forwarded, connected and reported, and when.

mod common;
use common::{Call, Rig, at, config, rtp};
use nebula_core::driver::Component::{Rtcp, Rtp};
use nebula_core::driver::Datagram;
use nebula_ring::command::{StreamConfig, StreamId};
use nebula_ring::drops::DropReason::{ForeignSource, Learning, UnknownPayloadType};
use nebula_ring::event::Event;

const RR: &[u8] = &[0x80, 201, 0, 1, 0, 0, 0, 7];

#[test]
fn the_signalled_peer_is_connected_and_reported_with_its_first_packet() {
    let mut rig = Rig::bridged(config(1), config(2));
    assert_eq!(rig.dropped(1, "192.0.2.9:5000", &rtp(8, 1, 0, 9)), ForeignSource);
    assert_eq!(rig.dropped(1, "192.0.2.1:5000", &rtp(18, 1, 0, 9)), UnknownPayloadType, "not a valid packet");
    assert!(!rig.view(1).latched);
    let (_, calls) = rig.hear(1, Rtp, Some("192.0.2.1:5000"), &rtp(8, 1, 0, 9));
    let connect = Call::Connect(rig.socket(1, Rtp), at("192.0.2.1:5000"));
    assert_eq!(calls, [connect, Call::Forward(rig.socket(2, Rtp), at("192.0.2.2:5000"))]);
    assert_eq!(rig.events, [Event::StreamUp { id: StreamId(1), remote: at("192.0.2.1:5000") }]);
    let (_, calls) = rig.hear(1, Rtp, None, &rtp(8, 2, 160, 9));
    assert_eq!(calls.len(), 1, "connected once");
    assert_eq!(rig.dropped(1, "192.0.2.9:5000", &rtp(8, 3, 320, 9)), ForeignSource);
}

#[test]
fn nothing_is_forwarded_while_learning() {
    let nat = |n| StreamConfig { nat_expected: true, ..config(n) };
    let mut rig = Rig::bridged(nat(1), nat(2));
    for sequence in 1..=3 {
        assert_eq!(rig.dropped(1, "203.0.113.5:61000", &rtp(8, sequence, 0, 9)), Learning);
        assert_eq!(rig.dropped(1, &format!("198.51.100.{sequence}:9"), &rtp(8, 1, 0, 9)), Learning);
        rig.pass(20);
    }
    let (_, calls) = rig.hear(1, Rtp, Some("203.0.113.5:61000"), &rtp(8, 4, 0, 9));
    assert_eq!(calls.len(), 1, "not connected yet, but the packet that ended the proof goes on: {calls:?}");
    assert_eq!(rig.view(1).remote_rtp, Some(at("192.0.2.1:5000")), "nobody else is known yet");
    assert_eq!((rig.view(1).stats.packets_received, rig.view(1).latched), (1, false));
    assert_eq!(rig.events, []);
    // The other leg speaks: its packets go to where the first one was found, not to what it signalled.
    let (_, calls) = rig.hear(2, Rtp, Some("192.0.2.2:5000"), &rtp(8, 1, 0, 8));
    assert!(calls.contains(&Call::Forward(rig.socket(1, Rtp), at("203.0.113.5:61000"))));
    rig.events.clear();
    for sequence in 5..=9 {
        rig.pass(20);
        let (_, calls) = rig.hear(1, Rtp, Some("203.0.113.5:61000"), &rtp(8, sequence, 0, 9));
        assert_eq!(calls.len(), 1, "a steady talker loses nothing more, and is not connected yet: {calls:?}");
    }
    assert_eq!(rig.events, [Event::StreamUp { id: StreamId(1), remote: at("203.0.113.5:61000") }]);
    assert!(rig.view(1).latched);
    rig.pass(1000);
    let (_, calls) = rig.hear(1, Rtp, Some("203.0.113.5:61000"), &rtp(8, 10, 0, 9));
    assert_eq!(calls[0], Call::Connect(rig.socket(1, Rtp), at("203.0.113.5:61000")), "the window is over");
}

#[test]
fn a_source_on_trial_is_heard_and_sent_to_five_times_and_is_no_peer_in_the_record() {
    let nat = StreamConfig { nat_expected: true, ..config(1) };
    let mut rig = Rig::bridged(nat, config(2));
    rig.hear(2, Rtp, Some("192.0.2.2:5000"), &rtp(8, 1, 0, 8));
    let mut injected = 0;
    for sequence in 1..=4 {
        injected += rig.hear(1, Rtp, Some("203.0.113.5:61000"), &rtp(8, sequence, 0, 9)).1.len();
        rig.pass(10);
    }
    for sequence in 5..=100 {
        injected += rig.hear(1, Rtp, Some("203.0.113.5:61000"), &rtp(8, sequence, 0, 9)).1.len();
    }
    let leak = |rig: &mut Rig, from: u16| {
        let stray = Call::Forward(rig.socket(1, Rtp), at("203.0.113.5:61000"));
        (from..from + 50)
            .filter(|&n| rig.hear(2, Rtp, Some("192.0.2.2:5000"), &rtp(8, n, 0, 8)).1.contains(&stray))
            .count()
    };
    assert_eq!((injected, leak(&mut rig, 2)), (5, 5));
    assert!(!rig.view(1).latched);
    rig.pass(1000);
    assert_eq!(leak(&mut rig, 100), 0);
    // Whoever is tried next has nothing left.
    rig.apply(nebula_ring::command::Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
    for sequence in 101..=110 {
        assert_eq!(rig.hear(1, Rtp, Some("203.0.113.6:61000"), &rtp(8, sequence, 0, 9)).1, []);
        rig.pass(8);
    }
    assert_eq!(leak(&mut rig, 200), 0);
}

#[test]
fn a_peer_whose_nat_has_forgotten_it_is_found_again_if_that_is_configured() {
    let relatch = StreamConfig { relatch_interval_ms: 5_000, ..config(1) };
    let mut rig = Rig::bridged(relatch, config(2));
    let (_, calls) = rig.hear(1, Rtp, Some("192.0.2.1:5000"), &rtp(8, 1, 0, 9));
    assert_eq!(calls.len(), 1, "not connected: the kernel must let others through: {calls:?}");
    rig.pass(6_000);
    for sequence in 2..=4 {
        assert_eq!(rig.dropped(1, "192.0.2.1:6000", &rtp(8, sequence, 0, 9)), Learning);
        assert_eq!(rig.dropped(1, "192.0.2.9:6000", &rtp(8, sequence, 0, 9)), ForeignSource);
        rig.pass(20);
    }
    let (_, calls) = rig.hear(1, Rtp, Some("192.0.2.1:6000"), &rtp(8, 5, 0, 9));
    assert_eq!(calls.len(), 1);
    assert_eq!(rig.view(1).remote_rtp, Some(at("192.0.2.1:6000")));
    rig.pass(2_000);
    assert_eq!(rig.dropped(1, "192.0.2.1:7000", &rtp(8, 6, 0, 9)), ForeignSource, "not so soon again");
}

#[test]
fn a_source_of_none_means_nothing_before_the_latch_has_closed() {
    let mut rig = Rig::bridged(config(1), config(2));
    let (_, calls) = rig.hear(1, Rtp, None, &rtp(8, 1, 0, 9));
    assert_eq!(calls, []);
    assert_eq!(rig.view(1).drops.get(ForeignSource), 1);
}

#[test]
fn another_signalled_remote_disconnects_and_latches_again() {
    let mut rig = Rig::bridged(config(1), config(2));
    rig.hear(1, Rtp, Some("192.0.2.1:5000"), &rtp(8, 1, 0, 9));
    rig.hear(1, Rtcp, Some("192.0.2.1:5001"), RR);
    rig.driver.calls.clear();
    rig.update(1, config(1));
    assert_eq!(rig.driver.calls, [], "the same remote changes nothing");
    let mut moved = config(1);
    moved.remote_rtp = Some(at("192.0.2.77:6000"));
    rig.update(1, moved);
    let expected = [Call::Disconnect(rig.socket(1, Rtp)), Call::Disconnect(rig.socket(1, Rtcp))];
    assert_eq!(rig.driver.calls, expected);
    assert_eq!(rig.dropped(1, "192.0.2.1:5000", &rtp(8, 2, 160, 9)), ForeignSource);
    rig.events.clear();
    rig.hear(1, Rtp, Some("192.0.2.77:6000"), &rtp(8, 1, 0, 10));
    assert_eq!(rig.events, [Event::StreamUp { id: StreamId(1), remote: at("192.0.2.77:6000") }]);
}

#[test]
fn an_update_of_a_stream_that_never_heard_its_peer_opens_a_new_window() {
    let nat = StreamConfig { nat_expected: true, ..config(1) };
    let mut rig = Rig::bridged(nat.clone(), config(2));
    rig.pass(1500);
    assert_eq!(rig.dropped(1, "203.0.113.5:61000", &rtp(8, 1, 0, 9)), ForeignSource);
    rig.update(1, nat);
    assert_eq!(rig.dropped(1, "203.0.113.5:61000", &rtp(8, 2, 0, 9)), Learning);
}

#[test]
fn a_bridge_made_anew_opens_a_new_window_for_legs_not_heard_yet() {
    let nat = StreamConfig { nat_expected: true, ..config(1) };
    let mut rig = Rig::bridged(nat, config(2));
    rig.hear(2, Rtp, Some("192.0.2.2:5000"), &rtp(8, 1, 0, 8));
    rig.pass(1500);
    assert_eq!(rig.dropped(1, "203.0.113.5:61000", &rtp(8, 1, 0, 9)), ForeignSource, "early media, and nobody spoke");
    let bridge = nebula_ring::command::Command::CreateBridge { a: StreamId(1), b: StreamId(2) };
    rig.apply(bridge).unwrap();
    assert_eq!(rig.dropped(1, "203.0.113.5:61000", &rtp(8, 2, 0, 9)), Learning, "the call is answered");
    assert!(rig.view(2).latched, "who was heard stays known");
}

#[test]
fn late_packets_of_a_destroyed_stream_reach_nobody() {
    let mut rig = Rig::bridged(config(1), config(2));
    let old = rig.socket(1, Rtp);
    rig.apply(nebula_ring::command::Command::DestroyStream { id: StreamId(1) }).unwrap();
    // Fill the table, so that the index is used again.
    for id in 3..=17 {
        let create = nebula_ring::command::Command::CreateStream { id: StreamId(id), config: config(id as u8) };
        rig.apply(create).unwrap();
    }
    assert!((3..=17).any(|id| rig.socket(id, Rtp).stream == old.stream), "reused");
    let mut packet = rtp(8, 1, 0, 9);
    rig.driver.calls.clear();
    rig.engine.receive(rig.now, old, None, &mut Datagram::whole(&mut packet), &mut rig.driver, &mut rig.events);
    assert_eq!(rig.driver.calls, []);
    assert_eq!(rig.engine.totals().drops.get(nebula_ring::drops::DropReason::StaleSocket), 1);
}
