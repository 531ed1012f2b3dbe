//! SRTP as the phones of a measurement speak it: keys by `a=crypto` (RFC 4568), session keys by RFC 3711 section 4.3, packets
//! by RFC 3711 and RFC 7714, for RTP headers without extension and contributors.
//!
//! It shares the arithmetic of `simd` with the product and nothing else. What it writes, and reads, is checked against a
//! stranger in each run: rtpengine decrypts it and encrypts it anew.

use anyhow::{Context, Result, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use nebula_ring::srtp::{MasterKey, Mki, Suite};
use nebula_simd::aes::Schedule;
use nebula_simd::{Kernels, ctr, equal, gcm, hmac};

/// The bytes of an RTP header without extension and contributors.
pub const HEADER_BYTES: usize = 12;

/// The most that protection adds to a packet.
pub const ADDED_BYTES_MAX: usize = gcm::TAG_BYTES;

/// What one phone protects with, and what it must hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// The phone's own key.
    pub sends: MasterKey,
    /// The relay's for this phone.
    pub hears: MasterKey,
}

/// A key for a measurement: as good as random, and another one for each `seed`. Not a secret.
pub fn master(suite: Suite, seed: [u32; 3]) -> Result<MasterKey> {
    let [call, leg, serial] = seed.map(u64::from);
    let mut state = call << 32 | leg << 16 | serial;
    let bytes: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes())
        .map(|_| {
            // SplitMix64: its steps and constants.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            ((mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) >> 56) as u8
        })
        .collect();
    MasterKey::new(1, suite, &bytes, Mki::default()).context("a key of its suite's length")
}

/// The line of a description that carries a key.
pub fn crypto_line(key: &MasterKey) -> String {
    let inline = STANDARD_NO_PAD.encode([key.key(), key.salt()].concat());
    // 30 bytes need no padding, 28 do.
    let padding = "=".repeat(inline.len().next_multiple_of(4) - inline.len());
    format!("a=crypto:1 {} inline:{inline}{padding}\r\n", key.suite.name())
}

/// The key of a suite in a description, whatever else is offered there.
pub fn key_of(description: &str, suite: Suite) -> Result<MasterKey> {
    for line in description.lines().filter_map(|line| line.strip_prefix("a=crypto:")) {
        let mut words = line.split_whitespace().skip(1);
        if words.next().and_then(Suite::from_name) == Some(suite) {
            let inline = words.next().and_then(|word| word.strip_prefix("inline:")).context("inline:")?;
            let key = inline.split('|').next().unwrap_or(inline).trim_end_matches('=');
            let key = STANDARD_NO_PAD.decode(key).with_context(|| format!("key of {line}"))?;
            return MasterKey::new(1, suite, &key, Mki::default()).context("a key of another length than its suite's");
        }
    }
    bail!("no key of {} in {description}", suite.name())
}

/// The session keys of one direction.
pub struct Session {
    kernels: Kernels,
    cipher: Cipher,
}

#[expect(clippy::large_enum_variant, reason = "two for each phone of a measurement, of one suite")]
enum Cipher {
    CounterMode { schedule: Schedule, auth: hmac::Key, salt: [u8; 16], tag_bytes: usize },
    Aead { key: gcm::Key, salt: [u8; gcm::NONCE_BYTES] },
}

impl Session {
    /// Derives them.
    pub fn new(kernels: Kernels, master: &MasterKey) -> Result<Session> {
        let derive = |label, length| derive(kernels, master.key(), master.salt(), label, length);
        let counter_mode = |tag_bytes| -> Result<Cipher> {
            let mut salt = [0; 16];
            salt[..14].copy_from_slice(&derive(2, 14)?);
            let auth = hmac::Key::new(&derive(1, 20)?);
            Ok(Cipher::CounterMode { schedule: schedule(&derive(0, master.key().len())?)?, auth, salt, tag_bytes })
        };
        let cipher = match master.suite {
            Suite::AesCm128HmacSha1_80 | Suite::AesCm256HmacSha1_80 => counter_mode(10)?,
            Suite::AesCm128HmacSha1_32 | Suite::AesCm256HmacSha1_32 => counter_mode(4)?,
            Suite::AeadAes128Gcm | Suite::AeadAes256Gcm => {
                let key = derive(0, master.key().len())?;
                let key = match key.len() {
                    16 => gcm::Key::aes_128(key.as_slice().try_into()?),
                    _ => gcm::Key::aes_256(key.as_slice().try_into()?),
                };
                Cipher::Aead { key, salt: derive(2, gcm::NONCE_BYTES)?.as_slice().try_into()? }
            }
        };
        Ok(Session { kernels, cipher })
    }

    /// Protects the packet in the first `length` bytes of a buffer, with room behind it; its new length. `index` is the rollover
    /// counter above the sequence number.
    pub fn protect(&self, buffer: &mut [u8], length: usize, index: u64) -> usize {
        let (packet, room) = buffer.split_at_mut(length);
        match &self.cipher {
            Cipher::CounterMode { schedule, auth, salt, tag_bytes } => {
                let iv = counter_iv(salt, packet, index);
                ctr::apply(self.kernels, schedule, iv, &mut packet[HEADER_BYTES..]);
                let tag = hmac::tag(self.kernels, auth, packet, &rollovers(index));
                room[..*tag_bytes].copy_from_slice(&tag[..*tag_bytes]);
                length + tag_bytes
            }
            Cipher::Aead { key, salt } => {
                let nonce = nonce(salt, packet, index);
                let (header, payload) = packet.split_at_mut(HEADER_BYTES);
                let tag = gcm::seal(self.kernels, key, &nonce, header, payload);
                room[..tag.len()].copy_from_slice(&tag);
                length + tag.len()
            }
        }
    }

    /// Opens a packet in place; its length without the tag, or nothing if it is not authentic.
    pub fn unprotect(&self, packet: &mut [u8], index: u64) -> Option<usize> {
        match &self.cipher {
            Cipher::CounterMode { schedule, auth, salt, tag_bytes } => {
                let length = packet.len().checked_sub(*tag_bytes).filter(|length| *length >= HEADER_BYTES)?;
                let (packet, theirs) = packet.split_at_mut(length);
                let tag = hmac::tag(self.kernels, auth, packet, &rollovers(index));
                if !equal(theirs, &tag[..*tag_bytes]) {
                    return None;
                }
                let iv = counter_iv(salt, packet, index);
                ctr::apply(self.kernels, schedule, iv, &mut packet[HEADER_BYTES..]);
                Some(length)
            }
            Cipher::Aead { key, salt } => {
                let length = packet.len().checked_sub(gcm::TAG_BYTES).filter(|length| *length >= HEADER_BYTES)?;
                let (packet, tag) = packet.split_at_mut(length);
                let nonce = nonce(salt, packet, index);
                let (header, payload) = packet.split_at_mut(HEADER_BYTES);
                gcm::open(self.kernels, key, &nonce, header, payload, tag.first_chunk()?).ok()?;
                Some(length)
            }
        }
    }
}

/// RFC 3711 section 4.3, without a derivation rate: `length` bytes for the label, from a master key and its salt.
pub fn derive(kernels: Kernels, key: &[u8], salt: &[u8], label: u8, length: usize) -> Result<Vec<u8>> {
    let mut iv = [0; 16];
    iv[..salt.len()].copy_from_slice(salt);
    iv[7] ^= label;
    let mut derived = vec![0; length];
    ctr::apply(kernels, &schedule(key)?, iv, &mut derived);
    Ok(derived)
}

/// The cipher of a key of 16 or 32 bytes.
pub fn schedule(key: &[u8]) -> Result<Schedule> {
    Ok(match key.len() {
        16 => Schedule::aes_128(key.try_into()?),
        _ => Schedule::aes_256(key.try_into()?),
    })
}

fn rollovers(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// RFC 3711 section 4.1.1: salt, SSRC and index, above 16 bits that count blocks.
fn counter_iv(salt: &[u8; 16], packet: &[u8], index: u64) -> [u8; 16] {
    let mut iv = *salt;
    iv[4..8].iter_mut().zip(&packet[8..12]).for_each(|(a, b)| *a ^= b);
    iv[8..14].iter_mut().zip(&index.to_be_bytes()[2..]).for_each(|(a, b)| *a ^= b);
    iv
}

/// RFC 7714 section 8.1: two zeros, SSRC and index, under the salt.
fn nonce(salt: &[u8; gcm::NONCE_BYTES], packet: &[u8], index: u64) -> [u8; gcm::NONCE_BYTES] {
    let mut nonce = *salt;
    nonce[2..6].iter_mut().zip(&packet[8..12]).for_each(|(a, b)| *a ^= b);
    nonce[6..12].iter_mut().zip(&index.to_be_bytes()[2..]).for_each(|(a, b)| *a ^= b);
    nonce
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_keys_are_those_of_rfc_3711_appendix_b_3() {
        let bytes = hex::decode("e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6").unwrap();
        let master = MasterKey::new(1, Suite::AesCm128HmacSha1_80, &bytes, Mki::default()).unwrap();
        let derive =
            |label, length| hex::encode(derive(Kernels::detect(), master.key(), master.salt(), label, length).unwrap());
        assert_eq!(derive(0, 16), "c61e7a93744f39ee10734afe3ff7a087");
        assert_eq!(derive(1, 20), "cebe321f6ff7716b6fd4ab49af256a156d38baa4");
        assert_eq!(derive(2, 14), "30cbbc08863d8c85d49db34a9ae1");
    }

    #[test]
    fn the_nonce_is_that_of_rfc_7714_section_16() {
        let salt = hex::decode("517569642070726f2071756f").unwrap().try_into().unwrap();
        let header = hex::decode("8040f17b8041f8d35501a0b2").unwrap();
        assert_eq!(hex::encode(nonce(&salt, &header, 0xf17b)), "51753c6580c2726f20718414");
    }

    #[test]
    fn what_is_protected_opens_once_whole_and_never_changed() {
        for suite in Suite::ALL {
            let session = Session::new(Kernels::detect(), &master(suite, [1, 2, 3]).unwrap()).unwrap();
            let plain: Vec<u8> = (0..172).collect();
            let index = (7 << 16) | 9;
            let mut buffer = [plain.as_slice(), &[0; ADDED_BYTES_MAX]].concat();
            let length = session.protect(&mut buffer, plain.len(), index);
            assert_ne!(buffer[HEADER_BYTES..172], plain[HEADER_BYTES..]);
            for at in [0, 40, length - 1] {
                let mut changed = buffer[..length].to_vec();
                changed[at] ^= 1;
                assert_eq!(session.unprotect(&mut changed, index), None, "{} at {at}", suite.name());
            }
            let mut again = buffer[..length].to_vec();
            assert_eq!(session.unprotect(&mut again, index + (1 << 16)), None, "another rollover counter");
            assert_eq!(session.unprotect(&mut buffer[..length], index), Some(plain.len()));
            assert_eq!(buffer[..172], plain);
            assert_eq!(session.unprotect(&mut [0; 3], index), None);
        }
    }

    #[test]
    fn keys_pass_through_descriptions_with_and_without_padding() {
        for suite in Suite::ALL {
            let key = master(suite, [4, 5, 6]).unwrap();
            assert_ne!(key, master(suite, [4, 5, 7]).unwrap());
            let line = crypto_line(&key);
            assert_eq!(key_of(&format!("a=crypto:9 AES_192_CM inline:AAAA\r\n{line}"), suite).unwrap(), key);
            assert_eq!(key_of(line.trim_end().trim_end_matches('='), suite).unwrap(), key);
            assert!(key_of("v=0\r\n", suite).is_err());
        }
    }
}
