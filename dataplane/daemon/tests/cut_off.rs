//! Control is there and does nothing, as when it is stopped: its event ring fills, its commands wait, and media flows on
//! without a lost packet. Another control takes over and finds everything in order; the first one finds out.

mod common;

use common::{DEADLINE, Process, config, done, free_port, peer, record_when, rtp};
use nebula_ring::attach::Lost;
use nebula_ring::segment::Counter;
use nebula_ring::{Command, SendError, StreamConfig, StreamId};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// Phones that fall silent again and again, each time with a report.
const CHATTERERS: u64 = 32;
/// As the daemon makes its rings.
const EVENT_SLOTS: u64 = 1024;

struct Leg {
    phone: UdpSocket,
    port: u16,
}

impl Leg {
    fn new() -> Self {
        Self { phone: peer(), port: free_port() }
    }

    fn create(&self, id: u64, rtp_timeout_ms: u32) -> Command {
        let config = config(self.port, self.phone.local_addr().unwrap());
        Command::CreateStream { id: StreamId(id), config: StreamConfig { rtp_timeout_ms, ..config } }
    }

    fn send(&self, number: u32) {
        self.phone.send_to(&rtp(7, number), ("127.0.0.1", self.port)).unwrap();
    }

    fn expect(&self, number: u32) {
        let mut got = [0; 1500];
        assert_eq!(self.phone.recv(&mut got).unwrap(), 172);
        assert_eq!(got[2..4], (number as u16).to_be_bytes(), "in order, and none lost");
    }
}

/// A packet each way.
fn exchange(a: &Leg, b: &Leg, number: u32) {
    a.send(number);
    b.send(number);
    b.expect(number);
    a.expect(number);
}

#[test]
fn a_control_that_is_cut_off_costs_no_packet_and_wedges_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "64"]);
    let mut first = process.attach();
    let (a, b) = (Leg::new(), Leg::new());
    let worker = &mut first.workers()[0];
    done(worker, &a.create(1, 0));
    done(worker, &b.create(2, 0));
    done(worker, &Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
    let chatterers: Vec<Leg> = (0..CHATTERERS).map(|_| Leg::new()).collect();
    for (id, leg) in (100..).zip(&chatterers) {
        done(worker, &leg.create(id, 1));
    }

    // From here on the first control does nothing but be there: no event is taken.
    let started = Instant::now();
    let mut number = 0;
    while first.segment().counter(0, Counter::EventsDropped) < 64 {
        assert!(started.elapsed() < DEADLINE, "the event ring fills");
        chatterers.iter().for_each(|leg| leg.send(number));
        exchange(&a, &b, number);
        number += 1;
        std::thread::park_timeout(Duration::from_millis(2));
    }
    // Its commands wait for room for their answers, and then there is no room for commands either: at once, not after a while.
    let worker = &mut first.workers()[0];
    let mut sent = 0;
    let full = loop {
        match worker.send(1 + sent, &Command::DestroyBridge { a: StreamId(100), b: StreamId(101) }) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent <= 2 * EVENT_SLOTS, "the ring is full some time");
    };
    assert_eq!(full, SendError::Busy);
    for _ in 0..50 {
        exchange(&a, &b, number);
        number += 1;
    }

    // Another one takes over. Whatever the first one had asked for is carried out, and then its own commands are.
    let mut second = process.attach();
    let worker = &mut second.workers()[0];
    let asked = Instant::now();
    while worker.send(1 << 50, &Command::DestroyStream { id: StreamId(100) }) == Err(SendError::Busy) {
        assert!(asked.elapsed() < DEADLINE, "there is room again");
        while worker.receive().is_some() {}
        std::thread::park_timeout(Duration::from_millis(1));
    }
    for id in 101..100 + CHATTERERS {
        done(worker, &Command::DestroyStream { id: StreamId(id) });
    }
    assert!(asked.elapsed() < Duration::from_secs(3), "{:?}", asked.elapsed());
    assert_eq!(first.connection.lost(), Some(Lost::Superseded));
    let old = &mut first.workers()[0];
    assert_eq!(old.send(1, &Command::DestroyStream { id: StreamId(1) }), Err(SendError::Superseded));
    assert_eq!(old.receive(), None, "events are the second one's");

    for id in [1, 2] {
        let worker = &second.workers()[0];
        let record = record_when(worker, StreamId(id), |record| record.packets_in == u64::from(number));
        assert_eq!((record.packets_out, record.lost, record.drops().total()), (u64::from(number), 0, 0));
    }
    assert_eq!(second.workers()[0].table().iter().count(), 2, "one owner, and only what it wants");
}
