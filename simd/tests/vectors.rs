//! The published vectors, at every level of this machine: RFC 3711 B.2 and B.3, RFC 7714 sections 16 and 17, RFC 2202, and
//! those that libsrtp checks itself by.
//!
//! Whole SRTP packets are put together here from the parts that RFC 3711 names, so this is also the shortest example of how
//! the crate is used.

use nebula_simd::aes::Schedule;
use nebula_simd::{Kernels, Level, ctr, equal, gcm, hmac};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The vectors lie beside the clone; CI may name another place. Without them the tests say so and pass.
fn vectors() -> Vec<Value> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/testdata");
    let file = std::env::var_os("NEBULA_TESTDATA").map_or_else(beside, PathBuf::from).join("srtp/srtp_vectors.json");
    let Ok(text) = std::fs::read_to_string(&file) else {
        eprintln!("skipped: no vectors at {}", file.display());
        return Vec::new();
    };
    serde_json::from_str(&text).expect("vectors are JSON")
}

fn bytes(vector: &Value, field: &str) -> Vec<u8> {
    hex::decode(vector[field].as_str().unwrap_or_else(|| panic!("{field} of {}", vector["id"]))).expect("hex")
}

fn at_each_level(check: impl Fn(Kernels)) {
    for level in Level::ALL {
        match Kernels::of(level) {
            Some(kernels) => check(kernels),
            None => eprintln!("skipped: this machine has no {level}"),
        }
    }
}

fn schedule(key: &[u8]) -> Schedule {
    match key.len() {
        16 => Schedule::aes_128(key.try_into().expect("16")),
        32 => Schedule::aes_256(key.try_into().expect("32")),
        other => panic!("a key of {other} bytes"),
    }
}

/// RFC 3711 section 4.3, with an index of 0 or no derivation rate: the key stream under the salt with the label in it.
fn derive(kernels: Kernels, master_key: &[u8], master_salt: &[u8], label: u8, length: usize) -> Vec<u8> {
    let mut iv = [0; 16];
    iv[..master_salt.len()].copy_from_slice(master_salt);
    iv[7] ^= label;
    let mut derived = vec![0; length];
    ctr::apply(kernels, &schedule(master_key), iv, &mut derived);
    derived
}

/// RFC 3711 section 4.1.1.
fn aes_cm_iv(salt: &[u8], ssrc: &[u8], index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..14].copy_from_slice(salt);
    iv[4..8].iter_mut().zip(ssrc).for_each(|(a, b)| *a ^= b);
    iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..]).for_each(|(a, b)| *a ^= b);
    iv
}

/// RFC 7714 sections 8.1 and 9.1: with 48 bits of SRTP's index, or 32 of SRTCP's after two zero bytes.
fn gcm_nonce(salt: &[u8], ssrc: &[u8], index: u64) -> [u8; 12] {
    let mut nonce: [u8; 12] = salt.try_into().expect("a salt of 12 bytes");
    nonce[2..6].iter_mut().zip(ssrc).for_each(|(a, b)| *a ^= b);
    nonce[6..12].iter_mut().zip(&index.to_be_bytes()[2..]).for_each(|(a, b)| *a ^= b);
    nonce
}

/// A vector of a whole packet: its parts, whichever suite it is of.
struct Packet {
    plain: Vec<u8>,
    protected: Vec<u8>,
    header_bytes: usize,
    ssrc: Vec<u8>,
    /// The packet's index in its nonce: rollover counter and sequence number, or SRTCP's own.
    index: u64,
    /// SRTCP's index with the E bit, as it stands in the packet.
    srtcp_word: Option<[u8; 4]>,
    roc: Vec<u8>,
}

impl Packet {
    fn of(vector: &Value) -> Packet {
        let plain = bytes(vector, "plain");
        let srtcp = vector["srtcp_index"].as_u64();
        let sequence = u64::from(u16::from_be_bytes([plain[2], plain[3]]));
        let roc = vector["roc"].as_u64().unwrap_or(0);
        let (header_bytes, ssrc) = if srtcp.is_some() { (8, 4..8) } else { (12, 8..12) };
        Packet {
            protected: bytes(vector, "protected"),
            header_bytes,
            ssrc: plain[ssrc].to_vec(),
            index: srtcp.unwrap_or(roc << 16 | sequence),
            srtcp_word: srtcp.map(|index| (1 << 31 | index as u32).to_be_bytes()),
            roc: if srtcp.is_some() { Vec::new() } else { (roc as u32).to_be_bytes().to_vec() },
            plain,
        }
    }
}

#[test]
fn the_keystream_of_rfc_3711_b_2() {
    at_each_level(|kernels| {
        for vector in vectors().iter().filter(|v| v.get("keystream_first48").is_some()) {
            let mut stream = vec![0; 48];
            let iv = aes_cm_iv(&bytes(vector, "session_salt"), &[], 0);
            ctr::apply(kernels, &schedule(&bytes(vector, "session_key")), iv, &mut stream);
            assert_eq!(stream, bytes(vector, "keystream_first48"), "{}", vector["id"]);
        }
    });
}

/// The same appendix goes on to the last block but one of the 16-bit counter.
#[test]
fn the_end_of_the_keystream_of_rfc_3711_b_2() {
    let key = hex::decode("2b7e151628aed2a6abf7158809cf4f3c").expect("hex");
    let salt = hex::decode("f0f1f2f3f4f5f6f7f8f9fafbfcfd").expect("hex");
    at_each_level(|kernels| {
        let mut stream = vec![0; 0xff02 * 16];
        ctr::apply(kernels, &schedule(&key), aes_cm_iv(&salt, &[], 0), &mut stream);
        let last = "ec8cdf7398607cb0f2d21675ea9ea1e4362b7c3c6773516318a077d7fc5073ae6a2cc3787889374fbeb4c81b17ba6c44";
        assert_eq!(hex::encode(&stream[0xfeff * 16..]), last, "{}", kernels.level());
    });
}

#[test]
fn the_key_derivation_of_rfc_3711_b_3() {
    at_each_level(|kernels| {
        for vector in vectors().iter().filter(|v| v.get("cipher_salt").is_some()) {
            let (key, salt) = (bytes(vector, "master_key"), bytes(vector, "master_salt"));
            for (label, field) in [(0, "cipher_key"), (1, "auth_key_94B"), (2, "cipher_salt")] {
                let expected = bytes(vector, field);
                assert_eq!(derive(kernels, &key, &salt, label, expected.len()), expected, "{field}");
            }
        }
    });
}

#[test]
fn whole_packets_of_the_hmac_suites() {
    at_each_level(|kernels| {
        let all = vectors();
        let packets = all.iter().filter(|v| v["profile"].as_str().is_some_and(|p| p.ends_with("_HMAC_SHA1_80")));
        for vector in packets {
            let (key, salt) = (bytes(vector, "master_key"), bytes(vector, "master_salt"));
            let packet = Packet::of(vector);
            let first_label = if packet.srtcp_word.is_some() { 3 } else { 0 };
            let session = |label: u8, length| derive(kernels, &key, &salt, first_label + label, length);
            let mut out = packet.plain.clone();
            let iv = aes_cm_iv(&session(2, 14), &packet.ssrc, packet.index);
            ctr::apply(kernels, &schedule(&session(0, key.len())), iv, &mut out[packet.header_bytes..]);
            out.extend(packet.srtcp_word.unwrap_or_default().iter().take(if packet.srtcp_word.is_some() {
                4
            } else {
                0
            }));
            let tag = hmac::tag(kernels, &hmac::Key::new(&session(1, 20)), &out, &packet.roc);
            out.extend(&tag[..10]);
            assert_eq!(hex::encode(out), hex::encode(&packet.protected), "{} at {}", vector["id"], kernels.level());
        }
    });
}

#[test]
fn whole_packets_of_the_aead_suites() {
    at_each_level(|kernels| {
        let all = vectors();
        for vector in all.iter().filter(|v| v["profile"].as_str().is_some_and(|p| p.ends_with("_GCM"))) {
            let packet = Packet::of(vector);
            let first_label = if packet.srtcp_word.is_some() { 3 } else { 0 };
            let session = |field: &str, master: &str, label: u8| {
                vector.get(field).map_or_else(
                    || {
                        let (key, salt) = (bytes(vector, "master_key"), bytes(vector, "master_salt"));
                        derive(kernels, &key, &salt, first_label + label, bytes(vector, master).len())
                    },
                    |_| bytes(vector, field),
                )
            };
            let (key, salt) = (session("session_key", "master_key", 0), session("session_salt", "master_salt", 2));
            let key = match key.len() {
                16 => gcm::Key::aes_128(&key.try_into().expect("16")),
                _ => gcm::Key::aes_256(&key.try_into().expect("32")),
            };
            let nonce = gcm_nonce(&salt, &packet.ssrc, packet.index);
            if vector.get("iv").is_some() {
                assert_eq!(nonce.as_slice(), bytes(vector, "iv"), "{}", vector["id"]);
            }
            let (header, payload) = packet.plain.split_at(packet.header_bytes);
            let mut aad = header.to_vec();
            aad.extend(packet.srtcp_word.iter().flatten());
            let mut data = payload.to_vec();
            let tag = gcm::seal(kernels, &key, &nonce, &aad, &mut data);
            let out = [header, &data, &tag, packet.srtcp_word.as_ref().map_or(&[], |w| w.as_slice())].concat();
            assert_eq!(hex::encode(out), hex::encode(&packet.protected), "{} at {}", vector["id"], kernels.level());

            let sealed = data.clone();
            let mut wrong = tag;
            wrong[15] ^= 1;
            assert_eq!(gcm::open(kernels, &key, &nonce, &aad, &mut data, &wrong), Err(gcm::BadTag));
            assert_eq!(data, sealed, "a bad tag leaves the packet as it was");
            gcm::open(kernels, &key, &nonce, &aad, &mut data, &tag).expect("its own tag");
            assert_eq!(data, payload);
        }
    });
}

#[test]
fn the_tags_of_rfc_2202() {
    let cases: [(Vec<u8>, Vec<u8>, &str); 7] = [
        (vec![0x0b; 20], b"Hi There".to_vec(), "b617318655057264e28bc0b6fb378c8ef146be00"),
        (b"Jefe".to_vec(), b"what do ya want for nothing?".to_vec(), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79"),
        (vec![0xaa; 20], vec![0xdd; 50], "125d7342b9ac11cd91a39af48aa17b4f63f175d3"),
        ((1..=25).collect(), vec![0xcd; 50], "4c9007f4026250c6bc8414f9bf50c86c2d7235da"),
        (vec![0x0c; 20], b"Test With Truncation".to_vec(), "4c1a03424b55e07fe7f27be1d58bb9324a9a5a04"),
        (
            vec![0xaa; 80],
            b"Test Using Larger Than Block-Size Key - Hash Key First".to_vec(),
            "aa4ae5e15272d00e95705637ce8a3b55ed402112",
        ),
        (
            vec![0xaa; 80],
            b"Test Using Larger Than Block-Size Key and Larger Than One Block-Size Data".to_vec(),
            "e8e99d0f45237d786d6bbaa7965c7808bbff1a91",
        ),
    ];
    at_each_level(|kernels| {
        let keys: Vec<_> = cases.iter().map(|(key, ..)| hmac::Key::new(key)).collect();
        let jobs: Vec<_> =
            cases.iter().zip(&keys).map(|((_, data, _), key)| hmac::Job { key, data, tail: &[] }).collect();
        let mut tags = vec![[0; 20]; jobs.len()];
        hmac::tag_many(kernels, &jobs, &mut tags);
        for ((_, data, expected), tag) in cases.iter().zip(&tags) {
            assert_eq!(hex::encode(tag), *expected, "{} bytes at {}", data.len(), kernels.level());
            assert!(equal(&tag[..4], &hex::decode(expected).expect("hex")[..4]));
        }
    });
}
