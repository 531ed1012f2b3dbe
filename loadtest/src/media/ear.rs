//! What one end of a call hears: losses, gaps, whose packets, and whether they follow on each other. Pure; one call of
//! [`Ear::take`] a packet on the session's media thread.

use super::numbers::Numbers;
use super::payload::Packet;
use hdrhistogram::Histogram;

/// How many numbers back a duplicate is still told from a late packet.
const WINDOW: u64 = 64;

/// What a session has sent and heard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// Packets sent.
    pub sent: u64,
    /// Packets that came, right in every byte, each counted once.
    pub received: u64,
    /// The number of the last one, counted from zero by their sender.
    pub last: Option<u64>,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets that are not what anybody sent, or from a second origin.
    pub wrong: u64,
    /// The origin of the right ones.
    pub origin: Option<u32>,
    /// Interarrival jitter (RFC 3550 A.8) at the end, microseconds.
    pub jitter_us: f64,
    /// The longest time without a packet since the last mark.
    pub gap: Gap,
    /// The last packet's arrival, nanoseconds since the start of the program.
    pub last_ns: u64,
    /// How long it had heard nothing when somebody looked.
    pub silent_ns: u64,
    /// How often the SSRC in the header became another.
    pub ssrc_changes: u64,
    /// How often the sequence number in the header did not go on as the packets did: it went back, or ahead by more than
    /// was lost.
    pub sequence_breaks: u64,
    /// The furthest that it went ahead too much.
    pub sequence_ahead_max: u64,
    /// Under SRTP: packets that were not made with the peer's key for their index.
    pub unauthentic: u64,
    /// Packets under an index that another packet had: a nonce that was used twice.
    pub indices_reused: u64,
    /// How often the peer's rollover counter went on.
    pub rollovers: u64,
}

/// A time without packets.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Gap {
    /// Between two arrivals, less what the sender itself was late, nanoseconds.
    pub ns: u64,
    /// Between the same two arrivals.
    pub raw_ns: u64,
    /// When it was over, nanoseconds since the start of the program.
    pub over_ns: u64,
}

/// The receiving side of a session.
#[derive(Debug, Default)]
pub struct Ear {
    /// What it knows.
    pub heard: Heard,
    ptime_ns: u64,
    /// As of the peer: all sessions leave out alike.
    numbers: Numbers,
    /// Which of the last numbers have been heard; bit 0 is `heard.last`.
    window: u64,
    transit_us: Option<f64>,
    /// The packet before, and its SSRC and sequence number.
    before: Option<(Packet, (u32, u16))>,
}

impl Ear {
    /// One that has heard nothing.
    pub fn new(ptime_ms: usize, numbers: Numbers) -> Self {
        Self { ptime_ns: ptime_ms as u64 * 1_000_000, numbers, ..Self::default() }
    }

    /// Measures the longest gap anew.
    pub fn mark(&mut self) {
        self.heard.gap = Gap::default();
    }

    /// A packet whose payload is right; `source` is its header's SSRC and sequence number.
    pub fn take(&mut self, packet: Packet, source: (u32, u16), now_ns: u64, delays: &mut Histogram<u64>) {
        if *self.heard.origin.get_or_insert(packet.origin) != packet.origin {
            self.heard.wrong += 1;
            return;
        }
        let last = self.heard.last.unwrap_or(packet.number);
        if packet.number > last || self.heard.last.is_none() {
            let ahead = packet.number - last;
            self.window = if ahead >= WINDOW { 1 } else { self.window << ahead | 1 };
            self.heard.last = Some(packet.number);
            self.follow(packet, source, now_ns);
        } else {
            let bit = 1_u64.checked_shl((last - packet.number) as u32).unwrap_or(0);
            if bit == 0 || self.window & bit != 0 {
                self.heard.duplicates += 1;
                return;
            }
            self.window |= bit;
        }
        self.heard.received += 1;
        self.heard.last_ns = now_ns;
        let delay_us = now_ns.saturating_sub(packet.sent_ns) as f64 / 1000.0;
        delays.saturating_record(delay_us as u64);
        // Sender and receiver share a clock, so that transit is the delay itself (RFC 3550 A.8).
        if let Some(before) = self.transit_us.replace(delay_us) {
            self.heard.jitter_us += ((delay_us - before).abs() - self.heard.jitter_us) / 16.0;
        }
    }

    /// The newest packet, held against the one before it.
    fn follow(&mut self, packet: Packet, source: (u32, u16), now_ns: u64) {
        let Some((before, (ssrc, sequence))) = self.before.replace((packet, source)) else { return };
        let raw_ns = now_ns.saturating_sub(self.heard.last_ns);
        let numbers = packet.number - before.number;
        let late_ns = packet.sent_ns.saturating_sub(before.sent_ns).saturating_sub(numbers * self.ptime_ns);
        let ns = raw_ns.saturating_sub(late_ns);
        if ns > self.heard.gap.ns {
            self.heard.gap = Gap { ns, raw_ns, over_ns: now_ns };
        }
        if source.0 != ssrc {
            self.heard.ssrc_changes += 1;
        } else {
            let ahead = u64::from(source.1.wrapping_sub(sequence));
            // A step of one is always right: an echo numbers what it sends, not what it got.
            let left_out = self.numbers.left_out(before.number, packet.number);
            if ahead == 0 || ahead > numbers + left_out {
                self.heard.sequence_breaks += 1;
                self.heard.sequence_ahead_max = self.heard.sequence_ahead_max.max(ahead);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::delays;

    const MS: u64 = 1_000_000;

    fn heard(packets: &[(u64, u64, u64, u16)]) -> Heard {
        let (mut ear, mut delays) = (Ear::new(20, Numbers::default()), delays());
        for (number, sent_ms, came_ms, sequence) in packets {
            let packet = Packet { origin: 3, number: *number, sent_ns: sent_ms * MS };
            ear.take(packet, (9, *sequence), came_ms * MS, &mut delays);
        }
        ear.heard
    }

    #[test]
    fn a_gap_is_the_systems_only_as_far_as_the_sender_was_not_late() {
        // Sent 50 ms late and carried at once; then carried 30 ms late.
        let all = heard(&[(0, 0, 1, 7), (1, 70, 71, 8), (2, 80, 111, 9), (3, 100, 112, 10)]);
        assert_eq!(all.gap, Gap { ns: 40 * MS, raw_ns: 40 * MS, over_ns: 111 * MS });
        assert_eq!((all.received, all.sequence_breaks), (4, 0));
        // Lost packets are a gap, however punctual the sender is.
        let all = heard(&[(0, 0, 1, 7), (5, 100, 101, 12)]);
        assert_eq!((all.gap.ns, all.last, all.received, all.sequence_breaks), (100 * MS, Some(5), 2, 0));
    }

    #[test]
    fn a_sequence_must_go_on_as_the_packets_do() {
        assert_eq!(heard(&[(0, 0, 1, 65_535), (1, 20, 21, 0), (5, 100, 101, 1)]).sequence_breaks, 0);
        let all = heard(&[(0, 0, 1, 7), (1, 20, 21, 107), (2, 40, 41, 3)]);
        assert_eq!((all.sequence_breaks, all.sequence_ahead_max), (2, 65_432));
    }
}
