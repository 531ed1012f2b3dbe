//! The AF_XDP driver: frames of open ports come straight from the card's queues, the engine works on the payload where it
//! lies, new headers are written in front of it, and the same frame is queued to leave. No copy, no allocation, and the one
//! call of the turn is still that of `uring`, which also polls the AF_XDP sockets.
//!
//! It stands on `Uring`, and is an addition to it: each stream has its kernel socket, which keeps the port from other
//! programs, hears what comes by other interfaces, in fragments or with IP options, and sends wherever no way to the peer has
//! been learned yet (`route`).
//!
//! A frame's path: `group` (rings) -> `receive` (`frame::parse`, `ports::find`, the engine) -> `send` (`route`,
//! `header::write`) -> `group`. What belongs to another worker goes by `handover`.

pub mod checksum;
pub mod frame;
mod group;
mod handover;
pub mod header;
mod interface;
mod options;
mod ports;
mod program;
mod receive;
mod ring;
pub mod route;
mod send;
mod setup;
mod umem;

pub use handover::HANDED_MAX;
pub use interface::Interface;
pub use options::{Error, Mode, Options, Tuning};
pub use setup::{Fate, Part, Runs, set_up};

use crate::PacketDriver;
use crate::uring::{self, Uring};
use group::Group;
use nebula_core::driver::{Driver, Forward, Incoming, OpenError, Socket};
use ports::Ports;
use rustix::fd::{AsFd, OwnedFd};
use setup::Part as Parts;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// Interfaces in all.
pub const INTERFACES_MAX: usize = 8;
/// Queues of an interface that one worker serves.
pub const QUEUES_MAX: usize = 8;
const _: () = assert!(INTERFACES_MAX * QUEUES_MAX <= uring::POLLS_MAX, "one poll each");
/// How soon frames are tried again that the kernel had no room for.
const RETRY: Duration = Duration::from_millis(1);

/// What the driver counted apart from its kernel sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Packets received as frames.
    pub received: u64,
    /// Packets queued as frames.
    pub sent: u64,
    /// Packets that were left to the kernel to send, because no way to the peer was known, or none was free.
    pub sent_by_kernel: u64,
    /// Frames that were no datagrams, or damaged.
    pub refused: u64,
    /// Frames for ports that were closed already.
    pub stale: u64,
    /// Frames handed to other workers.
    pub handed: u64,
    /// Frames that did not fit another worker's queue.
    pub handed_dropped: u64,
}

/// See the module.
pub struct Xdp {
    uring: Uring,
    side: Side,
    busy_poll: Option<Duration>,
}

/// What the engine drives during a turn.
pub struct Turn<'a> {
    uring: &'a mut Uring,
    side: &'a mut Side,
}

/// All of the driver but its kernel sockets.
struct Side {
    // Sockets before programs, so that nothing is redirected to a socket that is gone. (The kernel would drop such frames.)
    worker: usize,
    groups: Vec<Group>,
    ports: Ports,
    shared: std::sync::Arc<handover::Shared>,
    _programs: std::sync::Arc<Vec<program::Program>>,
    started: Instant,
    now_ms: u64,
    counters: Counters,
}

impl Xdp {
    /// Sets the worker's driver up, on the thread that will use it.
    pub fn new(options: uring::Options, wakeup: OwnedFd, part: Parts, tuning: &Tuning) -> Result<Self, uring::Error> {
        let side = Side {
            worker: part.worker,
            groups: part.groups,
            ports: Ports::new(options.streams_max),
            shared: part.shared,
            _programs: part._programs,
            started: Instant::now(),
            now_ms: 0,
            counters: Counters::default(),
        };
        Ok(Self { uring: Uring::new(options, wakeup)?, side, busy_poll: tuning.busy_poll })
    }

    /// What was counted so far as frames.
    pub fn frame_counters(&self) -> Counters {
        self.side.counters
    }

    fn turn(&mut self) -> Turn<'_> {
        Turn { uring: &mut self.uring, side: &mut self.side }
    }

    /// Polls the cards until one has something or the time is over; whether one has.
    fn poll_busily(&self, how_long: Duration) -> bool {
        let start = Instant::now();
        loop {
            for queue in self.side.groups.iter().flat_map(|group| &group.queues) {
                queue.poll_card();
                if queue.has_received() {
                    return true;
                }
            }
            if start.elapsed() >= how_long {
                return false;
            }
        }
    }
}

impl PacketDriver for Xdp {
    type Turn<'a> = Turn<'a>;

    fn wait(&mut self, timeout: Option<Duration>, gather: Option<uring::Gather>) -> io::Result<()> {
        let mut index = 0;
        let mut timeout = timeout;
        for group in &mut self.side.groups {
            group.recycle();
            for queue in &mut group.queues {
                // Arming a poll also has the kernel send what is queued, and look at the fill ring.
                let kick = queue.publish_transmits();
                let is_armed = !self.uring.poll(index, queue.as_fd());
                if is_armed && kick {
                    self.uring.kick(queue.as_fd());
                }
                if is_armed && queue.starves() {
                    queue.poll_card();
                }
                if queue.is_stuck() {
                    timeout = Some(timeout.map_or(RETRY, |timeout| timeout.min(RETRY)));
                }
                index += 1;
            }
        }
        let may_sleep = self.side.shared.asleep(self.side.worker);
        let timeout = match self.busy_poll {
            _ if !may_sleep => Some(Duration::ZERO),
            Some(how_long) if self.poll_busily(how_long.min(timeout.unwrap_or(how_long))) => Some(Duration::ZERO),
            _ => timeout,
        };
        let waited = self.uring.wait(timeout, gather.filter(|_| may_sleep));
        self.side.shared.awake(self.side.worker);
        for queue in self.side.groups.iter_mut().flat_map(|group| &mut group.queues) {
            queue.send_rest();
        }
        waited
    }

    fn receive<F>(&mut self, mut handle: F)
    where
        F: for<'a> FnMut(&mut Turn<'a>, &mut [Incoming<'_>]),
    {
        let (uring, side) = (&mut self.uring, &mut self.side);
        side.now_ms = side.started.elapsed().as_millis() as u64;
        // By the kernel's sockets.
        uring.receive(|uring, packets| {
            handle(&mut Turn { uring, side }, packets);
            for Incoming { packet, forward, .. } in packets {
                // What a frame carries, `uring` need not.
                forward.take_if(|&mut Forward { from, to }| side.send(from, to, packet.as_ref()));
            }
        });
        // By the cards' queues.
        for group in 0..side.groups.len() {
            for queue in 0..side.groups[group].queues.len() {
                side.receive_frames(uring, group, queue, &mut handle);
            }
        }
        side.receive_handed(uring, &mut handle);
    }

    fn take_unreachable(&mut self) -> Option<Socket> {
        self.uring.take_unreachable()
    }

    fn rest(&mut self, socket: Socket) {
        self.uring.rest(socket);
    }

    fn share(&self, socket: Socket) -> Option<OwnedFd> {
        self.uring.share(socket)
    }

    fn adopt(&mut self, sockets: [Option<(SocketAddr, OwnedFd)>; 2]) {
        self.uring.adopt(sockets);
    }

    fn counters(&self) -> uring::Counters {
        let (kernel, frames) = (self.uring.counters(), self.side.counters);
        uring::Counters {
            received: kernel.received + frames.received,
            sent: kernel.sent + frames.sent,
            stale: kernel.stale + frames.stale,
            ..kernel
        }
    }

    fn frame_counters(&self) -> Counters {
        self.side.counters
    }
}

impl Side {
    fn open(&mut self, socket: Socket, local: SocketAddr) {
        self.ports.open(socket, local);
        self.shared.own(self.worker, local.port(), true);
        // Redirected only from here on, when there is somebody to hear it. A full map leaves the port to the kernel's socket.
        for group in &mut self.groups {
            group.open_ports.open(local);
        }
    }

    fn close(&mut self, socket: Socket) {
        let Some(local) = self.ports.close(socket) else { return };
        for group in &mut self.groups {
            group.open_ports.close(local);
        }
        self.shared.own(self.worker, local.port(), self.ports.has(local.port()));
    }
}

impl Driver for Turn<'_> {
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError> {
        self.uring.open(socket, local)?;
        self.side.open(socket, local);
        Ok(())
    }

    fn close(&mut self, socket: Socket) {
        self.side.close(socket);
        self.uring.close(socket);
    }

    fn connect(&mut self, socket: Socket, remote: SocketAddr) {
        self.uring.connect(socket, remote);
    }

    fn disconnect(&mut self, socket: Socket) {
        self.uring.disconnect(socket);
    }

    fn send(&mut self, from: Socket, to: SocketAddr, packet: &[u8]) {
        self.side.send_anyhow(self.uring, from, to, packet);
    }
}

impl Driver for Xdp {
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError> {
        self.turn().open(socket, local)
    }

    fn close(&mut self, socket: Socket) {
        self.turn().close(socket);
    }

    fn connect(&mut self, socket: Socket, remote: SocketAddr) {
        self.turn().connect(socket, remote);
    }

    fn disconnect(&mut self, socket: Socket) {
        self.turn().disconnect(socket);
    }

    fn send(&mut self, from: Socket, to: SocketAddr, packet: &[u8]) {
        self.turn().send(from, to, packet);
    }
}

impl std::fmt::Debug for Xdp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xdp").field("uring", &self.uring).field("frames", &self.side.counters).finish_non_exhaustive()
    }
}
