//! What the AVX-512 kernels share: vectors to and from bytes, and AES on four blocks a vector.
//!
//! Memory is only touched through slices and arrays here, so that the kernels themselves hold no `unsafe`. Closures are avoided in all
//! of them: what is handed to a function without these features is not inlined into it, and its vectors go through memory.

use crate::aes::{BLOCK_BYTES, Schedule};
use std::arch::x86_64::*;

/// The bytes of a vector.
pub(crate) const VECTOR_BYTES: usize = 64;

/// The blocks of a vector.
pub(crate) const VECTOR_BLOCKS: usize = 4;

/// The first bytes of `bytes`, and zeros where there are fewer than a vector's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn load(bytes: &[u8]) -> __m512i {
    // SAFETY: the mask names no byte beyond the slice, and bytes that it does not name are not read.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_maskz_loadu_epi8(first(bytes.len()), bytes.as_ptr().cast())
    }
}

/// As many bytes of `vector` as `bytes` has, at most a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn store(bytes: &mut [u8], vector: __m512i) {
    // SAFETY: the mask names no byte beyond the slice, and bytes that it does not name are not written.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_mask_storeu_epi8(bytes.as_mut_ptr().cast(), first(bytes.len()), vector);
    }
}

/// A mask of the first `count` bytes, all from 64 on.
#[inline]
fn first(count: usize) -> __mmask64 {
    if count >= VECTOR_BYTES { u64::MAX } else { (1 << count) - 1 }
}

/// A whole vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn load_whole(bytes: &[u8; VECTOR_BYTES]) -> __m512i {
    // SAFETY: 64 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_si512(bytes.as_ptr().cast())
    }
}

/// A whole vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn store_whole(bytes: &mut [u8; VECTOR_BYTES], vector: __m512i) {
    // SAFETY: 64 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector);
    }
}

/// Sixteen words.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn load_words(words: &[[u32; 8]; 2]) -> __m512i {
    // SAFETY: 64 bytes, of any alignment.
    #[allow(unsafe_code)]
    unsafe {
        _mm512_loadu_si512(words.as_ptr().cast())
    }
}

/// One block in each of the four places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) fn everywhere(block: &[u8; BLOCK_BYTES]) -> __m512i {
    _mm512_broadcast_i32x4(crate::avx2::load_block(block))
}

/// Counter blocks of SRTP and GCM: twelve bytes that stay, and 32 bits that count, big endian.
#[derive(Clone, Copy)]
pub(crate) struct Counter {
    /// The next four, their counts little endian as additions want them.
    next: __m512i,
}

impl Counter {
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn new(first: &[u8; BLOCK_BYTES]) -> Counter {
        let steps = _mm512_set_epi32(3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0);
        Counter { next: _mm512_add_epi32(turn_counts(everywhere(first)), steps) }
    }

    /// The next `4 * N` blocks.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn take<const N: usize>(&mut self) -> [__m512i; N] {
        let step = _mm512_set_epi32(4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0, 4, 0, 0, 0);
        let mut blocks = [_mm512_setzero_si512(); N];
        for block in &mut blocks {
            *block = turn_counts(self.next);
            self.next = _mm512_add_epi32(self.next, step);
        }
        blocks
    }
}

/// The order of the last four bytes of each block turned round.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn turn_counts(blocks: __m512i) -> __m512i {
    let order = _mm512_broadcast_i32x4(_mm_set_epi8(12, 13, 14, 15, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0));
    _mm512_shuffle_epi8(blocks, order)
}

/// `4 * N` blocks encrypted, `ROUNDS` being the schedule's.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes")]
pub(crate) fn encrypt<const ROUNDS: usize, const N: usize>(schedule: &Schedule, blocks: [__m512i; N]) -> [__m512i; N] {
    let mut blocks = blocks;
    let round_keys = schedule.round_keys();
    let key = everywhere(&round_keys[0]);
    for block in &mut blocks {
        *block = _mm512_xor_si512(*block, key);
    }
    for round_key in &round_keys[1..ROUNDS] {
        let key = everywhere(round_key);
        for block in &mut blocks {
            *block = _mm512_aesenc_epi128(*block, key);
        }
    }
    let key = everywhere(&round_keys[ROUNDS]);
    for block in &mut blocks {
        *block = _mm512_aesenclast_epi128(*block, key);
    }
    blocks
}

/// `data` xored with the key stream from `counter` on: counter mode, both ways.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes")]
pub(crate) fn apply_stream<const ROUNDS: usize>(schedule: &Schedule, counter: Counter, data: &mut [u8]) {
    let mut counter = counter;
    for chunk in data.chunks_mut(4 * VECTOR_BYTES) {
        // A vector costs as much as it is wide, used or not: no more of them than there are.
        match chunk.len().div_ceil(VECTOR_BYTES) {
            1 => apply_vectors::<ROUNDS, 1>(schedule, &mut counter, chunk),
            2 => apply_vectors::<ROUNDS, 2>(schedule, &mut counter, chunk),
            3 => apply_vectors::<ROUNDS, 3>(schedule, &mut counter, chunk),
            _ => apply_vectors::<ROUNDS, 4>(schedule, &mut counter, chunk),
        }
    }
}

/// The same for data of `N` vectors, the last of which need not be full.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes")]
fn apply_vectors<const ROUNDS: usize, const N: usize>(schedule: &Schedule, counter: &mut Counter, data: &mut [u8]) {
    let stream = encrypt::<ROUNDS, N>(schedule, counter.take());
    let (whole, last) = data.split_at_mut((N - 1) * VECTOR_BYTES);
    for (part, stream) in whole.as_chunks_mut().0.iter_mut().zip(&stream) {
        store_whole(part, _mm512_xor_si512(load_whole(part), *stream));
    }
    store(last, _mm512_xor_si512(load(last), stream[N - 1]));
}
