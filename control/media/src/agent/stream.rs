//! One stream as the agent knows it, and what the dataplane should know of it.

use super::Owner;
use crate::nat;
use crate::offer_answer::Exchange;
use crate::options::Options;
use crate::placement::PortPair;
use nebula_ring::command::{StreamConfig, StreamId};
use std::net::IpAddr;

#[derive(Debug)]
pub(super) struct Stream {
    pub(super) owner: Owner,
    pub(super) place: Place,
    pub(super) exchange: Exchange,
    /// Where its SIP came from.
    pub(super) source: Option<IpAddr>,
    pub(super) partner: Option<StreamId>,
    /// As the dataplane was last told.
    pub(super) config: StreamConfig,
    /// It may not have taken it: it is to be told again.
    pub(super) in_doubt: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Alive { worker: usize, ports: PortPair },
    Lost { since_ms: u64 },
}

impl Place {
    pub(super) fn lose(&mut self, now_ms: u64) {
        if let Place::Alive { .. } = self {
            *self = Place::Lost { since_ms: now_ms };
        }
    }
}

impl Stream {
    pub(super) fn worker(&self) -> Option<usize> {
        match self.place {
            Place::Alive { worker, .. } => Some(worker),
            Place::Lost { .. } => None,
        }
    }

    /// `reachable` is false if what is sent to the peer would come back to us for ever: then it is sent nowhere.
    pub(super) fn wanted_config(&self, options: &Options, partner: Option<&Exchange>, reachable: bool) -> StreamConfig {
        let (remote_rtp, remote_rtcp) = if reachable { self.exchange.remote_addresses() } else { (None, None) };
        let direction = self.exchange.direction();
        let ports = PortPair::of(self.config.rtp_port);
        StreamConfig {
            remote_rtp,
            remote_rtcp,
            rtcp_port: if self.exchange.is_muxed() { ports.rtp() } else { ports.rtcp() },
            nat_expected: reachable
                && nat::is_expected(options.nat, self.config.local_ip, remote_rtp.map(|to| to.ip()), self.source),
            receive: direction.recv,
            send: direction.send,
            // Who does not want to hear us may well be silent himself, whatever his direction says.
            rtp_timeout_ms: if self.exchange.is_held() { 0 } else { options.rtp_timeout_s.saturating_mul(1000) },
            payload_types: self.exchange.payload_types(partner),
            ..self.config.clone()
        }
    }
}
