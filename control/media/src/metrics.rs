//! What the dataplane has counted, for Prometheus: read from the stream tables every few seconds, summed over streams.
//!
//! Streams come and go while counters only rise, so each stream's growth since it was last seen is added up. A stream
//! that ends between two sweeps is settled by `stream.destroy` with its final record. Nothing is done per packet.

use crate::reconcile::Found;
use nebula_ring::drops::{DROP_REASONS, DropReason};
use nebula_ring::segment::{Counter, Segment};
use nebula_ring::table::{FLAG_LATCHED, StreamRecord};
use std::collections::HashMap;

/// Counters over all streams: name, description, where it stands in a record.
type Row = (&'static str, &'static str, fn(&StreamRecord) -> u64);

const ROWS: [Row; 10] = [
    ("nebula_media_rtp_packets_received_total", "RTP packets accepted", |record| record.packets_in),
    ("nebula_media_rtp_bytes_received_total", "UDP payload bytes of accepted RTP", |record| record.bytes_in),
    ("nebula_media_rtp_packets_sent_total", "RTP packets sent", |record| record.packets_out),
    ("nebula_media_rtp_bytes_sent_total", "UDP payload bytes of sent RTP", |record| record.bytes_out),
    ("nebula_media_rtp_packets_lost_total", "RTP packets expected but not received", |record| {
        record.lost.max(0) as u64
    }),
    ("nebula_media_rtp_packets_reordered_total", "RTP packets that came late", |record| record.reordered),
    ("nebula_media_rtp_packets_duplicated_total", "RTP packets that came twice", |record| record.duplicated),
    ("nebula_media_rtcp_packets_received_total", "RTCP packets received", |record| record.rtcp_in),
    ("nebula_media_rtcp_packets_sent_total", "RTCP packets sent", |record| record.rtcp_out),
    ("nebula_media_unreachable_total", "times that the network called a peer unreachable (ICMP)", |record| {
        record.unreachable
    }),
];
const DROPS: &str = "nebula_media_packets_dropped_total";
const JITTER: &str = "nebula_media_rtp_jitter_seconds";
const STREAMS: &str = "nebula_media_streams";
const LATCHED: &str = "nebula_media_streams_latched";
const FREE_PORTS: &str = "nebula_media_port_pairs_free";

/// Sums over streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    rows: [u64; ROWS.len()],
    drops: [u64; DROP_REASONS],
}

impl Counts {
    fn of(record: &StreamRecord) -> Self {
        Self { rows: ROWS.map(|(_, _, value)| value(record)), drops: record.drops().0 }
    }

    /// Adds what another has more than a third. A counter that fell (losses that turned out late) adds nothing.
    fn add_growth(&mut self, now: &Counts, before: &Counts) {
        let grown = |sum: &mut [u64], now: &[u64], before: &[u64]| {
            for ((sum, now), before) in sum.iter_mut().zip(now).zip(before) {
                *sum += now.saturating_sub(*before);
            }
        };
        grown(&mut self.rows, &now.rows, &before.rows);
        grown(&mut self.drops, &now.drops, &before.drops);
    }
}

/// What was last seen of each stream, and what is to be added to the counters.
#[derive(Debug, Default)]
pub struct Exporter {
    seen: HashMap<u64, Counts>,
    growth: Counts,
}

impl Exporter {
    /// Tells the recorder what the names mean.
    pub fn describe() {
        for (name, text, _) in ROWS {
            metrics::describe_counter!(name, text);
        }
        for counter in Counter::ALL {
            let text = format!("dataplane: {}", meaning(counter));
            match counter.is_gauge() {
                true => metrics::describe_gauge!(dataplane_name(counter), text),
                false => metrics::describe_counter!(dataplane_name(counter), text),
            }
        }
        metrics::describe_counter!(DROPS, "packets refused, by reason");
        // A rate needs a first value: reasons that never came up are shown as zero.
        for reason in DropReason::ALL {
            metrics::counter!(DROPS, "reason" => reason.name()).increment(0);
        }
        metrics::describe_histogram!(JITTER, metrics::Unit::Seconds, "interarrival jitter (RFC 3550 A.8), sampled");
        metrics::describe_gauge!(STREAMS, "streams in the dataplane");
        metrics::describe_gauge!(LATCHED, "streams whose peer is known");
        metrics::describe_gauge!(FREE_PORTS, "pairs of RTP ports nobody uses");
    }

    /// A stream's final record.
    pub fn settle(&mut self, record: &StreamRecord) {
        let now = Counts::of(record);
        // It stays known until a sweep no longer finds it, so that one that still does counts nothing twice.
        let before = self.seen.insert(record.id, now).unwrap_or_default();
        self.growth.add_growth(&now, &before);
    }

    /// All streams alive, as just read; whoever is not among them is forgotten.
    pub fn sweep(&mut self, found: &[Found]) {
        let mut seen = HashMap::with_capacity(found.len());
        for Found { record, .. } in found {
            let now = Counts::of(record);
            let before = self.seen.get(&record.id).copied().unwrap_or_default();
            self.growth.add_growth(&now, &before);
            if now.rows[0] > before.rows[0] {
                metrics::histogram!(JITTER).record(f64::from(record.jitter_us) / 1e6);
            }
            seen.insert(record.id, now);
        }
        self.seen = seen;
        metrics::gauge!(STREAMS).set(found.len() as f64);
        metrics::gauge!(LATCHED).set(found.iter().filter(|it| it.record.is(FLAG_LATCHED)).count() as f64);
    }

    /// The dataplane is gone: what was seen stays known, for streams that go on count on.
    pub fn suspend(&mut self) {
        metrics::gauge!(STREAMS).set(0.0);
        metrics::gauge!(LATCHED).set(0.0);
    }

    /// Hands what has grown to the recorder.
    pub fn publish(&mut self, segment: &Segment, free_ports: usize) {
        let growth = std::mem::take(&mut self.growth);
        for ((name, _, _), more) in ROWS.iter().zip(growth.rows) {
            metrics::counter!(*name).increment(more);
        }
        for (reason, more) in DropReason::ALL.iter().zip(growth.drops).filter(|(_, more)| *more > 0) {
            metrics::counter!(DROPS, "reason" => reason.name()).increment(more);
        }
        metrics::gauge!(FREE_PORTS).set(free_ports as f64);
        for worker in 0..segment.sizes().workers {
            for counter in Counter::ALL {
                let (name, value, worker) =
                    (dataplane_name(counter), segment.counter(worker, counter), worker.to_string());
                match (is_time(counter), counter.is_gauge()) {
                    (true, _) => metrics::gauge!(name, "worker" => worker).set(value as f64 / 1e9),
                    (false, true) => metrics::gauge!(name, "worker" => worker).set(value as f64),
                    (false, false) => metrics::counter!(name, "worker" => worker).absolute(value),
                }
            }
        }
    }
}

/// Whether it counts nanoseconds, which Prometheus wants as seconds. The recorder's counters are whole numbers, so sums of them
/// are recorded as gauges; `/metrics` calls what ends with `_seconds_total` a counter all the same.
fn is_time(counter: Counter) -> bool {
    counter.name().contains("nanoseconds")
}

fn dataplane_name(counter: Counter) -> String {
    let name = counter.name().replace("nanoseconds", "seconds");
    format!("nebula_dataplane_{name}{}", if counter.is_gauge() { "" } else { "_total" })
}

/// What a worker's counter counts.
fn meaning(counter: Counter) -> &'static str {
    match counter {
        Counter::Turns => "turns of the loop, that is system calls",
        Counter::PacketsReceived => "packets received on all sockets",
        Counter::PacketsSent => "packets handed to the kernel to send",
        Counter::SendFailed => "packets that the kernel refused to send",
        Counter::SendOverflow => "packets not sent because a cap of the turn was reached",
        Counter::BuffersExhausted => "times that a receive stopped because no buffer was free",
        Counter::Rearmed => "receives armed anew",
        Counter::Stale => "completions for sockets that were closed already",
        Counter::CommandsMalformed => "commands that did not parse",
        Counter::CommandResyncs => "times that the command ring had to be emptied because it made no sense",
        Counter::EventsDropped => "events dropped because the event ring was full",
        Counter::TicksCutShort => "ticks that left timers for the next one",
        Counter::TurnNanos => "seconds spent in turns, the wait for packets apart",
        Counter::TurnNanosMax => "seconds of the longest turn in the last second",
        Counter::Ticks => "turns in which something was due by the clock",
        Counter::TickLatenessNanos => "seconds that ticks came later than what was due",
        Counter::TickLatenessNanosMax => "seconds that the latest tick of the last second was late",
        Counter::QueueDepthMax => "most packets that waited for one turn in the last second",
        Counter::CpuNanos => "seconds of CPU time of the worker's thread",
        Counter::TurnNanosMean => "seconds of the mean turn in the last second",
        Counter::TickLatenessNanosMean => "seconds that ticks of the last second were late on average",
        Counter::CpuPermille => "CPU time of the worker's thread in thousandths of the last second",
        Counter::FramesReceived => "packets received as frames, by AF_XDP",
        Counter::FramesSent => "packets sent as frames, by AF_XDP",
        Counter::FramesRefused => "frames that were no datagrams, or damaged",
        Counter::FramesLeftToKernel => "packets of a worker with AF_XDP that a socket sent, for want of a known way",
        Counter::FramesHandedOver => "frames handed to the worker that has their port open",
        Counter::FramesHandedOverDropped => "frames dropped because that worker's queue was full",
        Counter::Overloaded => "1 while the worker has more to do than it should, and takes no new calls",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names at the head of a line of docs/metrics.md's tables that begin with one of these.
    fn documented(prefixes: &[&str]) -> std::collections::BTreeSet<String> {
        let page = include_str!("../../../docs/metrics.md");
        let names = page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0));
        names.filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix))).map(str::to_owned).collect()
    }

    #[test]
    fn every_metric_of_media_and_dataplane_is_documented_and_no_other() {
        // Of `service::recovery`, and of whoever supervises the dataplane.
        let others = [
            "nebula_media_dataplane_lost_total",
            "nebula_media_dataplane_recovery_seconds",
            "nebula_media_streams_lost_total",
            "nebula_media_streams_resumed_total",
            "nebula_dataplane_restarts_total",
        ];
        let ours =
            [DROPS, JITTER, STREAMS, LATCHED, FREE_PORTS].into_iter().chain(ROWS.iter().map(|(name, _, _)| *name));
        let mut all: std::collections::BTreeSet<String> = ours.chain(others).map(str::to_owned).collect();
        all.extend(Counter::ALL.map(dataplane_name));
        assert_eq!(all, documented(&["nebula_media_", "nebula_dataplane_"]), "docs/metrics.md names all of them");
    }

    fn record(id: u64, packets_in: u64, lost: i64) -> StreamRecord {
        let mut record = StreamRecord { id, packets_in, lost, ..StreamRecord::default() };
        record.drop_counts[DropReason::Stun as usize] = packets_in / 10;
        record
    }

    fn found(record: StreamRecord) -> Found {
        Found { worker: 0, record }
    }

    #[test]
    fn growth_is_counted_once_however_a_stream_is_seen() {
        let mut exporter = Exporter::default();
        exporter.sweep(&[found(record(1, 100, 2)), found(record(2, 10, 0))]);
        exporter.sweep(&[found(record(1, 150, 1)), found(record(2, 10, 0))]);
        exporter.settle(&record(1, 160, 3));
        exporter.sweep(&[found(record(1, 160, 3)), found(record(2, 20, 0))]);
        exporter.sweep(&[found(record(2, 20, 0))]);
        exporter.settle(&record(3, 5, 0));
        exporter.sweep(&[]);
        assert_eq!(exporter.growth.rows[0], 160 + 20 + 5);
        assert_eq!(exporter.growth.rows[4], 2 + 2, "a late packet takes no loss back");
        assert_eq!(exporter.growth.drops[DropReason::Stun as usize], 16 + 2);
        assert!(exporter.seen.is_empty());
    }
}
