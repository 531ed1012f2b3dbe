//! Wire formats: parse and write, no state. Every view is made by `new_checked`; its accessors never panic.

pub mod rtcp;
pub mod rtp;

/// Big-endian 16 bits at `at`; the caller has checked the length.
#[inline]
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u16::from_be_bytes(*b))
}

/// Big-endian 32 bits at `at`; the caller has checked the length.
#[inline]
pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|b| b.first_chunk()).map_or(0, |b| u32::from_be_bytes(*b))
}
