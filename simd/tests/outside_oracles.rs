//! aws-lc-rs, which shares no line with any of our kernels, gives the same tags and packets at every level of this machine.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac as aws_hmac;
use nebula_simd::{Kernels, Level, gcm, hmac};
use proptest::prelude::*;

fn kernels() -> impl Iterator<Item = Kernels> {
    Level::ALL.into_iter().filter_map(Kernels::of)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn gcm_agrees(
        plain in proptest::collection::vec(any::<u8>(), 0..2048),
        aad in proptest::collection::vec(any::<u8>(), 0..100),
        key in any::<[u8; 32]>(),
        long in any::<bool>(),
        nonce in any::<[u8; 12]>(),
    ) {
        let theirs = if long { UnboundKey::new(&AES_256_GCM, &key) } else { UnboundKey::new(&AES_128_GCM, &key[..16]) };
        let theirs = LessSafeKey::new(theirs.expect("a key of the right length"));
        let ours = if long { gcm::Key::aes_256(&key) } else { gcm::Key::aes_128(key.first_chunk().expect("16 of 32")) };
        let mut expected = plain.clone();
        let expected_tag = theirs
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(&aad), &mut expected)
            .expect("sealed");
        for kernels in kernels() {
            let mut data = plain.clone();
            let tag = gcm::seal(kernels, &ours, &nonce, &aad, &mut data);
            prop_assert_eq!(&data, &expected, "{}", kernels.level());
            prop_assert_eq!(tag.as_slice(), expected_tag.as_ref(), "{}", kernels.level());

            let mut whole = data.clone();
            whole.extend(tag);
            let nonce = Nonce::assume_unique_for_key(nonce);
            let opened = theirs.open_in_place(nonce, Aad::from(&aad), &mut whole).expect("ours opens there");
            prop_assert_eq!(opened, plain.as_slice());
        }
    }

    #[test]
    fn hmac_agrees(
        messages in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..2048), proptest::collection::vec(any::<u8>(), 0..100)), 1..20),
        tail in any::<[u8; 4]>(),
    ) {
        let keys: Vec<_> = messages.iter().map(|(_, key)| hmac::Key::new(key)).collect();
        let jobs: Vec<_> = messages.iter().zip(&keys).map(|((data, _), key)| hmac::Job { key, data, tail: &tail }).collect();
        let expected: Vec<_> = messages.iter().map(|(data, key)| {
            let key = aws_hmac::Key::new(aws_hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, key);
            let whole = [data.as_slice(), &tail].concat();
            aws_hmac::sign(&key, &whole).as_ref().to_vec()
        }).collect();
        for kernels in kernels() {
            let mut tags = vec![[0; hmac::TAG_BYTES]; jobs.len()];
            hmac::tag_many(kernels, &jobs, &mut tags);
            for (tag, expected) in tags.iter().zip(&expected) {
                prop_assert_eq!(tag.as_slice(), expected.as_slice(), "{}", kernels.level());
            }
        }
    }
}
