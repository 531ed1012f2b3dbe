//! Which socket an address and port belong to. By port first, and then along the few sockets of that port: there are never
//! more than this host has addresses, whatever comes from the wire.

use super::route::Route;
use nebula_core::driver::{Component, Socket};
use std::net::SocketAddr;

const NONE: u32 = u32::MAX;

/// A worker's open sockets, and the way to the peer of each.
pub struct Ports {
    /// The first slot of each port.
    first: Box<[u32]>,
    slots: Box<[Slot]>,
}

struct Slot {
    open: Option<(Socket, SocketAddr)>,
    next: u32,
    route: Route,
}

impl Ports {
    /// Two slots for each stream.
    pub fn new(streams_max: u32) -> Self {
        let slots = (0..2 * streams_max).map(|_| Slot { open: None, next: NONE, route: Route::default() }).collect();
        Self { first: vec![NONE; 1 << 16].into(), slots }
    }

    /// Adds a socket, which is not there yet.
    pub fn open(&mut self, socket: Socket, local: SocketAddr) {
        self.close(socket);
        let index = slot_of(socket);
        let first = &mut self.first[usize::from(local.port())];
        if let Some(slot) = self.slots.get_mut(index) {
            *slot = Slot { open: Some((socket, local)), next: *first, route: Route::default() };
            *first = index as u32;
        }
    }

    /// Takes one out: the address it had.
    pub fn close(&mut self, socket: Socket) -> Option<SocketAddr> {
        let index = slot_of(socket);
        let slot = self.slots.get_mut(index)?;
        let (_, local) = slot.open.take_if(|(open, _)| *open == socket)?;
        let next = slot.next;
        let mut at = self.first[usize::from(local.port())];
        if at as usize == index {
            self.first[usize::from(local.port())] = next;
            return Some(local);
        }
        while let Some(slot) = self.slots.get_mut(at as usize) {
            if slot.next as usize == index {
                slot.next = next;
                break;
            }
            at = slot.next;
        }
        Some(local)
    }

    /// Whether another socket is open on a port.
    pub fn has(&self, port: u16) -> bool {
        self.first[usize::from(port)] != NONE
    }

    /// The socket of an address and port.
    #[inline]
    pub fn find(&self, local: SocketAddr) -> Option<Socket> {
        let mut at = self.first[usize::from(local.port())];
        while let Some(slot) = self.slots.get(at as usize) {
            match slot.open {
                Some((socket, address)) if address == local => return Some(socket),
                _ => at = slot.next,
            }
        }
        None
    }

    /// The way to an open socket's peer.
    #[inline]
    pub fn route(&mut self, socket: Socket) -> Option<&mut Route> {
        let slot = self.slots.get_mut(slot_of(socket))?;
        slot.open.is_some_and(|(open, _)| open == socket).then_some(&mut slot.route)
    }
}

#[inline]
fn slot_of(socket: Socket) -> usize {
    socket.stream.0 as usize * 2 + usize::from(socket.component == Component::Rtcp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nebula_core::driver::{Generation, StreamIndex};

    fn socket(stream: u32, generation: u32) -> Socket {
        Socket { stream: StreamIndex(stream), generation: Generation(generation), component: Component::Rtp }
    }

    #[test]
    fn sockets_of_one_port_are_told_apart_and_closed_in_any_order() {
        let locals: [SocketAddr; 3] =
            ["192.0.2.1:4000", "[2001:db8::1]:4000", "192.0.2.2:4000"].map(|local| local.parse().unwrap());
        for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
            let mut ports = Ports::new(3);
            for (stream, local) in (0..).zip(locals) {
                ports.open(socket(stream, 1), local);
            }
            for (closed, index) in (0..).zip(order) {
                assert_eq!(ports.find(locals[index]), Some(socket(index as u32, 1)));
                assert_eq!(ports.close(socket(index as u32, 1)), Some(locals[index]));
                assert_eq!(ports.find(locals[index]), None);
                assert_eq!(ports.has(4000), closed < 2);
            }
        }
    }

    #[test]
    fn a_late_close_of_an_earlier_stream_takes_nothing_away() {
        let mut ports = Ports::new(1);
        let local = "192.0.2.1:4000".parse().unwrap();
        ports.open(socket(0, 1), local);
        assert_eq!(ports.close(socket(0, 1)), Some(local));
        ports.open(socket(0, 2), local);
        assert_eq!(ports.close(socket(0, 1)), None);
        assert!(ports.route(socket(0, 1)).is_none() && ports.route(socket(0, 2)).is_some());
        assert_eq!(ports.find(local), Some(socket(0, 2)));
        assert_eq!((ports.close(socket(9, 1)), ports.find("192.0.2.1:1".parse().unwrap())), (None, None));
    }
}
