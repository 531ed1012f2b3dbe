//! What a peer protects with one key: its sources, what was heard of each, and the reading of its packets. A packet that is
//! refused changes nothing.

use super::keys::Keyring;
use super::packet::{self, RTCP_CLEAR_BYTES, RtcpParts, Signing};
use super::replay::Window;
use super::{Error, SOURCES_IN_MAX, index};
use crate::driver::Datagram;
use crate::wire::{rtp, u16_at, u32_at};
use nebula_ring::srtp::MasterKey;
use nebula_ring::table::StreamRecord;
use nebula_simd::Kernels;
use nebula_simd::hmac::TAG_BYTES;

/// See the module.
pub struct Receiver {
    keys: Keyring,
    /// The one heard last comes first.
    sources: [Source; SOURCES_IN_MAX],
}

#[derive(Debug, Clone, Copy, Default)]
struct Source {
    ssrc: u32,
    rtp: Window,
    rtcp: Window,
}

/// Where an RTP packet belongs.
struct Place {
    /// The end of its headers.
    header: usize,
    ssrc: u32,
    /// The place of its source, if there is one.
    source: Option<usize>,
    index: u64,
}

/// What the tag of a packet should be, if its key and its rollover counter are these.
#[derive(Debug, Clone, Copy)]
pub struct Foreseen {
    serial: u32,
    rollover: [u8; 4],
    tag: [u8; TAG_BYTES],
}

impl Foreseen {
    /// As it was computed.
    #[inline]
    pub fn new(signing: &Signing<'_>, tag: [u8; TAG_BYTES]) -> Self {
        Self { serial: signing.serial, rollover: signing.rollover, tag }
    }
}

impl Source {
    fn is_vacant(&self) -> bool {
        self.rtp.highest().is_none() && self.rtcp.highest().is_none()
    }
}

impl Receiver {
    /// Derives the session keys.
    pub fn new(kernels: Kernels, master: &MasterKey) -> Self {
        Self { keys: Keyring::derive(kernels, master), sources: [Source::default(); SOURCES_IN_MAX] }
    }

    /// The number of its key.
    pub fn serial(&self) -> u32 {
        self.keys.serial
    }

    /// Makes an RTP packet of an SRTP packet, if it is of this key and new.
    #[inline]
    pub fn read_rtp(&mut self, packet: &mut Datagram<'_>) -> Result<(), Error> {
        self.read_rtp_foreseen(packet, None)
    }

    /// The same; what its tag should be may have been computed ahead, from `signing` of just this packet.
    #[inline]
    pub fn read_rtp_foreseen(&mut self, packet: &mut Datagram<'_>, foreseen: Option<&Foreseen>) -> Result<(), Error> {
        let Place { header, ssrc, source, index } = self.place(packet.as_ref())?;
        // Packets before it may have changed which cycle its number is of.
        let foreseen = foreseen.filter(|it| it.serial == self.keys.serial && it.rollover == packet::rollover(index));
        packet::open_rtp(self.keys.rtp_form, &self.keys.rtp, packet, header, ssrc, index, foreseen.map(|it| it.tag))?;
        self.front(source, ssrc).rtp.note(index);
        Ok(())
    }

    /// What the tag of an SRTP packet should be computed from, if it came now; none if it would not be looked at.
    #[inline]
    pub fn signing<'a>(&'a self, bytes: &'a [u8]) -> Option<Signing<'a>> {
        let Place { header, index, .. } = self.place(bytes).ok()?;
        packet::expected(self.keys.rtp_form, self.keys.serial, &self.keys.rtp, bytes, header, index)
    }

    /// Makes an RTCP compound of an SRTCP packet, if it is of this key and new.
    pub fn read_rtcp(&mut self, packet: &mut Datagram<'_>) -> Result<(), Error> {
        let bytes = packet.as_ref();
        if bytes.len() < RTCP_CLEAR_BYTES {
            return Err(Error::Short);
        }
        let ssrc = u32_at(bytes, 4);
        let parts = RtcpParts::find(self.keys.rtcp_form, &self.keys.rtcp, bytes)?;
        let source = self.find(ssrc);
        let index = u64::from(parts.index());
        if source.is_some_and(|at| !self.sources[at].rtcp.is_fresh(index)) {
            return Err(Error::Replay);
        }
        packet::open_rtcp(self.keys.rtcp_form, &self.keys.rtcp, packet, &parts, ssrc)?;
        self.front(source, ssrc).rtcp.note(index);
        Ok(())
    }

    /// Goes on where another dataplane left off with the same key: all up to what it showed counts as heard.
    pub fn resume(&mut self, record: &StreamRecord) {
        let shown = record.srtp_ssrc_in.iter().zip(record.srtp_next_in).zip(record.srtcp_next_in);
        for (source, ((&ssrc, rtp), rtcp)) in self.sources.iter_mut().zip(shown) {
            let window = |next: u64| next.checked_sub(1).map_or_else(Window::default, Window::full_up_to);
            *source = Source { ssrc, rtp: window(rtp), rtcp: window(rtcp.into()) };
        }
    }

    /// Shows how far its sources are.
    pub fn show(&self, record: &mut StreamRecord) {
        record.srtp_key_in = self.keys.serial;
        for (at, source) in self.sources.iter().enumerate() {
            record.srtp_ssrc_in[at] = source.ssrc;
            record.srtp_next_in[at] = source.rtp.highest().map_or(0, |index| index + 1);
            record.srtcp_next_in[at] = source.rtcp.highest().map_or(0, |index| index as u32 + 1);
        }
        record.rollover_in = self.sources[0].rtp.highest().map_or(0, |index| (index >> 16) as u32);
    }

    /// Where an RTP packet belongs, if it is new.
    #[inline]
    fn place(&self, bytes: &[u8]) -> Result<Place, Error> {
        let header = rtp::headers_bytes(bytes).filter(|&header| header <= bytes.len()).ok_or(Error::Short)?;
        let (sequence, ssrc) = (u16_at(bytes, 2), u32_at(bytes, 8));
        let source = self.find(ssrc);
        let window = source.map_or_else(Window::default, |at| self.sources[at].rtp);
        let index = index::estimate(window.highest(), sequence).ok_or(Error::Replay)?;
        if !window.is_fresh(index) {
            return Err(Error::Replay);
        }
        Ok(Place { header, ssrc, source, index })
    }

    #[inline]
    fn find(&self, ssrc: u32) -> Option<usize> {
        self.sources.iter().position(|source| source.ssrc == ssrc && !source.is_vacant())
    }

    /// The place of a source, brought to the front. A new one takes the last place: it is vacant, or of the source that was
    /// silent longest.
    #[inline]
    fn front(&mut self, found: Option<usize>, ssrc: u32) -> &mut Source {
        match found {
            Some(0) => {}
            Some(at) => self.sources[..=at].rotate_right(1),
            None => {
                self.sources.rotate_right(1);
                self.sources[0] = Source { ssrc, ..Source::default() };
            }
        }
        &mut self.sources[0]
    }
}

/// Says all but the secrets.
impl std::fmt::Debug for Receiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Receiver")
            .field("serial", &self.keys.serial)
            .field("sources", &self.sources)
            .finish_non_exhaustive()
    }
}
