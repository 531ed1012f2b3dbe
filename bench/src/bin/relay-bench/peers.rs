//! `peers`: all scenes in turn, so often as there are rounds, then the table, the data and the drawing.

use crate::draw;
use crate::relay::{Driver, Relay, Talk, measure, spread};
use crate::rows::{Measured, Row, SCENES, Scene, Series, rows};
use anyhow::{Context, Result, ensure};
use comfy_table::{Table, presets};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[derive(clap::Args)]
pub struct Peers {
    /// Seconds of a measurement.
    #[arg(long, default_value_t = 8)]
    seconds: u64,
    /// How often each is measured, in turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The `nebula-dataplane` binary.
    #[arg(long)]
    dataplane: PathBuf,
    /// Only the scenes whose names contain this, such as SRTP, veth or 500.
    #[arg(long, default_value = "")]
    only: String,
    /// On what and when, in words, for whoever reads the results.
    #[arg(long, default_value = "")]
    host: String,
    /// Write the results as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draw them, too.
    #[arg(long)]
    svg: Option<PathBuf>,
}

/// What is kept of a run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Results {
    pub host: String,
    pub seconds: u64,
    pub rounds: usize,
    pub rows: Vec<Row>,
}

/// Measures all that `only` leaves, and prints, keeps and draws it.
pub fn run(arguments: &Peers) -> Result<()> {
    let Peers { seconds, rounds: times, .. } = *arguments;
    let mut scenes: Vec<&Scene> = SCENES.iter().filter(|scene| scene.name.contains(&arguments.only)).collect();
    if !rustix::process::geteuid().is_root() {
        scenes.retain(|scene| scene.driver == Driver::Sockets);
        eprintln!("without the rows over veth: network namespaces need root");
    }
    let runs: Vec<(&Scene, Relay)> =
        scenes.iter().flat_map(|scene| scene.relays.iter().map(|relay| (*scene, *relay))).collect();
    let names = || SCENES.map(|scene| scene.name).join("; ");
    ensure!(
        !runs.is_empty() && times > 0,
        "nothing to measure with --only '{}': scenes are {}",
        arguments.only,
        names()
    );
    let mut measured: Vec<Measured> =
        runs.iter().map(|(scene, relay)| Measured { scene: scene.name, relay: *relay, samples: Vec::new() }).collect();
    let begun = Instant::now();
    for round in 0..times {
        for (at, (scene, relay)) in runs.iter().enumerate() {
            let done = (round * runs.len() + at) as u32;
            let left =
                (begun.elapsed() / done.max(1)) * (times * runs.len()) as u32 - begun.elapsed() * u32::from(done > 0);
            let left = if done > 0 { format!(", {} s left", left.as_secs()) } else { String::new() };
            eprint!("round {} of {times}, {}, {}{left}: ", round + 1, scene.name, relay.name());
            let sample = in_place(scene, *relay, Duration::from_secs(seconds), &arguments.dataplane)
                .with_context(|| format!("{}, {}", scene.name, relay.name()))?;
            let (lost, phones) = (sample.loss * 100.0, sample.phones_cpu * 100.0);
            eprintln!(
                "{:.2} us a packet, {lost:.2} % lost, phones took {phones:.0} % of a core",
                sample.cpu_us_per_packet
            );
            measured[at].samples.push(sample);
        }
    }
    let results = Results { host: arguments.host.clone(), seconds, rounds: times, rows: rows(&measured) };
    print(&results);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)? + "\n")
            .with_context(|| path.display().to_string())?;
    }
    if let Some(path) = &arguments.svg {
        std::fs::write(path, draw::svg(&results)).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// One measurement on a thread of its own: over a veth pair the thread stays in the phones' network namespace.
fn in_place(scene: &Scene, relay: Relay, duration: Duration, dataplane: &Path) -> Result<crate::relay::Sample> {
    let talk = Talk { calls: scene.calls, duration, suite: scene.suite };
    let run = || measure(relay, &scene.driver.place()?, talk, dataplane);
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("phones".to_owned()).spawn_scoped(scope, run)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Draws results that were kept.
pub fn redraw(from: &Path, to: &Path) -> Result<()> {
    let text = std::fs::read_to_string(from).with_context(|| from.display().to_string())?;
    let results: Results = serde_json::from_str(&text).with_context(|| from.display().to_string())?;
    std::fs::write(to, draw::svg(&results)).with_context(|| to.display().to_string())
}

fn print(results: &Results) {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header(["what", "ours", "peer", "which is", "ratio", "limit", "holds", "loss %"]);
    for row in &results.rows {
        let (least, greatest) = row.ratio_range;
        table.add_row([
            format!("{}, {}: {}", row.what, row.unit, row.scene),
            figures(&row.ours),
            figures(&row.peer),
            row.peer.relay.split(',').next().unwrap_or_default().to_owned(),
            format!("{:.2} ({least:.2} to {greatest:.2})", row.ratio),
            row.limit.to_string(),
            if row.holds { "yes".to_owned() } else { "NO".to_owned() },
            format!("{:.2}, {:.2}", row.ours.loss * 100.0, row.peer.loss * 100.0),
        ]);
    }
    println!(
        "172-byte packets of PCMU every 20 ms both ways, one relay thread each; medians of {} rounds of {} s (range); lost of ours, \
         of the peer's",
        results.rounds, results.seconds
    );
    println!("{table}");
    println!("{} of {} rows hold", results.rows.iter().filter(|row| row.holds).count(), results.rows.len());
}

/// Median and range, with the digits that mean something.
pub fn figures(series: &Series) -> String {
    let (least, median, greatest) = spread(&series.values);
    let digits = match greatest {
        greatest if greatest >= 100.0 => 0,
        greatest if greatest >= 20.0 => 1,
        _ => 2,
    };
    format!("{median:.digits$} ({least:.digits$} to {greatest:.digits$})")
}
