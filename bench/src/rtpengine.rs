//! rtpengine as a peer: started in userspace with one thread, driven by its NG protocol (bencoded dictionaries over
//! UDP, each request with a cookie that its answer repeats).

use crate::place::Place;
use crate::process::Process;
use anyhow::{Context, Result, bail};
use std::net::{SocketAddr, UdpSocket};
use std::process::Stdio;
use std::time::Duration;

const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
const START_TRIES: u32 = 100;

/// A running rtpengine.
pub struct Rtpengine {
    /// The daemon.
    pub process: Process,
    control: UdpSocket,
    cookie: u64,
}

impl Rtpengine {
    /// Starts one that relays in userspace on one thread, and waits until it answers `ping`.
    pub fn start(place: &Place, port_min: u16, port_max: u16) -> Result<Self> {
        let (ip, port) = (place.relay_ip, place.free_port()?);
        let mut command = place.command("rtpengine");
        command.args(["--foreground", "--log-stderr", "--log-level=3", "--table=-1", "--num-threads=1"]);
        command.args([format!("--interface={ip}"), format!("--listen-ng={ip}:{port}")]);
        command.args([format!("--port-min={port_min}"), format!("--port-max={port_max}")]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process::spawn(command).context("rtpengine; `make bench` installs it")?;
        let control = UdpSocket::bind((place.phone_ip, 0))?;
        control.connect((ip, port))?;
        let mut peer = Self { process, control, cookie: 0 };
        peer.control.set_read_timeout(Some(Duration::from_millis(50)))?;
        for _ in 0..START_TRIES {
            // Before it listens the kernel refuses at once, so that the timeout alone would not pace this.
            if peer.ask(&[("command", "ping")]).is_ok() {
                peer.control.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(peer);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("rtpengine does not answer ping");
    }

    /// Sets a call up between two phones: where `a` and where `b` shall send to.
    pub fn call(&mut self, id: &str, a: SocketAddr, b: SocketAddr) -> Result<(SocketAddr, SocketAddr)> {
        let (from, to) = (format!("{id}-a"), format!("{id}-b"));
        let offer = sdp(a);
        let offered = self.ask(&[
            ("ICE", "remove"),
            ("call-id", id),
            ("command", "offer"),
            ("from-tag", &from),
            ("sdp", &offer),
        ])?;
        let answer = sdp(b);
        let answered = self.ask(&[
            ("ICE", "remove"),
            ("call-id", id),
            ("command", "answer"),
            ("from-tag", &from),
            ("sdp", &answer),
            ("to-tag", &to),
        ])?;
        Ok((media_address(&answered)?, media_address(&offered)?))
    }

    /// One request; the answer as it came, after its cookie.
    fn ask(&mut self, dictionary: &[(&str, &str)]) -> Result<String> {
        self.cookie += 1;
        let cookie = format!("c{}", self.cookie);
        let entries: String = dictionary.iter().map(|(k, v)| format!("{}:{k}{}:{v}", k.len(), v.len())).collect();
        self.control.send(format!("{cookie} d{entries}e").as_bytes())?;
        let mut buffer = [0; 65_536];
        loop {
            let length = self.control.recv(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            if let Some(answer) = text.strip_prefix(&format!("{cookie} ")) {
                if answer.contains("6:result2:ok") || answer.contains("6:result4:pong") {
                    return Ok(answer.to_owned());
                }
                bail!("rtpengine refused {dictionary:?}: {answer}");
            }
        }
    }
}

fn sdp(rtp: SocketAddr) -> String {
    let (ip, port) = (rtp.ip(), rtp.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\n\
         a=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n"
    )
}

/// The address of the SDP inside an answer.
fn media_address(answer: &str) -> Result<SocketAddr> {
    let after = |marker: &str| answer.split(marker).nth(1).and_then(|rest| rest.split([' ', '\r', '\n']).next());
    let ip = after("c=IN IP4 ").context("no c= line")?;
    let port = after("m=audio ").context("no m= line")?;
    Ok(SocketAddr::new(ip.parse()?, port.parse()?))
}
