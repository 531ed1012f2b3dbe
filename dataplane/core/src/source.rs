//! What is known of the RTP source that a stream hears: sequence validation, loss and jitter after RFC 3550 appendix
//! A.1, A.3 and A.8, and a bitmap that tells late packets from duplicates. Called for each accepted packet; no loop.

use crate::limits::{DUPLICATE_WINDOW, MAX_DROPOUT, MAX_MISORDER, MIN_SEQUENTIAL};
use crate::time::Nanos;
use crate::view::RtpPosition;

/// One source, from its first packet to the next change of SSRC.
#[derive(Debug, Clone, Copy)]
pub struct Source {
    /// Its SSRC.
    pub ssrc: u32,
    /// The timestamp of its last packet.
    pub timestamp: u32,
    /// Its clock, from the payload type of the last packet.
    pub clock_rate_hz: u32,
    max_sequence: u16,
    probation: u16,
    cycles: u32,
    base_sequence: u32,
    /// What a second packet after a jump would have; none of 0 to 65535 when no jump is open.
    bad_sequence: u32,
    received: u32,
    /// Bit n: `max_sequence` - n was heard.
    window: u128,
    transit: Option<u32>,
    /// Times sixteen, in units of the clock.
    jitter_x16: u32,
    jitter_x16_max: u32,
    expected_prior: u32,
    received_prior: u32,
    /// Losses of earlier sources and before restarts.
    lost_before: i64,
    /// The highest jitter of earlier sources and clocks.
    jitter_ns_max_before: u64,
}

/// What a packet's sequence number says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// The highest so far, perhaps after a gap, or one of the first two.
    InOrder,
    /// Late.
    Reordered,
    /// Heard before.
    Duplicate,
    /// A jump that the next packet may confirm.
    Jump,
    /// The second packet after a jump: the source began anew, and its counts with it.
    Restart,
}

impl Source {
    /// Begins with a source's first packet.
    pub fn new(ssrc: u32, sequence: u16) -> Self {
        let mut source = Self {
            ssrc,
            timestamp: 0,
            clock_rate_hz: 0,
            max_sequence: sequence,
            probation: MIN_SEQUENTIAL,
            cycles: 0,
            base_sequence: 0,
            bad_sequence: 0,
            received: 0,
            window: 0,
            transit: None,
            jitter_x16: 0,
            jitter_x16_max: 0,
            expected_prior: 0,
            received_prior: 0,
            lost_before: 0,
            jitter_ns_max_before: 0,
        };
        source.restart(sequence);
        source.max_sequence = sequence.wrapping_sub(1);
        source
    }

    /// Begins with the first packet of another SSRC from the same peer; totals go on.
    pub fn succeeded_by(&self, ssrc: u32, sequence: u16) -> Self {
        let mut source = Self::new(ssrc, sequence);
        source.lost_before = self.lost_total();
        source.jitter_ns_max_before = self.jitter_ns().1;
        source
    }

    /// Goes on with a source that another dataplane has heard: what it sent meanwhile counts as lost.
    pub fn resumed(at: RtpPosition, lost_before: i64, jitter_ns_max_before: u64) -> Self {
        let mut source = Self::new(at.ssrc, at.sequence_extended as u16);
        source.max_sequence = at.sequence_extended as u16;
        source.cycles = at.sequence_extended & 0xffff_0000;
        source.base_sequence = at.sequence_extended.wrapping_add(1);
        source.timestamp = at.timestamp;
        source.probation = 0;
        (source.lost_before, source.jitter_ns_max_before) = (lost_before, jitter_ns_max_before);
        source
    }

    /// RFC 3550 A.1 `update_seq`.
    #[inline]
    pub fn hear(&mut self, sequence: u16) -> Arrival {
        let ahead = sequence.wrapping_sub(self.max_sequence);
        if self.probation > 0 {
            if ahead == 1 {
                self.probation -= 1;
                self.advance(sequence, ahead);
                if self.probation == 0 {
                    let window = self.window;
                    self.restart(sequence);
                    self.window = window;
                    self.received = 1;
                }
            } else {
                self.probation = MIN_SEQUENTIAL - 1;
                self.max_sequence = sequence;
                self.window = 1;
            }
            return Arrival::InOrder;
        }
        let arrival = if ahead == 0 {
            Arrival::Duplicate
        } else if ahead < MAX_DROPOUT {
            if sequence < self.max_sequence {
                self.cycles = self.cycles.wrapping_add(1 << 16);
            }
            self.advance(sequence, ahead);
            Arrival::InOrder
        } else if ahead <= MAX_MISORDER.wrapping_neg() {
            if self.bad_sequence != u32::from(sequence) {
                self.bad_sequence = u32::from(sequence.wrapping_add(1));
                return Arrival::Jump;
            }
            self.lost_before = self.lost_total();
            self.restart(sequence);
            self.window = 0b11;
            self.received = 1;
            return Arrival::Restart;
        } else {
            let bit = 1u128 << ahead.wrapping_neg();
            let heard = self.window & bit != 0;
            self.window |= bit;
            if heard { Arrival::Duplicate } else { Arrival::Reordered }
        };
        self.received = self.received.wrapping_add(1);
        arrival
    }

    /// RFC 3550 A.8. Packets that share their timestamp with the last (the later ones of a telephone event) say nothing
    /// of the network and are left out.
    #[inline]
    pub fn time(&mut self, now: Nanos, timestamp: u32, clock_rate_hz: u32) {
        if clock_rate_hz != self.clock_rate_hz {
            self.jitter_ns_max_before = self.jitter_ns().1;
            self.clock_rate_hz = clock_rate_hz;
            (self.transit, self.jitter_x16, self.jitter_x16_max) = (None, 0, 0);
        } else if timestamp == self.timestamp && self.transit.is_some() {
            return;
        }
        self.timestamp = timestamp;
        let transit = in_clock(now.0, clock_rate_hz).wrapping_sub(timestamp);
        if let Some(before) = self.transit.replace(transit) {
            let d = (transit.wrapping_sub(before) as i32).unsigned_abs();
            let decay = (self.jitter_x16 + 8) >> 4;
            self.jitter_x16 = (self.jitter_x16 - decay.min(self.jitter_x16)).saturating_add(d.min(1 << 27));
            self.jitter_x16_max = self.jitter_x16_max.max(self.jitter_x16);
        }
    }

    /// Whether two packets came in sequence (A.1): only then is it reported on.
    pub fn is_valid(&self) -> bool {
        self.probation == 0
    }

    /// Cycles and the highest sequence number.
    pub fn sequence_extended(&self) -> u32 {
        self.cycles.wrapping_add(u32::from(self.max_sequence))
    }

    /// A.3: expected less received. Zero in probation.
    pub fn lost(&self) -> i64 {
        i64::from(self.expected()) - i64::from(self.received)
    }

    /// The same over all sources that the stream has heard.
    pub fn lost_total(&self) -> i64 {
        self.lost_before + self.lost()
    }

    /// A.3: the fraction lost since the last call, in 256ths.
    pub fn fraction_lost(&mut self) -> u8 {
        let (expected, received) = (self.expected(), self.received);
        let expected_interval = expected.wrapping_sub(self.expected_prior);
        let received_interval = received.wrapping_sub(self.received_prior);
        (self.expected_prior, self.received_prior) = (expected, received);
        let lost = i64::from(expected_interval) - i64::from(received_interval);
        if expected_interval == 0 || lost <= 0 {
            return 0;
        }
        ((lost << 8) / i64::from(expected_interval)).min(255) as u8
    }

    /// Jitter in units of the clock.
    pub fn jitter(&self) -> u32 {
        self.jitter_x16 >> 4
    }

    /// Jitter in nanoseconds, and the highest so far.
    pub fn jitter_ns(&self) -> (u64, u64) {
        let ns = |x16: u32| (u64::from(x16) * (1_000_000_000 / 16)).checked_div(self.clock_rate_hz.into()).unwrap_or(0);
        (ns(self.jitter_x16), ns(self.jitter_x16_max).max(self.jitter_ns_max_before))
    }

    fn expected(&self) -> u32 {
        match self.probation {
            0 => self.sequence_extended().wrapping_sub(self.base_sequence).wrapping_add(1),
            _ => self.received,
        }
    }

    #[inline]
    fn advance(&mut self, sequence: u16, ahead: u16) {
        self.max_sequence = sequence;
        self.window = self.window.checked_shl(ahead.into()).unwrap_or(0) | 1;
    }

    /// A.1 `init_seq`.
    fn restart(&mut self, sequence: u16) {
        self.base_sequence = sequence.into();
        self.max_sequence = sequence;
        self.bad_sequence = 1 << 16;
        (self.cycles, self.received, self.window) = (0, 0, 1);
        (self.expected_prior, self.received_prior) = (0, 0);
        self.transit = None;
    }
}

/// An instant in units of a clock, modulo 2^32.
#[inline]
pub fn in_clock(nanos: u64, clock_rate_hz: u32) -> u32 {
    let rate = u64::from(clock_rate_hz);
    let seconds = (nanos / 1_000_000_000).wrapping_mul(rate);
    seconds.wrapping_add(nanos % 1_000_000_000 * rate / 1_000_000_000) as u32
}

const _: () = assert!(DUPLICATE_WINDOW > MAX_MISORDER, "`hear` shifts by up to MAX_MISORDER");

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn source_after(sequences: &[u16]) -> (Source, Vec<Arrival>) {
        let mut source = Source::new(1, sequences[0]);
        let arrivals = sequences.iter().map(|&s| source.hear(s)).collect();
        (source, arrivals)
    }

    #[test]
    fn a_source_is_valid_after_two_in_sequence() {
        assert!(!source_after(&[10]).0.is_valid());
        assert!(!source_after(&[10, 12]).0.is_valid());
        assert!(source_after(&[10, 12, 13]).0.is_valid());
        assert!(source_after(&[65535, 0]).0.is_valid());
    }

    #[test]
    fn losses_reordering_and_duplicates_are_told_apart() {
        use Arrival::{Duplicate, InOrder, Reordered};
        let (source, arrivals) = source_after(&[1, 2, 3, 6, 5, 5, 6, 7, 3]);
        assert_eq!(arrivals, [InOrder, InOrder, InOrder, InOrder, Reordered, Duplicate, Duplicate, InOrder, Duplicate]);
        // From the second on: 2 to 7 expected; 2, 3, 6, 5, 5, 6, 7, 3 received.
        assert_eq!(source.lost(), 6 - 8);
        assert_eq!(source.sequence_extended(), 7);
    }

    #[test]
    fn wraps_are_counted_and_a_late_packet_across_one_is_not() {
        let (source, arrivals) = source_after(&[65533, 65534, 0, 65535, 1]);
        assert_eq!(arrivals[3], Arrival::Reordered);
        assert_eq!(source.sequence_extended(), 0x1_0001);
        assert_eq!(source.lost(), 0);
    }

    #[test]
    fn a_jump_is_believed_when_the_next_packet_confirms_it() {
        let (source, arrivals) = source_after(&[1, 2, 30_000, 3, 40_000, 40_001]);
        assert_eq!(arrivals[2..], [Arrival::Jump, Arrival::InOrder, Arrival::Jump, Arrival::Restart]);
        assert_eq!((source.sequence_extended(), source.lost()), (40_001, 0));
        let (mut source, _) = source_after(&[1, 2, 5, 40_000, 40_001, 40_003]);
        assert_eq!((source.lost(), source.lost_total()), (1, 3), "what was lost before the restart stays lost");
        source = source.succeeded_by(2, 9);
        assert_eq!((source.ssrc, source.lost(), source.lost_total()), (2, 0, 3));
    }

    #[test]
    fn fraction_lost_is_of_the_interval() {
        let (mut source, _) = source_after(&[0, 1, 2, 3, 4]);
        assert_eq!(source.fraction_lost(), 0);
        for sequence in [6, 8, 10, 12] {
            source.hear(sequence);
        }
        assert_eq!(source.fraction_lost(), 128, "four of eight");
        assert_eq!(source.fraction_lost(), 0);
        assert_eq!(source.lost(), 4);
    }

    #[test]
    fn jitter_follows_the_formula_of_a_8() {
        let mut source = Source::new(1, 0);
        let mut expected = 0.0f64;
        let mut before: Option<f64> = None;
        for i in 0..500u32 {
            let arrival_ns = u64::from(i) * 20_000_000 + u64::from(i * 7919 % 13) * 1_000_000;
            source.time(Nanos(arrival_ns), i * 160, 8000);
            let transit = arrival_ns as f64 * 8e-6 - f64::from(i) * 160.0;
            if let Some(before) = before.replace(transit) {
                expected += ((transit - before).abs() - expected) / 16.0;
            }
        }
        assert!((f64::from(source.jitter()) - expected).abs() < 2.0, "{} {expected}", source.jitter());
        let (ns, max) = source.jitter_ns();
        assert!((ns as f64 / 125_000.0 - expected).abs() < 2.0 && max >= ns);
    }

    #[test]
    fn a_held_key_is_no_jitter() {
        let mut source = Source::new(1, 0);
        source.time(Nanos(0), 0, 8000);
        for i in 1..50 {
            source.time(Nanos(i * 20_000_000), 160, 8000);
        }
        assert_eq!(source.jitter(), 0);
    }

    proptest! {
        /// What was lost and what came twice, of a stream shuffled within the window, is found exactly.
        #[test]
        fn counts_are_exact(first: u16, fates in prop::collection::vec(0u8..10, 20..400)) {
            let mut sent = vec![first, first.wrapping_add(1)];
            let (mut lost, mut twice) = (0i64, 0i64);
            let last = fates.len() - 1;
            for (i, fate) in fates.iter().enumerate() {
                let sequence = first.wrapping_add(2 + i as u16);
                match fate {
                    0 if i < last => lost += 1,
                    1 => { sent.extend([sequence, sequence]); twice += 1 }
                    2 => { let at = sent.len() - 1; sent.insert(at.max(2), sequence) }
                    _ => sent.push(sequence),
                }
            }
            let (source, arrivals) = source_after(&sent);
            prop_assert_eq!(arrivals.iter().filter(|a| **a == Arrival::Duplicate).count() as i64, twice);
            prop_assert_eq!(source.lost(), lost - twice);
        }

        #[test]
        fn anything_goes_without_panic(sequences in prop::collection::vec(any::<u16>(), 1..200), times in prop::collection::vec(any::<(u64, u32, u32)>(), 0..200)) {
            let (mut source, _) = source_after(&sequences);
            for (now, timestamp, rate) in times {
                source.time(Nanos(now), timestamp, rate);
            }
            let _ = (source.lost(), source.fraction_lost(), source.jitter_ns());
        }
    }
}
