//! Each kernel against its scalar twin: the same bytes for all lengths, alignments and keys, at every level of this machine.

use nebula_simd::aes::Schedule;
use nebula_simd::{Kernels, Level, ctr, gcm, hmac};
use proptest::prelude::*;
use std::sync::Once;

/// More than the longest packet of an Ethernet frame.
const DATA_BYTES_MAX: usize = 2048;

/// Starts at any place of a cache line.
const SHIFT_MAX: usize = 64;

/// The kernels of this machine that have a twin. Says once which it lacks.
fn twins() -> Vec<Kernels> {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        for level in Level::ALL.into_iter().filter(|level| Kernels::of(*level).is_none()) {
            eprintln!("skipped: this machine has no {level}");
        }
    });
    Level::ALL.into_iter().filter_map(Kernels::of).filter(|kernels| *kernels != Kernels::SCALAR).collect()
}

/// A packet somewhere in a buffer, and where it begins.
fn packet() -> impl Strategy<Value = (Vec<u8>, usize)> {
    // Short ones, whole blocks and their neighbours matter most.
    let length = prop_oneof![0..=300_usize, 0..=DATA_BYTES_MAX, (0..=40_usize).prop_map(|blocks| blocks * 16)];
    (length, 0..SHIFT_MAX)
        .prop_flat_map(|(length, shift)| (proptest::collection::vec(any::<u8>(), length + shift), Just(shift)))
}

fn schedule(key: &[u8; 32], long: bool) -> Schedule {
    if long { Schedule::aes_256(key) } else { Schedule::aes_128(key.first_chunk().expect("16 of 32")) }
}

fn gcm_key(key: &[u8; 32], long: bool) -> gcm::Key {
    if long { gcm::Key::aes_256(key) } else { gcm::Key::aes_128(key.first_chunk().expect("16 of 32")) }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn counter_mode(
        packets in proptest::collection::vec((packet(), any::<[u8; 32]>(), any::<bool>(), any::<[u8; 16]>(), any::<bool>()), 1..6)
    ) {
        let run = |kernels| {
            let mut buffers: Vec<_> = packets.iter().map(|((buffer, _), ..)| buffer.clone()).collect();
            let schedules: Vec<_> = packets.iter().map(|(_, key, long, ..)| schedule(key, *long)).collect();
            let mut jobs: Vec<_> = buffers.iter_mut().zip(&schedules).zip(&packets).map(
                |((buffer, schedule), ((_, shift), _, _, iv, wraps))| {
                    let mut iv = *iv;
                    if *wraps {
                        iv[12..15].fill(0xff);
                    }
                    ctr::Job { schedule, iv, data: &mut buffer[*shift..] }
                }
            ).collect();
            ctr::apply_many(kernels, &mut jobs);
            buffers
        };
        let expected = run(Kernels::SCALAR);
        for kernels in twins() {
            prop_assert_eq!(&run(kernels), &expected, "{}", kernels.level());
        }
    }

    #[test]
    fn tags_of_hmac(
        messages in proptest::collection::vec((packet(), any::<[u8; 20]>(), 0..=hmac::TAIL_BYTES_MAX), 1..40),
        tail in any::<[[u8; 28]; 2]>(),
    ) {
        let keys: Vec<_> = messages.iter().map(|(_, key, _)| hmac::Key::new(key)).collect();
        let jobs: Vec<_> = messages.iter().zip(&keys).map(|(((buffer, shift), _, length), key)| {
            hmac::Job { key, data: &buffer[*shift..], tail: &tail.as_flattened()[..*length] }
        }).collect();
        let run = |kernels| {
            let mut tags = vec![[0; hmac::TAG_BYTES]; jobs.len()];
            hmac::tag_many(kernels, &jobs, &mut tags);
            tags
        };
        let expected = run(Kernels::SCALAR);
        for kernels in twins() {
            prop_assert_eq!(&run(kernels), &expected, "{}", kernels.level());
        }
    }

    #[test]
    fn gcm_seals_and_opens(
        (buffer, shift) in packet(),
        aad in proptest::collection::vec(any::<u8>(), 0..100),
        key in any::<[u8; 32]>(),
        long in any::<bool>(),
        nonce in any::<[u8; 12]>(),
        flip in any::<(usize, u8)>(),
    ) {
        let key = gcm_key(&key, long);
        let mut expected = buffer.clone();
        let expected_tag = gcm::seal(Kernels::SCALAR, &key, &nonce, &aad, &mut expected[shift..]);
        for kernels in twins() {
            let mut sealed = buffer.clone();
            let tag = gcm::seal(kernels, &key, &nonce, &aad, &mut sealed[shift..]);
            prop_assert_eq!(&sealed, &expected, "{}", kernels.level());
            prop_assert_eq!(tag, expected_tag, "{}", kernels.level());

            // One bit wrong anywhere: nothing is opened, and nothing is changed.
            let all = aad.len() + (buffer.len() - shift) + tag.len();
            let (place, bit) = (flip.0 % all, 1 << (flip.1 % 8));
            let (mut bad_aad, mut bad, mut bad_tag) = (aad.clone(), sealed.clone(), tag);
            let mut places = bad_aad.iter_mut().chain(&mut bad[shift..]).chain(&mut bad_tag);
            *places.nth(place).expect("within") ^= bit;
            let before = bad.clone();
            let opened = gcm::open(kernels, &key, &nonce, &bad_aad, &mut bad[shift..], &bad_tag);
            prop_assert_eq!(opened, Err(gcm::BadTag), "{}", kernels.level());
            prop_assert_eq!(bad, before);

            prop_assert_eq!(gcm::open(kernels, &key, &nonce, &aad, &mut sealed[shift..], &tag), Ok(()));
            prop_assert_eq!(&sealed, &buffer, "{}", kernels.level());
        }
    }
}

/// Each length once, since chance may miss the one at which a vector is just full.
#[test]
fn every_length_of_a_packet() {
    let (schedule, key) = (Schedule::aes_128(&[7; 16]), gcm::Key::aes_256(&[9; 32]));
    let (hmac_key, plain) = (hmac::Key::new(&[5; 20]), [0x5a; DATA_BYTES_MAX]);
    for kernels in twins() {
        for length in 0..=DATA_BYTES_MAX {
            let in_counter_mode = |kernels| {
                let mut data = plain;
                ctr::apply(kernels, &schedule, [1; 16], &mut data[..length]);
                data
            };
            assert!(in_counter_mode(kernels) == in_counter_mode(Kernels::SCALAR), "{length} at {}", kernels.level());
            let by_gcm = |kernels| {
                let mut data = plain;
                let tag = gcm::seal(kernels, &key, &[2; 12], &plain[..12 + length % 7], &mut data[..length]);
                (data, tag)
            };
            assert!(by_gcm(kernels) == by_gcm(Kernels::SCALAR), "{length} at {}", kernels.level());
            // A full group whose messages end at sixteen different places.
            let jobs: [_; 16] = std::array::from_fn(|lane| {
                let data = &plain[..length.saturating_sub(lane * 9)];
                hmac::Job { key: &hmac_key, data, tail: &[1, 2, 3, 4] }
            });
            let by_hmac = |kernels| {
                let mut tags = [[0; hmac::TAG_BYTES]; 16];
                hmac::tag_many(kernels, &jobs, &mut tags);
                tags
            };
            assert!(by_hmac(kernels) == by_hmac(Kernels::SCALAR), "{length} at {}", kernels.level());
        }
    }
}
