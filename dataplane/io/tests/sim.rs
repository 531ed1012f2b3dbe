//! Random commands, phones, attackers and faults against a model of what may happen, for thousands of seeds.
//!
//! `NEBULA_SIM_SEEDS=100000` runs more; `NEBULA_SIM_SEED=42` replays one that failed (it is printed on failure).

use nebula_core::driver::{Component, Socket};
use nebula_core::engine::Engine;
use nebula_core::limits::Limits;
use nebula_core::stats::StreamStats;
use nebula_io::sim::{Faults, Handled, Network, Random};
use nebula_ring::command::{Command, Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::event::{Event, Reason};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const SEEDS: u64 = 2_000;
const ROUNDS: u64 = 120;
const STREAMS_MAX: u32 = 8;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Prints the seed if its run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed; replay with NEBULA_SIM_SEED={}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn whatever_happens_nothing_goes_astray() {
    let seeds = match number("NEBULA_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("NEBULA_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let mut sum = Coverage::default();
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        run(seed, &mut sum);
    }
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= 100 {
        let Coverage { relayed, echoed, rtcp, learned, timeouts, foreign, stale, reports, failures } = sum;
        for (what, count) in [
            ("relayed", relayed),
            ("echoed", echoed),
            ("rtcp", rtcp),
            ("learned", learned),
            ("timeouts", timeouts),
            ("foreign", foreign),
            ("stale", stale),
            ("reports", reports),
        ] {
            assert!(count > 10, "the runs must reach what they test: {what} only {count} times");
        }
        assert_eq!(failures.len(), 6, "all refusals were provoked: {failures:?}");
    }
}

/// How often the interesting things happened.
#[derive(Debug, Default)]
struct Coverage {
    relayed: u64,
    echoed: u64,
    rtcp: u64,
    learned: u64,
    timeouts: u64,
    foreign: u64,
    stale: u64,
    reports: u64,
    failures: BTreeSet<String>,
}

/// A stream as control believes it to be.
#[derive(Debug, Clone)]
struct Leg {
    config: StreamConfig,
    bridge: Option<u64>,
    /// Where the phone is now.
    phone: Phone,
    /// All addresses that this stream's phone ever sent from.
    sources: BTreeSet<SocketAddr>,
    sequence: u16,
    timestamp: u32,
}

#[derive(Debug, Clone, Copy)]
struct Phone {
    signalled: SocketAddr,
    signalled_rtcp: SocketAddr,
    /// What its packets really come from: another address behind NAT.
    rtp: SocketAddr,
    rtcp: SocketAddr,
}

struct World {
    random: Random,
    network: Network,
    engine: Engine,
    events: Vec<Event>,
    legs: BTreeMap<u64, Leg>,
    ids: u64,
    hosts: u32,
    ports: u16,
    correlation: u64,
    handled: u64,
    forwarded: u64,
    stale: u64,
    /// What the table writer would have written.
    shadow: BTreeMap<u32, (bool, u64, Option<StreamId>, StreamStats)>,
}

fn run(seed: u64, coverage: &mut Coverage) {
    let mut random = Random::new(seed);
    let faults = Faults {
        loss_permille: random.below(100) as u32,
        duplicate_permille: random.below(50) as u32,
        late_permille: random.below(200) as u32,
        delay_us: 50 + random.below(20_000),
        delay_late_us_max: random.below(80_000),
        turn_us_max: random.below(30_000),
    };
    let mut world = World {
        network: Network::new(random.bits(), faults),
        engine: Engine::new(Limits { streams_max: STREAMS_MAX }),
        events: Vec::new(),
        legs: BTreeMap::new(),
        ids: 0,
        hosts: 0,
        ports: 20_000,
        correlation: 0,
        handled: 0,
        forwarded: 0,
        stale: 0,
        shadow: BTreeMap::new(),
        random,
    };
    for _ in 0..ROUNDS {
        match world.random.below(100) {
            0..=29 => world.command(coverage),
            30..=37 => world.attack(),
            38 => world.network.jump(1 + world.random.bits() % 12_000_000_000),
            _ => world.talk(),
        }
        let pause = 1 + world.random.below(40);
        world.pass(pause, coverage);
    }
    for id in world.legs.keys().copied().collect::<Vec<_>>() {
        world.perform(Command::DestroyStream { id: StreamId(id) }, Ok(()), coverage);
    }
    world.pass(500, coverage);
    assert_eq!(world.network.sockets(), 0, "no socket leaked");
    assert_eq!(world.engine.streams().count(), 0, "no stream leaked");
    assert_eq!(world.engine.next_timeout(), None, "no timer leaked");
    assert!(world.shadow.values().all(|(open, ..)| !open), "the table shows nobody");
}

impl World {
    /// Lets time pass, judging each packet the engine handles.
    fn pass(&mut self, ms: u64, coverage: &mut Coverage) {
        let until = self.network.now().plus_millis(ms);
        let (legs, stale, mut handled, mut forwarded) = (&self.legs, &mut self.stale, 0, 0);
        self.network.run_until(until, &mut self.engine, &mut self.events, |_, engine, _, packet| {
            handled += 1;
            forwarded += packet.forwards.len() as u64;
            judge(legs, engine, &packet, stale, coverage);
        });
        self.handled += handled;
        self.forwarded += forwarded;
        self.settle(coverage);
    }

    /// What must hold between any two inputs.
    fn settle(&mut self, coverage: &mut Coverage) {
        assert_eq!(self.network.violations, [] as [String; 0]);
        let totals = self.engine.totals();
        assert_eq!(totals.received, self.handled);
        assert_eq!(totals.forwarded, self.forwarded);
        assert_eq!(totals.drops.get(DropReason::StaleSocket), self.stale);
        assert_eq!(totals.received, totals.forwarded + totals.consumed + totals.drops.total());
        for event in self.events.drain(..) {
            match event {
                Event::StreamUp { id, remote } => {
                    coverage.learned += u64::from(self.legs[&id.0].config.remote_rtp != Some(remote));
                    assert!(self.legs[&id.0].sources.contains(&remote), "latched to {remote}");
                }
                Event::RtpTimeout { id } => {
                    coverage.timeouts += 1;
                    assert!(self.legs[&id.0].config.rtp_timeout_ms > 0);
                }
                other => panic!("nobody asked for {other:?}"),
            }
        }
        for sent in self.network.sent.drain(..) {
            coverage.reports += 1;
            assert!((200..204).contains(&sent.bytes[1]), "RTCP alone is of our own making");
        }
        let shadow = &mut self.shadow;
        self.engine.for_each_dirty(|index, view| {
            assert_eq!(view.stats.handled, view.stats.forwarded + view.stats.consumed + view.drops.total());
            shadow.insert(index.0, (view.open, view.id.0, view.bridged_with, view.stats));
        });
        for (index, view) in self.engine.streams() {
            let shown = (true, view.id.0, view.bridged_with, view.stats);
            assert_eq!(shadow[&index.0], shown, "the table is up to date");
            let leg = &self.legs[&view.id.0];
            assert_eq!(*view.config, leg.config);
            assert_eq!(view.bridged_with.map(|id| id.0), leg.bridge);
        }
        assert_eq!(self.engine.streams().count(), self.legs.len());
        self.network.arrived.clear();
    }

    /// Gives a command and expects exactly one answer, this one.
    fn perform(&mut self, command: Command, expected: Result<(), Reason>, coverage: &mut Coverage) {
        self.correlation += 1;
        let correlation = self.correlation;
        self.engine.apply(self.network.now(), correlation, &command, &mut self.network, &mut self.events);
        let answer = match expected {
            Ok(()) => Event::Done { correlation },
            Err(reason) => {
                coverage.failures.insert(format!("{reason:?}"));
                Event::Failed { correlation, reason }
            }
        };
        assert_eq!(std::mem::take(&mut self.events), [answer], "{command:?}");
        if expected.is_ok() {
            self.record(command);
        }
        self.settle(coverage);
    }

    fn record(&mut self, command: Command) {
        match command {
            // `command` itself keeps the legs that it creates and moves.
            Command::CreateStream { .. } | Command::UpdateStream { .. } => {}
            Command::DestroyStream { id } => {
                self.legs.remove(&id.0);
                self.part(id.0);
            }
            Command::CreateBridge { a, b } => {
                self.part(a.0);
                self.part(b.0);
                for (one, other) in [(a, b), (b, a)] {
                    self.legs.get_mut(&one.0).unwrap().bridge = Some(other.0);
                }
            }
            Command::DestroyBridge { a, b } => {
                if self.legs[&a.0].bridge == Some(b.0) {
                    self.part(a.0);
                }
            }
        }
    }

    fn part(&mut self, id: u64) {
        for (&other, leg) in &mut self.legs {
            if other == id || leg.bridge == Some(id) {
                leg.bridge = None;
            }
        }
    }

    fn command(&mut self, coverage: &mut Coverage) {
        let id = self.any_id();
        match self.random.below(10) {
            0..=3 => self.create(coverage),
            4..=5 => self.update(coverage),
            6 if self.random.permille(500) => {
                let known = self.legs.contains_key(&id);
                let expected = known.then_some(()).ok_or(Reason::UnknownStream);
                self.perform(Command::DestroyStream { id: StreamId(id) }, expected, coverage);
            }
            7 if self.random.permille(300) => {
                let (a, b) = (id, self.any_id());
                let known = self.legs.contains_key(&a) && self.legs.contains_key(&b);
                let expected = known.then_some(()).ok_or(Reason::UnknownStream);
                self.perform(Command::DestroyBridge { a: StreamId(a), b: StreamId(b) }, expected, coverage);
            }
            _ => {
                let (a, b) = (id, self.any_id());
                let known = self.legs.contains_key(&a) && self.legs.contains_key(&b);
                let expected = match (a == b, known) {
                    (true, _) => Err(Reason::Invalid),
                    (false, known) => known.then_some(()).ok_or(Reason::UnknownStream),
                };
                self.perform(Command::CreateBridge { a: StreamId(a), b: StreamId(b) }, expected, coverage);
            }
        }
    }

    fn create(&mut self, coverage: &mut Coverage) {
        self.ids += 1;
        let id = if self.random.permille(900) { self.ids } else { self.any_id() };
        let (config, phone) = self.config(None);
        let used = self.used_ports();
        let expected = if config.rtp_port == 0 {
            Err(Reason::Invalid)
        } else if self.legs.contains_key(&id) {
            Err(Reason::StreamExists)
        } else if self.legs.len() == STREAMS_MAX as usize {
            Err(Reason::TableFull)
        } else if !config.local_ip.is_loopback() {
            Err(Reason::AddressNotAvailable)
        } else if used.contains(&config.rtp_port) || used.contains(&config.rtcp_port) {
            Err(Reason::PortInUse)
        } else {
            let sources = sources_of(&config, phone);
            let leg = Leg { config: config.clone(), bridge: None, phone, sources, sequence: 65_500, timestamp: 0 };
            self.legs.insert(id, leg);
            Ok(())
        };
        self.perform(Command::CreateStream { id: StreamId(id), config }, expected, coverage);
    }

    fn update(&mut self, coverage: &mut Coverage) {
        let id = self.any_id();
        let before = self.legs.get(&id).cloned();
        let (mut config, mut phone) = self.config(before.as_ref().map(|leg| leg.config.clone()));
        if let Some(leg) = &before
            && self.random.permille(500)
        {
            // The same phone in the same place.
            (config.remote_rtp, config.remote_rtcp) = (leg.config.remote_rtp, leg.config.remote_rtcp);
            config.nat_expected = leg.config.nat_expected;
            phone = leg.phone;
        }
        let others = self.used_ports();
        let expected = match &before {
            _ if config.rtp_port == 0 => Err(Reason::Invalid),
            None => Err(Reason::UnknownStream),
            Some(leg) if config.local_ip != leg.config.local_ip || config.rtp_port != leg.config.rtp_port => {
                Err(Reason::Invalid)
            }
            Some(leg) => {
                let (was, is) = (leg.config.rtcp_port, config.rtcp_port);
                let opens = was == config.rtp_port && is != config.rtp_port;
                if was != is && was != config.rtp_port && is != config.rtp_port {
                    Err(Reason::Invalid)
                } else if opens && others.contains(&is) {
                    Err(Reason::PortInUse)
                } else {
                    Ok(())
                }
            }
        };
        if let (Ok(()), Some(mut leg)) = (expected, before) {
            let new = sources_of(&config, phone);
            // Who was learned before may be learned again, and stays while nothing else is signalled.
            if config.nat_expected || signalled(&config) == signalled(&leg.config) {
                leg.sources.extend(new);
            } else {
                leg.sources = new;
            }
            (leg.config, leg.phone) = (config.clone(), phone);
            self.legs.insert(id, leg);
        }
        self.perform(Command::UpdateStream { id: StreamId(id), config }, expected, coverage);
    }

    /// A random configuration and the phone that it is for; `before` keeps the ports, mostly.
    fn config(&mut self, before: Option<StreamConfig>) -> (StreamConfig, Phone) {
        self.hosts += 1;
        let [_, _, high, low] = self.hosts.to_be_bytes();
        let nat_expected = self.random.permille(400);
        let signalled = SocketAddr::from(([10, 0, high, low], 4000));
        let outside = SocketAddr::from(([203, 0, high, low], 7000));
        let rtcp_of = |rtp: SocketAddr| SocketAddr::new(rtp.ip(), rtp.port() + 1);
        let rtp = if nat_expected { outside } else { signalled };
        let phone = Phone { signalled, signalled_rtcp: rtcp_of(signalled), rtp, rtcp: rtcp_of(rtp) };
        // A port that an earlier stream had is fine, unless a stranger could be learned on it.
        self.ports += 2;
        let reuse = !nat_expected && self.random.permille(400);
        let fresh = if reuse { 20_002 + 2 * self.random.below(12) as u16 } else { self.ports };
        let rtp_port = match (&before, self.random.below(40)) {
            (_, 0) => 0,
            (Some(before), 1..=38) => before.rtp_port,
            _ => fresh,
        };
        let muxed = self.random.permille(500);
        let rtcp_port = match &before {
            Some(before) if before.rtcp_port != before.rtp_port => before.rtcp_port,
            // Another stream may have it already.
            _ if reuse && self.random.permille(300) => 20_003 + 2 * self.random.below(12) as u16,
            _ => rtp_port + 1,
        };
        let config = StreamConfig {
            local_ip: if self.random.permille(980) { HERE } else { IpAddr::from([192, 0, 2, 77]) },
            rtp_port,
            rtcp_port: if muxed || rtp_port == 0 { rtp_port } else { rtcp_port },
            remote_rtp: self.random.permille(900).then_some(phone.signalled),
            remote_rtcp: self.random.permille(700).then_some(phone.signalled_rtcp),
            nat_expected,
            learning_window_ms: 200 + self.random.below(2000) as u32,
            receive: self.random.permille(900),
            send: self.random.permille(900),
            mode: if self.random.permille(400) { Mode::Echo } else { Mode::Bridge },
            rtp_timeout_ms: self.random.below(3) as u32 * 700,
            ssrc: 1 + self.random.below(u32::MAX.into()) as u32,
            payload_types: [
                PayloadType { number: 8, forward_as: 8, clock_rate_hz: 8000 },
                PayloadType { number: 101, forward_as: 96, clock_rate_hz: 8000 },
            ]
            .into_iter()
            .collect(),
        };
        (config, phone)
    }

    /// Every phone says something, now and then something odd.
    fn talk(&mut self) {
        let random = &mut self.random;
        for leg in self.legs.values_mut() {
            let to = SocketAddr::new(HERE, leg.config.rtp_port);
            leg.sequence = leg.sequence.wrapping_add(1);
            leg.timestamp = leg.timestamp.wrapping_add(160);
            let payload_type = *[8, 8, 8, 8, 101, 18].get(random.below(6) as usize).unwrap();
            let mut packet = rtp(payload_type, leg.sequence, leg.timestamp, random);
            if random.permille(50) {
                let at = random.below(packet.len() as u64) as usize;
                packet[at] = random.bits() as u8;
            }
            self.network.send_from(leg.phone.rtp, to, packet);
            if random.permille(150) {
                let muxed = leg.config.rtcp_port == leg.config.rtp_port;
                let from = if muxed { leg.phone.rtp } else { leg.phone.rtcp };
                let mut report = vec![0x80, 201, 0, 1];
                report.extend(7u32.to_be_bytes());
                self.network.send_from(from, SocketAddr::new(HERE, leg.config.rtcp_port), report);
            }
        }
    }

    /// Strangers send to open ports: well-made packets, at most three in order of each source, and noise.
    fn attack(&mut self) {
        for _ in 0..1 + self.random.below(8) {
            let port = 20_002 + self.random.below(u64::from(self.ports - 20_000)) as u16;
            let from = SocketAddr::from(([198, 51, 100, self.random.below(250) as u8], self.random.bits() as u16 | 1));
            let to = SocketAddr::new(HERE, port);
            let sequence = self.random.bits() as u16;
            for step in 0..self.random.below(4) as u16 {
                let packet = match self.random.below(4) {
                    0 => (0..self.random.below(60)).map(|_| self.random.bits() as u8).collect(),
                    1 => vec![0x80, 201, 0, 1, 6, 6, 6, 6],
                    _ => rtp(8, sequence.wrapping_add(step), 0, &mut self.random),
                };
                self.network.send_from(from, to, packet);
            }
        }
    }

    /// An id that exists, mostly.
    fn any_id(&mut self) -> u64 {
        let at = self.random.below(self.legs.len() as u64 + 1) as usize;
        self.legs.keys().nth(at).copied().unwrap_or(999_999)
    }

    fn used_ports(&self) -> BTreeSet<u16> {
        self.legs.values().flat_map(|leg| [leg.config.rtp_port, leg.config.rtcp_port]).collect()
    }
}

/// What the latch is told: a change of it opens the latch anew.
fn signalled(config: &StreamConfig) -> (Option<SocketAddr>, Option<SocketAddr>, bool) {
    let muxed = config.rtp_port == config.rtcp_port;
    (config.remote_rtp, config.remote_rtcp.filter(|_| !muxed), muxed)
}

/// From where a stream may believe packets.
fn sources_of(config: &StreamConfig, phone: Phone) -> BTreeSet<SocketAddr> {
    let nat = [phone.rtp, phone.rtcp].into_iter().filter(|_| config.nat_expected);
    let signalled = [config.remote_rtp, config.remote_rtcp].into_iter().flatten();
    // RTCP may come from the peer's address once RTP has, signalled or not.
    let own = [phone.signalled_rtcp].into_iter().filter(|_| config.remote_rtp.is_some());
    nat.chain(signalled).chain(own).collect()
}

fn rtp(payload_type: u8, sequence: u16, timestamp: u32, random: &mut Random) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(0x5151_5151u32.to_be_bytes());
    packet.extend((0..20).map(|_| random.bits() as u8));
    packet
}

/// Whether the engine was allowed to do what it did with one packet.
fn judge(legs: &BTreeMap<u64, Leg>, engine: &Engine, packet: &Handled, stale: &mut u64, coverage: &mut Coverage) {
    let owner = |socket: Socket| {
        let mut all = engine.streams();
        all.find(|(index, view)| (*index, view.generation) == (socket.stream, socket.generation)).map(|(_, v)| v.id.0)
    };
    let Some(id) = owner(packet.socket) else {
        coverage.stale += 1;
        *stale += 1;
        assert_eq!(packet.forwards, [], "a packet of a destroyed stream goes nowhere");
        return;
    };
    let leg = &legs[&id];
    let believed = leg.sources.contains(&packet.source);
    coverage.foreign += u64::from(!believed);
    let &[(out, to)] = &packet.forwards[..] else {
        assert_eq!(packet.before, packet.after, "what is not forwarded is not touched");
        return;
    };
    assert!(believed, "forwarded from {}, which is not of {:?}", packet.source, leg.sources);
    let other_id = owner(out).expect("forwarded through a living stream");
    let other = &legs[&other_id];
    match leg.bridge {
        Some(bridge) => assert_eq!(other_id, bridge, "to the other leg"),
        None => assert_eq!((other_id, leg.config.mode), (id, Mode::Echo), "back to itself"),
    }
    assert!(other.sources.contains(&to), "{to} is none of {:?}", other.sources);
    if (192..224).contains(&packet.before[1]) {
        coverage.rtcp += 1;
        assert_eq!(packet.before, packet.after, "RTCP is relayed as it is");
        assert_ne!(other_id, id, "RTCP is not echoed");
        return;
    }
    assert_eq!(out.component, Component::Rtp);
    assert!(leg.config.receive && other.config.send, "the directions allow it");
    let payload_type = packet.before[1] & 0x7f;
    let mut expected = packet.before.clone();
    if other_id == id {
        coverage.echoed += 1;
        assert_eq!(packet.after[8..12], leg.config.ssrc.to_be_bytes());
        expected[1..12].copy_from_slice(&packet.after[1..12]);
        assert_eq!(packet.after[1] & 0x7f, payload_type);
    } else {
        coverage.relayed += 1;
        expected[1] = packet.before[1] & 0x80 | if payload_type == 101 { 96 } else { payload_type };
    }
    assert_eq!(packet.after, expected, "nothing else has changed");
}
