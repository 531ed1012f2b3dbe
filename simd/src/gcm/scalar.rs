//! GCM by the `aes` and `ghash` crates.

use super::{BadTag, Key, NONCE_BYTES, TAG_BYTES, counter_block, lengths};
use crate::{ctr, equal};
use ghash::GHash;
use ghash::universal_hash::UniversalHash;

pub(super) fn seal(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &mut [u8]) -> [u8; TAG_BYTES] {
    ctr::scalar::apply(&key.schedule, counter_block(nonce, 2), data);
    tag_of(key, nonce, aad, data)
}

pub(super) fn open(
    key: &Key,
    nonce: &[u8; NONCE_BYTES],
    aad: &[u8],
    data: &mut [u8],
    tag: &[u8; TAG_BYTES],
) -> Result<(), BadTag> {
    if !equal(&tag_of(key, nonce, aad, data), tag) {
        return Err(BadTag);
    }
    ctr::scalar::apply(&key.schedule, counter_block(nonce, 2), data);
    Ok(())
}

/// The tag of a header and what was encrypted.
fn tag_of(key: &Key, nonce: &[u8; NONCE_BYTES], aad: &[u8], data: &[u8]) -> [u8; TAG_BYTES] {
    let mut hash = GHash::new(&key.hash_key.into());
    hash.update_padded(aad);
    hash.update_padded(data);
    hash.update(&[lengths(aad, data).into()]);
    let hash: [u8; TAG_BYTES] = hash.finalize().into();
    let mask = key.schedule.encrypt_block(&counter_block(nonce, 1));
    std::array::from_fn(|i| hash[i] ^ mask[i])
}
