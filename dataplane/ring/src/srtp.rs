//! What a stream must know to protect what it sends and to read what it receives: suites, master keys, key identifiers.
//! Types only; `slot` puts them on the ring. They go from control to the dataplane and never back: no table shows a key.

use std::fmt;

/// Bytes of the longest master key, of the AES-256 suites.
pub const MASTER_KEY_BYTES_MAX: usize = 32;
/// Bytes of the longest master salt, of the counter-mode suites (RFC 3711 section 4.3).
pub const MASTER_SALT_BYTES_MAX: usize = 14;
/// The longest key identifier that is carried. RFC 4568 allows 128 bytes; what phones send has 1 to 4.
pub const MKI_BYTES_MAX: usize = 16;

/// A crypto suite, by its name in SDP (RFC 4568 section 6.2, RFC 6188 section 4, RFC 7714 section 14.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Suite {
    /// AES-128 in counter mode, tags of 80 bits.
    AesCm128HmacSha1_80,
    /// The same with tags of 32 bits; SRTCP keeps 80.
    AesCm128HmacSha1_32,
    /// AES-256 in counter mode, tags of 80 bits.
    AesCm256HmacSha1_80,
    /// The same with tags of 32 bits; SRTCP keeps 80.
    AesCm256HmacSha1_32,
    /// AES-128 in Galois counter mode, tags of 128 bits.
    AeadAes128Gcm,
    /// AES-256 in Galois counter mode, tags of 128 bits.
    AeadAes256Gcm,
}

impl Suite {
    /// All of them. The place plus one is their number on the ring: append only.
    pub const ALL: [Self; 6] = [
        Self::AesCm128HmacSha1_80,
        Self::AesCm128HmacSha1_32,
        Self::AesCm256HmacSha1_80,
        Self::AesCm256HmacSha1_32,
        Self::AeadAes128Gcm,
        Self::AeadAes256Gcm,
    ];

    /// Its name in SDP.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AesCm128HmacSha1_80 => "AES_CM_128_HMAC_SHA1_80",
            Self::AesCm128HmacSha1_32 => "AES_CM_128_HMAC_SHA1_32",
            Self::AesCm256HmacSha1_80 => "AES_256_CM_HMAC_SHA1_80",
            Self::AesCm256HmacSha1_32 => "AES_256_CM_HMAC_SHA1_32",
            Self::AeadAes128Gcm => "AEAD_AES_128_GCM",
            Self::AeadAes256Gcm => "AEAD_AES_256_GCM",
        }
    }

    /// The suite of a name, in whatever case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|suite| suite.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of its master key.
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::AesCm128HmacSha1_80 | Self::AesCm128HmacSha1_32 | Self::AeadAes128Gcm => 16,
            Self::AesCm256HmacSha1_80 | Self::AesCm256HmacSha1_32 | Self::AeadAes256Gcm => 32,
        }
    }

    /// Bytes of its master salt.
    pub const fn salt_bytes(self) -> usize {
        match self {
            Self::AeadAes128Gcm | Self::AeadAes256Gcm => 12,
            _ => 14,
        }
    }
}

/// A master key's identifier in packets (RFC 3711 section 3.1): none, or up to `MKI_BYTES_MAX` bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Mki {
    len: u8,
    bytes: [u8; MKI_BYTES_MAX],
}

impl Mki {
    /// Takes it as it stands in packets; none if it is too long.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let mut mki = Self { len: bytes.len() as u8, ..Self::default() };
        mki.bytes.get_mut(..bytes.len())?.copy_from_slice(bytes);
        Some(mki)
    }

    /// As it stands in packets; empty if there is none.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// A master key with all that belongs to it, for one direction of one stream.
#[derive(Clone, PartialEq, Eq)]
pub struct MasterKey {
    /// Counts the keys of a direction, from 1: the same number is the same key, with its rollover counter; a higher one is
    /// a new key. The stream table shows it, so that indices are never taken for those of another key.
    pub serial: u32,
    /// What it is used for.
    pub suite: Suite,
    /// What packets carry of it.
    pub mki: Mki,
    key: [u8; MASTER_KEY_BYTES_MAX],
    salt: [u8; MASTER_SALT_BYTES_MAX],
}

impl MasterKey {
    /// From key and salt, one behind the other, as `inline:` has them; none if they are not as long as the suite wants.
    pub fn new(serial: u32, suite: Suite, key_and_salt: &[u8], mki: Mki) -> Option<Self> {
        let (key_bytes, salt_bytes) = (suite.key_bytes(), suite.salt_bytes());
        if serial == 0 || key_and_salt.len() != key_bytes + salt_bytes {
            return None;
        }
        let mut master = Self { serial, suite, mki, key: [0; _], salt: [0; _] };
        master.key[..key_bytes].copy_from_slice(&key_and_salt[..key_bytes]);
        master.salt[..salt_bytes].copy_from_slice(&key_and_salt[key_bytes..]);
        Some(master)
    }

    /// The key.
    pub fn key(&self) -> &[u8] {
        &self.key[..self.suite.key_bytes()]
    }

    /// The salt.
    pub fn salt(&self) -> &[u8] {
        &self.salt[..self.suite.salt_bytes()]
    }
}

/// Says all but the secret.
impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { serial, suite, mki, .. } = self;
        write!(f, "MasterKey {{ serial: {serial}, suite: {}, mki: {:02x?} }}", suite.name(), mki.as_bytes())
    }
}

/// The keys of a stream that is protected. A direction without one lets nothing through: so nothing leaves in the clear, and
/// nothing is believed, while the peer's answer is still to come.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SrtpConfig {
    /// What the peer protects with.
    pub receive: Option<MasterKey>,
    /// What we protect with. Never used before, neither by this stream nor by another one; a changed key needs a higher
    /// serial than the one before.
    pub send: Option<MasterKey>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suites_are_found_by_name_and_keys_are_as_long_as_they_say() {
        for suite in Suite::ALL {
            assert_eq!(Suite::from_name(&suite.name().to_lowercase()), Some(suite));
            let bytes: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes()).map(|n| n as u8).collect();
            let master = MasterKey::new(1, suite, &bytes, Mki::default()).unwrap();
            assert_eq!([master.key(), master.salt()].concat(), bytes);
            assert_eq!(MasterKey::new(1, suite, &bytes[1..], Mki::default()), None);
            assert_eq!(MasterKey::new(0, suite, &bytes, Mki::default()), None);
        }
        assert_eq!(Suite::from_name("F8_128_HMAC_SHA1_80"), None);
    }

    #[test]
    fn a_key_is_not_shown() {
        let bytes = [0xa5; 30];
        let master = MasterKey::new(7, Suite::AesCm128HmacSha1_80, &bytes, Mki::new(&[1]).unwrap()).unwrap();
        let shown = format!("{master:?}");
        assert_eq!(shown, "MasterKey { serial: 7, suite: AES_CM_128_HMAC_SHA1_80, mki: [01] }");
        assert_eq!(Mki::new(&[0; MKI_BYTES_MAX + 1]), None);
    }
}
