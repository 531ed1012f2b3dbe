//! What a stream counts: exact packet and byte totals for tables, records and reports.

/// A stream's totals since its creation. They survive a change of SSRC and of the peer's address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct StreamStats {
    /// RTP packets accepted from the peer.
    pub packets_received: u64,
    /// Their UDP payload bytes; of SRTP, what is left as RTP.
    pub bytes_received: u64,
    /// RTP packets sent to the peer.
    pub packets_sent: u64,
    /// Their UDP payload bytes.
    pub bytes_sent: u64,
    /// Packets expected less packets received (RFC 3550 A.3); negative when duplicates outnumber losses.
    pub packets_lost: i64,
    /// Packets that came after a higher sequence number, duplicates apart.
    pub packets_reordered: u64,
    /// Packets that came again within the last `DUPLICATE_WINDOW`.
    pub packets_duplicated: u64,
    /// Times the peer began anew: another SSRC or a sequence jump that two packets confirmed (RFC 3550 A.1).
    pub source_changes: u64,
    /// Interarrival jitter (RFC 3550 A.8) in nanoseconds.
    pub jitter_ns: u64,
    /// The highest such jitter so far.
    pub jitter_ns_max: u64,
    /// RTCP packets (compounds) accepted from the peer.
    pub rtcp_received: u64,
    /// RTCP packets (compounds) sent to the peer, relayed and our own.
    pub rtcp_sent: u64,
    /// Packets of either kind handed in for this stream. Always `forwarded + consumed` plus all its drops.
    pub handled: u64,
    /// Of these, passed on: to the other leg or back as echo.
    pub forwarded: u64,
    /// Of these, read by the engine itself: RTCP where we terminate.
    pub consumed: u64,
}
