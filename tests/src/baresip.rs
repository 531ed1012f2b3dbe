//! baresip as a softphone without sound hardware: it plays a WAV file and records what it hears.

use crate::process::Process;
use crate::system::{PASSWORD, System};
use crate::{free_port, wait_for};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;

/// A running softphone.
pub struct Baresip {
    _process: Process,
    folder: TempDir,
    control: TcpStream,
}

impl Baresip {
    /// Starts one that is registered as `extension`, answers calls by itself, speaks with `codec` (`PCMU/8000`) and
    /// says what is in `speech` (mono WAV at the codec's rate). Returns when it is registered.
    pub fn start(system: &System, extension: &str, codec: &str, speech: &Path) -> Self {
        Self::start_with(system, extension, codec, speech, None)
    }

    /// The same with what baresip calls media encryption: `srtp` may be declined (RTP/AVP), `srtp-mand` may not (RTP/SAVP).
    pub fn start_with(system: &System, extension: &str, codec: &str, speech: &Path, mediaenc: Option<&str>) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        let (rate_hz, _) = crate::audio::read_wav(speech);
        let (control_port, sip) = (free_port(), system.sip());
        // It takes no name of an interface here, but an address of ours in the family of the server.
        let ip = sip.ip();
        let sip_listen = SocketAddr::new(ip, free_port());
        let modules =
            ["g711", "g722", "opus", "aufile", "aubridge", "sndfile", "srtp"].map(|m| format!("module {m}.so\n"));
        let config = format!(
            "poll_method epoll\nsip_listen {sip_listen}\ncall_max_calls 4\n\
             audio_player aubridge,nil\naudio_alert aubridge,nil\naudio_source aufile,{speech}\n\
             ausrc_srate {rate_hz}\nauplay_srate {rate_hz}\nausrc_channels 1\nauplay_channels 1\naudio_level no\n\
             rtp_ports 20000-29999\njitter_buffer_delay 5-10\nnet_interface {ip}\n\
             module_path {modules_folder}\n{modules}module_tmp account.so\nmodule_app menu.so\n\
             module_app ctrl_tcp.so\nctrl_tcp_listen 127.0.0.1:{control_port}\nsnd_path {recordings}\n",
            speech = speech.display(),
            modules_folder = modules_folder().display(),
            modules = modules.concat(),
            recordings = path.display(),
        );
        let account = format!(
            "<sip:{extension}@{sip};transport=udp>;auth_user={extension};auth_pass={PASSWORD};regint=600;\
             answermode=auto;audio_codecs={codec}{mediaenc}\n",
            mediaenc = mediaenc.map(|mediaenc| format!(";mediaenc={mediaenc}")).unwrap_or_default(),
        );
        for (name, text) in [("config", config.as_str()), ("accounts", account.as_str()), ("contacts", "")] {
            std::fs::write(path.join(name), text).expect("written");
        }
        let log = std::fs::File::create(path.join("log")).expect("a log");
        let mut command = Command::new("baresip");
        command.arg("-f").arg(path).args(["-t", "120"]);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("dup")).stderr(log);
        let mut process = Process::spawn(command);
        let connect = || {
            let log = || std::fs::read_to_string(path.join("log")).unwrap_or_default();
            assert!(process.runs(), "baresip ended:\n{}", log());
            TcpStream::connect(("127.0.0.1", control_port)).ok()
        };
        let control = wait_for("baresip's control port", Duration::from_secs(10), connect);
        let phone = Self { _process: process, folder, control };
        let registered = || phone.log().contains("200 OK").then_some(());
        wait_for("baresip to register", Duration::from_secs(10), registered);
        phone
    }

    /// Calls, and waits for the answer.
    pub fn dial(&mut self, number: &str) {
        self.command("dial", number);
        let established = || self.log().contains("Call established").then_some(());
        wait_for("the call to be established", Duration::from_secs(15), established);
    }

    /// Hangs up.
    pub fn hang_up(&mut self) {
        self.command("hangup", "");
        let ended = || self.log().contains("terminated (duration").then_some(());
        wait_for("the call to end", Duration::from_secs(10), ended);
    }

    /// Everything it has printed.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// What it has heard in its last call, once the call is over: rate and samples.
    pub fn heard(&self) -> (u32, Vec<i16>) {
        let recorded = || {
            let entries = std::fs::read_dir(self.folder.path()).expect("its folder");
            let mut files: Vec<PathBuf> = entries.filter_map(|e| Some(e.ok()?.path())).collect();
            files.retain(|f| f.to_string_lossy().ends_with("-dec.wav"));
            files.sort();
            files.pop()
        };
        crate::audio::read_wav(&wait_for("a recording", Duration::from_secs(5), recorded))
    }

    /// One command over ctrl_tcp: a JSON object in a netstring; the answer is read.
    fn command(&mut self, command: &str, params: &str) {
        let body = serde_json::json!({ "command": command, "params": params, "token": command }).to_string();
        write!(self.control, "{}:{body},", body.len()).expect("baresip listens");
        let mut reader = BufReader::new(self.control.try_clone().expect("dup"));
        self.control.set_read_timeout(Some(Duration::from_secs(5))).expect("a timeout");
        loop {
            let mut length = Vec::new();
            reader.read_until(b':', &mut length).expect("an answer");
            let length: usize = String::from_utf8_lossy(&length).trim_end_matches(':').parse().expect("a netstring");
            let mut text = vec![0; length + 1];
            reader.read_exact(&mut text).expect("an answer");
            // Events come between; the answer has our token.
            if String::from_utf8_lossy(&text).contains("\"response\"") {
                return;
            }
        }
    }
}

/// Where Debian keeps baresip's modules.
fn modules_folder() -> PathBuf {
    let folders = ["/usr/lib/baresip/modules", "/usr/lib/x86_64-linux-gnu/baresip/modules"].map(PathBuf::from);
    let found = folders.iter().find(|f| f.exists()).cloned();
    found.unwrap_or_else(|| panic!("no baresip modules in {folders:?}; `make test` installs them"))
}
