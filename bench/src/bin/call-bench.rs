//! What whole calls cost: CPU and set-up time per call through proxy, switchboard, media agent and dataplane, embedded in
//! one process and as three over Redis and Postgres.
//!
//! Each system runs on free ports in a temporary folder; `nebula-load` is both ends of each call, with media. The CPU time of
//! all processes is taken from the scheduler before and after each rate.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use clap::Parser;
use comfy_table::{Table, presets};
use nebula_bench::system::{PASSWORD, System};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};

#[derive(Parser)]
struct Arguments {
    /// The folder of `nebula`, `nebula-dataplane` and `nebula-load`.
    #[arg(long)]
    binaries: PathBuf,
    /// New calls a second, one run each.
    #[arg(long, value_delimiter = ',', default_values_t = [50, 100, 200])]
    rates: Vec<u32>,
    /// How long calls are placed, seconds.
    #[arg(long, default_value_t = 10)]
    seconds: u32,
    /// How long each call talks, seconds.
    #[arg(long, default_value_t = 2)]
    talk: u32,
    /// Only in one process.
    #[arg(long)]
    embedded_only: bool,
    /// Write the results as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "system",
        "calls/s",
        "established",
        "control ms/call",
        "dataplane ms/call",
        "servers ms/call",
        "set-up p50 ms",
        "p99 ms",
        "loss %",
        "latency p99 ms",
    ]);
    let mut results = Vec::new();
    let systems: &[&str] = if arguments.embedded_only { &["embedded"] } else { &["embedded", "three processes"] };
    for name in systems {
        let system = if *name == "embedded" {
            System::embedded(&arguments.binaries)?
        } else {
            System::fleet(&arguments.binaries)?
        };
        for rate in &arguments.rates {
            eprintln!("{name}: {rate} calls/s for {} s, {} s of talk", arguments.seconds, arguments.talk);
            results.push(measure(&arguments, name, &system, *rate, &mut table)?);
        }
    }
    println!(
        "calls through everything: challenged INVITE to BYE, {} s of PCMU both ways ({} packets a call), one dataplane \
         worker",
        arguments.talk,
        arguments.talk * 100
    );
    println!("{table}");
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn measure(arguments: &Arguments, name: &str, system: &System, rate: u32, table: &mut Table) -> Result<Value> {
    let before = system.cpu()?;
    let report = load(arguments, &system.sip()?, rate)?;
    let after = system.cpu()?;
    let calls = report["established"].as_f64().context("established")?;
    let mut each_ms = serde_json::Map::new();
    let (mut control, mut dataplane, mut servers) = (0.0, 0.0, 0.0);
    for (process, used) in &after {
        let used = used.saturating_sub(before.get(process).copied().unwrap_or_default());
        let ms = used.as_secs_f64() * 1e3 / calls;
        each_ms.insert((*process).to_owned(), ms.into());
        match *process {
            "dataplane" => dataplane += ms,
            "redis" | "postgres" => servers += ms,
            _ => control += ms,
        }
    }
    let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
    table.add_row([
        name.to_owned(),
        rate.to_string(),
        format!("{calls} of {}", report["calls"]),
        format!("{control:.2}"),
        format!("{dataplane:.2}"),
        format!("{servers:.2}"),
        format!("{:.2}", number("/setup_ms/p50")),
        format!("{:.2}", number("/setup_ms/p99")),
        format!("{:.4}", number("/loss_percent")),
        format!("{:.2}", number("/latency_ms/p99")),
    ]);
    Ok(serde_json::json!({
        "system": name, "rate": rate, "control_ms_per_call": control, "dataplane_ms_per_call": dataplane,
        "servers_ms_per_call": servers, "each_ms_per_call": each_ms, "load": report,
    }))
}

fn load(arguments: &Arguments, sip: &str, rate: u32) -> Result<Value> {
    let mut command = Command::new(arguments.binaries.join("nebula-load"));
    command.args(["call", "--json", "--server", sip, "--password", PASSWORD]);
    command.args(["--rate", &rate.to_string(), "--calls", &(rate * arguments.seconds).to_string()]);
    command.args(["--duration-s", &arguments.talk.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("nebula-load")?;
    serde_json::from_slice(&output.stdout).context("nebula-load printed no JSON")
}
