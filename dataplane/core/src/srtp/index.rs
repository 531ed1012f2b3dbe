//! The 48-bit packet index from the 16 bits that packets carry (RFC 3711 section 3.3.1 and appendix A). Pure.

/// The index that a sequence number most likely means, next to the highest one known; none if it lies before all indices.
#[inline]
pub fn estimate(highest: Option<u64>, sequence: u16) -> Option<u64> {
    let Some(highest) = highest else { return Some(sequence.into()) };
    let ahead = sequence.wrapping_sub(highest as u16) as i16;
    highest.checked_add_signed(ahead.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn wraps_are_followed_both_ways() {
        assert_eq!(estimate(None, 65_535), Some(65_535), "a source begins in the first cycle");
        assert_eq!(estimate(Some(65_535), 0), Some(65_536));
        assert_eq!(estimate(Some(65_536), 65_535), Some(65_535));
        assert_eq!(estimate(Some(3), 65_535), None, "there is no cycle before the first");
        assert_eq!(estimate(Some((7 << 16) | 10), 32_777), Some((7 << 16) | 32_777));
        assert_eq!(estimate(Some((7 << 16) | 10), 32_778), Some((6 << 16) | 32_778), "2^15 ahead is behind");
    }

    /// RFC 3711 appendix A, as it is printed there.
    fn printed(roc: u32, s_l: u16, seq: u16) -> u64 {
        let (s_l, s) = (i64::from(s_l), i64::from(seq));
        let v = if s_l < 32_768 {
            if s - s_l > 32_768 { roc.wrapping_sub(1) } else { roc }
        } else if s_l - 32_768 > s {
            roc.wrapping_add(1)
        } else {
            roc
        };
        (u64::from(v) << 16) | u64::from(seq)
    }

    proptest! {
        #[test]
        fn agrees_with_the_appendix(roc in 1u32..u32::MAX, s_l: u16, seq: u16) {
            // At a distance of exactly 2^15 either is right, and the appendix is of two minds.
            prop_assume!(s_l.wrapping_sub(seq) != 0x8000);
            let highest = (u64::from(roc) << 16) | u64::from(s_l);
            prop_assert_eq!(estimate(Some(highest), seq), Some(printed(roc, s_l, seq)));
        }
    }
}
