//! A dataplane process in a folder of its own, and a control that waits for its answers.
#![allow(dead_code, reason = "each test file uses its part")]

use nebula_ring::command::{PayloadType, PayloadTypes};
use nebula_ring::{Attached, Command, Dataplane, Event, Mode, StreamConfig, StreamId, StreamRecord, WorkerHandle};
use rustix::event::{PollFd, PollFlags, poll};
use std::io::{BufRead, BufReader, Lines};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Stdio};
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(20);

pub struct Process {
    pub child: Child,
    pub log: Lines<BufReader<ChildStderr>>,
    pub socket: PathBuf,
}

impl Process {
    /// Starts one and waits until it says so.
    pub fn start(folder: &Path, options: &[&str]) -> Self {
        let mut process = Self::spawn(folder, options);
        process.wait_for_line("started");
        process
    }

    /// One that may open so many files.
    pub fn start_with_files(folder: &Path, files: u32, options: &[&str]) -> Self {
        let mut shell = std::process::Command::new("sh");
        let limited = format!("ulimit -n {files}; exec \"$0\" \"$@\"");
        shell.arg("-c").arg(limited).arg(env!("CARGO_BIN_EXE_nebula-dataplane"));
        let mut process = Self::spawn_by(shell, folder, options);
        process.wait_for_line("started");
        process
    }

    pub fn spawn(folder: &Path, options: &[&str]) -> Self {
        Self::spawn_by(std::process::Command::new(env!("CARGO_BIN_EXE_nebula-dataplane")), folder, options)
    }

    fn spawn_by(mut command: std::process::Command, folder: &Path, options: &[&str]) -> Self {
        let socket = folder.join("dataplane.sock");
        let mut child = command.arg("--socket").arg(&socket).args(options).stderr(Stdio::piped()).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap()).lines();
        Self { child, log, socket }
    }

    /// Reads the log up to a line with this event; ends with the process at the latest.
    pub fn wait_for_line(&mut self, event: &str) -> String {
        let start = format!("nebula-dataplane: {event} ");
        let mut seen = Vec::new();
        for line in self.log.by_ref() {
            let line = line.unwrap();
            if line.starts_with(&start) {
                return line;
            }
            seen.push(line);
        }
        panic!("no {event:?} in the log: {seen:?}");
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn wait(&mut self) -> std::process::ExitStatus {
        self.child.wait().unwrap()
    }

    pub fn attach(&self) -> Attached {
        Dataplane::attach(&self.socket).unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a command and waits for its answer; other events on the way are collected.
pub fn call(worker: &mut WorkerHandle, command: &Command, others: &mut Vec<Event>) -> Event {
    static CORRELATION: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(1 << 40);
    let id = CORRELATION.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    worker.send(id, command).unwrap();
    loop {
        match next_event(worker) {
            event @ (Event::Done { correlation } | Event::Failed { correlation, .. }) if correlation == id => {
                return event;
            }
            other => others.push(other),
        }
    }
}

pub fn done(worker: &mut WorkerHandle, command: &Command) {
    let event = call(worker, command, &mut Vec::new());
    assert!(matches!(event, Event::Done { .. }), "{command:?}: {event:?}");
}

/// The next event, by the eventfd.
pub fn next_event(worker: &mut WorkerHandle) -> Event {
    let start = Instant::now();
    loop {
        if let Some(event) = worker.receive() {
            return event;
        }
        assert!(start.elapsed() < DEADLINE, "no event");
        wait_readable(worker);
    }
}

pub fn wait_readable(fd: &impl rustix::fd::AsFd) {
    let timeout = rustix::event::Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    let ready = poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&timeout)).unwrap();
    assert!(ready > 0, "nothing within {DEADLINE:?}");
}

/// Reads a stream's record until it is as wanted.
pub fn record_when(worker: &WorkerHandle, id: StreamId, wanted: impl Fn(&StreamRecord) -> bool) -> StreamRecord {
    let start = Instant::now();
    loop {
        let record = worker.table().find(id);
        match record {
            Some(record) if wanted(&record) => return record,
            _ => assert!(start.elapsed() < DEADLINE, "the record stays {record:?}"),
        }
        std::thread::yield_now();
    }
}

pub fn peer() -> UdpSocket {
    let peer = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    peer
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    peer().local_addr().unwrap().port()
}

/// A PCMU stream with rtcp-mux towards a peer on the loopback.
pub fn config(rtp_port: u16, remote: SocketAddr) -> StreamConfig {
    let pcmu = PayloadType { number: 0, forward_as: 0, clock_rate_hz: 8000 };
    StreamConfig {
        local_ip: Ipv4Addr::LOCALHOST.into(),
        rtp_port,
        rtcp_port: rtp_port,
        remote_rtp: Some(remote),
        remote_rtcp: Some(remote),
        nat_expected: false,
        learning_window_ms: 5_000,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Bridge,
        rtp_timeout_ms: 0,
        ssrc: 0x1234_5678,
        srtp: None,
        payload_types: PayloadTypes::from_iter([pcmu]),
    }
}

/// A 172-byte PCMU packet whose payload depends on its number.
pub fn rtp(ssrc: u32, number: u32) -> [u8; 172] {
    let mut packet = [number as u8; 172];
    packet[..2].copy_from_slice(&[0x80, 0]);
    packet[2..4].copy_from_slice(&(number as u16).to_be_bytes());
    packet[4..8].copy_from_slice(&(number * 160).to_be_bytes());
    packet[8..12].copy_from_slice(&ssrc.to_be_bytes());
    packet
}
