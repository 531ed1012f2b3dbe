//! The indices of one source under one key. Two packets under one index give their contents away, and with AEAD the key of the tags;
//! so whoever sends a second one with other contents has failed, however well it authenticates. Pure.

/// How many indices back a packet is known by its contents. What comes from further back is taken for another one: nothing here
/// reorders packets by seconds.
const KNOWN: u64 = 1024;

/// Of a place that nothing was put into.
const NOTHING: u64 = u64::MAX;

/// What came up to now.
#[derive(Debug)]
pub struct Indices {
    highest: Option<u64>,
    /// Index and digest of what came, by the index modulo `KNOWN`.
    known: Vec<(u64, u64)>,
}

/// What an index was used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// For this packet alone.
    Once,
    /// For the same packet, which came twice.
    Again,
    /// For two packets.
    Twice,
}

impl Indices {
    /// Nothing has come.
    pub fn new() -> Self {
        Self { highest: None, known: vec![(NOTHING, 0); KNOWN as usize] }
    }

    /// The index of a sequence number: the one that is nearest to the highest (RFC 3711 section 3.3.1). The first is of the first
    /// cycle.
    pub fn estimate(&self, sequence: u16) -> u64 {
        let Some(highest) = self.highest else { return sequence.into() };
        let ahead = i64::from(sequence.wrapping_sub(highest as u16).cast_signed());
        highest.checked_add_signed(ahead).unwrap_or(sequence.into())
    }

    /// Notes an authentic packet by the digest of all its bytes.
    pub fn note(&mut self, index: u64, digest: u64) -> Use {
        let place = &mut self.known[(index % KNOWN) as usize];
        let highest = self.highest.unwrap_or(index);
        if index + KNOWN <= highest {
            return Use::Twice;
        }
        if place.0 == index {
            return if place.1 == digest { Use::Again } else { Use::Twice };
        }
        *place = (index, digest);
        self.highest = Some(highest.max(index));
        Use::Once
    }

    /// How often its sequence numbers have begun anew.
    pub fn rollovers(&self) -> u64 {
        self.highest.map_or(0, |highest| highest >> 16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_for_one_packet() {
        let mut indices = Indices::new();
        for (sequence, digest, used, index) in [
            (65_500, 1, Use::Once, 65_500),
            (65_535, 2, Use::Once, 65_535),
            (3, 3, Use::Once, 65_539),
            (65_534, 4, Use::Once, 65_534),
            (65_535, 2, Use::Again, 65_535),
            (65_535, 5, Use::Twice, 65_535),
            (3, 6, Use::Twice, 65_539),
            (2_000, 7, Use::Once, 67_536),
            // Nobody knows any more what that was.
            (65_533, 8, Use::Twice, 65_533),
        ] {
            assert_eq!(indices.estimate(sequence), index, "{sequence}");
            assert_eq!(indices.note(index, digest), used, "{sequence}");
        }
        assert_eq!(indices.rollovers(), 1);
    }

    #[test]
    fn before_the_first_cycle_there_is_none() {
        let mut indices = Indices::new();
        indices.note(10, 1);
        assert_eq!(indices.estimate(65_530), 65_530);
    }
}
