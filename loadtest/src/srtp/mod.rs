//! SRTP of the phones, with its keys by `a=crypto`. What protects and what authenticates is `webrtc-srtp`, which shares no line with
//! the product.
//!
//! - `sdes`: a phone's side of the exchange of keys (RFC 4568).
//! - `secure`: packets of a session, out and in; called by its media thread for each of them.
//! - `indices`: which indices of a source have come, so that none comes twice unseen.

mod indices;
mod sdes;
mod secure;

pub use sdes::{Exchange, Master, Step, Terms};
pub use secure::{Bad, Secure};

use std::str::FromStr;
use webrtc_srtp::protection_profile::ProtectionProfile;

/// How a phone protects its media: RFC 4568 section 6.2, RFC 6188 and RFC 7714.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// AES-CM with keys of 128 bits, tags of 80.
    AesCm128Tag80,
    /// Tags of 32 bits.
    AesCm128Tag32,
    /// Keys of 256 bits, tags of 80.
    AesCm256Tag80,
    /// Tags of 32 bits.
    AesCm256Tag32,
    /// AES-GCM with keys of 128 bits.
    Gcm128,
    /// Keys of 256 bits.
    Gcm256,
}

const SUITES: [(&str, Suite, ProtectionProfile); 6] = [
    ("AES_CM_128_HMAC_SHA1_80", Suite::AesCm128Tag80, ProtectionProfile::Aes128CmHmacSha1_80),
    ("AES_CM_128_HMAC_SHA1_32", Suite::AesCm128Tag32, ProtectionProfile::Aes128CmHmacSha1_32),
    ("AES_256_CM_HMAC_SHA1_80", Suite::AesCm256Tag80, ProtectionProfile::Aes256CmHmacSha1_80),
    ("AES_256_CM_HMAC_SHA1_32", Suite::AesCm256Tag32, ProtectionProfile::Aes256CmHmacSha1_32),
    ("AEAD_AES_128_GCM", Suite::Gcm128, ProtectionProfile::AeadAes128Gcm),
    ("AEAD_AES_256_GCM", Suite::Gcm256, ProtectionProfile::AeadAes256Gcm),
];

impl Suite {
    /// As `a=crypto` names it.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    fn profile(self) -> ProtectionProfile {
        self.row().2
    }

    fn row(self) -> &'static (&'static str, Suite, ProtectionProfile) {
        &SUITES[self as usize]
    }

    fn named(name: &str) -> Option<Self> {
        SUITES.iter().find(|row| row.0 == name).map(|row| row.1)
    }
}

/// What `--srtp` says: the suites of the caller and of the called phone; one that has none speaks RTP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Choice {
    /// Of the phone that calls.
    pub caller: Option<Suite>,
    /// Of the phone that is called.
    pub callee: Option<Suite>,
}

/// In place of a suite: none.
const OFF: &str = "off";

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = || SUITES.map(|row| row.0).join(", ");
        let read = |name: &str| match Suite::named(name) {
            Some(suite) => Ok(Some(suite)),
            None if name == OFF => Ok(None),
            None => Err(format!("{name:?} is no suite; known are {}, and {OFF}", known())),
        };
        let (caller, callee) = text.split_once(',').unwrap_or((text, text));
        Ok(Self { caller: read(caller)?, callee: read(callee)? })
    }
}

/// As it is told.
impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [caller, callee] = [self.caller, self.callee].map(|suite| suite.map_or(OFF, Suite::name));
        write!(f, "{caller},{callee}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_phone_has_its_suite_or_none() {
        for (name, suite, _) in SUITES {
            assert_eq!((suite.name(), Suite::named(name)), (name, Some(suite)));
        }
        let both = Choice { caller: Some(Suite::Gcm128), callee: Some(Suite::Gcm128) };
        assert_eq!("AEAD_AES_128_GCM".parse(), Ok(both));
        let caller = Choice { caller: Some(Suite::AesCm256Tag80), callee: None };
        assert_eq!("AES_256_CM_HMAC_SHA1_80,off".parse(), Ok(caller));
        assert_eq!(caller.to_string().parse(), Ok(caller));
        for text in ["", "AES", "off,", "AEAD_AES_128_GCM,off,off"] {
            assert!(text.parse::<Choice>().is_err(), "{text:?}");
        }
    }
}
