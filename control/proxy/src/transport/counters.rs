//! The transports' metrics, looked up once: counting a message is an atomic add.

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use nebula_sip::Protocol;

const DESCRIPTIONS: [(&str, &str); 8] = [
    ("nebula_proxy_messages_received_total", "SIP messages received, by transport"),
    ("nebula_proxy_messages_sent_total", "SIP messages sent, by transport"),
    ("nebula_proxy_messages_dropped_total", "datagrams lost because the edge was behind or the kernel refused them"),
    ("nebula_proxy_messages_malformed_total", "SIP messages that do not parse, by what is wrong"),
    ("nebula_proxy_keepalives_total", "what only keeps NAT bindings alive"),
    ("nebula_proxy_tcp_refused_total", "connections closed at once because there were too many"),
    ("nebula_proxy_tcp_accept_failed_total", "connections that could not be accepted"),
    ("nebula_proxy_tcp_closed_total", "connections closed by us, by reason"),
];

/// Handles of all counters.
pub struct Counters {
    received: [Counter; 2],
    sent: [Counter; 2],
    /// Datagrams and stream bytes that only keep NAT bindings alive.
    pub keepalives: Counter,
    /// Datagrams lost because the edge was behind.
    pub dropped_overload: Counter,
    /// Datagrams the kernel had no room for or refused.
    pub dropped_send: Counter,
    /// Open TCP connections.
    pub connections: Gauge,
    /// Connections that could not be accepted.
    pub accept_failed: Counter,
    /// Connections accepted and closed at once because there were too many.
    pub connections_refused: Counter,
}

impl Counters {
    pub fn new() -> Self {
        DESCRIPTIONS.into_iter().for_each(|(name, text)| describe_counter!(name, text));
        describe_gauge!("nebula_proxy_tcp_connections", "open TCP connections");
        let by_protocol = |name: &'static str| {
            [Protocol::Udp, Protocol::Tcp].map(|protocol| counter!(name, "transport" => protocol.uri_name()))
        };
        Self {
            received: by_protocol("nebula_proxy_messages_received_total"),
            sent: by_protocol("nebula_proxy_messages_sent_total"),
            keepalives: counter!("nebula_proxy_keepalives_total"),
            dropped_overload: counter!("nebula_proxy_messages_dropped_total", "reason" => "overload"),
            dropped_send: counter!("nebula_proxy_messages_dropped_total", "reason" => "send"),
            connections: gauge!("nebula_proxy_tcp_connections"),
            accept_failed: counter!("nebula_proxy_tcp_accept_failed_total"),
            connections_refused: counter!("nebula_proxy_tcp_refused_total"),
        }
    }

    pub fn received(&self, protocol: Protocol) {
        self.received[protocol as usize].increment(1);
    }

    pub fn sent(&self, protocol: Protocol) {
        self.sent[protocol as usize].increment(1);
    }

    /// By [`ParseError::kind`](nebula_sip::message::ParseError::kind), a fixed set of words.
    pub fn malformed(&self, kind: &'static str) {
        counter!("nebula_proxy_messages_malformed_total", "kind" => kind).increment(1);
    }

    pub fn closed(&self, reason: &'static str) {
        counter!("nebula_proxy_tcp_closed_total", "reason" => reason).increment(1);
    }
}
