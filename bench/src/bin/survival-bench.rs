//! What it costs to survive: the time from `kill -9` to the first RPC that is answered again, and the memory that control
//! has for each live call.
//!
//! Calls are held by `nebula-load hold` meanwhile, so that what is restored is there.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, bail};
use clap::Parser;
use comfy_table::{Table, presets};
use nebula_bench::process::Process;
use nebula_bench::system::{PASSWORD, System, rpc};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

/// Something that every switchboard answers, and that asks for nothing.
const METHOD: &str = "call.list";

const BACK_DEADLINE: Duration = Duration::from_secs(30);

#[derive(Parser)]
struct Arguments {
    /// The folder of `nebula`, `nebula-dataplane` and `nebula-load`.
    #[arg(long)]
    binaries: PathBuf,
    /// Calls that are held.
    #[arg(long, default_value_t = 500)]
    calls: u32,
    /// Kills of each process.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
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
        "killed",
        "to the first RPC answered, ms: median",
        "worst",
        "control KiB per live call",
    ]);
    let mut results = vec![system("embedded", System::embedded(&arguments.binaries)?, &arguments, &mut table)?];
    if !arguments.embedded_only {
        results.push(system("three processes", System::fleet(&arguments.binaries)?, &arguments, &mut table)?);
    }
    println!("{} calls held meanwhile, {} kills each", arguments.calls, arguments.rounds);
    println!("{table}");
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_string_pretty(&results)?).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

fn system(name: &str, mut system: System, arguments: &Arguments, table: &mut Table) -> Result<Value> {
    eprintln!("{name}: {} calls", arguments.calls);
    let mut hold = Hold::start(&arguments.binaries, &system.sip()?)?;
    // What one call costs for good (code that is run for the first time, pools) is not what each call costs.
    hold.run("place 20 50")?;
    let before = system.control_bytes()?;
    let placed = hold.run(&format!("place {} 50", arguments.calls))?;
    anyhow::ensure!(placed["answered"] == arguments.calls, "not all calls came about: {placed}");
    let after = system.control_bytes()?;
    let each_kib = after.saturating_sub(before) as f64 / 1024.0 / f64::from(arguments.calls);
    let mut kills = Vec::new();
    for at in 0..system.parts.len() {
        let part = system.parts[at].name;
        let mut times = Vec::new();
        for _ in 0..arguments.rounds {
            times.push(kill(&mut system, at)?);
        }
        times.sort_by(f64::total_cmp);
        let (median, worst) = (times[times.len() / 2], times[times.len() - 1]);
        let memory = if at == 0 { format!("{each_kib:.1}") } else { String::new() };
        table.add_row([name, part, &format!("{median:.0}"), &format!("{worst:.0}"), &memory]);
        kills.push(json!({ "killed": part, "first_rpc_ms": times }));
    }
    let sums = hold.run("sums")?;
    Ok(json!({ "system": name, "control_kib_per_call": each_kib, "kills": kills, "calls_up_afterwards": sums["up"] }))
}

/// From the kill of a part, which is started again at once, to its first answer. Milliseconds.
fn kill(system: &mut System, at: usize) -> Result<f64> {
    let (role, method) = match system.parts[at].name {
        "up" => ("switchboard", METHOD),
        "switchboard" => ("switchboard", METHOD),
        // They answer no question that changes nothing: an unknown method is refused by whoever is there.
        other => (other, "bench.unknown"),
    };
    let address = system.admin(at, role)?;
    let killed = Instant::now();
    system.kill(at);
    system.launch(at)?;
    loop {
        let answered = if method == METHOD {
            rpc(&address, method, &json!({}))
        } else {
            nebula_bench::system::answers(&address, method)
        };
        if answered {
            break;
        }
        if killed.elapsed() > BACK_DEADLINE {
            bail!("{} does not answer again", system.parts[at].name);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let took = killed.elapsed().as_secs_f64() * 1e3;
    system.ready(at)?;
    Ok(took)
}

/// `nebula-load hold`.
struct Hold {
    _process: Process,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    lines: u64,
}

impl Hold {
    fn start(binaries: &Path, sip: &str) -> Result<Self> {
        let mut command = Command::new(binaries.join("nebula-load"));
        command.args(["hold", "--server", sip, "--password", PASSWORD]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(command).context("nebula-load")?;
        let (input, output) = process.pipes().context("pipes")?;
        let mut hold = Self { _process: process, input, output: BufReader::new(output), lines: 0 };
        hold.until(|line| line["event"] == "ready")?;
        Ok(hold)
    }

    fn run(&mut self, line: &str) -> Result<Value> {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush())?;
        self.lines += 1;
        let number = self.lines;
        self.until(|said| said["event"] == "done" && said["of"] == number)
    }

    fn until(&mut self, is_it: impl Fn(&Value) -> bool) -> Result<Value> {
        loop {
            let mut line = String::new();
            anyhow::ensure!(self.output.read_line(&mut line)? > 0, "nebula-load has ended");
            let said: Value = serde_json::from_str(&line)?;
            if is_it(&said) {
                return Ok(said);
            }
        }
    }
}
