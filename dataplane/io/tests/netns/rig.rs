//! The AF_XDP driver on a veth pair, with a raw socket at the other end in place of phones. Dropped, all of it goes.
#![allow(dead_code, reason = "each test file uses its part")]

use crate::netns::{Net, enter, within};
use crate::wire::{Frame, Wire};
use nebula_core::driver::{Component, Driver, Forward, Generation, Incoming, Socket, StreamIndex};
use nebula_io::xdp::{Mode, Options, Tuning, Turn, Xdp, set_up};
use nebula_io::{PacketDriver, uring};
use std::time::{Duration, Instant};

pub const DEADLINE: Duration = Duration::from_secs(20);
const PHONE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x99];

/// See the module.
pub struct Rig {
    pub xdp: Xdp,
    pub wire: Wire,
    pub mac: [u8; 6],
    pub net: Net,
}

pub fn tuning(mode: Mode) -> Tuning {
    Tuning { mode, frames: 256, busy_poll: None }
}

impl Rig {
    /// Moves this thread to the dataplane's side.
    pub fn new(mode: Mode) -> Option<Self> {
        Self::with(tuning(mode))
    }

    pub fn with(tuning: Tuning) -> Option<Self> {
        let net = Net::new(1)?;
        enter(&net.inside);
        let options = Options { interfaces: vec!["v0".into()], streams_max: 8, tuning };
        let (mut parts, fates) = set_up(&options, &[eventfd()]).unwrap();
        let runs = fates[0].result.as_ref().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((runs.in_driver, runs.queues), (tuning.mode != Mode::Generic, 1));
        let kernel = uring::Options { streams_max: 8, buffers: 16, socket_buffer_bytes: None };
        let xdp = Xdp::new(kernel, eventfd(), parts.remove(0), &tuning).unwrap();
        let mac = nebula_io::xdp::Interface::find("v0").unwrap().mac;
        let wire = within(&net.outside, || Wire::new("v1"));
        Some(Self { xdp, wire, mac, net })
    }

    /// A frame of a phone to the dataplane.
    pub fn frame(&self, from: &str, to: &str, payload: &[u8]) -> Frame {
        Frame {
            to_mac: self.mac,
            from_mac: PHONE_MAC,
            tags: Vec::new(),
            from: from.parse().unwrap(),
            to: to.parse().unwrap(),
            payload: payload.to_vec(),
        }
    }

    pub fn v4(&self, payload: &[u8]) -> Frame {
        self.frame("10.77.0.9:5004", "10.77.0.1:4000", payload)
    }

    pub fn open(&mut self, stream: u32, local: &str) {
        self.xdp.open(socket(stream), local.parse().unwrap()).unwrap();
    }

    /// Turns until so many packets were handed to the engine's place, and then sends what they left.
    pub fn turns(&mut self, packets: u64, mut handle: impl for<'a> FnMut(&mut Turn<'a>, &mut Incoming<'_>)) {
        let start = Instant::now();
        let mut seen = 0;
        while seen < packets {
            assert!(start.elapsed() < DEADLINE, "{seen} of {packets}: {:?}", self.xdp);
            self.xdp.wait(Some(Duration::from_millis(20)), None).unwrap();
            self.xdp.receive(|turn, packets| {
                for incoming in packets {
                    seen += 1;
                    handle(turn, incoming);
                }
            });
        }
        self.flush();
    }

    pub fn flush(&mut self) {
        self.xdp.wait(Some(Duration::ZERO), None).unwrap();
        self.xdp.receive(|_, _| {});
    }

    pub fn echo_one(&mut self) {
        self.turns(1, |_, incoming| {
            incoming.packet.as_mut()[0] ^= 0xff;
            send_back(incoming);
        });
    }

    pub fn next(&self, port: u16) -> Frame {
        self.wire.next(port, DEADLINE).expect("a frame")
    }
}

pub fn send_back(incoming: &mut Incoming<'_>) {
    incoming.forward = Some(Forward { from: incoming.socket, to: incoming.source.unwrap() });
}

pub fn eventfd() -> rustix::fd::OwnedFd {
    rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC).unwrap()
}

pub fn socket(stream: u32) -> Socket {
    Socket { stream: StreamIndex(stream), generation: Generation(1), component: Component::Rtp }
}

/// What a frame is answered with by `echo_one`.
pub fn answer(frame: &Frame) -> Frame {
    let mut payload = frame.payload.clone();
    payload[0] ^= 0xff;
    let (to_mac, from_mac, tags) = (frame.from_mac, frame.to_mac, frame.tags.clone());
    Frame { to_mac, from_mac, tags, from: frame.to, to: frame.from, payload }
}
