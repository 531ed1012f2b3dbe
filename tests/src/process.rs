//! A child process that doesn't outlive its test.

use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus};
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

    /// Its standard input and output, if it was given pipes for them and nobody took them yet.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
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

/// One of our own binaries, built beside the test, or the program, that runs.
pub fn binary(name: &str) -> PathBuf {
    let us = std::env::current_exe().expect("a test has a path");
    // target/PROFILE/deps/TEST, or target/PROFILE/PROGRAM.
    let folders = us.ancestors().skip(1).take(2);
    let path = folders.map(|folder| folder.join(name)).find(|path| path.exists());
    path.unwrap_or_else(|| panic!("{name} is not built beside {}; `make test` builds it", us.display()))
}

/// Lets a process, all its threads, go before others where the host allows it (systemd does so for a dataplane that is
/// installed): what is measured is what it does, not what else the host is busy with.
pub fn favour(pid: i32) {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| Pid::from_raw(thread.file_name().to_str()?.parse().ok()?)).for_each(favour_thread);
}

/// The same for one thread.
pub fn favour_thread(id: Pid) {
    // Not allowed: then it shares the host like everybody.
    rustix::process::setpriority_process(Some(id), FAVOURED).ok();
}

/// The nice value of those who are favoured.
const FAVOURED: i32 = -10;
