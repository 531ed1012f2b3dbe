//! A memfd mapped as a slice of atomic words: the only `unsafe` of this crate.

use rustix::fd::AsFd;
use rustix::mm::{MapFlags, ProtFlags};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

/// A shared mapping, unmapped on drop. The file behind it must be sealed against shrinking, or an access could raise SIGBUS:
/// `segment` sees to that before it maps.
#[derive(Debug)]
pub struct Mapping {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is plain memory that stays valid until drop, and it is only ever reached as `&[AtomicU64]`.
unsafe impl Send for Mapping {}
// SAFETY: as above; shared access is what atomics are for.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `words` words from the start of a file that has at least that many.
    pub fn new(file: impl AsFd, words: usize) -> rustix::io::Result<Self> {
        Self::map(file, words, ProtFlags::READ | ProtFlags::WRITE)
    }

    /// The same, to be read only. Whoever holds it must see to it that no word is stored to: `segment::Observed` does.
    pub fn read_only(file: impl AsFd, words: usize) -> rustix::io::Result<Self> {
        Self::map(file, words, ProtFlags::READ)
    }

    fn map(file: impl AsFd, words: usize, protection: ProtFlags) -> rustix::io::Result<Self> {
        let bytes =
            words.checked_mul(size_of::<AtomicU64>()).filter(|bytes| *bytes > 0).ok_or(rustix::io::Errno::INVAL)?;
        // SAFETY: a null hint lets the kernel choose a free range, so no existing mapping is touched.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, protection, MapFlags::SHARED, file, 0) }?;
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { start, words })
    }

    /// All of it.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `start` is page-aligned and maps `words` words until drop; any bits are a valid AtomicU64; other
        // processes reach the memory by atomics too (and if they do not, only values suffer: the reads here are atomic).
        // A read-only mapping is only loaded from, Relaxed or Acquire, in words of the machine: allowed on such memory.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: exactly the range that `new` mapped; no reference outlives `self`. Unmapping a valid range cannot fail.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast(), self.words * size_of::<AtomicU64>()) };
    }
}
