//! A Redis of the test's own, and roles as processes: in temporary folders, on free ports, gone with the test.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const READY_BY: Duration = Duration::from_secs(30);

/// Waits until something is there; panics with its name if it does not come.
#[track_caller]
pub fn wait_for<T>(what: &str, within: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let by = Instant::now() + within;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < by, "waited {within:?} for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// `nebula ...` on a state folder, without any configuration of the host.
pub fn nebula(arguments: &[&str], state: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nebula"));
    command.args(arguments).arg("--state").arg(state).stdin(Stdio::null());
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("NEBULA__")) {
        command.env_remove(name);
    }
    command
}

pub fn kill(pid: i64) {
    let pid = Pid::from_raw(pid.try_into().expect("a pid")).expect("a pid");
    kill_process(pid, Signal::KILL).expect("it ran");
}

/// SIGTERM.
pub fn terminate(child: &Child) {
    kill_process(Pid::from_child(child), Signal::TERM).expect("it runs");
}

/// Whether a process runs; one that has ended and was not reaped does not.
pub fn runs(pid: i64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

/// A server that persists nothing.
pub struct Redis {
    folder: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Redis {
    pub fn start() -> Self {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a free port").port();
        let mut redis = Self { folder: tempfile::tempdir().expect("a folder"), port, child: None };
        redis.again();
        redis
    }

    /// Starts it on its port again.
    pub fn again(&mut self) {
        self.child = Some(self.serve());
    }

    /// One on the same port, which is the caller's.
    pub fn another(&self) -> Server {
        Server(self.serve())
    }

    /// From now on it takes nobody without this password.
    pub fn require_password(&self, password: &str) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        write!(stream, "CONFIG SET requirepass {password}\r\n").expect("sent");
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer, b"+OK\r\n");
    }

    fn serve(&self) -> Child {
        let mut command = Command::new("redis-server");
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--dir").arg(self.folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().expect("redis-server; run `scripts/install test`");
        wait_for("Redis", READY_BY, || TcpStream::connect(("127.0.0.1", self.port)).ok());
        child
    }

    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().and_then(|()| child.wait()).expect("it ended");
    }

    /// What makes a command part of this fleet, with the database in `folder`.
    pub fn configure(&self, mut command: Command, folder: &Path) -> Command {
        command.env("NEBULA__REDIS__URL", format!("redis://127.0.0.1:{}", self.port));
        command.env("NEBULA__DATABASE__URL", format!("sqlite://{}", folder.join("shared.db").display()));
        command.env("NEBULA__NETWORK__BIND_IP", "127.0.0.1").env("NEBULA__NETWORK__NODE", "one");
        command
    }

    /// A folder with a database.
    pub fn with_schema(&self) -> TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let run = self.configure(nebula(&["migrate", "up"], folder.path()), folder.path()).output().expect("nebula");
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        folder
    }
}

/// Ends with its owner.
pub struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A role that is ready.
pub struct Role {
    child: Child,
    folder: PathBuf,
    name: String,
    reaped: bool,
}

impl Role {
    pub fn start(redis: &Redis, folder: &Path, arguments: &[&str]) -> Self {
        Self::start_with(redis, folder, arguments, &[])
    }

    pub fn start_with(redis: &Redis, folder: &Path, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let name = arguments[0].to_owned();
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).expect("a log");
        let mut command = redis.configure(nebula(arguments, folder), folder);
        command.args(["--admin-port", "0"]).envs(environment.iter().copied());
        if name == "media" {
            command.arg("--dataplane").arg(dataplane());
        }
        let child = command.stdout(log.try_clone().expect("dup")).stderr(log).spawn().expect("nebula");
        // What the last process left, if it was killed, has another pid.
        let pid = i64::from(child.id());
        let mut role = Self { child, folder: folder.to_owned(), name, reaped: false };
        wait_for("the role", READY_BY, || {
            let ended = role.child.try_wait().expect("a child");
            assert!(ended.is_none(), "{ended:?}: {}", role.log());
            role.read().filter(|runtime| runtime["pid"] == pid)
        });
        role
    }

    fn read(&self) -> Option<Value> {
        serde_json::from_slice(&std::fs::read(self.folder.join(format!("{}.json", self.name))).ok()?).ok()
    }

    /// What it says of itself.
    pub fn runtime(&self) -> Value {
        self.read().expect("a runtime file")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// `GET` on one of its ports: status and body.
    pub fn get(&self, port: &str, path: &str) -> (u16, String) {
        let runtime = self.runtime();
        let address = runtime[port].as_str().expect("an address");
        let mut stream = TcpStream::connect(address).expect("a connection");
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a body");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
        (status, body.to_owned())
    }

    pub fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("it ended");
        self.reaped = true;
    }

    pub fn terminate(&self) {
        terminate(&self.child);
    }

    /// Waits for its end.
    pub fn ends(&mut self, within: Duration) -> ExitStatus {
        let status = wait_for("its end", within, || self.child.try_wait().expect("a child"));
        self.reaped = true;
        status
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let dataplane = self.read().and_then(|runtime| runtime["dataplane_pid"].as_i64());
        if !self.reaped {
            // It may have ended.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        // A dataplane outlives its agent on purpose; one that a later process has adopted is that one's to end.
        let is_left = self.read().is_some_and(|runtime| runtime["pid"] == i64::from(self.child.id()));
        if let Some(pid) = dataplane.filter(|pid| is_left && runs(*pid)) {
            kill(pid);
        }
    }
}

/// The dataplane's program, which the build of the workspace leaves beside ours.
fn dataplane() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_nebula")).with_file_name("nebula-dataplane");
    assert!(program.exists(), "build nebula-dataplane first: cargo build -p nebula-dataplane");
    program
}
