//! The simulated network: a driver whose every delay, loss and reordering follows from a seed, in virtual time. For tests
//! only; it allocates as it likes.
//!
//! A datagram passes two stages, as with a kernel: on arrival a connected socket refuses foreign sources and the rest is
//! queued with the socket as it then was; at a later turn it is handed to the engine. So the engine meets what it must
//! survive: packets of a socket closed meanwhile, or from before a connect. Each step hands in one datagram and says
//! what the engine did with it, for a test to judge.

use nebula_core::driver::{Datagram, Driver, Forward, OpenError, Socket};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::time::Nanos;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// How badly the network behaves. Chances are in thousandths, per datagram and hop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faults {
    /// Never arrives.
    pub loss_permille: u32,
    /// Begins a burst of losses, over all links.
    pub burst_permille: u32,
    /// The most datagrams that a burst takes.
    pub burst_max: u64,
    /// Arrives twice.
    pub duplicate_permille: u32,
    /// Is held back by up to `delay_late_us_max` more, so that later ones overtake it.
    pub late_permille: u32,
    /// Every datagram's least delay.
    pub delay_us: u64,
    /// How much a late one may be held back.
    pub delay_late_us_max: u64,
    /// How long a datagram may wait in its socket's queue before the engine's turn.
    pub turn_us_max: u64,
}

/// Bytes of room behind each packet, which a real driver's buffers have too.
const TAIL_ROOM: usize = 48;

impl Faults {
    /// A network that loses, repeats and reorders nothing and takes 100 us.
    pub const NONE: Self = Self {
        loss_permille: 0,
        burst_permille: 0,
        burst_max: 0,
        duplicate_permille: 0,
        late_permille: 0,
        delay_us: 100,
        delay_late_us_max: 0,
        turn_us_max: 0,
    };
}

/// A seeded random source (SplitMix64): the same numbers for the same seed on every machine.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`; zero if that is zero.
    pub fn below(&mut self, end: u64) -> u64 {
        self.bits().checked_rem(end).unwrap_or(0)
    }

    /// True so often in a thousand.
    pub fn permille(&mut self, chance: u32) -> bool {
        self.below(1000) < chance.into()
    }
}

/// A datagram that reached an address that is not one of the engine's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrival {
    /// When.
    pub at: Nanos,
    /// Where it came from: an address of the engine, or of another peer.
    pub from: SocketAddr,
    /// Where it arrived.
    pub to: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

/// What became of one datagram that was handed to the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handled {
    /// The socket it came in on.
    pub socket: Socket,
    /// Where it really came from, whether or not the engine was told.
    pub source: SocketAddr,
    /// As it came.
    pub before: Vec<u8>,
    /// As the engine left it.
    pub after: Vec<u8>,
    /// Where the engine had it forwarded: through which socket, to whom.
    pub forward: Option<Forward>,
}

/// A packet of the engine's own making.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    /// Through which socket.
    pub from: Socket,
    /// To whom.
    pub to: SocketAddr,
    /// What it carries.
    pub bytes: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct Bound {
    local: SocketAddr,
    remote: Option<SocketAddr>,
    /// Counts connects and disconnects: a source may be left out only within one of them.
    connection: u64,
}

#[derive(Debug)]
enum Step {
    /// Reaches an address.
    Arrive { from: SocketAddr, to: SocketAddr, bytes: Vec<u8> },
    /// Its turn in the socket's queue has come.
    HandIn { socket: Socket, source: SocketAddr, connection: Option<u64>, bytes: Vec<u8> },
}

/// The network and the engine's sockets in it.
#[derive(Debug)]
pub struct Network {
    random: Random,
    faults: Faults,
    now: Nanos,
    /// Steps to come, by time and then by the order of their making.
    steps: BTreeMap<(Nanos, u64), Step>,
    made: u64,
    /// Datagrams that the burst of losses at hand still takes.
    burst: u64,
    sockets: BTreeMap<(u32, u32, bool), Bound>,
    /// Datagrams that reached peers, for the test to take.
    pub arrived: Vec<Arrival>,
    /// What the engine sent of its own, for the test to take.
    pub sent: Vec<Sent>,
    /// Datagrams that no socket was bound for, or that a connected one refused.
    pub refused: u64,
    /// Misuse of the seam by the engine, in words. A test expects none.
    pub violations: Vec<String>,
}

impl Network {
    /// An empty network at time zero.
    pub fn new(seed: u64, faults: Faults) -> Self {
        Self {
            random: Random::new(seed),
            faults,
            now: Nanos(0),
            steps: BTreeMap::new(),
            made: 0,
            burst: 0,
            sockets: BTreeMap::new(),
            arrived: Vec::new(),
            sent: Vec::new(),
            refused: 0,
            violations: Vec::new(),
        }
    }

    /// Virtual time.
    pub fn now(&self) -> Nanos {
        self.now
    }

    /// Sockets that are open.
    pub fn sockets(&self) -> usize {
        self.sockets.len()
    }

    /// Whether a socket is bound there.
    pub fn is_bound(&self, local: SocketAddr) -> bool {
        self.sockets.values().any(|bound| bound.local == local)
    }

    /// A peer sends.
    pub fn send_from(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.burst == 0 && self.random.permille(self.faults.burst_permille) {
            self.burst = self.random.below(self.faults.burst_max + 1);
        }
        if self.burst > 0 || self.random.permille(self.faults.loss_permille) {
            self.burst = self.burst.saturating_sub(1);
            return;
        }
        if self.random.permille(self.faults.duplicate_permille) {
            self.transmit(from, to, bytes.clone());
        }
        self.transmit(from, to, bytes);
    }

    /// Lets time pass up to `until`: datagrams arrive, the engine's timers are served. Calls `judge` after each datagram
    /// that was handed in.
    pub fn run_until<E: EventSink>(
        &mut self,
        until: Nanos,
        engine: &mut Engine,
        events: &mut E,
        mut judge: impl FnMut(&mut Self, &mut Engine, &mut E, Handled),
    ) {
        loop {
            let step = self.steps.first_key_value().map(|(&(at, _), _)| at).filter(|&at| at <= until);
            let timeout = engine.next_timeout().map(|at| at.max(self.now)).filter(|&at| at <= until);
            match (step, timeout) {
                (None, None) => break,
                (step, Some(timeout)) if step.is_none_or(|step| timeout <= step) => {
                    self.now = self.now.max(timeout);
                    engine.tick(self.now, self, events);
                }
                _ => {
                    if let Some(handled) = self.take_step(engine, events) {
                        judge(self, engine, events, handled);
                    }
                }
            }
        }
        self.now = self.now.max(until);
    }

    /// The clock jumps ahead: everything in flight is now late, and so are the engine's timers.
    pub fn jump(&mut self, nanos: u64) {
        self.now = self.now.plus_nanos(nanos);
    }

    /// The engine's process is killed: its sockets are closed, and what they had queued is gone. What is on the wire stays.
    pub fn crash(&mut self) {
        self.sockets.clear();
        self.steps.retain(|_, step| matches!(step, Step::Arrive { .. }));
    }

    fn take_step(&mut self, engine: &mut Engine, events: &mut impl EventSink) -> Option<Handled> {
        let ((at, _), step) = self.steps.pop_first()?;
        self.now = self.now.max(at);
        match step {
            Step::Arrive { from, to, bytes } => {
                self.arrive(from, to, bytes);
                None
            }
            Step::HandIn { socket, source, connection, bytes } => {
                // What a closed socket had received may come late, too, and without its source if it was connected.
                let bound = self.sockets.get(&key(socket));
                let same = bound.is_none_or(|bound| Some(bound.connection) == connection);
                let told = if connection.is_some() && same { None } else { Some(source) };
                Some(self.hand_in(socket, source, told, bytes, engine, events))
            }
        }
    }

    /// The kernel's part: refuse or queue.
    fn arrive(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let Some((&at, &bound)) = self.sockets.iter().find(|(_, bound)| bound.local == to) else {
            if is_peer(to) {
                self.arrived.push(Arrival { at: self.now, from, to, bytes });
            } else {
                self.refused += 1;
            }
            return;
        };
        if bound.remote.is_some_and(|remote| remote != from) {
            self.refused += 1;
            return;
        }
        let wait = self.random.below(self.faults.turn_us_max + 1) * 1000;
        let connection = bound.remote.map(|_| bound.connection);
        let step = Step::HandIn { socket: socket_of(at), source: from, connection, bytes };
        self.schedule(self.now.plus_nanos(wait), step);
    }

    fn hand_in(
        &mut self,
        socket: Socket,
        source: SocketAddr,
        told: Option<SocketAddr>,
        before: Vec<u8>,
        engine: &mut Engine,
        events: &mut impl EventSink,
    ) -> Handled {
        let mut after = before.clone();
        after.resize(before.len() + TAIL_ROOM, 0);
        let mut datagram = Datagram::new(&mut after, before.len());
        let forward = engine.receive(self.now, socket, told, &mut datagram, self, events);
        let len = datagram.len();
        after.truncate(len);
        if let Some(Forward { from, to }) = forward {
            self.leave(from, to, after.clone());
        }
        Handled { socket, source, before, after, forward }
    }

    /// A packet leaves through one of the engine's sockets.
    fn leave(&mut self, from: Socket, to: SocketAddr, bytes: Vec<u8>) {
        match self.sockets.get(&key(from)).copied() {
            None => self.violations.push(format!("sent through closed {from:?}")),
            Some(bound) if bound.remote.is_some_and(|remote| remote != to) => {
                self.violations.push(format!("sent to {to} through {from:?} connected to {:?}", bound.remote));
            }
            Some(bound) => self.send_from(bound.local, to, bytes),
        }
    }

    fn transmit(&mut self, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let mut delay_us = self.faults.delay_us;
        if self.random.permille(self.faults.late_permille) {
            delay_us += self.random.below(self.faults.delay_late_us_max + 1);
        }
        self.schedule(self.now.plus_nanos(delay_us * 1000), Step::Arrive { from, to, bytes });
    }

    fn schedule(&mut self, at: Nanos, step: Step) {
        self.made += 1;
        self.steps.insert((at, self.made), step);
    }

    fn set_remote(&mut self, socket: Socket, remote: Option<SocketAddr>) {
        match self.sockets.get_mut(&key(socket)) {
            Some(bound) if bound.remote.is_some() != remote.is_some() => {
                bound.remote = remote;
                bound.connection += 1;
            }
            Some(_) => self.violations.push(format!("{socket:?} connected or disconnected twice")),
            None => self.violations.push(format!("connected or disconnected closed {socket:?}")),
        }
    }
}

impl Driver for Network {
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError> {
        if is_peer(local) {
            return Err(OpenError::AddressNotAvailable);
        }
        if self.is_bound(local) {
            return Err(OpenError::PortInUse);
        }
        let bound = Bound { local, remote: None, connection: 0 };
        if self.sockets.insert(key(socket), bound).is_some() {
            self.violations.push(format!("opened {socket:?} twice"));
        }
        Ok(())
    }

    fn close(&mut self, socket: Socket) {
        if self.sockets.remove(&key(socket)).is_none() {
            self.violations.push(format!("closed {socket:?}, which is not open"));
        }
    }

    fn connect(&mut self, socket: Socket, remote: SocketAddr) {
        self.set_remote(socket, Some(remote));
    }

    fn disconnect(&mut self, socket: Socket) {
        self.set_remote(socket, None);
    }

    fn send(&mut self, from: Socket, to: SocketAddr, packet: &[u8]) {
        self.sent.push(Sent { from, to, bytes: packet.to_vec() });
        self.leave(from, to, packet.to_vec());
    }
}

/// Whether an address belongs to the peers' side: all that is not 127.0.0.0/8, where the engine lives.
fn is_peer(address: SocketAddr) -> bool {
    !address.ip().is_loopback()
}

fn key(socket: Socket) -> (u32, u32, bool) {
    use nebula_core::driver::Component;
    (socket.stream.0, socket.generation.0, socket.component == Component::Rtcp)
}

fn socket_of((stream, generation, rtcp): (u32, u32, bool)) -> Socket {
    use nebula_core::driver::{Component, Generation, StreamIndex};
    let component = if rtcp { Component::Rtcp } else { Component::Rtp };
    Socket { stream: StreamIndex(stream), generation: Generation(generation), component }
}
