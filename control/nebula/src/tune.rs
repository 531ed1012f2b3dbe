//! `nebula tune`: the host against a profile.

use nebula_operate::tune;
use std::process::ExitCode;

pub use nebula_operate::tune::Command;

/// Compares, changes or puts back; the exit code says whether something is off.
pub fn run(command: &Command) -> anyhow::Result<ExitCode> {
    tune::run(command).map(ExitCode::from)
}
