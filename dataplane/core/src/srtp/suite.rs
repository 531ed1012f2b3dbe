//! What a suite adds to packets, as a table: RFC 4568 section 6.2, RFC 6188 section 4, RFC 7714 section 12.

use nebula_ring::srtp::{MKI_BYTES_MAX, Suite};

/// Bytes of the word with E bit and index that SRTCP adds (RFC 3711 section 3.4).
pub(super) const SRTCP_INDEX_BYTES: usize = 4;

/// The most that protecting adds to an RTP packet.
pub const SRTP_ROOM_BYTES: usize = 16 + MKI_BYTES_MAX;

/// The most that protecting adds to an RTCP packet.
pub const SRTCP_ROOM_BYTES: usize = SRTP_ROOM_BYTES + SRTCP_INDEX_BYTES;

/// How packets are protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// AES in counter mode with HMAC-SHA1, which is cut.
    CounterMode,
    /// AES-GCM: one pass for both.
    Aead,
}

/// A row of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Profile {
    pub kind: Kind,
    /// Bytes of an SRTP packet's tag.
    pub rtp_tag: usize,
    /// Bytes of an SRTCP packet's tag.
    pub rtcp_tag: usize,
}

/// The row of a suite.
pub(super) const fn profile(suite: Suite) -> Profile {
    let (kind, rtp_tag, rtcp_tag) = match suite {
        Suite::AesCm128HmacSha1_80 | Suite::AesCm256HmacSha1_80 => (Kind::CounterMode, 10, 10),
        Suite::AesCm128HmacSha1_32 | Suite::AesCm256HmacSha1_32 => (Kind::CounterMode, 4, 10),
        Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => (Kind::Aead, 16, 16),
    };
    Profile { kind, rtp_tag, rtcp_tag }
}
