//! RTCP of our own, where we terminate: SR or RR with what we heard, SDES with CNAME, BYE on leaving (RFC 3550 sections
//! 6.2 to 6.6). Called by a stream's timer every few seconds.

use crate::egress::echo::{Echo, scramble};
use crate::limits::{RTCP_BYTES_MAX, RTCP_INTERVAL_MS_MIN};
use crate::source::Source;
use crate::time::Nanos;
use crate::wire::rtcp::{
    BYE, Compound, Packet, RECEIVER_REPORT, ReportBlock, SDES_CNAME, SENDER_REPORT, SOURCE_DESCRIPTION,
};
use nebula_ring::command::StreamId;

/// When a stream reports next, and what it must remember for it. It exists while the stream terminates.
#[derive(Debug, Clone, Copy)]
pub struct Reporter {
    next_at: Nanos,
    /// Stepped for each interval, seeded by our SSRC: no two streams keep in step.
    random: u32,
    /// The peer's last SR, its middle 32 bits of NTP time, and when it came.
    last_sr: Option<(u32, Nanos)>,
    /// Our packet counts at the last two reports: who sent since the older one is a sender.
    packets_at: [u32; 2],
    reported: bool,
}

impl Reporter {
    /// Starts; the first report is due after half the usual interval (section 6.2).
    pub fn new(now: Nanos, ssrc: u32) -> Self {
        let mut reporter =
            Self { next_at: now, random: scramble(ssrc), last_sr: None, packets_at: [0; 2], reported: false };
        reporter.next_at = now.plus_nanos(reporter.interval_ns(RTCP_INTERVAL_MS_MIN / 2));
        reporter
    }

    /// When the next report is due.
    pub fn next_at(&self) -> Nanos {
        self.next_at
    }

    /// Whether the peer may know our SSRC, and is owed a BYE.
    pub fn owes_bye(&self, echo: &Echo) -> bool {
        self.reported || echo.sent().0 > 0
    }

    /// Takes in the peer's report: when it was sent, for our next one.
    pub fn hear(&mut self, now: Nanos, source: Option<&Source>, compound: Compound<'_>) {
        for packet in compound.packets() {
            if let Packet::SenderReport(sr) = packet
                && source.is_some_and(|s| s.ssrc == sr.ssrc())
            {
                self.last_sr = Some(((sr.ntp() >> 16) as u32, now));
            }
        }
    }

    /// Writes a compound and, unless it is the last (`bye`), sets the time of the next.
    pub fn write<'b>(
        &mut self,
        now: Nanos,
        id: StreamId,
        echo: &Echo,
        source: Option<&mut Source>,
        bye: bool,
        buffer: &'b mut [u8; RTCP_BYTES_MAX],
    ) -> &'b [u8] {
        let mut w = Writer { buffer, len: 0 };
        let block = source.filter(|s| s.is_valid()).map(|s| self.block(now, s));
        let (packets, octets) = echo.sent();
        let kind = if packets != self.packets_at[0] { SENDER_REPORT } else { RECEIVER_REPORT };
        w.packet(kind, block.is_some().into(), |w| {
            w.put(&echo.ssrc().to_be_bytes());
            if kind == SENDER_REPORT {
                w.put(&now.as_ntp().to_be_bytes());
                for word in [echo.timestamp_at(now), packets, octets] {
                    w.put(&word.to_be_bytes());
                }
            }
            if let Some(block) = block {
                w.put(&block.to_bytes());
            }
        });
        w.packet(SOURCE_DESCRIPTION, 1, |w| {
            w.put(&echo.ssrc().to_be_bytes());
            w.put(&[SDES_CNAME, 16]);
            w.put(&hexadecimal(id.0));
            w.put(&[0]);
        });
        if bye {
            w.packet(BYE, 1, |w| w.put(&echo.ssrc().to_be_bytes()));
        }
        self.packets_at = [self.packets_at[1], packets];
        self.reported = true;
        self.next_at = now.plus_nanos(self.interval_ns(RTCP_INTERVAL_MS_MIN));
        let Writer { buffer, len } = w;
        &buffer[..len]
    }

    /// Nothing to report yet: tries again later.
    pub fn skip(&mut self, now: Nanos) {
        self.next_at = now.plus_nanos(self.interval_ns(RTCP_INTERVAL_MS_MIN));
    }

    /// A.3 and section 6.4.1.
    fn block(&self, now: Nanos, source: &mut Source) -> ReportBlock {
        let delay = |at: Nanos| ((u128::from(now.since(at)) << 16) / 1_000_000_000) as u32;
        ReportBlock {
            ssrc: source.ssrc,
            fraction_lost: source.fraction_lost(),
            cumulative_lost: source.lost().clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            sequence_extended: source.sequence_extended(),
            jitter: source.jitter(),
            last_sr: self.last_sr.map_or(0, |(ntp, _)| ntp),
            delay_since_last_sr: self.last_sr.map_or(0, |(_, at)| delay(at)),
        }
    }

    /// Section 6.3.1: between 0.5 and 1.5 times the mean, divided by e - 3/2 for timer reconsideration.
    fn interval_ns(&mut self, mean_ms: u64) -> u64 {
        self.random = scramble(self.random.wrapping_add(0x9e37_79b9));
        let mean_ns = mean_ms * 1_000_000;
        (mean_ns / 2 + ((mean_ns * u64::from(self.random >> 8)) >> 24)) / 121_828 * 100_000
    }
}

struct Writer<'b> {
    buffer: &'b mut [u8; RTCP_BYTES_MAX],
    len: usize,
}

impl Writer<'_> {
    /// Writes one packet: header, body, zeros up to a whole word, and then the length.
    fn packet(&mut self, packet_type: u8, count: u8, body: impl FnOnce(&mut Self)) {
        let start = self.len;
        self.put(&[0x80 | count, packet_type, 0, 0]);
        body(self);
        while !self.len.is_multiple_of(4) {
            self.put(&[0]);
        }
        let words = ((self.len - start) / 4 - 1) as u16;
        self.buffer[start + 2..start + 4].copy_from_slice(&words.to_be_bytes());
    }

    fn put(&mut self, bytes: &[u8]) {
        self.buffer[self.len..][..bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// The CNAME (RFC 7022): the stream's id, which is unique, lasts as long as the session and says nothing of the host.
fn hexadecimal(id: u64) -> [u8; 16] {
    std::array::from_fn(|i| b"0123456789abcdef"[(id >> (60 - 4 * i)) as usize & 15])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_spread_around_the_mean_of_the_rfc() {
        let mut reporter = Reporter::new(Nanos(0), 5);
        let first = reporter.next_at().0;
        assert!((1_026_000_000..3_079_000_000).contains(&first), "{first}");
        let all: Vec<u64> = (0..10_000).map(|_| reporter.interval_ns(5000)).collect();
        let (low, high) = (2_500_000_000.0 / 1.21828, 7_500_000_000.0 / 1.21828);
        assert!(all.iter().all(|&i| (low - 1e6..high).contains(&(i as f64))));
        let mean = all.iter().sum::<u64>() as f64 / all.len() as f64;
        assert!((mean / (5e9 / 1.21828) - 1.0).abs() < 0.02, "{mean}");
        assert_ne!(Reporter::new(Nanos(0), 6).next_at().0, first);
    }
}
