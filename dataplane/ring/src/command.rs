//! What control asks of the dataplane. Types only: `slot` puts them on the ring and validates them off it.
//!
//! Ids are chosen by control. Every command carries a correlation id (beside it, in the slot header) and is answered by
//! exactly one `Event::Done` or `Event::Failed` with that id.

use crate::srtp::SrtpConfig;
use crate::table::StreamRecord;
use std::net::{IpAddr, SocketAddr};

/// The most payload types one stream can negotiate.
pub const PAYLOAD_TYPES_MAX: usize = 16;

/// How far a resumed source of our own leaps in sequence numbers. The table lags by up to 100 ms, in which a stream echoes
/// at most 40 packets (of 2.5 ms); a receiver takes a leap below 3,000 for loss (RFC 3550 A.1).
pub const RESUME_SEQUENCE_AHEAD: u16 = 256;

/// How far its timestamps leap, on top of the time that has passed: what a packet may have been later than the next one.
pub const RESUME_TIMESTAMP_AHEAD_MS: u64 = 200;

/// A stream's name, unique over the life of the installation. Zero is not an id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// One command.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the sentence of a variant covers its fields")]
#[expect(clippy::large_enum_variant, reason = "decoded where nothing may be allocated")]
pub enum Command {
    /// Open the ports and start to listen. An id that exists already is `Reason::StreamExists`.
    CreateStream { id: StreamId, config: StreamConfig },
    /// Create a stream that another dataplane had, to go on as its last record shows it: the peer it had latched to is
    /// believed at once, our own source speaks on behind everything it can have said (`RESUME_SEQUENCE_AHEAD`), what was
    /// counted is counted on. Its bridge is to be made anew.
    ResumeStream { id: StreamId, config: StreamConfig, record: StreamRecord },
    /// Replace the configuration. The local address and RTP port cannot change; the RTCP port can only give way to
    /// rtcp-mux or come with its end. A changed `remote` opens the latch anew; the same one leaves it as it is, and starts
    /// the learning window again if the peer has not been heard yet.
    UpdateStream { id: StreamId, config: StreamConfig },
    /// Close the ports and free the slot. Its bridge, if any, falls apart.
    DestroyStream { id: StreamId },
    /// Relay between two streams, both ways, as each one's direction allows. Replaces earlier bridges of either. Their
    /// learning windows and the count of their silence start anew, even if they are bridged already: so the answer to a
    /// call with early media is told.
    CreateBridge { a: StreamId, b: StreamId },
    /// Hand a stream to another worker, which goes on with it: sockets, peer, numbers and counts. Its bridge falls apart. It is
    /// done when the other worker is sure to take it before any command that is sent to it from then on.
    MigrateStream { id: StreamId, worker: u32 },
    /// Take two streams apart. It is no error if they are not bridged.
    DestroyBridge { a: StreamId, b: StreamId },
}

/// Everything the dataplane knows about one RTP leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamConfig {
    /// Where to bind.
    pub local_ip: IpAddr,
    /// The RTP port, even by custom.
    pub rtp_port: u16,
    /// The RTCP port; equal to `rtp_port` when RTCP is multiplexed (RFC 5761).
    pub rtcp_port: u16,
    /// Where the peer's SDP says it receives RTP; none before its SDP is known.
    pub remote_rtp: Option<SocketAddr>,
    /// The same for RTCP (RFC 3605, or the next port).
    pub remote_rtcp: Option<SocketAddr>,
    /// Whether the peer may be behind NAT, so that its packets may come from another address than it signalled.
    pub nat_expected: bool,
    /// How long a foreign source may be learned when NAT is expected: from the creation, from a changed remote, or from
    /// the last update or bridge before the peer was heard.
    pub learning_window_ms: u32,
    /// The one address besides `remote_rtp`'s from which a peer may be learned: where its SIP came from. None if that is not
    /// known: then it may be learned from anywhere.
    pub learn_from: Option<IpAddr>,
    /// How often a peer that has fallen silent may be found again at another port without being signalled (its NAT has forgotten
    /// it): not more than once in so long. 0 never.
    pub relatch_interval_ms: u32,
    /// Whether packets from the peer are accepted (its direction has `send`). RTCP flows regardless.
    pub receive: bool,
    /// Whether packets are sent to the peer (its direction has `recv`). RTCP flows regardless.
    pub send: bool,
    /// What happens to accepted RTP while no bridge exists.
    pub mode: Mode,
    /// Silence after which `Event::RtpTimeout` is reported; 0 turns it off. Not counted while `receive` is false. Counted
    /// from the last RTP, the last bridge, the creation, or the update that last changed this, `receive` or the remote.
    pub rtp_timeout_ms: u32,
    /// Our SSRC where we terminate (echo, our own RTCP). Chosen at random by control; never zero.
    pub ssrc: u32,
    /// The keys of a protected stream; none for plain RTP.
    pub srtp: Option<SrtpConfig>,
    /// What the peer may send, and what it is called on the other side of a bridge. RTP with other types is dropped.
    pub payload_types: PayloadTypes,
}

/// See `StreamConfig::mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// Drop it: there is nobody to send it to.
    #[default]
    Bridge,
    /// Send it back to the peer from our own SSRC: the echo service.
    Echo,
}

/// One negotiated payload type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadType {
    /// As the peer sends it to us, 0 to 127.
    pub number: u8,
    /// As the other leg of a bridge knows it, 0 to 127.
    pub forward_as: u8,
    /// The RTP clock, for jitter (RFC 3550 A.8).
    pub clock_rate_hz: u32,
}

/// Up to `PAYLOAD_TYPES_MAX` payload types, in order of preference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PayloadTypes {
    len: u8,
    all: [PayloadType; PAYLOAD_TYPES_MAX],
}

impl PayloadTypes {
    /// Adds one; false if there is no room.
    pub fn push(&mut self, payload_type: PayloadType) -> bool {
        let Some(slot) = self.all.get_mut(self.len as usize) else { return false };
        *slot = payload_type;
        self.len += 1;
        true
    }

    /// All of them.
    pub fn as_slice(&self) -> &[PayloadType] {
        &self.all[..self.len as usize]
    }
}

impl FromIterator<PayloadType> for PayloadTypes {
    /// Takes the first `PAYLOAD_TYPES_MAX`.
    fn from_iter<I: IntoIterator<Item = PayloadType>>(iter: I) -> Self {
        let mut all = Self::default();
        for payload_type in iter {
            if !all.push(payload_type) {
                break;
            }
        }
        all
    }
}
