//! What the two kernels that hash several messages at once share: cutting the messages into blocks, and SHA-1's rounds.
//!
//! A lane is a place in a vector. Word `i` of the blocks of all messages makes one vector, so each instruction does the same
//! for every message. Messages end at different blocks: a lane whose message has ended keeps its state.

use super::{BLOCK_BYTES, Job, padded_end};

const NOTHING: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];

/// The messages of a group, as blocks.
pub(super) struct Lanes<'a, const N: usize> {
    whole: [&'a [[u8; BLOCK_BYTES]]; N],
    ends: [[[u8; BLOCK_BYTES]; 2]; N],
    /// How many blocks each has; none in a lane without a message.
    blocks: [usize; N],
}

impl<'a, const N: usize> Lanes<'a, N> {
    /// Of at most `N` messages.
    #[inline]
    pub(super) fn new(jobs: &[Job<'a>]) -> Self {
        let mut lanes = Lanes { whole: [&[]; N], ends: [[NOTHING; 2]; N], blocks: [0; N] };
        for (lane, job) in jobs.iter().enumerate() {
            (lanes.whole[lane], _) = job.data.as_chunks();
            let ends = padded_end(job.data, job.tail, BLOCK_BYTES, &mut lanes.ends[lane]);
            lanes.blocks[lane] = lanes.whole[lane].len() + ends;
        }
        lanes
    }

    /// The blocks of the longest message.
    #[inline]
    pub(super) fn longest(&self) -> usize {
        self.blocks.iter().copied().max().unwrap_or(0)
    }

    /// The block of each lane at a place, and as bits the lanes that have one there.
    #[inline]
    pub(super) fn at(&self, place: usize) -> ([&[u8; BLOCK_BYTES]; N], u32) {
        let mut blocks = [&NOTHING; N];
        let mut active = 0;
        for (lane, block) in blocks.iter_mut().enumerate() {
            let whole = self.whole[lane];
            if place < self.blocks[lane] {
                *block = whole.get(place).unwrap_or_else(|| &self.ends[lane][(place - whole.len()) & 1]);
                active |= 1 << lane;
            }
        }
        (blocks, active)
    }
}

/// SHA-1's compression (RFC 3174 section 6.1) for one vector type. Who calls the macro has `add`, `xor`, `splat`,
/// `rotate_left`, and the three functions of section 5 as `choose`, `parity` and `majority`.
macro_rules! compression {
    ($features:literal, $vector:ty) => {
        /// The states after one more block each; `words[i]` has word `i` of all of them.
        #[inline(never)]
        #[target_feature(enable = $features)]
        fn compress(state: &[$vector; 5], words: &[$vector; 16]) -> [$vector; 5] {
            use $crate::hmac::lanes::rounds;
            let [mut a, mut b, mut c, mut d, mut e] = *state;
            let mut w = *words;
            rounds!([a b c d e] w choose 0x5a82_7999, 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19);
            rounds!([a b c d e] w parity 0x6ed9_eba1, 20 21 22 23 24 25 26 27 28 29 30 31 32 33 34 35 36 37 38 39);
            rounds!([a b c d e] w majority 0x8f1b_bcdc, 40 41 42 43 44 45 46 47 48 49 50 51 52 53 54 55 56 57 58 59);
            rounds!([a b c d e] w parity 0xca62_c1d6, 60 61 62 63 64 65 66 67 68 69 70 71 72 73 74 75 76 77 78 79);
            [add(state[0], a), add(state[1], b), add(state[2], c), add(state[3], d), add(state[4], e)]
        }
    };
}

/// Rounds, each written out, so that all these names are registers and nothing is moved.
macro_rules! rounds {
    ([$a:ident $b:ident $c:ident $d:ident $e:ident] $w:ident $function:ident $constant:literal, $($t:literal)*) => {
        let constant = splat($constant);
        $(
            if $t >= 16 {
                let back = xor(xor($w[($t + 13) % 16], $w[($t + 8) % 16]), xor($w[($t + 2) % 16], $w[$t % 16]));
                $w[$t % 16] = rotate_left::<1, 31>(back);
            }
            let sum = add(add(add($e, constant), $w[$t % 16]), $function($b, $c, $d));
            ($e, $d, $c, $b, $a) = ($d, $c, rotate_left::<30, 2>($b), $a, add(sum, rotate_left::<5, 27>($a)));
        )*
    };
}

pub(super) use {compression, rounds};
