//! What the engine costs without a driver: `cargo bench -p nebula-core`, or with a filter, for example `turn/AES` or `latch`.
//!
//! A turn hands in so many packets of 172 bytes, each of another stream of 128 bridged calls, and serves the timers; the time
//! is that of the turn, the rate that of packets. `together` is `receive_many`, as workers do it, `one by one` is `receive`.
//! Protected calls are so on both legs: each packet is opened, and protected for the other one. What SRTP's arithmetic costs
//! by suite and size is in `simd/benches/srtp.rs`.

mod rig;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use nebula_core::driver::{Component, Datagram, Generation, Incoming, Socket, StreamIndex};
use nebula_core::engine::Engine;
use nebula_core::ingress::latch::{Expectation, Latch};
use nebula_core::limits::Limits;
use nebula_core::srtp::{Kernels, Sender};
use nebula_core::time::Nanos;
use nebula_core::wire::rtp;
use nebula_ring::command::{Command, StreamId};
use nebula_ring::event::Event;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use rig::{Nothing, bridged, remote};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// Legs, bridged in pairs.
const STREAMS: u32 = 256;
const PACKET_BYTES: usize = 172;
/// With room for what SRTP adds.
const BUFFER_BYTES: usize = 256;

fn key(suite: Suite, stream: u32, serial: u32) -> MasterKey {
    let bytes: [u8; 46] = std::array::from_fn(|i| i as u8 ^ stream as u8 ^ (serial << 4) as u8);
    MasterKey::new(serial, suite, &bytes[..suite.key_bytes() + suite.salt_bytes()], Mki::default()).expect("a key")
}

/// Bridged calls, and what their phones protect with.
struct Calls {
    engine: Engine,
    phones: Vec<Option<Sender>>,
    events: Vec<Event>,
    round: u64,
}

impl Calls {
    fn new(suite: Option<Suite>) -> Self {
        let mut engine = Engine::new(Limits { streams_max: STREAMS });
        let mut events = Vec::with_capacity(1 << 12);
        for stream in 0..STREAMS {
            let srtp = |suite| SrtpConfig { receive: Some(key(suite, stream, 1)), send: Some(key(suite, stream, 2)) };
            let config = bridged(stream, suite.map(srtp));
            let id = StreamId(u64::from(stream) + 1);
            engine.apply(Nanos(0), 0, &Command::CreateStream { id, config }, &mut Nothing, &mut events);
            if stream % 2 == 1 {
                let bridge = Command::CreateBridge { a: StreamId(id.0 - 1), b: id };
                engine.apply(Nanos(0), 0, &bridge, &mut Nothing, &mut events);
            }
        }
        let phone = |stream| suite.map(|suite| Sender::new(Kernels::detect(), &key(suite, stream, 1)));
        Self { engine, phones: (0..STREAMS).map(phone).collect(), events, round: 0 }
    }

    /// The next packet of each stream, and how long it is, in its order.
    fn speak(&mut self, buffers: &mut [[u8; BUFFER_BYTES]]) -> usize {
        self.round += 1;
        let mut len = PACKET_BYTES;
        for (stream, buffer) in (0u32..).zip(buffers) {
            *buffer = [0x55; BUFFER_BYTES];
            buffer[..2].copy_from_slice(&[0x80, 0]);
            buffer[2..4].copy_from_slice(&(self.round as u16).to_be_bytes());
            buffer[4..8].copy_from_slice(&(self.round as u32 * 160).to_be_bytes());
            buffer[8..12].copy_from_slice(&stream.to_be_bytes());
            let mut packet = Datagram::new(buffer, PACKET_BYTES);
            if let Some(Some(phone)) = self.phones.get_mut(stream as usize) {
                let _ = phone.protect_rtp(&mut packet).expect("phones count on");
            }
            len = packet.len();
        }
        len
    }

    /// So many turns of so many packets each.
    fn turns(&mut self, turns: u64, batch: usize, together: bool) -> Duration {
        let mut buffers = vec![[0; BUFFER_BYTES]; STREAMS as usize];
        let (mut spent, mut done) = (Duration::ZERO, 0);
        let before = self.engine.totals().forwarded;
        while done < turns {
            let len = self.speak(&mut buffers);
            let now = Nanos(self.round * 20_000_000);
            let mut packets: Vec<_> = (0u32..)
                .zip(&mut buffers)
                .map(|(stream, buffer)| {
                    let generation = Generation(stream + 1);
                    let socket = Socket { stream: StreamIndex(stream), generation, component: Component::Rtp };
                    Incoming::new(socket, Some(remote(stream)), Datagram::new(buffer, len))
                })
                .collect();
            let begun = Instant::now();
            for turn in packets.chunks_exact_mut(batch).take((turns - done) as usize) {
                let Self { engine, events, .. } = self;
                if together {
                    engine.receive_many(now, turn, &mut Nothing, events);
                } else {
                    for Incoming { socket, source, packet, forward } in turn {
                        *forward = engine.receive(now, *socket, *source, packet, &mut Nothing, events);
                    }
                }
                engine.tick(now, &mut Nothing, events);
                events.clear();
                done += 1;
            }
            spent += begun.elapsed();
        }
        assert_eq!(self.engine.totals().forwarded - before, turns * batch as u64, "every packet was relayed");
        spent
    }
}

fn turn(criterion: &mut Criterion) {
    let suites = [
        ("plain", None),
        ("AES_CM_128_HMAC_SHA1_80", Some(Suite::AesCm128HmacSha1_80)),
        ("AEAD_AES_128_GCM", Some(Suite::AeadAes128Gcm)),
    ];
    for (name, suite) in suites {
        let mut group = criterion.benchmark_group(format!("turn/{name}"));
        for batch in [1, 4, 16, 64] {
            group.throughput(Throughput::Elements(batch as u64));
            for (how, together) in [("one by one", false), ("together", true)] {
                group.bench_function(format!("{batch} packets, {how}"), |bencher| {
                    let mut calls = Calls::new(suite);
                    bencher.iter_custom(|turns| calls.turns(turns, batch, together));
                });
            }
        }
        group.finish();
    }
}

fn header(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("header");
    let mut plain = [0x55; PACKET_BYTES];
    plain[..2].copy_from_slice(&[0x80, 0]);
    let mut full = plain;
    // Padding of 0x55 bytes, four contributing sources, and an extension of two words.
    full[0] = 0xb4;
    full[28..32].copy_from_slice(&[0xbe, 0xde, 0, 2]);
    for (name, packet) in [("12 bytes", plain), ("padding, CSRCs and extension", full)] {
        assert!(rtp::Packet::new_checked(&packet).is_ok());
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                let packet = rtp::Packet::new_checked(black_box(&packet)).expect("sound");
                (packet.ssrc(), packet.sequence(), packet.timestamp(), packet.payload_bytes())
            });
        });
    }
    group.finish();
}

fn latch(criterion: &mut Criterion) {
    let expected = Expectation {
        rtp: Some(remote(1)),
        rtcp: None,
        muxed: false,
        learn_until: None,
        learn_from: None,
        relatch_interval_ms: 0,
    };
    let mut latch = Latch::new(expected);
    latch.rtp(Nanos(1), Some(remote(1)), 7, 1).expect("the signalled source");
    let mut group = criterion.benchmark_group("latch");
    for (name, source) in [("the peer", remote(1)), ("a foreign source", remote(2))] {
        group.bench_function(name, |bencher| {
            let mut sequence = 1u16;
            bencher.iter(|| {
                sequence = sequence.wrapping_add(1);
                let source = black_box(Some(source));
                (latch.is_foreign(source), latch.rtp(Nanos(2), source, 7, sequence).is_ok())
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1)).sample_size(20);
    targets = header, latch, turn
}
criterion_main!(benches);
