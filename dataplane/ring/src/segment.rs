//! The shared segment: one sealed memfd, seen as 64-bit atomic words. A header page, then per worker its indices and
//! counters, a command ring, an event ring and a stream table.
//!
//! The dataplane creates it once, at start; control opens what it is handed over the attach socket and checks all of it
//! before it uses any: seals, size, magic, version, and that the sizes in the header add up to the file.

use crate::ABI_VERSION;
use crate::event::Event;
use crate::mapping::Mapping;
use crate::slot::{self, Malformed};
use crate::spsc::{Busy, Consumer, Producer, Ring, SLOT_WORDS};
use crate::table::{ENTRY_WORDS, StreamRecord, Table};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{MemfdFlags, SealFlags};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// "NEBULA" and the kind of file.
const MAGIC: u64 = u64::from_le_bytes(*b"NEBULA\0S");
/// Header and worker areas are multiples of a page.
const PAGE_WORDS: usize = 512;
const _: () = assert!(PAGE_WORDS * 8 == 4096);
/// Words between indices that different sides write: two cache lines, because of the adjacent-line prefetcher.
const PAD_WORDS: usize = 16;

/// Workers that a segment can have; their eventfds travel in one message.
pub const WORKERS_MAX: usize = 64;
const RING_SLOTS: RangeInclusive<usize> = 16..=65_536;
const TABLE_ENTRIES: RangeInclusive<usize> = 1..=1_048_576;
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Word indices of the header.
mod header {
    pub const MAGIC: usize = 0;
    pub const ABI_VERSION: usize = 1;
    pub const TOTAL_WORDS: usize = 2;
    pub const WORKERS: usize = 3;
    pub const COMMAND_SLOTS: usize = 4;
    pub const EVENT_SLOTS: usize = 5;
    pub const STREAMS: usize = 6;
    pub const PID: usize = 7;
    pub const STARTED_AT_UNIX_MS: usize = 8;
    pub const EPOCH: usize = 16;
}

/// Word indices at the front of a worker's area.
mod worker {
    use super::PAD_WORDS;
    pub const HEARTBEAT_MS: usize = 0;
    pub const COMMAND_HEAD: usize = PAD_WORDS;
    pub const COMMAND_TAIL: usize = 2 * PAD_WORDS;
    pub const EVENT_HEAD: usize = 3 * PAD_WORDS;
    pub const EVENT_TAIL: usize = 4 * PAD_WORDS;
    pub const COUNTERS: usize = 5 * PAD_WORDS;
    pub const WORDS: usize = 128;
}
const _: () = assert!(worker::COUNTERS + Counter::ALL.len() <= worker::WORDS);

/// What a worker counts apart from its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Turns of the loop, that is system calls.
    Turns,
    /// Packets received on all sockets.
    PacketsReceived,
    /// Packets handed to the kernel to send.
    PacketsSent,
    /// Packets that the kernel refused to send.
    SendFailed,
    /// Packets not sent because a cap of the turn was reached.
    SendOverflow,
    /// Times that a receive stopped because no buffer was free.
    BuffersExhausted,
    /// Receives armed anew, for whatever reason.
    Rearmed,
    /// Completions for sockets that were closed already.
    Stale,
    /// Commands that did not parse.
    CommandsMalformed,
    /// Times that the command ring had to be emptied because it made no sense.
    CommandResyncs,
    /// Events dropped because the event ring was full.
    EventsDropped,
}

impl Counter {
    /// All of them, in the order of their place in the segment.
    pub const ALL: [Self; 11] = [
        Self::Turns,
        Self::PacketsReceived,
        Self::PacketsSent,
        Self::SendFailed,
        Self::SendOverflow,
        Self::BuffersExhausted,
        Self::Rearmed,
        Self::Stale,
        Self::CommandsMalformed,
        Self::CommandResyncs,
        Self::EventsDropped,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turns => "turns",
            Self::PacketsReceived => "packets_received",
            Self::PacketsSent => "packets_sent",
            Self::SendFailed => "send_failed",
            Self::SendOverflow => "send_overflow",
            Self::BuffersExhausted => "buffers_exhausted",
            Self::Rearmed => "rearmed",
            Self::Stale => "stale_completions",
            Self::CommandsMalformed => "commands_malformed",
            Self::CommandResyncs => "command_resyncs",
            Self::EventsDropped => "events_dropped",
        }
    }
}

/// How large the parts of a segment are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    /// Workers, 1 to `WORKERS_MAX`.
    pub workers: usize,
    /// Slots of each command ring: a power of two, 16 to 65,536.
    pub command_slots: usize,
    /// Slots of each event ring: a power of two, 16 to 65,536.
    pub event_slots: usize,
    /// Streams per worker, 1 to 1,048,576.
    pub streams: usize,
}

/// Why a segment could not be made or opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The sizes are out of range.
    #[error("segment sizes out of range: {0:?}")]
    Sizes(Sizes),
    /// The system refused.
    #[error("shared memory: {0}")]
    System(#[from] rustix::io::Errno),
    /// The file could be shrunk under us.
    #[error("the segment is not sealed (seals {0:#x})")]
    NotSealed(u32),
    /// It is something else.
    #[error("not a segment (magic {0:#018x})")]
    Magic(u64),
    /// It is of another version.
    #[error("the segment has ABI version {theirs}, this program {ABI_VERSION}")]
    Version {
        /// The version in its header.
        theirs: u64,
    },
    /// Its header and its file disagree.
    #[error("the segment has {file_bytes} bytes, its header describes {header_words} words")]
    Length {
        /// Bytes of the file.
        file_bytes: u64,
        /// Words after its header.
        header_words: u64,
    },
}

impl Sizes {
    fn check(self) -> Result<Self, Error> {
        let ring = |slots: usize| RING_SLOTS.contains(&slots) && slots.is_power_of_two();
        let ok = (1..=WORKERS_MAX).contains(&self.workers)
            && ring(self.command_slots)
            && ring(self.event_slots)
            && TABLE_ENTRIES.contains(&self.streams);
        if ok { Ok(self) } else { Err(Error::Sizes(self)) }
    }

    /// Words of one worker's area.
    fn worker_words(self) -> usize {
        let rings = (self.command_slots + self.event_slots) * SLOT_WORDS;
        (worker::WORDS + rings + self.streams * ENTRY_WORDS).next_multiple_of(PAGE_WORDS)
    }

    fn total_words(self) -> usize {
        PAGE_WORDS + self.workers * self.worker_words()
    }
}

/// A mapped and validated segment. Clones share the mapping.
#[derive(Debug, Clone)]
pub struct Segment {
    mapping: Arc<Mapping>,
    sizes: Sizes,
}

impl Segment {
    /// Makes one, empty, of epoch zero, and the file to hand to control.
    pub fn create(sizes: Sizes, pid: u32, started_at_unix_ms: u64) -> Result<(OwnedFd, Self), Error> {
        let total = sizes.check()?.total_words();
        let file = rustix::fs::memfd_create("nebula-segment", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&file, (total * 8) as u64)?;
        rustix::fs::fcntl_add_seals(&file, SEALS)?;
        let mapping = Mapping::new(&file, total)?;
        for (word, value) in [
            (header::ABI_VERSION, ABI_VERSION.into()),
            (header::TOTAL_WORDS, total as u64),
            (header::WORKERS, sizes.workers as u64),
            (header::COMMAND_SLOTS, sizes.command_slots as u64),
            (header::EVENT_SLOTS, sizes.event_slots as u64),
            (header::STREAMS, sizes.streams as u64),
            (header::PID, pid.into()),
            (header::STARTED_AT_UNIX_MS, started_at_unix_ms),
            (header::MAGIC, MAGIC),
        ] {
            // Relaxed: the file is handed over by a system call only afterwards.
            mapping.words()[word].store(value, Relaxed);
        }
        Ok((file, Self { mapping: Arc::new(mapping), sizes }))
    }

    /// Opens one that came from elsewhere, trusting nothing about it.
    pub fn open(file: impl AsFd) -> Result<Self, Error> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        if !seals.contains(SEALS) {
            return Err(Error::NotSealed(seals.bits()));
        }
        let file_bytes = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if file_bytes < PAGE_WORDS as u64 * 8 {
            return Err(Error::Length { file_bytes, header_words: 0 });
        }
        // The sizes are copied out once and never read again: a later change there changes nothing here.
        let front = Mapping::new(&file, PAGE_WORDS)?;
        let value = |word: usize| front.words()[word].load(Relaxed);
        let size = |word: usize| usize::try_from(value(word)).unwrap_or(usize::MAX);
        if value(header::MAGIC) != MAGIC {
            return Err(Error::Magic(value(header::MAGIC)));
        }
        if value(header::ABI_VERSION) != u64::from(ABI_VERSION) {
            return Err(Error::Version { theirs: value(header::ABI_VERSION) });
        }
        let sizes = Sizes {
            workers: size(header::WORKERS),
            command_slots: size(header::COMMAND_SLOTS),
            event_slots: size(header::EVENT_SLOTS),
            streams: size(header::STREAMS),
        }
        .check()?;
        let total = sizes.total_words() as u64;
        if file_bytes != total * 8 || value(header::TOTAL_WORDS) != total {
            return Err(Error::Length { file_bytes, header_words: value(header::TOTAL_WORDS) });
        }
        Ok(Self { mapping: Arc::new(Mapping::new(file, sizes.total_words())?), sizes })
    }

    /// Its sizes.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// The dataplane's process id.
    pub fn pid(&self) -> u32 {
        self.word(header::PID).load(Relaxed) as u32
    }

    /// When the dataplane started, Unix time in milliseconds. Tells one dataplane from its successor.
    pub fn started_at_unix_ms(&self) -> u64 {
        self.word(header::STARTED_AT_UNIX_MS).load(Relaxed)
    }

    /// How often control has attached. A handle of an older epoch has been taken over.
    pub fn epoch(&self) -> u64 {
        // Acquire: pairs with the Release in `bump_epoch`.
        self.word(header::EPOCH).load(Acquire)
    }

    /// Begins a new epoch. Only the dataplane's attach server calls it.
    pub fn bump_epoch(&self) -> u64 {
        let epoch = self.word(header::EPOCH).load(Relaxed) + 1;
        // Release: pairs with the Acquire in `epoch`; an older handle sees it before the new one sends.
        self.word(header::EPOCH).store(epoch, Release);
        epoch
    }

    /// When a worker last finished a turn: CLOCK_MONOTONIC, in milliseconds.
    pub fn heartbeat_ms(&self, worker: usize) -> u64 {
        self.area(worker)[worker::HEARTBEAT_MS].load(Relaxed)
    }

    /// One of a worker's counters.
    pub fn counter(&self, worker: usize, counter: Counter) -> u64 {
        self.area(worker)[worker::COUNTERS + counter as usize].load(Relaxed)
    }

    /// A worker's stream table.
    pub fn table(&self, worker: usize) -> Table<'_> {
        let start = worker::WORDS + (self.sizes.command_slots + self.sizes.event_slots) * SLOT_WORDS;
        Table { entries: self.area(worker)[start..][..self.sizes.streams * ENTRY_WORDS].as_chunks().0 }
    }

    pub(crate) fn command_ring(&self, worker: usize) -> Ring<'_, AtomicU64> {
        let area = self.area(worker);
        let slots = &area[worker::WORDS..][..self.sizes.command_slots * SLOT_WORDS];
        Ring { head: &area[worker::COMMAND_HEAD], tail: &area[worker::COMMAND_TAIL], slots: slots.as_chunks().0 }
    }

    pub(crate) fn event_ring(&self, worker: usize) -> Ring<'_, AtomicU64> {
        let area = self.area(worker);
        let start = worker::WORDS + self.sizes.command_slots * SLOT_WORDS;
        let slots = &area[start..][..self.sizes.event_slots * SLOT_WORDS];
        Ring { head: &area[worker::EVENT_HEAD], tail: &area[worker::EVENT_TAIL], slots: slots.as_chunks().0 }
    }

    fn word(&self, index: usize) -> &AtomicU64 {
        &self.mapping.words()[index]
    }

    /// Panics on a worker that does not exist: indices come from our own loops, never from a peer.
    fn area(&self, worker: usize) -> &[AtomicU64] {
        assert!(worker < self.sizes.workers);
        let words = self.sizes.worker_words();
        &self.mapping.words()[PAGE_WORDS + worker * words..][..words]
    }
}

/// The dataplane's end of one worker's part: it consumes commands, produces events and writes the table.
#[derive(Debug)]
pub struct WorkerEnd {
    segment: Segment,
    worker: usize,
    commands: Consumer,
    events: Producer,
    command_wakeup: OwnedFd,
    event_wakeup: OwnedFd,
    /// Events since the last `publish_events`.
    reported: bool,
}

impl WorkerEnd {
    /// For one worker; the eventfds are the ones that control is given.
    pub fn new(segment: Segment, worker: usize, command_wakeup: OwnedFd, event_wakeup: OwnedFd) -> Self {
        let commands = Consumer::resume(segment.command_ring(worker));
        let events = Producer::resume(segment.event_ring(worker));
        Self { segment, worker, commands, events, command_wakeup, event_wakeup, reported: false }
    }

    /// The next command, with its correlation id. Waits in the ring while there is no room for its answer.
    pub fn next_command(&mut self) -> Option<(u64, Result<crate::Command, Malformed>)> {
        loop {
            let room = self.events.has_room(self.segment.event_ring(self.worker), slot::ENCODED_BYTES_MAX);
            let message = if room { self.commands.pop(self.segment.command_ring(self.worker)) } else { None };
            let (correlation, command) = slot::decode_command(message?.as_bytes());
            if command.is_err() {
                self.count(Counter::CommandsMalformed, 1);
            }
            if let Some(correlation) = correlation {
                return Some((correlation, command));
            }
        }
    }

    /// Puts an event on the ring, to be seen after `publish_events`; a full ring drops and counts it (the table still
    /// shows what it was about).
    pub fn report(&mut self, event: &Event) {
        let encoded = slot::encode_event(event);
        let staged = self.events.stage(self.segment.event_ring(self.worker), encoded.as_bytes());
        self.count(Counter::EventsDropped, u64::from(staged == Err(Busy)));
        // A dropped one counts too: the table must still show what it was about.
        self.reported = true;
    }

    /// Shows control what was reported and wakes it: once a turn, after the table is up to date, so that who sees an answer
    /// also sees what it did.
    pub fn publish_events(&mut self) {
        if std::mem::take(&mut self.reported) {
            self.events.publish(self.segment.event_ring(self.worker));
            wake(&self.event_wakeup);
        }
    }

    /// Whether anything was reported since the last `publish_events`.
    pub fn has_reported(&self) -> bool {
        self.reported
    }

    /// Publishes a stream's record.
    pub fn publish(&self, index: usize, record: &StreamRecord) {
        self.segment.table(self.worker).write(index, record);
    }

    /// Says that the worker is alive: once a turn.
    pub fn beat(&self, now_ms: u64) {
        self.segment.area(self.worker)[worker::HEARTBEAT_MS].store(now_ms, Relaxed);
        self.set(Counter::CommandResyncs, self.commands.resyncs());
    }

    /// Adds to a counter.
    pub fn count(&self, counter: Counter, more: u64) {
        let word = &self.segment.area(self.worker)[worker::COUNTERS + counter as usize];
        // No read-modify-write: only this worker writes it.
        word.store(word.load(Relaxed) + more, Relaxed);
    }

    /// Sets a counter that is kept elsewhere.
    pub fn set(&self, counter: Counter, value: u64) {
        self.segment.area(self.worker)[worker::COUNTERS + counter as usize].store(value, Relaxed);
    }

    /// Readable when commands wait. The driver polls and drains it.
    pub fn command_wakeup(&self) -> BorrowedFd<'_> {
        self.command_wakeup.as_fd()
    }
}

/// A new eventfd for either direction.
pub fn wakeup() -> rustix::io::Result<OwnedFd> {
    use rustix::event::{EventfdFlags, eventfd};
    eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
}

/// Raises an eventfd. It fails only if it is raised 2^64 times already: then it is up anyway.
pub(crate) fn wake(wakeup: &OwnedFd) {
    let _ = rustix::io::write(wakeup, &1u64.to_ne_bytes());
}

/// Lowers an eventfd.
pub fn lower(wakeup: impl AsFd) {
    let _ = rustix::io::read(wakeup, &mut [0; 8]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, StreamId};
    use proptest::prelude::*;

    const SIZES: Sizes = Sizes { workers: 2, command_slots: 16, event_slots: 32, streams: 10 };

    #[test]
    fn what_was_created_opens_and_its_parts_are_apart() {
        let (file, created) = Segment::create(SIZES, 42, 1_000).unwrap();
        let opened = Segment::open(&file).unwrap();
        assert_eq!((opened.sizes(), opened.pid(), opened.started_at_unix_ms()), (SIZES, 42, 1_000));
        assert_eq!((created.bump_epoch(), opened.epoch()), (1, 1));
        for worker in 0..2 {
            assert_eq!(opened.command_ring(worker).slots.len(), 16);
            assert_eq!(opened.event_ring(worker).slots.len(), 32);
            for index in 0..10 {
                let id = (worker * 10 + index + 1) as u64;
                created.table(worker).write(index, &StreamRecord { id, ..Default::default() });
            }
            for word in created.command_ring(worker).slots.iter().chain(created.event_ring(worker).slots).flatten() {
                word.store(u64::MAX, Relaxed);
            }
        }
        for worker in 0..2 {
            let ids: Vec<_> = opened.table(worker).all().map(|record| record.id).collect();
            assert_eq!(ids, (1..=10).map(|n| (worker * 10 + n) as u64).collect::<Vec<_>>());
            assert_eq!(opened.command_ring(worker).tail.load(Relaxed), 0);
        }
    }

    #[test]
    fn a_command_waits_while_its_answer_has_no_room() {
        let (_file, segment) = Segment::create(SIZES, 1, 1).unwrap();
        let mut end = WorkerEnd::new(segment.clone(), 0, wakeup().unwrap(), wakeup().unwrap());
        let mut control = Producer::resume(segment.command_ring(0));
        let command = Command::DestroyStream { id: StreamId(5) };
        control.push(segment.command_ring(0), slot::encode_command(9, &command).as_bytes()).unwrap();
        for _ in 0..40 {
            end.report(&Event::RtpTimeout { id: StreamId(1) });
        }
        end.publish_events();
        assert_eq!(segment.counter(0, Counter::EventsDropped), 8);
        assert!(end.next_command().is_none());
        let mut events = Consumer::resume(segment.event_ring(0));
        assert!(events.pop(segment.event_ring(0)).is_some());
        assert_eq!(end.next_command(), Some((9, Ok(command))));
    }

    #[test]
    fn a_file_that_could_shrink_is_refused() {
        let file = rustix::fs::memfd_create("x", MemfdFlags::ALLOW_SEALING).unwrap();
        rustix::fs::ftruncate(&file, 1 << 20).unwrap();
        assert!(matches!(Segment::open(&file), Err(Error::NotSealed(_))));
    }

    fn with_header(words: &[(usize, u64)]) -> Result<Segment, Error> {
        let (file, segment) = Segment::create(SIZES, 1, 1).unwrap();
        words.iter().for_each(|(word, value)| segment.word(*word).store(*value, Relaxed));
        Segment::open(&file)
    }

    #[test]
    fn foreign_magic_and_version_are_named() {
        assert!(matches!(with_header(&[(header::MAGIC, 7)]), Err(Error::Magic(7))));
        assert!(matches!(with_header(&[(header::ABI_VERSION, 99)]), Err(Error::Version { theirs: 99 })));
        assert!(matches!(with_header(&[(header::STREAMS, 11_000)]), Err(Error::Length { .. })));
    }

    proptest! {
        #[test]
        fn hostile_sizes_are_refused(word in header::TOTAL_WORDS..=header::STREAMS, value: u64) {
            let (_, segment) = Segment::create(SIZES, 1, 1).unwrap();
            prop_assume!(segment.word(word).load(Relaxed) != value);
            prop_assert!(with_header(&[(word, value)]).is_err());
        }
    }
}
