//! HMAC-SHA1 of sixteen messages at once, of eight, and of up to three by SHA-NI. `benches/srtp.rs` has what it saves.

mod narrow;

use super::lanes::{Lanes, compression};
use super::{BLOCK_BYTES, Job, OUTER_BITS, TAG_BYTES};
use crate::avx512::{load_whole, load_words, store_whole};
use std::arch::x86_64::*;

const LANES: usize = 16;

/// From so many messages on a group of sixteen is faster than one of eight and the rest.
const WIDE_GROUP_MIN: usize = 12;

#[target_feature(enable = "avx512f,avx512bw,avx512vl,sha")]
pub(super) fn tag_many(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    for (jobs, tags) in jobs.chunks(LANES).zip(tags.chunks_mut(LANES)) {
        if jobs.len() >= WIDE_GROUP_MIN {
            tag_group(jobs, tags);
        } else {
            narrow::tag_many(jobs, tags);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn tag_group(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    let keys = key_states(jobs);
    let lanes = Lanes::<LANES>::new(jobs);
    let mut state = [keys[0], keys[1], keys[2], keys[3], keys[4]];
    for place in 0..lanes.longest() {
        let (blocks, active) = lanes.at(place);
        let next = compress(&state, &words_of(&blocks));
        for (state, next) in state.iter_mut().zip(&next) {
            *state = _mm512_mask_mov_epi32(*state, active as u16, *next);
        }
    }
    let [a, b, c, d, e] = state;
    let (one, zero, length) = (splat(1 << 31), splat(0), splat(OUTER_BITS));
    let words = [a, b, c, d, e, one, zero, zero, zero, zero, zero, zero, zero, zero, zero, length];
    let outer = [keys[8], keys[9], keys[10], keys[11], keys[12]];
    write(tags, compress(&outer, &words));
}

/// The states of all keys, as [`super::Key`] lays them out: the inner ones from 0 on, the outer ones from 8.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn key_states(jobs: &[Job<'_>]) -> [__m512i; LANES] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, job) in rows.iter_mut().zip(jobs) {
        *row = load_words(&job.key.states);
    }
    transposed(&rows)
}

/// The words of a block of each lane, big endian.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn words_of(blocks: &[&[u8; BLOCK_BYTES]; LANES]) -> [__m512i; 16] {
    let mut rows = [_mm512_setzero_si512(); LANES];
    for (row, block) in rows.iter_mut().zip(blocks) {
        *row = bytes_swapped(load_whole(block));
    }
    transposed(&rows)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn write(tags: &mut [[u8; TAG_BYTES]], state: [__m512i; 5]) {
    let zero = splat(0);
    let mut columns = [zero; LANES];
    columns[..5].copy_from_slice(&state);
    for (tag, row) in tags.iter_mut().zip(&transposed(&columns)) {
        let mut bytes = [0; BLOCK_BYTES];
        store_whole(&mut bytes, bytes_swapped(*row));
        tag.copy_from_slice(&bytes[..TAG_BYTES]);
    }
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn bytes_swapped(words: __m512i) -> __m512i {
    let order = _mm_set_epi8(12, 13, 14, 15, 8, 9, 10, 11, 4, 5, 6, 7, 0, 1, 2, 3);
    _mm512_shuffle_epi8(words, _mm512_broadcast_i32x4(order))
}

/// Rows of words as columns.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn transposed(rows: &[__m512i; LANES]) -> [__m512i; LANES] {
    let zero = _mm512_setzero_si512();
    // Within quarters of a vector: `quads[g][j]` has, in its quarter q, column 4q + j of rows 4g to 4g + 3.
    let mut quads = [[zero; 4]; 4];
    for (quad, rows) in quads.iter_mut().zip(rows.as_chunks::<4>().0) {
        let (low, high) = (_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[0], rows[1]));
        let (low_2, high_2) = (_mm512_unpacklo_epi32(rows[2], rows[3]), _mm512_unpackhi_epi32(rows[2], rows[3]));
        quad[0] = _mm512_unpacklo_epi64(low, low_2);
        quad[1] = _mm512_unpackhi_epi64(low, low_2);
        quad[2] = _mm512_unpacklo_epi64(high, high_2);
        quad[3] = _mm512_unpackhi_epi64(high, high_2);
    }
    // Then whole quarters.
    let mut columns = [zero; LANES];
    for j in 0..4 {
        let front = _mm512_shuffle_i32x4::<0x44>(quads[0][j], quads[1][j]);
        let front_2 = _mm512_shuffle_i32x4::<0x44>(quads[2][j], quads[3][j]);
        let back = _mm512_shuffle_i32x4::<0xee>(quads[0][j], quads[1][j]);
        let back_2 = _mm512_shuffle_i32x4::<0xee>(quads[2][j], quads[3][j]);
        columns[j] = _mm512_shuffle_i32x4::<0x88>(front, front_2);
        columns[4 + j] = _mm512_shuffle_i32x4::<0xdd>(front, front_2);
        columns[8 + j] = _mm512_shuffle_i32x4::<0x88>(back, back_2);
        columns[12 + j] = _mm512_shuffle_i32x4::<0xdd>(back, back_2);
    }
    columns
}

compression!("avx512f,avx512bw,avx512vl", __m512i);

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(word: u32) -> __m512i {
    _mm512_set1_epi32(word.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(a: __m512i, b: __m512i) -> __m512i {
    _mm512_add_epi32(a, b)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor(a: __m512i, b: __m512i) -> __m512i {
    _mm512_xor_si512(a, b)
}

/// By `LEFT` bits, which is `RIGHT` the other way.
#[inline]
#[target_feature(enable = "avx512f")]
fn rotate_left<const LEFT: i32, const RIGHT: i32>(words: __m512i) -> __m512i {
    _mm512_rol_epi32::<LEFT>(words)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn choose(b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xca>(b, c, d)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn parity(b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0x96>(b, c, d)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn majority(b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    _mm512_ternarylogic_epi32::<0xe8>(b, c, d)
}
