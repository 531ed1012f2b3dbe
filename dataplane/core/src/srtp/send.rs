//! What we protect with one key: the sources that we send, the numbers each has used up, and the protecting of packets.
//!
//! The numbers are those of the packets that are relayed, as long as that is safe. An index must never come again under the
//! same key, for two packets under one index give away what is in both, and with AEAD the key of the tags as well. So a
//! source that repeats itself is not sent twice, one that begins anew goes on with our next number, and one that
//! another dataplane had sent goes on behind everything that one can have used. Where nobody knows how far that was, all sources
//! go on under other SSRCs, which are part of every nonce and IV: so no bound on rates or times is needed.

use super::keys::Keyring;
use super::packet::{self, Owed, Signing};
use super::replay::Window;
use super::{Error, RTCP_AHEAD, RTCP_INDEX_MAX, RTP_AHEAD, RTP_INDEX_MAX, SOURCES_OUT_MAX, index, replay};
use crate::driver::Datagram;
use crate::limits::MAX_DROPOUT;
use crate::wire::{rtp, u16_at, u32_at};
use nebula_ring::srtp::MasterKey;
use nebula_ring::table::StreamRecord;
use nebula_simd::Kernels;

/// See the module.
pub struct Sender {
    keys: Keyring,
    sources: [Source; SOURCES_OUT_MAX],
    /// How many of the places are taken: none is ever given up.
    taken: usize,
    /// The one that spoke last.
    current: usize,
    /// What is put over SSRCs as they come.
    rename: u32,
    rtcp_index: u32,
    /// What the stream table says that we have used up.
    rtcp_shown: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    /// The SSRC of the packets as they come.
    from: u32,
    /// The SSRC of the packets as they leave. Another one only when all places are taken, or after a `rename`.
    ssrc: u32,
    /// What is added to sequence numbers.
    offset: u16,
    /// The next packet may be of any number: whatever it is, it goes on behind what was used.
    begins_anew: bool,
    /// What a packet after a jump would have, as it comes, if one is to be confirmed.
    after_jump: Option<u16>,
    used: Window,
    /// What the stream table says that we have used up.
    shown: u64,
}

/// How far a source may leave numbers out and still be believed to go on.
const AHEAD_MAX: i64 = MAX_DROPOUT as i64;
/// How far behind a packet may come, which is as far as it is known what was used.
const BEHIND_MAX: i64 = 1 - replay::WINDOW as i64;

/// Whether the stream table must be written before the packet may leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct MustShow(pub bool);

impl Sender {
    /// Derives the session keys.
    pub fn new(kernels: Kernels, master: &MasterKey) -> Self {
        Self {
            keys: Keyring::derive(kernels, master),
            sources: [Source::default(); SOURCES_OUT_MAX],
            taken: 0,
            current: 0,
            rename: 0,
            rtcp_index: 0,
            rtcp_shown: 0,
        }
    }

    /// The number of its key.
    pub fn serial(&self) -> u32 {
        self.keys.serial
    }

    /// Makes an SRTP packet of an RTP packet that was checked.
    #[inline]
    pub fn protect_rtp(&mut self, packet: &mut Datagram<'_>) -> Result<MustShow, Error> {
        let (must_show, owed) = self.protect_rtp_owing(packet)?;
        if let Some(owed) = owed
            && let Some(tag) =
                self.signing(&owed, packet.as_ref()).map(|signing| signing.tag(self.keys.rtp_form.kernels))
        {
            owed.pay(packet, &tag);
        }
        Ok(must_show)
    }

    /// The same, but for a tag that is then owed: it must be there before the packet leaves.
    #[inline]
    pub fn protect_rtp_owing(&mut self, packet: &mut Datagram<'_>) -> Result<(MustShow, Option<Owed>), Error> {
        let bytes = packet.as_mut();
        let header = rtp::headers_bytes(bytes).filter(|&header| header <= bytes.len()).ok_or(Error::Short)?;
        let (sequence, from) = (u16_at(bytes, 2), u32_at(bytes, 8));
        let source = self.source(from);
        let index = source.number(sequence)?;
        let ssrc = source.ssrc;
        let must_show = source.shown < index || source.shown == 0;
        bytes[2..4].copy_from_slice(&(index as u16).to_be_bytes());
        bytes[8..12].copy_from_slice(&ssrc.to_be_bytes());
        let owed = packet::seal_rtp(self.keys.rtp_form, &self.keys.rtp, packet, header, ssrc, index)?;
        if must_show {
            self.sources[self.current].shown = index + RTP_AHEAD;
        }
        Ok((MustShow(must_show), owed))
    }

    /// What a tag that is owed to a packet is to be computed from.
    #[inline]
    pub fn signing<'a>(&'a self, owed: &Owed, bytes: &'a [u8]) -> Option<Signing<'a>> {
        owed.signing(self.keys.serial, &self.keys.rtp, bytes)
    }

    /// Makes an SRTCP packet of an RTCP compound that was checked.
    pub fn protect_rtcp(&mut self, packet: &mut Datagram<'_>) -> Result<MustShow, Error> {
        if self.rtcp_index >= RTCP_INDEX_MAX {
            return Err(Error::Exhausted);
        }
        self.rtcp_index += 1;
        let must_show = self.rtcp_index > self.rtcp_shown;
        let ssrc = packet.as_ref().get(4..8).map_or(0, |_| u32_at(packet.as_ref(), 4)) ^ self.rename;
        if let Some(place) = packet.as_mut().get_mut(4..8) {
            place.copy_from_slice(&ssrc.to_be_bytes());
        }
        packet::seal_rtcp(self.keys.rtcp_form, &self.keys.rtcp, packet, ssrc, self.rtcp_index)?;
        if must_show {
            self.rtcp_shown = self.rtcp_index.saturating_add(RTCP_AHEAD);
        }
        Ok(MustShow(must_show))
    }

    /// The stream table is about to be written: from then on so much more may be sent before it must be again.
    pub fn renew(&mut self) {
        let source = &mut self.sources[self.current];
        if let Some(highest) = source.used.highest() {
            source.shown = source.shown.max(highest + RTP_AHEAD);
        }
        if self.rtcp_index > 0 {
            self.rtcp_shown = self.rtcp_shown.max(self.rtcp_index.saturating_add(RTCP_AHEAD));
        }
    }

    /// Shows what it may have used up.
    pub fn show(&self, record: &mut StreamRecord) {
        record.srtp_key_out = self.keys.serial;
        for (at, source) in self.sources[..self.taken].iter().enumerate() {
            record.srtp_ssrc_out[at] = source.ssrc;
            record.srtp_used_out[at] = source.shown;
        }
        record.srtcp_used_out = self.rtcp_shown;
        record.srtp_rename_out = self.rename;
        let highest = self.sources[self.current].used.highest();
        record.rollover_out = highest.map_or(0, |index| (index >> 16) as u32);
    }

    /// Sends all sources under other SSRCs than they come with. Before the first packet.
    pub fn rename(&mut self, rename: u32) {
        self.rename = rename;
    }

    /// Goes on with a key that another dataplane has used up to what it showed, under the SSRCs that it had given.
    pub fn resume(&mut self, record: &StreamRecord) {
        self.taken = 0;
        for (&ssrc, shown) in record.srtp_ssrc_out.iter().zip(record.srtp_used_out).filter(|&(_, shown)| shown > 0) {
            let shown = shown.min(RTP_INDEX_MAX);
            let used = Window::full_up_to(shown);
            let from = ssrc ^ self.rename;
            self.sources[self.taken] = Source { from, ssrc, begins_anew: true, used, shown, ..Source::default() };
            self.taken += 1;
        }
        (self.rtcp_index, self.rtcp_shown) = (record.srtcp_used_out, record.srtcp_used_out);
    }

    /// The place of a source. When all are taken, one that is new speaks on under the name and numbers of the last.
    #[inline]
    fn source(&mut self, from: u32) -> &mut Source {
        if self.taken == 0 || self.sources[self.current].from != from {
            self.current = match self.sources[..self.taken].iter().position(|source| source.from == from) {
                Some(at) => at,
                None if self.taken < SOURCES_OUT_MAX => {
                    self.sources[self.taken] = Source { from, ssrc: from ^ self.rename, ..Source::default() };
                    self.taken += 1;
                    self.taken - 1
                }
                None => {
                    let last = SOURCES_OUT_MAX - 1;
                    (self.sources[last].from, self.sources[last].begins_anew) = (from, true);
                    last
                }
            };
        }
        &mut self.sources[self.current]
    }
}

impl Source {
    /// The index for a packet, which is then used up.
    fn number(&mut self, sequence: u16) -> Result<u64, Error> {
        let Some(highest) = self.used.highest() else { return self.begin(sequence) };
        let natural = index::estimate(Some(highest), sequence.wrapping_add(self.offset));
        let ahead = natural.map_or(i64::MIN, |index| index as i64 - highest as i64);
        let index = match (ahead, natural) {
            (1..AHEAD_MAX, Some(index)) => index,
            _ if self.begins_anew => self.renumber(highest, sequence),
            (BEHIND_MAX..=0, Some(index)) if self.used.is_fresh(index) => index,
            (BEHIND_MAX..=0, _) => return Err(Error::OutOfOrder),
            // Far from the others: a jump of the source, if the next packet says so, too (RFC 3550 A.1).
            _ if self.after_jump == Some(sequence) => self.renumber(highest, sequence),
            _ => {
                self.after_jump = Some(sequence.wrapping_add(1));
                return Err(Error::OutOfOrder);
            }
        };
        self.take(index)
    }

    /// A receiver that hears nothing of us before our numbers wrap for the first time never finds into their cycles. So we
    /// begin well below that, as RFC 3711 section 3.3.1 asks of senders: a phone that does not is moved by half a cycle.
    fn begin(&mut self, sequence: u16) -> Result<u64, Error> {
        let is_near_wrap = sequence > u16::MAX - MAX_DROPOUT;
        self.offset = if is_near_wrap { 1 << 15 } else { 0 };
        self.take(sequence.wrapping_add(self.offset).into())
    }

    fn take(&mut self, index: u64) -> Result<u64, Error> {
        if index > RTP_INDEX_MAX - RTP_AHEAD {
            return Err(Error::Exhausted);
        }
        (self.begins_anew, self.after_jump) = (false, None);
        self.used.note(index);
        Ok(index)
    }

    /// From this sequence number on it goes on with our next one.
    fn renumber(&mut self, highest: u64, sequence: u16) -> u64 {
        let index = highest + 1;
        self.offset = (index as u16).wrapping_sub(sequence);
        index
    }
}

/// Says all but the secrets.
impl std::fmt::Debug for Sender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sources = &self.sources[..self.taken];
        f.debug_struct("Sender").field("serial", &self.keys.serial).field("sources", &sources).finish_non_exhaustive()
    }
}
