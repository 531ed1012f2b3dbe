//! The AF_XDP driver on a veth pair between two namespaces, its other end a raw socket: what is redirected and what is not,
//! what leaves and how it looks.
#![allow(unsafe_code)]

mod netns;
#[path = "netns/rig.rs"]
mod rig;
#[path = "netns/wire.rs"]
mod wire;

use nebula_core::driver::{Driver, Forward, Incoming};
use nebula_io::PacketDriver;
use nebula_io::xdp::{Error, Mode, Options, Tuning, Turn, set_up};
use netns::within;
use rig::{DEADLINE, Rig, answer, eventfd, send_back, socket, tuning};
use std::net::UdpSocket;
use std::time::Duration;
use wire::{Frame, Wire, ip_packet, set_ipv4_sum, udp_sum};

/// Long enough for a frame that is not to come.
const SILENCE: Duration = Duration::from_millis(100);
const PORT: u16 = 4000;

fn frames_of_every_kind_are_answered(mode: Mode) {
    let Some(mut rig) = Rig::new(mode) else { return };
    rig.open(0, "10.77.0.1:4000");
    rig.open(1, "[fd77::1]:4000");
    let vlan = (0x8100, 0x6007);
    // Each kind from a port of its own: a phone that is known does not change its VLAN from one packet to the next.
    for (port, tags) in (5004..).zip([vec![], vec![vlan], vec![(0x88a8, 5), vlan]]) {
        for (from, to) in [("10.77.0.9:5004", "10.77.0.1:4000"), ("[fd77::9]:5004", "[fd77::1]:4000")] {
            for len in [1, 12, 171, 172, 1300] {
                let payload: Vec<u8> = (0..len).map(|n| (n * 7) as u8).collect();
                let mut frame = rig.frame(from, to, &payload);
                frame.tags = tags.clone();
                frame.from.set_port(port);
                rig.wire.send(&frame.bytes());
                rig.echo_one();
                assert_eq!(rig.next(port), answer(&frame));
            }
        }
    }
    let counters = rig.xdp.frame_counters();
    assert_eq!((counters.received, counters.sent, counters.refused), (30, 30, 0));
    assert_eq!((counters.sent_by_kernel, rig.xdp.counters().received), (0, 30));
}

#[test]
fn in_the_driver_frames_of_every_kind_are_answered_by_frames() {
    frames_of_every_kind_are_answered(Mode::Driver);
}

#[test]
fn behind_the_driver_frames_of_every_kind_are_answered_by_frames() {
    frames_of_every_kind_are_answered(Mode::Generic);
}

#[test]
fn a_card_that_is_polled_busily_answers_too() {
    let tuning = Tuning { busy_poll: Some(Duration::from_micros(50)), ..tuning(Mode::Driver) };
    let Some(mut rig) = Rig::with(tuning) else { return };
    rig.open(0, "10.77.0.1:4000");
    for n in 1..100 {
        let frame = rig.v4(&[n; 172]);
        rig.wire.send(&frame.bytes());
        rig.echo_one();
        assert_eq!(rig.next(5004), answer(&frame));
    }
    assert_eq!(rig.xdp.frame_counters().sent, 99);
}

#[test]
fn more_frames_than_there_is_memory_for_come_and_go() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    for round in 0..40u8 {
        for n in 0..100 {
            rig.wire.send(&rig.v4(&[round, n]).bytes());
        }
        rig.turns(100, |_, incoming| send_back(incoming));
        for n in 0..100 {
            assert_eq!(rig.next(5004).payload, [round, n]);
        }
    }
    let counters = rig.xdp.frame_counters();
    assert_eq!((counters.received, counters.sent), (4000, 4000));
}

#[test]
fn a_relayed_packet_gets_the_headers_of_its_other_leg_where_it_lies() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    rig.open(1, "[fd77::1]:4002");
    let mut short = rig.v4(&[1; 172]);
    let mut long = rig.frame("[fd77::9]:5006", "[fd77::1]:4002", &[2; 172]);
    // The shortest headers against the longest, and a packet that grows and shrinks, as SRTP has it.
    long.tags = vec![(0x88a8, 5), (0x8100, 7)];
    long.from_mac[5] = 0x77;
    let relay = |by: i32| {
        move |_: &mut Turn<'_>, incoming: &mut Incoming<'_>| {
            let (from, to) = match incoming.socket == socket(0) {
                true => (socket(1), "[fd77::9]:5006"),
                false => (socket(0), "10.77.0.9:5004"),
            };
            incoming.packet.set_len((incoming.packet.len() as i32 + by) as usize);
            incoming.packet.as_mut().fill(9);
            incoming.forward = Some(Forward { from, to: to.parse().unwrap() });
        }
    };
    for (by, len) in [(0, 172), (16, 188), (-16, 156)] {
        for port in [5006, 5004] {
            let frame = if port == 5006 { &short } else { &long };
            rig.wire.send(&frame.bytes());
            rig.turns(1, relay(by));
            // The first goes by the kernel, which does not know that neighbour and finds none.
            if rig.xdp.frame_counters().sent == 0 {
                continue;
            }
            let other = if port == 5006 { answer(&long) } else { answer(&short) };
            assert_eq!(rig.next(port), Frame { payload: vec![9; len], ..other });
        }
    }
    assert_eq!((rig.xdp.frame_counters().sent, rig.xdp.frame_counters().sent_by_kernel), (5, 1));
    short.payload.clear();
    rig.wire.send(&short.bytes());
    rig.turns(1, |_, incoming| assert!(incoming.packet.is_empty()));
}

#[test]
fn whoever_is_not_learned_yet_is_reached_by_the_kernel() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    // A phone with a stack of its own, which answers the kernel's question for its MAC.
    let phone = within(&rig.net.outside, || UdpSocket::bind("10.77.0.2:5004").unwrap());
    phone.set_read_timeout(Some(DEADLINE)).unwrap();
    let to = phone.local_addr().unwrap();
    let mut got = [0; 9];
    for (n, by_kernel) in [(1, 1), (2, 2), (3, 2), (4, 2)] {
        rig.xdp.send(socket(0), to, &[n; 5]);
        rig.flush();
        assert_eq!(phone.recv_from(&mut got).unwrap(), (5, "10.77.0.1:4000".parse().unwrap()));
        assert_eq!((got[0], rig.xdp.frame_counters().sent_by_kernel), (n, by_kernel));
        if n == 2 {
            // It says something, and the engine accepts it.
            phone.send_to(b"hello", "10.77.0.1:4000").unwrap();
            rig.echo_one();
            phone.recv_from(&mut got).unwrap();
        }
    }
    assert_eq!(rig.xdp.frame_counters().sent, 3);
}

#[test]
fn a_forged_frame_moves_nobody_and_a_router_that_fails_over_does() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    let frame = rig.v4(&[0; 20]);
    let mut other = frame.clone();
    other.from_mac = [2, 0, 0, 0, 0, 0x66];
    let mut heard = Vec::new();
    // Three in a row are not enough, however often; four are. What the engine does not accept counts for nothing.
    for (from, accepted) in [
        (&frame, true),
        (&other, true),
        (&other, true),
        (&other, true),
        (&frame, true),
        (&other, false),
        (&other, false),
        (&other, false),
        (&other, false),
        (&other, true),
        (&other, true),
        (&other, true),
        (&other, true),
    ] {
        rig.wire.send(&from.bytes());
        rig.turns(1, |_, incoming| {
            if accepted {
                send_back(incoming);
            }
        });
        if accepted {
            heard.push(rig.next(5004).to_mac[5]);
        }
    }
    assert_eq!(heard, [0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x99, 0x66]);
}

#[test]
fn what_is_not_for_an_open_port_goes_to_the_kernel() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    let other = UdpSocket::bind("10.77.0.1:4001").unwrap();
    other.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut to_other = rig.v4(b"other port");
    to_other.to.set_port(4001);
    rig.wire.send(&to_other.bytes());
    let mut got = [0; 20];
    assert_eq!(other.recv(&mut got).unwrap(), 10);

    // By the kernel to the stream's own socket: a fragmented datagram, and one with IP options.
    let udp = rig.v4(&[7; 2000]);
    let (from, to) = (udp.from.ip(), udp.to.ip());
    let whole = udp.bytes()[34..].to_vec();
    for (start, end, more) in [(0, 1200, 0x20), (1200, whole.len(), 0)] {
        let mut packet = ip_packet(from, to, 17, &whole[start..end]);
        packet[6..8].copy_from_slice(&[more | ((start / 8) >> 8) as u8, (start / 8) as u8]);
        set_ipv4_sum(&mut packet);
        rig.wire.send(&udp.around(&packet));
    }
    let short = rig.v4(&[8; 30]);
    let mut packet = ip_packet(from, to, 17, &short.bytes()[34..]);
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    let total = packet.len() as u16;
    packet[2..4].copy_from_slice(&total.to_be_bytes());
    set_ipv4_sum(&mut packet);
    rig.wire.send(&short.around(&packet));
    let mut heard = Vec::new();
    rig.turns(2, |_, incoming| heard.push((incoming.source, incoming.packet.as_ref()[0])));
    assert_eq!(heard, [(Some(udp.from), 7), (Some(udp.from), 8)]);
    assert_eq!((rig.xdp.frame_counters().received, rig.xdp.counters().received), (0, 2));

    // A closed port is the kernel's again, at once.
    rig.xdp.close(socket(0));
    let again = UdpSocket::bind("10.77.0.1:4000").expect("the port is free");
    again.set_read_timeout(Some(DEADLINE)).unwrap();
    rig.wire.send(&rig.v4(b"closed").bytes());
    assert_eq!(again.recv(&mut got).unwrap(), 6);
    assert_eq!(
        rig.xdp.open(socket(0), "10.77.0.1:4000".parse().unwrap()),
        Err(nebula_core::driver::OpenError::PortInUse)
    );
    assert_eq!(rig.xdp.frame_counters().received, 0);
}

#[test]
fn frames_that_lie_are_refused_and_counted() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    rig.open(1, "[fd77::1]:4000");
    let (v4, v6) = (rig.v4(&[1; 40]), rig.frame("[fd77::9]:5004", "[fd77::1]:4000", &[1; 40]));
    let mut bad: Vec<Vec<u8>> = Vec::new();
    let with = |frame: &Frame, at: usize, bytes: &[u8]| {
        let mut changed = frame.bytes();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        if frame.from.is_ipv4() && at != 24 {
            set_ipv4_sum(&mut changed[14..]);
        }
        changed
    };
    // UDP lengths: more than there is, less than a header, none.
    for len in [[0, 49], [0xff, 0xff], [0, 7], [0, 0]] {
        bad.push(with(&v4, 38, &len));
        bad.push(with(&v6, 58, &len));
    }
    // IP lengths: more than there is, less than a header.
    bad.extend([with(&v4, 16, &[0, 69]), with(&v4, 16, &[0, 19]), with(&v6, 18, &[0, 49]), with(&v6, 18, &[0, 7])]);
    // Checksums: wrong, and none over IPv6.
    bad.extend([with(&v4, 24, &[1, 2]), with(&v4, 40, &[1, 2]), with(&v6, 60, &[1, 2]), with(&v6, 60, &[0, 0])]);
    // A changed payload.
    bad.extend([with(&v4, 50, &[9]), with(&v6, 70, &[9])]);
    for frame in &bad {
        rig.wire.send(frame);
    }
    // None at all is right over IPv4, and so is what lies behind the datagram in a short frame.
    rig.wire.send(&with(&v4, 40, &[0, 0]));
    let mut padded = rig.v4(&[3]).bytes();
    padded.extend([0xee; 17]);
    rig.wire.send(&padded);
    let mut heard = Vec::new();
    rig.turns(2, |_, incoming| heard.push(incoming.packet.as_ref().to_vec()));
    assert_eq!(heard, [vec![1; 40], vec![3]]);
    let counters = rig.xdp.frame_counters();
    assert_eq!((counters.refused, counters.received), (bad.len() as u64, 2));
}

#[test]
fn a_checksum_that_was_left_to_hardware_is_written_whole() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    // What a virtual interface hands over: the sum of the pseudo-header alone.
    let frame = rig.v4(&[5; 33]);
    let mut bytes = frame.bytes();
    let partial = !udp_sum(frame.from.ip(), frame.to.ip(), &[0; 41]);
    bytes[40..42].copy_from_slice(&partial.to_be_bytes());
    rig.wire.send(&bytes);
    rig.echo_one();
    assert_eq!(rig.next(5004), answer(&frame), "checked whole");
}

#[test]
fn a_packet_beyond_the_mtu_is_left_to_the_kernel() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, "10.77.0.1:4000");
    let phone = within(&rig.net.outside, || UdpSocket::bind("10.77.0.2:5004").unwrap());
    phone.set_read_timeout(Some(DEADLINE)).unwrap();
    phone.send_to(&[0; 20], "10.77.0.1:4000").unwrap();
    rig.echo_one();
    let to = phone.local_addr().unwrap();
    let mut got = vec![0; 3000];
    assert_eq!(phone.recv(&mut got).unwrap(), 20);
    for (len, frames, by_kernel) in [(1472, 2, 0), (1473, 2, 1)] {
        rig.xdp.send(socket(0), to, &vec![4; len]);
        rig.flush();
        assert_eq!(phone.recv(&mut got).unwrap(), len);
        let counters = rig.xdp.frame_counters();
        assert_eq!((counters.sent, counters.sent_by_kernel), (frames, by_kernel));
    }
}

#[test]
fn the_program_goes_with_the_driver_and_others_are_not_driven_away() {
    let Some(rig) = Rig::new(Mode::Auto) else { return };
    assert!(rig.net.has_program());
    let options = |name: &str| Options { interfaces: vec![name.into()], streams_max: 8, tuning: tuning(Mode::Auto) };
    let refused = |name: &str| set_up(&options(name), &[eventfd()]).unwrap().1.remove(0).result.unwrap_err();
    assert!(matches!(refused("v0"), Error::Attach(_)), "there is one already");
    assert!(matches!(refused("lo"), Error::NotEthernet));
    assert!(matches!(refused("v9"), Error::NoInterface));
    let Rig { xdp, net, .. } = rig;
    assert!(net.has_program());
    drop(xdp);
    assert!(!net.has_program());
    // Nothing came of it, on this wire or another.
    let wire = within(&net.outside, || Wire::new("v1"));
    assert_eq!(wire.next(PORT, SILENCE), None);
}
