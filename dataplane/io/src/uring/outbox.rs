//! What must stay in place until the kernel has taken a turn's sends: addresses, copies, and which buffers are being sent.
//! All of a fixed size, reused after each submission.

use socket2::SockAddr;
use std::net::SocketAddr;

/// Bytes for copies in one turn: some 500 reports.
const COPY_BYTES: usize = 64 * 1024;

/// See the module.
pub struct Outbox {
    addresses: Vec<SockAddr>,
    copies: Vec<u8>,
    in_flight: Vec<u16>,
}

impl Outbox {
    /// For as many sends as fit one submission, and as many buffers as there are.
    pub fn new(sends: usize, buffers: u16) -> Self {
        Self {
            addresses: Vec::with_capacity(sends),
            copies: Vec::with_capacity(COPY_BYTES),
            in_flight: Vec::with_capacity(buffers as usize),
        }
    }

    /// Keeps an address until the submission. There is room for as many as sends fit the queue.
    pub fn address(&mut self, to: SocketAddr) -> (*const libc::sockaddr, libc::socklen_t) {
        assert!(self.addresses.len() < self.addresses.capacity(), "a reallocation would move the others");
        self.addresses.push(SockAddr::from(to));
        let kept = &self.addresses[self.addresses.len() - 1];
        (kept.as_ptr().cast(), kept.len())
    }

    /// Whether a copy of so many bytes fits before the next submission. Longer ones than the whole room never do.
    pub fn has_room_for(&self, bytes: usize) -> bool {
        self.copies.capacity() - self.copies.len() >= bytes
    }

    /// Keeps a copy until the submission; none if there is no room. Never reallocates, so earlier copies stay in place.
    pub fn copy(&mut self, packet: &[u8]) -> Option<*const u8> {
        if !self.has_room_for(packet.len()) {
            return None;
        }
        let start = self.copies.len();
        self.copies.extend_from_slice(packet);
        Some(self.copies[start..].as_ptr())
    }

    /// Notes a buffer that is being sent.
    pub fn buffer_in_flight(&mut self, buffer: u16) {
        self.in_flight.push(buffer);
    }

    /// Whether any buffer is.
    pub fn holds_buffers(&self) -> bool {
        !self.in_flight.is_empty()
    }

    /// Everything was submitted: forgets it, and gives the buffers back.
    pub fn submitted(&mut self, release: impl FnMut(u16)) {
        self.addresses.clear();
        self.copies.clear();
        self.in_flight.drain(..).for_each(release);
    }
}
