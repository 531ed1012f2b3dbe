//! `nebula tune check|apply|revert`: the host against a profile of `tuning/profiles` and `tuning/sysctl/90-nebula.conf`.
//!
//! `Host` holds the facts, `Profile` the wishes, `check` compares them; these are pure but for the reading. `apply` writes
//! what can be written at run time and keeps what was there, so that `revert` puts it back. What only the kernel's command
//! line or a service manager can change is told as a command and left to people.

mod apply;
mod check;
mod cores;
mod host;
mod irq;
mod profile;

use crate::tune::apply::Outcome;
use anyhow::bail;
pub use apply::{apply, revert};
pub use check::{Finding, Mend, check};
pub use cores::CoreSet;
pub use host::Host;
pub use profile::{Profile, Sysctl};
use std::fmt::Write as _;
use std::path::PathBuf;

/// What to do.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// Compare this host with a profile; exit code 1 if something is off
    Check(Place),
    /// Change what can be changed now, and keep what was there for `revert`
    Apply {
        /// Which profile, which host
        #[command(flatten)]
        place: Place,
        /// Only show what would be changed
        #[arg(long)]
        dry_run: bool,
    },
    /// Put back what `apply` changed
    Revert(Place),
}

/// Which profile, which host.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// laptop, 8-core, 32-core-2-numa, 64-core-conference, xdp-nic, or a file [default: by the number of cores]
    #[arg(long)]
    pub profile: Option<String>,
    /// Where `apply` keeps what was there
    #[arg(long, value_name = "FILE", default_value = "/var/lib/nebula/tune.state")]
    pub state_file: PathBuf,
    /// The host's root folder, under which /proc and /sys are
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// The dataplane whose limits count [default: those of a process started here]
    #[arg(long)]
    pub dataplane_pid: Option<u32>,
}

/// The exit code when something is off.
pub const OFF: u8 = 1;

/// Runs a command; the exit code.
pub fn run(command: &Command) -> anyhow::Result<u8> {
    let (text, code) = answer(command)?;
    // A reader that has gone (`| head`) is no failure.
    let _ = std::io::Write::write_all(&mut std::io::stdout(), text.as_bytes());
    Ok(code)
}

fn answer(command: &Command) -> anyhow::Result<(String, u8)> {
    match command {
        Command::Check(place) => {
            let (profile, findings) = findings(place)?;
            Ok((told(&profile, &findings), if findings.is_empty() { 0 } else { OFF }))
        }
        Command::Apply { place, dry_run } => {
            let (profile, findings) = findings(place)?;
            let (now, by_hand): (Vec<_>, Vec<_>) = findings.into_iter().partition(|it| it.mend.file().is_some());
            let mut text = String::new();
            let mut failed = false;
            if *dry_run {
                for finding in &now {
                    let _ = writeln!(text, "would: {}  # {} is {}", finding.mend.command(), finding.what, finding.is);
                }
            } else {
                let outcomes = apply(&place.root, &place.state_file, &now)?;
                failed = outcomes.iter().any(Outcome::is_failure);
                for outcome in &outcomes {
                    let _ = writeln!(text, "{outcome}");
                }
            }
            for finding in &by_hand {
                let _ = writeln!(text, "by hand: {}  # {} is {}", finding.mend.command(), finding.what, finding.is);
            }
            if text.is_empty() {
                let _ = writeln!(text, "nothing to do: this host is as profile {} wants it", profile.name);
            }
            Ok((text, if failed { OFF } else { 0 }))
        }
        Command::Revert(place) => {
            let outcomes = revert(&place.root, &place.state_file)?;
            if outcomes.is_empty() {
                return Ok((format!("nothing to put back: {} is not there\n", place.state_file.display()), 0));
            }
            let failed = outcomes.iter().any(Outcome::is_failure);
            let lines: Vec<String> = outcomes.iter().map(|it| format!("{it}\n")).collect();
            Ok((lines.concat(), if failed { OFF } else { 0 }))
        }
    }
}

fn findings(place: &Place) -> anyhow::Result<(Profile, Vec<Finding>)> {
    let sysctls = profile::sysctls();
    let host = Host::read(&place.root, place.dataplane_pid)?;
    let profile = match &place.profile {
        Some(name) => Profile::load(name)?,
        None => Profile::for_cores(host.cores.len(), host.nodes.len())?,
    };
    if host.cores.is_empty() {
        bail!("{} shows no cores: is it the root of a Linux host?", place.root.display());
    }
    let findings = check(&host, &profile, &sysctls);
    Ok((profile, findings))
}

fn told(profile: &Profile, findings: &[Finding]) -> String {
    let mut text = format!("profile {}: {}\n", profile.name, profile.summary);
    for finding in findings {
        let _ = writeln!(text, "\n{}: is {}, should be {}", finding.what, finding.is, finding.wanted);
        let _ = writeln!(text, "  why:  {}", finding.why);
        let _ = writeln!(text, "  mend: {}", finding.mend.command());
    }
    let sum =
        if findings.is_empty() { "nothing is off".to_owned() } else { format!("{} things are off", findings.len()) };
    let _ = writeln!(text, "\n{sum}");
    text
}
