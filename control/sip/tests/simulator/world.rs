//! The network between the agents, what befalls them, and what must hold in the end.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_sip::snapshot::Resume;
use nebula_sip::{Flow, Protocol};

use crate::agent::{Agent, REST};
use crate::random::Random;

const AGENTS: usize = 3;
/// Whatever is sent here reaches everybody but its sender: a proxy that forks.
const FORKING: u8 = 100;
/// Faults and new calls happen in this time.
const BUSY: Duration = Duration::from_secs(150);
/// No run takes more; if one does, something goes round in circles.
const STEPS_MAX: u32 = 100_000;
const CRASHES_MAX: u32 = 5;

/// What happened in all runs, so that a test that tests nothing is noticed.
macro_rules! coverage {
    ($($name:ident),+ $(,)?) => {
        #[derive(Debug, Default, Clone)]
        pub struct Coverage { $(pub $name: u64),+ }

        impl Coverage {
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)+
            }

            /// Everything that can happen did.
            pub fn check(&self) {
                $(assert!(self.$name > 0, "{} never happened", stringify!($name));)+
            }
        }
    };
}

coverage! {
    called, invited, answered, picked_up, refused, failed, cancelled, acknowledged, acks_of_another, byes_before_acks, unacknowledged, surplus,
    pracked, changes, glares, hung_up, calls_over, calls_resumed, transactions_resumed, crashes, lost_sends, stale_snapshots,
    stalls, connections_lost, flawless,
}

struct Faults {
    loss_permille: u64,
    duplicate_permille: u64,
    delay_ms_max: u64,
    crash_permille: u64,
    stall_permille: u64,
}

/// An agent is up, or it is down and its snapshot waits.
enum State {
    Up(Box<Agent>),
    Down { until: Instant, since: Instant, snapshot: String },
}

struct Packet {
    to: usize,
    flow: Flow,
    bytes: Bytes,
}

pub struct World {
    random: Random,
    faults: Faults,
    start: Instant,
    now: Instant,
    agents: Vec<State>,
    stalled: [Option<Instant>; AGENTS],
    wire: BTreeMap<(Instant, u64), Packet>,
    /// Live connections by their ends, and the time of the last arrival on each.
    connections: BTreeMap<u64, (usize, usize, Instant)>,
    calls: BTreeMap<(Instant, u64), (usize, Flow)>,
    order: u64,
    crashes: u32,
    has_forks: bool,
    coverage: Coverage,
}

fn addr(agent: usize) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, agent as u8 + 1], 5060))
}

impl World {
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let faults = match random.below(4) {
            0 => Faults {
                loss_permille: 0,
                duplicate_permille: 0,
                delay_ms_max: 50,
                crash_permille: 0,
                stall_permille: 0,
            },
            _ => Faults {
                loss_permille: random.one_of(&[0, 50, 300, 600]),
                duplicate_permille: random.one_of(&[0, 100, 500]),
                delay_ms_max: random.one_of(&[20, 500, 3_000]),
                crash_permille: random.one_of(&[0, 10, 30, 100]),
                stall_permille: random.one_of(&[0, 5, 50]),
            },
        };
        let start = Instant::now();
        let agents = (0..AGENTS).map(|n| State::Up(Box::new(Agent::new(addr(n), start, &mut random)))).collect();
        let mut world = Self {
            random,
            faults,
            start,
            now: start,
            agents,
            stalled: [None; AGENTS],
            wire: BTreeMap::new(),
            connections: BTreeMap::new(),
            calls: BTreeMap::new(),
            order: 0,
            crashes: 0,
            has_forks: false,
            coverage: Coverage::default(),
        };
        for _ in 0..1 + world.random.below(4) {
            let from = world.random.below(AGENTS as u64) as usize;
            let protocol = world.random.one_of(&[Protocol::Udp, Protocol::Udp, Protocol::Tcp]);
            let forks = protocol == Protocol::Udp && world.random.chance(200);
            world.has_forks |= forks;
            let to = (from + 1 + world.random.below(AGENTS as u64 - 1) as usize) % AGENTS;
            let remote = if forks { SocketAddr::from(([192, 0, 2, FORKING], 5060)) } else { addr(to) };
            let flow = Flow { protocol, local: addr(from), remote, connection: 0 };
            let at = start + world.random.within(0, 20_000);
            let order = world.next_order();
            world.calls.insert((at, order), (from, flow));
        }
        world
    }

    pub fn run(&mut self) {
        for _ in 0..STEPS_MAX {
            let Some(at) = self.next_time() else { return };
            self.now = self.now.max(at);
            self.step();
        }
        panic!("it goes round in circles at {:?}", self.now - self.start);
    }

    fn next_time(&self) -> Option<Instant> {
        let of_agent = |(n, state): (usize, &State)| match state {
            State::Up(agent) => agent.next_timeout().map(|at| self.stalled[n].map_or(at, |stalled| at.max(stalled))),
            State::Down { until, .. } => Some(*until),
        };
        let wire = self.wire.keys().next().map(|(at, _)| *at);
        let call = self.calls.keys().next().map(|(at, _)| *at);
        self.agents.iter().enumerate().filter_map(of_agent).chain(wire).chain(call).min()
    }

    fn step(&mut self) {
        for n in 0..AGENTS {
            match &self.agents[n] {
                State::Down { until, .. } if *until <= self.now => self.restart(n),
                State::Up(agent) if agent.next_timeout().is_some_and(|at| at <= self.now) && !self.is_stalled(n) => {
                    self.input(n, |agent, now| agent.handle_timeout(now));
                }
                _ => {}
            }
        }
        while let Some(entry) = self.calls.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (from, flow) = entry.remove();
            self.input(from, |agent, now| agent.call(flow, now));
        }
        while let Some(entry) = self.wire.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let packet = entry.remove();
            self.arrive(packet);
        }
    }

    fn is_stalled(&self, n: usize) -> bool {
        self.stalled[n].is_some_and(|until| until > self.now)
    }

    fn arrive(&mut self, packet: Packet) {
        let n = packet.to;
        if let Some(until) = self.stalled[n].filter(|until| *until > self.now) {
            let order = self.next_order();
            self.wire.insert((until, order), packet);
            return;
        }
        let connection = packet.flow.connection;
        if connection == 0 || self.connections.contains_key(&connection) {
            self.input(n, |agent, now| agent.receive(packet.bytes, packet.flow, now));
        }
    }

    /// Something happens to an agent that is up; perhaps it does not survive that, or does not finish in time.
    fn input(&mut self, n: usize, happens: impl FnOnce(&mut Agent, Instant)) {
        let now = self.now;
        let is_busy = now - self.start < BUSY;
        let crashes = is_busy && self.crashes < CRASHES_MAX && self.random.chance(self.faults.crash_permille);
        let (stale, sends_lost) = (crashes && self.random.chance(300), crashes && self.random.chance(300));
        let State::Up(agent) = &mut self.agents[n] else { return };
        let before = stale.then(|| agent.snapshot(now));
        happens(agent, now);
        if sends_lost && !stale {
            agent.sends.clear();
            self.coverage.lost_sends += 1;
        }
        self.send_all(n);
        if crashes {
            self.coverage.stale_snapshots += u64::from(stale);
            self.crash(n, before);
        } else if is_busy && self.random.chance(self.faults.stall_permille) {
            self.coverage.stalls += 1;
            self.stalled[n] = Some(now + self.random.within(10, 8_000));
        }
    }

    fn send_all(&mut self, n: usize) {
        // A failed sending makes an agent send more.
        for _ in 0..1_000 {
            let State::Up(agent) = &mut self.agents[n] else { return };
            let sends = std::mem::take(&mut agent.sends);
            if sends.is_empty() {
                return;
            }
            for (flow, bytes, id) in sends {
                let was_sent = self.send(n, flow, bytes);
                if let (false, Some(id), State::Up(agent)) = (was_sent, id, &mut self.agents[n]) {
                    agent.transport_failed(id, self.now);
                }
            }
        }
        panic!("an agent sends without end");
    }

    fn send(&mut self, from: usize, flow: Flow, bytes: Bytes) -> bool {
        let SocketAddr::V4(remote) = flow.remote else { panic!("agents have IPv4 addresses") };
        let last = remote.ip().octets()[3];
        if flow.protocol == Protocol::Tcp {
            return self.send_over_connection(from, usize::from(last - 1), flow, bytes);
        }
        for to in 0..AGENTS {
            if to == usize::from(last) - 1 || (last == FORKING && to != from) {
                self.send_datagram(from, to, &bytes);
            }
        }
        true
    }

    fn send_datagram(&mut self, from: usize, to: usize, bytes: &Bytes) {
        for _ in 0..1 + u32::from(self.random.chance(self.faults.duplicate_permille)) {
            if self.random.chance(self.faults.loss_permille) {
                continue;
            }
            let at = self.now + self.random.within(1, self.faults.delay_ms_max + 2);
            let order = self.next_order();
            let flow = Flow { protocol: Protocol::Udp, local: addr(to), remote: addr(from), connection: 0 };
            self.wire.insert((at, order), Packet { to, flow, bytes: bytes.clone() });
        }
    }

    fn send_over_connection(&mut self, from: usize, to: usize, flow: Flow, bytes: Bytes) -> bool {
        if matches!(self.agents[to], State::Down { .. }) {
            return false;
        }
        let joins = |(a, b, _): &(usize, usize, Instant)| (*a, *b) == (from, to) || (*a, *b) == (to, from);
        let named = self.connections.contains_key(&flow.connection).then_some(flow.connection);
        let known = named.or_else(|| self.connections.iter().find(|(_, ends)| joins(ends)).map(|(id, _)| *id));
        let connection = known.unwrap_or_else(|| self.next_order());
        let delay = self.random.within(1, self.faults.delay_ms_max + 2);
        let order = self.next_order();
        let (_, _, last) = self.connections.entry(connection).or_insert((from, to, self.now));
        // In order.
        let at = (self.now + delay).max(*last);
        *last = at;
        let flow = Flow { protocol: Protocol::Tcp, local: addr(to), remote: addr(from), connection };
        self.wire.insert((at, order), Packet { to, flow, bytes });
        true
    }

    fn crash(&mut self, n: usize, stale: Option<String>) {
        let down = self.random.within(0, 6_000);
        let (now, until) = (self.now, self.now + down);
        let State::Up(agent) = &mut self.agents[n] else { return };
        agent.check_counters();
        self.coverage.add(&agent.coverage);
        let snapshot = stale.unwrap_or_else(|| agent.snapshot(now));
        self.agents[n] = State::Down { until, since: now, snapshot };
        self.crashes += 1;
        self.coverage.crashes += 1;
        self.stalled[n] = None;
        let broken: Vec<_> = self
            .connections
            .iter()
            .filter(|(_, (a, b, _))| *a == n || *b == n)
            .map(|(id, ends)| (*id, *ends))
            .collect();
        for (connection, (a, b, _)) in broken {
            self.connections.remove(&connection);
            let other = if a == n { b } else { a };
            self.coverage.connections_lost += 1;
            if let State::Up(agent) = &mut self.agents[other] {
                agent.connection_lost(connection, now);
                self.send_all(other);
            }
        }
    }

    fn restart(&mut self, n: usize) {
        let State::Down { since, snapshot, .. } = &self.agents[n] else { return };
        // On another host nobody knows how long it took.
        let elapsed = if self.random.chance(800) { self.now - *since } else { Duration::ZERO };
        let snapshot = snapshot.clone();
        let agent = Agent::new(addr(n), self.start, &mut self.random);
        let agent = agent.restore(&snapshot, &Resume { now: self.now, elapsed });
        self.agents[n] = State::Up(Box::new(agent));
        self.send_all(n);
    }

    fn next_order(&mut self) -> u64 {
        self.order += 1;
        self.order
    }

    /// All has come to rest: nothing is left, and it took no longer than it may.
    pub fn check(&mut self, coverage: &mut Coverage) {
        assert!(self.now - self.start < BUSY + REST, "it took {:?}", self.now - self.start);
        let mut sum = std::mem::take(&mut self.coverage);
        for state in &self.agents {
            let State::Up(agent) = state else { panic!("an agent is still down") };
            assert!(agent.calls.is_empty(), "calls leak: {:?}", agent.calls);
            assert!(agent.owners.is_empty() && agent.layer.is_empty(), "transactions leak: {:?}", agent.owners);
            assert_eq!(agent.layer.queue_len(), 0, "timers leak");
            agent.check_counters();
            sum.add(&agent.coverage);
        }
        if self.crashes == 0 {
            assert_eq!(sum.called, sum.answered + sum.refused + sum.failed, "each INVITE has one outcome: {sum:?}");
        }
        let Faults { loss_permille, delay_ms_max, stall_permille, crash_permille, .. } = self.faults;
        // Agents do not do what a forking proxy does: hold a refusal back while another phone may still answer.
        if (loss_permille, stall_permille, crash_permille) == (0, 0, 0) && delay_ms_max <= 50 && !self.has_forks {
            sum.flawless += 1;
            assert_eq!((sum.failed, sum.unacknowledged), (0, 0), "nothing was lost: {sum:?}");
            assert!(sum.acknowledged + sum.byes_before_acks >= sum.picked_up, "each 2xx has its ACK: {sum:?}");
            assert_eq!(sum.picked_up, sum.answered, "{sum:?}");
        }
        coverage.add(&sum);
    }
}
