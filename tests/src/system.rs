//! A whole Nebula: `nebula up` on free ports in a temporary state folder.

use crate::process::{Process, binary};
use crate::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// The password of all demo extensions.
pub const PASSWORD: &str = "correct-horse";

const START_DEADLINE: Duration = Duration::from_secs(30);
const STOP_DEADLINE: Duration = Duration::from_secs(30);

/// A running system. Ended, its dataplane too, when dropped.
pub struct System {
    process: Option<Process>,
    state: TempDir,
    runtime: Value,
}

impl System {
    /// Starts one with the defaults, but for free ports and the known password.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with configuration from the environment, for example `("NEBULA__CALLS__NO_ANSWER_TIMEOUT_S", "2")`.
    pub fn start_with(environment: &[(&str, &str)]) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary folder"), environment)
    }

    /// As `start_with`, in a state folder that is there.
    pub fn start_in(state: TempDir, environment: &[(&str, &str)]) -> Self {
        let mut system = Self { process: None, state, runtime: Value::Null };
        system.launch(environment);
        system
    }

    /// Starts it again in the same state folder, after `stop` or `kill`.
    pub fn restart(&mut self, environment: &[(&str, &str)]) {
        assert!(self.process.is_none(), "it still runs");
        self.launch(environment);
    }

    fn launch(&mut self, environment: &[(&str, &str)]) {
        let runtime_file = self.state.path().join("nebula.json");
        std::fs::remove_file(&runtime_file).ok();
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).expect("a log file");
        let mut command = up(self.state.path());
        command.envs(environment.iter().copied());
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let mut process = Process::spawn(command);
        self.runtime = wait_for("nebula up", START_DEADLINE, || {
            assert!(process.runs(), "nebula up ended:\n{}", self.log());
            serde_json::from_slice(&std::fs::read(&runtime_file).ok()?).ok()
        });
        self.process = Some(process);
    }

    /// What its runtime file says now: another dataplane's pid, for example.
    pub fn refresh(&mut self) {
        let text = std::fs::read(self.state.path().join("nebula.json"));
        if let Some(runtime) = text.ok().and_then(|text| serde_json::from_slice(&text).ok()) {
            self.runtime = runtime;
        }
    }

    /// The state folder.
    pub fn state(&self) -> &Path {
        self.state.path()
    }

    fn log_file(&self) -> std::path::PathBuf {
        self.state.path().join("test.log")
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    /// Its SIP address, UDP and TCP alike.
    pub fn sip(&self) -> SocketAddr {
        self.address("sip")
    }

    /// One of `sip`, `http`, `proxy`, `switchboard` and `media`.
    pub fn address(&self, name: &str) -> SocketAddr {
        let text = self.runtime[name].as_str().unwrap_or_else(|| panic!("nebula.json has no {name}"));
        let address: SocketAddr = text.parse().expect("an address");
        if address.ip().is_unspecified() { (Ipv4Addr::LOCALHOST, address.port()).into() } else { address }
    }

    /// The pid of `nebula up`.
    pub fn pid(&self) -> i32 {
        self.process.as_ref().expect("running").pid()
    }

    /// The pid of its dataplane.
    pub fn dataplane_pid(&self) -> i32 {
        self.dataplane().expect("a pid")
    }

    /// The same, if there is one at the moment.
    pub fn dataplane(&self) -> Option<i32> {
        self.runtime["dataplane_pid"].as_i64()?.try_into().ok()
    }

    /// `GET` on one of its ports, as text.
    pub fn get_text(&self, port: &str, path: &str) -> String {
        text(&format!("http://{}{path}", self.address(port)))
    }

    /// `GET` on the gateway, as JSON.
    pub fn get(&self, path: &str) -> Value {
        serde_json::from_str(&self.get_text("http", path)).expect("JSON")
    }

    /// `POST /rpc` on a role's port: the result, which must be one.
    pub fn rpc(&self, port: &str, method: &str, params: Value) -> Value {
        let request = serde_json::json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let url = format!("http://{}/rpc", self.address(port));
        let mut response = ureq::post(&url).send_json(&request).unwrap_or_else(|e| panic!("{method}: {e}"));
        let response: Value = response.body_mut().read_json().expect("JSON");
        assert!(response["error"].is_null(), "{method} {params}: {response}");
        response["result"].clone()
    }

    /// The call records, newest first.
    pub fn cdrs(&self) -> Vec<Value> {
        self.get("/v1.0/cdrs?limit=10000").as_array().expect("an array").clone()
    }

    /// Waits until there are `n` call records and no live call.
    pub fn wait_for_cdrs(&self, n: usize, deadline: Duration) -> Vec<Value> {
        wait_for(&format!("{n} call records"), deadline, || {
            let calls = self.get("/v1.0/calls").as_array().map_or(0, Vec::len);
            let cdrs = self.cdrs();
            (calls == 0 && cdrs.len() >= n).then_some(cdrs)
        })
    }

    /// The sum of a metric over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        metric(&self.get_text("proxy", "/metrics"), name)
    }

    /// SIGTERM, and how it ended. The dataplane ends with it.
    pub fn stop(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    /// Sends a signal to `nebula up`.
    pub fn signal(&self, signal: Signal) {
        self.process.as_ref().expect("running").signal(signal);
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        self.process.take().expect("running").wait(STOP_DEADLINE)
    }

    /// Waits until so many calls are up, answered.
    pub fn wait_for_talking(&self, n: usize) -> Vec<Value> {
        wait_for(&format!("{n} answered calls"), Duration::from_secs(10), || {
            let calls = self.get("/v1.0/calls").as_array().cloned().unwrap_or_default();
            let talking: Vec<Value> = calls.into_iter().filter(|call| !call["answered_unix_ms"].is_null()).collect();
            (talking.len() == n).then_some(talking)
        })
    }

    /// `kill -9`. The dataplane lives on.
    pub fn kill(&mut self) {
        drop(self.process.take());
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the system printed\n{}", self.log());
            let dataplane = self.state.path().join("dataplane.log");
            eprintln!("--- what its dataplane printed\n{}", std::fs::read_to_string(dataplane).unwrap_or_default());
        }
        drop(self.process.take());
        // The dataplane outlives its control on purpose, be it the first or one that replaced it.
        for pid in running_in(self.state.path()).into_iter().filter_map(Pid::from_raw) {
            // It may have ended a moment ago.
            kill_process(pid, Signal::KILL).ok();
        }
    }
}

/// `GET`, as text.
pub fn text(url: &str) -> String {
    let mut response = ureq::get(url).call().unwrap_or_else(|e| panic!("GET {url}: {e}"));
    response.body_mut().read_to_string().expect("a body")
}

/// The sum of a metric over its labels, in Prometheus' text.
pub fn metric(text: &str, name: &str) -> f64 {
    let values = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| {
        let (key, value) = l.rsplit_once(' ')?;
        (key.split('{').next() == Some(name)).then(|| value.parse::<f64>().ok())?
    });
    values.sum()
}

/// Runs a program of ours to its end: whether it succeeded, its standard output and its standard error.
pub fn run(mut command: Command) -> (ExitStatus, String, String) {
    let file = || tempfile::NamedTempFile::new().expect("a temporary file");
    let (out, err) = (file(), file());
    let open = |file: &tempfile::NamedTempFile| file.reopen().expect("open");
    command.stdin(Stdio::null()).stdout(open(&out)).stderr(open(&err));
    let status = Process::spawn(command).wait(START_DEADLINE);
    let read = |file: &tempfile::NamedTempFile| std::fs::read_to_string(file.path()).expect("text");
    (status, read(&out), read(&err))
}

/// `nebula extension ...` on a state folder, to its end.
pub fn extension(state: &Path, arguments: &[&str]) -> (ExitStatus, String, String) {
    let mut command = Command::new(binary("nebula"));
    command.arg("extension").args(arguments).arg("--state").arg(state);
    run(command)
}

/// Our programs that were told of a folder on their command line: what a system in it has left running. Only ours:
/// what else runs on a host may well name a folder such as `/proc/self`.
pub fn running_in(state: &Path) -> Vec<i32> {
    let ours = binary("nebula").parent().expect("a folder").to_path_buf();
    let state = state.to_string_lossy().into_owned();
    let pids = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let told = |pid: &i32| {
        std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|program| program.starts_with(&ours))
            && std::fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&state))
    };
    pids.filter(told).collect()
}

/// `nebula up` on free ports, not yet started.
pub fn up(state: &Path) -> Command {
    let mut command = Command::new(binary("nebula"));
    command.arg("up").arg("--state").arg(state);
    for port in ["--sip-port", "--http-port", "--proxy-port", "--switchboard-port", "--media-port"] {
        command.args([port, "0"]);
    }
    command.env("NEBULA_DEMO_PASSWORD", PASSWORD);
    command.env("NEBULA__NETWORK__BIND_IP", "127.0.0.1").env("NEBULA__TUNING__DRAIN_TIMEOUT_S", "1");
    command
}
