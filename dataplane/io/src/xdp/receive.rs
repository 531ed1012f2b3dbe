//! From a queue, or from another worker, to the engine: frames are taken and read in batches, so that what is in none of this
//! core's caches yet is waited for together, and so that the engine can compute the tags of SRTP side by side.

use super::frame::{self, Headers};
use super::handover::{HANDED_MAX, Handed};
use super::{Side, Turn};
use crate::uring::Uring;
use nebula_core::batch::BATCH_MAX;
use nebula_core::driver::{Datagram, Forward, Incoming};

/// Batches taken from a queue in one turn; the rest wait for the next.
const BATCHES_PER_TURN_MAX: usize = 1024 / BATCH_MAX;

/// Frames that are handed in together.
#[derive(Default)]
struct Batch<'f> {
    packets: [Incoming<'f>; BATCH_MAX],
    fronts: [Option<Front<'f>>; BATCH_MAX],
    len: usize,
}

/// What stands in front of a payload.
#[derive(Clone, Copy)]
struct Front<'f> {
    interface: u8,
    /// Of the frame within its umem, if it came by a queue.
    address: u64,
    bytes: &'f [u8],
    headers: Headers,
}

/// A frame that came by a queue, when it was handled.
struct Frame {
    address: u64,
    payload_start: usize,
    payload_bytes: usize,
}

impl Side {
    /// Handles what has come by a queue. A frame that is to leave by the same interface is sent as it lies.
    pub(super) fn receive_frames<F>(&mut self, uring: &mut Uring, group: usize, queue: usize, handle: &mut F)
    where
        F: for<'a> FnMut(&mut Turn<'a>, &mut [Incoming<'_>]),
    {
        if !self.groups[group].queues[queue].has_received() {
            return;
        }
        let mut frames = [(0, 0); BATCH_MAX];
        let mut batch = Batch::default();
        for _ in 0..BATCHES_PER_TURN_MAX {
            let taken = self.groups[group].take(queue, &mut frames);
            if taken == 0 {
                break;
            }
            for &(address, len) in &frames[..taken] {
                // SAFETY: the kernel gave us the frame with its descriptor, and nothing else refers to it until it is sent
                // or given back, below and in `leave`.
                let chunk = unsafe { self.groups[group].umem.chunk(address) };
                let Some((chunk, within)) = chunk else { continue };
                if !self.read(group, address, &mut chunk[within..], len, &mut batch) {
                    self.groups[group].umem.give(address);
                }
            }
            self.hand_in(uring, &mut batch, handle);
            for at in 0..std::mem::take(&mut batch.len) {
                let Incoming { packet, forward, .. } = std::mem::take(&mut batch.packets[at]);
                let Some(Front { address, headers, .. }) = batch.fronts[at].take() else { continue };
                let frame = Frame { address, payload_start: headers.payload_start, payload_bytes: packet.len() };
                self.leave(uring, (group, queue), frame, forward);
            }
        }
        self.groups[group].queues[queue].release_received();
    }

    /// Handles what other workers have handed over.
    pub(super) fn receive_handed<F>(&mut self, uring: &mut Uring, handle: &mut F)
    where
        F: for<'a> FnMut(&mut Turn<'a>, &mut [Incoming<'_>]),
    {
        for _ in 0..HANDED_MAX / BATCH_MAX {
            let mut boxes: [Option<Box<Handed>>; BATCH_MAX] = Default::default();
            for place in &mut boxes {
                *place = self.shared.take(self.worker);
                if place.is_none() {
                    break;
                }
            }
            if boxes[0].is_none() {
                return;
            }
            let mut batch = Batch::default();
            for handed in boxes.iter_mut().flatten() {
                let interface = handed.interface.into();
                let (buffer, len) = handed.buffer();
                self.read(interface, 0, buffer, len, &mut batch);
            }
            self.hand_in(uring, &mut batch, handle);
            for Incoming { packet, forward, .. } in &batch.packets[..batch.len] {
                if let Some(Forward { from, to }) = *forward {
                    self.send_anyhow(uring, from, to, packet.as_ref());
                }
            }
            boxes.into_iter().flatten().for_each(|handed| self.shared.empty(self.worker, handed));
        }
    }

    /// Reads the frame that a buffer begins with, and puts it into the batch if it is for one of this worker's sockets.
    #[inline]
    fn read<'f>(
        &mut self,
        interface: usize,
        address: u64,
        buffer: &'f mut [u8],
        len: usize,
        batch: &mut Batch<'f>,
    ) -> bool {
        let Some(Ok(headers)) = buffer.get(..len).map(frame::parse) else {
            self.counters.refused += 1;
            return false;
        };
        let Some(socket) = self.ports.find(headers.destination) else {
            self.hand_over(interface, &headers, &buffer[..len]);
            return false;
        };
        self.counters.received += 1;
        let (bytes, payload) = buffer.split_at_mut(headers.payload_start);
        let packet = Datagram::new(payload, headers.payload_bytes);
        batch.packets[batch.len] = Incoming::new(socket, Some(headers.source), packet);
        batch.fronts[batch.len] = Some(Front { interface: interface as u8, address, bytes, headers });
        batch.len += 1;
        true
    }

    /// Has the engine handle a batch, and learns the way to the senders of what it accepts: they are whom they say.
    #[inline]
    fn hand_in<F>(&mut self, uring: &mut Uring, batch: &mut Batch<'_>, handle: &mut F)
    where
        F: for<'a> FnMut(&mut Turn<'a>, &mut [Incoming<'_>]),
    {
        let packets = &mut batch.packets[..batch.len];
        if packets.is_empty() {
            return;
        }
        handle(&mut Turn { uring, side: self }, packets);
        for (incoming, front) in packets.iter().zip(&batch.fronts) {
            if incoming.forward.is_some()
                && let Some(front) = front
                && let Some(route) = self.ports.route(incoming.socket)
            {
                route.hear(self.now_ms, front.interface, front.bytes, &front.headers);
            }
        }
    }

    /// Does what the engine said of a frame that came by a queue, and that the batch has forgotten: it is sent, or given back.
    #[inline]
    fn leave(&mut self, uring: &mut Uring, queue: (usize, usize), frame: Frame, forward: Option<Forward>) {
        let Frame { address, payload_start, payload_bytes } = frame;
        if let Some(Forward { from, to }) = forward
            // SAFETY: the frame is still ours, and what the batch referred to it with is gone.
            && let Some((chunk, within)) = unsafe { self.groups[queue.0].umem.chunk(address) }
        {
            let payload = within + payload_start..within + payload_start + payload_bytes;
            if self.send_in_place(queue, address, chunk, payload.clone(), from, to) {
                return;
            }
            self.send_anyhow(uring, from, to, &chunk[payload]);
        }
        self.groups[queue.0].umem.give(address);
    }

    #[cold]
    fn hand_over(&mut self, interface: usize, headers: &Headers, frame: &[u8]) {
        let port = headers.destination.port();
        let (handed, dropped) = self.shared.hand_over(self.worker, port, interface as u8, frame);
        self.counters.handed += handed;
        self.counters.handed_dropped += dropped;
        self.counters.stale += u64::from(handed + dropped == 0);
    }
}
