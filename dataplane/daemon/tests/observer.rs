//! An observer of the real process: it reads everything, takes nothing over, and sees what explains a silence.

mod common;

use common::{DEADLINE, Process, config, done, free_port, peer, record_when, rtp};
use nebula_ring::attach::observe;
use nebula_ring::segment::Counter;
use nebula_ring::table::{FLAG_LATCHED, FLAG_RECEIVE, FLAG_SEND};
use nebula_ring::{Command, DropReason, StreamId};
use std::time::Instant;

#[test]
fn an_observer_reads_streams_and_figures_and_takes_nothing_over() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "8"]);
    let before_control = observe(&process.socket).unwrap();
    assert_eq!((before_control.epoch(), before_control.pid()), (0, process.child.id()));

    let mut control = process.attach();
    let (phone, local) = (peer(), free_port());
    let create = Command::CreateStream { id: StreamId(1), config: config(local, phone.local_addr().unwrap()) };
    done(&mut control.workers()[0], &create);
    let observed = observe(&process.socket).unwrap();
    assert_eq!((observed.epoch(), control.connection.lost()), (1, None), "control keeps its rings");
    done(
        &mut control.workers()[0],
        &Command::CreateStream { id: StreamId(2), config: config(free_port(), phone.local_addr().unwrap()) },
    );
    assert_eq!(observed.streams(0).map(|it| it.id).collect::<Vec<_>>(), [1, 2]);

    // Figures of a second that a packet fell into.
    phone.send_to(&rtp(7, 1), ("127.0.0.1", local)).unwrap();
    let start = Instant::now();
    let counter = |counter| observed.counter(0, counter);
    while counter(Counter::QueueDepthMax) == 0 {
        assert!(start.elapsed() < DEADLINE, "nothing was published");
        std::thread::yield_now();
    }
    assert!(counter(Counter::CpuNanos) > 0 && counter(Counter::TurnNanos) > 0 && counter(Counter::TurnNanosMax) > 0);
    assert!(
        counter(Counter::Ticks) > 0 && counter(Counter::TurnNanos) < start.elapsed().as_nanos() as u64 + 60_000_000_000
    );
}

#[test]
fn a_record_says_what_was_refused_and_whom_nobody_reaches() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "8"]);
    let mut control = process.attach();
    let worker = &mut control.workers()[0];
    let (phone, stranger, local) = (peer(), peer(), free_port());
    let create = Command::CreateStream { id: StreamId(1), config: config(local, phone.local_addr().unwrap()) };
    done(worker, &create);
    let own = ("127.0.0.1", local);

    stranger.send_to(&rtp(9, 1), own).unwrap();
    let mut foreign_codec = rtp(7, 1);
    foreign_codec[1] = 111;
    phone.send_to(&foreign_codec, own).unwrap();
    phone.send_to(&rtp(7, 2), own).unwrap();
    let record = record_when(worker, StreamId(1), |it| it.is(FLAG_LATCHED) && it.packets_in == 1);
    assert_eq!(record.refused_source(), Some(stranger.local_addr().unwrap()));
    assert_eq!((record.payload_type_refused, record.drops().get(DropReason::UnknownPayloadType)), (111, 1));
    assert_eq!((record.payload_type_in, record.clock_rate_in_hz), (0, 8000));
    assert!(record.is(FLAG_SEND) && record.is(FLAG_RECEIVE) && record.unreachable == 0);

    // A bridge sends to the phone, whose port is closed: the kernel tells us, and the record says so.
    let (other, other_local) = (peer(), free_port());
    done(worker, &Command::CreateStream { id: StreamId(2), config: config(other_local, other.local_addr().unwrap()) });
    done(worker, &Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
    drop(phone);
    let start = Instant::now();
    for number in 1.. {
        other.send_to(&rtp(8, number), ("127.0.0.1", other_local)).unwrap();
        let record = worker.table().find(StreamId(1)).unwrap();
        if record.unreachable > 0 {
            assert!(record.unreachable_at_ms > 0);
            break;
        }
        assert!(start.elapsed() < DEADLINE, "{record:?}");
        std::thread::yield_now();
    }
}
