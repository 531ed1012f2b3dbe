//! One worker's sockets on one interface: a queue each, over one umem, so that a frame received by one of them can be sent by
//! another without a copy.

use super::interface::Interface;
use super::program::OpenPorts;
use super::ring::{Consumer, Producer};
use super::umem::{CHUNK_BYTES, Umem};
use super::{Error, Tuning};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::xdp::{
    SocketAddrXdp, SocketAddrXdpFlags, SocketAddrXdpWithSharedUmem, XdpDesc, XdpDescOptions, XdpOptionsFlags,
    XdpUmemReg, XdpUmemRegFlags,
};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use std::io;

/// File offsets by which the kernel's rings are mapped (linux/if_xdp.h).
const PLACE_RX: u64 = 0;
const PLACE_TX: u64 = 0x8000_0000;
const PLACE_FILL: u64 = 0x1_0000_0000;
const PLACE_COMPLETION: u64 = 0x1_8000_0000;
/// XDP_MAX_TX_SKB_BUDGET (Linux 6.17): frames that one call sends in copy mode; 32 without it.
const MAX_TX_SKB_BUDGET: libc::c_int = 9;
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
/// Frames that one poll of a busy-polling socket takes from the card.
const BUSY_POLL_BUDGET: libc::c_int = 64;
/// Of all chunks, an eighth is never lent to the kernel for receiving: what the engine makes itself can always leave.
const RESERVE: usize = 8;
/// Calls that a queue is given at once to send what it holds, 32 frames each on older kernels.
const KICKS_MAX: u32 = 128;

/// See the module.
pub struct Group {
    /// Where its frames come from and go to.
    pub interface: Interface,
    /// What the interface's program redirects.
    pub open_ports: OpenPorts,
    /// None for a worker beyond the number of queues: it hears and sends by others, or by the kernel.
    pub queues: Vec<Queue>,
    /// The frames' memory; dropped after the sockets.
    pub umem: Umem,
}

/// An AF_XDP socket and its four rings.
pub struct Queue {
    fd: OwnedFd,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    rx: Consumer<XdpDesc>,
    tx: Producer<XdpDesc>,
    /// Frames were queued since the kernel was last told.
    unsent: bool,
    /// The kernel has no room for what is queued: it must be told again.
    stuck: bool,
    /// Whether frames lie in the umem where the card put them.
    pub zero_copy: bool,
}

impl Group {
    /// Opens a socket on each of these queues of the interface.
    pub fn new(interface: Interface, open_ports: OpenPorts, queues: &[u32], tuning: &Tuning) -> Result<Self, Error> {
        let chunks = tuning.frames * queues.len() as u32;
        let umem = Umem::new(chunks.max(1)).map_err(failed("memory for frames"))?;
        let mut group = Self { interface, open_ports, queues: Vec::with_capacity(queues.len()), umem };
        for &queue in queues {
            let first = group.queues.first().map(|it| it.fd.as_fd());
            let opened = Queue::open(&group.interface, queue, &group.umem, first, tuning)?;
            group.queues.push(opened);
        }
        group.recycle();
        Ok(group)
    }

    /// Takes back what was sent, and lends the kernel chunks to receive into.
    pub fn recycle(&mut self) {
        let reserve = self.umem.chunks() as usize / RESERVE;
        for queue in &mut self.queues {
            while let Some(address) = queue.completion.pop() {
                self.umem.give(address);
            }
            queue.completion.release();
            let lend = (queue.fill.room() as usize).min(self.umem.free().saturating_sub(reserve));
            for _ in 0..lend {
                let Some(address) = self.umem.take() else { break };
                queue.fill.push(address);
            }
            if lend > 0 {
                queue.fill.publish();
            }
        }
    }

    /// Takes frames that have come by a queue, where they lie and how long they are: as many as there are places for. All of
    /// them are under way to this core when the first one is looked at.
    #[inline]
    pub fn take(&mut self, queue: usize, frames: &mut [(u64, usize)]) -> usize {
        let mut taken = 0;
        for place in frames {
            let Some((address, len)) = self.queues[queue].received() else { break };
            self.umem.prefetch(address, len);
            *place = (address, len);
            taken += 1;
        }
        taken
    }
}

impl Queue {
    fn open(
        interface: &Interface,
        queue: u32,
        umem: &Umem,
        first: Option<BorrowedFd<'_>>,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        // What binds with zero copy cannot be bound again without: it is tried on a socket of its own.
        let modes: &[SocketAddrXdpFlags] = match first {
            Some(_) => &[SocketAddrXdpFlags::XDP_SHARED_UMEM],
            None => &[
                SocketAddrXdpFlags::XDP_ZEROCOPY.union(SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP),
                SocketAddrXdpFlags::XDP_COPY.union(SocketAddrXdpFlags::XDP_USE_NEED_WAKEUP),
            ],
        };
        let mut result = Err(Error::NoInterface);
        for &flags in modes {
            result = Self::try_open(interface, queue, umem, first, flags, tuning);
            if result.is_ok() {
                break;
            }
        }
        result
    }

    fn try_open(
        interface: &Interface,
        queue: u32,
        umem: &Umem,
        first: Option<BorrowedFd<'_>>,
        flags: SocketAddrXdpFlags,
        tuning: &Tuning,
    ) -> Result<Self, Error> {
        let fd = rustix::net::socket_with(AddressFamily::XDP, SocketType::RAW, SocketFlags::CLOEXEC, None)
            .map_err(failed("an AF_XDP socket"))?;
        if first.is_none() {
            let (addr, len) = umem.range();
            let flags = XdpUmemRegFlags::empty();
            let chunk_size = CHUNK_BYTES as u32;
            let region = XdpUmemReg { addr, len, chunk_size, headroom: 0, flags, tx_metadata_len: 0 };
            sockopt::set_xdp_umem_reg(&fd, region).map_err(failed("the frames' memory (LimitMEMLOCK=)"))?;
        }
        let size = tuning.frames / 2;
        let rings = || -> rustix::io::Result<_> {
            sockopt::set_xdp_umem_fill_ring_size(&fd, size)?;
            sockopt::set_xdp_umem_completion_ring_size(&fd, size)?;
            sockopt::set_xdp_rx_ring_size(&fd, size)?;
            sockopt::set_xdp_tx_ring_size(&fd, size)?;
            let offsets = sockopt::xdp_mmap_offsets(&fd)?;
            Ok((
                Producer::new(fd.as_fd(), PLACE_FILL, &offsets.fr, size)?,
                Consumer::new(fd.as_fd(), PLACE_COMPLETION, &offsets.cr, size)?,
                Consumer::new(fd.as_fd(), PLACE_RX, &offsets.rx, size)?,
                Producer::new(fd.as_fd(), PLACE_TX, &offsets.tx, size)?,
            ))
        };
        let (fill, completion, rx, tx) = rings().map_err(failed("the rings of an AF_XDP socket"))?;
        // All three make it cheaper and are no condition: an older kernel has not all of them.
        let _ = set_option(&fd, libc::SOL_XDP, MAX_TX_SKB_BUDGET, size as libc::c_int);
        let _ = sockopt::set_socket_send_buffer_size_force(&fd, size as usize * CHUNK_BYTES);
        if let Some(busy_poll) = tuning.busy_poll {
            let _ = set_option(&fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, 1);
            let _ = set_option(&fd, libc::SOL_SOCKET, libc::SO_BUSY_POLL, busy_poll.as_micros() as libc::c_int);
            let _ = set_option(&fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, BUSY_POLL_BUDGET);
        }
        let address = SocketAddrXdp::new(flags, interface.index, queue);
        let bound = match first {
            Some(shared_umem_fd) => {
                rustix::net::bind(&fd, &SocketAddrXdpWithSharedUmem { addr: address, shared_umem_fd })
            }
            None => rustix::net::bind(&fd, &address),
        };
        bound.map_err(failed("an AF_XDP socket on a queue (is another program there?)"))?;
        let options = sockopt::xdp_options(&fd).unwrap_or(XdpOptionsFlags::empty());
        let zero_copy = options.contains(XdpOptionsFlags::XDP_OPTIONS_ZEROCOPY);
        Ok(Self { fd, fill, completion, rx, tx, unsent: false, stuck: false, zero_copy })
    }

    /// The next frame that came in, where it lies.
    #[inline]
    fn received(&mut self) -> Option<(u64, usize)> {
        self.rx.pop().map(|frame| (frame.addr, frame.len as usize))
    }

    /// All that was received so far has been taken.
    #[inline]
    pub fn release_received(&mut self) {
        self.rx.release();
    }

    /// Whether more has come meanwhile.
    #[inline]
    pub fn has_received(&self) -> bool {
        self.rx.has_more()
    }

    /// Queues a frame, which then is the kernel's; false if the ring is full.
    #[inline]
    pub fn transmit(&mut self, address: u64, len: usize) -> bool {
        let frame = XdpDesc { addr: address, len: len as u32, options: XdpDescOptions::empty() };
        let queued = self.tx.push(frame);
        self.unsent |= queued;
        queued
    }

    /// Shows the kernel what was queued; whether it must be told so by a call.
    #[inline]
    pub fn publish_transmits(&mut self) -> bool {
        let is_new = std::mem::take(&mut self.unsent);
        if is_new {
            self.tx.publish();
        }
        // A card that stopped half-way is told again. Without a card's help a call that changes nothing would only end the
        // wait at once: there `send_rest` takes care of it.
        (is_new || self.zero_copy && self.tx.is_pending()) && self.tx.needs_wakeup()
    }

    /// Whether the next wait should be short, so that what is queued is tried again.
    #[inline]
    pub fn is_stuck(&self) -> bool {
        self.stuck
    }

    /// Whether the kernel waits to be told that there are chunks to receive into again.
    #[inline]
    pub fn starves(&self) -> bool {
        self.fill.needs_wakeup()
    }

    /// Has a card that starved look at the fill ring, and one that is polled busily at its own.
    pub fn poll_card(&self) {
        // EAGAIN, or nothing: frames come by the ring.
        let _ = rustix::net::recv(&self.fd, &mut [0u8; 0][..], RecvFlags::DONTWAIT);
    }

    /// Sends what the one call of the turn has not taken, because the kernel takes 32 at once or memory was short.
    pub fn send_rest(&mut self) {
        self.stuck = false;
        for _ in 0..KICKS_MAX {
            let pending = self.tx.pending();
            if self.zero_copy || pending == 0 {
                return;
            }
            match rustix::net::send(&self.fd, &[], SendFlags::DONTWAIT) {
                Ok(_) | Err(Errno::AGAIN | Errno::NOBUFS) => {}
                // The interface is down or gone. What is queued waits for it; once the ring is full, sockets send.
                Err(_) => return,
            }
            if self.tx.pending() == pending {
                self.stuck = true;
                return;
            }
        }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Queue {
    fn as_raw_fd(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

fn failed(what: &'static str) -> impl Fn(Errno) -> Error {
    move |errno| match errno {
        Errno::PERM | Errno::ACCESS => Error::Rights(errno.into()),
        errno => Error::Socket { what, source: errno.into() },
    }
}

fn set_option(fd: &OwnedFd, level: libc::c_int, option: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the value is an int and outlives the call.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
