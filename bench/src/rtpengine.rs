//! rtpengine as a peer: started in userspace with one thread, driven by its NG protocol (bencoded dictionaries over
//! UDP, each request with a cookie that its answer repeats).

use crate::load::Leg;
use crate::place::Place;
use crate::process::Process;
use crate::srtp::{Keys, crypto_line, key_of, master};
use anyhow::{Context, Result, bail, ensure};
use nebula_ring::srtp::{MasterKey, Suite};
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
        let (ip, port) = (place.relay_ip, place.free_ports()?);
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
            if peer.ask(&entry(("command", "ping"))).is_ok() {
                peer.control.set_read_timeout(Some(ANSWER_TIMEOUT))?;
                return Ok(peer);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        bail!("rtpengine does not answer ping");
    }

    /// Sets a call up between two phones, in the clear or with SRTP: what `a` and `b` must know.
    pub fn call(&mut self, call: usize, phones: [SocketAddr; 2], suite: Option<Suite>) -> Result<[Leg; 2]> {
        let id = format!("bench-{call}");
        let Some(suite) = suite else {
            let offered = self.pass(&id, "offer", 0, &sdp(phones[0], None))?;
            let answered = self.pass(&id, "answer", 1, &sdp(phones[1], None))?;
            let leg = |text: &str| anyhow::Ok(Leg { to: media_address(text)?, keys: None });
            return Ok([leg(&answered)?, leg(&offered)?]);
        };
        // At first rtpengine hands each phone's key on to the other one, and then it need not touch a packet. When an answer
        // comes again with another key, it takes that for what the phone sends and stays with what it has told the other one. So
        // both phones answer once more: now all four keys differ, and each packet is decrypted and encrypted anew.
        let key = |leg, time| master(suite, [call as u32, leg as u32, time]);
        let described = |leg: usize, time| anyhow::Ok(sdp(phones[leg], Some(&key(leg, time)?)));
        self.pass(&id, "offer", 0, &described(0, 0)?)?;
        self.pass(&id, "answer", 1, &described(1, 0)?)?;
        let for_a = self.pass(&id, "answer", 1, &described(1, 1)?)?;
        let for_b = self.pass(&id, "answer", 0, &described(0, 1)?)?;
        let leg = |own: usize, text: &str| -> Result<Leg> {
            let (sends, hears) = (key(own, 1)?, key_of(text, suite)?);
            ensure!(hears != key(1 - own, 1)?, "rtpengine hands a phone's key on: {text}");
            Ok(Leg { to: media_address(text)?, keys: Some(Keys { sends, hears }) })
        };
        Ok([leg(0, &for_a)?, leg(1, &for_b)?])
    }

    /// Hands a description of a phone, the first (0) or the second (1), to rtpengine; what it makes of it for the other one.
    fn pass(&mut self, id: &str, command: &str, phone: usize, description: &str) -> Result<String> {
        // The tags' names stay those of the one who made the offer and the one who answers it.
        let mut tags = [format!("{id}-a"), format!("{id}-b")];
        if command == "answer" && phone == 0 {
            tags.reverse();
        }
        let [from, to] = &tags;
        let mut entries =
            [("ICE", "remove"), ("DTLS", "off"), ("command", command), ("call-id", id)].map(entry).concat();
        entries += &[("from-tag", from.as_str()), ("sdp", description)].map(entry).concat();
        if command == "answer" {
            entries += &entry(("to-tag", to));
        }
        self.ask(&entries)
    }

    /// One request, the entries of a dictionary; the answer as it came, after its cookie.
    fn ask(&mut self, entries: &str) -> Result<String> {
        self.cookie += 1;
        let cookie = format!("c{}", self.cookie);
        self.control.send(format!("{cookie} d{entries}e").as_bytes())?;
        let mut buffer = [0; 65_536];
        loop {
            let length = self.control.recv(&mut buffer)?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            if let Some(answer) = text.strip_prefix(&format!("{cookie} ")) {
                if answer.contains("6:result2:ok") || answer.contains("6:result4:pong") {
                    return Ok(answer.to_owned());
                }
                bail!("rtpengine refused {entries}: {answer}");
            }
        }
    }
}

/// A dictionary's entry in bencoding.
fn entry((key, value): (&str, &str)) -> String {
    format!("{}:{key}{}:{value}", key.len(), value.len())
}

fn sdp(rtp: SocketAddr, key: Option<&MasterKey>) -> String {
    let (ip, port) = (rtp.ip(), rtp.port());
    let (profile, crypto) = key.map_or(("RTP/AVP", String::new()), |key| ("RTP/SAVP", crypto_line(key)));
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} {profile} 0\r\n\
         a=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n{crypto}"
    )
}

/// The address of the SDP inside an answer.
fn media_address(answer: &str) -> Result<SocketAddr> {
    let after = |marker: &str| answer.split(marker).nth(1).and_then(|rest| rest.split([' ', '\r', '\n']).next());
    let ip = after("c=IN IP4 ").context("no c= line")?;
    let port = after("m=audio ").context("no m= line")?;
    Ok(SocketAddr::new(ip.parse()?, port.parse()?))
}
