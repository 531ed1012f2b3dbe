//! What the AVX2 kernels share: vectors to and from bytes, and AES by AES-NI, a block a vector.
//!
//! As in `avx512.rs`, memory is only touched through slices and arrays here, and vectors never go through closures.

use crate::aes::{BLOCK_BYTES, Schedule};
use std::arch::x86_64::*;

/// A block.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn load_block(bytes: &[u8; BLOCK_BYTES]) -> __m128i {
    // SAFETY: 16 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm_loadu_si128(bytes.as_ptr().cast())
    }
}

/// A block.
#[inline]
#[target_feature(enable = "sse2")]
pub(crate) fn store_block(bytes: &mut [u8; BLOCK_BYTES], block: __m128i) {
    // SAFETY: 16 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm_storeu_si128(bytes.as_mut_ptr().cast(), block);
    }
}

/// Eight words.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_words(words: &[u32; 8]) -> __m256i {
    // SAFETY: 32 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_loadu_si256(words.as_ptr().cast())
    }
}

/// 32 bytes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn load_half(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: 32 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_loadu_si256(bytes.as_ptr().cast())
    }
}

/// Eight words.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn store_words(words: &mut [u32; 8], vector: __m256i) {
    // SAFETY: 32 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm256_storeu_si256(words.as_mut_ptr().cast(), vector);
    }
}

/// The bytes of a block in reverse order.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn reversed(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15))
}

/// Counter blocks of SRTP and GCM: twelve bytes that stay, and 32 bits that count, big endian.
#[derive(Clone, Copy)]
pub(crate) struct Counter {
    /// The next one, its count little endian as additions want it.
    next: __m128i,
}

impl Counter {
    #[inline]
    #[target_feature(enable = "avx2")]
    pub(crate) fn new(first: &[u8; BLOCK_BYTES]) -> Counter {
        Counter { next: turn_count(load_block(first)) }
    }

    /// The next `N` blocks.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn take<const N: usize>(&mut self) -> [__m128i; N] {
        let mut blocks = [_mm_setzero_si128(); N];
        for block in &mut blocks {
            *block = turn_count(self.next);
            self.next = _mm_add_epi32(self.next, _mm_set_epi32(1, 0, 0, 0));
        }
        blocks
    }
}

/// The order of the last four bytes turned round.
#[inline]
#[target_feature(enable = "avx2")]
fn turn_count(block: __m128i) -> __m128i {
    _mm_shuffle_epi8(block, _mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0))
}

/// `N` blocks encrypted, `ROUNDS` being the schedule's.
#[inline]
#[target_feature(enable = "avx2,aes")]
pub(crate) fn encrypt<const ROUNDS: usize, const N: usize>(schedule: &Schedule, blocks: [__m128i; N]) -> [__m128i; N] {
    let mut blocks = blocks;
    let round_keys = schedule.round_keys();
    let key = load_block(&round_keys[0]);
    for block in &mut blocks {
        *block = _mm_xor_si128(*block, key);
    }
    for round_key in &round_keys[1..ROUNDS] {
        let key = load_block(round_key);
        for block in &mut blocks {
            *block = _mm_aesenc_si128(*block, key);
        }
    }
    let key = load_block(&round_keys[ROUNDS]);
    for block in &mut blocks {
        *block = _mm_aesenclast_si128(*block, key);
    }
    blocks
}

/// `data` xored with the key stream from `counter` on: counter mode, both ways.
#[inline]
#[target_feature(enable = "avx2,aes")]
pub(crate) fn apply_stream<const ROUNDS: usize>(schedule: &Schedule, counter: Counter, data: &mut [u8]) {
    let mut counter = counter;
    for chunk in data.chunks_mut(8 * BLOCK_BYTES) {
        match chunk.len().div_ceil(BLOCK_BYTES) {
            1 => apply_blocks::<ROUNDS, 1>(schedule, &mut counter, chunk),
            2 => apply_blocks::<ROUNDS, 2>(schedule, &mut counter, chunk),
            3 | 4 => apply_blocks::<ROUNDS, 4>(schedule, &mut counter, chunk),
            _ => apply_blocks::<ROUNDS, 8>(schedule, &mut counter, chunk),
        }
    }
}

/// The same for data of at most `N` blocks.
#[inline]
#[target_feature(enable = "avx2,aes")]
fn apply_blocks<const ROUNDS: usize, const N: usize>(schedule: &Schedule, counter: &mut Counter, data: &mut [u8]) {
    let stream = encrypt::<ROUNDS, N>(schedule, counter.take());
    let (whole, last) = data.as_chunks_mut();
    for (block, stream) in whole.iter_mut().zip(&stream) {
        store_block(block, _mm_xor_si128(load_block(block), *stream));
    }
    if !last.is_empty() {
        let mut bytes = [0; BLOCK_BYTES];
        store_block(&mut bytes, stream[whole.len()]);
        for (byte, key) in last.iter_mut().zip(&bytes) {
            *byte ^= key;
        }
    }
}

/// A product of 256 bits, given as halves and what lies across them, modulo POLYVAL's polynomial and times x^-128 (RFC 8452
/// section 3; Gueron, "AES-GCM-SIV", Montgomery reduction in two steps).
#[inline]
#[target_feature(enable = "avx2,pclmulqdq")]
pub(crate) fn reduced(low: __m128i, middle: __m128i, high: __m128i) -> __m128i {
    let low = _mm_xor_si128(low, _mm_bslli_si128::<8>(middle));
    let high = _mm_xor_si128(high, _mm_bsrli_si128::<8>(middle));
    // x^127 + x^126 + x^121, the polynomial's upper half.
    let polynomial = _mm_set_epi64x(0xc200_0000_0000_0000_u64.cast_signed(), 0);
    let halfway = _mm_xor_si128(swapped(low), _mm_clmulepi64_si128::<0x10>(low, polynomial));
    let folded = _mm_xor_si128(swapped(halfway), _mm_clmulepi64_si128::<0x10>(halfway, polynomial));
    _mm_xor_si128(high, folded)
}

#[inline]
#[target_feature(enable = "avx2")]
fn swapped(halves: __m128i) -> __m128i {
    _mm_shuffle_epi32::<0b01_00_11_10>(halves)
}
