//! The relays, and one measurement of one of them.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nebula_bench::dataplane::NebulaDataplane;
use nebula_bench::load::{Leg, Load, Outcome};
use nebula_bench::place::{Place, RELAY_INTERFACE, Receiving};
use nebula_bench::process::{cpu_time, resident_bytes};
use nebula_bench::rtpengine::Rtpengine;
use nebula_ring::srtp::Suite;
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Ports for rtpengine, apart from those that the kernel gives to sockets of its choice.
const RTPENGINE_PORTS: (u16, u16) = (20_000, 29_999);

/// What is spoken before the measured time, so that latches are closed and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

/// A relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relay {
    Rtpengine,
    Bare,
    Nebula,
    NebulaXdp,
}

impl Relay {
    pub const OVER_LOOPBACK: [Relay; 3] = [Relay::Rtpengine, Relay::Bare, Relay::Nebula];
    pub const OVER_VETH: [Relay; 4] = [Relay::Rtpengine, Relay::Bare, Relay::Nebula, Relay::NebulaXdp];

    pub fn name(self) -> &'static str {
        match self {
            Relay::Rtpengine => "rtpengine, userspace, one thread",
            Relay::Bare => "bare epoll, recvfrom, sendto",
            Relay::Nebula => "nebula-dataplane, io_uring, one worker",
            Relay::NebulaXdp => "nebula-dataplane, AF_XDP, one worker",
        }
    }
}

/// Where relay and phones stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Driver {
    /// On loopback.
    Sockets,
    /// At the ends of a veth pair.
    Xdp,
    /// The same, each end receiving on an account of its own.
    XdpApart,
}

impl Driver {
    /// Over veth once in a thread: it moves to the phones' end, for good.
    pub fn place(self) -> Result<Place> {
        match self {
            Driver::Sockets => Ok(Place::loopback()),
            Driver::Xdp => Place::veth(Receiving::BySender),
            Driver::XdpApart => Place::veth(Receiving::Apart),
        }
    }
}

/// What the phones do.
#[derive(Debug, Clone, Copy)]
pub struct Talk {
    /// Calls at once, two phones each.
    pub calls: usize,
    /// How long it is measured.
    pub duration: Duration,
    /// SRTP on both sides, under keys of each side's own; in the clear without.
    pub suite: Option<Suite>,
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
pub struct Sample {
    pub cpu_us_per_packet: f64,
    /// What the kernel's thread that receives for the relay took beside that, where there is one.
    pub receiving_us_per_packet: f64,
    pub loss: f64,
    pub wrong: u64,
    pub latency_p50_us: u64,
    pub latency_p99_us: u64,
    /// What resident memory grew by with the calls.
    pub memory_kib_per_call: f64,
    /// The whole process's resident memory, by the calls.
    pub resident_kib_per_call: f64,
    /// The share of a core that the phones took. Near 1 they are what is measured.
    pub phones_cpu: f64,
}

/// Starts a relay, sets the calls up, lets them talk, and ends it.
pub fn measure(relay: Relay, place: &Place, talk: Talk, dataplane: &Path) -> Result<Sample> {
    match relay {
        Relay::Rtpengine => {
            let mut relay = Rtpengine::start(place, RTPENGINE_PORTS.0, RTPENGINE_PORTS.1)?;
            let pid = relay.process.pid();
            run(pid, place, talk, |call, a, b| relay.call(call, [a, b], talk.suite))
        }
        Relay::Bare => {
            anyhow::ensure!(talk.suite.is_none(), "the bare relay has no keys");
            let mut relay = BareRelay::start(place)?;
            let pid = relay.process.id();
            run(pid, place, talk, |call, a, b| relay.call(call + 1 == talk.calls, a, b))
        }
        Relay::Nebula | Relay::NebulaXdp => {
            let xdp = relay == Relay::NebulaXdp;
            let options: &[&str] = if xdp { &["--xdp", RELAY_INTERFACE] } else { &[] };
            let mut relay = NebulaDataplane::start(dataplane, place, options)?;
            let pid = relay.process.pid();
            let sample = run(pid, place, talk, |call, a, b| relay.call(place, call, [a, b], talk.suite))?;
            if xdp && relay.frames_received() == 0 {
                bail!("AF_XDP does not run here; nebula-dataplane --xdp says why");
            }
            Ok(sample)
        }
    }
}

/// The same of one that was started by a command line of the caller's; with it, how many packets came in a turn.
pub fn measure_variant(program: &Path, options: &[&str], place: &Place, talk: Talk) -> Result<(Sample, f64)> {
    let mut relay = NebulaDataplane::start(program, place, options)?;
    let pid = relay.process.pid();
    let mut set_up = (0, 0);
    let sample = run(pid, place, talk, |call, a, b| {
        let legs = relay.call(place, call, [a, b], talk.suite);
        // Turns that only carry commands out are not what is asked for.
        set_up = relay.turns();
        legs
    })?;
    let (turns, received) = relay.turns();
    Ok((sample, (received - set_up.1) as f64 / (turns - set_up.0).max(1) as f64))
}

fn run(
    pid: u32,
    place: &Place,
    Talk { calls, duration, .. }: Talk,
    set_up: impl FnMut(usize, SocketAddr, SocketAddr) -> Result<[Leg; 2]>,
) -> Result<Sample> {
    let resident_before = resident_bytes(pid)?;
    let mut load = Load::new(calls, place.phone_ip, set_up)?;
    load.run(WARM_UP)?;
    let receiving = || place.receiver().map_or(Ok(Duration::ZERO), cpu_time);
    let (before, receiving_before) = (cpu_time(pid)?, receiving()?);
    let (phones_before, begun) = (cpu_time(std::process::id())?, Instant::now());
    let Outcome { sent, received, wrong, latency_us } = load.run(duration)?;
    let (cpu, receiving) = (cpu_time(pid)? - before, receiving()? - receiving_before);
    let phones = cpu_time(std::process::id())? - phones_before;
    let phones_cpu = phones.as_secs_f64() / begun.elapsed().as_secs_f64();
    if received == 0 {
        bail!("nothing came through, {wrong} packets came wrong");
    }
    let resident = resident_bytes(pid)?;
    let us_per_packet = |time: Duration| time.as_secs_f64() * 1e6 / received as f64;
    let kib_per_call = |bytes: u64| bytes as f64 / 1024.0 / calls as f64;
    Ok(Sample {
        cpu_us_per_packet: us_per_packet(cpu),
        receiving_us_per_packet: us_per_packet(receiving),
        loss: 1.0 - received as f64 / sent as f64,
        wrong,
        latency_p50_us: latency_us.value_at_quantile(0.5),
        latency_p99_us: latency_us.value_at_quantile(0.99),
        memory_kib_per_call: kib_per_call(resident.saturating_sub(resident_before)),
        resident_kib_per_call: kib_per_call(resident),
        phones_cpu,
    })
}

/// The bare relay in a process of its own.
struct BareRelay {
    process: std::process::Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl BareRelay {
    fn start(place: &Place) -> Result<Self> {
        let mut command = place.command(std::env::current_exe()?);
        command.arg("bare").arg(place.relay_ip.to_string()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn()?;
        let answers = BufReader::new(process.stdout.take().context("piped")?);
        Ok(Self { process, answers })
    }

    /// One line there, one line back; after the last call the relay begins to relay.
    fn call(&mut self, last: bool, a: SocketAddr, b: SocketAddr) -> Result<[Leg; 2]> {
        let input = self.process.stdin.as_mut().context("piped")?;
        writeln!(input, "{a} {b}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if last {
            drop(self.process.stdin.take());
        }
        let (to_a, to_b) = line.trim().split_once(' ').context("two addresses")?;
        Ok([Leg { to: to_a.parse()?, keys: None }, Leg { to: to_b.parse()?, keys: None }])
    }
}

impl Drop for BareRelay {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what we want.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// Least, median and greatest of some values; there must be one.
pub fn spread(values: &[f64]) -> (f64, f64, f64) {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    let last = values.len() - 1;
    (values[0], f64::midpoint(values[last / 2], values[last.div_ceil(2)]), values[last])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), (1.0, 2.0, 3.0));
        assert_eq!(spread(&[4.0, 1.0]), (1.0, 2.5, 4.0));
        assert_eq!(spread(&[7.0]), (7.0, 7.0, 7.0));
    }
}
