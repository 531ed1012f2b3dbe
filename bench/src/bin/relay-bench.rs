//! CPU per relayed packet, latency and memory per call: rtpengine in userspace, a bare epoll relay, and Nebula.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use nebula_bench::dataplane::NebulaDataplane;
use nebula_bench::load::{Load, Outcome};
use nebula_bench::place::{Place, RELAY_INTERFACE};
use nebula_bench::process::{cpu_time, resident_bytes};
use nebula_bench::rtpengine::Rtpengine;
use serde::Serialize;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Ports for rtpengine, apart from those that the kernel gives to sockets of its choice.
const RTPENGINE_PORTS: (u16, u16) = (20_000, 29_999);

/// What is spoken before the measured time, so that latches are closed and caches are warm.
const WARM_UP: Duration = Duration::from_secs(1);

#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure all relays in turn.
    Compare {
        /// Calls at once, two phones each.
        #[arg(long, default_value_t = 400)]
        calls: usize,
        /// Seconds of a measurement.
        #[arg(long, default_value_t = 8)]
        seconds: u64,
        /// How often each is measured, in turn.
        #[arg(long, default_value_t = 3)]
        rounds: usize,
        /// The `nebula-dataplane` binary.
        #[arg(long)]
        dataplane: PathBuf,
        /// The relays over loopback, or over a veth pair with AF_XDP beside the sockets (needs root).
        #[arg(long, default_value = "sockets")]
        driver: DriverKind,
        /// Leave rtpengine out.
        #[arg(long)]
        without_rtpengine: bool,
        /// Print the results as JSON, too.
        #[arg(long)]
        json: Option<PathBuf>,
    },
    /// Be the bare epoll relay (used by `compare`).
    Bare {
        /// Where to listen.
        ip: IpAddr,
    },
}

/// Which relays of ours are measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DriverKind {
    Sockets,
    Xdp,
}

fn main() -> Result<()> {
    match Arguments::parse().command {
        What::Bare { ip } => nebula_bench::bare::serve(ip),
        What::Compare { calls, seconds, rounds, dataplane, driver, without_rtpengine, json } => {
            let (place, peers): (Place, &[Peer]) = match driver {
                DriverKind::Sockets => (Place::loopback(), &Peer::OVER_LOOPBACK),
                DriverKind::Xdp => (Place::veth()?, &Peer::OVER_VETH),
            };
            let peers = if without_rtpengine { &peers[1..] } else { peers };
            let mut results: Vec<(Peer, Vec<Sample>)> = peers.iter().map(|p| (*p, Vec::new())).collect();
            for round in 1..=rounds {
                for (peer, samples) in &mut results {
                    eprintln!("round {round} of {rounds}: {} with {calls} calls", peer.name());
                    samples.push(measure(*peer, &place, calls, Duration::from_secs(seconds), &dataplane)?);
                }
            }
            println!(
                "{calls} calls of PCMU, 172-byte packets every 20 ms both ways, {}, one relay thread; median of {rounds} (range)",
                place.name()
            );
            println!("{}", table(&results));
            if let Some(path) = json {
                let data: Vec<_> =
                    results.iter().map(|(p, s)| serde_json::json!({"relay": p.name(), "samples": s})).collect();
                std::fs::write(&path, serde_json::to_string_pretty(&data)?)
                    .with_context(|| path.display().to_string())?;
            }
            Ok(())
        }
    }
}

/// A relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Rtpengine,
    Bare,
    Nebula,
    NebulaXdp,
}

impl Peer {
    const OVER_LOOPBACK: [Peer; 3] = [Peer::Rtpengine, Peer::Bare, Peer::Nebula];
    const OVER_VETH: [Peer; 4] = [Peer::Rtpengine, Peer::Bare, Peer::Nebula, Peer::NebulaXdp];

    fn name(self) -> &'static str {
        match self {
            Peer::Rtpengine => "rtpengine, userspace, one thread",
            Peer::Bare => "bare epoll, recvfrom, sendto",
            Peer::Nebula => "nebula-dataplane, io_uring, one worker",
            Peer::NebulaXdp => "nebula-dataplane, AF_XDP, one worker",
        }
    }
}

/// One measurement.
#[derive(Debug, Clone, Serialize)]
struct Sample {
    cpu_us_per_packet: f64,
    loss: f64,
    wrong: u64,
    latency_p50_us: u64,
    latency_p99_us: u64,
    memory_kib_per_call: f64,
}

fn measure(peer: Peer, place: &Place, calls: usize, duration: Duration, dataplane: &Path) -> Result<Sample> {
    let phones = (calls, place.phone_ip);
    match peer {
        Peer::Rtpengine => {
            let mut relay = Rtpengine::start(place, RTPENGINE_PORTS.0, RTPENGINE_PORTS.1)?;
            let pid = relay.process.pid();
            run(pid, phones, duration, |call, a, b| relay.call(&format!("bench-{call}"), a, b))
        }
        Peer::Bare => {
            let mut relay = BareRelay::start(place)?;
            let pid = relay.process.id();
            run(pid, phones, duration, |call, a, b| relay.call(call + 1 == calls, a, b))
        }
        Peer::Nebula | Peer::NebulaXdp => {
            let options: &[&str] = if peer == Peer::NebulaXdp { &["--xdp", RELAY_INTERFACE] } else { &[] };
            let mut relay = NebulaDataplane::start(dataplane, place, options)?;
            let pid = relay.process.pid();
            let sample = run(pid, phones, duration, |call, a, b| relay.call(place, call, a, b))?;
            if peer == Peer::NebulaXdp && relay.frames_received() == 0 {
                bail!("AF_XDP does not run here; nebula-dataplane --xdp says why");
            }
            Ok(sample)
        }
    }
}

fn run(
    pid: u32,
    (calls, phone_ip): (usize, IpAddr),
    duration: Duration,
    set_up: impl FnMut(usize, SocketAddr, SocketAddr) -> Result<(SocketAddr, SocketAddr)>,
) -> Result<Sample> {
    let resident_before = resident_bytes(pid)?;
    let mut load = Load::new(calls, phone_ip, set_up)?;
    load.run(WARM_UP)?;
    let before = cpu_time(pid)?;
    let Outcome { sent, received, wrong, latency_us } = load.run(duration)?;
    let cpu = cpu_time(pid)? - before;
    if received == 0 {
        bail!("nothing came through");
    }
    Ok(Sample {
        cpu_us_per_packet: cpu.as_secs_f64() * 1e6 / received as f64,
        loss: 1.0 - received as f64 / sent as f64,
        wrong,
        latency_p50_us: latency_us.value_at_quantile(0.5),
        latency_p99_us: latency_us.value_at_quantile(0.99),
        memory_kib_per_call: (resident_bytes(pid)?.saturating_sub(resident_before)) as f64 / 1024.0 / calls as f64,
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
    fn call(&mut self, last: bool, a: SocketAddr, b: SocketAddr) -> Result<(SocketAddr, SocketAddr)> {
        let input = self.process.stdin.as_mut().context("piped")?;
        writeln!(input, "{a} {b}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        if last {
            drop(self.process.stdin.take());
        }
        let (to_a, to_b) = line.trim().split_once(' ').context("two addresses")?;
        Ok((to_a.parse()?, to_b.parse()?))
    }
}

impl Drop for BareRelay {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what we want.
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

fn table(results: &[(Peer, Vec<Sample>)]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["relay", "CPU us/packet", "x rtpengine", "loss %", "p50 us", "p99 us", "KiB/call"]);
    let reference =
        results.iter().find(|(p, _)| *p == Peer::Rtpengine).map(|(_, s)| spread(s, |s| s.cpu_us_per_packet).1);
    for (peer, samples) in results {
        let (min, median, max) = spread(samples, |s| s.cpu_us_per_packet);
        table.add_row([
            peer.name().to_owned(),
            format!("{median:.2} ({min:.2} to {max:.2})"),
            reference.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", median / r)),
            format!("{:.3}", spread(samples, |s| s.loss * 100.0).1),
            format!("{:.0}", spread(samples, |s| s.latency_p50_us as f64).1),
            format!("{:.0}", spread(samples, |s| s.latency_p99_us as f64).1),
            format!("{:.1}", spread(samples, |s| s.memory_kib_per_call).1),
        ]);
    }
    table
}

/// Least, median and greatest.
fn spread(samples: &[Sample], value: impl Fn(&Sample) -> f64) -> (f64, f64, f64) {
    let mut values: Vec<f64> = samples.iter().map(value).collect();
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}
