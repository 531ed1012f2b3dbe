//! Media outlives control, and control outlives media: `kill -9` of either side with calls up.

use nebula_tests::load::{Load, load};
use nebula_tests::sipp::{Phone, Sipp, Transport};
use nebula_tests::system::System;
use nebula_tests::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// The audio of a phone whose signalling is SIPp's.
struct Audio {
    socket: UdpSocket,
    towards: SocketAddr,
    sequence: u16,
}

impl Audio {
    /// Starts a phone whose SDP names a socket of ours.
    fn open<'a>(phone: Phone<'a>, start: impl FnOnce(Phone<'a>) -> Sipp) -> (UdpSocket, Sipp) {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        socket.set_read_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let port = socket.local_addr().expect("an address").port();
        (socket, start(phone.replace("[auto_media_port]", &port.to_string())))
    }

    /// When the call is up.
    fn new(socket: UdpSocket, sipp: &Sipp) -> Self {
        let towards = sipp.wait_for_media(socket.local_addr().expect("an address").port());
        Self { socket, towards, sequence: 0 }
    }

    /// One PCMU packet, its payload the sequence number.
    fn send(&mut self) {
        self.sequence += 1;
        let mut packet = vec![0x80, 0];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * 160).to_be_bytes());
        packet.extend(u32::from(self.socket.local_addr().expect("an address").port()).to_be_bytes());
        packet.extend([self.sequence.to_be_bytes(); 80].as_flattened());
        self.socket.send_to(&packet, self.towards).expect("sent");
    }

    /// The sequence number in the payload of the next packet.
    fn hear(&self) -> Option<u16> {
        let mut packet = [0; 1500];
        let bytes = self.socket.recv(&mut packet).ok()?;
        (bytes == 172).then(|| u16::from_be_bytes([packet[12], packet[13]]))
    }
}

/// Two phones that talk.
struct Talk {
    caller: Audio,
    callee: Audio,
    _phones: [Sipp; 2],
}

impl Talk {
    fn start(system: &System) -> Self {
        let callee = Phone::new(system, "1001", "callee");
        let (callee_socket, callee) = Audio::open(callee, Phone::registered);
        let caller = Phone::new(system, "1000", "caller_stays").to("1001");
        let (caller_socket, caller) = Audio::open(caller, Phone::start);
        system.wait_for_talking(1);
        let (caller_audio, callee_audio) = (Audio::new(caller_socket, &caller), Audio::new(callee_socket, &callee));
        Self { caller: caller_audio, callee: callee_audio, _phones: [caller, callee] }
    }

    /// Each hears what the other says, packet for packet.
    #[track_caller]
    fn flows(&mut self, packets: usize) {
        for _ in 0..packets {
            self.caller.send();
            assert_eq!(self.callee.hear(), Some(self.caller.sequence), "towards the callee");
            self.callee.send();
            assert_eq!(self.caller.hear(), Some(self.callee.sequence), "towards the caller");
        }
    }
}

fn one_record_each(cdrs: &[Value], calls: usize) {
    let ids: HashSet<&str> = cdrs.iter().filter_map(|cdr| cdr["call_id"].as_str()).collect();
    assert_eq!((cdrs.len(), ids.len()), (calls, calls), "{cdrs:#?}");
}

#[test]
fn killed_control_leaves_media_flowing_and_its_next_start_adopts_it() {
    // Streams that nobody claims are closed this long after their last packet.
    let environment = [("NEBULA__MEDIA__UNCLAIMED_SILENCE_S", "2")];
    let mut system = System::start_with(&environment);
    let mut talk = Talk::start(&system);
    let others = Load::start(&system, "--to *43 --calls 30 --rate 100 --duration-s 60");
    system.wait_for_talking(31);
    talk.flows(20);
    let dataplane = system.dataplane_pid();

    system.kill();
    talk.flows(50);
    system.restart(&environment);
    assert_eq!(system.dataplane_pid(), dataplane, "adopted");
    talk.flows(50);

    let cdrs = system.wait_for_cdrs(31, Duration::from_secs(10));
    one_record_each(&cdrs, 31);
    for cdr in &cdrs {
        assert_eq!((&cdr["cause"], &cdr["ended_by"]), (&"crash".into(), &"system".into()), "{cdr:#}");
    }
    // What the phones said until then, and the time they said it in, is in the record; but an answer of the last moment may
    // not have been written (the store gathers writes for up to 10 ms).
    let answered: Vec<&Value> = cdrs.iter().filter(|cdr| !cdr["answered_unix_ms"].is_null()).collect();
    assert!(answered.len() > 25 && answered.iter().any(|cdr| cdr["to_user"] == "1001"), "{cdrs:#?}");
    for cdr in answered {
        let legs = cdr["legs"].as_array().expect("legs");
        let told = |leg: &Value| leg["stats"]["local"].is_string();
        assert!(!legs.is_empty() && legs.iter().all(told) && cdr["billed_ms"].as_i64() > Some(0), "{cdr:#}");
    }
    talk.flows(50);
    drop(others);
    let report = load(&system, "--to 1003 --calls 5 --rate 20 --duration-s 0.5");
    assert_eq!((&report["established"], &report["packets_lost"]), (&5.into(), &0.into()), "{report:#}");

    // Closed when they have been silent for long.
    drop(talk);
    wait_for("the abandoned streams to be closed", Duration::from_secs(30), || {
        (system.metric("nebula_media_streams") == 0.0).then_some(())
    });
    one_record_each(&system.wait_for_cdrs(36, Duration::from_secs(5)), 36);
    assert!(system.stop().success());
    assert_eq!(nebula_tests::system::running_in(system.state()), [] as [i32; 0], "the adopted dataplane ends, too");
}

#[test]
fn a_killed_dataplane_is_replaced_and_its_calls_end() {
    let system = System::start();
    let callee = Sipp::callee(&system, "callee", "1001", 1, Transport::Udp);
    let caller = Sipp::caller(&system, "caller_stays", "1000", "1001", 1, Transport::Udp);
    let echo = Sipp::caller(&system, "caller_stays", "1002", "*43", 1, Transport::Udp);
    system.wait_for_talking(2);
    let pid = Pid::from_raw(system.dataplane_pid()).expect("a pid");
    kill_process(pid, Signal::KILL).expect("killed");

    let cdrs = system.wait_for_cdrs(2, Duration::from_secs(10));
    one_record_each(&cdrs, 2);
    for cdr in &cdrs {
        assert_eq!((&cdr["cause"], &cdr["ended_by"]), (&"crash".into(), &"system".into()), "{cdr:#}");
    }
    // All phones got a BYE.
    [caller, callee, echo].into_iter().for_each(Sipp::succeeds);

    wait_for("readiness", Duration::from_secs(5), || {
        let url = format!("http://{}/readyz", system.address("media"));
        ureq::get(&url).call().is_ok().then_some(())
    });
    assert_eq!(system.metric("nebula_dataplane_restarts_total"), 1.0);
    let report = load(&system, "--to 1003 --calls 5 --rate 20 --duration-s 0.5");
    assert_eq!((&report["established"], &report["packets_lost"]), (&5.into(), &0.into()), "{report:#}");
    one_record_each(&system.wait_for_cdrs(7, Duration::from_secs(5)), 7);
}
