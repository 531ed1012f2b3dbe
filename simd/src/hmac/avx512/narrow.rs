//! Groups of at most eight: the AVX2 kernel with the rotations and three-way functions of AVX-512. Half a vector takes half the
//! time on processors that do 512 bits in two steps (Zen 4), and no longer than a whole one on others.

use crate::hmac::avx2::{add, key_states, outer_words, splat, words_of, write, xor};
use crate::hmac::lanes::{Lanes, compression};
use crate::hmac::{Job, TAG_BYTES, sha_ni};
use std::arch::x86_64::*;

const LANES: usize = 8;

/// From so many messages on a group is faster than two or three at a time by SHA-NI.
const GROUP_MIN: usize = 6;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,sha")]
pub(super) fn tag_many(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    for (jobs, tags) in jobs.chunks(LANES).zip(tags.chunks_mut(LANES)) {
        if jobs.len() >= GROUP_MIN {
            tag_group(jobs, tags);
        } else {
            sha_ni::tag_many(jobs, tags);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn tag_group(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    let lanes = Lanes::<LANES>::new(jobs);
    let (mut state, outer) = key_states(jobs);
    for place in 0..lanes.longest() {
        let (blocks, active) = lanes.at(place);
        let next = compress(&state, &words_of(&blocks));
        for (state, next) in state.iter_mut().zip(&next) {
            *state = _mm256_mask_mov_epi32(*state, active as u8, *next);
        }
    }
    write(tags, compress(&outer, &outer_words(&state)));
}

compression!("avx512f,avx512bw,avx512vl", __m256i);

/// By `LEFT` bits, which is `RIGHT` the other way.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn rotate_left<const LEFT: i32, const RIGHT: i32>(words: __m256i) -> __m256i {
    _mm256_rol_epi32::<LEFT>(words)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn choose(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    _mm256_ternarylogic_epi32::<0xca>(b, c, d)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn parity(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    _mm256_ternarylogic_epi32::<0x96>(b, c, d)
}

#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn majority(b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    _mm256_ternarylogic_epi32::<0xe8>(b, c, d)
}
