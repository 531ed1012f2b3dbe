//! From a master key to the session keys of RTP and of RTCP (RFC 3711 section 4.3 with a key derivation rate of zero; RFC
//! 6188 section 3 for AES-256, RFC 7714 section 11 for AEAD), and how a cipher makes its IVs. Some microseconds for each
//! new key.

use super::packet::Form;
use super::suite::{Kind, profile};
use nebula_ring::srtp::MasterKey;
use nebula_simd::aes::Schedule;
use nebula_simd::{Kernels, ctr, gcm, hmac};

/// Bytes of a key of HMAC-SHA1 (RFC 3711 section 4.2.1).
const AUTH_KEY_BYTES: usize = 20;
/// Bytes of the session salt in counter mode.
const SALT_BYTES: usize = 14;
const _: () = assert!(SALT_BYTES == nebula_ring::srtp::MASTER_SALT_BYTES_MAX);

/// Which packets a session key is for. The number is the first of its three labels (RFC 3711 section 4.3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Traffic {
    Rtp = 0,
    Rtcp = 3,
}

/// All that packets of one master key are protected with, or read.
pub(super) struct Keyring {
    /// The master key's number.
    pub serial: u32,
    pub rtp: Session,
    pub rtcp: Session,
    pub rtp_form: Form,
    pub rtcp_form: Form,
}

impl Keyring {
    /// Derives the session keys.
    pub fn derive(kernels: Kernels, master: &MasterKey) -> Self {
        let profile = profile(master.suite);
        let form = |tag| Form { kernels, mki: master.mki, tag };
        Self {
            serial: master.serial,
            rtp: Session::derive(kernels, master, Traffic::Rtp),
            rtcp: Session::derive(kernels, master, Traffic::Rtcp),
            rtp_form: form(profile.rtp_tag),
            rtcp_form: form(profile.rtcp_tag),
        }
    }
}

/// The session keys of one kind of packets.
#[expect(clippy::large_enum_variant, reason = "boxes would be allocations, and both are of one order")]
pub(super) enum Session {
    CounterMode { cipher: Schedule, auth: hmac::Key, salt: [u8; SALT_BYTES] },
    Aead { key: gcm::Key, salt: [u8; gcm::NONCE_BYTES] },
}

impl Session {
    /// Derives them.
    pub fn derive(kernels: Kernels, master: &MasterKey, traffic: Traffic) -> Self {
        let first = traffic as u8;
        let prf = Prf::new(kernels, master);
        let salt: [u8; SALT_BYTES] = prf.derive(first + 2);
        match profile(master.suite).kind {
            Kind::CounterMode => Self::CounterMode {
                cipher: prf.schedule_of(first),
                auth: hmac::Key::new(&prf.derive::<AUTH_KEY_BYTES>(first + 1)),
                salt,
            },
            Kind::Aead => Self::Aead {
                key: match master.suite.key_bytes() {
                    16 => gcm::Key::aes_128(&prf.derive(first)),
                    _ => gcm::Key::aes_256(&prf.derive(first)),
                },
                salt: std::array::from_fn(|i| salt[i]),
            },
        }
    }

    /// From session keys as RFC 7714 prints them.
    #[cfg(test)]
    pub fn aead(key: &[u8], salt: [u8; gcm::NONCE_BYTES]) -> Self {
        let key = match key.len() {
            16 => gcm::Key::aes_128(key.try_into().unwrap()),
            _ => gcm::Key::aes_256(key.try_into().unwrap()),
        };
        Self::Aead { key, salt }
    }
}

/// The IV in counter mode (RFC 3711 section 4.1.1): salt, SSRC and index, above 16 bits that count blocks.
#[inline]
pub(super) fn counter_iv(salt: &[u8; SALT_BYTES], ssrc: u32, index: u64) -> [u8; 16] {
    let mut iv = [0; 16];
    iv[..SALT_BYTES].copy_from_slice(salt);
    let value = (u128::from(ssrc) << 64) ^ (u128::from(index) << 16);
    (u128::from_be_bytes(iv) ^ value).to_be_bytes()
}

/// The nonce of AEAD (RFC 7714 sections 8.1 and 9.1): two zeros, SSRC, index in 48 bits, under the salt.
#[inline]
pub(super) fn nonce(salt: &[u8; gcm::NONCE_BYTES], ssrc: u32, index: u64) -> [u8; gcm::NONCE_BYTES] {
    let value = ((u128::from(ssrc) << 48) ^ u128::from(index)).to_be_bytes();
    std::array::from_fn(|i| salt[i] ^ value[i + 4])
}

/// AES in counter mode as a source of keys (RFC 3711 section 4.3.3).
struct Prf {
    kernels: Kernels,
    schedule: Schedule,
    salt: [u8; SALT_BYTES],
}

impl Prf {
    fn new(kernels: Kernels, master: &MasterKey) -> Self {
        // A salt of 96 bits stands on the left (RFC 7714 section 11).
        let mut salt = [0; SALT_BYTES];
        salt[..master.salt().len()].copy_from_slice(master.salt());
        Self { kernels, schedule: schedule(master.key()), salt }
    }

    fn derive<const N: usize>(&self, label: u8) -> [u8; N] {
        let mut iv = [0; 16];
        iv[..SALT_BYTES].copy_from_slice(&self.salt);
        // The label stands above the 48 bits of index over rate, which are zero.
        iv[7] ^= label;
        let mut out = [0; N];
        ctr::apply(self.kernels, &self.schedule, iv, &mut out);
        out
    }

    /// A cipher of the master key's own strength.
    fn schedule_of(&self, label: u8) -> Schedule {
        match self.schedule.rounds() {
            10 => Schedule::aes_128(&self.derive(label)),
            _ => Schedule::aes_256(&self.derive(label)),
        }
    }
}

/// Master keys have 16 or 32 bytes, by their type.
fn schedule(key: &[u8]) -> Schedule {
    match (key.first_chunk::<32>(), key.first_chunk::<16>()) {
        (Some(key), _) => Schedule::aes_256(key),
        (None, Some(key)) => Schedule::aes_128(key),
        (None, None) => unreachable!("a master key has 16 or 32 bytes"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nebula_ring::srtp::{Mki, Suite};

    #[test]
    fn session_keys_are_those_of_rfc_3711_appendix_b_3() {
        let bytes = hex::decode("e1f97a0d3e018be0d64fa32c06de41390ec675ad498afeebb6960b3aabe6").unwrap();
        let master = MasterKey::new(1, Suite::AesCm128HmacSha1_80, &bytes, Mki::default()).unwrap();
        let prf = Prf::new(Kernels::detect(), &master);
        assert_eq!(hex::encode(prf.derive::<16>(0)), "c61e7a93744f39ee10734afe3ff7a087");
        assert_eq!(hex::encode(prf.derive::<14>(2)), "30cbbc08863d8c85d49db34a9ae1");
        let auth = prf.derive::<94>(1);
        assert!(
            hex::encode(auth).starts_with("cebe321f6ff7716b6fd4ab49af256a156d38baa48f0a0acf3c34e2359e6cdbcee04964")
        );
    }

    #[test]
    fn ivs_are_those_of_rfc_3711_b_2_and_rfc_7714_16_and_17() {
        let salt = hex::decode("f0f1f2f3f4f5f6f7f8f9fafbfcfd").unwrap().try_into().unwrap();
        assert_eq!(hex::encode(counter_iv(&salt, 0, 0)), "f0f1f2f3f4f5f6f7f8f9fafbfcfd0000");
        assert_eq!(
            hex::encode(counter_iv(&[0; 14], 0x0102_0304, 0x0a0b_0c0d_0e0f)),
            "00000000010203040a0b0c0d0e0f0000"
        );
        let salt = hex::decode("517569642070726f2071756f").unwrap().try_into().unwrap();
        assert_eq!(hex::encode(nonce(&salt, 0x5501_a0b2, 0xf17b)), "51753c6580c2726f20718414");
        assert_eq!(hex::encode(nonce(&salt, 0x4d61_7273, 0x5d4)), "517524055203726f207170bb");
    }
}
