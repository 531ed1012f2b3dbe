//! The answering side: an instance's inbox, a request, and the table that dispatches it.
//!
//! A role reads its [`Inbox`] in one task, so requests of one caller are seen in the order they were sent. Every request
//! gets exactly one answer: by `reply` or `fail`, or, when it is dropped unanswered, an `internal` error.

use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::{RawValue, to_raw_value};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backend::{Backend, Delivery};
use crate::contract::{InstanceId, Method, Role};
use crate::error::{Error, code};
use crate::recent::{Admission, Recent};
use crate::rpc::{Context, Counters};
use crate::wire::{self, Outcome};

/// Requests to one instance, in the order of their arrival. Dropping it withdraws the instance; what still waits in it
/// is answered `unavailable`.
pub struct Inbox {
    requests: mpsc::Receiver<Delivery>,
    recent: Arc<Recent<Waiter>>,
    backend: Arc<dyn Backend>,
    counters: Arc<Counters>,
    role: Role,
    instance: InstanceId,
}

impl Inbox {
    pub(crate) fn new(
        backend: Arc<dyn Backend>,
        counters: Arc<Counters>,
        role: Role,
        instance: InstanceId,
        requests_max: usize,
    ) -> Self {
        let requests = backend.serve(role, &instance, requests_max);
        Self { requests, recent: Arc::new(Recent::new()), backend, counters, role, instance }
    }

    /// The next request; none when another inbox took this one's place. Messages that are no requests, are too late or
    /// came before are answered here and not seen by the role. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Request> {
        loop {
            let delivery = self.requests.recv().await?;
            if let Some(request) = self.admit(delivery) {
                return Some(request);
            }
        }
    }

    /// The instance it serves.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    fn admit(&self, delivery: Delivery) -> Option<Request> {
        let bytes = delivery.request.clone();
        let envelope = match wire::read_request(&bytes) {
            Ok(envelope) => envelope,
            Err(error) => {
                self.counters.malformed();
                delivery.answer(wire::response(None, &Err(error)));
                return None;
            }
        };
        let waiter = Waiter { delivery, id: envelope.id.map(RawValue::to_owned) };
        let timeout = envelope.meta.timeout_ms.map_or(DEFAULT_TIMEOUT, Duration::from_millis).min(TIMEOUT_MAX);
        let deadline = waiter.delivery.sent + timeout;
        if deadline <= Instant::now() {
            self.counters.late();
            waiter.answer(&Err(Error::deadline_exceeded(&envelope.method)));
            return None;
        }
        let key = envelope.meta.idempotency_key.as_deref().map(|key| format!("{} {key}", envelope.method));
        let waiter = match &key {
            None => waiter,
            Some(key) => match self.recent.admit(key, waiter) {
                Admission::First(waiter) => waiter,
                Admission::Waiting => {
                    self.counters.repeated();
                    return None;
                }
                Admission::Answered(waiter, outcome) => {
                    self.counters.repeated();
                    waiter.answer(&outcome);
                    return None;
                }
                Admission::Full(waiter) => {
                    self.counters.busy();
                    waiter.answer(&Err(Error::transient(code::BUSY, "too many requests with keys are open")));
                    return None;
                }
            },
        };
        Some(Request {
            method: envelope.method.into_owned(),
            params: envelope.params.map_or(Bytes::from_static(b"null"), |raw| bytes.slice_ref(raw.get().as_bytes())),
            context: Context {
                request_id: envelope.meta.request_id.into(),
                deadline,
                idempotency_key: envelope.meta.idempotency_key.map(Into::into),
                fence: envelope.meta.fence,
            },
            open: Some(Open { waiter, key, recent: self.recent.clone() }),
        })
    }
}

/// For a request that names no time: from outside, by hand.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest a request may wait, whatever it says.
const TIMEOUT_MAX: Duration = Duration::from_secs(3600);

impl Drop for Inbox {
    fn drop(&mut self) {
        self.requests.close();
        self.backend.withdraw(self.role, &self.instance);
    }
}

/// A caller that waits for an answer.
struct Waiter {
    delivery: Delivery,
    /// The JSON-RPC id; none in a notification.
    id: Option<Box<RawValue>>,
}

impl Waiter {
    fn answer(self, outcome: &Outcome) {
        self.delivery.answer(wire::response(self.id.as_deref(), outcome));
    }
}

/// One request, to be answered once.
pub struct Request {
    method: String,
    params: Bytes,
    context: Context,
    open: Option<Open>,
}

struct Open {
    waiter: Waiter,
    key: Option<String>,
    recent: Arc<Recent<Waiter>>,
}

impl Request {
    /// The wire name of the method.
    pub fn method(&self) -> &str {
        &self.method
    }

    /// The parameters as JSON text.
    pub fn params(&self) -> &[u8] {
        &self.params
    }

    /// What came with it; hand `context().child()` to the requests it causes.
    pub fn context(&self) -> &Context {
        &self.context
    }

    /// The parameters, typed; an `invalid_params` error to [`Request::fail`] with otherwise.
    pub fn parse<M: Method>(&self) -> Result<M::Params, Error> {
        serde_json::from_slice(&self.params)
            .map_err(|error| Error::permanent(code::INVALID_PARAMS, format!("{}: {error}", self.method)))
    }

    /// Parameters and a typed handle to answer with; if they do not parse, the caller is told and there is nothing to do.
    pub fn open<M: Method>(self) -> Option<(M::Params, Call<M>)> {
        match self.parse::<M>() {
            Ok(params) => Some((params, Call { request: self, method: PhantomData })),
            Err(error) => {
                self.fail(error);
                None
            }
        }
    }

    /// Answers as the contract says.
    pub fn reply<M: Method>(self, result: Result<M::Reply, Error>) {
        let outcome = result.and_then(|reply| {
            to_raw_value(&reply)
                .map_err(|error| Error::permanent(code::INVALID_REPLY, format!("{}: {error}", self.method)))
        });
        self.finish(outcome);
    }

    /// Answers with an error.
    pub fn fail(self, error: Error) {
        self.finish(Err(error));
    }

    /// Answers that there is no such method (JSON-RPC -32601).
    pub fn unknown(self) {
        let error = Error::unknown_method(&self.method);
        self.fail(error);
    }

    fn finish(mut self, outcome: Outcome) {
        if let Some(open) = self.open.take() {
            open.settle(&outcome);
        }
    }
}

impl Open {
    fn settle(self, outcome: &Outcome) {
        let duplicates = self.key.map(|key| self.recent.settle(&key, outcome)).unwrap_or_default();
        self.waiter.answer(outcome);
        for duplicate in duplicates {
            duplicate.answer(outcome);
        }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        if let Some(open) = self.open.take() {
            open.settle(&Err(Error::permanent(code::INTERNAL, format!("{} was dropped unanswered", self.method))));
        }
    }
}

/// A request whose method is known by type: it can only be answered with that method's reply.
pub struct Call<M: Method> {
    request: Request,
    method: PhantomData<M>,
}

impl<M: Method> Call<M> {
    /// What came with it.
    pub fn context(&self) -> &Context {
        self.request.context()
    }

    /// How long ago it was sent: exact from a process of this host, else since Redis took it.
    pub fn under_way(&self) -> Duration {
        self.request.open.as_ref().map_or(Duration::ZERO, |open| open.waiter.delivery.sent.elapsed())
    }

    /// Answers it.
    pub fn reply(self, result: Result<M::Reply, Error>) {
        self.request.reply::<M>(result);
    }
}

/// A role's dispatch table: methods of the contract and what to do with each. Parameters that do not parse and methods
/// that are not in the table are answered by it.
///
/// ```ignore
/// dispatch!(request; {
///     ChannelDial => |params, call| self.dial(params, call),
///     ChannelRing => |params, call| call.reply(self.ring(&params.channel_id)),
/// });
/// ```
#[macro_export]
macro_rules! dispatch {
    ($request:expr; { $($method:ty => |$params:pat_param, $call:pat_param| $body:expr),+ $(,)? }) => {{
        let request: $crate::Request = $request;
        match request.method() {
            $(<$method as $crate::contract::Method>::NAME => {
                if let Some(($params, $call)) = request.open::<$method>() {
                    $body;
                }
            })+
            _ => request.unknown(),
        }
    }};
}
