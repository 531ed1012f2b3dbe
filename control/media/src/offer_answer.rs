//! SDP offer/answer of one stream, sans-IO: text in, text and a stream configuration out.
//!
//! Called by `agent` for every step that the switchboard asks for (`stream.create`, `stream.update`); microseconds, no
//! I/O. RFC 3264 (the model), RFC 6337 (its use in SIP), RFC 8866 (SDP).
//!
//! - `sdp`: reads and writes session descriptions; what is kept of one and what is dropped stands in a table there.
//! - `codecs`: what a payload type number stands for, and which two are the same codec.
//! - `crypto`: `a=crypto`, and our own keys.
//! - `negotiate`: pure functions from descriptions to descriptions and payload type maps.
//! - `exchange`: the state machine of one stream: whose turn it is, what holds, what is pending.
//!
//! **Mirroring.** Nebula stands between two phones and offers one what the other offered: the terms (formats with their
//! numbers and parameters, direction, packet times) pass through, the transport (addresses, ports, profile, rtcp-mux) is
//! terminated on each leg. So two phones may use a codec that Nebula has never heard of.

pub mod codecs;
pub mod crypto;
pub mod exchange;
pub mod negotiate;
pub mod sdp;

pub use exchange::{Exchange, Turn};
pub use sdp::Endpoint;

/// The longest session description that is read.
pub const SDP_BYTES_MAX: usize = 32 * 1024;
/// The most media lines of a description.
pub const MEDIA_LINES_MAX: usize = 32;
/// The most formats of the carried media line.
pub const FORMATS_MAX: usize = 64;

/// Why a step was refused. Nothing has changed by it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Longer than `SDP_BYTES_MAX`.
    #[error("SDP of {bytes} bytes, at most {SDP_BYTES_MAX} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not a session description.
    #[error("malformed SDP: {0}")]
    Malformed(sdp_types::ParserError),
    /// More than `MEDIA_LINES_MAX`.
    #[error("SDP with {lines} media lines, at most {MEDIA_LINES_MAX} are read")]
    TooManyMediaLines {
        /// How many.
        lines: usize,
    },
    /// More than `FORMATS_MAX` on the audio line.
    #[error("audio line with {formats} formats, at most {FORMATS_MAX} are read")]
    TooManyFormats {
        /// How many.
        formats: usize,
    },
    /// Neither the audio line nor the session has a `c=` line.
    #[error("no connection address")]
    NoAddress,
    /// The address is none that media can be sent to: a name, a multicast group, nonsense.
    #[error("unusable connection address {address:?}")]
    BadAddress {
        /// As it stood there.
        address: String,
    },
    /// A peer that is not on this host wants media at a loopback address: it would be sent to ourselves.
    #[error("a loopback address means nothing to a phone that is elsewhere")]
    Loopback,
    /// Well-formed, but nothing we can carry.
    #[error(transparent)]
    Incompatible(#[from] Incompatible),
    /// The step does not follow on the last one.
    #[error("{step} in state {state}")]
    WrongStep {
        /// What was asked for.
        step: &'static str,
        /// Where the exchange stands.
        state: &'static str,
    },
}

impl Error {
    /// The `code` of the business error that the switchboard gets.
    pub fn code(&self) -> &'static str {
        match self {
            Error::Incompatible(_) => "incompatible",
            Error::WrongStep { .. } => "wrong_step",
            _ => "bad_sdp",
        }
    }
}

/// Why there can be no session: SIP's 488.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Incompatible {
    /// No audio line, or one with port 0.
    #[error("no audio is offered")]
    NoAudio,
    /// The audio line is of another profile than RTP/AVP, RTP/AVPF, RTP/SAVP and RTP/SAVPF.
    #[error("transport {0} is not supported")]
    Profile(String),
    /// A protected profile without an `a=crypto` that we can use; why the first cannot be used, if there is one.
    #[error("no usable a=crypto{}", .0.as_ref().map(|why| format!(": {why}")).unwrap_or_default())]
    NoCrypto(Option<crypto::Unusable>),
    /// `a=crypto` of suites that are not configured, or an answer to none of ours.
    #[error("no crypto suite in common")]
    NoSuite,
    /// The peer protects with the key that we do: each packet would give the other's away.
    #[error("the peer answered with our own key")]
    OurKey,
    /// It offers what is turned off.
    #[error("SRTP is turned off (media.srtp)")]
    SrtpOff,
    /// It does not offer what is required.
    #[error("SRTP is required (media.srtp)")]
    SrtpRequired,
    /// Nothing both ends speak.
    #[error("no codec in common")]
    NoCodec,
    /// The peer is IPv6 and the stream IPv4, or the reverse.
    #[error("no address family in common")]
    AddressFamily,
}
