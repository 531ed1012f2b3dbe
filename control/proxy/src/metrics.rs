//! The edge's own metrics, looked up once: counting a message is an atomic add.

use std::collections::HashMap;

use bytes::Bytes;
use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use nebula_sip::Method;
use nebula_sip::message::ByteStr;

const DESCRIPTIONS: [(&str, &str); 11] = [
    ("nebula_proxy_requests_total", "SIP requests that came, repetitions included, by method"),
    ("nebula_proxy_responses_total", "SIP responses sent, repetitions included, by status"),
    ("nebula_proxy_rpc_failed_total", "requests to the switchboard that failed for good"),
    ("nebula_proxy_lookups_refused_total", "requests refused because too many look-ups were under way"),
    ("nebula_proxy_accounts_total", "look-ups of extensions, by where they were answered from"),
    (
        "nebula_proxy_calls_refused_total",
        "INVITEs refused because the edge drains, is full, late or short of descriptors",
    ),
    ("nebula_proxy_reports_retried_total", "reports to the switchboard that were to be sent again"),
    ("nebula_proxy_legs_orphaned_total", "legs ended because their switchboard was gone and none took them over"),
    ("nebula_proxy_legs_restored_total", "legs taken up from snapshots, by what became of them"),
    ("nebula_proxy_reports_dropped_total", "key presses and progress dropped because the switchboard was behind"),
    ("nebula_proxy_registrations_total", "REGISTERs that were carried out"),
];

/// Handles of all of them, and the product's name.
pub struct Metrics {
    /// For Server and User-Agent.
    pub product: ByteStr,
    /// SIP legs.
    pub channels: Gauge,
    /// Requests to the switchboard that failed for good.
    pub rpc_failed: Counter,
    /// Requests refused because too many look-ups were under way.
    pub lookups_refused: Counter,
    /// Extension look-ups answered from memory.
    pub accounts_hit: Counter,
    /// Extension look-ups that went to the store.
    pub accounts_missed: Counter,
    calls_refused: [Counter; REFUSALS.len()],
    /// Reports that were to be sent again.
    pub reports_retried: Counter,
    /// Legs ended because their switchboard was gone and none took them over.
    pub legs_orphaned: Counter,
    /// Key presses and provisional responses dropped because the switchboard was behind.
    pub reports_dropped: Counter,
    /// REGISTERs that were carried out.
    pub registrations: Counter,
    requests: HashMap<&'static str, Counter>,
    requests_other: Counter,
    responses: HashMap<u16, Counter>,
}

/// Why an INVITE is refused at the door.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The edge drains.
    Draining,
    /// There are as many legs as there may be.
    Full,
    /// INVITEs before it wait for too long.
    Late,
    /// The process has no file descriptor left.
    Descriptors,
}

const REFUSALS: [(Refused, &str); 4] = [
    (Refused::Draining, "draining"),
    (Refused::Full, "full"),
    (Refused::Late, "late"),
    (Refused::Descriptors, "descriptors"),
];

const METHODS: [&str; 9] = ["INVITE", "ACK", "BYE", "CANCEL", "REGISTER", "OPTIONS", "PRACK", "UPDATE", "INFO"];

impl Metrics {
    /// Install the recorder before, or nothing is counted.
    pub fn new(product: &str) -> Self {
        DESCRIPTIONS.into_iter().for_each(|(name, text)| describe_counter!(name, text));
        describe_gauge!("nebula_proxy_channels", "SIP legs");
        let count = |name| (name, counter!("nebula_proxy_requests_total", "method" => name));
        let requests = METHODS.into_iter().map(count).collect();
        Self {
            product: product.into(),
            channels: gauge!("nebula_proxy_channels"),
            rpc_failed: counter!("nebula_proxy_rpc_failed_total"),
            lookups_refused: counter!("nebula_proxy_lookups_refused_total"),
            accounts_hit: counter!("nebula_proxy_accounts_total", "from" => "memory"),
            accounts_missed: counter!("nebula_proxy_accounts_total", "from" => "store"),
            calls_refused: REFUSALS.map(|(_, word)| counter!("nebula_proxy_calls_refused_total", "reason" => word)),
            reports_retried: counter!("nebula_proxy_reports_retried_total"),
            legs_orphaned: counter!("nebula_proxy_legs_orphaned_total"),
            reports_dropped: counter!("nebula_proxy_reports_dropped_total"),
            registrations: counter!("nebula_proxy_registrations_total"),
            requests,
            requests_other: counter!("nebula_proxy_requests_total", "method" => "other"),
            responses: HashMap::new(),
        }
    }

    /// An INVITE was refused at the door.
    pub fn refused(&self, why: Refused) {
        self.calls_refused[why as usize].increment(1);
    }

    /// A leg was taken up from its snapshot.
    pub fn restored(&self, as_what: &'static str) {
        counter!("nebula_proxy_legs_restored_total", "as" => as_what).increment(1);
    }

    /// A request came, repetitions included.
    pub fn requested(&self, method: &Method) {
        self.requests.get(method.as_str()).unwrap_or(&self.requests_other).increment(1);
    }

    /// A message goes out: responses are counted by status, repetitions included.
    pub fn transmitted(&mut self, bytes: &Bytes) {
        let Some(code) = status(bytes) else { return };
        self.responses
            .entry(code)
            .or_insert_with(|| counter!("nebula_proxy_responses_total", "code" => code.to_string()))
            .increment(1);
    }
}

/// The status in the first line of a response of ours.
fn status(bytes: &[u8]) -> Option<u16> {
    let code = bytes.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    std::str::from_utf8(code).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_responses_have_a_status() {
        assert_eq!(status(b"SIP/2.0 487 Request Terminated\r\n"), Some(487));
        assert_eq!(status(b"BYE sip:a@b SIP/2.0\r\n"), None);
        assert_eq!(status(b"SIP/2.0 "), None);
    }
}
