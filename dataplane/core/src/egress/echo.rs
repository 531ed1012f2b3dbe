//! Echo: the peer's packets go back to it from a source of our own, whose sequence numbers and timestamps run on
//! whatever the peer does. Called for each echoed packet; the packet is rewritten in place.
//!
//! Loss and reordering are passed on as they are (a constant offset), so the peer hears what arrived. When the peer
//! begins anew, the offset is chosen so that our source goes on: the next sequence number, and a timestamp later by the
//! time that has passed.

use crate::limits::{MAX_DROPOUT, MAX_MISORDER};
use crate::source::in_clock;
use crate::time::Nanos;
use crate::view::OwnSource;
use crate::wire::rtp::Packet;
use nebula_ring::command::{RESUME_SEQUENCE_AHEAD, RESUME_TIMESTAMP_AHEAD_MS};

/// Our source towards one peer.
#[derive(Debug, Clone, Copy)]
pub struct Echo {
    ssrc: u32,
    /// The peer's source that the offsets belong to.
    source: Option<u32>,
    sequence_offset: u16,
    timestamp_offset: u32,
    sequence_highest: u16,
    timestamp_last: u32,
    /// When that was; none before the first packet.
    sent_at: Option<Nanos>,
    clock_rate_hz: u32,
    packets: u32,
    payload_octets: u32,
    /// The peer has once had our SSRC.
    collided: bool,
}

impl Echo {
    /// A source with this SSRC, which is random; first sequence number and timestamp are derived from it (RFC 3550 5.1
    /// wants them hard to guess).
    pub fn new(ssrc: u32) -> Self {
        Self {
            ssrc,
            source: None,
            sequence_offset: 0,
            timestamp_offset: 0,
            sequence_highest: (scramble(ssrc) >> 16) as u16,
            timestamp_last: scramble(ssrc.rotate_left(16)),
            sent_at: None,
            clock_rate_hz: 0,
            packets: 0,
            payload_octets: 0,
            collided: false,
        }
    }

    /// The same anew under another SSRC, because the peer has ours (RFC 3550 section 8.2); none if that has happened before:
    /// two in a row are no chance, but our own packets.
    pub fn after_collision(&self) -> Option<Self> {
        let other = scramble(self.ssrc ^ u32::from(self.sequence_highest));
        (!self.collided).then(|| Self { collided: true, ..Self::new(other.max(1)) })
    }

    /// Goes on where another dataplane left off, behind all that it can have said since its last word on it:
    /// some numbers on, with a timestamp that runs on by the clock and a little ahead.
    pub fn resume(&mut self, own: &OwnSource, created_at: Nanos) {
        // It may have begun to speak since: then not before it was created.
        self.sent_at = Some(created_at);
        if own.ssrc == self.ssrc {
            let leap = in_clock(RESUME_TIMESTAMP_AHEAD_MS * 1_000_000, own.clock_rate_hz);
            (self.sequence_highest, self.timestamp_last) = (own.sequence, own.timestamp.wrapping_add(leap));
            (self.sent_at, self.clock_rate_hz) = (own.sent_at.or(self.sent_at), own.clock_rate_hz);
            (self.packets, self.payload_octets) = (own.packets, own.payload_octets);
        }
        self.sequence_highest = self.sequence_highest.wrapping_add(RESUME_SEQUENCE_AHEAD);
    }

    /// Where it stands.
    pub fn own(&self) -> OwnSource {
        OwnSource {
            ssrc: self.ssrc,
            sequence: self.sequence_highest,
            timestamp: self.timestamp_last,
            clock_rate_hz: self.clock_rate_hz,
            sent_at: self.sent_at.filter(|_| self.clock_rate_hz > 0),
            packets: self.packets,
            payload_octets: self.payload_octets,
        }
    }

    /// Makes a packet ours.
    pub fn rewrite<T: AsRef<[u8]> + AsMut<[u8]>>(&mut self, now: Nanos, clock_rate_hz: u32, packet: &mut Packet<T>) {
        let ahead =
            |echo: &Self| packet.sequence().wrapping_add(echo.sequence_offset).wrapping_sub(echo.sequence_highest);
        let jumps = (MAX_DROPOUT..=MAX_MISORDER.wrapping_neg()).contains(&ahead(self));
        if self.source != Some(packet.ssrc()) || jumps {
            let passed = self.sent_at.map_or(0, |at| in_clock(now.since(at), clock_rate_hz));
            self.source = Some(packet.ssrc());
            self.sequence_offset = self.sequence_highest.wrapping_add(1).wrapping_sub(packet.sequence());
            self.timestamp_offset = self.timestamp_last.wrapping_add(passed).wrapping_sub(packet.timestamp());
            packet.set_marker(true);
        }
        let sequence = packet.sequence().wrapping_add(self.sequence_offset);
        let timestamp = packet.timestamp().wrapping_add(self.timestamp_offset);
        if (sequence.wrapping_sub(self.sequence_highest) as i16) > 0 {
            (self.sequence_highest, self.timestamp_last) = (sequence, timestamp);
            (self.sent_at, self.clock_rate_hz) = (Some(now), clock_rate_hz);
        }
        packet.set_ssrc(self.ssrc);
        packet.set_sequence(sequence);
        packet.set_timestamp(timestamp);
        self.packets = self.packets.wrapping_add(1);
        self.payload_octets = self.payload_octets.wrapping_add(packet.payload_bytes() as u32);
    }

    /// Our SSRC.
    pub fn ssrc(&self) -> u32 {
        self.ssrc
    }

    /// Packets and payload bytes so far, as a sender report counts them.
    pub fn sent(&self) -> (u32, u32) {
        (self.packets, self.payload_octets)
    }

    /// What our RTP clock shows at an instant: the last timestamp and the time since.
    pub fn timestamp_at(&self, now: Nanos) -> u32 {
        let passed = self.sent_at.map_or(0, |at| in_clock(now.since(at), self.clock_rate_hz));
        self.timestamp_last.wrapping_add(passed)
    }
}

/// Spreads the bits of a word (the finisher of MurmurHash3).
pub(crate) fn scramble(mut x: u32) -> u32 {
    x = (x ^ x >> 16).wrapping_mul(0x85eb_ca6b);
    x = (x ^ x >> 13).wrapping_mul(0xc2b2_ae35);
    x ^ x >> 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echoed(echo: &mut Echo, ms: u64, ssrc: u32, sequence: u16, timestamp: u32) -> (u16, u32) {
        let mut bytes = [0u8; 172];
        bytes[0] = 0x80;
        let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
        packet.set_ssrc(ssrc);
        packet.set_sequence(sequence);
        packet.set_timestamp(timestamp);
        echo.rewrite(Nanos::from_millis(ms), 8000, &mut packet);
        assert_eq!(packet.ssrc(), 77);
        (packet.sequence(), packet.timestamp())
    }

    #[test]
    fn loss_and_reordering_pass_through() {
        let mut echo = Echo::new(77);
        let (s, t) = echoed(&mut echo, 0, 1, 65534, 1000);
        assert_eq!(echoed(&mut echo, 40, 1, 0, 1320), (s.wrapping_add(2), t.wrapping_add(320)));
        assert_eq!(echoed(&mut echo, 41, 1, 65535, 1160), (s.wrapping_add(1), t.wrapping_add(160)));
        assert_eq!(echo.sent(), (3, 480));
        assert_eq!(echo.timestamp_at(Nanos::from_millis(50)), t.wrapping_add(320 + 80));
    }

    #[test]
    fn another_source_or_a_jump_continues_ours() {
        let mut echo = Echo::new(77);
        let (s, t) = echoed(&mut echo, 0, 1, 10, 1000);
        assert_eq!(echoed(&mut echo, 20, 2, 13, 9), (s.wrapping_add(1), t.wrapping_add(160)), "near, but another");
        assert_eq!(echoed(&mut echo, 60, 2, 10_000, 5), (s.wrapping_add(2), t.wrapping_add(480)));
        assert_eq!(echoed(&mut echo, 80, 2, 10_001, 165), (s.wrapping_add(3), t.wrapping_add(640)));
    }

    #[test]
    fn a_successor_speaks_on_behind_all_that_was_said() {
        let mut echo = Echo::new(77);
        let published = echo.own();
        let (s, t) = echoed(&mut echo, 20, 1, 10, 1000);
        let ahead = RESUME_SEQUENCE_AHEAD + 1;
        let mut early = Echo::new(77);
        early.resume(&published, Nanos(0));
        assert_eq!(echoed(&mut early, 520, 1, 30, 4000), (s.wrapping_add(ahead - 1), t.wrapping_add(4160)));
        let published = echo.own();
        echoed(&mut echo, 40, 1, 11, 1160);
        let mut late = Echo::new(77);
        late.resume(&published, Nanos(0));
        assert_eq!(echoed(&mut late, 520, 1, 30, 4000), (s.wrapping_add(ahead), t.wrapping_add(4000 + 1600)));
        assert_eq!(late.sent(), (2, 320));
    }
}
