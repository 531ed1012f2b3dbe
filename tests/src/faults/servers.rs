//! Redis and Postgres of a scenario's own, on free ports in temporary folders, that can be frozen, killed and started again.

use crate::process::Process;
use crate::{free_port, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// How a server is taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Away {
    /// It stops answering, its connections stay open.
    Frozen,
    /// It is gone, and (Redis) all that it knew with it.
    Killed,
}

/// A server of either kind.
pub struct Server {
    folder: TempDir,
    port: u16,
    process: Option<Process>,
    kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Redis,
    Postgres,
}

impl Server {
    /// A Redis that keeps nothing on disk: killed, it has lost all.
    pub fn redis() -> Self {
        Self::start(Kind::Redis)
    }

    /// A Postgres with an empty database `postgres`.
    pub fn postgres() -> Self {
        Self::start(Kind::Postgres)
    }

    fn start(kind: Kind) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Self { folder, port: free_port(), process: None, kind };
        if kind == Kind::Postgres {
            server.initdb();
        }
        server.launch();
        server
    }

    /// Where it is.
    pub fn url(&self) -> String {
        match self.kind {
            Kind::Redis => format!("redis://127.0.0.1:{}/0", self.port),
            Kind::Postgres => format!("postgres://nebula@127.0.0.1:{}/postgres", self.port),
        }
    }

    fn initdb(&self) {
        let folder = self.folder.path();
        // Postgres doesn't run as root: its own user must get through to the data.
        std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).expect("chmod");
        let data = folder.join("data");
        std::fs::create_dir(&data).expect("a folder");
        let (uid, gid) = postgres_user();
        std::os::unix::fs::chown(&data, Some(uid), Some(gid)).expect("chown");
        let mut command = as_postgres("initdb");
        command.args(["--auth=trust", "--username=nebula", "--no-sync", "-D"]).arg(&data);
        let output = command.output().expect("initdb; `make test` installs it");
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn launch(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.folder.path().join("log"));
        let log = log.expect("a log file");
        let port = self.port.to_string();
        let mut command = match self.kind {
            Kind::Redis => {
                let mut command = Command::new("redis-server");
                command.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
                command.arg("--dir").arg(self.folder.path());
                command
            }
            Kind::Postgres => {
                let data = self.folder.path().join("data");
                let mut command = as_postgres("postgres");
                command.args(["-p", &port, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-D"]).arg(&data);
                command.arg("-k").arg(&data);
                command
            }
        };
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let mut process = Process::spawn(command);
        wait_for("a server to listen", START_DEADLINE, || {
            assert!(process.runs(), "{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
            TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).ok()
        });
        if self.kind == Kind::Postgres {
            wait_for("Postgres to answer", START_DEADLINE, || self.query("select 1"));
        }
        self.process = Some(process);
    }

    /// Takes it away.
    pub fn leave(&mut self, how: Away) {
        match how {
            Away::Frozen => self.signal_all(Signal::STOP),
            Away::Killed => {
                let all = self.pids();
                self.signal_all(Signal::KILL);
                self.process = None;
                // Its children see that it is gone; only then may another start on its data.
                wait_for("the server's end", START_DEADLINE, || {
                    all.iter().all(|pid| !Path::new(&format!("/proc/{pid}")).exists()).then_some(())
                });
            }
        }
    }

    /// Brings it back.
    pub fn come_back(&mut self, from: Away) {
        match from {
            Away::Frozen => self.signal_all(Signal::CONT),
            Away::Killed => self.launch(),
        }
    }

    /// The main process, and those that it has started.
    fn pids(&self) -> Vec<i32> {
        let main = self.process.as_ref().expect("running").pid();
        let children = std::fs::read_to_string(format!("/proc/{main}/task/{main}/children")).unwrap_or_default();
        std::iter::once(main).chain(children.split_whitespace().filter_map(|pid| pid.parse().ok())).collect()
    }

    fn signal_all(&self, signal: Signal) {
        for pid in self.pids().into_iter().filter_map(Pid::from_raw) {
            // A child may have ended a moment ago.
            kill_process(pid, signal).ok();
        }
    }

    /// What Postgres answers to a query, a line a row; none if it doesn't.
    pub fn query(&self, sql: &str) -> Option<String> {
        let mut command = Command::new("psql");
        command.args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql, &self.url()]);
        let output = command.output().expect("psql; `make test` installs it");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            // A frozen one doesn't die of anything else, nor do its children by themselves.
            self.signal_all(Signal::KILL);
        }
    }
}

/// A program of Postgres, as the user that owns its data.
fn as_postgres(program: &str) -> Command {
    let path = postgres_program(program);
    if !rustix::process::geteuid().is_root() {
        return Command::new(path);
    }
    let (uid, gid) = postgres_user();
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={uid}"), &format!("--regid={gid}"), "--clear-groups"]).arg(path);
    command
}

/// Who runs Postgres: its own user, or we ourselves if we aren't root.
fn postgres_user() -> (u32, u32) {
    if !rustix::process::geteuid().is_root() {
        return (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("/etc/passwd");
    let ids = users.lines().find_map(|line| {
        let mut fields = line.strip_prefix("postgres:")?.split(':').skip(1);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    });
    ids.expect("the user postgres; `make test` installs it")
}

/// The newest one that is installed.
fn postgres_program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = versions.map(|version| version.path().join("bin").join(name)).collect();
    paths.sort();
    paths.pop().unwrap_or_else(|| PathBuf::from(name))
}
