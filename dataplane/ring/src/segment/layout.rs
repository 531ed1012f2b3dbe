//! Where everything lies in the segment, in words, and how large its parts may be. Pure.

use super::{Counter, Error};
use crate::spsc::SLOT_WORDS;
use crate::table::ENTRY_WORDS;
use rustix::fs::SealFlags;
use std::ops::RangeInclusive;

/// "NEBULA" and the kind of file.
pub(super) const MAGIC: u64 = u64::from_le_bytes(*b"NEBULA\0S");
/// Header and worker areas are multiples of a page.
pub(super) const PAGE_WORDS: usize = 512;
const _: () = assert!(PAGE_WORDS * 8 == 4096);
/// Words between indices that different sides write: two cache lines, because of the adjacent-line prefetcher.
const PAD_WORDS: usize = 16;

/// Workers that a segment can have; their eventfds travel in one message.
pub const WORKERS_MAX: usize = 64;
const RING_SLOTS: RangeInclusive<usize> = 16..=65_536;
const TABLE_ENTRIES: RangeInclusive<usize> = 1..=1_048_576;
pub(super) const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// Word indices of the header.
pub(super) mod header {
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
pub(crate) mod worker {
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

impl Sizes {
    pub(super) fn check(self) -> Result<Self, Error> {
        let ring = |slots: usize| RING_SLOTS.contains(&slots) && slots.is_power_of_two();
        let ok = (1..=WORKERS_MAX).contains(&self.workers)
            && ring(self.command_slots)
            && ring(self.event_slots)
            && TABLE_ENTRIES.contains(&self.streams);
        if ok { Ok(self) } else { Err(Error::Sizes(self)) }
    }

    /// Words of one worker's area.
    pub(super) fn worker_words(self) -> usize {
        let rings = (self.command_slots + self.event_slots) * SLOT_WORDS;
        (worker::WORDS + rings + self.streams * ENTRY_WORDS).next_multiple_of(PAGE_WORDS)
    }

    pub(super) fn total_words(self) -> usize {
        PAGE_WORDS + self.workers * self.worker_words()
    }
}
