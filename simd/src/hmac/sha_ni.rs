//! HMAC-SHA1 of one message, or of two or three in each other's gaps, by SHA-NI: for what is too few for a group. An instruction's result
//! takes longer than the instruction occupies the unit, so a second message is nearly free and a third costs half. `benches/srtp.rs` has what it saves.

use super::lanes::Lanes;
use super::{BLOCK_BYTES, Job, OUTER_BITS, TAG_BYTES};
use crate::avx2::{load_block, load_words, reversed, store_block};
use std::arch::x86_64::*;

/// More would not find room in the registers.
const TOGETHER: usize = 3;

/// SHA-1's state as the instructions have it: `a` to `d` from the highest word down, and `e` in the highest word.
#[derive(Clone, Copy)]
struct State {
    abcd: __m128i,
    e: __m128i,
}

/// A function of its own, so that the kernels for groups have no copies of it.
#[inline(never)]
#[target_feature(enable = "avx2,sha")]
pub(super) fn tag_many(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    let (mut jobs, mut tags) = (jobs, tags);
    while !jobs.is_empty() {
        // Twice two is better than three and one.
        let count = if jobs.len() == 4 { 2 } else { jobs.len().min(TOGETHER) };
        let (now, jobs_left) = jobs.split_at(count);
        let (now_tags, tags_left) = tags.split_at_mut(count);
        match count {
            1 => tag_each::<1>(now, now_tags),
            2 => tag_each::<2>(now, now_tags),
            _ => tag_each::<TOGETHER>(now, now_tags),
        }
        (jobs, tags) = (jobs_left, tags_left);
    }
}

#[inline]
#[target_feature(enable = "avx2,sha")]
fn tag_each<const N: usize>(jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    let lanes = Lanes::<N>::new(jobs);
    let zero = _mm_setzero_si128();
    let mut states = [State { abcd: zero, e: zero }; N];
    for (state, job) in states.iter_mut().zip(jobs) {
        *state = of_key(&job.key.states[0]);
    }
    for place in 0..lanes.longest() {
        let (blocks, active) = lanes.at(place);
        let mut words = [[zero; 4]; N];
        for (words, block) in words.iter_mut().zip(&blocks) {
            for (word, bytes) in words.iter_mut().zip(block.as_chunks().0) {
                *word = reversed(load_block(bytes));
            }
        }
        let next = compress(states, words);
        for lane in 0..N {
            // Nearly always so: packets of one call are about as long as each other.
            if active & (1 << lane) != 0 {
                states[lane] = next[lane];
            }
        }
    }
    let mut outer = states;
    let mut words = [[zero; 4]; N];
    for (lane, job) in jobs.iter().enumerate() {
        let State { abcd, e } = states[lane];
        // The lower words of `e` are zeros throughout.
        let end = _mm_or_si128(e, _mm_set_epi32(0, i32::MIN, 0, 0));
        words[lane] = [abcd, end, zero, _mm_set_epi32(0, 0, 0, OUTER_BITS.cast_signed())];
        outer[lane] = of_key(&job.key.states[1]);
    }
    for (tag, state) in tags.iter_mut().zip(&compress(outer, words)) {
        let mut bytes = [0; 16];
        store_block(&mut bytes, reversed(state.abcd));
        tag[..16].copy_from_slice(&bytes);
        store_block(&mut bytes, reversed(state.e));
        tag[16..].copy_from_slice(&bytes[..4]);
    }
}

#[inline]
#[target_feature(enable = "avx2,sha")]
fn of_key(words: &[u32; 8]) -> State {
    let words = load_words(words);
    let abcd = _mm_shuffle_epi32::<0b00_01_10_11>(_mm256_castsi256_si128(words));
    // Word 4 to the top; what is shifted in below it is zeros.
    State { abcd, e: _mm_bslli_si128::<12>(_mm256_extracti128_si256::<1>(words)) }
}

/// The states after one more block each, four rounds an instruction (RFC 3174 section 6.1).
#[inline]
#[target_feature(enable = "avx2,sha")]
fn compress<const N: usize>(before: [State; N], words: [[__m128i; 4]; N]) -> [State; N] {
    let (mut states, mut words) = (before, words);
    macro_rules! rounds {
        ($function:literal: $($step:literal)*) => {$(
            for lane in 0..N {
                let (w, state) = (&mut words[lane], &mut states[lane]);
                if $step >= 4 {
                    let mixed = _mm_xor_si128(_mm_sha1msg1_epu32(w[$step % 4], w[($step + 1) % 4]), w[($step + 2) % 4]);
                    w[$step % 4] = _mm_sha1msg2_epu32(mixed, w[($step + 3) % 4]);
                }
                // From the second step on, `e` holds the `abcd` of four rounds before, from which the instruction makes `e`.
                let with_e = if $step == 0 {
                    _mm_add_epi32(state.e, w[$step % 4])
                } else {
                    _mm_sha1nexte_epu32(state.e, w[$step % 4])
                };
                *state = State { abcd: _mm_sha1rnds4_epu32::<$function>(state.abcd, with_e), e: state.abcd };
            }
        )*};
    }
    rounds!(0: 0 1 2 3 4);
    rounds!(1: 5 6 7 8 9);
    rounds!(2: 10 11 12 13 14);
    rounds!(3: 15 16 17 18 19);
    for (state, before) in states.iter_mut().zip(&before) {
        state.e = _mm_sha1nexte_epu32(state.e, before.e);
        state.abcd = _mm_add_epi32(state.abcd, before.abcd);
    }
    states
}

const _: () = assert!(BLOCK_BYTES == 4 * 16);
