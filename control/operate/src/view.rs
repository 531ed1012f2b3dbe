//! What `nebula top` shows: rates and quality between two looks, worst streams first. Pure.

use crate::codec;
use crate::quality;
use crate::sample::{Sample, Worker};
use nebula_ring::StreamRecord;
use nebula_ring::segment::Counter;
use nebula_ring::table::{FLAG_ECHO, FLAG_LATCHED, FLAG_RECEIVE, FLAG_SEND, FLAG_TIMED_OUT};
use serde::Serialize;
use std::collections::HashMap;
use std::net::SocketAddr;

/// A worker that has not finished a turn for so long stands still: it beats at least once a second.
const STALLED_AFTER_MS: u64 = 3_000;

/// Network and terminals together, one way, which nothing here can measure: G.114 counts on less than 150 ms in all, and
/// the packet and the jitter buffer below come on top.
pub const ASSUMED_DELAY_MS: u32 = 50;
/// The usual packet: it must be full before it leaves.
const PACKET_MS: f64 = 20.0;
/// A jitter buffer holds about twice the mean deviation.
const BUFFER_PER_JITTER: f64 = 2.0;

/// Everything that is shown.
#[derive(Debug, Clone, Serialize)]
pub struct View {
    /// The dataplane's process.
    pub pid: u32,
    /// When it started, Unix time.
    pub started_at_unix_ms: u64,
    /// How often control has attached.
    pub epoch: u64,
    /// Between the two looks.
    pub interval_ms: u64,
    /// By index.
    pub workers: Vec<WorkerRow>,
    /// Worst first.
    pub streams: Vec<StreamRow>,
}

/// One worker.
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRow {
    /// Its index.
    pub worker: usize,
    /// It has not finished a turn for three seconds.
    pub stalled: bool,
    /// It has more to do than it should, and takes no new calls.
    pub overloaded: bool,
    /// Streams alive.
    pub streams: usize,
    /// Packets received a second.
    pub packets_in_per_s: f64,
    /// Packets sent a second.
    pub packets_out_per_s: f64,
    /// CPU of its thread in the last second, percent of a core.
    pub cpu_percent: f64,
    /// Turns of the last second.
    pub turn_us_mean: f64,
    /// The longest of them.
    pub turn_us_max: f64,
    /// How late they were for what was due.
    pub lateness_us_mean: f64,
    /// The latest.
    pub lateness_us_max: f64,
    /// Packets found waiting per turn, at most.
    pub queue_depth_max: u64,
    /// Commands of control that wait, in slots of the ring.
    pub commands_waiting: u64,
    /// Events that control has not taken.
    pub events_waiting: u64,
    /// Packets that the kernel refused to send, a second.
    pub send_failed_per_s: f64,
    /// Times a second that no receive buffer was free.
    pub buffers_exhausted_per_s: f64,
}

/// One stream.
#[derive(Debug, Clone, Serialize)]
pub struct StreamRow {
    /// Its id, as in logs and CDRs.
    pub id: String,
    /// Its worker.
    pub worker: usize,
    /// In a word or two.
    pub state: State,
    /// What it carries, as far as its packets tell.
    pub codec: Option<&'static str>,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's, once known.
    pub remote: Option<SocketAddr>,
    /// Packets accepted a second.
    pub packets_in_per_s: f64,
    /// Packets sent a second.
    pub packets_out_per_s: f64,
    /// Lost between the two looks, percent of what was expected.
    pub loss_percent: f64,
    /// Since the stream began.
    pub loss_percent_total: f64,
    /// RFC 3550 A.8, now.
    pub jitter_ms: f64,
    /// Refused between the two looks, a second, for whatever reason.
    pub drops_per_s: f64,
    /// E-model rating; none without packets to judge.
    pub rating: Option<f64>,
    /// The mean opinion score of that rating.
    pub mos: Option<f64>,
    /// Both are of the codec's own figures, not of G.711's instead.
    pub is_rated_by_codec: bool,
}

/// What a stream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Its RTP timeout is over.
    Silent,
    /// Nothing was ever heard of its peer.
    Waiting,
    /// Both parties know that nothing flows one way or both.
    Held,
    /// It sends its peer's packets back.
    Echo,
    /// It talks, or could.
    Up,
}

impl State {
    fn of(record: &StreamRecord) -> Self {
        if !record.is(FLAG_SEND) || !record.is(FLAG_RECEIVE) {
            Self::Held
        } else if record.is(FLAG_TIMED_OUT) {
            Self::Silent
        } else if !record.is(FLAG_LATCHED) {
            Self::Waiting
        } else if record.is(FLAG_ECHO) && record.bridged_with == 0 {
            Self::Echo
        } else {
            Self::Up
        }
    }

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::Echo => "echo",
            Self::Up => "up",
        }
    }
}

impl View {
    /// From two looks at the same dataplane. Streams and workers that only the second one shows are reckoned from zero.
    pub fn between(before: &Sample, now: &Sample, assumed_delay_ms: u32) -> Self {
        let interval_ms = now.at_ms.saturating_sub(before.at_ms).max(1);
        let is_same = before.pid == now.pid && before.started_at_unix_ms == now.started_at_unix_ms;
        let known: HashMap<u64, &StreamRecord> =
            before.streams.iter().filter(|_| is_same).map(|(_, record)| (record.id, record)).collect();
        let mut streams: Vec<_> = now
            .streams
            .iter()
            .map(|(worker, record)| {
                let before = known.get(&record.id).copied();
                let interval_ms = if before.is_some() { interval_ms } else { age_ms(now, record) };
                stream_row(*worker, before, record, interval_ms, assumed_delay_ms)
            })
            .collect();
        streams.sort_by(|a, b| trouble(a).total_cmp(&trouble(b)).then_with(|| a.id.cmp(&b.id)));
        let worker = |(index, worker): (usize, &Worker)| {
            let before = before.workers.get(index).filter(|_| is_same);
            let streams = now.streams.iter().filter(|(of, _)| *of == index).count();
            worker_row(index, streams, before, worker, now.at_ms, interval_ms)
        };
        Self {
            pid: now.pid,
            started_at_unix_ms: now.started_at_unix_ms,
            epoch: now.epoch,
            interval_ms,
            workers: now.workers.iter().enumerate().map(worker).collect(),
            streams,
        }
    }
}

impl View {
    /// Streams of all workers, shown or not.
    pub fn streams_alive(&self) -> usize {
        self.workers.iter().map(|it| it.streams).sum()
    }
}

/// What a stream is sorted by: its MOS, and those that say nothing where they belong among them.
fn trouble(row: &StreamRow) -> f64 {
    match row.state {
        State::Silent => 0.0,
        State::Held => 6.0,
        State::Waiting => 0.5,
        State::Echo | State::Up => row.mos.unwrap_or(5.0),
    }
}

fn age_ms(now: &Sample, record: &StreamRecord) -> u64 {
    now.at_ms.saturating_sub(record.created_at_ms).max(1)
}

fn worker_row(
    index: usize,
    streams: usize,
    before: Option<&Worker>,
    now: &Worker,
    at_ms: u64,
    interval_ms: u64,
) -> WorkerRow {
    let rate = |counter: Counter| {
        let before = before.map_or(0, |it| it.counter(counter));
        per_s(now.counter(counter).saturating_sub(before), interval_ms)
    };
    let us = |counter: Counter| now.counter(counter) as f64 / 1000.0;
    WorkerRow {
        worker: index,
        stalled: at_ms.saturating_sub(now.heartbeat_ms) > STALLED_AFTER_MS,
        overloaded: now.counter(Counter::Overloaded) > 0,
        streams,
        packets_in_per_s: rate(Counter::PacketsReceived),
        packets_out_per_s: rate(Counter::PacketsSent),
        cpu_percent: now.counter(Counter::CpuPermille) as f64 / 10.0,
        turn_us_mean: us(Counter::TurnNanosMean),
        turn_us_max: us(Counter::TurnNanosMax),
        lateness_us_mean: us(Counter::TickLatenessNanosMean),
        lateness_us_max: us(Counter::TickLatenessNanosMax),
        queue_depth_max: now.counter(Counter::QueueDepthMax),
        commands_waiting: now.waiting.commands,
        events_waiting: now.waiting.events,
        send_failed_per_s: rate(Counter::SendFailed),
        buffers_exhausted_per_s: rate(Counter::BuffersExhausted),
    }
}

fn stream_row(
    worker: usize,
    before: Option<&StreamRecord>,
    now: &StreamRecord,
    interval_ms: u64,
    assumed_delay_ms: u32,
) -> StreamRow {
    let grown = |value: fn(&StreamRecord) -> u64| value(now).saturating_sub(before.map_or(0, value));
    let lost = now.lost - before.map_or(0, |it| it.lost);
    let packets_in = grown(|it| it.packets_in);
    let loss = fraction(lost, packets_in);
    let jitter_ms = f64::from(now.jitter_us) / 1000.0;
    let codec = codec::of(now);
    // Without packets there is nothing to be judged but the silence, which `state` says.
    let rating = codec.filter(|_| packets_in > 0 || lost > 0).map(|codec| {
        let delay_ms = f64::from(assumed_delay_ms) + PACKET_MS + BUFFER_PER_JITTER * jitter_ms;
        quality::rating(codec.impairment, loss, delay_ms)
    });
    StreamRow {
        id: id(now.id),
        worker,
        state: State::of(now),
        codec: codec.map(|it| it.name),
        local: now.local_rtp(),
        remote: now.remote_rtp(),
        packets_in_per_s: per_s(packets_in, interval_ms),
        packets_out_per_s: per_s(grown(|it| it.packets_out), interval_ms),
        loss_percent: 100.0 * loss,
        loss_percent_total: 100.0 * fraction(now.lost, now.packets_in),
        jitter_ms,
        drops_per_s: per_s(grown(|it| it.drops().total()), interval_ms),
        rating,
        mos: rating.map(quality::mos),
        is_rated_by_codec: codec.is_some_and(|it| it.is_tabulated),
    }
}

/// A stream's id as the bus, logs and CDRs have it.
pub fn id(id: u64) -> String {
    format!("{id:016x}")
}

/// Of what was expected, how much was lost; duplicates may make it less than nothing, which is none.
fn fraction(lost: i64, received: u64) -> f64 {
    let lost = lost.max(0) as f64;
    if lost > 0.0 { lost / (lost + received as f64) } else { 0.0 }
}

fn per_s(count: u64, interval_ms: u64) -> f64 {
    count as f64 * 1000.0 / interval_ms as f64
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use nebula_ring::segment::Waiting;
    use nebula_ring::table::FLAG_OPEN;

    /// A stream that talks.
    pub fn talking(id: u64, packets_in: u64, lost: i64, jitter_us: u32) -> StreamRecord {
        let mut record = StreamRecord {
            id,
            flags: FLAG_OPEN | FLAG_LATCHED | FLAG_SEND | FLAG_RECEIVE,
            packets_in,
            packets_out: packets_in,
            lost,
            jitter_us,
            payload_type_in: 8,
            clock_rate_in_hz: 8000,
            bridged_with: id ^ 1,
            ..Default::default()
        };
        let port = 10_000 + 2 * (id % 1000) as u16;
        record.set_local([127, 0, 0, 1].into(), port, port + 1);
        record.set_remote_rtp(Some("192.0.2.1:4000".parse().unwrap()));
        record
    }

    /// A look at one worker with these streams.
    pub fn sample(at_ms: u64, received: u64, streams: &[StreamRecord]) -> Sample {
        let mut worker = Worker {
            counters: [0; Counter::ALL.len()],
            heartbeat_ms: at_ms - 10,
            waiting: Waiting { commands: 1, events: 0 },
        };
        for (counter, value) in [
            (Counter::PacketsReceived, received),
            (Counter::CpuPermille, 425),
            (Counter::TurnNanosMean, 12_500),
            (Counter::TickLatenessNanosMax, 3_000_000),
            (Counter::QueueDepthMax, 17),
            (Counter::Overloaded, u64::from(received > 100_000)),
        ] {
            worker.counters[counter as usize] = value;
        }
        let streams = streams.iter().map(|record| (0, *record)).collect();
        Sample { at_ms, pid: 42, started_at_unix_ms: 7, epoch: 1, workers: vec![worker], streams }
    }

    #[test]
    fn rates_and_losses_are_of_the_interval_and_the_worst_comes_first() {
        let before = sample(10_000, 5_000, &[talking(2, 1_000, 0, 500), talking(4, 1_000, 0, 500)]);
        let now = sample(12_000, 5_200, &[talking(2, 1_100, 0, 500), talking(4, 1_095, 5, 500), talking(6, 10, 0, 0)]);
        let view = View::between(&before, &now, ASSUMED_DELAY_MS);
        let worker = &view.workers[0];
        assert_eq!((worker.packets_in_per_s, worker.cpu_percent, worker.turn_us_mean), (100.0, 42.5, 12.5));
        assert_eq!((worker.lateness_us_max, worker.queue_depth_max, worker.streams), (3000.0, 17, 3));
        assert!(!worker.stalled && worker.commands_waiting == 1);
        let ids: Vec<_> = view.streams.iter().map(|row| row.id.as_str()).collect();
        assert_eq!(ids, ["0000000000000004", "0000000000000002", "0000000000000006"]);
        let [worst, good, _] = &view.streams[..] else { panic!("{view:?}") };
        assert_eq!((worst.packets_in_per_s, worst.loss_percent), (47.5, 5.0));
        assert!((worst.loss_percent_total - 100.0 * 5.0 / 1_100.0).abs() < 1e-9);
        assert_eq!((good.loss_percent, good.codec, good.is_rated_by_codec), (0.0, Some("PCMA"), true));
        // Below 100 ms delay costs nothing; 5 % loss costs 95 * 5 / 30.1.
        assert_eq!(good.rating, Some(quality::R_DEFAULT));
        assert!((worst.rating.unwrap() - (93.2 - 95.0 * 5.0 / 30.1)).abs() < 1e-9);
    }

    #[test]
    fn who_says_nothing_is_told_from_who_may_not() {
        let mut silent = talking(2, 50, 0, 0);
        silent.set(FLAG_TIMED_OUT, true);
        let mut held = silent;
        held.set(FLAG_SEND, false);
        (held.id, held.packets_in) = (3, 50);
        let mut waiting = StreamRecord { id: 4, ..talking(4, 0, 0, 0) };
        waiting.set(FLAG_LATCHED, false);
        let mut echo = StreamRecord { id: 5, bridged_with: 0, ..talking(5, 9, 0, 0) };
        echo.set(FLAG_ECHO, true);
        let look = |at| sample(at, 0, &[held, echo, waiting, silent]);
        let view = View::between(&look(1_000), &look(2_000), 0);
        let states: Vec<_> = view.streams.iter().map(|row| (row.state, row.mos.is_some())).collect();
        assert_eq!(
            states,
            [(State::Silent, false), (State::Waiting, false), (State::Echo, false), (State::Held, false)]
        );
        assert_eq!(view.streams[0].packets_in_per_s, 0.0);
    }

    #[test]
    fn another_dataplane_is_reckoned_from_zero_and_a_dead_one_stands_still() {
        let before = sample(10_000, 5_000, &[talking(2, 1_000, 0, 0)]);
        let mut now = sample(12_000, 50, &[StreamRecord { created_at_ms: 11_000, ..talking(2, 50, 0, 0) }]);
        now.started_at_unix_ms += 1;
        now.workers[0].heartbeat_ms = 8_000;
        assert!(!View::between(&now, &now, 0).workers[0].overloaded);
        assert!(View::between(&now, &sample(13_000, 200_000, &[]), 0).workers[0].overloaded);
        let view = View::between(&before, &now, 0);
        assert_eq!((view.workers[0].packets_in_per_s, view.streams[0].packets_in_per_s), (25.0, 50.0));
        assert!(view.workers[0].stalled);
    }

    #[test]
    fn jitter_costs_by_the_buffer_that_it_needs() {
        let before = sample(1_000, 0, &[talking(2, 0, 0, 0)]);
        let rating = |jitter_us, delay| {
            let now = sample(2_000, 0, &[talking(2, 50, 0, jitter_us)]);
            View::between(&before, &now, delay).streams[0].rating.unwrap()
        };
        assert_eq!(rating(10_000, 50), quality::R_DEFAULT);
        assert!(rating(60_000, 50) < quality::R_DEFAULT - 0.1);
        assert!(rating(0, 400) < 80.0);
    }
}
