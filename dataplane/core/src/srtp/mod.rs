//! SRTP and SRTCP (RFC 3711, 6188, 7714), in place and without I/O: [`receive::Receiver`] reads what a peer protected,
//! [`send::Sender`] protects what we send. `ingress::unprotect` and `egress::protect` call them for each packet of a stream
//! that has keys; what one costs is nearly all in `nebula-simd`.
//!
//! ```text
//! suite    lengths of keys, tags and what follows a packet: a table
//! keys     master key -> session keys (RFC 3711 section 4.3), and the two ciphers with them
//! packet   one packet under one key and index
//! replay   the window of 128 indices
//! index    packet index from sequence number (section 3.3.1)
//! receive  a peer's sources under one key        send  our sources under one key
//! vault    the keys of all streams of a worker
//! ```

mod index;
mod keys;
mod packet;
mod receive;
mod replay;
mod send;
mod suite;
mod vault;

pub use nebula_simd::Kernels;
pub use packet::{Owed, Signing};
pub use receive::{Foreseen, Receiver};
pub use send::{MustShow, Sender};
pub use suite::{SRTCP_ROOM_BYTES, SRTP_ROOM_BYTES};
pub use vault::Keys;
pub(crate) use vault::{Safe, Vault};

use nebula_ring::drops::DropReason;

/// Sources (SSRCs) that are remembered under a key that we receive with. A fifth takes the place of the one that was silent
/// longest, whose packets would then be believed anew: only the peer itself can bring that about.
pub const SOURCES_IN_MAX: usize = nebula_ring::table::SRTP_SOURCES_IN;

/// Sources that may be sent under one of our keys. None is ever forgotten, for each has numbers that must not come again;
/// the ninth goes on under the name and numbers of the eighth.
pub const SOURCES_OUT_MAX: usize = nebula_ring::table::SRTP_SOURCES_OUT;

/// How far ahead of what was sent the stream table says that we are, in packets. A successor begins behind that. The table
/// is written before the packets of a turn leave, and at the latest when these are used up.
pub const RTP_AHEAD: u64 = nebula_ring::command::RESUME_SEQUENCE_AHEAD as u64;

/// The same for SRTCP, of which there is one packet in seconds.
pub const RTCP_AHEAD: u32 = 16;

/// Packets that one key may protect for one source: RFC 3711 section 9.2 allows 2^48 of RTP.
pub const RTP_INDEX_MAX: u64 = (1 << 48) - 1;

/// The same of RTCP.
pub const RTCP_INDEX_MAX: u32 = (1 << 31) - 1;

/// Why a packet was not read or not protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// There is none yet: the peer's answer is still to come.
    #[error("no key yet")]
    NoKey,
    /// Shorter than its headers and what SRTP adds.
    #[error("too short for SRTP")]
    Short,
    /// It carries another key's identifier.
    #[error("another key's identifier")]
    OtherKey,
    /// It was not protected with this key, or was changed since.
    #[error("its tag is not that of the packet")]
    BadTag,
    /// It was read before, or is older than the window.
    #[error("read before, or too old to know")]
    Replay,
    /// Its number was sent before, is too far behind, or is a jump that the next packet has not confirmed.
    #[error("too far out of order to be sent")]
    OutOfOrder,
    /// There is no room behind it for what SRTP adds.
    #[error("too long to be protected")]
    TooLong,
    /// The key has protected as much as it may.
    #[error("the key is used up")]
    Exhausted,
}

impl From<Error> for DropReason {
    fn from(error: Error) -> Self {
        match error {
            Error::Short => Self::Short,
            Error::NoKey | Error::OtherKey => Self::NoKey,
            Error::BadTag => Self::BadTag,
            Error::Replay => Self::Replay,
            Error::OutOfOrder => Self::OutOfOrder,
            Error::TooLong => Self::TooLong,
            Error::Exhausted => Self::KeyExhausted,
        }
    }
}
