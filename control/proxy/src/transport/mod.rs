//! Transports: sockets on one side, parsed messages with their [`Flow`] on the other. One interface that TLS and WebSocket
//! join by a module of their own.
//!
//! [`Transports::bind`] opens UDP and TCP on every configured address and starts a task per socket; what arrives comes out
//! of one bounded channel, parsed and with `received` and `rport` filled in (RFC 3261 section 18.2.1, RFC 3581).
//! [`Transports::send`] never waits: a datagram the kernel has no room for is lost like one on the wire, a connection
//! whose reader is too slow is closed. RFC 3261 section 18.

mod bind;
mod counters;
mod descriptors;
mod local;
mod tcp;
mod udp;

#[cfg(test)]
mod tests;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_sip::message::{Malformed, Message};
use nebula_sip::{Flow, Protocol};
use thiserror::Error;
use tokio::sync::mpsc;

use counters::Counters;
use descriptors::Descriptors;

/// Parsed messages that wait for the edge; beyond it UDP drops (counted), TCP stops reading.
const INBOUND_MAX: usize = 4096;

/// Where to listen and how much to bear.
#[derive(Debug, Clone)]
pub struct Options {
    /// Local addresses (`sip.listen`); unspecified ones listen on all of their family.
    pub addresses: Vec<IpAddr>,
    /// The port of every transport (`sip.port`); 0 takes one that is free for all.
    pub port: u16,
    /// Whether to listen on TCP beside UDP.
    pub tcp: bool,
    /// Open TCP connections, accepted and made together; beyond it new ones are closed at once.
    pub tcp_connections_max: usize,
    /// How long a connection may be silent. Longer than the longest registration, or phones without keepalive are lost.
    pub tcp_idle_timeout: Duration,
    /// How long a connection that a peer made may take to its first whole message.
    pub tcp_first_message_timeout: Duration,
    /// What may wait to be written to a connection, bytes, and as much again in the kernel; more closes it.
    pub tcp_write_buffer_bytes: usize,
    /// How long a message may take to arrive once it began.
    pub tcp_message_timeout: Duration,
    /// How long to wait for a connection of our own making.
    pub tcp_connect_timeout: Duration,
    /// The kernel's receive buffer of a UDP socket, bytes; the kernel may give less (`net.core.rmem_max`).
    pub udp_receive_buffer_bytes: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            addresses: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            port: 5060,
            tcp: true,
            tcp_connections_max: 8192,
            tcp_idle_timeout: Duration::from_secs(3900),
            tcp_first_message_timeout: Duration::from_secs(30),
            tcp_write_buffer_bytes: 256 * 1024,
            tcp_message_timeout: Duration::from_secs(10),
            tcp_connect_timeout: Duration::from_secs(5),
            udp_receive_buffer_bytes: 4 * 1024 * 1024,
        }
    }
}

/// A socket that could not be opened.
#[derive(Debug, Error)]
#[error("cannot listen on {protocol} {address}: {source}; change sip.port or sip.listen")]
pub struct BindError {
    /// The transport.
    pub protocol: Protocol,
    /// The address and port.
    pub address: SocketAddr,
    /// What the kernel said.
    #[source]
    pub source: io::Error,
}

/// Something came over a flow.
#[derive(Debug)]
pub struct Inbound {
    /// From where.
    pub flow: Flow,
    /// When it was read.
    pub at: Instant,
    /// What.
    pub event: Event,
}

/// What came over a flow.
#[derive(Debug)]
pub enum Event {
    /// A well-formed message.
    Message(Message),
    /// A malformed request that can still be refused: `salvage` is always there. Others are counted and dropped here.
    Malformed(Malformed),
    /// A TCP connection ended, or could not be made; what was queued for it is lost.
    Closed(Closed),
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closed {
    /// The peer closed it, or the network broke it.
    Peer,
    /// It was never made.
    Unreachable,
    /// Silent for too long, or a message took too long.
    Timeout,
    /// Its reader was too slow.
    SlowReader,
    /// It sent what cannot be followed.
    Unframeable,
}

/// Why something was not sent.
#[derive(Debug, Error)]
pub enum SendError {
    /// No socket of that protocol and address family.
    #[error("no {0} transport towards {1}")]
    NoTransport(Protocol, SocketAddr),
    /// The connection has ended. A response may be tried on a new one, to the Via's address (RFC 3261 section 18.2.2).
    #[error("connection has ended")]
    ConnectionGone,
    /// The reader of the connection is too slow; it was closed.
    #[error("connection closed: slow reader")]
    SlowReader,
    /// [`Options::tcp_connections_max`] is reached.
    #[error("too many connections")]
    TooManyConnections,
    /// The kernel refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// All sockets. Cheap to clone; they close when the last clone is dropped.
#[derive(Clone)]
pub struct Transports(Arc<Shared>);

struct Shared {
    udp: Vec<udp::Socket>,
    tcp: Option<Arc<tcp::Connections>>,
    port: u16,
    routes: Arc<local::Routes>,
    descriptors: Arc<Descriptors>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Transports {
    /// Opens all sockets. Install the metrics recorder before, or nothing is counted.
    pub async fn bind(options: Options) -> Result<(Self, mpsc::Receiver<Inbound>), BindError> {
        let sockets = bind::sockets(&options)?;
        let (inbound, receiver) = mpsc::channel(INBOUND_MAX);
        let counters = Arc::new(Counters::new());
        let routes = Arc::new(local::Routes::default());
        let descriptors = Arc::new(Descriptors::new());
        let mut tasks = Vec::new();

        let mut udp = Vec::new();
        for socket in sockets.udp {
            let socket = udp::Socket::new(socket, routes.clone(), counters.clone());
            tasks.push(tokio::spawn(socket.clone().receive(inbound.clone())).abort_handle());
            udp.push(socket);
        }
        let tcp = options
            .tcp
            .then(|| tcp::Connections::new(&options, routes.clone(), counters, descriptors.clone(), inbound));
        if let Some(connections) = &tcp {
            for listener in sockets.tcp {
                tasks.push(tokio::spawn(connections.clone().accept(listener)).abort_handle());
            }
        }
        Ok((Self(Arc::new(Shared { udp, tcp, port: sockets.port, routes, descriptors, tasks })), receiver))
    }

    /// Sends a serialised message over a flow, at once or never.
    ///
    /// A TCP flow with `connection` 0 takes an open connection to `remote`, or begins to make one; the flow that comes back
    /// names it. Failure to connect is reported later by [`Event::Closed`].
    pub fn send(&self, flow: &Flow, message: Bytes) -> Result<Flow, SendError> {
        let no_transport = || SendError::NoTransport(flow.protocol, flow.remote);
        match flow.protocol {
            Protocol::Udp => {
                let socket = self.0.udp.iter().find(|s| s.serves(flow.local, flow.remote)).ok_or_else(no_transport)?;
                socket.send(&message, flow.remote)?;
                Ok(*flow)
            }
            Protocol::Tcp => self.0.tcp.as_ref().ok_or_else(no_transport)?.send(flow, message),
        }
    }

    /// The flow to a destination that has sent us nothing yet; connections are made on the first send.
    pub fn flow_to(&self, protocol: Protocol, remote: SocketAddr) -> Result<Flow, SendError> {
        let no_transport = || SendError::NoTransport(protocol, remote);
        let bound = match protocol {
            Protocol::Udp => self.0.udp.iter().map(udp::Socket::bound).find(|b| b.is_ipv4() == remote.is_ipv4()),
            Protocol::Tcp => self.0.tcp.as_ref().map(|_| SocketAddr::new(unspecified_like(remote), self.0.port)),
        };
        let local = self.0.routes.concrete(bound.ok_or_else(no_transport)?, remote);
        Ok(Flow { protocol, local, remote, connection: 0 })
    }

    /// Whether a connection to this address is open.
    pub fn is_connected(&self, remote: SocketAddr) -> bool {
        self.0.tcp.as_ref().is_some_and(|tcp| tcp.known(remote).is_some())
    }

    /// The same, but with its connection named: the open one, or one that begins to be made. So whoever waits for answers
    /// over it knows which [`Event::Closed`] ends the waiting.
    pub fn open(&self, protocol: Protocol, remote: SocketAddr) -> Result<Flow, SendError> {
        let flow = self.flow_to(protocol, remote)?;
        match (protocol, &self.0.tcp) {
            (Protocol::Tcp, Some(tcp)) => tcp.open(&flow),
            _ => Ok(flow),
        }
    }

    /// Whether the process has no file descriptor left.
    pub fn is_short_of_descriptors(&self) -> bool {
        self.0.descriptors.is_short()
    }

    /// Looks whether it has one.
    pub fn look_for_descriptors(&self) {
        self.0.descriptors.look();
    }

    /// The port every transport listens on.
    pub fn port(&self) -> u16 {
        self.0.port
    }

    /// Whether an address is one of this host's: a Request-URI or Route with it and our port means us.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        self.0.routes.is_local(ip)
    }

    /// Stops listening and closes all connections. Dropping the last clone does the same.
    pub fn close(&self) {
        self.0.close();
    }
}

impl Shared {
    fn close(&self) {
        self.tasks.iter().for_each(tokio::task::AbortHandle::abort);
        if let Some(tcp) = &self.tcp {
            tcp.close_all();
        }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close();
    }
}

fn unspecified_like(remote: SocketAddr) -> IpAddr {
    if remote.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { std::net::Ipv6Addr::UNSPECIFIED.into() }
}

/// What a freshly read message becomes for the edge; none if it is to be dropped.
fn event_of(
    parsed: Result<Message, Malformed>,
    protocol: Protocol,
    source: SocketAddr,
    counters: &Counters,
) -> Option<Event> {
    match parsed {
        Ok(mut message) => {
            if let Message::Request(request) = &mut message {
                // The parser has read the Via already.
                request.headers.stamp_via(source).ok()?;
            }
            Some(Event::Message(message))
        }
        Err(mut malformed) => {
            counters.malformed(malformed.error.kind());
            let salvage = malformed.salvage.as_mut()?;
            // Over a datagram a Via that cannot be read leaves nobody to answer; over a connection there is the connection.
            if salvage.headers.stamp_via(source).is_err() && !protocol.is_reliable() {
                return None;
            }
            Some(Event::Malformed(malformed))
        }
    }
}
