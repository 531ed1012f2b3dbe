//! What an operator may set about the media agent. Every key has its unit in its name or type, a default and a range.

use crate::offer_answer::crypto::Policy;
use nebula_ring::srtp::Suite;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;
use std::path::PathBuf;

/// The media agent's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Where RTP is received; none (or `0.0.0.0`, `::`) takes, for each stream, the address that its peer is reached from.
    pub local_ip: Option<IpAddr>,
    /// The address that peers are told, if they reach us by another one (port forwarding, a cloud's public address). Not
    /// told to peers on this host.
    pub advertised_ip: Option<IpAddr>,
    /// The first RTP port; an odd one is rounded up.
    pub rtp_port_min: u16,
    /// The last port, RTCP's included.
    pub rtp_port_max: u16,
    /// Silence after which a stream is reported dead, seconds; 0 never does. Held streams are not counted.
    pub rtp_timeout_s: u32,
    /// How long after its address became known (or changed) a peer behind NAT may show its real one, milliseconds.
    pub learning_window_ms: u32,
    /// How often a peer that has fallen silent may be found again at another port of its address without a re-INVITE (its NAT
    /// has forgotten it): not more than once in so long, milliseconds; 0 never.
    pub relatch_interval_ms: u32,
    /// Which peers may be behind NAT.
    pub nat: Nat,
    /// Whether media is protected: `off`, `accepted` (who offers it gets it), `offered` (to everybody, and may be declined),
    /// `required`.
    pub srtp: Policy,
    /// The crypto suites that may be used, by their names in SDP, in order of preference.
    pub srtp_suites: Vec<String>,
    /// The dataplane's attach socket.
    pub dataplane_socket: PathBuf,
    /// From a command to the dataplane to its answer, milliseconds.
    pub command_timeout_ms: u32,
    /// How long a stream that no switchboard has asked for since the agent started may be silent before it is closed,
    /// seconds.
    pub unclaimed_silence_s: u32,
}

/// When a peer's packets may come from another address than its SDP says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Nat {
    /// When its SDP and its SIP come from different addresses.
    #[default]
    Auto,
    /// Every peer's.
    Always,
    /// No peer's: what comes from elsewhere is dropped.
    Never,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            local_ip: None,
            advertised_ip: None,
            rtp_port_min: 10_000,
            rtp_port_max: 19_999,
            rtp_timeout_s: 60,
            learning_window_ms: 5_000,
            relatch_interval_ms: 0,
            nat: Nat::Auto,
            srtp: Policy::Accepted,
            srtp_suites: SUITES.map(|suite| suite.name().to_owned()).to_vec(),
            dataplane_socket: "/run/nebula/dataplane.sock".into(),
            command_timeout_ms: 2_000,
            unclaimed_silence_s: 300,
        }
    }
}

/// The suites in our own order: AEAD before the others because it is one pass, 128 bits first because that is what everybody
/// has and nobody breaks, tags of 32 bits last.
const SUITES: [Suite; 6] = [
    Suite::AeadAes128Gcm,
    Suite::AeadAes256Gcm,
    Suite::AesCm128HmacSha1_80,
    Suite::AesCm256HmacSha1_80,
    Suite::AesCm128HmacSha1_32,
    Suite::AesCm256HmacSha1_32,
];

impl Options {
    /// The configured suites, which `check` has found to be some.
    pub fn suites(&self) -> Vec<Suite> {
        self.srtp_suites.iter().filter_map(|name| Suite::from_name(name)).collect()
    }

    /// The first key that makes no sense, if any.
    pub fn check(&self) -> Result<(), Error> {
        let pairs = crate::placement::pairs_between(self.rtp_port_min, self.rtp_port_max).count();
        if self.rtp_port_min < 1024 || pairs < 2 {
            return Err(Error::Ports { min: self.rtp_port_min, max: self.rtp_port_max });
        }
        for (key, value, min, max) in [
            ("rtp_timeout_s", self.rtp_timeout_s, 0, 86_400),
            ("learning_window_ms", self.learning_window_ms, 0, 600_000),
            ("relatch_interval_ms", self.relatch_interval_ms, 0, 3_600_000),
            ("command_timeout_ms", self.command_timeout_ms, 1, 60_000),
            ("unclaimed_silence_s", self.unclaimed_silence_s, 1, 86_400),
        ] {
            if !(min..=max).contains(&value) {
                return Err(Error::OutOfRange { key, value, min, max });
            }
        }
        let unknown = self.srtp_suites.iter().find(|name| Suite::from_name(name).is_none());
        if unknown.is_some() || self.srtp_suites.is_empty() {
            return Err(Error::Suite { name: unknown.cloned() });
        }
        for (key, ip) in [("local_ip", self.local_ip), ("advertised_ip", self.advertised_ip)] {
            match ip {
                Some(ip) if ip.is_multicast() => return Err(Error::Address { key, ip }),
                Some(ip) if ip.is_unspecified() && key == "advertised_ip" => return Err(Error::Address { key, ip }),
                _ => {}
            }
        }
        Ok(())
    }
}

/// An option that makes no sense. Every message begins with its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No room for a call, or privileged ports.
    #[error("media.rtp_port_min = {min} with rtp_port_max = {max}: must be 1024 or more and hold two pairs of ports")]
    Ports {
        /// The lower end.
        min: u16,
        /// The upper end.
        max: u16,
    },
    /// Too little or too much.
    #[error("media.{key} = {value} is out of range: {min} to {max}")]
    OutOfRange {
        /// The option.
        key: &'static str,
        /// As it was set.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
    /// No suite at all, or one that there is not.
    #[error(
        "media.srtp_suites {}: must name some of {}",
        .name.as_ref().map_or("is empty".to_owned(), |name| format!("names {name:?}")),
        SUITES.map(Suite::name).join(", ")
    )]
    Suite {
        /// The one that is unknown.
        name: Option<String>,
    },
    /// Nothing that a phone could send to.
    #[error("media.{key} = {ip} is no address to receive media at")]
    Address {
        /// The option.
        key: &'static str,
        /// The address.
        ip: IpAddr,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_every_refusal_begins_with_its_key() {
        let good = Options::default();
        assert_eq!(good.check(), Ok(()));
        let multicast = Some(IpAddr::from([224, 0, 0, 1]));
        for (wrong, says) in [
            (Options { rtp_port_max: 10_001, ..good.clone() }, "media.rtp_port_min = 10000 "),
            (
                Options { command_timeout_ms: 0, ..good.clone() },
                "media.command_timeout_ms = 0 is out of range: 1 to 60000",
            ),
            (Options { unclaimed_silence_s: 0, ..good.clone() }, "media.unclaimed_silence_s = 0 "),
            (Options { local_ip: multicast, ..good.clone() }, "media.local_ip = 224.0.0.1 "),
            (
                Options { srtp_suites: vec!["AES".into()], ..good.clone() },
                "media.srtp_suites names \"AES\": must name some of AEAD_AES_128_GCM, ",
            ),
            (Options { srtp_suites: vec![], ..good.clone() }, "media.srtp_suites is empty: "),
            (Options { advertised_ip: Some([0; 4].into()), ..good.clone() }, "media.advertised_ip = 0.0.0.0 "),
        ] {
            let error = wrong.check().unwrap_err().to_string();
            assert!(error.starts_with(says), "{error:?} should begin with {says:?}");
        }
    }
}
