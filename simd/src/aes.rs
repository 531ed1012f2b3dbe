//! AES keys, expanded once when a stream gets its keys (FIPS 197 section 5.2).

use aes::hazmat::{Block8, cipher_round, cipher_round_par, inv_mix_columns};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The bytes of an AES block.
pub const BLOCK_BYTES: usize = 16;

/// How many blocks the scalar kernel takes at once: the width of the bit slices in the `aes` crate.
pub(crate) const SCALAR_BLOCKS: usize = 8;

/// The round keys of AES-128 or AES-256, in the order and bytes of FIPS 197, which all kernels read.
///
/// 256 bytes on a boundary of 64, so that a kernel never straddles a line.
#[derive(Clone, ZeroizeOnDrop)]
#[repr(C, align(64))]
pub struct Schedule {
    round_keys: [[u8; BLOCK_BYTES]; 15],
    /// 10 or 14.
    #[zeroize(skip)]
    rounds: usize,
}

const _: () = assert!(size_of::<Schedule>() == 256);

impl Schedule {
    /// A key of AES-128.
    #[must_use]
    pub fn aes_128(key: &[u8; 16]) -> Schedule {
        expand(key, 10)
    }

    /// A key of AES-256.
    #[must_use]
    pub fn aes_256(key: &[u8; 32]) -> Schedule {
        expand(key, 14)
    }

    /// The number of rounds, 10 for AES-128 and 14 for AES-256.
    #[must_use]
    pub fn rounds(&self) -> usize {
        self.rounds
    }

    /// The round keys; those after the last round are zeros.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn round_keys(&self) -> &[[u8; BLOCK_BYTES]; 15] {
        &self.round_keys
    }

    /// One block encrypted, by the scalar kernel. For setting up keys; packets go through [`crate::ctr`] and [`crate::gcm`].
    #[must_use]
    pub fn encrypt_block(&self, block: &[u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
        let mut blocks = [[0; BLOCK_BYTES]; SCALAR_BLOCKS];
        blocks[0] = *block;
        self.encrypt_blocks(&mut blocks);
        blocks[0]
    }

    /// Blocks encrypted in place, by the scalar kernel.
    ///
    /// Round by round through `aes::hazmat`, which reads the same round keys as the other kernels; the crate's own cipher
    /// objects would keep a second copy of each key in a layout of their own.
    pub(crate) fn encrypt_blocks(&self, blocks: &mut [[u8; BLOCK_BYTES]; SCALAR_BLOCKS]) {
        let mut state = Block8::default();
        for (state, block) in state.iter_mut().zip(blocks.iter()) {
            *state = xor(block, &self.round_keys[0]).into();
        }
        for round_key in &self.round_keys[1..self.rounds] {
            cipher_round_par(&mut state, &Block8::from_fn(|_| (*round_key).into()));
        }
        // The last round mixes no columns: mix them, then take it back.
        cipher_round_par(&mut state, &Block8::default());
        for (state, block) in state.iter_mut().zip(blocks.iter_mut()) {
            inv_mix_columns(state);
            *block = xor(&(*state).into(), &self.round_keys[self.rounds]);
        }
    }
}

impl std::fmt::Debug for Schedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Schedule").field("rounds", &self.rounds).finish_non_exhaustive()
    }
}

/// FIPS 197, figure 11.
fn expand(key: &[u8], rounds: usize) -> Schedule {
    let key_words = key.len() / 4;
    let mut words = [[0_u8; 4]; 60];
    for (word, bytes) in words.iter_mut().zip(key.chunks_exact(4)) {
        word.copy_from_slice(bytes);
    }
    let mut round_constant = 1_u8;
    for i in key_words..4 * (rounds + 1) {
        let mut word = words[i - 1];
        if i % key_words == 0 {
            word.rotate_left(1);
            word = substitute(word);
            word[0] ^= round_constant;
            // Multiplied by x in GF(2^8); the ninth constant is the first that overflows.
            round_constant = (round_constant << 1) ^ ((round_constant >> 7) * 0x1b);
        } else if key_words > 6 && i % key_words == 4 {
            word = substitute(word);
        }
        words[i] = std::array::from_fn(|b| words[i - key_words][b] ^ word[b]);
    }
    let mut round_keys = [[0; BLOCK_BYTES]; 15];
    for (round_key, quad) in round_keys.iter_mut().zip(words.chunks_exact(4)) {
        round_key.copy_from_slice(quad.as_flattened());
    }
    words.zeroize();
    Schedule { round_keys, rounds }
}

/// SubWord of FIPS 197, without a table: in a block of four equal columns shifting rows changes nothing.
fn substitute(word: [u8; 4]) -> [u8; 4] {
    let columns: [u8; BLOCK_BYTES] = std::array::from_fn(|i| word[i % 4]);
    let mut block = columns.into();
    cipher_round(&mut block, &[0; BLOCK_BYTES].into());
    inv_mix_columns(&mut block);
    [block[0], block[1], block[2], block[3]]
}

fn xor(a: &[u8; BLOCK_BYTES], b: &[u8; BLOCK_BYTES]) -> [u8; BLOCK_BYTES] {
    std::array::from_fn(|i| a[i] ^ b[i])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(text: &str) -> [u8; N] {
        hex::decode(text).expect("hex").try_into().expect("as long as that")
    }

    #[test]
    fn keys_expand_as_in_fips_197_appendix_a() {
        let of_128 = Schedule::aes_128(&bytes("2b7e151628aed2a6abf7158809cf4f3c"));
        assert_eq!(of_128.round_keys[10], bytes("d014f9a8c9ee2589e13f0cc8b6630ca6"));
        let of_256 = Schedule::aes_256(&bytes("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4"));
        assert_eq!(of_256.round_keys[14], bytes("fe4890d1e6188d0b046df344706c631e"));
    }

    #[test]
    fn blocks_encrypt_as_in_fips_197_appendix_c() {
        let plain = bytes("00112233445566778899aabbccddeeff");
        let of_128 = Schedule::aes_128(&std::array::from_fn(|i| i as u8));
        assert_eq!(of_128.encrypt_block(&plain), bytes("69c4e0d86a7b0430d8cdb78070b4c55a"));
        let of_256 = Schedule::aes_256(&std::array::from_fn(|i| i as u8));
        assert_eq!(of_256.encrypt_block(&plain), bytes("8ea2b7ca516745bfeafc49904b496089"));
    }
}
