//! After start-up nothing allocates: streams are made, bridged, relayed, published and destroyed under an allocator that
//! counts what this thread asks of it.
#![allow(unsafe_code)]

mod counting;

use counting::allocations;
use nebula_core::driver::StreamIndex;
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_io::uring::{Options, Uring};
use nebula_ring::command::{PayloadType, PayloadTypes};
use nebula_ring::{Command, Event, Mode, StreamConfig, StreamId};
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

#[derive(Default)]
struct Events {
    done: u32,
    up: u32,
}

impl EventSink for Events {
    fn push(&mut self, event: Event) {
        match event {
            Event::Done { .. } => self.done += 1,
            Event::StreamUp { .. } => self.up += 1,
            other => panic!("{other:?}"),
        }
    }

    fn show(&mut self, _: StreamIndex, _: &StreamView<'_>) {
        panic!("nothing is protected here");
    }
}

fn config(rtp_port: u16, remote: SocketAddr) -> StreamConfig {
    StreamConfig {
        local_ip: [127, 0, 0, 1].into(),
        rtp_port,
        rtcp_port: rtp_port,
        remote_rtp: Some(remote),
        remote_rtcp: Some(remote),
        nat_expected: false,
        learning_window_ms: 0,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Bridge,
        rtp_timeout_ms: 10_000,
        ssrc: 1,
        srtp: None,
        payload_types: PayloadTypes::from_iter([PayloadType { number: 0, forward_as: 0, clock_rate_hz: 8000 }]),
    }
}

#[test]
fn the_allocator_counts() {
    assert_eq!(allocations(|| drop(std::hint::black_box(Box::new(1)))), 1);
}

#[test]
fn nothing_allocates_after_start() {
    let wakeup = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let options = Options { streams_max: 4, buffers: 64, socket_buffer_bytes: None };
    let (mut driver, mut engine) = (Uring::new(options, wakeup).unwrap(), Engine::new(Limits { streams_max: 4 }));
    let phones = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap());
    let ports = [(); 2].map(|()| UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
    let mut events = Events::default();
    let mut published = 0;
    let counted = allocations(|| {
        for round in 0..10u16 {
            let ids = [1, 2].map(|leg| StreamId(u64::from(round) * 2 + leg));
            let now = |step: u16| Nanos::from_millis(u64::from(round) * 1_000 + u64::from(step));
            let apply = |driver: &mut Uring, engine: &mut Engine, events: &mut Events, command: Command| {
                engine.apply(now(0), 1, &command, driver, events);
            };
            for leg in 0..2 {
                let config = config(ports[leg].port(), phones[leg].local_addr().unwrap());
                apply(&mut driver, &mut engine, &mut events, Command::CreateStream { id: ids[leg], config });
            }
            apply(&mut driver, &mut engine, &mut events, Command::CreateBridge { a: ids[0], b: ids[1] });
            for sequence in 0..100u16 {
                let mut packet = [0; 172];
                packet[..2].copy_from_slice(&[0x80, 0]);
                packet[2..4].copy_from_slice(&sequence.to_be_bytes());
                phones[0].send_to(&packet, ports[0]).unwrap();
                phones[1].send_to(&packet, ports[1]).unwrap();
                driver.wait(Some(Duration::from_millis(20)), None).unwrap();
                driver.receive(|driver, packets| {
                    engine.receive_many(now(sequence), packets, driver, &mut events);
                });
                engine.tick(now(sequence), &mut driver, &mut events);
                engine.for_each_dirty(|_, _| published += 1);
            }
            for id in ids {
                apply(&mut driver, &mut engine, &mut events, Command::DestroyStream { id });
            }
        }
    });
    assert_eq!((events.done, events.up), (50, 20));
    assert!(driver.counters().sent > 1_500 && published > 1_000, "{driver:?}, {published}");
    assert_eq!(counted, 0);
}
