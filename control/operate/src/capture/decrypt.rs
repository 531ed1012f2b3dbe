//! What is protected made plain again, for `nebula capture --decrypt`: the engine's own receiving side, fed with the kernel's
//! copies of packets. Its rollover counters begin with what the stream table shows, its keys are those of the media agent,
//! which is asked again when a packet cannot be read: a key may be new. Called for each captured packet, some microseconds.
//!
//! A packet that still cannot be read stays as it was: somebody else's, or one of before the capture.

use super::filter::Endpoint;
use nebula_core::driver::{Component, Datagram};
use nebula_core::ingress::classify::{Kind, classify};
use nebula_core::srtp::{Kernels, Receiver, SOURCES_IN_MAX};
use nebula_ring::StreamRecord;
use nebula_ring::command::RESUME_SEQUENCE_AHEAD;
use nebula_ring::srtp::{MasterKey, SrtpConfig};

/// Keys of one direction that are remembered: packets of the last one are under way when a new one comes.
const KEYS_MAX: usize = 4;
/// How far below what the table shows a capture begins to believe: packets out of order, and what the table runs ahead of
/// what was sent. Far from half a cycle, within which the rollover counter is certain.
const MARGIN_PACKETS: u64 = RESUME_SEQUENCE_AHEAD as u64 + 128;

const UDP_HEADER_BYTES: usize = 8;

/// One stream's keys, both ways.
#[derive(Debug)]
pub struct Leg {
    endpoint: Endpoint,
    kernels: Kernels,
    received: Keys,
    sent: Keys,
}

/// The keys of a direction, the newest first.
#[derive(Debug, Default)]
struct Keys(Vec<Key>);

/// A key, and what is known of its sources: a [`Receiver`] holds some, and we send as more than that.
#[derive(Debug)]
struct Key {
    serial: u32,
    parts: Vec<(Vec<u32>, Receiver)>,
}

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It was plain, and is none that would be protected.
    Plain,
    /// It is plain now.
    Decrypted,
    /// It is as it was: no key of ours opens it.
    Closed,
}

impl Leg {
    /// Without keys: plain, until it learns some.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, kernels: Kernels::detect(), received: Keys::default(), sent: Keys::default() }
    }

    /// Takes in keys, and for those that are new how far the stream has come with them.
    pub fn learn(&mut self, config: &SrtpConfig, record: &StreamRecord) {
        let seen = |ssrcs: &[u32], next: &[u64], is_it: bool| -> Vec<(u32, u64)> {
            let sources = ssrcs.iter().copied().zip(next.iter().copied());
            sources.filter(|&(_, next)| is_it && next > 0).collect()
        };
        if let Some(key) = &config.receive {
            let is_it = record.srtp_key_in == key.serial;
            self.received.learn(self.kernels, key, &seen(&record.srtp_ssrc_in, &record.srtp_next_in, is_it));
        }
        if let Some(key) = &config.send {
            let is_it = record.srtp_key_out == key.serial;
            self.sent.learn(self.kernels, key, &seen(&record.srtp_ssrc_out, &record.srtp_used_out, is_it));
        }
    }

    /// Makes a packet of this stream plain, IP header included; it may become shorter.
    pub fn open(&mut self, packet: &mut Vec<u8>, is_outgoing: bool) -> Fate {
        let keys = if is_outgoing { &mut self.sent } else { &mut self.received };
        let Some((udp, end)) = datagram(packet).filter(|_| !keys.0.is_empty()) else { return Fate::Plain };
        let component = match self.endpoint.is_rtp_port(&packet[udp..], is_outgoing) {
            true => Component::Rtp,
            false => Component::Rtcp,
        };
        let payload = &mut packet[udp + UDP_HEADER_BYTES..end];
        let Ok(kind) = classify(component, self.endpoint.is_muxed(), payload) else { return Fate::Plain };
        let Some(len) = keys.open(kind, payload) else { return Fate::Closed };
        packet.truncate(udp + UDP_HEADER_BYTES + len);
        mend(packet, udp);
        Fate::Decrypted
    }

    /// Whether it is of this stream.
    pub fn concerns(&self, packet: &[u8], is_outgoing: bool) -> bool {
        self.endpoint.concerns(packet, is_outgoing)
    }
}

impl Keys {
    fn learn(&mut self, kernels: Kernels, key: &MasterKey, sources: &[(u32, u64)]) {
        if self.0.iter().any(|known| known.serial == key.serial) {
            return;
        }
        let mut parts: Vec<_> = sources.chunks(SOURCES_IN_MAX).map(|part| begin(kernels, key, part)).collect();
        // Where sources go that are not known yet.
        if sources.len().is_multiple_of(SOURCES_IN_MAX) {
            parts.push(begin(kernels, key, &[]));
        }
        self.0.insert(0, Key { serial: key.serial, parts });
        self.0.truncate(KEYS_MAX);
    }

    /// The packet's length when it is open; none if it stays closed.
    fn open(&mut self, kind: Kind, payload: &mut [u8]) -> Option<usize> {
        self.0.iter_mut().find_map(|key| key.open(kind, payload))
    }
}

impl Key {
    fn open(&mut self, kind: Kind, payload: &mut [u8]) -> Option<usize> {
        let ssrc_at = if kind == Kind::Rtp { 8 } else { 4 };
        let ssrc = u32::from_be_bytes(*payload.get(ssrc_at..)?.first_chunk()?);
        let known = self.parts.iter().position(|(sources, _)| sources.contains(&ssrc));
        let part = match known {
            Some(at) => self.parts.get_mut(at),
            None => self.parts.last_mut(),
        };
        let (_, receiver) = part?;
        let mut packet = Datagram::whole(payload);
        match kind {
            Kind::Rtp => receiver.read_rtp(&mut packet),
            Kind::Rtcp => receiver.read_rtcp(&mut packet),
        }
        .ok()?;
        Some(packet.len())
    }
}

/// A receiver that has come so far with these sources.
fn begin(kernels: Kernels, key: &MasterKey, sources: &[(u32, u64)]) -> (Vec<u32>, Receiver) {
    let mut record = StreamRecord::default();
    for (at, (ssrc, next)) in sources.iter().enumerate() {
        record.srtp_ssrc_in[at] = *ssrc;
        record.srtp_next_in[at] = next.saturating_sub(MARGIN_PACKETS);
    }
    let mut receiver = Receiver::new(kernels, key);
    receiver.resume(&record);
    (sources.iter().map(|(ssrc, _)| *ssrc).collect(), receiver)
}

/// Where its UDP header begins and its payload ends; none of what is no whole datagram.
fn datagram(packet: &[u8]) -> Option<(usize, usize)> {
    let udp = match packet.first()? >> 4 {
        4 => 4 * usize::from(packet[0] & 15),
        6 => 40,
        _ => return None,
    };
    let len = u16::from_be_bytes(*packet.get(udp + 4..)?.first_chunk()?).into();
    let end = udp.checked_add(len).filter(|&end| len >= UDP_HEADER_BYTES && end <= packet.len())?;
    Some((udp, end))
}

/// Lengths and checksums of a packet that became another.
fn mend(packet: &mut [u8], udp: usize) {
    let (total, udp_len) = (packet.len() as u16, (packet.len() - udp) as u16);
    packet[udp + 4..udp + 6].copy_from_slice(&udp_len.to_be_bytes());
    packet[udp + 6..udp + 8].fill(0);
    if packet[0] >> 4 == 4 {
        packet[2..4].copy_from_slice(&total.to_be_bytes());
        packet[10..12].fill(0);
        let sum = checksum(&packet[..udp], 0);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        // Zero in UDP says that there is none.
        return;
    }
    packet[4..6].copy_from_slice(&udp_len.to_be_bytes());
    // Both addresses, then length and protocol: the pseudo-header of RFC 8200 section 8.1.
    let pseudo = sum(&packet[8..40], u32::from(udp_len) + 17);
    let sum = checksum(&packet[udp..], pseudo);
    packet[udp + 6..udp + 8].copy_from_slice(&if sum == 0 { 0xffff } else { sum }.to_be_bytes());
}

/// RFC 1071, without the fold.
fn sum(bytes: &[u8], before: u32) -> u32 {
    let word = |pair: &[u8]| (u32::from(pair[0]) << 8) | u32::from(pair.get(1).copied().unwrap_or(0));
    bytes.chunks(2).map(word).fold(before, u32::wrapping_add)
}

fn checksum(bytes: &[u8], before: u32) -> u16 {
    let mut sum = sum(bytes, before);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nebula_core::srtp::Sender;
    use nebula_ring::srtp::{Mki, Suite};

    const KEY: [u8; 46] = [0x5a; 46];

    fn master(serial: u32, suite: Suite) -> MasterKey {
        MasterKey::new(serial, suite, &KEY[..suite.key_bytes() + suite.salt_bytes()], Mki::default()).unwrap()
    }

    /// An RTP packet of 160 bytes, protected, in UDP from our port 4000 to 9.
    fn protected(sender: &mut Sender, sequence: u16, v6: bool) -> (Vec<u8>, Vec<u8>) {
        let mut plain = vec![0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
        plain[2..4].copy_from_slice(&sequence.to_be_bytes());
        plain.extend([sequence as u8; 160]);
        let mut buffer = [plain.as_slice(), &[0; 64]].concat();
        let mut packet = Datagram::new(&mut buffer, plain.len());
        let _ = sender.protect_rtp(&mut packet).unwrap();
        (wrap(packet.as_ref(), v6), plain)
    }

    fn wrap(payload: &[u8], v6: bool) -> Vec<u8> {
        let mut packet = vec![0; if v6 { 40 } else { 20 }];
        (packet[0], packet[if v6 { 6 } else { 9 }]) = (if v6 { 0x60 } else { 0x45 }, 17);
        if v6 {
            (packet[23], packet[39]) = (1, 2);
        } else {
            packet[12..16].copy_from_slice(&[127, 0, 0, 1]);
        }
        packet.extend([4000u16, 9, (payload.len() + 8) as u16, 0].map(u16::to_be_bytes).concat());
        packet.extend(payload);
        packet
    }

    fn leg(v6: bool) -> Leg {
        let mut record = StreamRecord::default();
        record.set_local(if v6 { "::1" } else { "127.0.0.1" }.parse().unwrap(), 4000, 4001);
        Leg::new(Endpoint::of(&record))
    }

    #[test]
    fn what_was_protected_is_plain_again_in_a_whole_packet() {
        for (suite, v6) in Suite::ALL.into_iter().flat_map(|suite| [(suite, false), (suite, true)]) {
            let mut sender = Sender::new(Kernels::detect(), &master(1, suite));
            let mut leg = leg(v6);
            leg.learn(&SrtpConfig { send: Some(master(1, suite)), receive: None }, &StreamRecord::default());
            for sequence in [10, 12, 11] {
                let (mut packet, plain) = protected(&mut sender, sequence, v6);
                assert_eq!(leg.open(&mut packet, true), Fate::Decrypted);
                let (udp, end) = datagram(&packet).unwrap();
                assert_eq!((&packet[udp + 8..], end), (&plain[..], packet.len()));
                if v6 {
                    assert_eq!(checksum(&packet[udp..], sum(&packet[8..40], (end - udp) as u32 + 17)), 0);
                } else {
                    assert_eq!((checksum(&packet[..20], 0), packet[2..4].to_vec()), (0, vec![0, packet.len() as u8]));
                }
            }
        }
    }

    #[test]
    fn it_begins_in_the_middle_and_follows_a_new_key() {
        let suite = Suite::AesCm128HmacSha1_80;
        let record = StreamRecord {
            srtp_key_out: 1,
            srtp_ssrc_out: [7, 0, 0, 0, 0, 0, 0, 0],
            srtp_used_out: [(3 << 16) + 100, 0, 0, 0, 0, 0, 0, 0],
            ..StreamRecord::default()
        };
        let mut sender = Sender::new(Kernels::detect(), &master(1, suite));
        sender.resume(&record);
        let config = |serial| SrtpConfig { send: Some(master(serial, suite)), receive: None };
        let mut leg = leg(false);
        let (mut packet, _) = protected(&mut sender, 101, false);
        assert_eq!(leg.open(&mut packet.clone(), true), Fate::Plain, "without keys nothing is looked at");
        leg.learn(&config(2), &record);
        assert_eq!(leg.open(&mut packet, true), Fate::Closed, "another rollover counter");
        leg.learn(&config(1), &record);
        let before = packet.clone();
        assert_eq!(leg.open(&mut packet, true), Fate::Decrypted);
        assert_ne!(packet, before);
        let mut damaged = protected(&mut sender, 102, false).0;
        damaged[60] ^= 1;
        let kept = damaged.clone();
        assert_eq!((leg.open(&mut damaged, true), damaged == kept), (Fate::Closed, true));
        let mut stun = wrap(&[0, 1, 0, 0], false);
        assert_eq!(leg.open(&mut stun, true), Fate::Plain);
        for cut in 0..packet.len() {
            let mut part = before[..cut].to_vec();
            assert_eq!(leg.open(&mut part, true), Fate::Plain, "no whole datagram");
        }
    }
}
