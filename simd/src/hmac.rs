//! HMAC-SHA1 (RFC 2104, RFC 3174), the authentication of SRTP's AES-CM suites (RFC 3711 section 4.2).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod sha_ni;

use crate::kernels::{Kernels, Level};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// The bytes of a whole tag; SRTP sends the first 10 or 4 of them.
pub const TAG_BYTES: usize = 20;

/// The most bytes that [`Job::tail`] may have: with what is left of `data` and the padding they fill two blocks.
pub const TAIL_BYTES_MAX: usize = 56;

const BLOCK_BYTES: usize = 64;

/// The length of the outer message, a pad and the inner digest.
#[cfg(target_arch = "x86_64")]
const OUTER_BITS: u32 = 8 * (BLOCK_BYTES + TAG_BYTES) as u32;

/// SHA-1's initial state (RFC 3174 section 6.1).
const INITIAL: [u32; 5] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0];

/// A key, as the states of SHA-1 after the inner and the outer pad: two compressions less for each packet.
///
/// One cache line, which the AVX-512 kernel loads at once.
#[derive(Clone, ZeroizeOnDrop)]
#[repr(C, align(64))]
pub struct Key {
    /// Words 0 to 4 of 16: the inner state; words 8 to 12: the outer one; zeros.
    states: [[u32; 8]; 2],
}

const _: () = assert!(size_of::<Key>() == 64);

/// One message of [`tag_many`].
#[derive(Clone, Copy, Debug)]
pub struct Job<'a> {
    /// The session's authentication key.
    pub key: &'a Key,
    /// The packet, header included, tag and MKI not.
    pub data: &'a [u8],
    /// What follows it in the message and not in the packet: the rollover counter of SRTP, nothing for SRTCP.
    pub tail: &'a [u8],
}

impl Key {
    /// From a key of any length; SRTP's have 20 bytes.
    #[must_use]
    pub fn new(key: &[u8]) -> Key {
        let mut block = [0; BLOCK_BYTES];
        if key.len() <= BLOCK_BYTES {
            block[..key.len()].copy_from_slice(key);
        } else {
            block[..TAG_BYTES].copy_from_slice(&scalar::digest(INITIAL, 0, key, &[]));
        }
        let pad = |with: u8| {
            let mut padded = block.map(|b| b ^ with);
            let [a, b, c, d, e] = scalar::compress(INITIAL, &padded);
            padded.zeroize();
            [a, b, c, d, e, 0, 0, 0]
        };
        let key = Key { states: [pad(0x36), pad(0x5c)] };
        block.zeroize();
        key
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").finish_non_exhaustive()
    }
}

/// The tag of `data` followed by `tail`.
///
/// # Panics
/// When `tail` is longer than [`TAIL_BYTES_MAX`].
#[must_use]
pub fn tag(kernels: Kernels, key: &Key, data: &[u8], tail: &[u8]) -> [u8; TAG_BYTES] {
    let mut tags = [[0; TAG_BYTES]];
    tag_many(kernels, &[Job { key, data, tail }], &mut tags);
    tags[0]
}

/// The tags of several messages, each with its own key and length; `tags[i]` is that of `jobs[i]`.
///
/// Any number is right; multiples of [`lanes`] with messages of about one length are cheapest, since a group takes as long as
/// its longest.
///
/// # Panics
/// When `tags` is not as long as `jobs`, or a tail is longer than [`TAIL_BYTES_MAX`].
pub fn tag_many(kernels: Kernels, jobs: &[Job<'_>], tags: &mut [[u8; TAG_BYTES]]) {
    assert_eq!(jobs.len(), tags.len(), "a tag for each job");
    assert!(jobs.iter().all(|job| job.tail.len() <= TAIL_BYTES_MAX), "tails of at most {TAIL_BYTES_MAX} bytes");
    match kernels.level() {
        // SAFETY: there are no kernels of this level unless the processor has all their features (`kernels::runs`).
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx512 => unsafe { avx512::tag_many(jobs, tags) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx2 => unsafe { avx2::tag_many(kernels, jobs, tags) },
        _ => scalar::tag_many(jobs, tags),
    }
}

/// How many messages [`tag_many`] hashes at once.
#[must_use]
pub fn lanes(kernels: Kernels) -> usize {
    match kernels.level() {
        Level::Scalar => 1,
        Level::Avx2 => 8,
        Level::Avx512 => 16,
    }
}

/// The end of a message as SHA-1 wants it: what is left of `data` after its whole blocks, `tail`, a one bit, zeros and the
/// length in bits of all, with the bytes before it. `end` must be zeros. Returns how many of its blocks that fills, 1 or 2.
#[inline]
fn padded_end(data: &[u8], tail: &[u8], bytes_before: usize, end: &mut [[u8; BLOCK_BYTES]; 2]) -> usize {
    let left = &data[data.len() - data.len() % BLOCK_BYTES..];
    let length = left.len() + tail.len();
    let blocks = if length + 9 <= BLOCK_BYTES { 1 } else { 2 };
    let bits = ((bytes_before + data.len() + tail.len()) as u64) * 8;
    let end = end.as_flattened_mut();
    copy_short(&mut end[..left.len()], left);
    copy_short(&mut end[left.len()..length], tail);
    end[length] = 0x80;
    end[blocks * BLOCK_BYTES - 8..blocks * BLOCK_BYTES].copy_from_slice(&bits.to_be_bytes());
    blocks
}

/// Copies less than 64 bytes in powers of two: calls of memcpy were 10 ns of each packet.
#[inline]
fn copy_short(to: &mut [u8], from: &[u8]) {
    let (to, from) = copy_part::<32>(to, from);
    let (to, from) = copy_part::<16>(to, from);
    let (to, from) = copy_part::<8>(to, from);
    let (to, from) = copy_part::<4>(to, from);
    let (to, from) = copy_part::<2>(to, from);
    let (_, from) = copy_part::<1>(to, from);
    debug_assert!(from.is_empty(), "less than 64 bytes");
}

/// Copies the first `N` bytes if there are as many, and returns the rest.
#[inline]
fn copy_part<'a, 'b, const N: usize>(to: &'a mut [u8], from: &'b [u8]) -> (&'a mut [u8], &'b [u8]) {
    if from.len() < N || to.len() < N {
        return (to, from);
    }
    let (to, to_left) = to.split_at_mut(N);
    let (from, from_left) = from.split_at(N);
    to.copy_from_slice(from);
    (to_left, from_left)
}
