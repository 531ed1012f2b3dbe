//! `nebula-soak`: every row of the fault table in its full form, with real processes, and a table of what was seen.

#![forbid(unsafe_code)]

use clap::Parser;
use comfy_table::{Table, presets};
use nebula_tests::faults::{Form, ROWS, Seen, run};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs the fault table. Exit code 0 if every row is as demanded.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Calls that are held.
    #[arg(long, default_value_t = 500)]
    calls: usize,
    /// How often each fault happens.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// The seed of the first row; a random one if it isn't given.
    #[arg(long)]
    seed: Option<u64>,
    /// Only these rows; all if none is given.
    #[arg(long, value_name = "NAME")]
    row: Vec<String>,
    /// How long servers and the like are away, seconds; as each row demands if it isn't given.
    #[arg(long)]
    outage_s: Option<u64>,
    /// Packetization time, milliseconds.
    #[arg(long, default_value_t = 20)]
    ptime_ms: u64,
    /// The names of the rows.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        ROWS.iter().for_each(|row| println!("{:<10} {}", row.name, row.fault));
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = arguments.row.iter().find(|name| ROWS.iter().all(|row| row.name != **name)) {
        eprintln!("nebula-soak: no row {unknown}; `--list` shows them");
        return ExitCode::FAILURE;
    }
    let seed = arguments.seed.unwrap_or_else(|| Form::short().seed);
    let mut table = Table::new();
    table.load_preset(presets::UTF8_BORDERS_ONLY);
    table.set_header([
        "fault",
        "rounds",
        "lost",
        "gap ms",
        "host ms",
        "first answer ms",
        "records",
        "off ms",
        "verdict",
    ]);
    let mut good = true;
    for (at, row) in ROWS.iter().enumerate() {
        if !arguments.row.is_empty() && arguments.row.iter().all(|name| name != row.name) {
            continue;
        }
        // By its place, so that a row alone is the row in the table.
        let form = Form {
            calls: arguments.calls,
            rounds: arguments.rounds,
            seed: seed.wrapping_add(at as u64),
            ptime_ms: arguments.ptime_ms,
            outage: arguments.outage_s.map(Duration::from_secs),
            short: false,
        };
        eprintln!("{}: {} calls, {} rounds, seed {}", row.fault, form.calls, form.rounds, form.seed);
        let begun = Instant::now();
        let seen = run(row, &form);
        eprintln!("  took {:.0} s", begun.elapsed().as_secs_f64());
        seen.notes.iter().for_each(|note| eprintln!("  {note}"));
        seen.failures.iter().for_each(|failure| eprintln!("  NOT AS DEMANDED: {failure}"));
        good &= seen.failures.is_empty();
        table.add_row(cells(row.fault, &seen));
    }
    println!("{} calls, packets of {} ms, seed {seed}", arguments.calls, arguments.ptime_ms);
    println!("{table}");
    println!("host ms: the longest that the host kept a favoured bystander waiting; `nebula tune check` may say why");
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn cells(fault: &str, seen: &Seen) -> [String; 9] {
    let verdict = match seen.failures.first() {
        None => "as demanded".to_owned(),
        Some(first) => {
            let more = seen.failures.len() - 1;
            let first: String = first.chars().take(100).collect();
            if more == 0 { format!("FAILED: {first}") } else { format!("FAILED: {first} (and {more} more)") }
        }
    };
    [
        fault.to_owned(),
        seen.rounds.to_string(),
        seen.packets_lost.to_string(),
        format!("{:.0}", seen.gap_ms),
        format!("{:.0}", seen.host_stall_ms),
        seen.first_answer_ms.map_or("-".to_owned(), |ms| format!("{ms:.0}")),
        format!("{} of {}", seen.records.0, seen.records.1),
        format!("{:.1}", seen.record_off_ms),
        verdict,
    ]
}
