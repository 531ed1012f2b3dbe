//! A segment that can be looked at and not be touched: what an observer gets. Its memory is mapped for reading, so nothing
//! of it that stores is reachable from here.

use super::layout::worker;
use super::{Counter, Error, Segment, Sizes};
use crate::command::StreamId;
use crate::mapping::Mapping;
use crate::table::StreamRecord;
use rustix::fd::AsFd;
use std::sync::atomic::Ordering::Relaxed;

/// See the module.
#[derive(Debug, Clone)]
pub struct Observed(Segment);

/// Messages that wait in a worker's rings, in slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// For the worker.
    pub commands: u64,
    /// For control.
    pub events: u64,
}

impl Observed {
    /// Opens a segment that came from elsewhere, trusting nothing about it. The file need not be writable.
    pub fn open(file: impl AsFd) -> Result<Self, Error> {
        Segment::open_by(file, |file, words| Mapping::read_only(file, words)).map(Self)
    }

    /// Its sizes.
    pub fn sizes(&self) -> Sizes {
        self.0.sizes()
    }

    /// The dataplane's process id.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }

    /// When the dataplane started, Unix time in milliseconds.
    pub fn started_at_unix_ms(&self) -> u64 {
        self.0.started_at_unix_ms()
    }

    /// How often control has attached.
    pub fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    /// When a worker last finished a turn: CLOCK_MONOTONIC, in milliseconds.
    pub fn heartbeat_ms(&self, worker: usize) -> u64 {
        self.0.heartbeat_ms(worker)
    }

    /// One of a worker's counters.
    pub fn counter(&self, worker: usize, counter: Counter) -> u64 {
        self.0.counter(worker, counter)
    }

    /// What waits in a worker's rings now.
    pub fn waiting(&self, worker: usize) -> Waiting {
        // Relaxed: two numbers to look at, nothing is read by them.
        let value = |word: usize| self.0.area(worker)[word].load(Relaxed);
        let between = |head: usize, tail: usize, slots: usize| {
            // Head first: it moves on behind the tail, so the difference is never below what there was.
            let head = value(head);
            value(tail).saturating_sub(head).min(slots as u64)
        };
        let sizes = self.sizes();
        Waiting {
            commands: between(worker::COMMAND_HEAD, worker::COMMAND_TAIL, sizes.command_slots),
            events: between(worker::EVENT_HEAD, worker::EVENT_TAIL, sizes.event_slots),
        }
    }

    /// A worker's streams alive.
    pub fn streams(&self, worker: usize) -> impl Iterator<Item = StreamRecord> + '_ {
        (0..self.sizes().streams)
            .filter_map(move |index| self.0.table(worker).read(index))
            .filter(StreamRecord::is_open)
    }

    /// One stream, alive or just destroyed, and its worker.
    pub fn find(&self, id: StreamId) -> Option<(usize, StreamRecord)> {
        (0..self.sizes().workers).find_map(|worker| self.0.table(worker).find(id).map(|record| (worker, record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot;
    use crate::spsc::Producer;
    use crate::table::FLAG_OPEN;

    const SIZES: Sizes = Sizes { workers: 2, command_slots: 16, event_slots: 32, streams: 3 };

    #[test]
    fn an_observer_sees_what_is_written_and_its_file_cannot_be_written() {
        let (file, segment) = Segment::create(SIZES, 42, 1_000).unwrap();
        let path = format!("/proc/self/fd/{}", rustix::fd::AsRawFd::as_raw_fd(&file));
        let read_only = std::fs::File::open(path).unwrap();
        assert!(Segment::open(&read_only).is_err(), "not to be mapped for writing");
        let observed = Observed::open(&read_only).unwrap();

        let record = StreamRecord { id: 7, flags: FLAG_OPEN, ..Default::default() };
        segment.table(1).write(2, &record);
        segment.table(1).write(0, &StreamRecord { id: 8, ..record });
        segment.table(1).write(1, &StreamRecord { id: 9, flags: 0, ..record });
        segment.set_counter(1, Counter::CpuNanos, 5);
        segment.beat(1, 77);
        segment.bump_epoch();
        let command = slot::encode_command(9, &crate::Command::DestroyStream { id: StreamId(5) });
        Producer::resume(segment.command_ring(1)).push(segment.command_ring(1), command.as_bytes()).unwrap();

        assert_eq!((observed.sizes(), observed.pid(), observed.started_at_unix_ms()), (SIZES, 42, 1_000));
        assert_eq!(observed.streams(1).map(|it| it.id).collect::<Vec<_>>(), [8, 7]);
        assert_eq!(observed.streams(0).count(), 0);
        assert_eq!(observed.find(StreamId(7)), Some((1, record)));
        assert_eq!(observed.find(StreamId(9)).map(|(_, it)| it.is_open()), Some(false));
        assert_eq!((observed.counter(1, Counter::CpuNanos), observed.heartbeat_ms(1), observed.epoch()), (5, 77, 1));
        assert_eq!(
            (observed.waiting(1), observed.waiting(0)),
            (Waiting { commands: 1, events: 0 }, Waiting { commands: 0, events: 0 })
        );
    }
}
