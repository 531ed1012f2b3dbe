//! After `Engine::new` nothing allocates: packets, commands, timers, table. A counting allocator holds it.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

mod common;
use common::{config, rtp};
use nebula_core::batch::BATCH_MAX;
use nebula_core::driver::{Component, Datagram, Driver, Generation, Incoming, OpenError, Socket, StreamIndex};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::srtp::{Kernels, Sender};
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};
use nebula_ring::event::Event;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::net::SocketAddr;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator unchanged; the counter is a plain thread-local that never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|n| n.set(n.get() + 1));
        // SAFETY: the caller's promises are handed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are handed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Does nothing, and allocates nothing, but count.
#[derive(Default)]
struct Sink {
    sent: u64,
    sockets: i64,
}

impl Driver for Sink {
    fn open(&mut self, _: Socket, _: SocketAddr) -> Result<(), OpenError> {
        self.sockets += 1;
        Ok(())
    }
    fn close(&mut self, _: Socket) {
        self.sockets -= 1;
    }
    fn connect(&mut self, _: Socket, _: SocketAddr) {}
    fn disconnect(&mut self, _: Socket) {}
    fn send(&mut self, _: Socket, _: SocketAddr, _: &[u8]) {
        self.sent += 1;
    }
}

#[derive(Default)]
struct Events {
    all: u64,
    failed: u64,
    shown: u64,
}

impl EventSink for Events {
    fn push(&mut self, event: Event) {
        self.all += 1;
        self.failed += u64::from(matches!(event, Event::Failed { .. }));
    }

    fn show(&mut self, _: StreamIndex, view: &StreamView<'_>) {
        assert!(view.open);
        self.shown += 1;
    }
}

#[test]
fn packets_commands_and_timers_allocate_nothing() {
    const STREAMS: u64 = 600;
    let mut engine = Engine::new(Limits { streams_max: STREAMS as u32 });
    let (mut driver, mut events) = (Sink::default(), Events::default());
    let legs = [config(1), StreamConfig { mode: Mode::Echo, rtp_timeout_ms: 500, ..config(2) }];
    let (mut template, mut junk) = (rtp(8, 0, 0, 9), vec![0x80u8; 40]);
    let sources: [SocketAddr; 2] = [common::at("192.0.2.1:5000"), common::at("192.0.2.2:5000")];
    let before = ALLOCATIONS.with(Cell::get);

    let (mut now, mut generation, mut forwarded) = (Nanos(0), 0, 0);
    for round in 0..4u64 {
        for n in 0..STREAMS {
            let (id, config) = (StreamId(1 + round * STREAMS + n), &legs[(n % 2) as usize]);
            engine.apply(now, 1, &Command::CreateStream { id, config: config.clone() }, &mut driver, &mut events);
            if n % 4 == 2 {
                let other = StreamId(id.0 - 2);
                engine.apply(now, 1, &Command::CreateBridge { a: id, b: other }, &mut driver, &mut events);
            }
        }
        for sequence in 0..200u16 {
            now = now.plus_millis(20);
            template[2..4].copy_from_slice(&sequence.to_be_bytes());
            for n in 0..16u32 {
                let generation = Generation(generation + 1 + n);
                let socket = Socket { stream: StreamIndex(n), generation, component: Component::Rtp };
                let source = Some(sources[n as usize % 2]);
                template[1] = 8;
                let mut packet = Datagram::whole(&mut template);
                forwarded +=
                    u64::from(engine.receive(now, socket, source, &mut packet, &mut driver, &mut events).is_some());
                template[8..12].copy_from_slice(&9u32.to_be_bytes());
                let mut packet = Datagram::whole(&mut junk);
                assert_eq!(engine.receive(now, socket, source, &mut packet, &mut driver, &mut events), None);
            }
            engine.tick(now, &mut driver, &mut events);
            engine.for_each_dirty(|_, view| assert!(view.open));
        }
        now = now.plus_millis(20_000);
        engine.tick(now, &mut driver, &mut events);
        for n in 0..STREAMS {
            let id = StreamId(1 + round * STREAMS + n);
            engine.apply(now, 1, &Command::DestroyStream { id }, &mut driver, &mut events);
        }
        engine.for_each_dirty(|_, view| assert!(!view.open));
        generation += STREAMS as u32;
    }

    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert_eq!((events.failed, driver.sockets), (0, 0));
    assert!(forwarded > 200 * 16, "{forwarded}");
    assert!(driver.sent > 0 && events.all > STREAMS, "reports {}, events {}", driver.sent, events.all);
}

#[test]
fn protecting_and_new_keys_allocate_nothing() {
    let mut engine = Engine::new(Limits { streams_max: 4 });
    let (mut driver, mut events) = (Sink::default(), Events::default());
    let mut plain = [0u8; 220];
    plain[..172].copy_from_slice(&rtp(8, 0, 0, 9));
    let sources: [SocketAddr; 2] = [common::at("192.0.2.1:5000"), common::at("192.0.2.2:5000")];
    let (base, kernels) = ([config(1), config(2)], Kernels::detect());
    let keys = |suite: Suite, serial: u32| {
        let bytes: [u8; 46] = std::array::from_fn(|i| i as u8 ^ serial as u8);
        let bytes = &bytes[..suite.key_bytes() + suite.salt_bytes()];
        let key = MasterKey::new(serial, suite, bytes, Mki::default());
        (key.clone().unwrap(), Some(SrtpConfig { receive: key.clone(), send: key }))
    };
    let before = ALLOCATIONS.with(Cell::get);
    let (mut now, mut generation, mut forwarded) = (Nanos(0), 0, 0);
    for suite in Suite::ALL {
        let legs = [StreamId(1), StreamId(2)];
        for (leg, id) in legs.into_iter().enumerate() {
            let srtp = if leg == 0 { keys(suite, 1).1 } else { None };
            let config = StreamConfig { srtp, ..base[leg].clone() };
            engine.apply(now, 1, &Command::CreateStream { id, config }, &mut driver, &mut events);
        }
        engine.apply(now, 1, &Command::CreateBridge { a: legs[0], b: legs[1] }, &mut driver, &mut events);
        for serial in 1..4 {
            let (key, srtp) = keys(suite, serial);
            let config = StreamConfig { srtp, ..base[0].clone() };
            engine.apply(now, 1, &Command::UpdateStream { id: legs[0], config }, &mut driver, &mut events);
            let mut phone = Sender::new(kernels, &key);
            for turn in 0..50u16 {
                now = now.plus_millis(20);
                // Packets of both legs by turns, as many as are handled at once and one more than are hashed at once.
                let mut buffers = [plain; BATCH_MAX + 1];
                let mut packets: [Incoming<'_>; BATCH_MAX + 1] = Default::default();
                for (n, (buffer, incoming)) in (0u16..).zip(buffers.iter_mut().zip(&mut packets)) {
                    let leg = u32::from(n % 2);
                    buffer[2..4].copy_from_slice(&(1 + 1000 * serial as u16 + 17 * turn + n).to_be_bytes());
                    let mut packet = Datagram::new(buffer, 172);
                    if leg == 0 {
                        assert!(phone.protect_rtp(&mut packet).is_ok());
                    }
                    // Indices are as in a full table: the first free one, and so are generations.
                    let (stream, generation) = (StreamIndex(leg + generation % 4), Generation(generation + leg + 1));
                    let socket = Socket { stream, generation, component: Component::Rtp };
                    *incoming = Incoming::new(socket, Some(sources[leg as usize]), packet);
                }
                engine.receive_many(now, &mut packets, &mut driver, &mut events);
                forwarded += packets.iter().filter(|incoming| incoming.forward.is_some()).count();
            }
        }
        for id in legs {
            engine.apply(now, 1, &Command::DestroyStream { id }, &mut driver, &mut events);
        }
        engine.for_each_dirty(|_, view| assert!(!view.open));
        generation += 2;
    }
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
    assert_eq!((events.failed, forwarded), (0, 6 * 3 * 50 * (BATCH_MAX + 1)));
    assert!(events.shown > 6 * 3, "{}", events.shown);
}
