//! What a stream counts over a bad network is what the network did to it; and the same seed does the same again.

use nebula_core::engine::Engine;
use nebula_core::limits::Limits;
use nebula_core::stats::StreamStats;
use nebula_core::time::Nanos;
use nebula_io::sim::{Arrival, Faults, Network};
use nebula_ring::command::{Command, Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::event::Event;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

const PACKETS: u64 = 3000;

struct Outcome {
    stats: StreamStats,
    /// Sequence numbers as the engine was handed them.
    heard: Vec<u16>,
    /// RFC 3550 A.8 of these in floating point, in seconds: now and at most.
    jitter: (f64, f64),
    arrived: Vec<Arrival>,
}

/// A phone sends a minute of audio to the echo service over such a network.
fn call(seed: u64, faults: Faults) -> Outcome {
    let mut network = Network::new(seed, faults);
    let mut engine = Engine::new(Limits { streams_max: 1 });
    let mut events: Vec<Event> = Vec::new();
    let phone = SocketAddr::from(([192, 0, 2, 1], 4000));
    let config = StreamConfig {
        local_ip: Ipv4Addr::LOCALHOST.into(),
        rtp_port: 5000,
        rtcp_port: 5000,
        remote_rtp: Some(phone),
        remote_rtcp: None,
        nat_expected: false,
        learning_window_ms: 0,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Echo,
        rtp_timeout_ms: 0,
        ssrc: 77,
        srtp: None,
        payload_types: [PayloadType { number: 0, forward_as: 0, clock_rate_hz: 8000 }].into_iter().collect(),
    };
    let local = SocketAddr::new(config.local_ip, config.rtp_port);
    let create = Command::CreateStream { id: StreamId(1), config };
    engine.apply(Nanos(0), 1, &create, &mut network, &mut events);
    let mut heard = Vec::new();
    let (mut jitter, mut jitter_max, mut last): (f64, f64, Option<(f64, u32)>) = (0.0, 0.0, None);
    for i in 0..PACKETS {
        let sequence = 64_000u16.wrapping_add(i as u16);
        let mut packet = vec![0x80, 0];
        packet.extend(sequence.to_be_bytes());
        packet.extend((i as u32 * 160).to_be_bytes());
        packet.extend([0, 0, 0, 9]);
        packet.extend([0; 160]);
        network.send_from(phone, local, packet);
        let until = Nanos::from_millis(20 * (i + 1));
        network.run_until(until, &mut engine, &mut events, |network, _, _, handled| {
            heard.push(u16::from_be_bytes([handled.before[2], handled.before[3]]));
            let timestamp = u32::from_be_bytes(handled.before[4..8].try_into().unwrap());
            let transit = network.now().0 as f64 / 1e9 - f64::from(timestamp) / 8000.0;
            match last {
                // Duplicates in a row are left out.
                Some((_, before)) if before == timestamp => return,
                Some((before, _)) => jitter += ((transit - before).abs() - jitter) / 16.0,
                None => {}
            }
            jitter_max = jitter_max.max(jitter);
            last = Some((transit, timestamp));
        });
    }
    let stats = engine.streams().next().expect("alive").1.stats;
    assert_eq!(network.violations, [] as [String; 0]);
    Outcome { stats, heard, jitter: (jitter, jitter_max), arrived: network.arrived }
}

#[test]
fn a_good_network_shows_as_one() {
    let Outcome { stats, arrived, .. } = call(1, Faults::NONE);
    assert_eq!((stats.packets_received, stats.packets_sent, stats.packets_lost), (PACKETS, PACKETS, 0));
    assert_eq!((stats.packets_duplicated, stats.packets_reordered, stats.jitter_ns_max), (0, 0, 0));
    assert_eq!(arrived.iter().filter(|a| a.bytes[1] == 0 || a.bytes[1] == 0x80).count() as u64, PACKETS);
}

#[test]
fn loss_duplication_reordering_and_jitter_are_counted_as_they_were() {
    for seed in 0..40 {
        let faults = Faults {
            loss_permille: 30,
            duplicate_permille: 20,
            late_permille: 100,
            delay_us: 5_000,
            delay_late_us_max: 90_000,
            turn_us_max: 0,
            ..Faults::NONE
        };
        let Outcome { stats, heard, jitter, .. } = call(seed, faults);
        let (mut seen, mut highest) = (BTreeSet::new(), None);
        let (mut twice, mut late) = (0, 0);
        for sequence in heard.iter().map(|s| s.wrapping_sub(64_000)) {
            if !seen.insert(sequence) {
                twice += 1;
            } else if highest.is_some_and(|h| sequence < h) {
                late += 1;
            }
            highest = highest.max(Some(sequence));
        }
        assert_eq!(stats.packets_received, heard.len() as u64);
        assert!(twice > 20 && late > 20, "seed {seed}: {twice} {late}");
        // What comes before the source is valid (RFC 3550 A.1) is not told apart: a packet or two.
        let near = |got: i64, truth: i64| (got - truth).abs() <= 2;
        assert!(near(stats.packets_duplicated as i64, twice), "seed {seed}: {stats:?} {twice}");
        assert!(near(stats.packets_reordered as i64, late), "seed {seed}: {stats:?} {late}");
        let first = i64::from(heard[0].wrapping_sub(64_000));
        let expected = i64::from(highest.unwrap_or(0)) - first + 1;
        assert!(near(stats.packets_lost, expected - heard.len() as i64), "seed {seed}: {stats:?}");
        // A unit of the clock is 125 us; the integer form rounds by a few.
        let same = |ns: u64, seconds: f64| (ns as f64 / 1e9 - seconds).abs() < 0.0005;
        assert!(same(stats.jitter_ns, jitter.0), "seed {seed}: {} {jitter:?}", stats.jitter_ns);
        assert!(same(stats.jitter_ns_max, jitter.1), "seed {seed}: {} {jitter:?}", stats.jitter_ns_max);
        assert!(jitter.1 > 0.005, "there was something to measure");
    }
}

#[test]
fn the_same_seed_does_the_same_again() {
    let faults = Faults { loss_permille: 100, late_permille: 300, delay_late_us_max: 50_000, ..Faults::NONE };
    let (one, again, other) = (call(7, faults), call(7, faults), call(8, faults));
    assert_eq!((one.heard, &one.arrived), (again.heard, &again.arrived));
    assert_ne!(one.arrived, other.arrived);
}
