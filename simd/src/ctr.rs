//! AES in counter mode, as SRTP's AES-CM (RFC 3711 section 4.1.1) and its key derivation (section 4.3.3) use it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub(crate) mod scalar;

use crate::aes::{BLOCK_BYTES, Schedule};
use crate::kernels::{Kernels, Level};

/// One packet of [`apply_many`].
#[derive(Debug)]
pub struct Job<'a> {
    /// The session's encryption key.
    pub schedule: &'a Schedule,
    /// The first counter block.
    pub iv: [u8; BLOCK_BYTES],
    /// What is encrypted or decrypted in place: a packet without its header and tag.
    pub data: &'a mut [u8],
}

/// Encrypts or decrypts `data` in place: both are the same.
///
/// `iv` is the first counter block. Its low 32 bits count, big endian and modulo 2^32, as in GCM; the IV of RFC 3711 ends
/// in 16 zero bits and no packet has 2^16 blocks, so this is the RFC's counter.
pub fn apply(kernels: Kernels, schedule: &Schedule, iv: [u8; BLOCK_BYTES], data: &mut [u8]) {
    apply_many(kernels, &mut [Job { schedule, iv, data }]);
}

/// Encrypts or decrypts several packets, each with its own key. Cheaper than one by one: while one packet waits for its
/// rounds the next ones have begun theirs.
pub fn apply_many(kernels: Kernels, jobs: &mut [Job<'_>]) {
    match kernels.level() {
        // SAFETY: there are no kernels of this level unless the processor has all their features (`kernels::runs`).
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx512 => unsafe { avx512::apply_many(jobs) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        #[allow(unsafe_code)]
        Level::Avx2 => unsafe { avx2::apply_many(jobs) },
        _ => scalar::apply_many(jobs),
    }
}
