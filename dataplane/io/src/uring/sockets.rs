//! The driver's sockets, and the tokens by which completions name them.

use nebula_core::driver::{Component, OpenError, Socket};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use socket2::{Domain, Protocol, SockAddr, Type};
use std::io;
use std::net::SocketAddr;

/// What a completion belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// The multishot receive of a socket.
    Receive,
    /// A send that failed: those that succeed are silent.
    Send,
    /// The poll of the eventfd.
    Wakeup,
    /// The cancellation of a receive.
    Cancel,
    /// The poll of another file.
    Poll,
    /// A kick of another file.
    Kick,
}

/// A completion's `user_data`: operation (8 bits), slot (24), generation of the slot (32).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token {
    /// What was asked.
    pub operation: Operation,
    /// Of which place in the file table.
    pub slot: u32,
    /// The how manieth socket there: a late completion of an earlier one does not match.
    pub generation: u32,
}

impl Token {
    /// Puts one together.
    pub fn new(operation: Operation, slot: u32, generation: u32) -> Self {
        Self { operation, slot, generation }
    }
}

impl From<Token> for u64 {
    fn from(token: Token) -> Self {
        (token.operation as u64) << 56 | u64::from(token.slot) << 32 | u64::from(token.generation)
    }
}

impl From<u64> for Token {
    fn from(word: u64) -> Self {
        let operation = match word >> 56 {
            0 => Operation::Receive,
            1 => Operation::Send,
            2 => Operation::Wakeup,
            3 => Operation::Cancel,
            4 => Operation::Poll,
            _ => Operation::Kick,
        };
        Self { operation, slot: (word >> 32) as u32 & 0xff_ffff, generation: word as u32 }
    }
}

/// The sockets by slot, that is by stream and component.
pub struct Sockets {
    slots: Vec<Slot>,
    /// What another worker has handed over, to be opened next.
    adopted: [Option<(SocketAddr, OwnedFd)>; 2],
    buffer_bytes: Option<usize>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    open: Option<Open>,
}

struct Open {
    socket: Socket,
    fd: OwnedFd,
    peer: Option<SocketAddr>,
}

impl Sockets {
    /// Two slots for each stream.
    pub fn new(streams_max: u32, buffer_bytes: Option<usize>) -> Self {
        let slots = (0..2 * streams_max).map(|_| Slot::default()).collect();
        Self { slots, adopted: [None, None], buffer_bytes }
    }

    /// How many slots there are.
    pub fn slots(&self) -> u32 {
        self.slots.len() as u32
    }

    /// Binds a socket; the token is for its receive.
    pub fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(Token, BorrowedFd<'_>), OpenError> {
        let index = slot_of(socket);
        let slot = self.slots.get_mut(index as usize).ok_or(OpenError::NoFileDescriptor)?;
        let adopted = self.adopted.iter_mut().find_map(|it| it.take_if(|(address, _)| *address == local));
        let fd = match adopted {
            Some((_, fd)) => fd,
            None => bind(local, self.buffer_bytes).map_err(|error| open_error(&error))?,
        };
        slot.generation = slot.generation.wrapping_add(1);
        let open = slot.open.insert(Open { socket, fd, peer: None });
        Ok((Token::new(Operation::Receive, index, slot.generation), open.fd.as_fd()))
    }

    /// Sockets that the next opens of their addresses take, in place of those that were given before.
    pub fn adopt(&mut self, adopted: [Option<(SocketAddr, OwnedFd)>; 2]) {
        self.adopted = adopted;
    }

    /// A second descriptor of a socket: it stays bound, with what is queued in it, when this one is closed.
    pub fn share(&self, socket: Socket) -> Option<OwnedFd> {
        let slot = self.slots.get(slot_of(socket) as usize)?;
        let open = slot.open.as_ref().filter(|open| open.socket == socket)?;
        rustix::io::fcntl_dupfd_cloexec(&open.fd, 0).ok()
    }

    /// The token of a socket's receive.
    pub fn token_of(&self, socket: Socket) -> Option<Token> {
        let (slot, _) = self.route(socket)?;
        Some(Token::new(Operation::Receive, slot, self.slots.get(slot as usize)?.generation))
    }

    /// Takes a socket out; the token is that of its receive, which still runs.
    pub fn close(&mut self, socket: Socket) -> Option<(Token, OwnedFd)> {
        let index = slot_of(socket);
        let slot = self.slots.get_mut(index as usize)?;
        let open = slot.open.take_if(|open| open.socket == socket)?;
        Some((Token::new(Operation::Receive, index, slot.generation), open.fd))
    }

    /// Lets the kernel drop foreign sources and remember the route. If it refuses, every send says where it goes, as before.
    pub fn connect(&mut self, socket: Socket, remote: SocketAddr) {
        if let Some(open) = self.get_mut(socket) {
            open.peer = rustix::net::connect(&open.fd, &remote).is_ok().then_some(remote);
        }
    }

    /// Undoes it.
    pub fn disconnect(&mut self, socket: Socket) {
        if let Some(open) = self.get_mut(socket) {
            open.peer = None;
            // Cannot fail for a bound UDP socket.
            let _ = rustix::net::connect_unspec(&open.fd);
        }
    }

    /// Slot and connected peer of an open socket.
    #[inline]
    pub fn route(&self, socket: Socket) -> Option<(u32, Option<SocketAddr>)> {
        let index = slot_of(socket);
        let open = self.slots.get(index as usize)?.open.as_ref().filter(|open| open.socket == socket)?;
        Some((index, open.peer))
    }

    /// Whose receive a completion belongs to, if that is still open.
    #[inline]
    pub fn socket_of(&self, token: Token) -> Option<Socket> {
        let slot = self.slots.get(token.slot as usize).filter(|slot| slot.generation == token.generation)?;
        slot.open.as_ref().map(|open| open.socket)
    }

    /// Which socket is open at a slot now.
    pub fn socket_at(&self, slot: u32) -> Option<Socket> {
        self.slots.get(slot as usize)?.open.as_ref().map(|open| open.socket)
    }

    fn get_mut(&mut self, socket: Socket) -> Option<&mut Open> {
        let slot = self.slots.get_mut(slot_of(socket) as usize)?;
        slot.open.as_mut().filter(|open| open.socket == socket)
    }
}

#[inline]
fn slot_of(socket: Socket) -> u32 {
    socket.stream.0 * 2 + u32::from(socket.component == Component::Rtcp)
}

/// A blocking socket on purpose: io_uring then waits by itself, instead of answering EAGAIN.
fn bind(local: SocketAddr, buffer_bytes: Option<usize>) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(Domain::for_address(local), Type::DGRAM, Some(Protocol::UDP))?;
    if local.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    if let Some(bytes) = buffer_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    socket.bind(&SockAddr::from(local))?;
    Ok(socket.into())
}

/// Sorts an error number.
pub fn open_error(error: &io::Error) -> OpenError {
    match error.raw_os_error().unwrap_or(0) {
        libc::EADDRINUSE => OpenError::PortInUse,
        libc::EADDRNOTAVAIL => OpenError::AddressNotAvailable,
        libc::EMFILE | libc::ENFILE => OpenError::NoFileDescriptor,
        errno => OpenError::System { errno },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip() {
        use Operation::{Cancel, Kick, Poll, Receive, Send, Wakeup};
        for operation in [Receive, Send, Wakeup, Cancel, Poll, Kick] {
            let token = Token::new(operation, 0xab_cdef, u32::MAX - 1);
            assert_eq!(Token::from(u64::from(token)), token);
        }
    }
}
