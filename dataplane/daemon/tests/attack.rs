//! Somebody sprays all ports of a real dataplane before, during and after the set-up of a call: nothing of it gets through
//! where the peers were signalled or their SIP's address is known, five packets each way at most behind their own NAT, and
//! nothing after the learning window.

mod common;

use common::{DEADLINE, Process, call, config, done, free_port, next_event, peer, record_when, rtp};
use nebula_ring::drops::DropReason;
use nebula_ring::{Command, Event, StreamConfig, StreamId, WorkerHandle};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);
/// No phone has it.
const ATTACKER_SSRC: u32 = 0x6666_6666;
/// The default of the media agent: long enough for a phone on a busy host to talk steadily within it.
const WINDOW: Duration = Duration::from_millis(5_000);
/// Another address than the phones', and theirs.
const FAR: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const NEAR: Ipv4Addr = Ipv4Addr::LOCALHOST;

struct Attacker {
    socket: UdpSocket,
    ports: Vec<u16>,
    number: u32,
}

impl Attacker {
    fn at(ip: Ipv4Addr, ports: &[u16]) -> Self {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_nonblocking(true).unwrap();
        Self { socket, ports: ports.to_vec(), number: 0 }
    }

    /// So many packets in order to each port, as a burst, and RTCP beside it.
    fn spray(&mut self, burst: u32) {
        for &port in &self.ports {
            for step in 0..burst {
                // A full socket buffer of ours is no test of theirs.
                let _ = self.socket.send_to(&rtp(ATTACKER_SSRC, self.number + step), (NEAR, port));
            }
            let _ = self.socket.send_to(&[0x80, 201, 0, 1, 6, 6, 6, 6], (NEAR, port));
        }
        self.number += burst;
    }

    /// What came to it of anybody's media.
    fn leaked(&self) -> usize {
        drain(&self.socket).len()
    }
}

struct Phone {
    socket: UdpSocket,
    port: u16,
    ssrc: u32,
    number: u32,
    heard: usize,
    injected: usize,
}

impl Phone {
    fn new(ssrc: u32, port: u16) -> Self {
        let socket = peer();
        socket.set_nonblocking(true).unwrap();
        Self { socket, port, ssrc, number: 0, heard: 0, injected: 0 }
    }

    fn talk(&mut self) {
        self.socket.send_to(&rtp(self.ssrc, self.number), (NEAR, self.port)).unwrap();
        self.number += 1;
    }

    fn listen(&mut self) {
        for packet in drain(&self.socket) {
            let foreign = packet.get(8..12) == Some(&ATTACKER_SSRC.to_be_bytes()[..]);
            *if foreign { &mut self.injected } else { &mut self.heard } += 1;
        }
    }

    fn address(&self) -> SocketAddr {
        self.socket.local_addr().unwrap()
    }
}

fn drain(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buffer = [0; 1500];
    loop {
        match socket.recv(&mut buffer) {
            Ok(len) => all.push(buffer[..len].to_vec()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return all,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Both phones talk at 50 packets a second, and the attacker sprays now and then, until `done`.
fn talk_until(phones: &mut [Phone; 2], attacker: &mut Attacker, mut done: impl FnMut(&[Phone; 2]) -> bool) {
    let (start, pace) = (Instant::now(), peer());
    pace.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut round = 0;
    while !done(phones) {
        assert!(start.elapsed() < DEADLINE, "heard {:?}", [phones[0].heard, phones[1].heard]);
        phones.iter_mut().for_each(Phone::talk);
        round += 1;
        if round % 15 == 0 {
            attacker.spray(5);
        }
        // Nobody sends there: this is the pace of the phones.
        assert!(pace.recv(&mut [0]).is_err());
        phones.iter_mut().for_each(Phone::listen);
    }
}

/// What an attacker got in and out of a call, up to the end of the learning window and after it.
struct Harm {
    during: (usize, usize),
    after: (usize, usize),
}

/// One call under attack, `patient` attackers paced like a phone before its phones begin to talk.
fn attacked(from: Ipv4Addr, patient: bool, config_of: impl Fn(&Phone) -> StreamConfig) -> Harm {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "16"]);
    let mut control = process.attach();
    let worker = &mut control.workers()[0];
    let mut phones = [Phone::new(0xaaaa, free_port()), Phone::new(0xbbbb, free_port())];
    let mut ports: Vec<u16> = (0..40).map(|_| free_port()).collect();
    ports.extend([phones[0].port, phones[1].port]);
    let mut attacker = Attacker::at(from, &ports);

    attacker.spray(5); // before
    for (id, phone) in [A, B].into_iter().zip(&phones) {
        done(worker, &Command::CreateStream { id, config: config_of(phone) });
        attacker.spray(5);
    }
    done(worker, &Command::CreateBridge { a: A, b: B });
    let bridged = Instant::now();
    attacker.spray(5);
    if patient {
        attacker.ports = vec![phones[0].port];
        let pace = peer();
        pace.set_read_timeout(Some(Duration::from_millis(8))).unwrap();
        for _ in 0..4 {
            attacker.spray(1);
            assert!(pace.recv(&mut [0]).is_err());
        }
        attacker.spray(200);
        attacker.ports = ports.clone();
    }
    talk_until(&mut phones, &mut attacker, |phones| {
        bridged.elapsed() > WINDOW && phones.iter().all(|phone| phone.heard > 20)
    });
    // All that was under way has arrived once a packet behind it has.
    let goals = [phones[0].heard + 20, phones[1].heard + 20];
    talk_until(&mut phones, &mut Attacker::at(from, &[]), |now| now[0].heard > goals[0] && now[1].heard > goals[1]);
    let injected = |phones: &mut [Phone; 2]| phones.iter_mut().map(|phone| std::mem::take(&mut phone.injected)).max();
    let during = (injected(&mut phones).unwrap(), attacker.leaked());

    let goals = [phones[0].heard + 100, phones[1].heard + 100];
    talk_until(&mut phones, &mut attacker, |now| now[0].heard > goals[0] && now[1].heard > goals[1]);
    for (id, phone) in [A, B].into_iter().zip(&phones) {
        let record = record_when(worker, id, |record| record.remote_rtp() == Some(phone.address()));
        let foreign = record.drops().get(DropReason::ForeignSource) + record.drops().get(DropReason::Learning);
        assert!(foreign > 0, "what was refused has a name: {:?}", record.drops().named().collect::<Vec<_>>());
    }
    only_of_phones(worker, &phones);
    Harm { during, after: (injected(&mut phones).unwrap(), attacker.leaked()) }
}

/// Nobody but the phones was ever said to be the peer.
fn only_of_phones(worker: &mut WorkerHandle, phones: &[Phone; 2]) {
    let mut events = Vec::new();
    call(worker, &Command::DestroyStream { id: A }, &mut events);
    call(worker, &Command::DestroyStream { id: B }, &mut events);
    for event in events {
        if let Event::StreamUp { remote, .. } = event {
            assert!(phones.iter().any(|phone| phone.address() == remote), "{remote}");
        }
    }
}

fn signalled(phone: &Phone) -> StreamConfig {
    config(phone.port, phone.address())
}

/// The phone signalled an address that means nothing here.
fn behind_nat(phone: &Phone, learn_from: Option<IpAddr>) -> StreamConfig {
    let inside = "192.0.2.1:4000".parse().unwrap();
    let learning_window_ms = WINDOW.as_millis() as u32;
    StreamConfig { nat_expected: true, learning_window_ms, learn_from, ..config(phone.port, inside) }
}

#[test]
fn nothing_gets_in_or_out_where_the_peers_were_signalled() {
    for from in [FAR, NEAR] {
        let harm = attacked(from, true, signalled);
        assert_eq!((harm.during, harm.after), ((0, 0), (0, 0)), "from {from}");
    }
}

#[test]
fn nothing_gets_in_or_out_behind_nat_for_another_address_than_their_sips() {
    let harm = attacked(FAR, true, |phone| behind_nat(phone, Some(NEAR.into())));
    assert_eq!((harm.during, harm.after), ((0, 0), (0, 0)));
}

#[test]
fn behind_the_same_nat_it_is_five_packets_each_way_and_none_after_the_window() {
    for (from, learn_from) in [(NEAR, Some(NEAR.into())), (FAR, None)] {
        let harm = attacked(from, true, |phone| behind_nat(phone, learn_from));
        assert!(harm.during.0 <= 5 && harm.during.1 <= 5, "{:?}", harm.during);
        assert_eq!(harm.after, (0, 0));
    }
}

#[test]
fn what_is_malformed_has_its_own_name_in_the_table() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--streams-max", "16"]);
    let mut control = process.attach();
    let worker = &mut control.workers()[0];
    let phone = Phone::new(7, free_port());
    done(worker, &Command::CreateStream { id: A, config: signalled(&phone) });
    phone.socket.send_to(&rtp(7, 0), (NEAR, phone.port)).unwrap();
    assert!(matches!(next_event(worker), Event::StreamUp { .. }), "connected: the kernel lets only the phone through");
    let mut padded = rtp(7, 1);
    padded[0] |= 0x20;
    padded[171] = 0;
    let mut version = rtp(7, 2);
    version[0] = 0xc0;
    let mut type_18 = rtp(7, 3);
    type_18[1] = 18;
    let rows: [(Vec<u8>, DropReason); 10] = [
        (vec![], DropReason::Truncated),
        (vec![0x8f; 20], DropReason::Truncated),
        (padded.to_vec(), DropReason::BadPadding),
        (version.to_vec(), DropReason::BadVersion),
        (type_18.to_vec(), DropReason::UnknownPayloadType),
        ([&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42][..], &[0; 12]].concat(), DropReason::Stun),
        ([&[22, 0xfe, 0xfd][..], &[0; 50]].concat(), DropReason::Dtls),
        (vec![0x10; 40], DropReason::Zrtp),
        ([&[0x80, 0][..], &[0; 1471]].concat(), DropReason::TooLong),
        ([&[0x80, 0][..], &[0; 9000]].concat(), DropReason::TooLong),
    ];
    let mut expected = nebula_ring::DropCounters::default();
    expected.count(DropReason::NoPeer); // the first one
    for (bytes, reason) in &rows {
        phone.socket.send_to(bytes, (NEAR, phone.port)).unwrap();
        expected.count(*reason);
    }
    let record = record_when(worker, A, |record| record.drops().total() >= expected.total());
    assert_eq!(record.drops(), expected, "{:?}", record.drops().named().collect::<Vec<_>>());
    // Nothing of it has ended anything.
    assert!(process.child.id() > 0 && drain(&phone.socket).is_empty());
    done(worker, &Command::DestroyStream { id: A });
}
