//! The shared segment: one sealed memfd, seen as 64-bit atomic words. A header page, then per worker its indices and
//! counters, a command ring, an event ring and a stream table (`layout`).
//!
//! The dataplane creates it once, at start; control opens what it is handed over the attach socket and checks all of it
//! before it uses any: seals, size, magic, version, and that the sizes in the header add up to the file.

mod counters;
mod layout;
mod observed;

pub use counters::Counter;
pub use layout::{Sizes, WORKERS_MAX};
pub use observed::{Observed, Waiting};

use crate::ABI_VERSION;
use crate::mapping::Mapping;
use crate::spsc::{Ring, SLOT_WORDS};
use crate::table::{ENTRY_WORDS, Table};
use layout::{MAGIC, PAGE_WORDS, SEALS, header, worker};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::MemfdFlags;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

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
        Self::open_by(file, |file, words| Mapping::new(file, words))
    }

    fn open_by(
        file: impl AsFd,
        map: impl Fn(BorrowedFd<'_>, usize) -> rustix::io::Result<Mapping>,
    ) -> Result<Self, Error> {
        let seals = rustix::fs::fcntl_get_seals(&file)?;
        if !seals.contains(SEALS) {
            return Err(Error::NotSealed(seals.bits()));
        }
        let file_bytes = u64::try_from(rustix::fs::fstat(&file)?.st_size).unwrap_or(0);
        if file_bytes < PAGE_WORDS as u64 * 8 {
            return Err(Error::Length { file_bytes, header_words: 0 });
        }
        // The sizes are copied out once and never read again: a later change there changes nothing here.
        let front = map(file.as_fd(), PAGE_WORDS)?;
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
        Ok(Self { mapping: Arc::new(map(file.as_fd(), sizes.total_words())?), sizes })
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

    /// Sets one of a worker's counters. Only that worker may.
    pub(crate) fn set_counter(&self, worker: usize, counter: Counter, value: u64) {
        self.area(worker)[worker::COUNTERS + counter as usize].store(value, Relaxed);
    }

    /// Says that a worker is alive. Only that worker may.
    pub(crate) fn beat(&self, worker: usize, now_ms: u64) {
        self.area(worker)[worker::HEARTBEAT_MS].store(now_ms, Relaxed);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::StreamRecord;
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
