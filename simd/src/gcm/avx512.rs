//! GCM by VAES and VPCLMULQDQ. `benches/srtp.rs` has what it saves.

use super::{BadTag, Key, NONCE_BYTES, POWERS, TAG_BYTES, counter_block, lengths};
use crate::aes::BLOCK_BYTES;
use crate::avx2::{load_block, reversed, store_block};
use crate::avx512::{Counter, VECTOR_BLOCKS, VECTOR_BYTES, apply_stream, load, load_whole};
use crate::{avx2, equal};
use std::arch::x86_64::*;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
pub(super) fn seal(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &mut [u8]) -> [u8; TAG_BYTES] {
    match key.schedule.rounds() {
        10 => seal_rounds::<10>(key, nonce, aad, data),
        _ => seal_rounds::<14>(key, nonce, aad, data),
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
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

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
fn seal_rounds<const ROUNDS: usize>(
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
) -> [u8; TAG_BYTES] {
    apply_stream::<ROUNDS>(&key.schedule, Counter::new(&counter_block(nonce, 2)), data);
    tag_of::<ROUNDS>(key, nonce, aad, data)
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
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
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes,vpclmulqdq,aes,pclmulqdq")]
fn tag_of<const ROUNDS: usize>(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &[u8]) -> [u8; TAG_BYTES] {
    let [mask] = avx2::encrypt::<ROUNDS, 1>(&key.schedule, [load_block(&counter_block(nonce, 1))]);
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
    low: __m512i,
    middle: __m512i,
    high: __m512i,
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
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    fn new(key: &Key, blocks: usize) -> Hash<'_> {
        let zero = _mm512_setzero_si512();
        let run_left = blocks.min(POWERS);
        let after = blocks - run_left;
        let carried = _mm_setzero_si128();
        Hash { powers: &key.powers, low: zero, middle: zero, high: zero, carried, run_left, after }
    }

    /// Takes in `data`, filled up with zeros to whole blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vpclmulqdq,pclmulqdq")]
    fn update(&mut self, data: &[u8]) {
        let mut data = data;
        while !data.is_empty() {
            let (now, rest) = data.split_at(data.len().min(self.run_left.min(VECTOR_BLOCKS) * BLOCK_BYTES));
            data = rest;
            let blocks = _mm512_xor_si512(all_reversed(load(now)), _mm512_zextsi128_si512(self.carried));
            self.carried = _mm_setzero_si128();
            // Where there are fewer blocks than powers, what is multiplied is zero.
            let (powers, _) = self.powers[POWERS - self.run_left..].as_flattened().as_chunks::<VECTOR_BYTES>();
            self.add_product(blocks, load_whole(&powers[0]));
            self.run_left -= now.len().div_ceil(BLOCK_BYTES);
            if self.run_left == 0 {
                self.end_run();
            }
        }
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,vpclmulqdq")]
    fn add_product(&mut self, blocks: __m512i, powers: __m512i) {
        const XOR_OF_THREE: i32 = 0x96;
        let crossed = _mm512_clmulepi64_epi128::<0x01>(blocks, powers);
        let crossed_again = _mm512_clmulepi64_epi128::<0x10>(blocks, powers);
        self.low = _mm512_xor_si512(self.low, _mm512_clmulepi64_epi128::<0x00>(blocks, powers));
        self.middle = _mm512_ternarylogic_epi64::<XOR_OF_THREE>(self.middle, crossed, crossed_again);
        self.high = _mm512_xor_si512(self.high, _mm512_clmulepi64_epi128::<0x11>(blocks, powers));
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,pclmulqdq")]
    fn end_run(&mut self) {
        self.carried = avx2::reduced(sum_of_four(self.low), sum_of_four(self.middle), sum_of_four(self.high));
        let zero = _mm512_setzero_si512();
        (self.low, self.middle, self.high) = (zero, zero, zero);
        self.run_left = self.after.min(POWERS);
        self.after -= self.run_left;
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn sum_of_four(blocks: __m512i) -> __m128i {
    let two = _mm256_xor_si256(_mm512_castsi512_si256(blocks), _mm512_extracti64x4_epi64::<1>(blocks));
    _mm_xor_si128(_mm256_castsi256_si128(two), _mm256_extracti128_si256::<1>(two))
}

/// The bytes of each block in reverse order.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn all_reversed(blocks: __m512i) -> __m512i {
    let order = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    _mm512_shuffle_epi8(blocks, _mm512_broadcast_i32x4(order))
}
