//! The memory that frames lie in: chunks of 2,048 bytes, each owned by exactly one side at a time. The kernel owns those on
//! the fill ring and on the transmit ring; the worker those it has taken from the receive and the completion ring, and those
//! in the free list.

use rustix::mm::{Advice, MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Bytes of a chunk: half a page, the least that aligned chunks may have.
pub const CHUNK_BYTES: usize = 2048;
/// Where a frame of our own begins its payload: behind the longest headers, and aligned. The kernel leaves as much in front
/// of frames it receives (XDP_PACKET_HEADROOM).
pub const PAYLOAD_START: usize = 256;
const _: () = assert!(PAYLOAD_START > super::frame::HEADERS_BYTES_MAX);

const CACHE_LINE_BYTES: usize = 64;
/// The headers and 20 ms of G.711, SRTP's tag included; what is longer is read in order, which processors foresee.
const PREFETCH_BYTES_MAX: usize = 4 * CACHE_LINE_BYTES;

/// See the module.
pub struct Umem {
    start: NonNull<u8>,
    chunks: u32,
    free: Vec<u64>,
}

// SAFETY: the mapping belongs to this value alone; it may be used from any one thread.
unsafe impl Send for Umem {}

impl Umem {
    /// Takes the memory; all chunks are free.
    pub fn new(chunks: u32) -> rustix::io::Result<Self> {
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        let bytes = chunks as usize * CHUNK_BYTES;
        // SAFETY: a null hint lets the kernel choose a free range.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, kind) }?;
        // Huge pages where there are some, and all of it now. Neither is a condition: binding a socket pins the pages anyway.
        for advice in [Advice::LinuxHugepage, Advice::LinuxPopulateWrite] {
            // SAFETY: of the mapping just made; neither changes what is in it.
            let _ = unsafe { rustix::mm::madvise(start, bytes, advice) };
        }
        let start = NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let free = (0..u64::from(chunks)).rev().map(|chunk| chunk * CHUNK_BYTES as u64).collect();
        Ok(Self { start, chunks, free })
    }

    /// Where it lies, and how long it is.
    pub fn range(&self) -> (u64, u64) {
        (self.start.as_ptr() as u64, self.bytes() as u64)
    }

    /// Takes a free chunk: the address of its first byte.
    #[inline]
    pub fn take(&mut self) -> Option<u64> {
        self.free.pop()
    }

    /// Gives back a chunk that the worker owns, by any address in it.
    #[inline]
    pub fn give(&mut self, address: u64) {
        debug_assert!(self.free.len() < self.chunks as usize, "a chunk was given twice");
        self.free.push(address & !(CHUNK_BYTES as u64 - 1));
    }

    /// How many are free.
    #[inline]
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// How many there are.
    pub fn chunks(&self) -> u32 {
        self.chunks
    }

    /// The whole chunk around an address, and the address within it; none outside of the memory.
    ///
    /// # Safety
    /// The worker owns the chunk, and nothing else refers to it while the slice lives.
    #[inline]
    pub unsafe fn chunk<'a>(&self, address: u64) -> Option<(&'a mut [u8], usize)> {
        let address = usize::try_from(address).ok().filter(|address| *address < self.bytes())?;
        let within = address % CHUNK_BYTES;
        // SAFETY: in bounds (checked), initialised (anonymous memory), and exclusive by the precondition.
        let chunk = unsafe { std::slice::from_raw_parts_mut(self.start.as_ptr().add(address - within), CHUNK_BYTES) };
        Some((chunk, within))
    }

    /// Has this core fetch the frame at an address, which another one has written: `relay-bench peers --only veth` saw two
    /// thirds of the driver's own time go by in waiting for the first bytes of each.
    #[inline]
    pub fn prefetch(&self, address: u64, len: usize) {
        #[cfg(target_arch = "x86_64")]
        for line in (0..len.min(PREFETCH_BYTES_MAX)).step_by(CACHE_LINE_BYTES) {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let at = self.start.as_ptr().wrapping_add(address as usize).wrapping_add(line);
            // SAFETY: a prefetch changes nothing that a program can see, and of an address that is nobody's it does nothing.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(at.cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = (address, len);
    }

    fn bytes(&self) -> usize {
        self.chunks as usize * CHUNK_BYTES
    }
}

impl Drop for Umem {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped. The kernel holds on to the pages themselves while sockets use them.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes()) };
    }
}
