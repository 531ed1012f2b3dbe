//! Receive buffers in huge pages, where the host has some: the log says so, the kernel agrees, and media flow through them. Where
//! there are none, the same dataplane starts with ordinary pages.
//!
//! Pages are reserved for the test if it may do that, and given back whatever happens.

mod common;

use common::{Process, config, done, free_port, peer, rtp};
use nebula_ring::{Command, StreamId};
use std::path::Path;

const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
const FREE: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
const SURPLUS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/surplus_hugepages";
/// One is enough for 1,024 buffers of 1,536 bytes. Other dataplanes of this host take theirs, too.
const WANTED: u64 = 8;

fn number(path: &str) -> Option<u64> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Pages of ours beside those that were there.
struct Reserved {
    before: u64,
}

impl Reserved {
    /// None with the reason, if there can be none.
    fn take() -> Result<Self, String> {
        let before = number(PAGES).ok_or_else(|| format!("{PAGES}: no such file"))?;
        let reserved = Self { before };
        std::fs::write(PAGES, (before + WANTED).to_string()).map_err(|error| format!("{PAGES}: {error}"))?;
        match number(FREE) {
            Some(free) if free > WANTED / 2 => Ok(reserved),
            free => Err(format!("{free:?} of {WANTED} huge pages: the host's memory is in pieces")),
        }
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Not allowed: then none was reserved.
        let _ = std::fs::write(PAGES, self.before.to_string());
    }
}

/// KiB of its mappings that are in huge pages.
fn huge_kib(process: &Process) -> u64 {
    let path = format!("/proc/{}/smaps", process.child.id());
    let text = std::fs::read_to_string(&path).unwrap();
    let huge = |line| str::strip_prefix(line, "Private_Hugetlb:").or(str::strip_prefix(line, "Shared_Hugetlb:"));
    text.lines().filter_map(huge).map(|value| value.trim().trim_end_matches("kB").trim().parse::<u64>().unwrap()).sum()
}

/// Relays a hundred packets, through the buffers over and over: each is one of 64.
fn relay(process: &Process) {
    let mut control = process.attach();
    let phones = [(peer(), free_port()), (peer(), free_port())];
    let worker = &mut control.workers()[0];
    for (id, (phone, port)) in [StreamId(1), StreamId(2)].into_iter().zip(&phones) {
        done(worker, &Command::CreateStream { id, config: config(*port, phone.local_addr().unwrap()) });
    }
    done(worker, &Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
    for number in 0..100 {
        let said = rtp(7, number);
        phones[0].0.send_to(&said, ("127.0.0.1", phones[0].1)).unwrap();
        let mut heard = [0; 200];
        assert_eq!(phones[1].0.recv(&mut heard).unwrap(), said.len());
        assert_eq!(heard[..said.len()], said);
    }
}

fn start(folder: &Path) -> (Process, String) {
    let mut process = Process::spawn(folder, &["--streams-max", "8"]);
    let line = process.wait_for_line("buffers");
    process.wait_for_line("started");
    (process, line)
}

#[test]
fn buffers_are_in_huge_pages_where_there_are_some() {
    let folder = tempfile::tempdir().unwrap();
    let reserved = match Reserved::take() {
        Ok(reserved) => reserved,
        Err(why) => {
            eprintln!("left out: {why}");
            let (process, _) = start(folder.path());
            return relay(&process);
        }
    };
    let (process, line) = start(folder.path());
    assert!(line.contains("huge_pages=true"), "{line}");
    relay(&process);
    assert!(huge_kib(&process) >= 1024 * 1536 / 1024, "{} KiB: {line}", huge_kib(&process));
    drop(process);

    // The same without any.
    let before = reserved.before;
    drop(reserved);
    // A page that is still in use, by a ring that is being torn down or by somebody else, goes when it is free.
    let kept = number(PAGES).unwrap() - number(SURPLUS).unwrap();
    assert_eq!(kept, before, "the host is as it was");
    if before == 0 {
        let (process, line) = start(folder.path());
        assert!(line.contains("huge_pages=false"), "{line}");
        relay(&process);
        assert_eq!(huge_kib(&process), 0);
    }
}
