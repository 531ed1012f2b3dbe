//! The memory that frames lie in: chunks of 2,048 bytes, each owned by exactly one side at a time. The kernel owns those on
//! the fill ring and on the transmit ring; the worker those it has taken from the receive and the completion ring, and those
//! in the free list.

use rustix::mm::{MapFlags, ProtFlags};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Bytes of a chunk: half a page, the least that aligned chunks may have.
pub const CHUNK_BYTES: usize = 2048;
/// Where a frame of our own begins its payload: behind the longest headers, and aligned. The kernel leaves as much in front
/// of frames it receives (XDP_PACKET_HEADROOM).
pub const PAYLOAD_START: usize = 256;
const _: () = assert!(PAYLOAD_START > super::frame::HEADERS_BYTES_MAX);

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
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::POPULATE);
        let bytes = chunks as usize * CHUNK_BYTES;
        // SAFETY: a null hint lets the kernel choose a free range.
        let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, kind) }?;
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
