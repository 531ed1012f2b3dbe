//! The process has no file descriptor left: new streams are refused by name, living ones and the attached control notice
//! nothing, nothing spins, and what becomes free is used again.

mod common;

use common::{DEADLINE, Process, call, config, done, free_port, peer, record_when, rtp};
use nebula_ring::segment::Counter;
use nebula_ring::{Attached, Command, Dataplane, Event, Reason, StreamConfig, StreamId, WorkerHandle};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

/// A phone and its stream, with a port of its own for RTCP.
struct Leg {
    phone: UdpSocket,
    port: u16,
    id: StreamId,
}

impl Leg {
    fn create(&self) -> Command {
        let config = config(self.port, self.phone.local_addr().unwrap());
        Command::CreateStream { id: self.id, config: StreamConfig { rtcp_port: free_port(), ..config } }
    }

    fn create_muxed(&self) -> Command {
        Command::CreateStream { id: self.id, config: config(self.port, self.phone.local_addr().unwrap()) }
    }
}

/// Makes streams until there is no descriptor left: of two sockets each, and at last perhaps one of a single socket.
fn fill(worker: &mut WorkerHandle) -> Vec<Leg> {
    let mut legs = Vec::new();
    let mut refused = 0;
    while refused < 2 {
        let leg = Leg { phone: peer(), port: free_port(), id: StreamId(legs.len() as u64 + 1) };
        let create = if refused == 0 { leg.create() } else { leg.create_muxed() };
        match call(worker, &create, &mut Vec::new()) {
            Event::Done { .. } => legs.push(leg),
            Event::Failed { reason: Reason::NoFileDescriptor, .. } => refused += 1,
            // Somebody took the port in between.
            Event::Failed { reason: Reason::PortInUse, .. } => {}
            other => panic!("{other:?}"),
        }
    }
    legs
}

/// Clock ticks of CPU that a process has used.
fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[test]
fn without_descriptors_new_streams_are_refused_and_old_ones_flow() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start_with_files(folder.path(), 40, &["--streams-max", "20"]);
    let mut control = process.attach();
    let legs = fill(&mut control.workers()[0]);
    let worker = &mut control.workers()[0];
    assert!((4..20).contains(&legs.len()), "{} streams", legs.len());
    done(worker, &Command::CreateBridge { a: legs[0].id, b: legs[1].id });

    // Another control wants to attach, and cannot be accepted: it waits, and nobody spins over it.
    let path = process.socket.clone();
    let waiting = std::thread::spawn(move || {
        loop {
            match Dataplane::attach(&path) {
                Ok(attached) => return attached,
                Err(nebula_ring::attach::Error::NotADataplane) => {}
                Err(error) => panic!("{error}"),
            }
        }
    });
    let (turns, ticks) = (control.segment().counter(0, Counter::Turns), cpu_ticks(process.child.id()));
    let started = Instant::now();
    let mut number = 0;
    while started.elapsed() < Duration::from_millis(600) {
        let (a, b) = (&legs[0], &legs[1]);
        a.phone.send_to(&rtp(0xaaaa, number), ("127.0.0.1", a.port)).unwrap();
        let mut got = [0; 1500];
        assert_eq!(b.phone.recv(&mut got).unwrap(), 172);
        assert_eq!(got[2..4], (number as u16).to_be_bytes());
        number += 1;
        std::thread::park_timeout(Duration::from_millis(10));
    }
    let turns = control.segment().counter(0, Counter::Turns) - turns;
    let ticks = cpu_ticks(process.child.id()) - ticks;
    assert!(turns < u64::from(number) * 6 + 60, "{turns} turns for {number} packets");
    assert!(ticks < 20, "{ticks} ticks of 10 ms in 600 ms");
    let worker = &mut control.workers()[0];
    record_when(worker, legs[0].id, |record| record.packets_in == u64::from(number) && record.lost == 0);

    // One call ends: its descriptors are there for the next, and for the control that waits.
    assert!(!waiting.is_finished());
    for leg in &legs[2..4] {
        done(&mut control.workers()[0], &Command::DestroyStream { id: leg.id });
    }
    let mut next: Attached = waiting.join().unwrap();
    assert_eq!(next.epoch(), 2);
    done(&mut next.workers()[0], &legs[2].create());
    process.signal(rustix::process::Signal::TERM);
    let started = Instant::now();
    process.wait();
    assert!(started.elapsed() < DEADLINE);
}
