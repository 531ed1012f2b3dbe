//! A worker says that it has more to do than it should, and that it has no longer; what it has it goes on with. The threshold is
//! set so low that a call of some packets is too much.

mod common;

use common::{DEADLINE, Process, config, done, free_port, peer, record_when, rtp};
use nebula_ring::segment::Counter;
use nebula_ring::{Command, Event, StreamId, WorkerHandle};
use std::net::UdpSocket;
use std::time::Instant;

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);

/// Looks for a change of load among what has come.
fn load(worker: &mut WorkerHandle) -> Option<bool> {
    std::iter::from_fn(|| worker.receive()).find_map(|event| match event {
        Event::Overload { on } => Some(on),
        _ => None,
    })
}

#[test]
fn too_much_is_told_before_it_hurts_and_so_is_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let lenient = ["--overload-lateness-us", "10000000", "--overload-cpu-permille", "5", "--streams-max", "8"];
    let process = Process::start(folder.path(), &lenient);
    let mut control = process.attach();
    let phones: [(UdpSocket, u16); 2] = [(peer(), free_port()), (peer(), free_port())];
    let worker = &mut control.workers()[0];
    for (id, (phone, port)) in [A, B].into_iter().zip(&phones) {
        done(worker, &Command::CreateStream { id, config: config(*port, phone.local_addr().unwrap()) });
    }
    done(worker, &Command::CreateBridge { a: A, b: B });
    let start = Instant::now();
    let mut number = 0;
    loop {
        phones[0].0.send_to(&rtp(7, number), ("127.0.0.1", phones[0].1)).unwrap();
        let mut got = [0; 200];
        assert_eq!(phones[1].0.recv(&mut got).unwrap(), 172, "media flows on, whatever the load");
        assert_eq!(got[2..4], (number as u16).to_be_bytes());
        number += 1;
        match load(worker) {
            Some(on) => break assert!(on),
            None => assert!(start.elapsed() < DEADLINE, "no word of the load after {number} packets"),
        }
    }
    assert_eq!(control.segment().counter(0, Counter::Overloaded), 1, "who comes later sees it, too");
    let worker = &mut control.workers()[0];
    let record = record_when(worker, B, |record| record.packets_out == u64::from(number));
    assert_eq!(record.drops().total(), 0);
    let calm = loop {
        common::wait_readable(worker);
        if let Some(on) = load(worker) {
            break on;
        }
        assert!(start.elapsed() < 2 * DEADLINE);
    };
    assert!(!calm);
    assert_eq!(control.segment().counter(0, Counter::Overloaded), 0);
}
