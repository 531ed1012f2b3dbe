//! `nebula-load`: real calls with verified audio, in numbers. Nothing here is shared with the product.

#![forbid(unsafe_code)]

mod call;
mod id;
mod media;
mod report;
mod sip;

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
}

fn main() -> ExitCode {
    let Command::Call(arguments) = Arguments::parse().command;
    let result = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(call::run(&arguments)));
    match result {
        Ok(report) => {
            if arguments.json {
                println!("{}", report.json())
            } else {
                println!("{}", report.table())
            }
            let missed = report.missed(&arguments.thresholds);
            missed.iter().for_each(|m| eprintln!("nebula-load: {m}"));
            if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
        Err(e) => {
            eprintln!("nebula-load: {e:#}");
            ExitCode::FAILURE
        }
    }
}
