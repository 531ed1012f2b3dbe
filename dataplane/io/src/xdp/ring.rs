//! The four rings that an AF_XDP socket shares with the kernel, over its mappings. One side produces, the other consumes;
//! each writes its own index only. All indices count modulo 2^32, and a ring's size is a power of two.

use rustix::fd::BorrowedFd;
use rustix::mm::{MapFlags, ProtFlags};
use rustix::net::xdp::{XdpDesc, XdpRingFlags, XdpRingOffset};
use std::ffi::c_void;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

/// One mapped ring of `T`: u64 addresses, or descriptors.
struct Mapped<T> {
    start: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: Option<NonNull<AtomicU32>>,
    entries: NonNull<T>,
    mask: u32,
}

// SAFETY: the mapping belongs to this value alone; it may be used from any one thread.
unsafe impl<T> Send for Mapped<T> {}

/// What the kernel lets be read and written of a ring's entries.
pub trait Entry: Copy {}
impl Entry for u64 {}
impl Entry for XdpDesc {}

impl<T: Entry> Mapped<T> {
    fn new(socket: BorrowedFd<'_>, place: u64, offsets: &XdpRingOffset, size: u32) -> rustix::io::Result<Self> {
        assert!(size.is_power_of_two());
        let bytes = offsets.desc as usize + size as usize * size_of::<T>();
        let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED | MapFlags::POPULATE);
        // SAFETY: a null hint lets the kernel choose a free range.
        let start = unsafe { rustix::mm::mmap(std::ptr::null_mut(), bytes, access, kind, socket, place) }?;
        let start = NonNull::new(start.cast::<u8>()).ok_or(rustix::io::Errno::NOMEM)?;
        let within = |offset: u64| {
            assert!((offset as usize) < bytes, "the kernel's offsets lie in its mapping");
            // SAFETY: asserted.
            unsafe { start.add(offset as usize) }
        };
        Ok(Self {
            start,
            bytes,
            producer: within(offsets.producer).cast(),
            consumer: within(offsets.consumer).cast(),
            flags: offsets.flags.map(|offset| within(offset).cast()),
            entries: within(offsets.desc).cast(),
            mask: size - 1,
        })
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: within the mapping, which lives as long as self, and aligned by the kernel's ABI.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn entry(&self, index: u32) -> *mut T {
        // SAFETY: masked, so within the ring.
        unsafe { self.entries.as_ptr().add((index & self.mask) as usize) }
    }

    /// Whether the kernel asked to be woken up for this ring.
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as above. Relaxed: a hint, which the next turn sees if this one does not.
        let flags = self.flags.map_or(0, |flags| unsafe { flags.as_ref() }.load(Ordering::Relaxed));
        XdpRingFlags::from_bits_retain(flags).contains(XdpRingFlags::XDP_RING_NEED_WAKEUP)
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; nothing of it outlives self.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.bytes) };
    }
}

/// A ring that we write: fill, or transmit.
pub struct Producer<T: Entry> {
    ring: Mapped<T>,
    /// Entries written; the kernel sees them after `publish`.
    written: u32,
    /// As far as the kernel was seen to have read.
    read: u32,
}

impl<T: Entry> Producer<T> {
    /// Maps one. `place` is the file offset by which the kernel knows which.
    pub fn new(socket: BorrowedFd<'_>, place: u64, offsets: &XdpRingOffset, size: u32) -> rustix::io::Result<Self> {
        let ring = Mapped::new(socket, place, offsets, size)?;
        Ok(Self { written: 0, read: 0, ring })
    }

    /// Entries that can be written now.
    #[inline]
    pub fn room(&mut self) -> u32 {
        // Acquire: pairs with the kernel's release of its consumer; what it has read may be overwritten.
        self.read = self.ring.consumer().load(Ordering::Acquire);
        self.ring.mask + 1 - self.written.wrapping_sub(self.read)
    }

    /// Writes one; false if there is no room.
    #[inline]
    pub fn push(&mut self, entry: T) -> bool {
        if self.written.wrapping_sub(self.read) > self.ring.mask && self.room() == 0 {
            return false;
        }
        // SAFETY: within the ring, and not the kernel's: it has read that far, and reads no further than we publish.
        unsafe { self.ring.entry(self.written).write(entry) };
        self.written = self.written.wrapping_add(1);
        true
    }

    /// Shows the kernel all that was written.
    #[inline]
    pub fn publish(&mut self) {
        // Release: pairs with the kernel's acquire of the producer; entries are written before it.
        self.ring.producer().store(self.written, Ordering::Release);
    }

    /// How many the kernel has yet to read.
    #[inline]
    pub fn pending(&self) -> u32 {
        // Acquire: as in `room`.
        self.written.wrapping_sub(self.ring.consumer().load(Ordering::Acquire))
    }

    /// Whether it has yet to read some.
    #[inline]
    pub fn is_pending(&self) -> bool {
        self.pending() > 0
    }

    /// See `Mapped::needs_wakeup`.
    #[inline]
    pub fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that we read: completion, or receive.
pub struct Consumer<T: Entry> {
    ring: Mapped<T>,
    read: u32,
    written: u32,
}

impl<T: Entry> Consumer<T> {
    /// Maps one, as above.
    pub fn new(socket: BorrowedFd<'_>, place: u64, offsets: &XdpRingOffset, size: u32) -> rustix::io::Result<Self> {
        let ring = Mapped::new(socket, place, offsets, size)?;
        Ok(Self { read: 0, written: 0, ring })
    }

    /// The next entry, if there is one.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.read == self.written {
            // Acquire: pairs with the kernel's release of its producer; entries are written before it.
            self.written = self.ring.producer().load(Ordering::Acquire);
            if self.read == self.written {
                return None;
            }
        }
        // SAFETY: within the ring, and written: the kernel has published it and writes no further than we have read.
        let entry = unsafe { self.ring.entry(self.read).read() };
        self.read = self.read.wrapping_add(1);
        Some(entry)
    }

    /// Lets the kernel have back what was read.
    #[inline]
    pub fn release(&mut self) {
        // Release: pairs with the kernel's acquire of the consumer; entries are read before it.
        self.ring.consumer().store(self.read, Ordering::Release);
    }

    /// Whether the kernel has written something that was not read.
    #[inline]
    pub fn has_more(&self) -> bool {
        // Acquire: as in `pop`.
        self.ring.producer().load(Ordering::Acquire) != self.read
    }
}
