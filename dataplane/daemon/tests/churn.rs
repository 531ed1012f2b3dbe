//! Ten thousand streams come and go: resident memory and open files stay where they were.

mod common;

use common::{Process, config, done, free_port, peer, rtp};
use nebula_ring::{Command, StreamId, WorkerHandle};
use std::net::SocketAddr;

const STREAMS: u64 = 10_000;
/// What may be left of noise: a few pages of stack and libraries that are touched late.
const GROWTH_KIB_MAX: u64 = 256;

/// VmRSS in KiB.
fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn memory_stays_flat_under_churn() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "32"]);
    let mut control = process.attach();
    let worker: &mut WorkerHandle = &mut control.workers()[0];
    let (phone, ports) = (peer(), [free_port(), free_port()]);
    let remote = phone.local_addr().unwrap();
    let mut call = |ids: [u64; 2]| {
        let ids = ids.map(StreamId);
        for (id, port) in ids.into_iter().zip(ports) {
            done(worker, &Command::CreateStream { id, config: config(port, remote) });
        }
        done(worker, &Command::CreateBridge { a: ids[0], b: ids[1] });
        phone.send_to(&rtp(7, ids[0].0 as u32), SocketAddr::from(([127, 0, 0, 1], ports[0]))).unwrap();
        let mut got = [0; 200];
        assert_eq!(phone.recv(&mut got).unwrap(), 172);
        ids.into_iter().for_each(|id| done(worker, &Command::DestroyStream { id }));
    };
    let pid = process.child.id();
    // Every place of the table, every buffer, every slot of the rings is touched once.
    (0..1_100).for_each(|n| call([2 * n + 1, 2 * n + 2]));
    let (before, files) = (resident_kib(pid), open_files(pid));
    (2_000..2_000 + STREAMS / 2).for_each(|n| call([2 * n + 1, 2 * n + 2]));
    let after = resident_kib(pid);
    println!("resident: {before} KiB before, {after} KiB after {STREAMS} streams");
    assert!(after <= before + GROWTH_KIB_MAX, "{before} KiB before, {after} KiB after");
    assert_eq!(open_files(pid), files);
}
