//! What an operator may set about the SIP edge. Every key has its unit in its name or type, a default and a range.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nebula_sip::digest::Algorithm;
use nebula_sip::session_timer::{MIN_SE_FLOOR_S, Policy};
use nebula_sip::timers::Base;
use serde::{Deserialize, Serialize};

use crate::channel::Timing;
use crate::transport;

/// The SIP edge's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// Local addresses to listen on; an unspecified one means all of its family.
    pub listen: Vec<IpAddr>,
    /// The port, UDP and TCP alike; 0 takes one that is free for both.
    pub port: u16,
    /// Whether to listen on TCP, too.
    pub tcp: bool,
    /// The address that phones are told (Contact, Via), with our port; none tells each the address it is reached from.
    pub advertised_address: Option<IpAddr>,
    /// The digest realm.
    pub realm: String,
    /// The digest algorithms that are offered, the preferred one first (RFC 8760 section 2.4); at least one. MD5 alone by
    /// default: many phones read only the first challenge (SIPp), or give up when any is not MD5 (baresip 1.0).
    pub digest_algorithms: Vec<DigestAlgorithm>,
    /// The shortest registration, seconds; a shorter wish is answered 423.
    pub register_expires_min_s: u32,
    /// The longest registration, seconds; a longer wish is cut.
    pub register_expires_max_s: u32,
    /// The registration when the phone names none, seconds.
    pub register_expires_default_s: u32,
    /// Bindings of one extension; more are refused with 403.
    pub bindings_max: u32,
    /// How long a digest nonce may be used, seconds.
    pub nonce_lifetime_s: u32,
    /// The session interval we ask for (RFC 4028), seconds; 0 asks for none.
    pub session_expires_s: u32,
    /// The shortest session interval we accept, seconds, at least 90.
    pub session_expires_min_s: u32,
    /// From INVITE to its final response, seconds. A safety net above the switchboard's no-answer time.
    pub setup_timeout_s: u32,
    /// From a phone's re-INVITE or UPDATE to the switchboard's answer, milliseconds.
    pub change_timeout_ms: u32,
    /// From a report to the switchboard to its reply, milliseconds; then it is sent again.
    pub rpc_timeout_ms: u32,
    /// From an INVITE to the switchboard's word that it has the call, milliseconds, with retries; then the caller gets 503.
    /// A look-up in the store may take as long.
    pub invite_timeout_ms: u32,
    /// How long an INVITE may wait for its switchboard before new ones are refused with 503, milliseconds; see
    /// `nebula_proxy_calls_refused_total{reason="late"}`.
    pub setup_delay_ms_max: u32,
    /// How long a leg lives whose switchboard is gone and that no other has taken over, seconds; then it is ended by BYE.
    pub orphan_timeout_s: u32,
    /// Retry-After of a 503, seconds.
    pub retry_after_s: u32,
    /// T1 of RFC 3261, milliseconds.
    pub t1_ms: u32,
    /// T2 of RFC 3261, milliseconds.
    pub t2_ms: u32,
    /// T4 of RFC 3261, milliseconds.
    pub t4_ms: u32,
    /// Channels (SIP legs) at once; above that new calls get 503.
    pub channels_max: u32,
    /// Transactions at once; above that new requests get 503.
    pub transactions_max: u32,
    /// Store look-ups under way at once; above that requests get 503.
    pub lookups_max: u32,
    /// How long a looked-up extension is used without asking again, milliseconds. A changed password or a new
    /// extension is seen after that at the latest.
    pub account_ttl_ms: u32,
    /// Looked-up extensions that are kept.
    pub accounts_max: u32,
    /// TCP connections at once.
    pub connections_max: u32,
    /// What may wait to be written to one TCP connection, KiB, here and in the kernel each; a reader that lets more gather
    /// is disconnected.
    pub tcp_write_buffer_kb: u32,
    /// How long a new TCP connection may take to its first whole message, seconds.
    pub tcp_first_message_s: u32,
    /// The numbers that the switchboard itself answers; other numbers that begin with a star get 404.
    pub service_numbers: Vec<String>,
    /// User-Agent and Server.
    pub product: String,
}

/// A digest algorithm (RFC 7616 section 6.1), as the configuration names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DigestAlgorithm {
    /// `"MD5"`.
    #[serde(rename = "MD5")]
    Md5,
    /// `"SHA-256"`.
    #[serde(rename = "SHA-256")]
    Sha256,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: vec![IpAddr::V4(Ipv4Addr::UNSPECIFIED)],
            port: 5060,
            tcp: true,
            advertised_address: None,
            realm: "nebula".to_owned(),
            digest_algorithms: vec![DigestAlgorithm::Md5],
            register_expires_min_s: 60,
            register_expires_max_s: 7200,
            register_expires_default_s: 3600,
            bindings_max: 10,
            nonce_lifetime_s: 300,
            session_expires_s: 1800,
            session_expires_min_s: MIN_SE_FLOOR_S,
            setup_timeout_s: 190,
            change_timeout_ms: 10_000,
            rpc_timeout_ms: 5_000,
            invite_timeout_ms: 900,
            setup_delay_ms_max: 300,
            orphan_timeout_s: 60,
            retry_after_s: 5,
            t1_ms: 500,
            t2_ms: 4_000,
            t4_ms: 5_000,
            channels_max: 20_000,
            transactions_max: 200_000,
            lookups_max: 1_000,
            account_ttl_ms: 2_000,
            accounts_max: 10_000,
            connections_max: 10_000,
            tcp_write_buffer_kb: 256,
            tcp_first_message_s: 30,
            service_numbers: vec!["*43".to_owned()],
            product: concat!("Nebula/", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }
}

/// A value out of its range.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("sip.{key} = {value} is out of range: {right}")]
pub struct OutOfRange {
    /// The key.
    pub key: &'static str,
    /// What it was set to.
    pub value: String,
    /// What would be right.
    pub right: String,
}

impl Options {
    /// Checks every value against its range.
    pub fn check(&self) -> Result<(), OutOfRange> {
        for (key, value, min, max) in [
            ("register_expires_min_s", self.register_expires_min_s, 1, self.register_expires_max_s),
            ("register_expires_max_s", self.register_expires_max_s, self.register_expires_min_s, 604_800),
            (
                "register_expires_default_s",
                self.register_expires_default_s,
                self.register_expires_min_s,
                self.register_expires_max_s,
            ),
            ("bindings_max", self.bindings_max, 1, 100),
            ("nonce_lifetime_s", self.nonce_lifetime_s, 1, 86_400),
            ("session_expires_s", self.session_expires_s, 0, 86_400),
            ("session_expires_min_s", self.session_expires_min_s, MIN_SE_FLOOR_S, 86_400),
            ("setup_timeout_s", self.setup_timeout_s, 1, 3_600),
            ("change_timeout_ms", self.change_timeout_ms, 100, 30_000),
            ("rpc_timeout_ms", self.rpc_timeout_ms, 100, 30_000),
            ("invite_timeout_ms", self.invite_timeout_ms, 50, 30_000),
            ("setup_delay_ms_max", self.setup_delay_ms_max, 10, 30_000),
            ("orphan_timeout_s", self.orphan_timeout_s, 1, 86_400),
            ("tcp_write_buffer_kb", self.tcp_write_buffer_kb, 64, 65_536),
            ("tcp_first_message_s", self.tcp_first_message_s, 1, 3_600),
            ("retry_after_s", self.retry_after_s, 1, 3_600),
            ("t1_ms", self.t1_ms, 10, 10_000),
            ("t2_ms", self.t2_ms, self.t1_ms, 60_000),
            ("t4_ms", self.t4_ms, 10, 60_000),
            ("channels_max", self.channels_max, 1, 10_000_000),
            ("transactions_max", self.transactions_max, 1, 10_000_000),
            ("lookups_max", self.lookups_max, 1, 100_000),
            ("account_ttl_ms", self.account_ttl_ms, 1, 60_000),
            ("accounts_max", self.accounts_max, 1, 10_000_000),
            ("connections_max", self.connections_max, 1, 1_000_000),
        ] {
            if !(min..=max).contains(&value) {
                return Err(OutOfRange { key, value: value.to_string(), right: format!("{min} to {max}") });
            }
        }
        // A realm stands in quotes in every challenge.
        let is_quotable = !self.realm.is_empty() && !self.realm.contains(['"', '\\', '\r', '\n']);
        let none: [&str; 0] = [];
        for (key, is_right, value, right) in [
            ("realm", is_quotable, format!("{:?}", self.realm), "text without quotes, backslashes and line breaks"),
            (
                "digest_algorithms",
                !self.digest_algorithms.is_empty(),
                format!("{none:?}"),
                "at least one of MD5, SHA-256",
            ),
            ("listen", !self.listen.is_empty(), format!("{none:?}"), "at least one address"),
        ] {
            if !is_right {
                return Err(OutOfRange { key, value, right: right.to_owned() });
            }
        }
        Ok(())
    }

    /// What the transports get.
    pub(crate) fn transport(&self) -> transport::Options {
        transport::Options {
            addresses: self.listen.clone(),
            port: self.port,
            tcp: self.tcp,
            tcp_connections_max: self.connections_max as usize,
            // A phone without keepalive is heard of once per registration.
            tcp_idle_timeout: Duration::from_secs(u64::from(self.register_expires_max_s) + 300),
            tcp_first_message_timeout: Duration::from_secs(self.tcp_first_message_s.into()),
            tcp_write_buffer_bytes: self.tcp_write_buffer_kb as usize * 1024,
            ..transport::Options::default()
        }
    }

    /// The digest algorithms, as the SIP crate knows them.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let known = |a: &DigestAlgorithm| match a {
            DigestAlgorithm::Md5 => Algorithm::Md5,
            DigestAlgorithm::Sha256 => Algorithm::Sha256,
        };
        self.digest_algorithms.iter().map(known).collect()
    }

    /// The base timers. 100 Trying goes out after 200 ms (RFC 3261 17.2.1), not at once: it ends the caller's repeating, and
    /// a leg must have been kept by then, or nobody would answer the caller if we died in between.
    pub(crate) fn base(&self) -> Base {
        let ms = |ms: u32| Duration::from_millis(ms.into());
        Base { t1: ms(self.t1_ms), t2: ms(self.t2_ms), t4: ms(self.t4_ms), ..Base::default() }
    }

    /// A channel's clocks.
    pub(crate) fn timing(&self) -> Timing {
        Timing {
            base: self.base(),
            setup: Duration::from_secs(self.setup_timeout_s.into()),
            change: Duration::from_millis(self.change_timeout_ms.into()),
        }
    }

    /// The session timer's policy.
    pub(crate) fn session(&self) -> Policy {
        Policy { interval_s: self.session_expires_s, min_se_s: self.session_expires_min_s }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_ranges_are_checked() {
        assert_eq!(Options::default().check(), Ok(()));
        let wrong = Options { session_expires_min_s: 30, ..Options::default() };
        assert_eq!(
            wrong.check().unwrap_err().to_string(),
            "sip.session_expires_min_s = 30 is out of range: 90 to 86400"
        );
        let crossed = Options { register_expires_min_s: 9000, ..Options::default() };
        assert!(crossed.check().is_err());
    }
}
