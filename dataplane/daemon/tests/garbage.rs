//! A control that has gone mad scribbles over its rings, over their indices and over what lies in them: the dataplane lives, and
//! no call but the one that a well-formed command names is touched.

mod common;

use common::{Process, config, done, free_port, peer, record_when, rtp};
use nebula_ring::segment::Counter;
use nebula_ring::{Command, Mode, SendError, StreamConfig, StreamId};
use std::fs::File;
use std::net::UdpSocket;
use std::os::unix::fs::FileExt;

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);
const ROUNDS: u64 = 3_000;
/// The segment as the daemon makes it with one worker: a page of header, then the worker's words (heartbeat, four indices each
/// on lines of its own, counters), then its rings of 1,024 slots of 256 bytes each.
const WORKER: u64 = 4096;
const INDICES: [u64; 4] = [16 * 8, 32 * 8, 48 * 8, 64 * 8];
const RINGS: u64 = WORKER + 128 * 8;
const RINGS_BYTES: u64 = 2 * 1024 * 256;

/// The segment's file, as the dataplane itself has it open.
fn segment_of(pid: u32) -> File {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let is_segment = |path: &std::path::PathBuf| {
        std::fs::read_link(path).is_ok_and(|to| to.to_string_lossy().starts_with("/memfd:"))
    };
    let path = fds.map(|entry| entry.unwrap().path()).find(is_segment).expect("a memfd");
    File::options().read(true).write(true).open(path).unwrap()
}

fn next(random: &mut u64) -> u64 {
    *random ^= *random << 13;
    *random ^= *random >> 7;
    *random ^= *random << 17;
    *random
}

/// Any words anywhere in both rings, their indices included.
fn scribble(segment: &File, random: &mut u64) {
    for _ in 0..1 + next(random) % 8 {
        let word = match next(random) % 4 {
            0 => next(random),
            1 => next(random) % 4096,
            2 => u64::MAX - next(random) % 4,
            _ => 1 << (next(random) % 64),
        };
        let at = match next(random) % 3 {
            0 => WORKER + INDICES[(next(random) % 4) as usize],
            _ => RINGS + next(random) % (RINGS_BYTES / 8) * 8,
        };
        segment.write_all_at(&word.to_ne_bytes(), at).unwrap();
    }
}

/// A command that parses and makes little sense, for streams that are nobody's.
fn nonsense(random: &mut u64) -> Command {
    let id = StreamId(1_000 + next(random) % 50);
    let port = next(random) as u16;
    let sane = config(port, ([127, 0, 0, 1], next(random) as u16).into());
    let config = StreamConfig {
        rtcp_port: port.wrapping_mul(next(random) as u16 % 3),
        local_ip: if next(random).is_multiple_of(4) { [224, 0, 0, 1].into() } else { sane.local_ip },
        mode: if next(random).is_multiple_of(2) { Mode::Echo } else { Mode::Bridge },
        nat_expected: next(random).is_multiple_of(2),
        learning_window_ms: next(random) as u32,
        rtp_timeout_ms: next(random) as u32 % 50,
        ssrc: next(random) as u32,
        ..sane
    };
    match next(random) % 5 {
        0 => Command::UpdateStream { id, config },
        1 => Command::DestroyStream { id },
        2 => Command::CreateBridge { a: id, b: StreamId(1_000 + next(random) % 50) },
        3 => Command::DestroyBridge { a: id, b: StreamId(1_000 + next(random) % 50) },
        _ => Command::CreateStream { id, config },
    }
}

#[test]
fn a_mad_control_neither_ends_the_dataplane_nor_reaches_other_streams() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &["--streams-max", "64"]);
    let mut sane = process.attach();
    let phones: [(UdpSocket, u16); 2] = [(peer(), free_port()), (peer(), free_port())];
    let worker = &mut sane.workers()[0];
    for (id, (phone, port)) in [A, B].into_iter().zip(&phones) {
        done(worker, &Command::CreateStream { id, config: config(*port, phone.local_addr().unwrap()) });
    }
    done(worker, &Command::CreateBridge { a: A, b: B });
    drop(sane);
    process.wait_for_line("detached");

    let segment = segment_of(process.child.id());
    let mut random = 0x2545_f491_4f6c_dd1d;
    println!("the seed is {random:#x}");
    let mut mad = process.attach();
    let mut sent = 0u32;
    for round in 0..ROUNDS {
        scribble(&segment, &mut random);
        // Now and then nothing well-formed comes after it, and the garbage is what the worker finds.
        if round % 4 > 0 {
            match mad.workers()[0].send(next(&mut random), &nonsense(&mut random)) {
                Ok(()) | Err(SendError::Busy) => {}
                Err(error) => panic!("{error}"),
            }
        }
        // Its own events are garbage, too; reading them must not be worse than that.
        while mad.workers()[0].receive().is_some() {}
        for (from, to) in [(0, 1), (1, 0)] {
            phones[from].0.send_to(&rtp(7, sent), ("127.0.0.1", phones[from].1)).unwrap();
            let mut got = [0; 200];
            let len = phones[to].0.recv(&mut got).unwrap_or_else(|error| panic!("round {round}: {error}"));
            assert_eq!(
                (len, &got[2..4]),
                (172, &(sent as u16).to_be_bytes()[..]),
                "round {round}: none lost, none else's"
            );
        }
        sent += 1;
    }
    drop(mad);
    process.wait_for_line("detached");
    assert_eq!(process.child.try_wait().unwrap(), None, "it lives");

    let mut successor = process.attach();
    let counters = successor.segment().clone();
    let worker = &mut successor.workers()[0];
    for (id, (phone, _)) in [A, B].into_iter().zip(&phones) {
        let record = record_when(worker, id, |it| [it.packets_in, it.packets_out] == [u64::from(sent); 2]);
        assert_eq!((record.drops().total(), record.lost), (0, 0));
        assert_eq!(record.remote_rtp(), Some(phone.local_addr().unwrap()));
    }
    assert!(counters.counter(0, Counter::CommandResyncs) > 0, "the garbage was seen");
    [A, B].into_iter().for_each(|id| done(worker, &Command::DestroyStream { id }));
}
