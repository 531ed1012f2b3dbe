//! Protected calls under a bad network, forgers, replays, changed keys, moves to other workers and deaths of the dataplane, with its
//! agent or without, for thousands of seeds: no
//! key stream is ever used twice, nothing that was not the phone's gets through, and what leaves can be read.
//!
//! `NEBULA_SEEDS=100000` runs more; `NEBULA_SEED=42` replays one that failed (it is printed on failure).

mod seeds;

use nebula_core::driver::{Datagram, StreamIndex};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::record::record;
use nebula_core::srtp::{self, Kernels, Receiver, Sender};
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_io::sim::{Faults, Handled, Network, Random};
use nebula_ring::command::{Command, Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::event::Event;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use nebula_ring::table::{FLAG_OPEN, StreamRecord};
use seeds::{Seed, seeds};
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

const SEEDS: u64 = 1_500;
const ROUNDS: u64 = 150;
const PUBLISH_INTERVAL_NANOS: u64 = 100_000_000;
const HERE: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
/// Caller, callee, and one who hears itself.
const STREAMS: [u64; 3] = [1, 2, 3];
/// Sources of a phone under one of our keys: as many as a receiver of ours remembers.
const SOURCES_MAX: u32 = 4;

/// How often the interesting things happened.
#[derive(Debug, Default)]
struct Coverage {
    relayed: u64,
    rtcp: u64,
    reports: u64,
    read: u64,
    bad_tags: u64,
    replays: u64,
    out_of_order: u64,
    deaths: u64,
    double_deaths: u64,
    moves: u64,
    spoke_on: u64,
    rekeyed: u64,
    old_key: u64,
    sources: u64,
}

#[test]
fn no_key_stream_is_used_twice_whatever_happens() {
    let seeds = seeds(SEEDS);
    let mut sum = Coverage::default();
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        World::new(seed).run(&mut sum);
    }
    println!("{} seeds: {sum:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= 100 {
        let Coverage { relayed, rtcp, reports, read, bad_tags, replays, out_of_order, .. } = sum;
        let Coverage { deaths, double_deaths, moves, spoke_on, rekeyed, old_key, sources, .. } = sum;
        for (what, count) in [
            ("relayed", relayed),
            ("rtcp", rtcp),
            ("reports of our own", reports),
            ("read by a phone", read),
            ("bad tags", bad_tags),
            ("replays", replays),
            ("repeats of a plain phone", out_of_order),
            ("deaths", deaths),
            ("deaths of which the table was lost", double_deaths),
            ("moves to another worker", moves),
            ("spoke on after a death", spoke_on),
            ("changed keys", rekeyed),
            ("packets of an old key that were in flight", old_key),
            ("other sources", sources),
        ] {
            assert!(count > 10, "the runs must reach what they test: {what} only {count} times");
        }
    }
}

/// A phone behind a stream, as it is.
struct Phone {
    rtp: SocketAddr,
    rtcp: SocketAddr,
    config: StreamConfig,
    /// Protects with the key of its serial; none if the phone speaks in the clear.
    out: Option<(u32, Sender)>,
    /// Reads what we protect, by the serial of our key and the names that sources had under it.
    heard: BTreeMap<(u32, u32), Receiver>,
    ssrc: u32,
    /// How many sources it has had under the keys that its words go out with.
    sources: u32,
    sequence: u16,
    /// What it sent as it left, to what it meant, and under which key.
    sent: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    /// When, and in which life of the dataplane, a protected packet of it was last let through.
    passed: BTreeMap<Vec<u8>, (u64, Nanos)>,
}

/// Hears events, and keeps the table, of which a part is written at once.
#[derive(Default)]
struct Ears {
    events: Vec<Event>,
    table: BTreeMap<u32, StreamRecord>,
}

impl EventSink for Ears {
    fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    fn show(&mut self, index: StreamIndex, view: &StreamView<'_>) {
        self.table.insert(index.0, record(view));
    }
}

struct World {
    random: Random,
    network: Network,
    engine: Engine,
    ears: Ears,
    phones: BTreeMap<u64, Phone>,
    published_at: Nanos,
    /// Up to when the lives before had shown all they had heard.
    shown_until: Vec<Nanos>,
    /// Stream, serial of our key, and what two packets under one nonce would share.
    used: BTreeSet<(u64, u32, Vec<u8>)>,
    /// Stream, serial of our key, SSRC, SRTCP index.
    used_rtcp: BTreeSet<(u64, u32, u32, u32)>,
    /// A table of some time ago, and when it was that of the dataplane: what an agent may have kept.
    kept: (Nanos, BTreeMap<u32, StreamRecord>),
    correlation: u64,
    bereaved: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let faults = Faults {
            loss_permille: random.below(100) as u32,
            duplicate_permille: random.below(50) as u32,
            late_permille: random.below(200) as u32,
            delay_us: 50 + random.below(20_000),
            delay_late_us_max: random.below(80_000),
            turn_us_max: random.below(20_000),
            ..Faults::NONE
        };
        let network = Network::new(random.bits(), faults);
        let mut world = Self {
            network,
            engine: Engine::new(Limits { streams_max: 4 }),
            ears: Ears::default(),
            phones: BTreeMap::new(),
            published_at: Nanos(0),
            shown_until: Vec::new(),
            used: BTreeSet::new(),
            used_rtcp: BTreeSet::new(),
            kept: (Nanos(0), BTreeMap::new()),
            correlation: 0,
            bereaved: false,
            random,
        };
        for id in STREAMS {
            let phone = world.phone(id);
            world.perform(Command::CreateStream { id: StreamId(id), config: phone.config.clone() });
            world.phones.insert(id, phone);
        }
        world.perform(Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
        world
    }

    fn run(mut self, coverage: &mut Coverage) {
        for _ in 0..ROUNDS {
            match self.random.below(100) {
                0..=9 => self.attack(),
                10..=12 => self.rekey(coverage),
                13..=14 => self.begin_anew(coverage),
                15 => self.die(coverage),
                16 => self.move_on(coverage),
                17 => self.kept = (self.published_at, self.ears.table.clone()),
                18 => self.network.jump(self.random.bits() % 3_000_000_000),
                19..=27 => self.report(),
                _ => self.talk(),
            }
            let pause = 1 + self.random.below(40);
            self.pass(pause, coverage);
        }
        let drops = &self.engine.totals().drops;
        coverage.bad_tags += drops.get(DropReason::BadTag);
        coverage.replays += drops.get(DropReason::Replay);
        coverage.out_of_order += drops.get(DropReason::OutOfOrder);
        assert_eq!(drops.get(DropReason::KeyExhausted), 0);
    }

    fn phone(&mut self, id: u64) -> Phone {
        let at = |port| SocketAddr::from(([10, 0, 0, id as u8], port));
        // The callee of some calls speaks in the clear.
        let keys = (id != 2 || self.random.permille(500)).then(|| {
            let suite = Suite::ALL[self.random.below(6) as usize];
            (self.key(suite, 1), self.key(suite, 1))
        });
        let muxed = self.random.permille(500);
        let port = 20_000 + 2 * id as u16;
        let config = StreamConfig {
            local_ip: HERE,
            rtp_port: port,
            rtcp_port: if muxed { port } else { port + 1 },
            remote_rtp: Some(at(4000)),
            remote_rtcp: Some(at(4001)),
            nat_expected: false,
            learning_window_ms: 0,
            learn_from: None,
            relatch_interval_ms: 0,
            receive: true,
            send: true,
            mode: if id == 3 { Mode::Echo } else { Mode::Bridge },
            rtp_timeout_ms: 0,
            ssrc: 1 + self.random.below(u32::MAX.into()) as u32,
            srtp: keys.clone().map(|(receive, send)| SrtpConfig { receive: Some(receive), send: Some(send) }),
            payload_types: [PayloadType { number: 8, forward_as: 8, clock_rate_hz: 8000 }].into_iter().collect(),
        };
        let kernels = Kernels::detect();
        Phone {
            rtp: at(4000),
            rtcp: at(if muxed { 4000 } else { 4001 }),
            config,
            out: keys.as_ref().map(|(theirs, _)| (theirs.serial, Sender::new(kernels, theirs))),
            heard: keys.iter().map(|(_, ours)| ((ours.serial, 0), Receiver::new(kernels, ours))).collect(),
            ssrc: self.random.bits() as u32,
            sources: 1,
            sequence: if self.random.permille(500) { 65_500 } else { self.random.bits() as u16 },
            sent: BTreeMap::new(),
            passed: BTreeMap::new(),
        }
    }

    fn key(&mut self, suite: Suite, serial: u32) -> MasterKey {
        let bytes: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes()).map(|_| self.random.bits() as u8).collect();
        let mki: &[u8] = if self.random.permille(300) { &[1, 2] } else { &[] };
        MasterKey::new(serial, suite, &bytes, Mki::new(mki).unwrap()).unwrap()
    }

    /// Every phone says something; one in the clear now and then something odd.
    fn talk(&mut self) {
        for phone in self.phones.values_mut() {
            phone.sequence = phone.sequence.wrapping_add(1);
            let in_the_clear = phone.out.is_none();
            let (sequence, ssrc) = match self.random.below(60) {
                0 if in_the_clear => (self.random.bits() as u16, phone.ssrc),
                1 if in_the_clear => (phone.sequence.wrapping_sub(self.random.below(200) as u16), phone.ssrc),
                _ => (phone.sequence, phone.ssrc),
            };
            let mut plain = vec![0x80, 8];
            plain.extend(sequence.to_be_bytes());
            plain.extend((self.network.now().as_millis() as u32).to_be_bytes());
            plain.extend(ssrc.to_be_bytes());
            plain.extend((0..24).map(|_| self.random.bits() as u8));
            let to = SocketAddr::new(HERE, phone.config.rtp_port);
            let (serial, packet) = match &mut phone.out {
                None => (0, plain.clone()),
                Some((serial, out)) => (*serial, protected(&plain, |packet| out.protect_rtp(packet).map(drop))),
            };
            phone.sent.insert(packet.clone(), (plain, serial));
            self.network.send_from(phone.rtp, to, packet);
        }
    }

    /// Every phone reports.
    fn report(&mut self) {
        for phone in self.phones.values_mut() {
            let mut plain = vec![0x80, 201, 0, 1];
            plain.extend(phone.ssrc.to_be_bytes());
            plain.extend([0x81, 202, 0, 3]);
            plain.extend(phone.ssrc.to_be_bytes());
            plain.extend([1, 5]);
            plain.extend((0..5).map(|_| self.random.bits() as u8));
            plain.push(0);
            let to = SocketAddr::new(HERE, phone.config.rtcp_port);
            let (serial, packet) = match &mut phone.out {
                None => (0, plain.clone()),
                Some((serial, out)) => (*serial, protected(&plain, |packet| out.protect_rtcp(packet).map(drop))),
            };
            phone.sent.insert(packet.clone(), (plain, serial));
            self.network.send_from(phone.rtcp, to, packet);
        }
    }

    /// Somebody who can write the phone's address on his packets repeats what he has seen, changes it, and invents.
    fn attack(&mut self) {
        for phone in self.phones.values().filter(|phone| phone.out.is_some()) {
            for _ in 0..self.random.below(4) {
                let at = self.random.below(phone.sent.len() as u64 + 1) as usize;
                let mut packet = phone.sent.keys().nth(at).cloned().unwrap_or_else(|| vec![0x80; 60]);
                match self.random.below(4) {
                    0 => {}
                    1 => packet.truncate(self.random.below(packet.len() as u64) as usize),
                    _ => {
                        let at = self.random.below(packet.len() as u64) as usize;
                        packet[at] ^= 1 << self.random.below(8);
                    }
                }
                let rtcp = packet.get(1).is_some_and(|second| (192..224).contains(second));
                let (from, port) = match rtcp {
                    true => (phone.rtcp, phone.config.rtcp_port),
                    false => (phone.rtp, phone.config.rtp_port),
                };
                self.network.send_from(from, SocketAddr::new(HERE, port), packet);
            }
        }
    }

    /// A re-INVITE with a new key of the phone's, of ours, or the same ones.
    fn rekey(&mut self, coverage: &mut Coverage) {
        let id = STREAMS[self.random.below(3) as usize];
        let Some(SrtpConfig { receive: Some(theirs), send: Some(ours) }) = self.phones[&id].config.srtp.clone() else {
            return;
        };
        let (mut receive, mut send) = (theirs.clone(), ours.clone());
        if self.random.permille(500) {
            receive = self.key(theirs.suite, theirs.serial + 1);
        }
        if self.random.permille(300) {
            send = self.key(ours.suite, ours.serial + 1);
        }
        coverage.rekeyed += u64::from(receive != theirs || send != ours);
        let kernels = Kernels::detect();
        let phone = self.phones.get_mut(&id).expect("one of three");
        phone.config.srtp = Some(SrtpConfig { receive: Some(receive.clone()), send: Some(send.clone()) });
        if receive != theirs {
            phone.out = Some((receive.serial, Sender::new(kernels, &receive)));
        }
        phone.heard.entry((send.serial, 0)).or_insert_with(|| Receiver::new(kernels, &send));
        let config = phone.config.clone();
        self.perform(Command::UpdateStream { id: StreamId(id), config });
    }

    /// A phone speaks under another SSRC from now on, or from another number.
    fn begin_anew(&mut self, coverage: &mut Coverage) {
        let id = STREAMS[self.random.below(3) as usize];
        let phone = self.phones.get_mut(&id).expect("one of three");
        if phone.sources < SOURCES_MAX {
            phone.sources += 1;
            phone.ssrc = self.random.bits() as u32;
            phone.sequence = self.random.bits() as u16;
            coverage.sources += 1;
        } else if phone.out.is_none() {
            phone.sequence = self.random.bits() as u16;
        }
    }

    /// Lets time pass, judging each packet that the engine handles.
    fn pass(&mut self, ms: u64, coverage: &mut Coverage) {
        let until = self.network.now().plus_millis(ms);
        let mut handled = Vec::new();
        self.network.run_until(until, &mut self.engine, &mut self.ears, |network, engine, _, packet| {
            let ids: BTreeMap<_, _> =
                engine.streams().map(|(index, view)| ((index, view.generation), view.id.0)).collect();
            handled.push((network.now(), ids, packet));
        });
        for (at, ids, packet) in handled {
            let id = |socket: nebula_core::driver::Socket| ids[&(socket.stream, socket.generation)];
            let to = packet.forward.map(|forward| id(forward.from));
            self.judge(at, id(packet.socket), to, &packet, coverage);
        }
        assert_eq!(self.network.violations, [] as [String; 0]);
        self.ears.events.clear();
        if self.network.now().since(self.published_at) >= PUBLISH_INTERVAL_NANOS {
            self.publish();
        }
        self.arrive(coverage);
    }

    fn publish(&mut self) {
        self.published_at = self.network.now();
        self.engine.for_each_dirty(|index, view| {
            self.ears.table.insert(index.0, record(view));
        });
    }

    /// Whether the engine was allowed to do what it did with one packet.
    fn judge(&mut self, at: Nanos, from: u64, to: Option<u64>, packet: &Handled, coverage: &mut Coverage) {
        let Some(to) = to else { return };
        let phone = self.phones.get_mut(&from).expect("one of three");
        let (plain, serial) = phone.sent.get(&packet.before).unwrap_or_else(|| panic!("forged: {packet:?}")).clone();
        let life = self.shown_until.len() as u64;
        if let Some((current, _)) = &phone.out {
            coverage.old_key += u64::from(serial < *current);
            if let Some((before, passed_at)) = phone.passed.insert(packet.before.clone(), (life, at)) {
                // A successor may take for new only what its predecessor had no time to show.
                let shown_until = self.shown_until.get(before as usize);
                assert!(shown_until.is_some_and(|&shown| passed_at >= shown), "a replay: {packet:?}");
            }
        }
        let rtcp = (192..224).contains(&plain[1]);
        if rtcp {
            coverage.rtcp += 1
        } else {
            coverage.relayed += 1
        }
        let sent_under = self.phones[&to].config.srtp.as_ref().and_then(|srtp| srtp.send.clone());
        let Some(ours) = sent_under else {
            assert_eq!(packet.after[12..], plain[12..], "it arrives as it was meant");
            return;
        };
        assert!(packet.after.len() > plain.len(), "nothing leaves in the clear");
        // Packets that were handled before a change of our key in the same pass do not occur: `pass` ends with it.
        if rtcp {
            self.use_index(to, &ours, &packet.after);
        } else {
            coverage.spoke_on += u64::from(std::mem::take(&mut self.bereaved));
            let stream: Vec<u8> = packet.after[12..28].iter().zip(&plain[12..28]).map(|(a, b)| a ^ b).collect();
            assert!(self.used.insert((to, ours.serial, stream)), "a key stream is used again: {packet:?}");
        }
    }

    /// Notes the index that an SRTCP packet was sent under.
    fn use_index(&mut self, to: u64, ours: &MasterKey, packet: &[u8]) {
        let behind = ours.mki.as_bytes().len()
            + match ours.suite {
                Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => 0,
                _ => 10,
            };
        let at = packet.len() - behind - 4;
        let word = u32::from_be_bytes(*packet[at..].first_chunk().unwrap());
        assert_ne!(word & 1 << 31, 0, "encrypted");
        let ssrc = u32::from_be_bytes(*packet[4..].first_chunk().unwrap());
        assert!(self.used_rtcp.insert((to, ours.serial, ssrc, word)), "an SRTCP index is used again");
    }

    /// The phones read what has come to them.
    fn arrive(&mut self, coverage: &mut Coverage) {
        for sent in std::mem::take(&mut self.network.sent) {
            coverage.reports += 1;
            let (&id, phone) =
                self.phones.iter().find(|(_, phone)| [phone.rtp, phone.rtcp].contains(&sent.to)).expect("a phone's");
            let ours = phone.config.srtp.as_ref().and_then(|srtp| srtp.send.clone()).expect("echo is protected here");
            self.use_index(id, &ours, &sent.bytes);
        }
        for arrival in std::mem::take(&mut self.network.arrived) {
            let phone = self.phones.values_mut().find(|phone| [phone.rtp, phone.rtcp].contains(&arrival.to));
            let Some(phone) = phone.filter(|phone| phone.out.is_some()) else { continue };
            let rtcp = (192..224).contains(&arrival.bytes[1]);
            let len = arrival.bytes.len();
            let readable = phone.heard.values_mut().rev().any(|receiver| {
                let mut bytes = arrival.bytes.clone();
                let mut packet = Datagram::new(&mut bytes, len);
                let read = if rtcp { receiver.read_rtcp(&mut packet) } else { receiver.read_rtp(&mut packet) };
                // A duplicate of the network's making, or one that was late by more than the window.
                read.is_ok() || read == Err(srtp::Error::Replay)
            });
            assert!(readable, "no key of ours reads {arrival:?}");
            coverage.read += 1;
        }
    }

    /// The dataplane is killed, and its successor goes on from what the table last said.
    fn die(&mut self, coverage: &mut Coverage) {
        coverage.deaths += 1;
        self.shown_until.push(self.published_at);
        let drops = &self.engine.totals().drops;
        coverage.bad_tags += drops.get(DropReason::BadTag);
        coverage.replays += drops.get(DropReason::Replay);
        coverage.out_of_order += drops.get(DropReason::OutOfOrder);
        self.network.crash();
        self.engine = Engine::new(Limits { streams_max: 4 });
        let until = self.network.now().plus_millis(self.random.below(1500));
        self.network.run_until(until, &mut self.engine, &mut self.ears, |_, _, _, _| panic!("nobody listens"));
        let mut table = std::mem::take(&mut self.ears.table);
        // With the agent: all that is left is what that had kept, be it long ago.
        let rename = if self.random.permille(500) && !self.kept.1.is_empty() { self.random.bits() as u32 } else { 0 };
        if rename != 0 {
            coverage.double_deaths += 1;
            let (at, kept) = self.kept.clone();
            table = kept;
            self.shown_until.iter_mut().for_each(|shown| *shown = (*shown).min(at));
            self.heed(rename);
        }
        let mut records: Vec<StreamRecord> = table.into_values().filter(|record| record.is(FLAG_OPEN)).collect();
        assert_eq!(records.len(), STREAMS.len());
        for record in records.iter_mut().filter(|_| rename != 0) {
            record.srtp_ssrc_out = Default::default();
            record.srtp_used_out = Default::default();
            record.srtp_rename_out = rename;
        }
        while !records.is_empty() {
            let record = records.swap_remove(self.random.below(records.len() as u64) as usize);
            let config = self.phones[&record.id].config.clone();
            self.perform(Command::ResumeStream { id: StreamId(record.id), config, record });
        }
        self.perform(Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
        self.bereaved = true;
    }

    /// Who is called by other names from now on must be heard by them.
    fn heed(&mut self, rename: u32) {
        for phone in self.phones.values_mut() {
            let ours = phone.config.srtp.as_ref().and_then(|srtp| srtp.send.as_ref());
            phone.heard.extend(ours.map(|ours| ((ours.serial, rename), Receiver::new(Kernels::detect(), ours))));
        }
    }

    /// All streams move to another engine, with their keys as they stand.
    fn move_on(&mut self, coverage: &mut Coverage) {
        coverage.moves += 1;
        let drops = &self.engine.totals().drops;
        coverage.bad_tags += drops.get(DropReason::BadTag);
        coverage.replays += drops.get(DropReason::Replay);
        coverage.out_of_order += drops.get(DropReason::OutOfOrder);
        let now = self.network.now();
        let migrants: Vec<_> = STREAMS
            .map(StreamId)
            .into_iter()
            .map(|id| {
                let (_, view) = self.engine.find(id).expect("one of three");
                let (config, record) = (view.config.clone(), record(&view));
                let keys = self.engine.hand_over(now, id, &mut self.network, &mut self.ears).expect("it is there");
                assert_eq!(keys.is_some(), config.srtp.is_some());
                (id, config, record, keys)
            })
            .collect();
        // What the sockets had queued is gone here; a driver hands it in before.
        self.network.crash();
        self.engine = Engine::new(Limits { streams_max: 4 });
        self.ears.table.clear();
        for (id, config, record, keys) in migrants {
            self.perform(Command::ResumeStream { id, config, record });
            if let Some(keys) = keys {
                self.engine.entrust(id, keys, &mut self.network, &mut self.ears).expect("it is there");
            }
        }
        self.perform(Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
    }

    fn perform(&mut self, command: Command) {
        self.correlation += 1;
        let correlation = self.correlation;
        self.engine.apply(self.network.now(), correlation, &command, &mut self.network, &mut self.ears);
        assert!(self.ears.events.contains(&Event::Done { correlation }), "{command:?}");
        self.ears.events.clear();
        self.publish();
    }
}

/// A packet as it leaves a phone.
fn protected(plain: &[u8], protect: impl FnOnce(&mut Datagram<'_>) -> Result<(), srtp::Error>) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + 48, 0);
    let mut packet = Datagram::new(&mut buffer, plain.len());
    protect(&mut packet).expect("phones count on");
    let len = packet.len();
    buffer.truncate(len);
    buffer
}
