//! CPU per relayed packet, latency and memory per call: rtpengine in userspace, a bare epoll relay, and Nebula.
//!
//! Each relay is a process of its own with one thread for packets. The phones are one thread of this process (`load`), which sends
//! and checks all packets; only the relay's CPU time is counted, as the scheduler counts it.

#![forbid(unsafe_code)]

mod draw;
mod peers;
mod relay;
mod rows;
mod trials;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use comfy_table::{Table, presets};
use nebula_bench::process::raise_file_limit;
use nebula_ring::srtp::Suite;
use relay::{Driver, Relay, Sample, Talk, measure, spread};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

// What `bench/run` says is overridden by what its caller says after it.
#[derive(Parser)]
#[command(args_override_self = true)]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Measure all relays in turn.
    Compare(Compare),
    /// Measure all that the relay promises against its peers, and hold it against the limits.
    Peers(peers::Peers),
    /// Measure variants of ours in turn: of the binary, or of its options.
    Trials(trials::Trials),
    /// Draw the results that `peers` kept.
    Draw {
        /// What `peers` wrote.
        json: PathBuf,
        /// The drawing.
        svg: PathBuf,
    },
    /// Be the bare epoll relay (used by `compare`).
    Bare {
        /// Where to listen.
        ip: IpAddr,
    },
}

#[derive(clap::Args)]
struct Compare {
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
    /// The relays over loopback, or over a veth pair with AF_XDP beside the sockets (needs root), or there with the ends'
    /// receiving on accounts of their own.
    #[arg(long, default_value = "sockets")]
    driver: Driver,
    /// SRTP on both sides by this suite, such as AEAD_AES_128_GCM; without the bare relay.
    #[arg(long, value_parser = suite)]
    srtp: Option<Suite>,
    /// Leave rtpengine out.
    #[arg(long)]
    without_rtpengine: bool,
    /// Print the results as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    raise_file_limit();
    match Arguments::parse().command {
        What::Bare { ip } => nebula_bench::bare::serve(ip),
        What::Compare(arguments) => compare(&arguments),
        What::Peers(arguments) => peers::run(&arguments),
        What::Trials(arguments) => trials::run(&arguments),
        What::Draw { json, svg } => peers::redraw(&json, &svg),
    }
}

fn compare(arguments: &Compare) -> Result<()> {
    let Compare { calls, seconds, rounds, driver, srtp, .. } = *arguments;
    let place = driver.place()?;
    let relays: &[Relay] = match driver {
        Driver::Sockets => &Relay::OVER_LOOPBACK,
        Driver::Xdp | Driver::XdpApart => &Relay::OVER_VETH,
    };
    let wanted = |relay: &&Relay| match relay {
        Relay::Rtpengine => !arguments.without_rtpengine,
        Relay::Bare => srtp.is_none(),
        Relay::Nebula | Relay::NebulaXdp => true,
    };
    let mut results: Vec<(Relay, Vec<Sample>)> = relays.iter().filter(wanted).map(|r| (*r, Vec::new())).collect();
    let talk = Talk { calls, duration: Duration::from_secs(seconds), suite: srtp };
    for round in 1..=rounds {
        for (relay, samples) in &mut results {
            eprintln!("round {round} of {rounds}: {} with {calls} calls", relay.name());
            samples.push(measure(*relay, &place, talk, &arguments.dataplane)?);
        }
    }
    println!(
        "{calls} calls of PCMU{}, 172-byte packets every 20 ms both ways, {}, one relay thread; median of {rounds} (range)",
        srtp.map_or(String::new(), |suite| format!(" with {}", suite.name())),
        place.name()
    );
    println!("{}", table(&results));
    if let Some(path) = &arguments.json {
        let data: Vec<_> = results.iter().map(|(r, s)| serde_json::json!({"relay": r.name(), "samples": s})).collect();
        std::fs::write(path, serde_json::to_string_pretty(&data)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn suite(name: &str) -> Result<Suite, String> {
    Suite::from_name(name).ok_or_else(|| format!("one of {}", Suite::ALL.map(Suite::name).join(", ")))
}

fn table(results: &[(Relay, Vec<Sample>)]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["relay", "CPU us/packet", "x rtpengine", "loss %", "p50 us", "p99 us", "KiB/call"]);
    let of = |samples: &[Sample], value: fn(&Sample) -> f64| spread(&samples.iter().map(value).collect::<Vec<_>>());
    let reference =
        results.iter().find(|(r, _)| *r == Relay::Rtpengine).map(|(_, samples)| of(samples, |s| s.cpu_us_per_packet).1);
    for (relay, samples) in results {
        let (min, median, max) = of(samples, |s| s.cpu_us_per_packet);
        table.add_row([
            relay.name().to_owned(),
            format!("{median:.2} ({min:.2} to {max:.2})"),
            reference.map_or_else(|| "-".to_owned(), |r| format!("{:.2}", median / r)),
            format!("{:.3}", of(samples, |s| s.loss * 100.0).1),
            format!("{:.0}", of(samples, |s| s.latency_p50_us as f64).1),
            format!("{:.0}", of(samples, |s| s.latency_p99_us as f64).1),
            format!("{:.1}", of(samples, |s| s.memory_kib_per_call).1),
        ]);
    }
    table
}
