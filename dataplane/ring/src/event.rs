//! What the dataplane reports to control. Types only: `slot` puts them on the ring and validates them off it.

use crate::command::StreamId;
use std::net::SocketAddr;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the sentence of a variant covers its fields")]
pub enum Event {
    /// The command with this correlation id was carried out.
    Done { correlation: u64 },
    /// It was not; nothing has changed.
    Failed { correlation: u64, reason: Reason },
    /// The stream's latch closed: the peer is known and its packets flow.
    StreamUp { id: StreamId, remote: SocketAddr },
    /// No RTP came for the stream's `rtp_timeout_ms`. Reported once per silence.
    RtpTimeout { id: StreamId },
    /// This worker has more to do than it should (`on`), or no longer: new streams are better made elsewhere. Also
    /// `Counter::Overloaded`, for who was not there to hear it.
    Overload { on: bool },
}

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the sentence of a variant covers its fields")]
pub enum Reason {
    /// No stream has this id.
    UnknownStream,
    /// A stream has this id already.
    StreamExists,
    /// The worker's stream table is full.
    TableFull,
    /// Another socket holds the port.
    PortInUse,
    /// The address is not one of this host.
    AddressNotAvailable,
    /// The process has no file descriptor left.
    NoFileDescriptor,
    /// The kernel refused for another reason.
    System { errno: i32 },
    /// The command does not make sense: a zero id, a port zero, a stream bridged with itself, a slot that does not parse.
    Invalid,
}
