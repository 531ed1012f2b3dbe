//! The seam under the bus: whoever carries the bytes. The in-process backend is `local.rs`, the one over Redis Streams is
//! `redis/`. In both `send` never waits.

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::Instant;

use crate::Error;
use crate::contract::{InstanceId, Role};
use crate::error::code;
use crate::registry::Announcement;
use crate::rpc::Target;

/// Where an answer goes: the caller's half of a request.
pub(crate) type ReplyTo = oneshot::Sender<Result<Bytes, Error>>;

/// Carries requests, replies, events and the registry.
#[async_trait]
pub(crate) trait Backend: Send + Sync + 'static {
    /// Hands a request over, in the order of invocation per callee, without waiting. What prevents it is told to `reply`.
    fn send(&self, role: Role, target: &Target, request: Outgoing<'_>, reply: ReplyTo);

    /// Opens the inbox of an instance and announces it. A second opening replaces the first.
    fn serve(&self, role: Role, instance: &InstanceId, requests_max: usize) -> mpsc::Receiver<Delivery>;

    /// Tells others of an instance's load, version and state.
    fn announce(&self, announcement: Announcement);

    /// Takes the instance out of the registry and closes its inbox.
    fn withdraw(&self, role: Role, instance: &InstanceId);

    /// The announced instances of a role, in no certain order.
    fn instances(&self, role: Role) -> Vec<Announcement>;

    /// Publishes an event to all subscribers of the whole system; done when it is handed over for good.
    async fn publish(&self, event: Bytes) -> Result<(), Error>;

    /// Events from now on.
    fn subscribe(&self) -> broadcast::Receiver<Bytes>;
}

/// A request as it leaves.
pub(crate) struct Outgoing<'a> {
    /// The JSON-RPC request.
    pub body: Bytes,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Two with the same key should reach the same instance.
    pub key: Option<&'a str>,
}

/// A request as it reaches an inbox.
pub(crate) struct Delivery {
    /// The JSON-RPC request.
    pub request: Bytes,
    /// When it was sent; the time it waited counts against its deadline.
    pub sent: Instant,
    reply: Option<Answer>,
}

/// Takes the response to wherever the caller waits.
type Answer = Box<dyn FnOnce(Result<Bytes, Error>) + Send>;

impl Delivery {
    pub fn new(request: Bytes, sent: Instant, reply: impl FnOnce(Result<Bytes, Error>) + Send + 'static) -> Self {
        Self { request, sent, reply: Some(Box::new(reply)) }
    }

    /// Answers with a response envelope.
    pub fn answer(mut self, response: Bytes) {
        if let Some(reply) = self.reply.take() {
            reply(Ok(response));
        }
    }
}

impl Drop for Delivery {
    /// Still in the inbox when that went away: the caller learns it at once.
    fn drop(&mut self) {
        if let Some(reply) = self.reply.take() {
            reply(Err(Error::transient(code::UNAVAILABLE, "the instance went away before it took the request")));
        }
    }
}
