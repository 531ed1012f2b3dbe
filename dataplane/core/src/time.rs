//! The engine's time: handed in with every input, never read from a clock.

/// Nanoseconds of a clock that never stops or goes back, from an origin of the caller's choosing (CLOCK_MONOTONIC).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Nanos(pub u64);

impl Nanos {
    /// From whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1_000_000))
    }

    /// Whole milliseconds, rounded down.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// Later by so much; stays at the end of time rather than wrap.
    pub const fn plus_nanos(self, nanos: u64) -> Self {
        Self(self.0.saturating_add(nanos))
    }

    /// Later by so many milliseconds.
    pub const fn plus_millis(self, ms: u64) -> Self {
        self.plus_nanos(ms.saturating_mul(1_000_000))
    }

    /// Nanoseconds since `earlier`; zero if that is still to come.
    pub const fn since(self, earlier: Nanos) -> u64 {
        self.0.saturating_sub(earlier.0)
    }

    /// The same instant in the 64-bit format of NTP (32 bits of seconds, 32 of fraction), with the clock's own origin
    /// (RFC 3550 section 4 lets a sender without wall clock do so).
    pub const fn as_ntp(self) -> u64 {
        let seconds = self.0 / 1_000_000_000;
        let fraction = ((self.0 % 1_000_000_000) << 32) / 1_000_000_000;
        (seconds << 32) | fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ntp_has_seconds_above_and_fractions_below() {
        assert_eq!(Nanos(1_500_000_000).as_ntp(), (1 << 32) | 0x8000_0000);
        assert_eq!(Nanos(7_999_999_999).as_ntp() >> 32, 7);
    }
}
