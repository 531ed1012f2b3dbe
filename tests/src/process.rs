//! A child process that doesn't outlive its test.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

/// A running program, killed when dropped.
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    /// Starts it. A program that is missing says which `make` target installs it.
    pub fn spawn(mut command: Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().unwrap_or_else(|e| panic!("{name}: {e}; `make test` installs or builds it"));
        Self { child, name }
    }

    /// Its pid.
    pub fn pid(&self) -> i32 {
        self.child.id().cast_signed()
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().expect("a child can be waited for").is_none()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself a moment ago.
        if let Some(pid) = Pid::from_raw(self.pid()) {
            kill_process(pid, signal).ok();
        }
    }

    /// Waits for its end.
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {} ({})", self.name, self.pid());
        crate::wait_for(&what, deadline, || self.child.try_wait().expect("a child can be waited for"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended, which is what we want.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// One of our own binaries, built beside the test that runs.
pub fn binary(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("target/PROFILE/deps/TEST");
    let path = folder.join(name);
    assert!(path.exists(), "{} is not built; `make test` builds it", path.display());
    path
}
