//! GCM by AES-NI and PCLMULQDQ. `benches/srtp.rs` has what it saves.

use super::{BadTag, Key, NONCE_BYTES, POWERS, TAG_BYTES, counter_block, lengths};
use crate::aes::BLOCK_BYTES;
use crate::avx2::{Counter, apply_stream, encrypt, load_block, reduced, reversed, store_block};
use crate::equal;
use std::arch::x86_64::*;

#[target_feature(enable = "avx2,aes,pclmulqdq")]
pub(super) fn seal(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &mut [u8]) -> [u8; TAG_BYTES] {
    match key.schedule.rounds() {
        10 => seal_rounds::<10>(key, nonce, aad, data),
        _ => seal_rounds::<14>(key, nonce, aad, data),
    }
}

#[target_feature(enable = "avx2,aes,pclmulqdq")]
pub(super) fn open(
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), BadTag> {
    match key.schedule.rounds() {
        10 => open_rounds::<10>(key, nonce, aad, data, tag),
        _ => open_rounds::<14>(key, nonce, aad, data, tag),
    }
}

#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn seal_rounds<const ROUNDS: usize>(
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
) -> [u8; TAG_BYTES] {
    apply_stream::<ROUNDS>(&key.schedule, Counter::new(&counter_block(nonce, 2)), data);
    tag_of::<ROUNDS>(key, nonce, aad, data)
}

#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn open_rounds<const ROUNDS: usize>(
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), BadTag> {
    if !equal(&tag_of::<ROUNDS>(key, nonce, aad, data), tag) {
        return Err(BadTag);
    }
    apply_stream::<ROUNDS>(&key.schedule, Counter::new(&counter_block(nonce, 2)), data);
    Ok(())
}

/// The tag of a header and what was encrypted.
#[inline]
#[target_feature(enable = "avx2,aes,pclmulqdq")]
fn tag_of<const ROUNDS: usize>(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &[u8]) -> [u8; TAG_BYTES] {
    let [mask] = encrypt::<ROUNDS, 1>(&key.schedule, [load_block(&counter_block(nonce, 1))]);
    let mut hash = Hash::new(key, aad.len().div_ceil(BLOCK_BYTES) + data.len().div_ceil(BLOCK_BYTES) + 1);
    hash.update(aad);
    hash.update(data);
    hash.update(&lengths(aad, data));
    let mut tag = [0; TAG_BYTES];
    store_block(&mut tag, _mm_xor_si128(reversed(hash.carried), mask));
    tag
}

/// GHASH in POLYVAL's form: the blocks of a run are multiplied by falling powers of the key, summed, and reduced once.
struct Hash<'a> {
    powers: &'a [[u8; BLOCK_BYTES]; POWERS + 3],
    /// The products of this run, not reduced: low, middle and high halves.
    low: __m128i,
    middle: __m128i,
    high: __m128i,
    /// What the last run came to; it goes into the first block of the next, and is the hash after the last.
    carried: __m128i,
    /// How many blocks this run still takes, which is also the power of the next one.
    run_left: usize,
    /// How many blocks come after this run.
    after: usize,
}

impl Hash<'_> {
    /// A hash of exactly so many blocks.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn new(key: &Key, blocks: usize) -> Hash<'_> {
        let zero = _mm_setzero_si128();
        let run_left = blocks.min(POWERS);
        let after = blocks - run_left;
        Hash { powers: &key.powers, low: zero, middle: zero, high: zero, carried: zero, run_left, after }
    }

    /// Takes in `data`, filled up with zeros to whole blocks.
    #[inline]
    #[target_feature(enable = "avx2,pclmulqdq")]
    fn update(&mut self, data: &[u8]) {
        let (whole, last) = data.as_chunks();
        for block in whole {
            self.update_block(load_block(block));
        }
        if !last.is_empty() {
            let mut block = [0; BLOCK_BYTES];
            block[..last.len()].copy_from_slice(last);
            self.update_block(load_block(&block));
        }
    }

    #[inline]
    #[target_feature(enable = "avx2,pclmulqdq")]
    fn update_block(&mut self, block: __m128i) {
        let block = _mm_xor_si128(reversed(block), self.carried);
        self.carried = _mm_setzero_si128();
        let power = load_block(&self.powers[POWERS - self.run_left]);
        let crossed = _mm_clmulepi64_si128::<0x01>(block, power);
        let crossed_again = _mm_clmulepi64_si128::<0x10>(block, power);
        self.low = _mm_xor_si128(self.low, _mm_clmulepi64_si128::<0x00>(block, power));
        self.middle = _mm_xor_si128(self.middle, _mm_xor_si128(crossed, crossed_again));
        self.high = _mm_xor_si128(self.high, _mm_clmulepi64_si128::<0x11>(block, power));
        self.run_left -= 1;
        if self.run_left == 0 {
            self.carried = reduced(self.low, self.middle, self.high);
            let zero = _mm_setzero_si128();
            (self.low, self.middle, self.high) = (zero, zero, zero);
            self.run_left = self.after.min(POWERS);
            self.after -= self.run_left;
        }
    }
}
