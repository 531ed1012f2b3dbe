//! Tells RTP, RTCP and everything else on a media port apart by the first two bytes (RFC 7983 section 7, RFC 5761
//! section 4). Called first for every packet; a few compares.

use crate::driver::Component;
use nebula_ring::drops::DropReason;

/// What the engine goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// To be parsed as RTP.
    Rtp,
    /// To be parsed as RTCP.
    Rtcp,
}

/// Names the kind of a packet that came in on `component` of a stream with (`muxed`) or without a single port for both.
#[inline]
pub fn classify(component: Component, muxed: bool, packet: &[u8]) -> Result<Kind, DropReason> {
    let &[first, second, ..] = packet else { return Err(DropReason::Truncated) };
    if first >> 6 != 2 {
        return Err(foreign_protocol(first));
    }
    match (second, component, muxed) {
        (192..=223, Component::Rtcp, false) | (192..=223, Component::Rtp, true) => Ok(Kind::Rtcp),
        // Its port was closed when RTCP moved to the RTP port.
        (_, Component::Rtcp, true) => Err(DropReason::StaleSocket),
        (192..=223, Component::Rtp, false) => Err(DropReason::RtcpNotMuxed),
        (_, Component::Rtp, _) => Ok(Kind::Rtp),
        (_, Component::Rtcp, false) => Err(DropReason::NotRtcp),
    }
}

/// RFC 7983 section 7, but for RTP itself.
fn foreign_protocol(first: u8) -> DropReason {
    match first {
        0..=3 => DropReason::Stun,
        16..=19 => DropReason::Zrtp,
        20..=63 => DropReason::Dtls,
        64..=79 => DropReason::TurnChannel,
        _ => DropReason::BadVersion,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_names_the_protocol() {
        for first in 0..=255u8 {
            let expected = match first {
                0..=3 => Err(DropReason::Stun),
                16..=19 => Err(DropReason::Zrtp),
                20..=63 => Err(DropReason::Dtls),
                64..=79 => Err(DropReason::TurnChannel),
                128..=191 => Ok(Kind::Rtp),
                _ => Err(DropReason::BadVersion),
            };
            assert_eq!(classify(Component::Rtp, true, &[first, 0, 0]), expected, "{first}");
        }
        assert_eq!(classify(Component::Rtp, true, &[0x80]), Err(DropReason::Truncated));
    }

    #[test]
    fn the_second_byte_parts_rtp_from_rtcp() {
        assert_eq!(classify(Component::Rtp, true, &[0x80, 200]), Ok(Kind::Rtcp));
        assert_eq!(classify(Component::Rtcp, false, &[0x80, 201]), Ok(Kind::Rtcp));
        assert_eq!(classify(Component::Rtp, false, &[0x80, 200]), Err(DropReason::RtcpNotMuxed));
        assert_eq!(classify(Component::Rtcp, false, &[0x80, 0]), Err(DropReason::NotRtcp));
        assert_eq!(classify(Component::Rtcp, true, &[0x80, 200]), Err(DropReason::StaleSocket));
        assert_eq!(classify(Component::Rtp, true, &[0x80, 0x80 | 101]), Ok(Kind::Rtp), "marker and type 101");
        assert_eq!(classify(Component::Rtp, true, &[0x80, 191]), Ok(Kind::Rtp));
        assert_eq!(classify(Component::Rtp, true, &[0x80, 224]), Ok(Kind::Rtp));
    }
}
