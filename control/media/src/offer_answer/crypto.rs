//! `a=crypto` (RFC 4568): what a line says, which of those offered is taken, and our own keys.
//!
//! Called by `sdp` for each line and by `exchange` for each answer; pure. Our keys are made of a seed from the system's
//! source of random numbers, which is drawn when a stream is created and kept with it: so a restored agent has the same
//! keys, and no key is drawn twice. Each key has a serial, which rises with every new one of its direction.

use base64::Engine;
use base64::alphabet::STANDARD as ALPHABET;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use nebula_ring::srtp::{MKI_BYTES_MAX, MasterKey, Mki, Suite};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;

/// Lines of one description that are looked at: more than there are suites. The rest is passed over.
pub const CRYPTO_LINES_MAX: usize = 16;
/// RFC 4568 section 6.1: a key of SRTP lives for 2^48 packets at most.
const LIFETIME_PACKETS_MAX: u64 = 1 << 48;

/// Phones write base64 with and without its padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &ALPHABET,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether a leg is to be protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Neither offered nor accepted.
    Off,
    /// Who offers it gets it. It is offered to whom such a peer calls, as something that may be declined.
    #[default]
    Accepted,
    /// The same, and it is offered to everybody, as something that may be declined (`a=crypto` under RTP/AVP).
    Offered,
    /// Nothing else is offered (RTP/SAVP) or accepted.
    Required,
}

/// Why a crypto line cannot be used. The others of its description may.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Not of the form of section 9.1.
    #[error("malformed a=crypto")]
    Malformed,
    /// A suite that we have not got.
    #[error("suite {0} is not supported")]
    Suite(String),
    /// A key method other than `inline:`.
    #[error("key method {0} is not supported")]
    Method(String),
    /// Several keys in one line (section 6.1).
    #[error("several keys in one line are not supported")]
    SeveralKeys,
    /// A key of another length than the suite's.
    #[error("key and salt of {bytes} bytes, {suite} has {wanted}")]
    KeyLength {
        /// What came.
        bytes: usize,
        /// The suite.
        suite: &'static str,
        /// What it wants.
        wanted: usize,
    },
    /// A lifetime of none, or of more than there can be.
    #[error("a key's lifetime of {0:?}")]
    Lifetime(String),
    /// A key identifier that is longer than we carry, or does not fit its own length.
    #[error("key identifier {0:?}")]
    Mki(String),
    /// A session parameter that changes what packets look like (section 6.3).
    #[error("session parameter {0} is not supported")]
    Parameter(String),
}

/// A line that can be used.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Crypto {
    /// What the answer names it by.
    pub tag: u32,
    #[serde(with = "suite_name")]
    suite: Suite,
    /// Key and salt, one behind the other.
    #[serde(with = "secret")]
    key: Vec<u8>,
    /// As packets carry it.
    mki: Vec<u8>,
}

/// Says all but the key.
impl fmt::Debug for Crypto {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Crypto {{ tag: {}, suite: {}, mki: {:02x?} }}", self.tag, self.suite.name(), self.mki)
    }
}

impl Crypto {
    /// Reads the value of `a=crypto`.
    pub fn read(value: &str) -> Result<Self, Unusable> {
        let mut words = value.split_whitespace();
        let (Some(tag), Some(suite), Some(keys)) = (words.next(), words.next(), words.next()) else {
            return Err(Unusable::Malformed);
        };
        let tag = Some(tag).filter(|tag| tag.len() <= 9).and_then(|tag| tag.parse().ok()).ok_or(Unusable::Malformed)?;
        let suite = Suite::from_name(suite).ok_or_else(|| Unusable::Suite(suite.to_owned()))?;
        if keys.contains(';') {
            return Err(Unusable::SeveralKeys);
        }
        let (method, info) = keys.split_once(':').ok_or(Unusable::Malformed)?;
        if !method.eq_ignore_ascii_case("inline") {
            return Err(Unusable::Method(method.to_owned()));
        }
        let mut parts = info.split('|');
        let key = LENIENT.decode(parts.next().unwrap_or_default()).map_err(|_| Unusable::Malformed)?;
        let wanted = suite.key_bytes() + suite.salt_bytes();
        if key.len() != wanted {
            return Err(Unusable::KeyLength { bytes: key.len(), suite: suite.name(), wanted });
        }
        let mut mki = Vec::new();
        let (first, second, third) = (parts.next(), parts.next(), parts.next());
        // Either may be left out; a colon tells them apart.
        let (lifetime, identifier) = match (first, second) {
            (Some(first), None) if first.contains(':') => (None, Some(first)),
            both => both,
        };
        if third.is_some() {
            return Err(Unusable::Malformed);
        }
        if let Some(lifetime) = lifetime {
            check_lifetime(lifetime)?;
        }
        if let Some(identifier) = identifier {
            mki = read_mki(identifier)?;
        }
        words.try_for_each(check_parameter)?;
        Ok(Self { tag, suite, key, mki })
    }

    /// The suite.
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// Whether it is the same key, whatever the line calls it.
    pub fn is_same_key(&self, other: &Self) -> bool {
        (self.suite, &self.key, &self.mki) == (other.suite, &other.key, &other.mki)
    }

    /// Whether both protect with the same bits.
    pub fn shares_secret(&self, other: &Self) -> bool {
        self.key == other.key
    }

    /// The value of our own `a=crypto`.
    pub fn write(&self) -> String {
        format!("{} {} inline:{}", self.tag, self.suite.name(), STANDARD.encode(&self.key))
    }

    /// What the dataplane needs; none if this came damaged from a snapshot.
    pub fn master(&self, serial: u32) -> Option<MasterKey> {
        MasterKey::new(serial, self.suite, &self.key, Mki::new(&self.mki)?)
    }
}

/// `2^31`, or the number itself.
fn check_lifetime(text: &str) -> Result<(), Unusable> {
    let packets = match text.split_once('^') {
        Some(("2", power)) => {
            power.parse().ok().and_then(|power| 1u64.checked_shl(power)).filter(|&packets| packets > 0)
        }
        Some(_) => None,
        None => text.parse().ok(),
    };
    let sound = packets.is_some_and(|packets| (1..=LIFETIME_PACKETS_MAX).contains(&packets));
    sound.then_some(()).ok_or_else(|| Unusable::Lifetime(text.to_owned()))
}

/// `1:4`: the value, and in how many bytes packets carry it.
fn read_mki(text: &str) -> Result<Vec<u8>, Unusable> {
    let wrong = || Unusable::Mki(text.to_owned());
    let (value, bytes) = text.split_once(':').ok_or_else(wrong)?;
    let (value, bytes): (u128, usize) = (value.parse().map_err(|_| wrong())?, bytes.parse().map_err(|_| wrong())?);
    if !(1..=MKI_BYTES_MAX).contains(&bytes) {
        return Err(wrong());
    }
    let all = value.to_be_bytes();
    let (above, mki) = all.split_at(all.len() - bytes);
    if above.iter().any(|&byte| byte != 0) { Err(wrong()) } else { Ok(mki.to_vec()) }
}
const _: () = assert!(MKI_BYTES_MAX == size_of::<u128>());

/// Section 6.3. A hint about the window means nothing to us; what begins with a dash may be passed over.
fn check_parameter(word: &str) -> Result<(), Unusable> {
    let (name, value) = word.split_once('=').map_or((word, None), |(name, value)| (name, Some(value)));
    let is_harmless = match name.to_ascii_uppercase().as_str() {
        "WSH" => true,
        "KDR" => value == Some("0"),
        _ => word.starts_with('-'),
    };
    is_harmless.then_some(()).ok_or_else(|| Unusable::Parameter(name.to_owned()))
}

/// Where a stream's own keys come from.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seed(#[serde(with = "secret")] Vec<u8>);

/// Says nothing.
impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed")
    }
}

impl Seed {
    /// Of the system's random numbers.
    pub fn new(random: [u8; 32]) -> Self {
        Self(random.to_vec())
    }

    /// Whether there is one: without it nothing can be offered.
    pub fn is_there(&self) -> bool {
        self.0.len() == 32
    }

    /// Our key of a serial. Two digests of a secret of 256 bits and a number that is used once: each other key is as good as
    /// drawn anew.
    pub fn key(&self, tag: u32, suite: Suite, serial: u32) -> Crypto {
        let half = |which: u8| {
            let mut digest = Sha256::new();
            digest.update(b"nebula a=crypto");
            digest.update(&self.0);
            digest.update(serial.to_be_bytes());
            digest.update([which]);
            digest.finalize()
        };
        let mut key = [half(0), half(1)].concat();
        key.truncate(suite.key_bytes() + suite.salt_bytes());
        Crypto { tag, suite, key, mki: Vec::new() }
    }
}

mod suite_name {
    use super::Suite;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(suite: &Suite, to: S) -> Result<S::Ok, S::Error> {
        suite.name().serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Suite, D::Error> {
        let name = String::deserialize(from)?;
        Suite::from_name(&name).ok_or_else(|| D::Error::custom(format!("suite {name:?}")))
    }
}

mod secret {
    use super::{Engine, STANDARD};
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        STANDARD.encode(bytes).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        STANDARD.decode(String::deserialize(from)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";

    fn read(rest: &str) -> Result<Crypto, Unusable> {
        Crypto::read(&format!("1 AES_CM_128_HMAC_SHA1_80 {rest}"))
    }

    #[test]
    fn the_examples_of_the_rfc_are_read() {
        let crypto = read(&format!("{KEY}|2^20|1:4")).unwrap();
        assert_eq!(
            (crypto.tag, crypto.suite, crypto.mki.as_slice()),
            (1, Suite::AesCm128HmacSha1_80, &[0, 0, 0, 1][..])
        );
        assert_eq!(crypto.master(3).unwrap().key(), b"YS___semctl () {");
        for rest in ["|2^31", "|1048576", "|66:2", "|2^48", "|2^31|1:1", " WSH=64", " KDR=0", " -whatever"] {
            assert!(read(&format!("{KEY}{rest}")).is_ok(), "{rest}");
        }
        assert!(Crypto::read(&format!("1 aes_cm_128_hmac_sha1_32 INLINE:{}", &KEY[7..])).is_ok());
        let ours = Crypto::read(&crypto.write()).unwrap();
        assert_eq!((ours.key, ours.mki.len()), (crypto.key, 0));
    }

    #[test]
    fn what_cannot_be_used_is_refused_by_name() {
        use Unusable::{Lifetime, Malformed, Method, Parameter, SeveralKeys};
        for (rest, error) in [
            (String::new(), Malformed),
            ("inline".into(), Malformed),
            ("inline:*".into(), Malformed),
            (format!("{KEY}|2^20|1:4|5"), Malformed),
            ("sdp:abc".into(), Method("sdp".into())),
            (format!("{KEY};{KEY}"), SeveralKeys),
            (format!("{KEY}|2^49"), Lifetime("2^49".into())),
            (format!("{KEY}|2^999"), Lifetime("2^999".into())),
            (format!("{KEY}|0"), Lifetime("0".into())),
            (format!("{KEY}|1:17"), Unusable::Mki("1:17".into())),
            (format!("{KEY}|256:1"), Unusable::Mki("256:1".into())),
            (format!("{KEY} UNENCRYPTED_SRTP"), Parameter("UNENCRYPTED_SRTP".into())),
            (format!("{KEY} UNENCRYPTED_SRTCP"), Parameter("UNENCRYPTED_SRTCP".into())),
            (format!("{KEY} unauthenticated_srtp"), Parameter("unauthenticated_srtp".into())),
            (format!("{KEY} KDR=4"), Parameter("KDR".into())),
            (format!("{KEY} FEC_ORDER=FEC_SRTP"), Parameter("FEC_ORDER".into())),
        ] {
            assert_eq!(read(&rest).unwrap_err(), error, "{rest}");
        }
        assert_eq!(
            Crypto::read(&format!("1 AEAD_AES_128_GCM {KEY}")).unwrap_err(),
            Unusable::KeyLength { bytes: 30, suite: "AEAD_AES_128_GCM", wanted: 28 }
        );
        assert_eq!(
            Crypto::read(&format!("1 F8_128_HMAC_SHA1_80 {KEY}")).unwrap_err(),
            Unusable::Suite("F8_128_HMAC_SHA1_80".into())
        );
        assert_eq!(Crypto::read(&format!("1234567890 AES_CM_128_HMAC_SHA1_80 {KEY}")).unwrap_err(), Malformed);
    }

    #[test]
    fn our_keys_differ_by_serial_and_are_the_same_after_a_restart() {
        let seed = Seed::new([7; 32]);
        let again: Seed = serde_json::from_str(&serde_json::to_string(&seed).unwrap()).unwrap();
        let all: Vec<_> = (1..100).map(|serial| seed.key(1, Suite::AeadAes256Gcm, serial)).collect();
        for (serial, key) in (1..).zip(&all) {
            assert!(again.key(1, Suite::AeadAes256Gcm, serial).is_same_key(key));
            assert_eq!(all.iter().filter(|other| other.shares_secret(key)).count(), 1);
        }
        assert!(!format!("{seed:?} {:?}", all[0]).contains("inline"));
    }
}
