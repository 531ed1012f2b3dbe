//! What every leg needs of the edge: transactions, transports, tokens, options, the way back into the actor.
//!
//! Owned by the actor, lent to whoever handles an input. Nothing here waits.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use nebula_bus::contract::InstanceId;
use nebula_bus::{Bus, Snapshots};
use nebula_sip::message::{ByteStr, Host};
use nebula_sip::transaction::{Layer, Output, Tokens, TransactionId};
use nebula_sip::{Flow, Name, NameAddr, Protocol, Request, Response, StatusCode, Uri};
use nebula_store::Store;
use tokio::sync::mpsc;

use super::Input;
use super::held::{Held, Message};
use super::housekeeping::NONCES_KEPT_MAX;
use super::legs::LegKey;
use super::secrets::{self, Clock, Secrets};
use super::setups::Setups;
use crate::admission::{ALLOW, Admission};
use crate::channel::Sent;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::transport::{SendError, Transports};

/// The extensions we know, as Supported says them.
pub const SUPPORTED: &str = "timer, 100rel";
/// The only body we take in a session.
pub const SDP_TYPE: &str = "application/sdp";
/// The user part of our Contact.
const CONTACT_USER: &str = "nebula";

/// Whose a transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// A leg's open request.
    Server(LegKey),
    /// A request of a leg.
    Client(LegKey, Sent),
}

/// The shared part of the actor.
pub struct Core {
    pub options: Arc<Options>,
    pub instance: InstanceId,
    pub bus: Bus,
    pub store: Store,
    pub transports: Transports,
    pub admission: Admission,
    pub layer: Layer,
    pub tokens: Tokens,
    pub owners: HashMap<TransactionId, Owner>,
    /// Results of spawned work come back here. Unbounded, but never fuller than the work that is under way, which is
    /// bounded: one request to the switchboard per leg, and the parked requests.
    pub inputs: mpsc::UnboundedSender<Input>,
    pub metrics: Metrics,
    /// INVITEs that wait for their switchboard.
    pub setups: Setups,
    /// Where legs outlive the process.
    pub snapshots: Snapshots,
    /// The time of nonces.
    pub clock: Clock,
    /// What leaves once its leg is kept.
    pub held: Held,
    /// When what is being handled came to its socket, or fell due.
    pub came_at: Instant,
}

impl Core {
    /// Keeps what the next process of this name must know from the start.
    pub fn keep_secrets(&self, secrets: &Secrets, now: Instant) {
        let nonces = secrets::encode_nonces(&self.admission.nonces().save(NONCES_KEPT_MAX));
        let values = [(secrets::KEY, secrets::encode(secrets, &self.clock, now)), (secrets::NONCES_KEY, nonces)];
        for (key, bytes) in values {
            if let Some(bytes) = bytes {
                self.snapshots.put(key, bytes);
            }
        }
    }

    /// Our address as the peer of this flow is told.
    pub fn advertised(&self, flow: &Flow) -> SocketAddr {
        match self.options.advertised_address {
            Some(ip) if ip.is_ipv4() == flow.remote.is_ipv4() => SocketAddr::new(ip, flow.local.port()),
            _ => flow.local,
        }
    }

    /// Our Contact on this flow.
    pub fn contact(&self, flow: &Flow) -> NameAddr {
        let ours = self.advertised(flow);
        let mut uri = Uri::sip(Some(CONTACT_USER), Host::from(ours.ip()), Some(ours.port()));
        if let (Uri::Sip(uri), Protocol::Tcp) = (&mut uri, flow.protocol) {
            uri.params.set("transport", Some(flow.protocol.uri_name()));
        }
        NameAddr::new(uri)
    }

    /// Answers a request that belongs to no leg. The response gets a To tag if it needs one, and Server.
    pub fn reply(&mut self, id: TransactionId, mut response: Response, now: Instant) {
        if response.status != StatusCode::TRYING {
            if response.headers.to().is_ok_and(|to| to.tag().is_none()) {
                let tag = self.tokens.token();
                // It was readable a line ago.
                let _ = response.headers.set_to_tag(&tag);
            }
            response.headers.push(Name::Server, self.product());
        }
        self.respond(id, &response, now);
    }

    /// Hands a response to its transaction. One that is gone (the peer gave up, or the connection did) needs none.
    pub fn respond(&mut self, id: TransactionId, response: &Response, now: Instant) {
        if response.status.is_final() {
            self.setups.end(id);
        }
        if let Err(error) = self.layer.respond(now, id, response) {
            tracing::debug!(%error, "response not sent");
        }
    }

    /// A response to a request outside of any leg.
    pub fn refuse(&mut self, id: TransactionId, request: &Request, status: StatusCode, now: Instant) {
        let mut response = Response::to(request, status);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers.push(Name::RetryAfter, self.options.retry_after_s.to_string());
        }
        if matches!(status, StatusCode::METHOD_NOT_ALLOWED | StatusCode::NOT_IMPLEMENTED) {
            response.headers.push(Name::Allow, ByteStr::from_static(ALLOW));
        }
        self.reply(id, response, now);
    }

    /// The product's name and version, for Server and User-Agent.
    pub fn product(&self) -> ByteStr {
        self.metrics.product.clone()
    }

    /// Sends what the layer wants sent, at once or as soon as its leg is kept.
    pub fn transmit(&mut self, flow: Flow, bytes: bytes::Bytes, id: Option<TransactionId>, now: Instant) {
        if let Some(message) = self.held.hold(Message { flow, bytes, id }) {
            self.send(message, now);
        }
    }

    /// Sends all that waited for snapshots which are written now.
    pub fn release(&mut self, end: u64, now: Instant) {
        while let Some(message) = self.held.release(end) {
            self.send(message, now);
        }
    }

    /// A connection that is gone is made anew once, towards the same peer.
    fn send(&mut self, Message { flow, bytes, id }: Message, now: Instant) {
        self.metrics.transmitted(&bytes);
        let sent = match self.transports.send(&flow, bytes.clone()) {
            Err(SendError::ConnectionGone) if flow.connection != 0 => {
                self.transports.send(&Flow { connection: 0, ..flow }, bytes)
            }
            sent => sent,
        };
        if let Err(error) = sent {
            tracing::debug!(%flow, %error, "not sent");
            if let Some(id) = id {
                self.layer.transport_failed(now, id);
            }
        }
    }

    /// Sends all that the layer wants sent and returns the first output that is for the transaction user.
    pub fn next_output(&mut self, now: Instant) -> Option<Output> {
        loop {
            match self.layer.poll_output()? {
                Output::Transmit { flow, bytes, id } => self.transmit(flow, bytes, id, now),
                Output::Terminated { id } => {
                    self.owners.remove(&id);
                    self.setups.end(id);
                }
                output => return Some(output),
            }
        }
    }
}
