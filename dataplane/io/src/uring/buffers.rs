//! The receive buffers and the ring by which they are lent to the kernel. Each is owned by exactly one side at a time: by the
//! kernel from `provide` until a completion names it, by the worker from then until `release`.

use nebula_core::driver::Datagram;
use rustix::mm::{MapFlags, ProtFlags};
use std::cell::Cell;
use std::ffi::c_void;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::Submitter;
use io_uring::types::BufRingEntry;

/// The usual size of a huge page.
const HUGE_PAGE_BYTES: usize = 2 << 20;
/// Bytes of a buffer: the kernel's header and the source address, then the packet.
const BUFFER_BYTES: usize = 1536;
/// `struct io_uring_recvmsg_out`: four u32, of which the first is the address's length, the third the payload's.
const OUT_BYTES: usize = 16;
/// Room for the source address: the larger of sockaddr_in and sockaddr_in6, rounded up so that packets are aligned.
const NAME_BYTES: usize = 32;
const PACKET_START: usize = OUT_BYTES + NAME_BYTES;
const _: () = assert!(NAME_BYTES >= size_of::<libc::sockaddr_in6>());
const _: () =
    assert!(BUFFER_BYTES - PACKET_START > nebula_core::limits::PACKET_BYTES_MAX, "a cut packet is seen to be too long");

/// The message header that multishot receives refer to: it only says how long addresses may be.
pub fn receive_header() -> libc::msghdr {
    // SAFETY: msghdr is plain data for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_namelen = NAME_BYTES as u32;
    header
}

/// See the module.
pub struct Pool {
    /// The kernel's ring of free buffers, then the buffers.
    start: NonNull<u8>,
    mapped_bytes: usize,
    huge_pages: bool,
    entries: u16,
    /// Buffers ever put on the ring, modulo 2^16, as the kernel counts.
    tail: Cell<u16>,
}

impl Pool {
    /// Takes the memory: huge pages, if it fills half of one and so many are reserved on this host, else ordinary ones.
    /// `entries` is a power of two up to 32,768.
    pub fn new(entries: u16) -> rustix::io::Result<Self> {
        if !entries.is_power_of_two() {
            return Err(rustix::io::Errno::INVAL);
        }
        let small = bytes(entries);
        let huge = (small >= HUGE_PAGE_BYTES / 2).then(|| small.next_multiple_of(HUGE_PAGE_BYTES));
        // Reserved with the mapping: no page of it can be found missing later.
        let huge = huge.and_then(|bytes| Some((map(bytes, MapFlags::HUGETLB | MapFlags::HUGE_2MB).ok()?, bytes)));
        let huge_pages = huge.is_some();
        let (start, mapped_bytes) = match huge {
            Some(mapped) => mapped,
            None => (map(small, MapFlags::empty())?, small),
        };
        let pool = Self { start, mapped_bytes, huge_pages, entries, tail: Cell::new(0) };
        (0..entries).for_each(|buffer| pool.release(buffer));
        pool.provide();
        Ok(pool)
    }

    /// Its bytes, and whether they are in huge pages.
    pub fn memory(&self) -> (usize, bool) {
        (self.mapped_bytes, self.huge_pages)
    }

    /// Makes it known to a ring, which must not outlive the pool's use.
    pub fn register(&self, submitter: &Submitter<'_>, group: u16) -> std::io::Result<()> {
        // SAFETY: the ring starts the mapping (page-aligned), has `entries` entries, and lives until the pool is dropped,
        // which its owner does after the io_uring.
        unsafe { submitter.register_buf_ring_with_flags(self.start.as_ptr() as u64, self.entries, group, 0) }
    }

    /// Gives a buffer back; the kernel sees it after `provide`.
    pub fn release(&self, buffer: u16) {
        let entry = self.entry(self.tail.get() & (self.entries - 1));
        // SAFETY: `entry` is within the ring; the kernel reads entries only up to the published tail. The fields are
        // written one by one because the first entry shares its memory with the tail itself.
        unsafe {
            (*entry).set_addr(self.buffer(buffer) as u64);
            (*entry).set_len(BUFFER_BYTES as u32);
            (*entry).set_bid(buffer);
        }
        self.tail.set(self.tail.get().wrapping_add(1));
    }

    /// Shows the kernel all that was released.
    pub fn provide(&self) {
        // SAFETY: the tail is a u16 within the first entry, aligned, and only this thread writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entry(0)).cast_mut()) };
        // Release: pairs with the kernel's acquire of the tail; entries are written before it.
        tail.store(self.tail.get(), Ordering::Release);
    }

    /// The source and the payload of a packet received into a buffer, with all the room behind it; none if the kernel's header makes no sense.
    ///
    /// # Safety
    /// The buffer must be the worker's, and not referred to from elsewhere while the packet is.
    #[allow(clippy::mut_from_ref)] // each buffer is a cell of its own; see the precondition
    pub unsafe fn packet(&self, buffer: u16, result: i32) -> Option<(Option<SocketAddr>, Datagram<'_>)> {
        let len = usize::try_from(result).ok().filter(|len| (PACKET_START..=BUFFER_BYTES).contains(len))?;
        if buffer >= self.entries {
            return None;
        }
        // SAFETY: in bounds (checked), initialised (anonymous memory), and exclusive by the precondition.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.buffer(buffer), BUFFER_BYTES) };
        let (front, payload) = bytes.split_at_mut(PACKET_START);
        let payload_len = u32::from_ne_bytes(*front[8..].first_chunk()?) as usize;
        let payload_len = payload_len.min(len - PACKET_START);
        Some((source(&front[OUT_BYTES..]), Datagram::new(payload, payload_len)))
    }

    fn entry(&self, index: u16) -> *mut BufRingEntry {
        // SAFETY: callers mask or use zero, so it is within the mapping.
        unsafe { self.start.cast::<BufRingEntry>().as_ptr().add(index as usize) }
    }

    fn buffer(&self, index: u16) -> *mut u8 {
        debug_assert!(index < self.entries);
        // SAFETY: the buffers follow the ring within the mapping.
        unsafe { self.start.as_ptr().add(ring_bytes(self.entries) + index as usize * BUFFER_BYTES) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // SAFETY: exactly what `new` mapped; no packet outlives its borrow of the pool.
        let _ = unsafe { rustix::mm::munmap(self.start.as_ptr().cast::<c_void>(), self.mapped_bytes) };
    }
}

fn map(bytes: usize, kind: MapFlags) -> rustix::io::Result<NonNull<u8>> {
    let (access, kind) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | kind);
    // SAFETY: a null hint lets the kernel choose a free range.
    let start = unsafe { rustix::mm::mmap_anonymous(std::ptr::null_mut(), bytes, access, kind) }?;
    NonNull::new(start.cast()).ok_or(rustix::io::Errno::NOMEM)
}

fn ring_bytes(entries: u16) -> usize {
    (entries as usize * size_of::<BufRingEntry>()).next_multiple_of(4096)
}

fn bytes(entries: u16) -> usize {
    ring_bytes(entries) + entries as usize * BUFFER_BYTES
}

/// Reads a sockaddr_in or sockaddr_in6: family in host order, port and address in network order.
fn source(name: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*name.first_chunk()?);
    let port = u16::from_be_bytes(*name[2..].first_chunk()?);
    match i32::from(family) {
        libc::AF_INET => Some(SocketAddr::new(Ipv4Addr::from(*name[4..].first_chunk::<4>()?).into(), port)),
        libc::AF_INET6 => Some(SocketAddr::new(Ipv6Addr::from(*name[8..].first_chunk::<16>()?).into(), port)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_both_families_are_read_and_others_are_none() {
        for address in ["192.0.2.1:5004", "[2001:db8::7]:65535"] {
            let address: SocketAddr = address.parse().unwrap();
            let raw = socket2::SockAddr::from(address);
            let mut name = [0; NAME_BYTES];
            // SAFETY: the address is that long and initialised.
            let raw = unsafe { std::slice::from_raw_parts(raw.as_ptr().cast::<u8>(), raw.len() as usize) };
            name[..raw.len()].copy_from_slice(raw);
            assert_eq!(source(&name), Some(address));
        }
        assert_eq!(source(&[0; NAME_BYTES]), None);
    }

    /// On a host with none reserved this is the way back, on others the way there.
    #[test]
    fn a_large_pool_is_in_huge_pages_where_there_are_some_and_a_small_one_never() {
        let reserved = std::fs::read_to_string("/proc/sys/vm/nr_hugepages").is_ok_and(|count| count.trim() != "0");
        let (bytes, huge) = Pool::new(1024).unwrap().memory();
        assert!(bytes >= 1024 * BUFFER_BYTES && (reserved || !huge));
        assert_eq!(huge, bytes % HUGE_PAGE_BYTES == 0);
        assert!(!Pool::new(64).unwrap().memory().1);
    }

    #[test]
    fn a_packet_is_what_the_header_says_within_what_was_received() {
        let pool = Pool::new(2).unwrap();
        let front = [0u32, 0, 5, 0].map(u32::to_ne_bytes).concat();
        // SAFETY: no kernel has these buffers.
        unsafe { std::slice::from_raw_parts_mut(pool.buffer(1), 16) }.copy_from_slice(&front);
        let len = |buffer, result| {
            // SAFETY: as above, and each packet is dropped before the next.
            unsafe { pool.packet(buffer, result) }.map(|(_, packet)| packet.len())
        };
        assert_eq!(len(1, PACKET_START as i32 + 5), Some(5));
        assert_eq!(len(1, PACKET_START as i32 + 3), Some(3));
        assert_eq!(len(0, PACKET_START as i32), Some(0));
        assert_eq!([len(1, -1), len(1, 10), len(1, 5000), len(9, 100)], [None; 4]);
    }
}
