//! Why a received packet was refused: the reasons, their operator-facing names, and a counter for each.
//!
//! The engine counts, the stream table carries the array, the media agent exports the names. The order is ABI: append
//! only. Every packet the engine is handed ends as forwarded, consumed, or under exactly one of these.

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident $name:literal,)+) => {
        /// One reason to refuse a packet.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason { $($(#[$doc])* $variant,)+ }

        impl DropReason {
            /// All reasons, in the order of their counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),+];

            /// The name operators see, in tables, metrics and records.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name),+ }
            }
        }
    };
}

reasons! {
    /// Shorter than its own headers say: fixed header, CSRC list or extension pass the end.
    Truncated "drop_truncated",
    /// The first byte is of no protocol we know: not RTP version 2 and nothing of RFC 7983.
    BadVersion "drop_bad_version",
    /// The padding count is zero or passes the payload.
    BadPadding "drop_bad_padding",
    /// Longer than `PACKET_BYTES_MAX`.
    TooLong "drop_too_long",
    /// First byte 0 to 3: STUN on a stream without ICE.
    Stun "drop_stun",
    /// First byte 16 to 19: ZRTP.
    Zrtp "drop_zrtp",
    /// First byte 20 to 63: DTLS on a stream without it.
    Dtls "drop_dtls",
    /// First byte 64 to 79: a TURN channel.
    TurnChannel "drop_turn_channel",
    /// Not from the peer's address.
    ForeignSource "drop_foreign_source",
    /// From an address that may yet prove to be the peer's (NAT), before the latch has closed.
    Learning "drop_learning",
    /// RTP of a payload type that was not negotiated.
    UnknownPayloadType "drop_unknown_payload_type",
    /// The negotiated direction of this or the other leg does not let RTP through.
    Direction "drop_direction",
    /// The stream is not bridged and does not echo.
    NoPeer "drop_no_peer",
    /// It has nowhere to go: the receiving leg's address is not known yet.
    NoRemote "drop_no_remote",
    /// RTCP that is not a well-formed compound (RFC 3550 A.2) or reduced-size packet (RFC 5506).
    BadRtcp "drop_bad_rtcp",
    /// RTCP on the RTP port of a stream that has a port of its own for RTCP.
    RtcpNotMuxed "drop_rtcp_not_muxed",
    /// Anything but RTCP on the RTCP port.
    NotRtcp "drop_not_rtcp",
    /// For a socket that is closed: it was in flight when its stream was destroyed, which the engine alone counts; or when
    /// RTCP moved to the RTP port.
    StaleSocket "drop_stale_socket",
    /// The stream is protected, and there is no key for the packet: the peer's answer is still to come, or the packet names
    /// another key (MKI).
    NoKey "drop_no_key",
    /// Too short for SRTP.
    Short "drop_short",
    /// Its tag is not that of the packet: another key, or changed on the way.
    BadTag "drop_bad_tag",
    /// SRTP that was read before, or is too old to know.
    Replay "drop_replay",
    /// To be sent under SRTP, but its number was used, or it is a jump that no second packet has confirmed.
    OutOfOrder "drop_out_of_order",
    /// The key has protected as many packets as it may.
    KeyExhausted "drop_key_exhausted",
    /// From our own SSRC, twice although it was changed: our own packets come back to us (RFC 3550 section 8.2).
    Loop "drop_loop",
}

/// How many reasons there are.
pub const DROP_REASONS: usize = DropReason::ALL.len();

/// A counter for each reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(transparent)]
pub struct DropCounters(pub [u64; DROP_REASONS]);

impl DropCounters {
    /// Counts one packet.
    pub fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }

    /// The packets refused for one reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// The packets refused for any reason.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Names and counts of those that are not zero.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        DropReason::ALL.iter().map(|&r| (r.name(), self.get(r))).filter(|&(_, n)| n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_its_own_counter_and_name() {
        let mut counters = DropCounters::default();
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, i);
            assert!(reason.name().starts_with("drop_"));
            (0..=i).for_each(|_| counters.count(reason));
        }
        let names: std::collections::BTreeMap<_, _> = counters.named().collect();
        assert_eq!(names.len(), DROP_REASONS, "names are unique");
        assert_eq!(names[DropReason::ALL[DROP_REASONS - 1].name()], DROP_REASONS as u64);
        assert_eq!(counters.total(), (1..=DROP_REASONS as u64).sum::<u64>());
    }
}
