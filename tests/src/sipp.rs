//! SIPp as caller, callee and registering phone, with the scenarios in `tests/sipp` and with scripts.

use crate::process::Process;
use crate::script;
use crate::system::{PASSWORD, System};
use crate::{free_port, udp_taken, wait_for};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// Where SIPp ends a scenario that hangs.
const SCENARIO_TIMEOUT_S: u64 = 40;

/// UDP or one TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// `u1`
    Udp,
    /// `t1`
    Tcp,
}

/// A SIPp to be started: a phone of an extension that plays a scenario.
pub struct Phone<'a> {
    system: &'a System,
    extension: &'a str,
    scenario: String,
    xml: String,
    service: &'a str,
    calls: u32,
    transport: Transport,
    password: &'a str,
    keys: Vec<(&'static str, String)>,
    more: Vec<String>,
}

impl<'a> Phone<'a> {
    /// One that plays a scenario of `tests/sipp` once, over UDP.
    pub fn new(system: &'a System, extension: &'a str, scenario: &str) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("sipp").join(format!("{scenario}.xml"));
        let xml = std::fs::read_to_string(&source).unwrap_or_else(|e| panic!("{}: {e}", source.display()));
        Self::of_xml(system, extension, scenario, xml)
    }

    /// One that plays a [`script`].
    pub fn scripted(system: &'a System, extension: &'a str, script: &str) -> Self {
        Self::of_xml(system, extension, "of a script", script::compile(script))
    }

    fn of_xml(system: &'a System, extension: &'a str, scenario: &str, xml: String) -> Self {
        let (scenario, service, password) = (scenario.to_owned(), extension, PASSWORD);
        let (calls, transport, keys, more) = (1, Transport::Udp, Vec::new(), Vec::new());
        Self { system, extension, scenario, xml, service, calls, transport, password, keys, more }
    }

    /// What it calls.
    pub fn to(mut self, service: &'a str) -> Self {
        self.service = service;
        self
    }

    /// How often it plays the scenario.
    pub fn calls(mut self, calls: u32) -> Self {
        self.calls = calls;
        self
    }

    /// Over which transport.
    pub fn over(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// Another password than the right one.
    pub fn password(mut self, password: &'a str) -> Self {
        self.password = password;
        self
    }

    /// A keyword of the scenario.
    pub fn key(mut self, name: &'static str, value: String) -> Self {
        self.keys.push((name, value));
        self
    }

    /// A word of the scenario replaced.
    pub fn replace(mut self, word: &str, by: &str) -> Self {
        self.xml = self.xml.replace(word, by);
        self
    }

    /// More of SIPp's options.
    pub fn options(mut self, options: &[&str]) -> Self {
        self.more.extend(options.iter().map(|option| (*option).to_owned()));
        self
    }

    /// Starts it.
    pub fn start(self) -> Sipp {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::write(folder.path().join("scenario.xml"), &self.xml).expect("written");
        let address = SocketAddr::new(self.system.sip().ip(), free_port());
        let ip = if address.is_ipv6() { format!("[{}]", address.ip()) } else { address.ip().to_string() };
        let mut command = Command::new("sipp");
        command.current_dir(folder.path()).args(["-sf", "scenario.xml", "-i", &ip, "-mi", &ip]);
        command.args(["-p", &address.port().to_string(), "-m", &self.calls.to_string(), "-s", self.service]);
        command.args(["-key", "caller", self.extension, "-au", self.extension, "-ap", self.password]);
        self.keys.iter().for_each(|(name, value)| {
            command.args(["-key", name, value]);
        });
        command.args(["-t", if self.transport == Transport::Udp { "u1" } else { "t1" }]);
        command.args(["-mp", &free_port().to_string()]);
        command.args(["-timeout", &format!("{SCENARIO_TIMEOUT_S}s"), "-timeout_error", "-nostdin"]);
        command.args(["-trace_err", "-error_file", "errors.log", "-trace_msg", "-message_file", "messages.log"]);
        command.args(self.more).arg(self.system.sip().to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Sipp { process: Process::spawn(command), folder, scenario: self.scenario, port: address.port() }
    }

    /// Starts it as one that is called: when it listens it is registered, and this returns when the registrar said 200.
    pub fn registered(self) -> Sipp {
        let (system, extension, transport) = (self.system, self.extension, self.transport);
        let sipp = self.start();
        let address = SocketAddr::new(system.sip().ip(), sipp.port);
        let listens = || match transport {
            Transport::Udp => udp_taken(address).then_some(()),
            Transport::Tcp => TcpStream::connect(address).ok().map(drop),
        };
        wait_for("SIPp to listen", Duration::from_secs(10), listens);
        Sipp::register(system, extension, sipp.port, transport);
        sipp
    }
}

/// A SIPp that runs.
pub struct Sipp {
    process: Process,
    folder: TempDir,
    scenario: String,
    /// Its SIP port.
    pub port: u16,
}

impl Sipp {
    /// A phone that registers `extension` with a Contact at `contact_port`; returns when the registrar said 200.
    pub fn register(system: &System, extension: &str, contact_port: u16, transport: Transport) {
        let phone = Phone::new(system, extension, "register").over(transport);
        phone.key("contact_port", contact_port.to_string()).start().succeeds();
    }

    /// A registered phone `extension` that plays `scenario` for `calls` calls.
    pub fn callee(system: &System, scenario: &str, extension: &str, calls: u32, transport: Transport) -> Self {
        Phone::new(system, extension, scenario).calls(calls).over(transport).registered()
    }

    /// Extension `from` calls `to` by `scenario`, `calls` times.
    pub fn caller(system: &System, scenario: &str, from: &str, to: &str, calls: u32, transport: Transport) -> Self {
        Phone::new(system, from, scenario).to(to).calls(calls).over(transport).start()
    }

    /// As `caller`, with the final refusal that the scenario `caller_refused` shall see.
    pub fn refused(system: &System, from: &str, to: &str, code: u16) -> Self {
        Phone::new(system, from, "caller_refused").to(to).replace("REFUSAL", &code.to_string()).start()
    }

    /// Everything it sent and received so far.
    pub fn messages(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("messages.log")).unwrap_or_default()
    }

    /// Waits until the phone has an SDP from the system, and returns where it says RTP goes. `own` is the port that the
    /// phone's own SDP names.
    pub fn wait_for_media(&self, own: u16) -> SocketAddr {
        let own = format!("m=audio {own} ");
        wait_for("an SDP from the system", Duration::from_secs(10), || {
            let messages = self.messages();
            let mut foreign = messages.lines().filter(|line| line.starts_with("m=audio ") && !line.starts_with(&own));
            let port = foreign.next_back()?.split(' ').nth(1)?.parse().ok()?;
            Some((std::net::Ipv4Addr::LOCALHOST, port).into())
        })
    }

    /// Waits until every call went as the scenario says.
    pub fn succeeds(mut self) {
        let status = self.process.wait(Duration::from_secs(SCENARIO_TIMEOUT_S + 5));
        let read = |name: &str| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default();
        assert!(
            status.success(),
            "SIPp scenario {} ended with {status}\n{}\n{}",
            self.scenario,
            read("errors.log"),
            read("messages.log")
        );
    }
}
