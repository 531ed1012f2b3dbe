//! Branches, tags and Call-IDs: unguessable text from a seed that is handed in, so that a run can be replayed.
//!
//! One SHA-256 block each. RFC 3261 19.3 asks for 32 bits of randomness in a tag; these have 80.

use sha2::{Digest, Sha256};

use crate::message::BRANCH_COOKIE;

/// Bytes of a token before they are written in hexadecimal.
const TOKEN_BYTES: usize = 10;

/// An endless row of tokens. Two sources with different seeds share none.
#[derive(Debug, Clone)]
pub struct Tokens {
    seed: [u8; 16],
    drawn: u64,
}

impl Tokens {
    /// From 16 random bytes (the shell's), or any in a test.
    pub fn new(seed: [u8; 16]) -> Self {
        Self { seed, drawn: 0 }
    }

    /// Twenty hexadecimal digits: a tag, or a Call-ID.
    pub fn token(&mut self) -> String {
        hex::encode(&self.block()[..TOKEN_BYTES])
    }

    /// A branch with its magic cookie.
    pub fn branch(&mut self) -> String {
        format!("{BRANCH_COOKIE}{}", self.token())
    }

    /// A number below `bound` (and 0 for a bound of 0): for delays and first sequence numbers.
    pub fn below(&mut self, bound: u32) -> u32 {
        let block = self.block();
        let word = u64::from_le_bytes([block[0], block[1], block[2], block[3], block[4], block[5], block[6], block[7]]);
        (word % u64::from(bound.max(1))) as u32
    }

    fn block(&mut self) -> [u8; 32] {
        let digest = Sha256::new().chain_update(self.seed).chain_update(self.drawn.to_le_bytes()).finalize();
        self.drawn += 1;
        digest.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_differ_by_draw_and_seed_and_repeat_by_seed() {
        let (mut a, mut b, mut c) = (Tokens::new([1; 16]), Tokens::new([1; 16]), Tokens::new([2; 16]));
        let first = a.token();
        assert_eq!(first.len(), 20);
        assert_eq!(first, b.token());
        assert_ne!(first, a.token());
        assert_ne!(first, c.token());
        assert!(a.branch().starts_with(BRANCH_COOKIE));
        assert!((0..100).all(|_| a.below(7) < 7));
        assert_eq!(a.below(0), 0);
    }
}
