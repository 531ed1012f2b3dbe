//! Which wire a message came over or shall go over: transport protocol, both addresses, and the connection.
//!
//! Made by the proxy's transports, carried through transactions and the registrar, handed back to the transports to
//! send. `Copy`, 72 bytes, no I/O. RFC 3261 section 18; the notion of a flow is that of RFC 5626 section 3.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// Datagrams: a message may be lost, transactions retransmit.
    Udp,
    /// A stream: transactions leave retransmission to it.
    Tcp,
}

impl Protocol {
    /// As it stands in a Via header (`UDP`).
    pub const fn via_name(self) -> &'static str {
        match self {
            Protocol::Udp => "UDP",
            Protocol::Tcp => "TCP",
        }
    }

    /// As it stands in a URI's `transport` parameter (`udp`).
    pub const fn uri_name(self) -> &'static str {
        match self {
            Protocol::Udp => "udp",
            Protocol::Tcp => "tcp",
        }
    }

    /// Whether it retransmits by itself, so that the timers of RFC 3261 table 4 shrink to zero.
    pub const fn is_reliable(self) -> bool {
        match self {
            Protocol::Udp => false,
            Protocol::Tcp => true,
        }
    }

    /// From a Via transport or a URI `transport` parameter, in any case.
    pub fn from_name(name: &str) -> Option<Self> {
        [Protocol::Udp, Protocol::Tcp].into_iter().find(|p| p.uri_name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.uri_name())
    }
}

/// One way between us and a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Flow {
    /// The transport protocol.
    pub protocol: Protocol,
    /// Our address.
    pub local: SocketAddr,
    /// The peer's address, as the packet or connection came from.
    pub remote: SocketAddr,
    /// The connection, unique in this process; 0 for UDP and for a connection that is yet to be opened. In a
    /// snapshot it is left out: connections do not outlive their process.
    #[serde(skip)]
    pub connection: u64,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.protocol, self.remote)
    }
}
