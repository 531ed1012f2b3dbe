//! HMAC-SHA1 of eight messages at once. `benches/srtp.rs` has what it saves.

use super::lanes::{Lanes, compression};
use super::{BLOCK_BYTES, Job, OUTER_BITS, TAG_BYTES, scalar, sha_ni};
use crate::Kernels;
use crate::avx2::{load_half, load_words, store_words};
use std::arch::x86_64::*;

const LANES: usize = 8;

/// From so many messages on a group is faster than two or three at a time by SHA-NI.
const GROUP_MIN_WITH_SHA: usize = 7;

/// The same where SHA-1 has no instructions.
const GROUP_MIN: usize = 2;

#[target_feature(enable = "avx2")]
pub(super) fn tag_many(kernels: Kernels, jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    let group_min = if kernels.has_sha() { GROUP_MIN_WITH_SHA } else { GROUP_MIN };
    for (jobs, tags) in jobs.chunks(LANES).zip(tags.chunks_mut(LANES)) {
        if jobs.len() >= group_min {
            tag_group(jobs, tags);
        } else if kernels.has_sha() {
            // SAFETY: `has_sha` says that the processor has these instructions.
            #[allow(unsafe_code)]
            unsafe {
                sha_ni::tag_many(jobs, tags);
            }
        } else {
            scalar::tag_many(jobs, tags);
        }
    }
}

#[target_feature(enable = "avx2")]
fn tag_group(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    let lanes = Lanes::<LANES>::new(jobs);
    let (mut state, outer) = key_states(jobs);
    for place in 0..lanes.longest() {
        let (blocks, active) = lanes.at(place);
        let next = compress(&state, &words_of(&blocks));
        let active = lanes_of(active);
        for (state, next) in state.iter_mut().zip(&next) {
            *state = _mm256_blendv_epi8(*state, *next, active);
        }
    }
    write(tags, compress(&outer, &outer_words(&state)));
}

/// The inner and the outer states of all keys.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn key_states(jobs: &[Job<'_>]) -> ([__m256i; 5], [__m256i; 5]) {
    let mut rows = [[splat(0); LANES]; 2];
    for (lane, job) in jobs.iter().enumerate() {
        rows[0][lane] = load_words(&job.key.states[0]);
        rows[1][lane] = load_words(&job.key.states[1]);
    }
    let [a, b, c, d, e, ..] = transposed(&rows[0]);
    let inner = [a, b, c, d, e];
    let [a, b, c, d, e, ..] = transposed(&rows[1]);
    (inner, [a, b, c, d, e])
}

/// The block after the outer pad: the inner digest, a one bit, zeros and the length.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn outer_words(inner: &[__m256i; 5]) -> [__m256i; 16] {
    let mut words = [splat(0); 16];
    words[..5].copy_from_slice(inner);
    words[5] = splat(1 << 31);
    words[15] = splat(OUTER_BITS);
    words
}

/// All ones in the lanes that `bits` names.
#[inline]
#[target_feature(enable = "avx2")]
fn lanes_of(bits: u32) -> __m256i {
    let each = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    _mm256_cmpeq_epi32(_mm256_and_si256(splat(bits), each), each)
}

/// The words of a block of each lane, big endian.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn words_of(blocks: &[&[u8; BLOCK_BYTES]; LANES]) -> [__m256i; 16] {
    let zero = splat(0);
    let mut halves = [[zero; LANES]; 2];
    for (lane, block) in blocks.iter().enumerate() {
        for (half, bytes) in halves.iter_mut().zip(block.as_chunks().0) {
            half[lane] = bytes_swapped(load_half(bytes));
        }
    }
    let mut words = [zero; 16];
    words[..8].copy_from_slice(&transposed(&halves[0]));
    words[8..].copy_from_slice(&transposed(&halves[1]));
    words
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn write(tags: &mut [[u8; TAG_BYTES]], state: [__m256i; 5]) {
    let zero = splat(0);
    let [a, b, c, d, e] = state;
    for (tag, row) in tags.iter_mut().zip(&transposed(&[a, b, c, d, e, zero, zero, zero])) {
        let mut words = [0; LANES];
        store_words(&mut words, *row);
        for (bytes, word) in tag.as_chunks_mut().0.iter_mut().zip(words) {
            *bytes = word.to_be_bytes();
        }
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn bytes_swapped(words: __m256i) -> __m256i {
    let order = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(order))
}

/// Rows of words as columns.
#[inline]
#[target_feature(enable = "avx2")]
fn transposed(rows: &[__m256i; LANES]) -> [__m256i; LANES] {
    let zero = splat(0);
    // Within halves of a vector: `quads[g][j]` has, in its half h, column 4h + j of rows 4g to 4g + 3.
    let mut quads = [[zero; 4]; 2];
    for (quad, rows) in quads.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (low, high) = (_mm256_unpacklo_epi32(rows[0], rows[1]), _mm256_unpackhi_epi32(rows[0], rows[1]));
        let (low_2, high_2) = (_mm256_unpacklo_epi32(rows[2], rows[3]), _mm256_unpackhi_epi32(rows[2], rows[3]));
        quad[0] = _mm256_unpacklo_epi64(low, low_2);
        quad[1] = _mm256_unpackhi_epi64(low, low_2);
        quad[2] = _mm256_unpacklo_epi64(high, high_2);
        quad[3] = _mm256_unpackhi_epi64(high, high_2);
    }
    let mut columns = [zero; LANES];
    for j in 0..4 {
        columns[j] = _mm256_permute2x128_si256::<0x20>(quads[0][j], quads[1][j]);
        columns[4 + j] = _mm256_permute2x128_si256::<0x31>(quads[0][j], quads[1][j]);
    }
    columns
}

compression!("avx2", __m256i);

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn splat(word: u32) -> __m256i {
    _mm256_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn add(a: __m256i, b: __m256i) -> __m256i {
    _mm256_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn xor(a: __m256i, b: __m256i) -> __m256i {
    _mm256_xor_si256(a, b)
}

/// By `LEFT` bits, which is `RIGHT` the other way.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate_left<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(words), _mm256_srli_epi32::<RIGHT>(words))
}

#[inline]
#[target_feature(enable = "avx2")]
fn choose(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    xor(d, _mm256_and_si256(b, xor(c, d)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn parity(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    xor(xor(b, c), d)
}

#[inline]
#[target_feature(enable = "avx2")]
fn majority(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    xor(_mm256_and_si256(b, c), _mm256_and_si256(d, xor(b, c)))
}
