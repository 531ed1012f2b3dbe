//! `nebula-load` as a test's many phones.

use crate::process::{Process, binary};
use crate::system::{PASSWORD, System};
use serde_json::Value;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::NamedTempFile;

/// A run under way.
pub struct Load {
    process: Process,
    report: NamedTempFile,
}

impl Load {
    /// Places calls from 1000 with the demo password; `arguments` are more of `nebula-load call`'s, such as `--calls 5`.
    pub fn start(system: &System, arguments: &str) -> Self {
        Self::start_with(system, "1000", PASSWORD, arguments)
    }

    /// As `start`, for another account.
    pub fn start_with(system: &System, from: &str, password: &str, arguments: &str) -> Self {
        let report = NamedTempFile::new().expect("a temporary file");
        let mut command = Command::new(binary("nebula-load"));
        command.args(["call", "--json", "--server", &system.sip().to_string()]);
        command.args(["--from", from, "--password", password]).args(arguments.split_whitespace());
        command.stdin(Stdio::null()).stdout(report.reopen().expect("open")).stderr(Stdio::null());
        Self { process: Process::spawn(command), report }
    }

    /// Waits for its end: its report, or nothing if it could not even register.
    pub fn report(mut self) -> Value {
        self.process.wait(Duration::from_secs(60));
        serde_json::from_slice(&std::fs::read(self.report.path()).expect("a report")).unwrap_or(Value::Null)
    }
}

/// A whole run: `Load::start`, `Load::report`.
pub fn load(system: &System, arguments: &str) -> Value {
    Load::start(system, arguments).report()
}
