//! The seam between the engine and what moves packets: io_uring, AF_XDP or the simulated network.
//!
//! The engine names sockets by `(StreamIndex, Component)`; the driver maps them to whatever it has. Sending never fails
//! from the engine's point of view: a driver counts what it could not send.

use std::net::{IpAddr, SocketAddr};

/// A stream's place in its worker's table: dense, reused after the stream is destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIndex(pub u32);

/// Which of a stream's two sockets. With rtcp-mux there is only `Rtp`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Component {
    /// RTP, or both when multiplexed.
    Rtp,
    /// RTCP on a port of its own.
    Rtcp,
}

/// Numbers the attempts of an engine to create a stream, wrapping: no two streams of an index share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Generation(pub u32);

/// A socket of a stream. A driver returns it with each packet exactly as it was opened, so that the engine can tell a
/// late packet of a destroyed stream from one for the stream that has its index now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Whose.
    pub stream: StreamIndex,
    /// Which of those that had this index, one after the other.
    pub generation: Generation,
    /// Which of the two.
    pub component: Component,
}

/// A packet as it lies in a driver's buffer, with room behind it: SRTP makes packets longer and shorter in place. What it
/// holds when the engine has handled it is what is sent, if it is.
#[derive(Debug)]
pub struct Datagram<'a> {
    buffer: &'a mut [u8],
    len: usize,
}

impl<'a> Datagram<'a> {
    /// The first `len` bytes of a buffer are the packet, cut to what the buffer holds.
    #[inline]
    pub fn new(buffer: &'a mut [u8], len: usize) -> Self {
        let len = len.min(buffer.len());
        Self { buffer, len }
    }

    /// A packet without room behind it.
    pub fn whole(packet: &'a mut [u8]) -> Self {
        let len = packet.len();
        Self { buffer: packet, len }
    }

    /// Its length now.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How long it can become.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.buffer.len()
    }

    /// Makes it shorter or longer; what is new at its end is whatever lay there. At most `capacity`.
    #[inline]
    pub fn set_len(&mut self, len: usize) {
        self.len = len.min(self.buffer.len());
    }
}

impl AsRef<[u8]> for Datagram<'_> {
    #[inline]
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.len]
    }
}

impl AsMut<[u8]> for Datagram<'_> {
    #[inline]
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[..self.len]
    }
}

/// Where a packet that came in is to be sent: as it lies and as long as it is when the engine returns, without a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forward {
    /// Through which socket: one of the other leg when the packet is relayed.
    pub from: Socket,
    /// To whom.
    pub to: SocketAddr,
}

/// A packet that came in, as a driver hands it to `Engine::receive_many` together with others.
#[derive(Debug)]
pub struct Incoming<'a> {
    /// The socket it came in on.
    pub socket: Socket,
    /// Whom it came from; none when the driver has connected the socket.
    pub source: Option<SocketAddr>,
    /// What it carries.
    pub packet: Datagram<'a>,
    /// What the engine says of it.
    pub forward: Option<Forward>,
}

impl<'a> Incoming<'a> {
    /// One that was not handled yet.
    #[inline]
    pub fn new(socket: Socket, source: Option<SocketAddr>, packet: Datagram<'a>) -> Self {
        Self { socket, source, packet, forward: None }
    }
}

/// An empty place in a batch: a packet of nobody.
impl Default for Incoming<'_> {
    fn default() -> Self {
        let socket =
            Socket { stream: StreamIndex(u32::MAX), generation: Generation::default(), component: Component::Rtp };
        Self::new(socket, None, Datagram::new(&mut [], 0))
    }
}

/// What the engine asks of a driver. Called only from inside a turn; nothing blocks; packets leave at the turn's end.
pub trait Driver {
    /// Binds a socket and starts to receive on it.
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError>;

    /// Closes it. What was handed to `send` or forwarded before still leaves (a BYE goes just ahead of this). What was
    /// received and not yet handed in may be dropped, or handed in late under the old generation.
    fn close(&mut self, socket: Socket);

    /// From now on only this peer is heard and sent to (the latch has closed). The kernel then drops foreign sources.
    ///
    /// A packet that was queued before the kernel knew must still be handed to the engine with its source address, or
    /// not at all: a source of `None` is the driver's word that it was the connected peer.
    fn connect(&mut self, socket: Socket, remote: SocketAddr);

    /// Undoes `connect`: the latch has been opened anew. What came in under the old connection is handed in with its
    /// source, or not at all.
    fn disconnect(&mut self, socket: Socket);

    /// Sends bytes of the engine's own making (RTCP). The driver copies them.
    fn send(&mut self, from: Socket, to: SocketAddr, packet: &[u8]);
}

/// Why a socket could not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenError {
    /// EADDRINUSE.
    PortInUse,
    /// EADDRNOTAVAIL.
    AddressNotAvailable,
    /// EMFILE or ENFILE, or the driver's own table is full.
    NoFileDescriptor,
    /// Anything else.
    System {
        /// The error number.
        errno: i32,
    },
}

/// Whether an address is one a media socket may be bound to. Unspecified is allowed, multicast is not.
pub fn bindable(ip: IpAddr) -> bool {
    !ip.is_multicast()
}
