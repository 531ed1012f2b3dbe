//! The arithmetic of SRTP: AES in counter mode, HMAC-SHA1 and AES-GCM, each in three kernels that give the same bytes.
//!
//! Who protects and unprotects packets (`dataplane/core`) calls it, on the worker's thread. A worker asks for its
//! [`Kernels`] once at start and hands them in with every call, so that nothing here looks at the processor per packet.
//! Nothing allocates, blocks or fails; what a packet costs is in `benches/srtp.rs`.
//!
//! | kernel | AES | GHASH | SHA-1 |
//! |---|---|---|---|
//! | [`Level::Avx512`] | VAES, 16 blocks at once | VPCLMULQDQ, 4 blocks at once, 16 for one reduction | 16 messages at once |
//! | [`Level::Avx2`] | AES-NI, 8 blocks at once | PCLMULQDQ, 16 blocks for one reduction | 8 messages at once |
//! | [`Level::Scalar`] | RustCrypto `aes` | RustCrypto `ghash` | RustCrypto `sha1` |
//!
//! The scalar twin is RustCrypto's code because that is constant-time where a processor has no instruction for it (bit
//! slices, no tables) and takes such instructions where there are any; tables of our own would leak keys through the cache.
//! It is the oracle of the other two (`tests/twins.rs`), and aws-lc-rs, which shares no line with it, the oracle of all three
//! (`tests/outside_oracles.rs`). aws-lc-rs is not the twin itself, because it allocates a context for each key and hides the
//! state that HMAC precomputes.
//!
//! Keys are overwritten when they are dropped. What is left of them in registers and on the stack is not.

#![deny(unsafe_code)]

pub mod aes;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
pub mod ctr;
pub mod gcm;
pub mod hmac;
mod kernels;

pub use kernels::{Kernels, Level};

/// Whether two byte strings are equal, in a time that depends only on their lengths. For tags that were cut (RFC 3711
/// section 4.2: 10 or 4 bytes of 20).
#[must_use]
#[inline]
pub fn equal(a: &[u8], b: &[u8]) -> bool {
    if a.len() != b.len() {
        return false;
    }
    let (words_a, rest_a) = a.as_chunks();
    let (words_b, rest_b) = b.as_chunks();
    let words = words_a.iter().zip(words_b).map(|(a, b)| u64::from_ne_bytes(*a) ^ u64::from_ne_bytes(*b));
    let bytes = rest_a.iter().zip(rest_b).map(|(a, b)| u64::from(a ^ b));
    // The black box keeps the compiler from seeing that a difference, once found, decides. `subtle` does so for each byte,
    // which cost 20 of the 70 ns that a packet takes to open.
    words.chain(bytes).fold(0, |differences, difference| std::hint::black_box(differences | difference)) == 0
}

#[cfg(test)]
mod tests {
    use super::equal;

    #[test]
    fn one_bit_makes_a_difference_wherever_it_is() {
        for length in 0..40 {
            let a: Vec<u8> = (0..length).collect();
            assert!(equal(&a, &a.clone()));
            for bit in 0..8 * usize::from(length) {
                let mut b = a.clone();
                b[bit / 8] ^= 1 << (bit % 8);
                assert!(!equal(&a, &b), "bit {bit} of {length} bytes");
            }
            assert!(!equal(&a, &[a.as_slice(), &[0]].concat()));
        }
    }
}
