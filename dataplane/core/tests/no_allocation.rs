//! After `Engine::new` nothing allocates: packets, commands, timers, table. A counting allocator holds it.
#![allow(unsafe_code, reason = "a global allocator is an unsafe trait")]

mod common;
use common::{config, rtp};
use nebula_core::driver::{Component, Driver, Generation, OpenError, Socket, StreamIndex};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::time::Nanos;
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};
use nebula_ring::event::Event;
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
    forwarded: u64,
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
    fn forward(&mut self, _: Socket, _: SocketAddr) {
        self.forwarded += 1;
    }
    fn send(&mut self, _: Socket, _: SocketAddr, _: &[u8]) {
        self.sent += 1;
    }
}

#[derive(Default)]
struct Events {
    all: u64,
    failed: u64,
}

impl EventSink for Events {
    fn push(&mut self, event: Event) {
        self.all += 1;
        self.failed += u64::from(matches!(event, Event::Failed { .. }));
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

    let mut now = Nanos(0);
    let mut generation = 0;
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
                engine.receive(now, socket, source, &mut template, &mut driver, &mut events);
                template[8..12].copy_from_slice(&9u32.to_be_bytes());
                engine.receive(now, socket, source, &mut junk, &mut driver, &mut events);
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
    assert!(driver.forwarded > 200 * 16, "{}", driver.forwarded);
    assert!(driver.sent > 0 && events.all > STREAMS, "reports {}, events {}", driver.sent, events.all);
}
