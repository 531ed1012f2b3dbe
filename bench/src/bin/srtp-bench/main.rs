//! What protecting and unprotecting a packet costs: the kernels of `simd` at each level, and libsrtp, in one run.
//!
//! Sixteen streams with keys of their own have a packet each; all of them are protected, then unprotected, and compared with what they
//! were. The contestants take turns by rounds, so that what else runs on the machine meets all of them. What is printed is
//! the tenth percentile of the rounds (what it costs when nothing interferes) and the median, per packet. Before anything is measured
//! all contestants must have made the same bytes of the same packets.
//!
//! Ours leaves out what libsrtp does around the arithmetic: estimating the index and the replay window. That is in
//! `dataplane/core/src/srtp`. libsrtp takes part with the feature `libsrtp`, for which `scripts/install bench` installs it.

#![deny(unsafe_code)]

#[cfg(feature = "libsrtp")]
#[allow(unsafe_code)]
mod libsrtp;
mod ours;
mod suite;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use comfy_table::{Table, presets};
use nebula_simd::{Kernels, Level};
use ours::Ours;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;
use suite::{Packet, STREAMS, Suite};

#[derive(Parser)]
struct Arguments {
    /// Bytes of a packet before it is protected, header included.
    #[arg(long, value_delimiter = ',', default_values_t = [60, 172, 332, 1200])]
    sizes: Vec<usize>,
    /// Rounds of sixteen packets each, at most 60,000: the rollover counter stays zero.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u16).range(1..=60_000))]
    rounds: u16,
    /// Write the results as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// One line of the results: nanoseconds per packet.
#[derive(Serialize)]
struct Line {
    suite: String,
    packet_bytes: usize,
    contestant: String,
    protect_ns_p10: f64,
    protect_ns_median: f64,
    unprotect_ns_p10: f64,
    unprotect_ns_median: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if cfg!(not(feature = "libsrtp")) {
        eprintln!("libsrtp is left out: build with --features libsrtp to have it beside");
    }
    let mut lines = Vec::new();
    for suite in Suite::ALL {
        for size in &arguments.sizes {
            lines.extend(measure(suite, *size, arguments.rounds)?);
        }
    }
    print(&lines);
    if let Some(file) = arguments.json {
        std::fs::write(&file, serde_json::to_string_pretty(&lines)?).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

enum Contestant {
    Ours(Kernels, Ours),
    #[cfg(feature = "libsrtp")]
    Libsrtp(Vec<[libsrtp::Session; 2]>),
}

impl Contestant {
    fn all(suite: Suite) -> Result<Vec<Contestant>> {
        let mut all = Vec::new();
        for kernels in Level::ALL.into_iter().rev().filter_map(Kernels::of) {
            all.push(Contestant::Ours(kernels, Ours::new(suite, kernels)?));
        }
        #[cfg(feature = "libsrtp")]
        {
            let session = |stream, sends| libsrtp::Session::new(suite, &suite::master(suite, stream), sends);
            let sessions = (0..STREAMS).map(|stream| Ok([session(stream, true)?, session(stream, false)?]));
            all.push(Contestant::Libsrtp(sessions.collect::<Result<_>>()?));
        }
        Ok(all)
    }

    fn name(&self) -> String {
        match self {
            Contestant::Ours(kernels, _) => format!("simd, {}", kernels.level()),
            #[cfg(feature = "libsrtp")]
            Contestant::Libsrtp(_) => "libsrtp".to_owned(),
        }
    }

    fn protect(&mut self, packets: &mut [Packet; STREAMS]) -> Result<()> {
        match self {
            Contestant::Ours(_, ours) => ours.protect(packets),
            #[cfg(feature = "libsrtp")]
            Contestant::Libsrtp(sessions) => packets.iter_mut().zip(sessions).try_for_each(|(packet, [sends, _])| {
                packet.length = sends.protect(&mut packet.buffer, packet.length)?;
                Ok(())
            }),
        }
    }

    fn unprotect(&mut self, packets: &mut [Packet; STREAMS]) -> Result<()> {
        match self {
            Contestant::Ours(_, ours) => ours.unprotect(packets),
            #[cfg(feature = "libsrtp")]
            Contestant::Libsrtp(sessions) => {
                packets.iter_mut().zip(sessions).try_for_each(|(packet, [_, receives])| {
                    packet.length = receives.unprotect(&mut packet.buffer[..packet.length])?;
                    Ok(())
                })
            }
        }
    }
}

fn measure(suite: Suite, size: usize, rounds: u16) -> Result<Vec<Line>> {
    ensure!((suite::HEADER_BYTES..=1300).contains(&size), "packets have 12 to 1300 bytes, not {size}");
    let mut contestants = Contestant::all(suite)?;
    let mut times = vec![[Vec::new(), Vec::new()]; contestants.len()];
    for sequence in 1..=rounds {
        let plain: [Packet; STREAMS] = std::array::from_fn(|stream| Packet::new(stream, sequence, size));
        let mut first: Option<[Packet; STREAMS]> = None;
        for (contestant, times) in contestants.iter_mut().zip(&mut times) {
            let mut packets = plain.clone();
            let began = Instant::now();
            contestant.protect(&mut packets)?;
            times[0].push(began.elapsed().as_nanos() as f64 / STREAMS as f64);
            match &first {
                Some(first) => ensure!(same(first, &packets), "{suite}: {} made other bytes", contestant.name()),
                None => first = Some(packets.clone()),
            }
            let began = Instant::now();
            contestant.unprotect(&mut packets)?;
            times[1].push(began.elapsed().as_nanos() as f64 / STREAMS as f64);
            ensure!(same(&plain, &packets), "{suite}: {} gave other bytes back", contestant.name());
        }
    }
    let line = |(contestant, [mut protect, mut unprotect]): (&Contestant, [Vec<f64>; 2])| Line {
        suite: suite.to_string(),
        packet_bytes: size,
        contestant: contestant.name(),
        protect_ns_p10: percentile(&mut protect, 10),
        protect_ns_median: percentile(&mut protect, 50),
        unprotect_ns_p10: percentile(&mut unprotect, 10),
        unprotect_ns_median: percentile(&mut unprotect, 50),
    };
    Ok(contestants.iter().zip(times).map(line).collect())
}

fn same(a: &[Packet; STREAMS], b: &[Packet; STREAMS]) -> bool {
    a.iter().zip(b).all(|(a, b)| a.bytes() == b.bytes())
}

fn percentile(values: &mut [f64], percent: usize) -> f64 {
    values.sort_by(f64::total_cmp);
    values[(values.len() - 1) * percent / 100]
}

fn print(lines: &[Line]) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "suite",
        "bytes",
        "contestant",
        "protect ns p10",
        "median",
        "unprotect ns p10",
        "median",
        "of libsrtp",
    ]);
    for line in lines {
        let of_both = |line: &Line| line.protect_ns_p10 + line.unprotect_ns_p10;
        let peer = lines.iter().find(|peer| {
            peer.contestant == "libsrtp" && peer.suite == line.suite && peer.packet_bytes == line.packet_bytes
        });
        let ratio = peer.map_or_else(String::new, |peer| format!("{:.3}", of_both(line) / of_both(peer)));
        table.add_row([
            line.suite.clone(),
            line.packet_bytes.to_string(),
            line.contestant.clone(),
            format!("{:.0}", line.protect_ns_p10),
            format!("{:.0}", line.protect_ns_median),
            format!("{:.0}", line.unprotect_ns_p10),
            format!("{:.0}", line.unprotect_ns_median),
            ratio,
        ]);
    }
    println!("{table}");
}
