//! Which sequence numbers a session's packets have: where they begin, and whether they go ahead once, so that they soon begin anew.

/// After so many packets they go ahead: a second of the usual packets, by which time they are believed.
const LEAP_AFTER: u64 = 50;

/// For all sessions.
#[derive(Debug, Clone, clap::Args)]
pub struct Numbering {
    /// The first sequence number of all RTP; with several, calls take them in turn.
    #[arg(long, value_name = "NUMBER", value_delimiter = ',', default_value = "0")]
    first_sequence: Vec<u16>,
    /// How many sequence numbers are left out once, after the fiftieth packet.
    #[arg(long, value_name = "NUMBERS", default_value_t = 0)]
    sequence_leap: u16,
}

/// For one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Numbers {
    first: u16,
    leap: u16,
}

impl Numbering {
    /// Those of an end; both ends of a call have the same, and so many calls share one as there are calls for each.
    pub fn of(&self, origin: u32) -> Numbers {
        let call = (origin.saturating_sub(1) / 2) as usize;
        let first = self.first_sequence.get(call % self.first_sequence.len().max(1)).copied();
        Numbers { first: first.unwrap_or(0), leap: self.sequence_leap }
    }
}

impl Numbers {
    /// Of a packet, by how many were sent before.
    pub fn sequence(self, number: u64) -> u16 {
        let leap = if number < LEAP_AFTER { 0 } else { self.leap };
        self.first.wrapping_add(number as u16).wrapping_add(leap)
    }

    /// How many sequence numbers a sender like us has left out between two of its packets.
    pub fn left_out(self, before: u64, number: u64) -> u64 {
        if before < LEAP_AFTER && LEAP_AFTER <= number { self.leap.into() } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_begin_where_they_were_told_and_leap_once() {
        let numbering = Numbering { first_sequence: vec![65_500, 10], sequence_leap: 100 };
        let of = |origin, number| numbering.of(origin).sequence(number);
        assert_eq!([of(1, 0), of(2, 1), of(3, 0), of(4, 49), of(5, 36)], [65_500, 65_501, 10, 59, 0]);
        let left_out = |before, number| numbering.of(1).left_out(before, number);
        assert_eq!([left_out(48, 49), left_out(49, 50), left_out(3, 60), left_out(50, 51)], [0, 100, 100, 0]);
        assert_eq!([of(3, 50), of(3, 51), of(1, 70_000)], [160, 161, (65_500_u64 + 70_000 + 100 - 131_072) as u16]);
    }
}
