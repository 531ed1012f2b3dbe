//! The real process with AF_XDP, on a veth pair between two namespaces: media go by frames, everything else as ever, and
//! nothing is left on the interface however the process ends.

mod common;
#[path = "../../io/tests/netns/mod.rs"]
mod netns;

use common::{DEADLINE, Process, config, done, record_when, rtp};
use nebula_ring::segment::Counter;
use nebula_ring::{Attached, Command, StreamId};
use netns::{Net, within};
use rustix::process::Signal;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

/// Starts the dataplane inside, behind some other program if need be.
fn spawn(net: &Net, folder: &Path, wrapper: &[&str], options: &[&str]) -> Process {
    let socket = folder.join("dataplane.sock");
    let mut command = std::process::Command::new("ip");
    command.args(["netns", "exec", &net.inside]).args(wrapper).arg(env!("CARGO_BIN_EXE_nebula-dataplane"));
    let mut child = command.arg("--socket").arg(&socket).args(options).stderr(Stdio::piped()).spawn().unwrap();
    let log = BufReader::new(child.stderr.take().unwrap()).lines();
    Process { child, log, socket }
}

fn start(net: &Net, folder: &Path, options: &[&str]) -> Process {
    let mut process = spawn(net, folder, &[], options);
    let line = process.wait_for_line("xdp");
    assert!(line.contains("interface=v0 program=driver"), "{line}");
    process.wait_for_line("started");
    process
}

/// A phone outside and its port inside.
struct Leg {
    id: StreamId,
    phone: UdpSocket,
    port: SocketAddr,
    number: u32,
}

impl Leg {
    fn new(net: &Net, id: u64, ipv6: bool) -> Self {
        let [inside, outside] = if ipv6 { ["[fd77::1]:0", "[fd77::2]:0"] } else { ["10.77.0.1:0", "10.77.0.2:0"] };
        let phone = within(&net.outside, || UdpSocket::bind(outside).unwrap());
        phone.set_read_timeout(Some(DEADLINE)).unwrap();
        let port = within(&net.inside, || UdpSocket::bind(inside).unwrap().local_addr().unwrap());
        Self { id: StreamId(id), phone, port, number: 0 }
    }

    fn create(&self) -> Command {
        let mut config = config(self.port.port(), self.phone.local_addr().unwrap());
        config.local_ip = self.port.ip();
        Command::CreateStream { id: self.id, config }
    }

    fn say(&mut self) {
        self.phone.send_to(&rtp(self.id.0 as u32, self.number), self.port).unwrap();
        self.number += 1;
    }

    fn hear(&self, other: &Leg) {
        let mut got = [0; 1500];
        let (len, from) = self.phone.recv_from(&mut got).unwrap();
        let said = rtp(other.id.0 as u32, other.number - 1);
        assert_eq!((from, &got[2..len]), (self.port, &said[2..]), "the last packet of {:?}", other.id);
    }
}

/// A call of two phones, set up.
fn call(net: &Net, control: &mut Attached, id: u64, ipv6: [bool; 2]) -> [Leg; 2] {
    let legs = [Leg::new(net, id, ipv6[0]), Leg::new(net, id + 1, ipv6[1])];
    let worker = &mut control.workers()[0];
    legs.iter().for_each(|leg| done(worker, &leg.create()));
    done(worker, &Command::CreateBridge { a: legs[0].id, b: legs[1].id });
    legs
}

/// A packet each way.
fn talk([a, b]: &mut [Leg; 2]) {
    a.say();
    b.hear(a);
    b.say();
    a.hear(b);
}

/// UDP datagrams that the kernel inside has received and sent, over both families.
fn by_the_kernel(net: &Net) -> u64 {
    within(&net.inside, || {
        let read = |name| std::fs::read_to_string(format!("/proc/thread-self/net/{name}")).unwrap();
        let v4 = read("snmp");
        let v4 = v4.lines().rfind(|line| line.starts_with("Udp: ")).unwrap().to_owned();
        let v4 = v4.split(' ').collect::<Vec<_>>();
        let v6 = read("snmp6");
        let v6 = v6.lines().filter(|line| line.starts_with("Udp6InDatagrams") || line.starts_with("Udp6OutDatagrams"));
        let number = |text: &str| text.trim().parse::<u64>().unwrap();
        // Udp: InDatagrams NoPorts InErrors OutDatagrams ...
        number(v4[1]) + number(v4[4]) + v6.map(|line| number(line.split_whitespace().nth(1).unwrap())).sum::<u64>()
    })
}

#[test]
fn media_of_both_families_go_by_frames_and_all_else_as_ever() {
    let Some(net) = Net::new(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let process = start(&net, folder.path(), &["--xdp", "v0"]);
    let mut control = process.attach();
    let mut calls = [[false, false], [true, true], [false, true]];
    let mut calls: Vec<_> =
        (0..).zip(&mut calls).map(|(n, ipv6)| call(&net, &mut control, 10 * n + 1, *ipv6)).collect();
    // TCP on the very port of a stream, and elsewhere, before, while and after media flow.
    let listeners = [calls[0][0].port.to_string(), "10.77.0.1:0".into()];
    let listeners = listeners.map(|local| within(&net.inside, || TcpListener::bind(local).unwrap()));
    let mut connections = listeners.map(|listener| {
        let to = listener.local_addr().unwrap();
        let ours = within(&net.outside, || TcpStream::connect(to).unwrap());
        (ours, listener.accept().unwrap().0)
    });
    // The first packet to a phone that was not heard yet is the kernel's to send; then both are known.
    calls.iter_mut().for_each(|call| (talk(call), talk(call)).0);
    let before = by_the_kernel(&net);
    for n in 0..200u8 {
        calls.iter_mut().for_each(talk);
        for (ours, theirs) in &mut connections {
            let mut got = [0; 100];
            ours.write_all(&[n; 100]).unwrap();
            theirs.read_exact(&mut got).unwrap();
            assert_eq!(got, [n; 100]);
        }
    }
    assert_eq!(by_the_kernel(&net), before, "no datagram was the kernel's");
    for leg in calls.iter().flatten() {
        let wanted = |record: &nebula_ring::StreamRecord| record.packets_in == 202 && record.packets_out == 202;
        let record = record_when(&control.workers()[0], leg.id, wanted);
        assert_eq!((record.lost, record.drops().total()), (0, 0));
    }
    let counter = |counter| control.segment().counter(0, counter);
    assert_eq!(counter(Counter::FramesReceived), 6 * 202);
    assert_eq!(counter(Counter::FramesSent) + counter(Counter::FramesLeftToKernel), 6 * 202);
    assert_eq!(counter(Counter::FramesLeftToKernel), 3, "one in each call");
    assert_eq!((counter(Counter::FramesRefused), counter(Counter::SendFailed)), (0, 0));
}

#[test]
fn killed_or_told_to_end_it_leaves_nothing_on_the_interface() {
    for signal in [Signal::KILL, Signal::TERM] {
        let Some(net) = Net::new(1) else { return };
        let folder = tempfile::tempdir().unwrap();
        let mut process = start(&net, folder.path(), &["--xdp", "v0"]);
        assert!(net.has_program());
        let mut control = process.attach();
        let mut legs = call(&net, &mut control, 1, [false, true]);
        talk(&mut legs);
        process.signal(signal);
        process.wait();
        let start = Instant::now();
        while net.has_program() {
            assert!(start.elapsed() < DEADLINE, "after {signal:?}: {}", net.link("v0"));
            std::thread::yield_now();
        }
        // The port is anybody's again, by way of the kernel, which closes a ring's sockets a moment after its process.
        let other = loop {
            match within(&net.inside, || UdpSocket::bind(legs[0].port)) {
                Err(error) if error.kind() == ErrorKind::AddrInUse && start.elapsed() < DEADLINE => {}
                bound => break bound.unwrap(),
            }
        };
        other.set_read_timeout(Some(DEADLINE)).unwrap();
        legs[0].say();
        assert_eq!(other.recv(&mut [0; 1500]).unwrap(), 172);
    }
}

#[test]
fn what_cannot_have_it_is_served_by_io_uring_and_a_line_says_why() {
    let Some(net) = Net::new(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut process = spawn(&net, folder.path(), &[], &["--xdp", "nowhere,lo,v0"]);
    for (event, says) in [
        ("xdp-off", "interface=nowhere driver=io_uring because=there is no such interface"),
        ("xdp-off", "interface=lo driver=io_uring because=it is no Ethernet interface"),
        ("xdp", "interface=v0 program=driver frames=copied queues=1"),
    ] {
        let line = process.wait_for_line(event);
        assert!(line.contains(says), "{line}");
    }
    drop(process);

    // Without the rights, to anything.
    let unprivileged = ["setpriv", "--bounding-set", "-net_admin,-net_raw,-sys_admin,-bpf,-perfmon"];
    let mut process = spawn(&net, folder.path(), &unprivileged, &["--xdp", "v0"]);
    let line = process.wait_for_line("xdp-off");
    assert!(line.contains("CAP_NET_ADMIN, CAP_NET_RAW and CAP_BPF"), "{line}");
    process.wait_for_line("started");
    let mut control = process.attach();
    let mut legs = call(&net, &mut control, 1, [false, true]);
    (0..10).for_each(|_| talk(&mut legs));
    assert_eq!(control.segment().counter(0, Counter::FramesReceived), 0);
    assert!(!net.has_program());
}

#[test]
fn what_a_queue_brings_to_the_wrong_worker_is_handed_over() {
    let Some(net) = Net::new(2) else { return };
    let folder = tempfile::tempdir().unwrap();
    let process = start(&net, folder.path(), &["--xdp", "v0", "--cores", "0,0", "--streams-max", "64"]);
    let mut control = process.attach();
    // All streams live with the first worker; the phones' packets are spread over both queues.
    let mut calls: Vec<_> = (0..16).map(|n| call(&net, &mut control, 10 * n + 1, [n % 2 == 0, false])).collect();
    for _ in 0..50 {
        calls.iter_mut().for_each(talk);
    }
    let counter = |worker, counter| control.segment().counter(worker, counter);
    let handed = counter(1, Counter::FramesHandedOver);
    assert!(handed > 0, "of 32 phones one at least came by the second queue");
    assert_eq!((counter(0, Counter::FramesHandedOver), counter(1, Counter::FramesReceived)), (0, 0));
    assert_eq!(counter(1, Counter::FramesHandedOverDropped), 0);
    assert_eq!(counter(0, Counter::FramesReceived), 16 * 2 * 50, "{handed} of them handed over");
    assert_eq!(counter(0, Counter::FramesSent) + counter(0, Counter::FramesLeftToKernel), 16 * 2 * 50);
}

#[test]
fn the_frames_of_a_stream_follow_it_to_another_worker() {
    let Some(net) = Net::new(2) else { return };
    let folder = tempfile::tempdir().unwrap();
    let process = start(&net, folder.path(), &["--xdp", "v0", "--cores", "0,0", "--streams-max", "64"]);
    let mut control = process.attach();
    let mut legs = [Leg::new(&net, 1, false), Leg::new(&net, 2, true)];
    let [a, b] = [legs[0].id, legs[1].id];
    done(&mut control.workers()[0], &legs[0].create());
    done(&mut control.workers()[1], &legs[1].create());
    const ROUNDS: u64 = 20;
    for _ in 0..ROUNDS {
        done(&mut control.workers()[1], &Command::MigrateStream { id: b, worker: 0 });
        done(&mut control.workers()[0], &Command::CreateBridge { a, b });
        (0..5).for_each(|_| talk(&mut legs));
        done(&mut control.workers()[0], &Command::MigrateStream { id: b, worker: 1 });
    }
    // Whatever came, came by frames, though the first ones after a move may leave by the kernel.
    let sum = |counter| (0..2).map(|worker| control.segment().counter(worker, counter)).sum::<u64>();
    assert_eq!((sum(Counter::FramesReceived), sum(Counter::Stale)), (2 * 5 * ROUNDS, 0));
    assert_eq!(sum(Counter::FramesSent) + sum(Counter::FramesLeftToKernel), 2 * 5 * ROUNDS);
}

#[test]
fn an_interface_that_goes_takes_nothing_else_along() {
    let Some(net) = Net::new(1) else { return };
    let folder = tempfile::tempdir().unwrap();
    let process = start(&net, folder.path(), &["--xdp", "v0"]);
    let mut control = process.attach();
    let mut gone = call(&net, &mut control, 1, [false, true]);
    (0..10).for_each(|_| talk(&mut gone));
    // A call between phones on the host itself, which knows nothing of the interface.
    let on_loopback = |id| {
        let [phone, port] = [(); 2].map(|()| within(&net.inside, || UdpSocket::bind("127.0.0.1:0").unwrap()));
        phone.set_read_timeout(Some(DEADLINE)).unwrap();
        Leg { id: StreamId(id), phone, port: port.local_addr().unwrap(), number: 0 }
    };
    let mut stays = [on_loopback(11), on_loopback(12)];
    let worker = &mut control.workers()[0];
    stays.iter().for_each(|leg| done(worker, &leg.create()));
    done(worker, &Command::CreateBridge { a: stays[0].id, b: stays[1].id });
    talk(&mut stays);

    let removed = std::process::Command::new("ip").args(["-n", &net.inside, "link", "del", "v0"]).status().unwrap();
    assert!(removed.success());
    let turns = |control: &Attached| control.segment().counter(0, Counter::Turns);
    let before = turns(&control);
    (0..100).for_each(|_| talk(&mut stays));
    let after = turns(&control) - before;
    assert!(after < 2_000, "{after} turns for 200 packets: it spins");
    // Its streams are still there to be ended.
    for leg in gone.iter().chain(&stays) {
        done(&mut control.workers()[0], &Command::DestroyStream { id: leg.id });
    }
}
