//! What a host runs out of, or gets wrong: disk, clock, file descriptors.

use super::super::hold::Hold;
use super::super::trial::{HEALED, Trial, unix_ms};
use super::super::{Form, Seen};
use super::{RECORDS_DEADLINE, tell_log};
use crate::process::favour;
use crate::system::System;
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A file system of its own that can be filled. Needs root.
struct SmallDisk(TempDir);

/// Room for a state folder at its beginning, and some minutes.
const DISK_BYTES: &str = "64m";

impl SmallDisk {
    fn mount() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = format!("size={DISK_BYTES}");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()), "a tmpfs can only be mounted by root");
        Self(folder)
    }

    /// Writes until there is no room left.
    fn fill(&self) -> PathBuf {
        let path = self.0.path().join("filler");
        let mut file = std::fs::File::create(&path).expect("a file");
        let mut block = vec![0; 65_536];
        while !block.is_empty() {
            if file.write_all(&block).is_err() {
                block.truncate(block.len() / 2);
            }
        }
        path
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a dataplane that was killed a moment ago may still hold its log.
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

/// No room for the database nor for a spool.
pub fn disk_full(form: &Form, seen: &mut Seen) {
    let disk = SmallDisk::mount();
    let state = tempfile::tempdir_in(disk.0.path()).expect("a folder");
    let system = System::start_in(state, &[]);
    favour(system.dataplane_pid());
    let mut trial = Trial::begin(form, &[system.sip()], seen);
    for _ in 0..form.rounds {
        trial.mark();
        let before = held_back(&system);
        let filler = disk.fill();
        let began = Instant::now();
        trial.hang_up(5);
        trial.try_dialogs(unix_ms(), HEALED);
        // The database goes on for a while in what it has of the disk.
        let mut waiting = Vec::new();
        for _ in 0..TRICKLES_MAX {
            let trickle = trial.trickle(10, 10);
            let outcomes = trial.settle(trickle);
            trial.note_codes("while the disk was full", &outcomes);
            waiting = held_back(&system).into_iter().filter(|line| !before.contains(line)).collect();
            if !waiting.is_empty() {
                break;
            }
        }
        trial.seen.expect(!waiting.is_empty(), || "no metric says that writes wait".to_owned());
        trial.seen.note(format!("while the disk was full: {}", waiting.join(", ")));
        std::thread::sleep(form.outage(10, 3).saturating_sub(began.elapsed()));
        std::fs::remove_file(filler).expect("removed");
        trial.try_dialogs(unix_ms(), HEALED);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    let sound = integrity(&system.state().join("nebula.db"));
    seen.expect(sound == "ok", || format!("the database is damaged: {sound}"));
    tell_log(seen, || system.log());
}

/// How often calls are placed until the disk is felt.
const TRICKLES_MAX: usize = 10;

/// The metrics about writes that wait, or had to, those above zero.
fn held_back(system: &System) -> Vec<String> {
    let text = system.get_text("proxy", "/metrics");
    let lines = text.lines().filter(|line| line.contains("spool") && !line.starts_with('#'));
    lines.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

fn integrity(database: &Path) -> String {
    let output = Command::new("sqlite3").arg(database).arg("pragma integrity_check").output();
    let output = output.expect("sqlite3; `make test` installs it");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// How long a phone rings in the scenario of the clock, seconds.
const NO_ANSWER_S: u64 = 6;

/// Wall time jumps by an hour, and back; the time that runs inside doesn't.
pub fn clock_set(form: &Form, seen: &mut Seen) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let control = folder.path().join("clock");
    let set = |offset: &str| std::fs::write(&control, offset).expect("written");
    set("+0");
    let (library, control_text) = (faketime(), control.display().to_string());
    let no_answer = NO_ANSWER_S.to_string();
    let environment = [
        ("LD_PRELOAD", library.to_str().expect("text")),
        ("FAKETIME_TIMESTAMP_FILE", &control_text),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
        ("NEBULA__CALLS__NO_ANSWER_TIMEOUT_S", &no_answer),
    ];
    let system = System::start_with(&environment);
    favour(system.dataplane_pid());
    let mut trial = Trial::begin(form, &[system.sip()], seen);
    let mut ringing = Hold::start(&[system.sip()], &["--from", "1002", "--to", "1003", "--ring-ms", "60000"]);
    for round in 0..form.rounds.max(2) {
        let offset = ["+3600", "-3600"][round % 2];
        trial.mark();
        let rings = ringing.begin("place 1 10");
        std::thread::sleep(Duration::from_millis(300) + trial.dice.pause(1_000));
        set(offset);
        let set_at = unix_ms();
        trial.try_dialogs(set_at, HEALED);
        let trickle = trial.trickle(5, 10);
        let outcomes = trial.settle(trickle);
        trial.note_codes(&format!("with the clock set {offset} s"), &outcomes);
        let answered = outcomes.iter().filter(|(code, _)| *code == 200).count();
        trial.seen.expect(answered == outcomes.len(), || format!("{answered} of {} new calls worked", outcomes.len()));
        ringing.done(rings, Duration::from_secs(30));
        let rang = ringing.events("call").pop().unwrap_or_default();
        let rang_ms = rang["outcome"]["final_unix_ms"].as_f64().unwrap_or(0.0)
            - rang["outcome"]["sent_unix_ms"].as_f64().unwrap_or(0.0);
        let wanted_ms = NO_ANSWER_S as f64 * 1e3;
        trial.seen.expect((wanted_ms - 100.0..wanted_ms + 1_000.0).contains(&rang_ms), || {
            format!("a phone rang for {rang_ms:.0} ms instead of {wanted_ms:.0}: {rang}")
        });
        trial.seen.note(format!("clock {offset} s: a timer of {wanted_ms:.0} ms fired after {rang_ms:.0} ms"));
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        // What is recorded from here on is held against the phones' own clock.
        set("+0");
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish_by_durations(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
}

fn faketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib").flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|path| path.exists());
    found.expect("libfaketime; `make test` installs it")
}

/// CPU of a process that waits for descriptors: more is a busy loop.
const BUSY: f64 = 0.3;

/// Neither control nor dataplane may open another file.
pub fn descriptors_exhausted(form: &Form, seen: &mut Seen) {
    let system = System::start();
    favour(system.dataplane_pid());
    let mut trial = Trial::begin(form, &[system.sip()], seen);
    for _ in 0..form.rounds {
        trial.mark();
        let (control, dataplane) = (system.pid(), system.dataplane_pid());
        let limits = [control, dataplane].map(|pid| (pid, limit_to_open(pid)));
        // More than its backlog of connections wait at its door all the time.
        let knocks: Vec<_> = (0..20).filter_map(|_| TcpStream::connect(system.sip()).ok()).collect();
        let (before, since) = ((cpu_s(control), cpu_s(dataplane)), Instant::now());
        let trickle = trial.trickle(10, 10);
        let outcomes = trial.settle(trickle);
        trial.note_codes("without descriptors", &outcomes);
        let refused = outcomes.iter().filter(|(code, _)| *code == 503).count();
        trial.seen.expect(refused == outcomes.len(), || format!("{refused} of {} new calls got 503", outcomes.len()));
        let told = outcomes.iter().filter(|(_, outcome)| !outcome["retry_after_s"].is_null()).count();
        trial
            .seen
            .expect(told == outcomes.len(), || format!("{told} of {} were told when to try again", outcomes.len()));
        std::thread::sleep(form.outage(10, 3).saturating_sub(since.elapsed()));
        let busy = (cpu_s(control) - before.0) / since.elapsed().as_secs_f64();
        trial.seen.note(format!("CPU of control meanwhile {:.0} % of a core", busy * 100.0));
        trial.seen.expect(busy < BUSY, || format!("control was busy with {:.0} % of a core", busy * 100.0));
        for (pid, limit) in limits {
            prlimit(Pid::from_raw(pid), Resource::Nofile, limit).expect("the limit of before");
        }
        drop(knocks);
        trial.try_dialogs(unix_ms(), HEALED);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
}

/// No more files than it has open; the limit of before.
fn limit_to_open(pid: i32) -> Rlimit {
    let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let taken: std::collections::HashSet<u64> = open.filter_map(|fd| fd.file_name().to_str()?.parse().ok()).collect();
    let lowest_free = (0..).find(|fd| !taken.contains(fd)).expect("numbers don't end");
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("its limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    let hard = line.split_whitespace().nth(4).and_then(|number| number.parse().ok());
    // What is open above it stays open; whatever is opened would have to be numbered below it.
    let tight = Rlimit { current: Some(lowest_free), maximum: hard };
    prlimit(Pid::from_raw(pid), Resource::Nofile, tight).expect("a lower limit")
}

/// The unit of CPU times in `/proc`, a second's parts: the same on every Linux.
const USER_HZ: f64 = 100.0;

/// CPU time of a process, seconds.
fn cpu_s(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    (ticks(11) + ticks(12)) / USER_HZ
}
