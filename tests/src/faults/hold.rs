//! `nebula-load hold`, driven: calls that a scenario holds while it breaks things.

use crate::process::{Process, binary, favour};
use crate::system::PASSWORD;
use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

const START_DEADLINE: Duration = Duration::from_secs(40);

/// What it has printed.
type Said = Arc<(Mutex<Vec<Value>>, Condvar)>;

/// A running one.
pub struct Hold {
    process: Process,
    input: ChildStdin,
    lines: u64,
    said: Said,
}

impl Hold {
    /// Registers both extensions; `arguments` are more of `nebula-load hold`'s.
    pub fn start(servers: &[SocketAddr], arguments: &[&str]) -> Self {
        let mut command = Command::new(binary("nebula-load"));
        command.args(["hold", "--password", PASSWORD]).args(arguments);
        for server in servers {
            command.args(["--server", &server.to_string()]);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = Process::spawn(command);
        let (input, output) = process.pipes().expect("pipes were asked for");
        let said = Said::default();
        let hears = said.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&line) else { continue };
                hears.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                hears.1.notify_all();
            }
        });
        let hold = Self { process, input, lines: 0, said };
        hold.wait("both extensions to be registered", START_DEADLINE, |line| line["event"] == "ready");
        favour(hold.process.pid());
        hold
    }

    /// Begins a line and doesn't wait for it; its number.
    pub fn begin(&mut self, line: &str) -> u64 {
        writeln!(self.input, "{line}").and_then(|()| self.input.flush()).expect("nebula-load listens");
        self.lines += 1;
        self.lines
    }

    /// Waits until a line is done: what it came to.
    pub fn done(&self, line: u64, deadline: Duration) -> Value {
        let done = self.wait("a line to be done", deadline, |said| said["event"] == "done" && said["of"] == line);
        assert!(done["error"].is_null(), "{done}");
        done
    }

    /// Both.
    pub fn run(&mut self, line: &str, deadline: Duration) -> Value {
        let number = self.begin(line);
        self.done(number, deadline)
    }

    /// All that it has said of one kind.
    pub fn events(&self, kind: &str) -> Vec<Value> {
        let said = self.said.0.lock().unwrap_or_else(PoisonError::into_inner);
        said.iter().filter(|line| line["event"] == kind).cloned().collect()
    }

    /// Its resident memory and its CPU are not what is measured; its pid is for those who look.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// Waits for something that it says, or has said.
    pub fn wait(&self, what: &str, deadline: Duration, is_it: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + deadline;
        let mut said = self.said.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = 0;
        loop {
            if let Some(found) = said[seen..].iter().find(|line| is_it(line)) {
                return found.clone();
            }
            seen = said.len();
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "waited {deadline:?} for {what}");
            (said, _) = self.said.1.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner);
        }
    }
}
