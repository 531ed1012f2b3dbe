//! `nebula-load`: real calls with verified audio, in numbers. Nothing here is shared with the product.

#![forbid(unsafe_code)]

mod call;
mod hold;
mod id;
mod media;
mod report;
mod sip;
mod srtp;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// Load for SIP systems: every packet of every call is checked.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register, place calls, answer them, talk both ways, hang up and tell what came of it.
    Call(call::Arguments),
    /// Place calls and hold them, driven by lines on standard input, while somebody breaks the system.
    Hold(hold::Arguments),
}

fn main() -> ExitCode {
    let command = Arguments::parse().command;
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return failed(&e.into()),
    };
    match command {
        Command::Call(arguments) => match runtime.block_on(call::run(&arguments)) {
            Ok(report) => told(&arguments, &report),
            Err(e) => failed(&e),
        },
        Command::Hold(arguments) => {
            let held = runtime.block_on(hold::run(&arguments));
            // A read of standard input cannot be taken back.
            runtime.shutdown_background();
            held.map_or_else(|e| failed(&e), |()| ExitCode::SUCCESS)
        }
    }
}

fn told(arguments: &call::Arguments, report: &report::Report) -> ExitCode {
    if arguments.json {
        println!("{}", report.json())
    } else {
        println!("{}", report.table())
    }
    let missed = report.missed(&arguments.thresholds);
    missed.iter().for_each(|m| eprintln!("nebula-load: {m}"));
    if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn failed(why: &anyhow::Error) -> ExitCode {
    eprintln!("nebula-load: {why:#}");
    ExitCode::FAILURE
}
