//! Random commands, phones, attackers, faults and deaths of either side against a model of what may happen, for thousands
//! of seeds.
//!
//! `NEBULA_SEEDS=100000` runs more; `NEBULA_SEED=42` replays one that failed (it is printed on failure).

mod seeds;

use nebula_core::driver::{Component, Forward, Socket};
use nebula_core::engine::Engine;
use nebula_core::limits::Limits;
use nebula_core::record::record;
use nebula_core::time::Nanos;
use nebula_io::sim::{Faults, Handled, Network, Random};
use nebula_ring::command::{Command, Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::event::{Event, Reason};
use nebula_ring::table::{FLAG_OPEN, FLAG_TIMED_OUT, StreamRecord};
use seeds::{Seed, seeds};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const SEEDS: u64 = 100_000;
const ROUNDS: u64 = 120;
const STREAMS_MAX: u32 = 8;
/// How far the stream table may lag behind packets, as in `nebula-dataplane`.
const PUBLISH_INTERVAL_NANOS: u64 = 100_000_000;
/// How long packets may still be on their way, and the table may lag, after a jump of the clock.
const JUMP_ECHO_NANOS: u64 = 400_000_000 + 1_500_000_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Who sends like a phone and is none.
const BESIEGER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 251)), 4000);

#[test]
fn whatever_happens_nothing_goes_astray() {
    let seeds = seeds(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get() as u64);
    let mut sum = Coverage::default();
    std::thread::scope(|scope| {
        let part = |first: u64| {
            let (first, end) = (seeds.start + first, seeds.end);
            scope.spawn(move || {
                let mut sum = Coverage::default();
                for seed in (first..end).step_by(threads as usize) {
                    let _seed = Seed(seed);
                    run(seed, &mut sum);
                }
                sum
            })
        };
        let parts: Vec<_> = (0..threads).map(part).collect();
        // One that failed has said by which seed.
        parts.into_iter().for_each(|part| sum.add(part.join().expect("a seed failed")));
    });
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= 100 {
        let Coverage {
            relayed,
            echoed,
            rtcp,
            learned,
            timeouts,
            foreign,
            stale,
            reports,
            resumed,
            spoke_on,
            deaf,
            failures,
        } = sum;
        for (what, count) in [
            ("relayed", relayed),
            ("echoed", echoed),
            ("rtcp", rtcp),
            ("learned", learned),
            ("timeouts", timeouts),
            ("foreign", foreign),
            ("stale", stale),
            ("reports", reports),
            ("resumed", resumed),
            ("spoke on after a death", spoke_on),
            ("events that control was deaf to", deaf),
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
    resumed: u64,
    spoke_on: u64,
    deaf: u64,
    failures: BTreeSet<String>,
}

impl Coverage {
    fn add(&mut self, more: Self) {
        for (sum, more) in [
            (&mut self.relayed, more.relayed),
            (&mut self.echoed, more.echoed),
            (&mut self.rtcp, more.rtcp),
            (&mut self.learned, more.learned),
            (&mut self.timeouts, more.timeouts),
            (&mut self.foreign, more.foreign),
            (&mut self.stale, more.stale),
            (&mut self.reports, more.reports),
            (&mut self.resumed, more.resumed),
            (&mut self.spoke_on, more.spoke_on),
            (&mut self.deaf, more.deaf),
        ] {
            *sum += more;
        }
        self.failures.extend(more.failures);
    }
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
    /// What our own source has said to the phone: SSRC, highest sequence number, its timestamp.
    said: Option<(u32, u16, u32)>,
    /// The phone has leapt in sequence numbers, perhaps farther than the table's lag is allowed for.
    leaps: bool,
    /// The dataplane has died since; and whether no packet was late by seconds then, whose timestamp would mislead.
    bereaved: Option<bool>,
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
    /// What the table writer has written.
    table: BTreeMap<u32, StreamRecord>,
    published_at: Nanos,
    /// When the clock last jumped ahead.
    jumped_at: Nanos,
    /// The besieger's sequence number.
    besieged: u16,
    /// Control is away: it gives no commands and hears no events.
    detached: bool,
    /// Streams whose silence was reported while it was.
    unheard: BTreeSet<u64>,
}

fn run(seed: u64, coverage: &mut Coverage) {
    let mut random = Random::new(seed);
    let faults = Faults {
        loss_permille: random.below(100) as u32,
        burst_permille: random.below(10) as u32,
        burst_max: random.below(60),
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
        table: BTreeMap::new(),
        published_at: Nanos(0),
        jumped_at: Nanos(0),
        besieged: 0,
        detached: false,
        unheard: BTreeSet::new(),
        random,
    };
    for _ in 0..ROUNDS {
        match world.random.below(100) {
            0..=27 if !world.detached => world.command(coverage),
            28 if !world.detached => (0..40).for_each(|_| world.command(coverage)),
            29..=34 => world.attack(),
            35..=37 => world.besiege(),
            38 => {
                world.network.jump(1 + world.random.bits() % 12_000_000_000);
                world.jumped_at = world.network.now();
            }
            39 => world.die(coverage),
            40..=42 if !world.detached => world.detached = true,
            43..=54 if world.detached => world.attach(),
            _ => world.talk(),
        }
        let pause = 1 + world.random.below(40);
        world.pass(pause, coverage);
    }
    world.attach();
    for id in world.legs.keys().copied().collect::<Vec<_>>() {
        world.perform(Command::DestroyStream { id: StreamId(id) }, Ok(()), coverage);
    }
    world.pass(500, coverage);
    assert_eq!(world.network.sockets(), 0, "no socket leaked");
    assert_eq!(world.engine.streams().count(), 0, "no stream leaked");
    assert_eq!(world.engine.next_timeout(), None, "no timer leaked");
    assert!(world.table.values().all(|record| !record.is(FLAG_OPEN)), "the table shows nobody");
}

impl World {
    /// Lets time pass, judging each packet the engine handles.
    fn pass(&mut self, ms: u64, coverage: &mut Coverage) {
        let until = self.network.now().plus_millis(ms);
        let (legs, stale, mut handled, mut forwarded) = (&mut self.legs, &mut self.stale, 0, 0);
        self.network.run_until(until, &mut self.engine, &mut self.events, |_, engine, _, packet| {
            handled += 1;
            forwarded += u64::from(packet.forward.is_some());
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
        // Who sees a report sees what it is about.
        let reported = !self.events.is_empty();
        for event in self.events.drain(..) {
            coverage.deaf += u64::from(self.detached);
            match event {
                Event::StreamUp { id, remote } => {
                    coverage.learned += u64::from(self.legs[&id.0].config.remote_rtp != Some(remote));
                    assert!(self.legs[&id.0].sources.contains(&remote), "latched to {remote}");
                }
                Event::RtpTimeout { id } => {
                    coverage.timeouts += 1;
                    assert!(self.legs[&id.0].config.rtp_timeout_ms > 0);
                    self.unheard.extend(self.detached.then_some(id.0));
                }
                other => panic!("nobody asked for {other:?}"),
            }
        }
        self.publish(reported);
        for sent in self.network.sent.drain(..) {
            coverage.reports += 1;
            assert!((200..204).contains(&sent.bytes[1]), "RTCP alone is of our own making");
        }
        for (_, view) in self.engine.streams() {
            assert_eq!(view.stats.handled, view.stats.forwarded + view.stats.consumed + view.drops.total());
            let leg = &self.legs[&view.id.0];
            assert_eq!(*view.config, leg.config);
            assert_eq!(view.bridged_with.map(|id| id.0), leg.bridge);
        }
        assert_eq!(self.engine.streams().count(), self.legs.len());
        self.network.arrived.clear();
    }

    /// Brings the table up to date, if it is time to.
    fn publish(&mut self, reported: bool) {
        if !reported && self.network.now().since(self.published_at) < PUBLISH_INTERVAL_NANOS {
            return;
        }
        self.published_at = self.network.now();
        let table = &mut self.table;
        self.engine.for_each_dirty(|index, view| {
            table.insert(index.0, record(view));
        });
        for (index, view) in self.engine.streams() {
            assert_eq!(table[&index.0], record(&view), "the table is up to date");
        }
    }

    /// Control is back, and finds in the table what it left, and whom it did not hear of.
    fn attach(&mut self) {
        self.detached = false;
        let open: BTreeMap<u64, &StreamRecord> =
            self.table.values().filter(|record| record.is(FLAG_OPEN)).map(|record| (record.id, record)).collect();
        assert!(open.keys().eq(self.legs.keys()), "the table shows the streams that there are");
        for (id, record) in open {
            let leg = &self.legs[&id];
            assert_eq!(record.local_rtp(), SocketAddr::new(HERE, leg.config.rtp_port));
            assert_eq!(record.bridged_with, leg.bridge.unwrap_or(0));
            let silent = record.rtp_in_at_ms.max(record.created_at_ms);
            let heard_since = self.engine.streams().any(|(_, view)| view.id.0 == id && !view.timed_out);
            assert!(
                !self.unheard.contains(&id) || record.is(FLAG_TIMED_OUT) || heard_since,
                "silent since {silent} ms"
            );
        }
        self.unheard.clear();
    }

    /// The dataplane is killed, another is started after a while, and each stream goes on from what the table last said.
    fn die(&mut self, coverage: &mut Coverage) {
        self.network.crash();
        self.engine = Engine::new(Limits { streams_max: STREAMS_MAX });
        (self.handled, self.forwarded, self.stale) = (0, 0, 0);
        let table = std::mem::take(&mut self.table);
        let away_ms = self.random.below(1500);
        let until = self.network.now().plus_millis(away_ms);
        self.network.run_until(until, &mut self.engine, &mut self.events, |_, _, _, _| panic!("nobody listens"));
        let before: BTreeMap<u64, StreamRecord> =
            table.into_values().filter(|record| record.is(FLAG_OPEN)).map(|record| (record.id, record)).collect();
        let mut ids: Vec<u64> = self.legs.keys().copied().collect();
        let bridges: BTreeSet<(u64, u64)> =
            self.legs.iter().filter_map(|(&id, leg)| Some((id, leg.bridge.filter(|&other| id < other)?))).collect();
        let steady = self.network.now().since(self.jumped_at) > JUMP_ECHO_NANOS;
        self.legs.values_mut().for_each(|leg| {
            (leg.bridge, leg.bereaved) = (None, Some(steady && leg.bereaved != Some(false)));
        });
        let mut waiting: BTreeMap<u64, Leg> = std::mem::take(&mut self.legs);
        while !ids.is_empty() {
            let id = ids.swap_remove(self.random.below(ids.len() as u64) as usize);
            let leg = waiting.remove(&id).expect("each once");
            let (config, record) = (leg.config.clone(), before[&id]);
            self.legs.insert(id, leg);
            self.perform(Command::ResumeStream { id: StreamId(id), config, record }, Ok(()), coverage);
            coverage.resumed += 1;
            let after = self.table.values().find(|record| record.id == id).expect("shown with the answer");
            self.continues(&before[&id], after);
        }
        for (a, b) in bridges {
            self.perform(Command::CreateBridge { a: StreamId(a), b: StreamId(b) }, Ok(()), coverage);
        }
    }

    /// What a stream must keep over a death.
    fn continues(&self, before: &StreamRecord, after: &StreamRecord) {
        let peers = |it: &StreamRecord| (it.local_rtp(), it.remote_rtp(), it.remote_rtcp(), it.flags);
        assert_eq!(peers(before), peers(after));
        let positions = |it: &StreamRecord| {
            [it.ssrc_in, it.sequence_in_highest, it.ssrc_out, it.sequence_out_last, it.timestamp_out_last]
        };
        assert_eq!(positions(before), positions(after));
        let counts = |it: &StreamRecord| {
            [it.packets_in, it.bytes_in, it.packets_out, it.bytes_out, it.rtcp_in, it.rtcp_out, it.drops().total()]
        };
        assert_eq!(counts(before), counts(after));
        assert_eq!((before.lost, before.created_at_ms), (after.lost, after.created_at_ms));
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
        self.publish(true);
        self.settle(coverage);
    }

    fn record(&mut self, command: Command) {
        match command {
            // `command` itself keeps the legs that it creates and moves.
            Command::CreateStream { .. } | Command::UpdateStream { .. } | Command::ResumeStream { .. } => {}
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
            Command::MigrateStream { .. } => unreachable!("there is one worker"),
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
            let leg = Leg {
                config: config.clone(),
                bridge: None,
                phone,
                sources,
                sequence: 65_500,
                timestamp: 0,
                said: None,
                leaps: false,
                bereaved: None,
            };
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
            (config.nat_expected, config.learn_from) = (leg.config.nat_expected, leg.config.learn_from);
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
            learn_from: self.random.permille(600).then_some(outside.ip()),
            relatch_interval_ms: 0,
            receive: self.random.permille(900),
            send: self.random.permille(900),
            mode: if self.random.permille(400) { Mode::Echo } else { Mode::Bridge },
            rtp_timeout_ms: self.random.below(3) as u32 * 700,
            ssrc: 1 + self.random.below(u32::MAX.into()) as u32,
            srtp: None,
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
        let (random, now) = (&mut self.random, self.network.now());
        for leg in self.legs.values_mut() {
            let to = SocketAddr::new(HERE, leg.config.rtp_port);
            leg.sequence = leg.sequence.wrapping_add(1);
            leg.timestamp = (now.as_millis() as u32).wrapping_mul(8);
            let payload_type = *[8, 8, 8, 8, 101, 18].get(random.below(6) as usize).unwrap();
            let mut packet = rtp(payload_type, leg.sequence, leg.timestamp, random);
            if random.permille(50) {
                // Anything but its clock, from which our own takes its time.
                let at = random.below(packet.len() as u64) as usize;
                let spoilt = if (4..8).contains(&at) { 0 } else { at };
                packet[spoilt] = random.bits() as u8;
                leg.leaps |= (2..4).contains(&spoilt);
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

    /// One stranger sends in order, paced like a phone, for as long as it takes, to all streams that it cannot be the peer of:
    /// those whose peer was signalled, or is behind NAT at a known address.
    fn besiege(&mut self) {
        self.besieged = self.besieged.wrapping_add(1);
        for leg in self.legs.values() {
            if !leg.config.nat_expected || leg.config.learn_from.is_some() {
                let packet = rtp(8, self.besieged, u32::from(self.besieged) * 160, &mut self.random);
                self.network.send_from(BESIEGER, SocketAddr::new(HERE, leg.config.rtp_port), packet);
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

/// Over a death, our own source says nothing under a number that it has used.
fn speaks_on(leg: &mut Leg, packet: &[u8], coverage: &mut Coverage) {
    let sequence = u16::from_be_bytes([packet[2], packet[3]]);
    let word = |at: usize| u32::from_be_bytes([packet[at], packet[at + 1], packet[at + 2], packet[at + 3]]);
    let (timestamp, ssrc) = (word(4), word(8));
    let ahead = |said: &(u32, u16, u32)| sequence.wrapping_sub(said.1) as i16;
    let said = leg.said.filter(|said| said.0 == ssrc && !leg.leaps);
    if let (Some(steady), Some(said)) = (leg.bereaved.take(), said) {
        coverage.spoke_on += 1;
        assert!(ahead(&said) > 0, "{sequence} after {}", said.1);
        assert!(!steady || timestamp.wrapping_sub(said.2) as i32 >= 0, "{timestamp} after {}", said.2);
    }
    if said.is_none_or(|said| ahead(&said) > 0) {
        leg.said = Some((ssrc, sequence, timestamp));
    }
}

/// Whether the engine was allowed to do what it did with one packet.
fn judge(legs: &mut BTreeMap<u64, Leg>, engine: &Engine, packet: &Handled, stale: &mut u64, coverage: &mut Coverage) {
    let owner = |socket: Socket| {
        let mut all = engine.streams();
        all.find(|(index, view)| (*index, view.generation) == (socket.stream, socket.generation)).map(|(_, v)| v.id.0)
    };
    let Some(id) = owner(packet.socket) else {
        coverage.stale += 1;
        *stale += 1;
        assert_eq!(packet.forward, None, "a packet of a destroyed stream goes nowhere");
        return;
    };
    let leg = &legs[&id];
    if packet.socket.component == Component::Rtcp && leg.config.rtcp_port == leg.config.rtp_port {
        // RTCP has moved to the RTP port since.
        *stale += u64::from(packet.before.len() >= 2 && packet.before[0] >> 6 == 2);
        assert_eq!(packet.forward, None, "a packet of a closed socket goes nowhere");
    }
    let believed = leg.sources.contains(&packet.source);
    coverage.foreign += u64::from(!believed);
    let Some(Forward { from: out, to }) = packet.forward else {
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
        speaks_on(legs.get_mut(&id).expect("judged above"), &packet.after, coverage);
    } else {
        coverage.relayed += 1;
        expected[1] = packet.before[1] & 0x80 | if payload_type == 101 { 96 } else { payload_type };
    }
    assert_eq!(packet.after, expected, "nothing else has changed");
}
