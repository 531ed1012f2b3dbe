//! AES-GCM with nonces of 96 bits and whole tags (NIST SP 800-38D), the cipher of SRTP's AEAD suites (RFC 7714).
//!
//! Who calls it keeps nonces apart: two packets under one key and nonce give both and the key of the hash away.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use crate::aes::{BLOCK_BYTES, Schedule};
use crate::kernels::{Kernels, Level};
use polyval::hazmat::FieldElement;
use zeroize::ZeroizeOnDrop;

/// The bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// The bytes of a nonce.
pub const NONCE_BYTES: usize = 12;

/// For how many blocks of GHASH one reduction is made: how many powers of the hash key a key keeps.
pub(crate) const POWERS: usize = 16;

/// The tag does not belong to this key, nonce, header and data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the tag does not belong to this packet")]
pub struct BadTag;

/// A key of AES-128-GCM or AES-256-GCM.
#[derive(Clone, ZeroizeOnDrop)]
#[repr(C, align(64))]
pub struct Key {
    schedule: Schedule,
    /// The powers of the hash key from the highest to the first, then zeros, so that a kernel may load whole vectors from
    /// any power on. Each is in POLYVAL's form (RFC 8452 appendix A): bytes reversed and multiplied by x, which makes
    /// the reduction two multiplications and no shift.
    powers: [[u8; BLOCK_BYTES]; POWERS + 3],
    /// The hash key as it is.
    hash_key: [u8; BLOCK_BYTES],
}

const _: () = assert!(size_of::<Key>() == 576);

impl Key {
    /// A key of AES-128-GCM.
    #[must_use]
    pub fn aes_128(key: &[u8; 16]) -> Key {
        Key::new(Schedule::aes_128(key))
    }

    /// A key of AES-256-GCM.
    #[must_use]
    pub fn aes_256(key: &[u8; 32]) -> Key {
        Key::new(Schedule::aes_256(key))
    }

    fn new(schedule: Schedule) -> Key {
        let hash_key = schedule.encrypt_block(&[0; BLOCK_BYTES]);
        let first = FieldElement::from(hash_key).reverse().mulx();
        let mut powers = [[0; BLOCK_BYTES]; POWERS + 3];
        let mut power = first;
        for place in powers[..POWERS].iter_mut().rev() {
            *place = power.into();
            power *= first;
        }
        Key { schedule, powers, hash_key }
    }
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("schedule", &self.schedule).finish_non_exhaustive()
    }
}

/// Encrypts `data` in place and returns the tag of it and of `aad`, which stays as it is: the header of a packet.
#[must_use]
pub fn seal(kernels: Kernels, key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &mut [u8]) -> [u8; TAG_BYTES] {
    match kernels.level() {
        // SAFETY: there are no kernels of this level unless the processor has all their features (`kernels::runs`).
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx512 => unsafe { avx512::seal(key, nonce, aad, data) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx2 => unsafe { avx2::seal(key, nonce, aad, data) },
        _ => scalar::seal(key, nonce, aad, data),
    }
}

/// Decrypts `data` in place if `tag` is that of it and of `aad`.
///
/// # Errors
/// [`BadTag`] if it isn't. Then `data` is as it was: the tag is checked, in constant time, before anything is decrypted.
pub fn open(
    kernels: Kernels,
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), BadTag> {
    match kernels.level() {
        // SAFETY: there are no kernels of this level unless the processor has all their features (`kernels::runs`).
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx512 => unsafe { avx512::open(key, nonce, aad, data, tag) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx2 => unsafe { avx2::open(key, nonce, aad, data, tag) },
        _ => scalar::open(key, nonce, aad, data, tag),
    }
}

/// The counter block of a nonce: 1 is that of the tag, 2 that of the first block of data.
fn counter_block(nonce: &[u8; NONCE_BYTES], counter: u32) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..NONCE_BYTES].copy_from_slice(nonce);
    block[NONCE_BYTES..].copy_from_slice(&counter.to_be_bytes());
    block
}

/// The last block of GHASH: both lengths in bits.
fn lengths(aad: &[u8], data: &[u8]) -> [u8; BLOCK_BYTES] {
    let mut block = [0; BLOCK_BYTES];
    block[..8].copy_from_slice(&(aad.len() as u64 * 8).to_be_bytes());
    block[8..].copy_from_slice(&(data.len() as u64 * 8).to_be_bytes());
    block
}
