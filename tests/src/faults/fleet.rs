//! Roles as processes over a Redis and a Postgres of their own, and a tiny supervisor that starts again what was killed.

use super::servers::Server;
use crate::process::{Process, binary, favour};
use crate::system::{PASSWORD, run};
use crate::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_DEADLINE: Duration = Duration::from_secs(30);

/// RTP ports of a media agent.
const RTP_PORTS: u16 = 4_000;

/// A role's process.
pub struct Role {
    /// `proxy`, `switchboard` or `media`.
    pub role: &'static str,
    node: String,
    folder: PathBuf,
    process: Option<Process>,
    runtime: Value,
}

/// A whole fleet. All of it ends when dropped.
pub struct Fleet {
    /// The roles, by their place in `start`.
    pub roles: Vec<Role>,
    /// The bus, and what is kept.
    pub redis: Server,
    /// The store.
    pub postgres: Server,
    folder: TempDir,
    environment: Vec<(String, String)>,
}

impl Fleet {
    /// Starts servers and these roles, for example `&["proxy", "switchboard", "media"]`.
    pub fn start(roles: &[&'static str], environment: &[(&str, &str)]) -> Self {
        let (redis, postgres) = (Server::redis(), Server::postgres());
        let folder = tempfile::tempdir().expect("a temporary folder");
        let own = [
            ("NEBULA__REDIS__URL", redis.url()),
            ("NEBULA__DATABASE__URL", postgres.url()),
            ("NEBULA__NETWORK__BIND_IP", "127.0.0.1".to_owned()),
            ("NEBULA__TUNING__DRAIN_TIMEOUT_S", "1".to_owned()),
        ];
        let given = environment.iter().map(|(key, value)| (*key, (*value).to_owned()));
        let environment = own.into_iter().chain(given).map(|(key, value)| (key.to_owned(), value)).collect();
        let mut fleet = Self { roles: Vec::new(), redis, postgres, folder, environment };
        fleet.nebula(&["migrate", "up"]);
        for user in 1000..1004 {
            fleet.nebula(&["extension", "add", &user.to_string(), "--password", PASSWORD]);
        }
        for role in roles {
            let at = fleet.add(role);
            fleet.launch(at);
        }
        for at in 0..fleet.roles.len() {
            fleet.ready(at);
        }
        fleet
    }

    /// A command to its end, on this fleet's servers.
    fn nebula(&self, arguments: &[&str]) {
        let mut command = Command::new(binary("nebula"));
        command.args(arguments).arg("--state").arg(self.folder.path().join("operator"));
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        let (status, _, error) = run(command);
        assert!(status.success(), "nebula {}: {error}", arguments.join(" "));
    }

    /// One more role, of a node of its own, not started yet; its place.
    pub fn add(&mut self, role: &'static str) -> usize {
        let node = format!("n{}", self.roles.len());
        let folder = self.folder.path().join(format!("{role}-{node}"));
        self.roles.push(Role { role, node, folder, process: None, runtime: Value::Null });
        self.roles.len() - 1
    }

    /// Starts a role, and doesn't wait for it.
    pub fn launch(&mut self, at: usize) {
        let role = &mut self.roles[at];
        std::fs::create_dir_all(&role.folder).expect("a folder");
        let log = std::fs::File::options().create(true).append(true).open(role.folder.join("log")).expect("a log");
        let mut command = Command::new(binary("nebula"));
        command.arg(role.role).arg("--state").arg(&role.folder).args(["--node", &role.node, "--admin-port", "0"]);
        match role.role {
            "proxy" => {
                command.args(["--sip-port", "0"]);
            }
            "media" => {
                let first = 10_000 + RTP_PORTS * at as u16 % 40_000;
                command.args(["--rtp-port-min", &first.to_string()]);
                command.args(["--rtp-port-max", &(first + RTP_PORTS - 1).to_string()]);
            }
            _ => {}
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        role.process = Some(Process::spawn(command));
    }

    /// Waits until a role is ready.
    pub fn ready(&mut self, at: usize) {
        let role = &mut self.roles[at];
        let process = role.process.as_mut().expect("started");
        let file = role.folder.join(format!("{}.json", role.role));
        role.runtime = wait_for(&format!("{} {}", role.role, role.node), START_DEADLINE, || {
            assert!(
                process.runs(),
                "it ended:\n{}",
                std::fs::read_to_string(role.folder.join("log")).unwrap_or_default()
            );
            let runtime: Value = serde_json::from_slice(&std::fs::read(&file).ok()?).ok()?;
            (runtime["pid"] == process.pid()).then_some(runtime)
        });
        if let Some(dataplane) = self.dataplane_pid(at) {
            favour(dataplane);
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self, at: usize) {
        self.roles[at].process = None;
    }

    /// Sends a signal.
    pub fn signal(&self, at: usize, signal: Signal) {
        self.roles[at].process.as_ref().expect("running").signal(signal);
    }

    /// The places of a role.
    pub fn all(&self, role: &str) -> Vec<usize> {
        (0..self.roles.len()).filter(|at| self.roles[*at].role == role && self.roles[*at].process.is_some()).collect()
    }

    /// Where phones reach it.
    pub fn sip(&self) -> Vec<SocketAddr> {
        let proxies = self.roles.iter().filter(|role| role.role == "proxy");
        proxies.map(|role| role.runtime["sip"].as_str().expect("sip").parse().expect("an address")).collect()
    }

    /// The dataplane of a media agent.
    pub fn dataplane_pid(&self, at: usize) -> Option<i32> {
        self.roles[at].runtime["dataplane_pid"].as_i64()?.try_into().ok()
    }

    /// The sum of a metric over its labels, of one role.
    pub fn metric(&self, at: usize, name: &str) -> f64 {
        let role = &self.roles[at];
        let address = role.runtime[role.role].as_str().expect("an address");
        crate::system::metric(&crate::system::text(&format!("http://{address}/metrics")), name)
    }

    /// The same once it is as wanted, or after half a minute.
    pub fn metric_when(&self, at: usize, name: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let end = Instant::now() + START_DEADLINE;
        loop {
            let value = self.metric(at, name);
            if wanted(value) || Instant::now() >= end {
                return value;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// All records, when there are at least so many.
    pub fn wait_for_records(&self, n: usize, deadline: Duration) -> Vec<Value> {
        wait_for(&format!("{n} call records"), deadline, || {
            let rows = self.postgres.query("select row_to_json(cdrs) from cdrs")?;
            let records: Vec<Value> = rows.lines().filter_map(record).collect();
            (records.len() >= n).then_some(records)
        })
    }

    /// What all of them have printed.
    pub fn logs(&self) -> String {
        let log = |role: &Role| {
            let text = std::fs::read_to_string(role.folder.join("log")).unwrap_or_default();
            format!("--- {} {}\n{text}", role.role, role.node)
        };
        self.roles.iter().map(log).collect()
    }
}

/// A row of `cdrs`, whose legs are JSON in a text.
fn record(row: &str) -> Option<Value> {
    let mut record: Value = serde_json::from_str(row).ok()?;
    record["legs"] = serde_json::from_str(record["legs"].as_str()?).ok()?;
    Some(record)
}

impl Drop for Fleet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        self.roles.iter_mut().for_each(|role| role.process = None);
        // Dataplanes outlive their agents on purpose.
        for pid in crate::system::running_in(self.folder.path()).into_iter().filter_map(Pid::from_raw) {
            kill_process(pid, Signal::KILL).ok();
        }
    }
}
