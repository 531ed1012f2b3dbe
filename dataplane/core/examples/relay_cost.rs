//! What the engine costs per relayed packet, without a driver: `cargo run --release --example relay_cost`.
//!
//! With an argument it relays that many packets and says nothing: for `valgrind --tool=callgrind`, whose instruction
//! counts of two such runs, subtracted, leave the packets alone.

#[path = "../benches/rig/mod.rs"]
mod rig;

use nebula_core::driver::{Component, Datagram, Generation, Socket, StreamIndex};
use nebula_core::engine::Engine;
use nebula_core::limits::Limits;
use nebula_core::time::Nanos;
use nebula_ring::command::{Command, StreamId};
use nebula_ring::event::Event;
use rig::{Nothing, bridged, remote};
use std::hint::black_box;
use std::time::Instant;

/// Legs, bridged in pairs: 1,000 calls.
const STREAMS: u32 = 2000;

fn main() {
    let mut engine = Engine::new(Limits::default());
    let mut events: Vec<Event> = Vec::with_capacity(1 << 16);
    for stream in 0..STREAMS {
        let create = Command::CreateStream { id: StreamId(u64::from(stream) + 1), config: bridged(stream, None) };
        engine.apply(Nanos(0), 0, &create, &mut Nothing, &mut events);
        if stream % 2 == 1 {
            let bridge = Command::CreateBridge { a: StreamId(u64::from(stream)), b: StreamId(u64::from(stream) + 1) };
            engine.apply(Nanos(0), 0, &bridge, &mut Nothing, &mut events);
        }
    }
    let asked: Option<u64> = std::env::args().nth(1).and_then(|packets| packets.parse().ok());
    let packets = asked.unwrap_or(20_000_000);
    let mut packet = [0x55u8; 172];
    packet[..2].copy_from_slice(&[0x80, 0]);
    let began = Instant::now();
    for i in 0..packets {
        let stream = (i % u64::from(STREAMS)) as u32;
        let round = i / u64::from(STREAMS);
        let now = Nanos(round * 20_000_000 + u64::from(stream) * 10_000);
        packet[2..4].copy_from_slice(&(round as u16).to_be_bytes());
        packet[4..8].copy_from_slice(&(round as u32 * 160).to_be_bytes());
        let generation = Generation(stream + 1);
        let socket = Socket { stream: StreamIndex(stream), generation, component: Component::Rtp };
        let source = (round == 0).then(|| remote(stream));
        let mut datagram = Datagram::whole(black_box(&mut packet));
        black_box(engine.receive(now, socket, source, &mut datagram, &mut Nothing, &mut events));
        if stream % 64 == 63 {
            engine.tick(now, &mut Nothing, &mut events);
            engine.for_each_dirty(|index, view| {
                black_box((index, view.stats.packets_received));
            });
        }
    }
    assert_eq!(engine.totals().forwarded, packets, "every packet was relayed");
    if asked.is_none() {
        let ns = began.elapsed().as_nanos() as f64 / packets as f64;
        println!("{packets} packets over {} calls: {ns:.1} ns a packet", STREAMS / 2);
    }
}
