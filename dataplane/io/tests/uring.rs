//! The io_uring driver against real sockets on the loopback: what the engine relies on.

use nebula_core::driver::{Component, Driver, Forward, Generation, Incoming, OpenError, Socket, StreamIndex};
use nebula_io::uring::{Gather, Options, Uring};
use std::net::{Ipv6Addr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(10);

fn uring(buffers: u16) -> Uring {
    let wakeup = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    Uring::new(Options { streams_max: 8, buffers, socket_buffer_bytes: None }, wakeup).unwrap()
}

fn socket(stream: u32, generation: u32) -> Socket {
    Socket { stream: StreamIndex(stream), generation: Generation(generation), component: Component::Rtp }
}

fn peer() -> UdpSocket {
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    peer.set_read_timeout(Some(DEADLINE)).unwrap();
    peer
}

/// A port that was free a moment ago.
fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Turns until `done` or the deadline.
fn turns(
    uring: &mut Uring,
    mut handle: impl FnMut(&mut Uring, &mut Incoming<'_>),
    mut done: impl FnMut(&Uring) -> bool,
) {
    let start = Instant::now();
    while !done(uring) {
        assert!(start.elapsed() < DEADLINE, "{uring:?}");
        uring.wait(Some(Duration::from_millis(20)), None).unwrap();
        uring.receive(|uring, packets| packets.iter_mut().for_each(|incoming| handle(uring, incoming)));
    }
}

fn echo(_: &mut Uring, incoming: &mut Incoming<'_>) {
    incoming.packet.as_mut()[0] += 1;
    incoming.forward = Some(Forward { from: incoming.socket, to: incoming.source.unwrap() });
}

#[test]
fn packets_are_sent_back_in_place_unconnected_and_connected() {
    let mut uring = uring(16);
    let (peer, local) = (peer(), free_address());
    uring.open(socket(3, 1), local).unwrap();
    for n in 0..200u8 {
        if n == 100 {
            uring.connect(socket(3, 1), peer.local_addr().unwrap());
        }
        peer.send_to(&[n, 7], local).unwrap();
        turns(&mut uring, echo, |uring| uring.counters().sent > u64::from(n));
        uring.wait(Some(Duration::ZERO), None).unwrap();
        let mut got = [0; 9];
        assert_eq!(peer.recv_from(&mut got).unwrap(), (2, local));
        assert_eq!(got[..2], [n + 1, 7]);
    }
    assert_eq!((uring.counters().received, uring.counters().send_failed), (200, 0));
}

#[test]
fn a_connected_socket_hears_its_peer_alone_until_disconnected() {
    let mut uring = uring(16);
    let (peer, foreign, local) = (peer(), peer(), free_address());
    uring.open(socket(0, 1), local).unwrap();
    uring.connect(socket(0, 1), peer.local_addr().unwrap());
    foreign.send_to(b"foreign", local).unwrap();
    peer.send_to(b"peer", local).unwrap();
    let mut heard = Vec::new();
    turns(
        &mut uring,
        |_, incoming| heard.push(incoming.packet.as_ref().to_vec()),
        |uring| uring.counters().received == 1,
    );
    assert_eq!(heard, [b"peer"]);
    uring.disconnect(socket(0, 1));
    foreign.send_to(b"foreign", local).unwrap();
    let mut sources = Vec::new();
    turns(&mut uring, |_, incoming| sources.push(incoming.source), |uring| uring.counters().received == 2);
    assert_eq!(sources, [Some(foreign.local_addr().unwrap())]);
}

#[test]
fn a_closed_port_is_free_at_once_and_sends_before_it_still_leave() {
    let mut uring = uring(16);
    let (peer, local) = (peer(), free_address());
    for generation in 0..100 {
        uring.open(socket(0, generation), local).unwrap();
        assert_eq!(uring.open(socket(1, generation), local), Err(OpenError::PortInUse));
        peer.send_to(b"late", local).unwrap();
        uring.send(socket(0, generation), peer.local_addr().unwrap(), b"bye");
        uring.close(socket(0, generation));
        let other = UdpSocket::bind(local).expect("the port is free");
        drop(other);
        let mut got = [0; 9];
        assert_eq!(peer.recv(&mut got).unwrap(), 3);
    }
    // What came for the closed sockets reaches nobody.
    uring.wait(Some(Duration::ZERO), None).unwrap();
    uring.receive(|_, packets| panic!("{packets:?}"));
}

#[test]
fn running_out_of_buffers_delays_packets_but_loses_none() {
    let mut uring = uring(2);
    let (peer, local) = (peer(), free_address());
    uring.open(socket(0, 1), local).unwrap();
    for n in 0..100u8 {
        peer.send_to(&[n], local).unwrap();
    }
    let mut heard = Vec::new();
    turns(&mut uring, |_, incoming| heard.push(incoming.packet.as_ref()[0]), |uring| uring.counters().received == 100);
    assert_eq!(heard, (0..100).collect::<Vec<_>>());
    assert!(uring.counters().buffers_exhausted > 0 && uring.counters().rearmed > 0);
}

#[test]
fn a_place_taken_again_while_its_receive_had_ended_receives_once() {
    let mut uring = uring(2);
    let (peer, local) = (peer(), free_address());
    uring.open(socket(0, 1), local).unwrap();
    for n in 0..20u8 {
        peer.send_to(&[n], local).unwrap();
    }
    turns(&mut uring, |_, _| {}, |uring| uring.counters().buffers_exhausted > 0);
    // In the same turn the stream gives way to another: were its receive armed twice, closing would end only one.
    uring.close(socket(0, 1));
    uring.open(socket(0, 2), local).unwrap();
    uring.wait(Some(Duration::ZERO), None).unwrap();
    assert_eq!(uring.counters().rearmed, 0);
    uring.close(socket(0, 2));
    UdpSocket::bind(local).expect("the port is free");
}

#[test]
fn more_sends_than_the_queue_holds_leave_in_order() {
    let mut uring = uring(16);
    let local = free_address();
    uring.open(socket(0, 1), local).unwrap();
    // Several peers, because one socket buffer holds no more than some hundred packets.
    let peers: Vec<_> = (0..8).map(|_| peer()).collect();
    for n in 0..1600usize {
        let mut packet = [0; 90];
        packet[..8].copy_from_slice(&n.to_be_bytes());
        uring.send(socket(0, 1), peers[n % 8].local_addr().unwrap(), &packet);
    }
    uring.wait(Some(Duration::ZERO), None).unwrap();
    for n in 0..1600usize {
        let mut got = [0; 99];
        assert_eq!(peers[n % 8].recv(&mut got).unwrap(), 90);
        assert_eq!(got[..8], n.to_be_bytes());
    }
    assert_eq!((uring.counters().send_overflow, uring.counters().send_failed), (0, 0));
}

#[test]
fn ipv6_and_packets_too_long_for_a_buffer() {
    let mut uring = uring(16);
    let peer = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let local = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    uring.open(socket(0, 1), local).unwrap();
    peer.send_to(&[1; 4000], local).unwrap();
    peer.send_to(&[2; 172], local).unwrap();
    let mut heard = Vec::new();
    let handle = |_: &mut Uring, incoming: &mut Incoming<'_>| {
        heard.push((incoming.source, incoming.packet.as_ref()[0], incoming.packet.len()));
    };
    turns(&mut uring, handle, |uring| uring.counters().received == 2);
    let source = Some(peer.local_addr().unwrap());
    assert!(heard[0].2 > nebula_core::limits::PACKET_BYTES_MAX, "the engine sees that it is too long");
    assert_eq!([heard[0].0, heard[1].0], [source; 2]);
    assert_eq!((heard[1].1, heard[1].2), (2, 172));
}

#[test]
fn the_eventfd_ends_a_wait_each_time() {
    let wakeup = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let ours = nebula_io::uring::duplicate(&wakeup).unwrap();
    let mut uring = Uring::new(Options { streams_max: 1, buffers: 2, socket_buffer_bytes: None }, wakeup).unwrap();
    for _ in 0..3 {
        rustix::io::write(&ours, &1u64.to_ne_bytes()).unwrap();
        let start = Instant::now();
        uring.wait(Some(DEADLINE), None).unwrap();
        uring.receive(|_, _| {});
        assert!(start.elapsed() < DEADLINE);
        let start = Instant::now();
        uring.wait(Some(Duration::from_millis(30)), None).unwrap();
        uring.receive(|_, _| {});
        assert!(start.elapsed() >= Duration::from_millis(30), "raised once, woken once");
    }
}

#[test]
fn a_gathering_wait_that_gathered_nothing_ends_with_the_first_event() {
    let wakeup = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap();
    let ours = nebula_io::uring::duplicate(&wakeup).unwrap();
    let mut uring = Uring::new(Options { streams_max: 1, buffers: 2, socket_buffer_bytes: None }, wakeup).unwrap();
    let start = Instant::now();
    let raiser = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(30));
        rustix::io::write(&ours, &1u64.to_ne_bytes()).unwrap();
    });
    uring.wait(Some(DEADLINE), Some(Gather { time: Duration::from_micros(300), enough: 100 })).unwrap();
    let waited = start.elapsed();
    assert!((Duration::from_millis(30)..DEADLINE / 2).contains(&waited), "{waited:?}");
    raiser.join().unwrap();
}

/// On kernels that cannot gather, the first packet ends each wait, and the test holds as well.
#[test]
fn a_gathering_wait_ends_when_enough_has_come() {
    let mut uring = uring(16);
    let peer = peer();
    let locals = [0, 1, 2].map(|stream| {
        let local = free_address();
        uring.open(socket(stream, 1), local).unwrap();
        local
    });
    uring.wait(Some(Duration::ZERO), None).unwrap();
    for local in locals {
        peer.send_to(b"burst", local).unwrap();
    }
    let start = Instant::now();
    while uring.counters().received < 3 {
        uring.wait(Some(DEADLINE), Some(Gather { time: DEADLINE, enough: 3 })).unwrap();
        uring.receive(|_, _| {});
    }
    assert!(start.elapsed() < DEADLINE / 2, "the time was not waited for");
}

#[test]
fn a_peer_that_was_away_is_heard_again() {
    let mut uring = uring(16);
    let (away, local) = (peer(), free_address());
    let address = away.local_addr().unwrap();
    uring.open(socket(0, 1), local).unwrap();
    uring.connect(socket(0, 1), address);
    drop(away);
    for _ in 0..10 {
        // Each is answered by an ICMP error, which ends the receive.
        uring.send(socket(0, 1), address, b"anybody there?");
        uring.wait(Some(Duration::ZERO), None).unwrap();
        uring.receive(|_, _| {});
    }
    assert!(uring.counters().rearmed > 0, "{uring:?}");
    let back = UdpSocket::bind(address).unwrap();
    back.send_to(b"back", local).unwrap();
    turns(&mut uring, |_, _| {}, |uring| uring.counters().received == 1);
}

#[test]
fn what_the_kernel_refuses_to_send_is_counted() {
    let mut uring = uring(2);
    uring.open(socket(0, 1), free_address()).unwrap();
    uring.send(socket(0, 1), "127.0.0.1:0".parse().unwrap(), b"to no port");
    uring.send(socket(0, 1), free_address(), b"to some port");
    uring.send(socket(5, 1), free_address(), b"from no socket");
    turns(&mut uring, |_, _| {}, |uring| uring.counters().send_failed == 1);
    assert_eq!(uring.counters().sent, 2);
}

#[test]
fn what_cannot_be_bound_is_named() {
    let mut uring = uring(2);
    let taken = peer();
    assert_eq!(uring.open(socket(0, 1), taken.local_addr().unwrap()), Err(OpenError::PortInUse));
    let elsewhere = "203.0.113.1:4000".parse().unwrap();
    assert_eq!(uring.open(socket(0, 1), elsewhere), Err(OpenError::AddressNotAvailable));
    assert_eq!(uring.open(socket(99, 1), free_address()), Err(OpenError::NoFileDescriptor));
}

#[test]
fn a_turn_is_one_system_call_however_many_packets_it_relays() {
    let mut uring = uring(256);
    let (peer, local) = (peer(), free_address());
    uring.open(socket(0, 1), local).unwrap();
    uring.connect(socket(0, 1), peer.local_addr().unwrap());
    uring.wait(Some(Duration::ZERO), None).unwrap();
    let (flushes, mut got) = (uring.counters().flushes, [0; 9]);
    for round in 1..=20u64 {
        (0..100).for_each(|n| assert_eq!(peer.send_to(&[n, 7], local).unwrap(), 2));
        turns(&mut uring, echo, |uring| uring.counters().sent == 100 * round);
        uring.wait(Some(Duration::ZERO), None).unwrap();
        (0..100).for_each(|_| assert_eq!(peer.recv(&mut got).unwrap(), 2));
    }
    let counters = uring.counters();
    assert_eq!((counters.received, counters.send_failed), (2_000, 0));
    assert_eq!(counters.flushes, flushes, "nothing was submitted but by the waits: {counters:?}");
    assert!(counters.turns < 200, "which gathered: {counters:?}");
}
