//! Two phones through the real process: every packet arrives, the table counts exactly, media outlives control.

mod common;

use common::{Process, call, config, done, free_port, next_event, peer, record_when, rtp};
use nebula_ring::table::FLAG_OPEN;
use nebula_ring::{Command, Event, Mode, Reason, StreamId};
use std::net::{SocketAddr, UdpSocket};

const A: StreamId = StreamId(11);
const B: StreamId = StreamId(22);

/// A phone and the dataplane's port for it.
struct Leg {
    phone: UdpSocket,
    port: SocketAddr,
    ssrc: u32,
}

impl Leg {
    fn new(ssrc: u32) -> Self {
        Self { phone: peer(), port: ([127, 0, 0, 1], free_port()).into(), ssrc }
    }

    fn create(&self, id: StreamId) -> Command {
        Command::CreateStream { id, config: config(self.port.port(), self.phone.local_addr().unwrap()) }
    }

    fn send(&self, number: u32) {
        self.phone.send_to(&rtp(self.ssrc, number), self.port).unwrap();
    }

    fn expect_from(&self, other: &Leg, number: u32) {
        let mut got = [0; 1500];
        let len = self.phone.recv(&mut got).unwrap();
        let sent = rtp(other.ssrc, number);
        assert_eq!((len, &got[12..len]), (172, &sent[12..]), "payload of packet {number}");
        assert_eq!(got[2..12], sent[2..12], "sequence, timestamp and SSRC of packet {number}");
    }
}

/// Packets each way, few enough in flight for any socket buffer.
fn talk(a: &Leg, b: &Leg, numbers: std::ops::Range<u32>) {
    let numbers: Vec<u32> = numbers.collect();
    for some in numbers.chunks(50) {
        some.iter().for_each(|&number| (a.send(number), b.send(number)).0);
        some.iter().for_each(|&number| (b.expect_from(a, number), a.expect_from(b, number)).0);
    }
}

#[test]
fn ten_thousand_packets_each_way_and_exact_counts() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let mut control = process.attach();
    let worker = &mut control.workers()[0];
    let (a, b) = (Leg::new(0xaaaa), Leg::new(0xbbbb));
    done(worker, &a.create(A));
    done(worker, &b.create(B));
    let again = call(worker, &a.create(A), &mut Vec::new());
    assert!(matches!(again, Event::Failed { reason: Reason::StreamExists, .. }), "{again:?}");
    done(worker, &Command::CreateBridge { a: A, b: B });

    talk(&a, &b, 0..10_000);

    let up: Vec<_> = [next_event(worker), next_event(worker)].into();
    for (id, leg) in [(A, &a), (B, &b)] {
        let remote = leg.phone.local_addr().unwrap();
        assert!(up.contains(&Event::StreamUp { id, remote }), "{up:?}");
        let record = record_when(worker, id, |record| record.packets_in == 10_000 && record.packets_out == 10_000);
        assert_eq!((record.bytes_in, record.bytes_out), (1_720_000, 1_720_000));
        assert_eq!((record.lost, record.reordered, record.duplicated, record.drops().total()), (0, 0, 0, 0));
        assert_eq!((record.local_rtp(), record.remote_rtp()), (leg.port, Some(remote)));
        assert_eq!((record.ssrc_in, record.sequence_in_highest), (leg.ssrc, 9_999));
    }

    for id in [A, B] {
        done(worker, &Command::DestroyStream { id });
        let last = worker.table().find(id).expect("final counts stay readable");
        assert_eq!((last.is(FLAG_OPEN), last.packets_in), (false, 10_000));
    }
    assert_eq!(worker.table().iter().count(), 0);
    for leg in [&a, &b] {
        UdpSocket::bind(leg.port).expect("destroyed streams have closed their ports");
    }
}

#[test]
fn echo_and_a_port_that_is_taken() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &[]);
    let mut control = process.attach();
    let worker = &mut control.workers()[0];
    let leg = Leg::new(7);
    let mut config = config(leg.port.port(), leg.phone.local_addr().unwrap());
    config.mode = Mode::Echo;
    config.ssrc = 0xecc0;
    done(worker, &Command::CreateStream { id: A, config: config.clone() });
    let taken = call(worker, &Command::CreateStream { id: B, config }, &mut Vec::new());
    assert!(matches!(taken, Event::Failed { reason: Reason::PortInUse, .. }), "{taken:?}");
    for number in 0..100 {
        leg.send(number);
        let mut got = [0; 1500];
        let len = leg.phone.recv(&mut got).unwrap();
        assert_eq!(got[12..len], rtp(7, number)[12..]);
        assert_eq!(got[8..12], 0xecc0u32.to_be_bytes());
    }
}

#[test]
fn media_outlives_a_killed_control_and_its_successor_takes_the_call_over() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(folder.path(), &[]);
    let (a, b) = (Leg::new(0xaaaa), Leg::new(0xbbbb));
    // The control is a process of its own: this test binary, running the test below.
    let ports = [a.port, b.port, a.phone.local_addr().unwrap(), b.phone.local_addr().unwrap()];
    let ports = ports.map(|address| address.port().to_string()).join(",");
    let mut first = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "control_process", "--ignored", "--nocapture"])
        .env("CONTROL_SOCKET", &process.socket)
        .env("CONTROL_PORTS", ports)
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(first.stdout.take().unwrap()));
    assert!(
        lines.map_while(Result::ok).any(|line| line.contains("bridged")),
        "the control process has set up the call"
    );

    talk(&a, &b, 0..100);
    first.kill().unwrap();
    first.wait().unwrap();
    process.wait_for_line("detached");
    talk(&a, &b, 100..1_100);

    let mut second = process.attach();
    assert_eq!(second.epoch(), 2);
    let worker = &mut second.workers()[0];
    let record = record_when(worker, A, |record| record.packets_in == 1_100 && record.packets_out == 1_100);
    assert_eq!((record.bridged_with, record.drops().total()), (B.0, 0));
    talk(&a, &b, 1_100..1_200);
    for id in [A, B] {
        done(worker, &Command::DestroyStream { id });
    }
    UdpSocket::bind(a.port).expect("the successor can end the call");
}

#[test]
#[ignore = "the control process of the test above, which kills it"]
fn control_process() {
    let ports: Vec<u16> = std::env::var("CONTROL_PORTS")
        .expect("set by the test above")
        .split(',')
        .map(|it| it.parse().unwrap())
        .collect();
    let mut control = nebula_ring::Dataplane::attach(std::env::var("CONTROL_SOCKET").unwrap().as_ref()).unwrap();
    let worker = &mut control.workers()[0];
    for (id, port, phone) in [(A, ports[0], ports[2]), (B, ports[1], ports[3])] {
        done(worker, &Command::CreateStream { id, config: config(port, ([127, 0, 0, 1], phone).into()) });
    }
    done(worker, &Command::CreateBridge { a: A, b: B });
    println!("bridged");
    loop {
        std::thread::park();
    }
}
