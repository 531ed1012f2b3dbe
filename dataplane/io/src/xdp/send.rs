//! From the engine to a queue: in the frame that a packet came in, or in a free one; and to the kernel's socket where no way is
//! known.

use super::Side;
use super::umem::{CHUNK_BYTES, PAYLOAD_START};
use crate::uring::Uring;
use nebula_core::driver::{Driver, Socket};
use std::net::SocketAddr;
use std::ops::Range;

impl Side {
    /// Sends a payload in the frame that it lies in; false if it leaves by another interface, or by none that we know.
    /// `queue` is the frame's group and its queue there.
    #[inline]
    pub(super) fn send_in_place(
        &mut self,
        (group, queue): (usize, usize),
        address: u64,
        chunk: &mut [u8],
        payload: Range<usize>,
        from: Socket,
        to: SocketAddr,
    ) -> bool {
        let Some((interface, template)) = self.ports.route(from).and_then(|route| route.to(self.now_ms, to)) else {
            return false;
        };
        let out = &mut self.groups[group];
        if usize::from(interface) != group || template.packet_bytes(payload.len()) > out.interface.mtu {
            return false;
        }
        let Some(begin) = template.write(chunk, payload.start, payload.len()) else { return false };
        let chunk_address = address & !(CHUNK_BYTES as u64 - 1);
        let sent = out.queues[queue].transmit(chunk_address + begin as u64, template.headers_bytes() + payload.len());
        self.counters.sent += u64::from(sent);
        sent
    }

    /// Sends a copy of a payload, by a frame or by the kernel's socket.
    pub(super) fn send_anyhow(&mut self, uring: &mut Uring, from: Socket, to: SocketAddr, payload: &[u8]) {
        if !self.send(from, to, payload) {
            uring.send(from, to, payload);
        }
    }

    /// Sends a copy of a payload; false if there is no way that we know, or no room.
    pub(super) fn send(&mut self, from: Socket, to: SocketAddr, payload: &[u8]) -> bool {
        let sent = self.try_send(from, to, payload).is_some();
        self.counters.sent_by_kernel += u64::from(!sent);
        sent
    }

    fn try_send(&mut self, from: Socket, to: SocketAddr, payload: &[u8]) -> Option<()> {
        let (interface, template) = self.ports.route(from)?.to(self.now_ms, to)?;
        let out = self.groups.get_mut(usize::from(interface))?;
        if template.packet_bytes(payload.len()) > out.interface.mtu || payload.len() > CHUNK_BYTES - PAYLOAD_START {
            return None;
        }
        let queue = out.queues.first_mut()?;
        let address = out.umem.take()?;
        // SAFETY: the chunk was free, so it is ours, and nothing else refers to it until it is sent or given back.
        let sent = unsafe { out.umem.chunk(address) }.is_some_and(|(chunk, _)| {
            chunk[PAYLOAD_START..PAYLOAD_START + payload.len()].copy_from_slice(payload);
            template
                .write(chunk, PAYLOAD_START, payload.len())
                .is_some_and(|begin| queue.transmit(address + begin as u64, template.headers_bytes() + payload.len()))
        });
        if !sent {
            out.umem.give(address);
            return None;
        }
        self.counters.sent += 1;
        Some(())
    }
}
