//! A stream as the worker writes it to the shared stream table.

use crate::driver::Generation;
use crate::srtp::Keys;
use crate::stats::StreamStats;
use crate::time::Nanos;
use nebula_ring::command::{StreamConfig, StreamId};
use nebula_ring::drops::DropCounters;
use std::net::SocketAddr;

/// One entry of the table. A destroyed stream is shown once more, with its final statistics and `open` false; its index
/// is reused last of all free ones.
#[derive(Debug, Clone, Copy)]
pub struct StreamView<'a> {
    /// Its id.
    pub id: StreamId,
    /// Which of those that had this index.
    pub generation: Generation,
    /// Whether it lives.
    pub open: bool,
    /// As control last set it.
    pub config: &'a StreamConfig,
    /// When it was created.
    pub created_at: Nanos,
    /// When RTP was last accepted.
    pub rtp_at: Option<Nanos>,
    /// Whether `RtpTimeout` was reported and no RTP has come since.
    pub timed_out: bool,
    /// Whether the latch has closed: the peer is known.
    pub latched: bool,
    /// Whether the peer's RTCP port is known, apart from its RTP port.
    pub rtcp_latched: bool,
    /// Where its RTP goes: the latched address, or the signalled one until then.
    pub remote_rtp: Option<SocketAddr>,
    /// The same for RTCP.
    pub remote_rtcp: Option<SocketAddr>,
    /// The stream it is bridged with.
    pub bridged_with: Option<StreamId>,
    /// The peer's RTP source, once heard.
    pub source: Option<RtpPosition>,
    /// What was last sent to the peer: our own source for echo, the other leg's for a bridge.
    pub sent: Option<RtpPosition>,
    /// Our own source, whether or not it speaks now.
    pub own: OwnSource,
    /// How far its keys are, if it is protected. See `record`.
    pub(crate) keys: Option<&'a Keys>,
    /// Totals.
    pub stats: StreamStats,
    /// The clock of what the peer sends; zero before its first packet.
    pub clock_rate_hz: u32,
    /// Refused packets by reason.
    pub drops: &'a DropCounters,
    /// What explains a silence.
    pub hints: &'a Hints,
}

/// What an operator will ask about a stream that is silent. Nothing in the engine depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Hints {
    /// The payload type last accepted, as the peer numbers it.
    pub payload_type: u8,
    /// The one last refused because it was not negotiated.
    pub payload_type_refused: u8,
    /// Who was last refused as a stranger, or while the peer is learned.
    pub refused_source: Option<SocketAddr>,
    /// Times that the network called the peer unreachable.
    pub unreachable: u64,
    /// When it last did.
    pub unreachable_at: Option<Nanos>,
}

/// Where an RTP source stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RtpPosition {
    /// Its SSRC.
    pub ssrc: u32,
    /// The highest sequence number, extended by the count of its wraps (RFC 3550 A.1) in the upper 16 bits.
    pub sequence_extended: u32,
    /// The RTP timestamp of the last packet.
    pub timestamp: u32,
}

/// Where a source of our own stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct OwnSource {
    /// Its SSRC.
    pub ssrc: u32,
    /// The highest sequence number it has sent.
    pub sequence: u16,
    /// The timestamp of that packet.
    pub timestamp: u32,
    /// The clock of that timestamp; zero before the first packet.
    pub clock_rate_hz: u32,
    /// When it was sent; none before the first.
    pub sent_at: Option<Nanos>,
    /// Packets so far, modulo 2^32.
    pub packets: u32,
    /// Their payload bytes, modulo 2^32.
    pub payload_octets: u32,
}

impl RtpPosition {
    /// Moves on to a packet; a late one or another SSRC is followed as it is.
    #[inline]
    pub(crate) fn follow(before: Option<Self>, ssrc: u32, sequence: u16, timestamp: u32) -> Self {
        let cycles = match before {
            Some(before) if before.ssrc == ssrc => {
                let last = before.sequence_extended as u16;
                let wrapped = sequence < last && sequence.wrapping_sub(last) < 0x8000;
                let unwrapped = sequence > last && last.wrapping_sub(sequence) < 0x8000;
                let cycles = before.sequence_extended & 0xffff_0000;
                cycles.wrapping_add(u32::from(wrapped) << 16).wrapping_sub(u32::from(unwrapped) << 16)
            }
            _ => 0,
        };
        Self { ssrc, sequence_extended: cycles | u32::from(sequence), timestamp }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wraps_are_followed_both_ways() {
        let mut at = None;
        let seen: Vec<u32> = [65535u16, 0, 65534, 1]
            .into_iter()
            .map(|sequence| {
                at = Some(RtpPosition::follow(at, 1, sequence, 0));
                at.map_or(0, |p| p.sequence_extended)
            })
            .collect();
        assert_eq!(seen, [65535, 0x1_0000, 65534, 0x1_0001]);
    }
}
