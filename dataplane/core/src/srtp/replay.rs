//! Which of the last 128 indices were seen (RFC 3711 section 3.3.2, which asks for 64 at least). A few instructions.

/// How far back an index is remembered; older ones count as seen.
pub const WINDOW: u64 = u128::BITS as u64;

/// A window over indices of one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Window {
    /// The highest index seen; means nothing while `bits` is zero.
    highest: u64,
    /// Bit n: `highest` - n was seen.
    bits: u128,
}

impl Window {
    /// One that has seen this index and, as far as anybody can tell, all before it.
    pub fn full_up_to(highest: u64) -> Self {
        Self { highest, bits: u128::MAX }
    }

    /// The highest index seen; none before the first.
    #[inline]
    pub fn highest(&self) -> Option<u64> {
        (self.bits != 0).then_some(self.highest)
    }

    /// Whether an index was not seen, and is not too old to tell.
    #[inline]
    pub fn is_fresh(&self, index: u64) -> bool {
        if self.bits == 0 || index > self.highest {
            return true;
        }
        let back = self.highest - index;
        back < WINDOW && self.bits & (1 << back) == 0
    }

    /// Notes an index that is fresh.
    #[inline]
    pub fn note(&mut self, index: u64) {
        if self.bits == 0 {
            (self.highest, self.bits) = (index, 1);
        } else if index > self.highest {
            let ahead = u32::try_from(index - self.highest).unwrap_or(u32::MAX);
            self.bits = self.bits.checked_shl(ahead).unwrap_or(0) | 1;
            self.highest = index;
        } else if self.highest - index < WINDOW {
            self.bits |= 1 << (self.highest - index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_edges_of_the_window() {
        let mut window = Window::default();
        assert!(window.is_fresh(0));
        window.note(1000);
        for (index, fresh) in [(1000, false), (1001, true), (999, true), (873, true), (872, false), (0, false)] {
            assert_eq!(window.is_fresh(index), fresh, "{index}");
        }
        window.note(873);
        assert!(!window.is_fresh(873));
        window.note(1001);
        assert!(!window.is_fresh(873), "it has left the window");
        window.note(5_000_000_000);
        assert!(!window.is_fresh(1001) && window.is_fresh(4_999_999_999));
        let resumed = Window::full_up_to(500);
        assert!(!resumed.is_fresh(500) && !resumed.is_fresh(400) && resumed.is_fresh(501));
    }

    proptest! {
        #[test]
        fn agrees_with_a_set(first in 0u64..100_000, steps in prop::collection::vec(-200i64..200, 1..600)) {
            let (mut window, mut seen, mut at) = (Window::default(), BTreeSet::new(), first as i64);
            for step in steps {
                at = (at + step).max(0);
                let index = at as u64;
                let highest = seen.last().copied();
                let expected = highest.is_none_or(|h: u64| index > h || h - index < WINDOW && !seen.contains(&index));
                prop_assert_eq!(window.is_fresh(index), expected);
                if expected {
                    window.note(index);
                    seen.insert(index);
                }
                prop_assert_eq!(window.highest(), seen.last().copied());
            }
        }
    }
}
