//! One stream as the agent knows it, and what the dataplane should know of it.

use super::Owner;
use crate::nat;
use crate::offer_answer::Exchange;
use crate::options::Options;
use crate::placement::PortPair;
use nebula_ring::command::{StreamConfig, StreamId};
use nebula_ring::table::StreamRecord;
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
    /// Updates that it has not answered yet.
    pub(super) unanswered: u32,
    /// The highest fence of those who commanded it.
    pub(super) fence: u64,
    /// Whether anybody has asked for it since this agent started.
    pub(super) claimed: bool,
    /// What a dataplane that is gone, or may be gone before the next look, had last shown.
    pub(super) base: Option<Box<Base>>,
}

/// A stream's record, to go on from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Base {
    pub(super) record: StreamRecord,
    /// When it was read, CLOCK_MONOTONIC; none if it is the last word of a dataplane that is dead.
    pub(super) read_at_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It flows.
    Alive { worker: usize, ports: PortPair },
    /// It is being made again in another dataplane.
    Returning { worker: usize, ports: PortPair },
    /// Its dataplane is gone, and there is no other yet.
    Waiting { since_ms: u64 },
    /// It could not be made again.
    Failed { since_ms: u64 },
}

impl Stream {
    /// Where it flows.
    pub(super) fn worker(&self) -> Option<usize> {
        match self.place {
            Place::Alive { worker, .. } => Some(worker),
            Place::Returning { .. } | Place::Waiting { .. } | Place::Failed { .. } => None,
        }
    }

    /// Where there may be something of it: where it flows, or soon will.
    pub(super) fn seat(&self) -> Option<(usize, PortPair)> {
        match self.place {
            Place::Alive { worker, ports } | Place::Returning { worker, ports } => Some((worker, ports)),
            Place::Waiting { .. } | Place::Failed { .. } => None,
        }
    }

    /// Whether it could not be made again.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.place, Place::Failed { .. })
    }

    /// Its dataplane is gone.
    pub(super) fn lose(&mut self, now_ms: u64) {
        self.in_doubt |= self.unanswered > 0;
        self.unanswered = 0;
        if let Place::Alive { .. } | Place::Returning { .. } = self.place {
            self.place = Place::Waiting { since_ms: now_ms };
        }
    }

    /// Keeps a look at it.
    pub(super) fn seen(&mut self, record: &StreamRecord, read_at_ms: Option<u64>) {
        self.base = Some(Box::new(Base { record: *record, read_at_ms }));
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
            learn_from: nat::learn_from(self.config.local_ip, self.source),
            receive: direction.recv,
            send: direction.send,
            // Who does not want to hear us may well be silent himself, whatever his direction says.
            rtp_timeout_ms: if self.exchange.is_held() { 0 } else { options.rtp_timeout_s.saturating_mul(1000) },
            srtp: self.exchange.srtp(),
            payload_types: self.exchange.payload_types(partner),
            ..self.config.clone()
        }
    }
}
