//! RTCP (RFC 3550 section 6): a compound packet validated whole (appendix A.2), then its parts as views. The rule that
//! a report comes first is not enforced, which is reduced-size RTCP (RFC 5506). Called for each RTCP packet.

use super::{u16_at, u32_at};
use crate::limits::RTCP_COMPOUND_MAX;

/// Sender report (section 6.4.1).
pub const SENDER_REPORT: u8 = 200;
/// Receiver report (section 6.4.2).
pub const RECEIVER_REPORT: u8 = 201;
/// Source description (section 6.5).
pub const SOURCE_DESCRIPTION: u8 = 202;
/// Goodbye (section 6.6).
pub const BYE: u8 = 203;
/// Application-defined (section 6.7).
pub const APP: u8 = 204;
/// The SDES item that names an endpoint (section 6.5.1).
pub const SDES_CNAME: u8 = 1;
/// Bytes of one report block.
pub const REPORT_BLOCK_BYTES: usize = 24;

/// Why bytes are not RTCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A packet's length passes the end, or bytes are left over.
    #[error("RTCP packet at byte {at} does not fit in {len}")]
    BadLength {
        /// Where the packet begins.
        at: usize,
        /// The compound's length.
        len: usize,
    },
    /// Not version 2.
    #[error("RTCP version {0}")]
    BadVersion(u8),
    /// Not of the range that RFC 5761 leaves to RTCP.
    #[error("RTCP packet type {0}")]
    BadType(u8),
    /// Padding before the last packet, or a count that is no multiple of four or passes the packet.
    #[error("RTCP padding at byte {at}")]
    BadPadding {
        /// Where the packet begins.
        at: usize,
    },
    /// A body too short for its type and count, or chunks that pass its end.
    #[error("RTCP packet type {packet_type} has a malformed body of {len} bytes")]
    BadBody {
        /// Its type.
        packet_type: u8,
        /// Its body's length.
        len: usize,
    },
    /// More than `RTCP_COMPOUND_MAX` packets.
    #[error("RTCP compound of more than {RTCP_COMPOUND_MAX} packets")]
    TooMany,
}

/// A validated compound packet.
#[derive(Debug, Clone, Copy)]
pub struct Compound<'a>(&'a [u8]);

impl<'a> Compound<'a> {
    /// Checks every packet's version, type, length, padding and body.
    pub fn new_checked(bytes: &'a [u8]) -> Result<Self, Error> {
        let len = bytes.len();
        let mut at = 0;
        for _ in 0..RTCP_COMPOUND_MAX {
            let rest = bytes.get(at..).unwrap_or(&[]);
            let Some(&[first, packet_type, ..]) = rest.first_chunk::<4>() else {
                return Err(Error::BadLength { at, len });
            };
            let packet_len = 4 * (usize::from(u16_at(rest, 2)) + 1);
            let Some(packet) = rest.get(..packet_len) else { return Err(Error::BadLength { at, len }) };
            if first >> 6 != 2 {
                return Err(Error::BadVersion(first >> 6));
            }
            if !(192..=223).contains(&packet_type) {
                return Err(Error::BadType(packet_type));
            }
            let padding = match (first & 0x20 != 0, packet.last()) {
                (false, _) | (_, None) => 0,
                (true, Some(&count)) => usize::from(count),
            };
            if first & 0x20 != 0
                && (padding == 0 || padding % 4 != 0 || padding > packet_len - 4 || at + packet_len != len)
            {
                return Err(Error::BadPadding { at });
            }
            let body = &packet[4..packet_len - padding];
            if !body_fits(packet_type, first & 0x1f, body) {
                return Err(Error::BadBody { packet_type, len: body.len() });
            }
            at += packet_len;
            if at == len {
                return Ok(Self(bytes));
            }
        }
        Err(Error::TooMany)
    }

    /// Its packets in order.
    pub fn packets(self) -> Packets<'a> {
        Packets(self.0)
    }
}

/// Iterator over the packets of a compound.
#[derive(Debug, Clone)]
pub struct Packets<'a>(&'a [u8]);

impl<'a> Iterator for Packets<'a> {
    type Item = Packet<'a>;

    fn next(&mut self) -> Option<Packet<'a>> {
        let &[first, packet_type, ..] = self.0.first_chunk::<4>()?;
        let (packet, rest) = self.0.split_at_checked(4 * (usize::from(u16_at(self.0, 2)) + 1))?;
        self.0 = rest;
        let padding = if first & 0x20 != 0 { usize::from(*packet.last()?) } else { 0 };
        let body = packet.get(4..packet.len().checked_sub(padding)?)?;
        let count = first & 0x1f;
        Some(match packet_type {
            SENDER_REPORT => Packet::SenderReport(SenderReport { body, count }),
            RECEIVER_REPORT => Packet::ReceiverReport(ReceiverReport { body, count }),
            SOURCE_DESCRIPTION => Packet::SourceDescription(SourceDescription { body, count }),
            BYE => Packet::Bye(Bye { body, count }),
            APP => Packet::App { ssrc: u32_at(body, 0), name: body.get(4..).and_then(|b| b.first_chunk()).copied()? },
            _ => Packet::Other { packet_type },
        })
    }
}

/// One packet of a compound.
#[derive(Debug, Clone, Copy)]
pub enum Packet<'a> {
    /// SR.
    SenderReport(SenderReport<'a>),
    /// RR.
    ReceiverReport(ReceiverReport<'a>),
    /// SDES.
    SourceDescription(SourceDescription<'a>),
    /// BYE.
    Bye(Bye<'a>),
    /// APP.
    App {
        /// Whose.
        ssrc: u32,
        /// Four ASCII characters.
        name: [u8; 4],
    },
    /// Feedback (RFC 4585), extended reports (RFC 3611) and others.
    Other {
        /// The packet type.
        packet_type: u8,
    },
}

/// A sender report.
#[derive(Debug, Clone, Copy)]
pub struct SenderReport<'a> {
    body: &'a [u8],
    count: u8,
}

impl<'a> SenderReport<'a> {
    /// Who sends.
    pub fn ssrc(self) -> u32 {
        u32_at(self.body, 0)
    }

    /// When, as a 64-bit NTP timestamp of the sender's clock.
    pub fn ntp(self) -> u64 {
        u64::from(u32_at(self.body, 4)) << 32 | u64::from(u32_at(self.body, 8))
    }

    /// The same instant in the sender's RTP clock.
    pub fn rtp_timestamp(self) -> u32 {
        u32_at(self.body, 12)
    }

    /// RTP packets it has sent.
    pub fn packet_count(self) -> u32 {
        u32_at(self.body, 16)
    }

    /// Their payload bytes.
    pub fn octet_count(self) -> u32 {
        u32_at(self.body, 20)
    }

    /// What it has received of others.
    pub fn blocks(self) -> impl Iterator<Item = ReportBlock> + 'a {
        blocks(self.body.get(24..).unwrap_or(&[]), self.count)
    }
}

/// A receiver report.
#[derive(Debug, Clone, Copy)]
pub struct ReceiverReport<'a> {
    body: &'a [u8],
    count: u8,
}

impl<'a> ReceiverReport<'a> {
    /// Who sends.
    pub fn ssrc(self) -> u32 {
        u32_at(self.body, 0)
    }

    /// What it has received of others.
    pub fn blocks(self) -> impl Iterator<Item = ReportBlock> + 'a {
        blocks(self.body.get(4..).unwrap_or(&[]), self.count)
    }
}

/// A report block (section 6.4.1), as values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReportBlock {
    /// The source it is about.
    pub ssrc: u32,
    /// Lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// Lost since the beginning, 24 bits with sign.
    pub cumulative_lost: i32,
    /// Cycles and highest sequence number.
    pub sequence_extended: u32,
    /// Interarrival jitter in units of the RTP clock.
    pub jitter: u32,
    /// The middle 32 bits of the NTP timestamp of the last SR; zero if none came.
    pub last_sr: u32,
    /// The time since it came, in 65536ths of a second.
    pub delay_since_last_sr: u32,
}

impl ReportBlock {
    /// Writes it as it goes on the wire. Losses beyond 24 bits are clamped.
    pub fn to_bytes(self) -> [u8; REPORT_BLOCK_BYTES] {
        let lost = self.cumulative_lost.clamp(-0x80_0000, 0x7f_ffff) as u32 & 0xff_ffff;
        let words = [
            self.ssrc,
            u32::from(self.fraction_lost) << 24 | lost,
            self.sequence_extended,
            self.jitter,
            self.last_sr,
            self.delay_since_last_sr,
        ];
        let mut bytes = [0; REPORT_BLOCK_BYTES];
        for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        let losses = u32_at(bytes, 4);
        Self {
            ssrc: u32_at(bytes, 0),
            fraction_lost: (losses >> 24) as u8,
            cumulative_lost: (losses << 8) as i32 >> 8,
            sequence_extended: u32_at(bytes, 8),
            jitter: u32_at(bytes, 12),
            last_sr: u32_at(bytes, 16),
            delay_since_last_sr: u32_at(bytes, 20),
        }
    }
}

/// A source description.
#[derive(Debug, Clone, Copy)]
pub struct SourceDescription<'a> {
    body: &'a [u8],
    count: u8,
}

impl<'a> SourceDescription<'a> {
    /// Its items as source, type and value, over all chunks.
    pub fn items(self) -> impl Iterator<Item = (u32, u8, &'a [u8])> {
        let mut rest = self.body;
        (0..self.count)
            .map_while(move |_| {
                let (chunk, after) = split_chunk(rest)?;
                rest = after;
                Some(chunk)
            })
            .flat_map(|(ssrc, items)| Items(items).map(move |(kind, value)| (ssrc, kind, value)))
    }
}

/// A goodbye.
#[derive(Debug, Clone, Copy)]
pub struct Bye<'a> {
    body: &'a [u8],
    count: u8,
}

impl<'a> Bye<'a> {
    /// The sources that leave.
    pub fn ssrcs(self) -> impl Iterator<Item = u32> + 'a {
        self.body.chunks_exact(4).take(self.count.into()).map(|b| u32_at(b, 0))
    }

    /// Why, if it says.
    pub fn reason(self) -> Option<&'a [u8]> {
        let rest = self.body.get(4 * usize::from(self.count)..)?;
        let (&len, text) = rest.split_first()?;
        text.get(..usize::from(len))
    }
}

fn blocks(bytes: &[u8], count: u8) -> impl Iterator<Item = ReportBlock> + '_ {
    bytes.chunks_exact(REPORT_BLOCK_BYTES).take(count.into()).map(ReportBlock::from_bytes)
}

/// Whether a body has what its type and count promise.
fn body_fits(packet_type: u8, count: u8, body: &[u8]) -> bool {
    let count = usize::from(count);
    match packet_type {
        SENDER_REPORT => body.len() >= 24 + REPORT_BLOCK_BYTES * count,
        RECEIVER_REPORT => body.len() >= 4 + REPORT_BLOCK_BYTES * count,
        SOURCE_DESCRIPTION => {
            let mut rest = body;
            (0..count).all(|_| split_chunk(rest).map(|(_, after)| rest = after).is_some())
        }
        BYE => {
            let reason = body.get(4 * count..);
            reason.is_some_and(|r| r.first().is_none_or(|&len| usize::from(len) < r.len()))
        }
        APP => body.len() >= 8,
        _ => true,
    }
}

/// Splits the first SDES chunk off: its source, its items, and what follows. None if it does not end within the body.
fn split_chunk(body: &[u8]) -> Option<((u32, &[u8]), &[u8])> {
    let items = body.get(4..)?;
    let mut at = 0;
    while *items.get(at)? != 0 {
        at += 2 + usize::from(*items.get(at + 1)?);
    }
    let end = (at + 4) / 4 * 4;
    Some(((u32_at(body, 0), items.get(..at)?), items.get(end..)?))
}

struct Items<'a>(&'a [u8]);

impl<'a> Iterator for Items<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let &[kind, len] = self.0.first_chunk()?;
        let (value, rest) = self.0.get(2..)?.split_at_checked(len.into())?;
        self.0 = rest;
        Some((kind, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sr_sdes_bye() -> Vec<u8> {
        let block = ReportBlock {
            ssrc: 7,
            fraction_lost: 64,
            cumulative_lost: -2,
            sequence_extended: 0x1_0005,
            jitter: 9,
            last_sr: 10,
            delay_since_last_sr: 11,
        };
        let mut b = vec![0x81, SENDER_REPORT, 0, 12];
        for word in [1u32, 2, 3, 4, 5, 6] {
            b.extend(word.to_be_bytes());
        }
        b.extend(block.to_bytes());
        b.extend([0x81, SOURCE_DESCRIPTION, 0, 3, 0, 0, 0, 1, SDES_CNAME, 3, b'a', b'@', b'b', 0, 0, 0]);
        b.extend([0x81, BYE, 0, 2, 0, 0, 0, 1, 2, b'h', b'i', 0]);
        b
    }

    #[test]
    fn a_compound_is_read_back() {
        let bytes = sr_sdes_bye();
        let all: Vec<_> = Compound::new_checked(&bytes).unwrap().packets().collect();
        let [Packet::SenderReport(sr), Packet::SourceDescription(sdes), Packet::Bye(bye)] = all[..] else {
            panic!("{all:?}")
        };
        assert_eq!((sr.ssrc(), sr.ntp(), sr.rtp_timestamp()), (1, 2 << 32 | 3, 4));
        assert_eq!((sr.packet_count(), sr.octet_count()), (5, 6));
        let block = sr.blocks().next().unwrap();
        assert_eq!((block.ssrc, block.fraction_lost, block.cumulative_lost), (7, 64, -2));
        assert_eq!((block.sequence_extended, block.jitter), (0x1_0005, 9));
        assert_eq!((block.last_sr, block.delay_since_last_sr), (10, 11));
        assert_eq!(sdes.items().collect::<Vec<_>>(), [(1, SDES_CNAME, &b"a@b"[..])]);
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [1]);
        assert_eq!(bye.reason(), Some(&b"hi"[..]));
    }

    #[test]
    fn reduced_size_is_tolerated() {
        let feedback = [0x81, 205, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let mut all = Compound::new_checked(&feedback).unwrap().packets();
        assert!(matches!(all.next(), Some(Packet::Other { packet_type: 205 })));
    }

    #[test]
    fn each_rule_of_a_2_is_enforced() {
        let good = sr_sdes_bye();
        let broken = |change: fn(&mut Vec<u8>)| {
            let mut b = good.clone();
            change(&mut b);
            Compound::new_checked(&b).unwrap_err()
        };
        assert_eq!(broken(|b| b.clear()), Error::BadLength { at: 0, len: 0 });
        assert_eq!(broken(|b| b[0] = 0x41), Error::BadVersion(1));
        assert_eq!(broken(|b| b[1] = 191), Error::BadType(191));
        assert_eq!(broken(|b| b[0] |= 0x20), Error::BadPadding { at: 0 });
        assert_eq!(broken(|b| b.truncate(70)), Error::BadLength { at: 68, len: 70 });
        assert_eq!(broken(|b| b[0] = 0x82), Error::BadBody { packet_type: 200, len: 48 });
        assert_eq!(broken(|b| b[52] = 0x82), Error::BadBody { packet_type: 202, len: 12 });
        assert_eq!(broken(|b| b[76] = 200), Error::BadBody { packet_type: 203, len: 8 });
        assert_eq!(broken(|b| b[68] |= 0x20), Error::BadPadding { at: 68 });
        let many = [0x80u8, 205, 0, 0].repeat(RTCP_COMPOUND_MAX + 1);
        assert_eq!(Compound::new_checked(&many).unwrap_err(), Error::TooMany);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..96), kind in 200u8..206) {
            let words = (bytes.len() / 4).saturating_sub(1) as u16;
            if let [first, packet_type, hi, lo, ..] = &mut bytes[..] {
                (*first, *packet_type) = (*first & 0x3f | 0x80, kind);
                [*hi, *lo] = words.to_be_bytes();
            }
            if let Ok(compound) = Compound::new_checked(&bytes) {
                for packet in compound.packets() {
                    match packet {
                        Packet::SenderReport(p) => drop(p.blocks().count()),
                        Packet::ReceiverReport(p) => drop(p.blocks().count()),
                        Packet::SourceDescription(p) => drop(p.items().count()),
                        Packet::Bye(p) => drop((p.ssrcs().count(), p.reason())),
                        Packet::App { .. } | Packet::Other { .. } => {}
                    }
                }
            }
        }
    }
}
