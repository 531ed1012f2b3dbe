//! What whole calls cost: CPU and set-up time per call through proxy, switchboard, media agent and dataplane, embedded.
//!
//! `nebula up` runs on free ports in a temporary folder; `nebula-load` is both ends of each call, with media. The CPU time
//! of the two processes is taken from the scheduler before and after each rate.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use comfy_table::{Table, presets};
use nebula_bench::process::{Process, cpu_time, resident_bytes};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PASSWORD: &str = "bench-password";
const START_DEADLINE: Duration = Duration::from_secs(30);

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
    /// Write the results as JSON, too.
    #[arg(long)]
    json: Option<PathBuf>,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let state = tempfile::tempdir()?;
    let system = System::start(&arguments.binaries, state.path())?;
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "calls/s",
        "established",
        "control ms/call",
        "dataplane ms/call",
        "set-up p50 ms",
        "p99 ms",
        "loss %",
        "latency p99 ms",
    ]);
    let mut results = Vec::new();
    for rate in &arguments.rates {
        eprintln!("{rate} calls/s for {} s, {} s of talk", arguments.seconds, arguments.talk);
        let before = (cpu_time(system.control)?, cpu_time(system.dataplane)?);
        let report = load(&arguments, &system, *rate)?;
        let after = (cpu_time(system.control)?, cpu_time(system.dataplane)?);
        let calls = report["established"].as_f64().context("established")?;
        let ms_per_call = |after: Duration, before: Duration| (after - before).as_secs_f64() * 1e3 / calls;
        let (control, dataplane) = (ms_per_call(after.0, before.0), ms_per_call(after.1, before.1));
        let number = |path: &str| report.pointer(path).and_then(Value::as_f64).unwrap_or(f64::NAN);
        table.add_row([
            rate.to_string(),
            format!("{calls} of {}", report["calls"]),
            format!("{control:.2}"),
            format!("{dataplane:.2}"),
            format!("{:.2}", number("/setup_ms/p50")),
            format!("{:.2}", number("/setup_ms/p99")),
            format!("{:.4}", number("/loss_percent")),
            format!("{:.2}", number("/latency_ms/p99")),
        ]);
        results.push(serde_json::json!({
            "rate": rate, "control_ms_per_call": control, "dataplane_ms_per_call": dataplane, "load": report,
        }));
    }
    println!(
        "calls through everything, embedded: challenged INVITE to BYE, {} s of PCMU both ways ({} packets a call), one \
         dataplane worker",
        arguments.talk,
        arguments.talk * 100
    );
    println!("{table}");
    println!(
        "resident memory after it: control {:.1} MiB, dataplane {:.1} MiB",
        resident_bytes(system.control)? as f64 / 1048576.0,
        resident_bytes(system.dataplane)? as f64 / 1048576.0
    );
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn load(arguments: &Arguments, system: &System, rate: u32) -> Result<Value> {
    let mut command = Command::new(arguments.binaries.join("nebula-load"));
    command.args(["call", "--json", "--server", &system.sip, "--password", PASSWORD]);
    command.args(["--rate", &rate.to_string(), "--calls", &(rate * arguments.seconds).to_string()]);
    command.args(["--duration-s", &arguments.talk.to_string()]);
    let output = command.stderr(Stdio::inherit()).output().context("nebula-load")?;
    serde_json::from_slice(&output.stdout).context("nebula-load printed no JSON")
}

/// A running system.
struct System {
    _process: Process,
    control: u32,
    dataplane: u32,
    sip: String,
}

impl System {
    fn start(binaries: &Path, state: &Path) -> Result<Self> {
        let log = std::fs::File::create(state.join("log"))?;
        let mut command = Command::new(binaries.join("nebula"));
        command.arg("up").arg("--state").arg(state).args(["--bind-ip", "127.0.0.1"]);
        for port in ["--sip-port", "--http-port", "--proxy-port", "--switchboard-port", "--media-port"] {
            command.args([port, "0"]);
        }
        command.env("NEBULA_DEMO_PASSWORD", PASSWORD).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut process = Process::spawn(command).context("nebula")?;
        let end = Instant::now() + START_DEADLINE;
        let runtime: Value = loop {
            if let Ok(bytes) = std::fs::read(state.join("nebula.json")) {
                break serde_json::from_slice(&bytes)?;
            }
            if process.ended() || Instant::now() > end {
                bail!("nebula does not come up:\n{}", std::fs::read_to_string(state.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        let dataplane = runtime["dataplane_pid"].as_u64().context("dataplane_pid")?.try_into()?;
        let sip = runtime["sip"].as_str().context("sip")?.to_owned();
        Ok(Self { control: process.pid(), _process: process, dataplane, sip })
    }
}

impl Drop for System {
    fn drop(&mut self) {
        // The dataplane outlives its control on purpose; here it has done its work.
        let pid = i32::try_from(self.dataplane).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(pid) = pid {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }
}
