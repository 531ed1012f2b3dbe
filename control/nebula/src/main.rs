//! `nebula`: one binary with a subcommand per job. `nebula up` is the whole system in one process.

#![forbid(unsafe_code)]

mod admin;
mod backbone;
mod cache;
mod capture;
mod command_line;
mod config;
mod dataplane;
mod demo;
mod extension;
mod gauges;
mod keep;
mod keys;
mod last;
mod logging;
mod look;
mod migrate;
mod node;
mod process;
mod ready;
mod role;
mod roles;
mod runtime;
mod state;
mod stream;
mod supervise;
mod top;
mod tune;
mod up;
mod welcome;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

/// A call is a few thousand small allocations, and a sixth of its cost in the C library's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A VoIP system for carriers.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the whole system in this process, with a dataplane beside it.
    Up(up::Arguments),
    /// Run a SIP edge by itself; it needs Redis and a database.
    Proxy(role::proxy::Arguments),
    /// Run call control by itself; it needs Redis and a database.
    Switchboard(role::switchboard::Arguments),
    /// Run a media agent by itself, with a dataplane beside it; it needs Redis and a database.
    Media(role::media::Arguments),
    /// Run the HTTP gateway by itself; it needs Redis and a database.
    Api(role::api::Arguments),
    /// See and change the database's schema.
    #[command(subcommand)]
    Migrate(migrate::Command),
    /// List, add and change extensions.
    #[command(subcommand)]
    Extension(extension::Command),
    /// Watch workers and streams, worst first.
    Top(top::Arguments),
    /// Explain one stream, and why it is silent.
    Stream(stream::Arguments),
    /// Write one stream's packets to a file.
    Capture(capture::Arguments),
    /// Compare this host with a tuning profile, and make it so.
    #[command(subcommand)]
    Tune(tune::Command),
}

fn main() -> ExitCode {
    let arguments: Arguments = match command_line::parse() {
        Ok(arguments) => arguments,
        Err(code) => return ExitCode::from(code),
    };
    // The database holds the hashes that phones authenticate with: what is made here is its owner's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Those that look at a dataplane or a host need nothing of what follows.
    let looked = match &arguments.command {
        Command::Top(arguments) => Some(top::run(arguments).map(|()| ExitCode::SUCCESS)),
        Command::Stream(arguments) => Some(stream::run(arguments).map(|()| ExitCode::SUCCESS)),
        Command::Capture(arguments) => Some(capture::run(arguments).map(|()| ExitCode::SUCCESS)),
        Command::Tune(command) => Some(tune::run(command)),
        _ => None,
    };
    if let Some(looked) = looked {
        return looked.unwrap_or_else(|e| fail(&chain(&e)));
    }
    // One thread: the roles are a few actors that wake each other many times a call, and a wake-up across threads costs
    // more than most of what they do. SQLite and the log have threads of their own.
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return fail(&format!("cannot start: {e}")),
    };
    let result = runtime.block_on(async {
        match arguments.command {
            Command::Up(arguments) => up::run(arguments).await,
            Command::Proxy(arguments) => role::proxy::run(arguments).await,
            Command::Switchboard(arguments) => role::switchboard::run(arguments).await,
            Command::Media(arguments) => role::media::run(arguments).await,
            Command::Api(arguments) => role::api::run(arguments).await,
            Command::Migrate(command) => migrate::run(command).await,
            Command::Extension(command) => extension::run(command).await,
            Command::Top(_) | Command::Stream(_) | Command::Capture(_) | Command::Tune(_) => Ok(()), // done above
        }
    });
    // What still runs was told to end, or shall not hold up the end.
    runtime.shutdown_background();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) if e.is::<process::Stopped>() => ExitCode::SUCCESS,
        Err(e) => {
            let code = fail(&chain(&e));
            if e.is::<process::Fenced>() { ExitCode::from(FENCED) } else { code }
        }
    }
}

/// The exit code of a process whose name another one took: a supervisor must not start it again, or the two would fight.
const FENCED: u8 = 3;

/// An error and its causes, those that it doesn't name itself.
fn chain(error: &anyhow::Error) -> String {
    error
        .chain()
        .skip(1)
        .map(ToString::to_string)
        .fold(error.to_string(), |told, cause| if told.contains(&cause) { told } else { format!("{told}: {cause}") })
}

/// One line that says what is wrong, and exit code 1.
fn fail(why: &str) -> ExitCode {
    eprintln!("nebula: {}", why.replace('\n', " "));
    ExitCode::FAILURE
}
