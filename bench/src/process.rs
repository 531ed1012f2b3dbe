//! A process under measurement: its CPU time, its memory, and that it ends with us.

use anyhow::{Context, Result};
use std::net::{Ipv4Addr, UdpSocket};
use std::process::{Child, ChildStdin, ChildStdout, Command};
use std::time::Duration;

/// A child, killed when dropped.
pub struct Process(Child);

impl Process {
    /// Starts it.
    pub fn spawn(mut command: Command) -> std::io::Result<Self> {
        Ok(Self(command.spawn()?))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Its standard input and output, if it was given pipes for them.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.0.stdin.take().zip(self.0.stdout.take())
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        matches!(self.0.try_wait(), Ok(Some(_)))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what we want.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// The CPU time that the living threads of a process have had, in user and system mode together: the scheduler's own
/// nanoseconds, where utime and stime have ticks of 10 ms.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let mut sum_ns = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid}"))? {
        let Ok(text) = std::fs::read_to_string(task?.path().join("schedstat")) else { continue };
        sum_ns += text.split(' ').next().unwrap_or("").parse::<u64>().context("schedstat")?;
    }
    Ok(Duration::from_nanos(sum_ns))
}

/// Its resident memory.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
    Ok(kib * 1024)
}

/// Enough for the sockets of 1,000 calls at phones and relays, many times over.
const OPEN_FILES: u64 = 65_536;

/// Lets this process, and those that it starts, have that many open files, or as many as the system allows.
pub fn raise_file_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= OPEN_FILES) {
        return;
    }
    limit.current = Some(limit.maximum.map_or(OPEN_FILES, |most| most.min(OPEN_FILES)));
    // Where it is refused, opening the sockets says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// How often neighbours are looked for.
const PORT_TRIES: usize = 100;

/// The first of two neighbouring UDP ports of loopback that were free a moment ago, for RTP and RTCP.
pub fn free_udp_ports() -> std::io::Result<u16> {
    for _ in 0..PORT_TRIES {
        let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = first.local_addr()?.port();
        if port < u16::MAX && UdpSocket::bind((Ipv4Addr::LOCALHOST, port + 1)).is_ok() {
            return Ok(port);
        }
    }
    Err(std::io::ErrorKind::AddrInUse.into())
}
