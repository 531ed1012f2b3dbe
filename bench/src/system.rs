//! A whole Nebula under measurement: embedded in one process, or as three over Redis and Postgres.

use crate::process::{Process, cpu_time, resident_bytes};
use crate::servers::Server;
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Of all extensions.
pub const PASSWORD: &str = "bench-password";

const START_DEADLINE: Duration = Duration::from_secs(30);

/// The extensions that a fleet is given; an embedded system makes its own.
const EXTENSIONS: [&str; 2] = ["1000", "1001"];

/// One process of ours.
pub struct Part {
    /// `up`, `proxy`, `switchboard` or `media`.
    pub name: &'static str,
    process: Option<Process>,
    folder: PathBuf,
    runtime: Value,
}

/// A running system. All of it ends when dropped.
pub struct System {
    /// Its processes of control.
    pub parts: Vec<Part>,
    servers: Vec<(&'static str, Server)>,
    binaries: PathBuf,
    environment: Vec<(&'static str, String)>,
    _folder: TempDir,
}

impl System {
    /// `nebula up`.
    pub fn embedded(binaries: &Path) -> Result<Self> {
        Self::start(binaries, &["up"], Vec::new(), Vec::new())
    }

    /// `nebula proxy`, `switchboard` and `media`.
    pub fn fleet(binaries: &Path) -> Result<Self> {
        let (redis, postgres) = (Server::redis()?, Server::postgres()?);
        let environment =
            vec![("NEBULA__REDIS__URL", redis.url.clone()), ("NEBULA__DATABASE__URL", postgres.url.clone())];
        let servers = vec![("redis", redis), ("postgres", postgres)];
        Self::start(binaries, &["proxy", "switchboard", "media"], servers, environment)
    }

    fn start(
        binaries: &Path,
        names: &[&'static str],
        servers: Vec<(&'static str, Server)>,
        mut environment: Vec<(&'static str, String)>,
    ) -> Result<Self> {
        environment.push(("NEBULA__NETWORK__BIND_IP", "127.0.0.1".to_owned()));
        environment.push(("NEBULA_DEMO_PASSWORD", PASSWORD.to_owned()));
        let folder = tempfile::tempdir()?;
        let part =
            |name: &&'static str| Part { name, process: None, folder: folder.path().join(name), runtime: Value::Null };
        let parts = names.iter().map(part).collect();
        let mut system = Self { parts, servers, binaries: binaries.to_owned(), environment, _folder: folder };
        if !system.servers.is_empty() {
            system.operate(&["migrate", "up"])?;
            for user in EXTENSIONS {
                system.operate(&["extension", "add", user, "--password", PASSWORD])?;
            }
        }
        for at in 0..system.parts.len() {
            system.launch(at)?;
            system.ready(at)?;
        }
        Ok(system)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(self.binaries.join("nebula"));
        command.envs(self.environment.iter().map(|(key, value)| (key, value))).stdin(Stdio::null());
        command
    }

    fn operate(&self, arguments: &[&str]) -> Result<()> {
        let mut command = self.command();
        command.args(arguments).arg("--state").arg(self._folder.path().join("operator")).stdout(Stdio::null());
        let status = command.status().context("nebula")?;
        ensure!(status.success(), "nebula {} ended with {status}", arguments.join(" "));
        Ok(())
    }

    /// Starts a part (again), and doesn't wait for it.
    pub fn launch(&mut self, at: usize) -> Result<()> {
        let mut command = self.command();
        let part = &mut self.parts[at];
        std::fs::create_dir_all(&part.folder)?;
        let log = std::fs::File::options().create(true).append(true).open(part.folder.join("log"))?;
        command.arg(part.name).arg("--state").arg(&part.folder).stdout(log.try_clone()?).stderr(log);
        let ports: &[&str] = match part.name {
            "up" => &["--sip-port", "--http-port", "--proxy-port", "--switchboard-port", "--media-port"],
            "proxy" => &["--sip-port", "--admin-port"],
            _ => &["--admin-port"],
        };
        for port in ports {
            command.args([port, "0"]);
        }
        part.process = Some(Process::spawn(command).context("nebula")?);
        Ok(())
    }

    /// Waits until a part is ready.
    pub fn ready(&mut self, at: usize) -> Result<()> {
        let part = &mut self.parts[at];
        let process = part.process.as_mut().context("not started")?;
        let name = if part.name == "up" { "nebula" } else { part.name };
        let (file, end) = (part.folder.join(format!("{name}.json")), Instant::now() + START_DEADLINE);
        loop {
            let runtime = std::fs::read(&file).ok().and_then(|text| serde_json::from_slice::<Value>(&text).ok());
            if let Some(runtime) = runtime.filter(|runtime| runtime["pid"] == process.pid()) {
                part.runtime = runtime;
                return Ok(());
            }
            if process.ended() || Instant::now() > end {
                bail!("{name} does not come up:\n{}", std::fs::read_to_string(part.folder.join("log"))?);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// `kill -9`.
    pub fn kill(&mut self, at: usize) {
        self.parts[at].process = None;
    }

    /// Where phones reach it.
    pub fn sip(&self) -> Result<String> {
        let told = self.parts.iter().find_map(|part| part.runtime["sip"].as_str());
        Ok(told.context("no SIP address")?.replace("0.0.0.0", "127.0.0.1"))
    }

    /// Where a role of a part answers RPCs.
    pub fn admin(&self, at: usize, role: &str) -> Result<String> {
        Ok(self.parts[at].runtime[role].as_str().context("no admin address")?.to_owned())
    }

    fn pids(&self) -> Vec<(&'static str, u32)> {
        let own = self.parts.iter().filter_map(|part| Some((part.name, part.process.as_ref()?.pid())));
        let dataplane = self.parts.iter().find_map(|part| part.runtime["dataplane_pid"].as_u64());
        let dataplane = dataplane.and_then(|pid| Some(("dataplane", u32::try_from(pid).ok()?)));
        let servers = self.servers.iter().map(|(name, server)| (*name, server.pid()));
        own.chain(dataplane).chain(servers).collect()
    }

    /// What each process has used of the CPU, its children too.
    pub fn cpu(&self) -> Result<BTreeMap<&'static str, Duration>> {
        let mut used = BTreeMap::new();
        for (name, pid) in self.pids() {
            // The backends of Postgres are processes.
            let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            let backends = children.split_whitespace().filter_map(|child| child.parse().ok());
            let is_server = name == "postgres";
            let all = std::iter::once(pid).chain(backends.filter(|_| is_server));
            // One that has just ended has used what nobody counts.
            let sum = all.filter_map(|pid| cpu_time(pid).ok()).sum();
            used.insert(name, sum);
        }
        Ok(used)
    }

    /// Resident memory of our processes of control, together.
    pub fn control_bytes(&self) -> Result<u64> {
        let pids = self.parts.iter().filter_map(|part| Some(part.process.as_ref()?.pid()));
        pids.map(resident_bytes).sum()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        let dataplanes = self.parts.iter().filter_map(|part| part.runtime["dataplane_pid"].as_i64());
        let pids: Vec<i32> = dataplanes.filter_map(|pid| pid.try_into().ok()).collect();
        self.parts.clear();
        // A dataplane outlives its control on purpose; here it has done its work.
        for pid in pids.into_iter().filter_map(rustix::process::Pid::from_raw) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
    }
}

/// One RPC by HTTP; whether it was answered with a result.
pub fn rpc(address: &str, method: &str, params: &Value) -> bool {
    ask(address, method, params).is_some_and(|answer| answer.contains("\"result\""))
}

/// Whether somebody answers RPCs at all, if only to say that there is no such method (JSON-RPC 2.0 section 5.1).
pub fn answers(address: &str, method: &str) -> bool {
    ask(address, method, &serde_json::json!({})).is_some_and(|answer| answer.contains("-32601"))
}

fn ask(address: &str, method: &str, params: &Value) -> Option<String> {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        let body = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }).to_string();
        let length = body.len();
        write!(
            stream,
            "POST /rpc HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().ok()
}
