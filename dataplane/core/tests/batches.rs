//! Packets that are handled together become what they become one by one: the same bytes, ways, drops, events and records, in
//! whatever order they come, with repeats, forgeries, wraps and keys that change among them.

mod common;

use common::{Rig, at, config, rtp};
use nebula_core::batch::BATCH_MAX;
use nebula_core::driver::{Component, Datagram, Forward, Incoming, Socket};
use nebula_core::record::record;
use nebula_core::srtp::{Kernels, Sender};
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use std::net::SocketAddr;

const SEEDS: u64 = 300;
const ROUNDS: u64 = 40;
const STREAMS: u64 = 6;
const ROOM: usize = 48;

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A phone, and what it has said.
struct Phone {
    config: StreamConfig,
    out: Option<Sender>,
    /// What it spoke with before its key was changed.
    former: Option<Sender>,
    sequence: u16,
    ssrc: u32,
    said: Vec<(Component, Vec<u8>)>,
}

fn key(random: &mut Random, suite: Suite, serial: u32) -> MasterKey {
    let bytes: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes()).map(|_| random.below(256) as u8).collect();
    let mki = if random.below(3) == 0 { Mki::new(&[serial as u8, 2]).unwrap() } else { Mki::default() };
    MasterKey::new(serial, suite, &bytes, mki).unwrap()
}

/// Two protected legs, a protected and a plain one, one of each that hears itself.
fn phone(random: &mut Random, id: u64) -> Phone {
    let suite = Suite::ALL[random.below(6) as usize];
    let keys = (id != 4 && id != 6).then(|| (key(random, suite, 1), key(random, suite, 1)));
    let config = StreamConfig {
        mode: if id > 4 { Mode::Echo } else { Mode::Bridge },
        nat_expected: random.below(3) == 0,
        srtp: keys.clone().map(|(receive, send)| SrtpConfig { receive: Some(receive), send: Some(send) }),
        ..config(id as u8)
    };
    let out = keys.map(|(theirs, _)| Sender::new(Kernels::detect(), &theirs));
    Phone { config, out, former: None, sequence: 58_000, ssrc: id as u32, said: Vec::new() }
}

impl Phone {
    /// The next packet of it, or something else that comes from its address.
    fn say(&mut self, random: &mut Random) -> (Component, Vec<u8>) {
        match random.below(20) {
            0..=2 if !self.said.is_empty() => self.said[random.below(self.said.len() as u64) as usize].clone(),
            3 if !self.said.is_empty() => {
                let (component, mut packet) = self.said[random.below(self.said.len() as u64) as usize].clone();
                let at = random.below(packet.len() as u64) as usize;
                packet[at] ^= 1 << random.below(8);
                (component, packet)
            }
            4 => {
                let len = random.below(80) as usize;
                (Component::Rtp, (0..len).map(|at| if at == 0 { 0x80 } else { random.below(256) as u8 }).collect())
            }
            5 => self.protected(Component::Rtcp, &[&[0x80, 201, 0, 1], &self.ssrc.to_be_bytes()[..]].concat(), random),
            _ => {
                let leap = if random.below(12) == 0 { random.below(2_500) as u16 } else { 0 };
                self.sequence = self.sequence.wrapping_add(1 + leap);
                let mut plain = rtp(8, self.sequence, u32::from(self.sequence) * 160, self.ssrc);
                plain.truncate(12 + random.below(160) as usize);
                self.protected(Component::Rtp, &plain, random)
            }
        }
    }

    fn protected(&mut self, component: Component, plain: &[u8], random: &mut Random) -> (Component, Vec<u8>) {
        let mut buffer = plain.to_vec();
        buffer.resize(plain.len() + ROOM, 0);
        let mut packet = Datagram::new(&mut buffer, plain.len());
        let out = if random.below(4) == 0 && self.former.is_some() { &mut self.former } else { &mut self.out };
        if let Some(out) = out {
            let sent = match component {
                Component::Rtp => out.protect_rtp(&mut packet),
                Component::Rtcp => out.protect_rtcp(&mut packet),
            };
            // What a phone of ours would not send is said in the clear, which is refused.
            let _ = sent.is_ok();
        }
        let len = packet.len();
        buffer.truncate(len);
        self.said.push((component, buffer.clone()));
        (component, buffer)
    }

    /// A re-INVITE with a new key of the phone's.
    fn rekey(&mut self, random: &mut Random) {
        let Some(SrtpConfig { receive: Some(theirs), .. }) = &mut self.config.srtp else { return };
        *theirs = key(random, theirs.suite, theirs.serial + 1);
        self.former = self.out.replace(Sender::new(Kernels::detect(), theirs));
    }
}

/// What came of a packet.
type Outcome = (Vec<u8>, Option<Forward>);

fn one_by_one(rig: &mut Rig, packets: &[(Socket, Option<SocketAddr>, Vec<u8>)]) -> Vec<Outcome> {
    let hear = |(socket, source, packet): &(Socket, Option<SocketAddr>, Vec<u8>)| {
        let mut buffer = [packet.as_slice(), &[0xcc; ROOM]].concat();
        let mut datagram = Datagram::new(&mut buffer, packet.len());
        let forward = rig.engine.receive(rig.now, *socket, *source, &mut datagram, &mut rig.driver, &mut rig.events);
        (datagram.as_ref().to_vec(), forward)
    };
    packets.iter().map(hear).collect()
}

fn together(rig: &mut Rig, packets: &[(Socket, Option<SocketAddr>, Vec<u8>)]) -> Vec<Outcome> {
    let mut buffers: Vec<_> = packets.iter().map(|(.., packet)| [packet.as_slice(), &[0xcc; ROOM]].concat()).collect();
    let mut batch: Vec<_> = packets
        .iter()
        .zip(&mut buffers)
        .map(|((socket, source, packet), buffer)| Incoming::new(*socket, *source, Datagram::new(buffer, packet.len())))
        .collect();
    rig.engine.receive_many(rig.now, &mut batch, &mut rig.driver, &mut rig.events);
    batch.into_iter().map(|incoming| (incoming.packet.as_ref().to_vec(), incoming.forward)).collect()
}

#[test]
fn packets_together_become_what_they_become_one_by_one() {
    let (mut forwarded, mut wraps) = (0, 0);
    let mut drops = [(DropReason::BadTag, 0), (DropReason::Replay, 0), (DropReason::ForeignSource, 0)];
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let mut phones: Vec<_> = (1..=STREAMS).map(|id| phone(&mut random, id)).collect();
        let configs: Vec<_> = phones.iter().map(|phone| phone.config.clone()).collect();
        let mut rigs = [Rig::with(&configs), Rig::with(&configs)];
        for rig in &mut rigs {
            for (a, b) in [(1, 2), (3, 4)] {
                rig.apply(Command::CreateBridge { a: StreamId(a), b: StreamId(b) }).unwrap();
            }
        }
        for round in 0..ROUNDS {
            if random.below(8) == 0 {
                let at = random.below(STREAMS) as usize;
                phones[at].rekey(&mut random);
                let (id, config) = (at as u64 + 1, phones[at].config.clone());
                rigs.iter_mut().for_each(|rig| rig.update(id, config.clone()));
            }
            // Often all of one phone, so that batches have many packets of one source.
            let alone = random.below(3) == 0;
            let chosen = random.below(STREAMS);
            let mut packets = Vec::new();
            for _ in 0..1 + random.below(2 * BATCH_MAX as u64 + 8) {
                let id = if alone { chosen } else { random.below(STREAMS) };
                let before = phones[id as usize].sequence;
                let (component, packet) = phones[id as usize].say(&mut random);
                wraps += u64::from(phones[id as usize].sequence < before);
                let port = 5000 + u16::from(component == Component::Rtcp) + 7 * u16::from(random.below(30) == 0);
                let source = at(&format!("192.0.2.{}:{port}", id + 1));
                packets.push((rigs[0].socket(id + 1, component), Some(source), packet));
            }
            let [singly, jointly] = &mut rigs;
            assert_eq!(one_by_one(singly, &packets), together(jointly, &packets), "seed {seed}, round {round}");
            for rig in [&mut *singly, &mut *jointly] {
                rig.now = rig.now.plus_millis(20);
            }
            assert_eq!(singly.driver.calls, jointly.driver.calls, "seed {seed}, round {round}");
            assert_eq!(singly.events.events, jointly.events.events, "seed {seed}, round {round}");
            assert_eq!(singly.events.table, jointly.events.table, "seed {seed}, round {round}");
            assert_eq!(singly.engine.totals(), jointly.engine.totals(), "seed {seed}, round {round}");
            for id in 1..=STREAMS {
                assert_eq!(record(&singly.view(id)), record(&jointly.view(id)), "seed {seed}, round {round}");
            }
        }
        forwarded += rigs[1].engine.totals().forwarded;
        for (reason, count) in &mut drops {
            *count += rigs[1].engine.totals().drops.get(*reason);
        }
    }
    assert!(forwarded > 50_000 && wraps > SEEDS, "{forwarded} forwarded, {wraps} wraps");
    assert!(drops.iter().all(|&(_, count)| count > 1_000), "{drops:?}");
}

#[test]
fn a_source_that_wraps_in_the_first_batch_of_it_is_followed() {
    let suite = Suite::AesCm128HmacSha1_80;
    let mut random = Random(1);
    let (theirs, ours) = (key(&mut random, suite, 1), key(&mut random, suite, 1));
    let mut phone = Sender::new(Kernels::detect(), &theirs);
    let srtp = Some(SrtpConfig { receive: Some(theirs), send: Some(ours) });
    let mut rig = Rig::bridged(StreamConfig { srtp, ..config(1) }, config(2));
    let socket = rig.socket(1, Component::Rtp);
    let mut packets = Vec::new();
    for sequence in 62_000..65_546u32 {
        let plain = rtp(8, sequence as u16, 0, 7);
        let mut buffer = [plain.as_slice(), &[0; ROOM]].concat();
        let mut packet = Datagram::new(&mut buffer, plain.len());
        assert!(phone.protect_rtp(&mut packet).is_ok());
        // All before the last ones are lost.
        if sequence >= 65_530 {
            packets.push((socket, Some(at("192.0.2.1:5000")), packet.as_ref().to_vec()));
        }
    }
    let heard = together(&mut rig, &packets);
    for (sequence, (packet, forward)) in (65_530..65_546u32).zip(heard) {
        assert!(forward.is_some(), "{sequence}: before it was handled, its number seemed to be of the first cycle");
        assert_eq!(packet, rtp(8, sequence as u16, 0, 7));
    }
}
