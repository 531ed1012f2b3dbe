//! The asking side: the bus handle, targets, contexts, deadlines and retries.
//!
//! **Order.** A request is handed over when `call` is invoked, not when its future is polled, so requests of one caller
//! to one instance arrive in the order of the `call` invocations, even if the futures run in tasks of their own. Retries
//! and requests to a service (which may reach different instances) have no order.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::backend::{Backend, Outgoing};
use crate::contract::{Event, InstanceId, Method, Role};
use crate::error::{Error, code};
use crate::events::Subscription;
use crate::limits::{INBOX_REQUESTS_MAX, RETRY_PAUSE_MS_MAX, RETRY_PAUSE_MS_MIN};
use crate::local::Local;
use crate::registry::Announcement;
use crate::serve::Inbox;
use crate::wire::{self, Meta};

/// The handle of the bus; clones share it.
#[derive(Clone)]
pub struct Bus {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) counters: Arc<Counters>,
}

/// Whom a request is for. The role comes from the method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Any willing instance, the least loaded first.
    Service,
    /// This one.
    Instance(InstanceId),
}

/// What travels with a request through every hop.
#[derive(Debug, Clone)]
pub struct Context {
    /// Names the chain of requests that one outside event caused; in every log line of it.
    pub request_id: Arc<str>,
    /// When the caller stops waiting.
    pub deadline: Instant,
    /// Two requests of a method with the same key act once and get the same answer.
    pub idempotency_key: Option<Arc<str>>,
    /// The fence of the call's owner, on requests about a call: a callee refuses those lower than the highest it saw.
    pub fence: Option<u64>,
}

impl Context {
    /// A new chain, with this much time.
    pub fn new(timeout: Duration) -> Self {
        let request_id = ulid::Ulid::new().to_string().into();
        Self { request_id, deadline: Instant::now() + timeout, idempotency_key: None, fence: None }
    }

    /// For a request that this one causes: the same chain and deadline, no key.
    pub fn child(&self) -> Self {
        Self { idempotency_key: None, ..self.clone() }
    }

    /// The same chain with time of its own, for work that goes on after its cause was answered.
    pub fn detached(&self, timeout: Duration) -> Self {
        Self { deadline: Instant::now() + timeout, ..self.child() }
    }

    /// The same with an idempotency key.
    pub fn key(mut self, key: impl Into<Arc<str>>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// The same with the fence of the call's owner.
    pub fn fence(mut self, fence: u64) -> Self {
        self.fence = Some(fence);
        self
    }

    /// The time left; zero when the deadline has passed.
    pub fn remaining(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    pub(crate) fn meta(&self) -> Meta<'_> {
        Meta {
            request_id: (&*self.request_id).into(),
            // Rounded up: a millisecond too long harms nothing, none left would refuse a request that has time.
            timeout_ms: Some(self.remaining().as_micros().div_ceil(1000).try_into().unwrap_or(u64::MAX)),
            idempotency_key: self.idempotency_key.as_deref().map(Into::into),
            fence: self.fence,
        }
    }
}

impl Bus {
    /// A bus inside this process.
    pub fn local() -> Self {
        Self { backend: Arc::new(Local::new()), counters: Arc::default() }
    }

    /// Asks and waits for the answer, until the context's deadline. The request is on its way when this returns; the
    /// future only waits for the answer and may be dropped. Nothing is retried.
    ///
    /// Errors: the callee's, or one of [`code`] from the bus itself.
    pub fn call<M: Method>(
        &self,
        target: &Target,
        params: M::Params,
        context: &Context,
    ) -> impl Future<Output = Result<M::Reply, Error>> + Send + 'static + use<M> {
        let id = self.counters.next_id();
        let sent =
            wire::request(id, M::NAME, &params, context.meta()).map(|body| self.send(M::CALLEE, target, body, context));
        let (deadline, counters) = (context.deadline, self.counters.clone());
        async move {
            let response = wait(sent?, M::NAME, deadline, &counters).await?;
            let result = wire::read_response(&response)?;
            serde_json::from_str(result.get())
                .map_err(|error| Error::permanent(code::INVALID_REPLY, format!("{}: {error}", M::NAME)))
        }
    }

    /// As [`Bus::call`], trying again after transient errors, with growing pauses (or the one the callee names), until
    /// the deadline. For methods that are idempotent by nature; others need a key in the context, since an attempt may
    /// have acted although its answer was lost. All attempts carry the same key.
    pub async fn call_retrying<M: Method>(
        &self,
        target: &Target,
        params: M::Params,
        context: &Context,
    ) -> Result<M::Reply, Error>
    where
        M::Params: Clone,
    {
        let mut pause = Duration::from_millis(RETRY_PAUSE_MS_MIN);
        loop {
            let error = match self.call::<M>(target, params.clone(), context).await {
                Err(error) if error.is_transient() => error,
                done => return done,
            };
            let named = error.retry_after_s.map(|seconds| Duration::from_secs(seconds.into()));
            let next = Instant::now() + named.unwrap_or(pause);
            if next >= context.deadline {
                return Err(error);
            }
            self.counters.retried();
            sleep_until(next).await;
            pause = (pause * 2).min(Duration::from_millis(RETRY_PAUSE_MS_MAX));
        }
    }

    /// Opens an instance's inbox and announces it, idle and willing. A second inbox of the same name replaces the first.
    pub fn serve(&self, role: Role, instance: InstanceId) -> Inbox {
        self.serve_bounded(role, instance, INBOX_REQUESTS_MAX)
    }

    /// As [`Bus::serve`], with an inbox of another size (at least 1).
    pub fn serve_bounded(&self, role: Role, instance: InstanceId, requests_max: usize) -> Inbox {
        Inbox::new(self.backend.clone(), self.counters.clone(), role, instance, requests_max.max(1))
    }

    /// Tells the others of a serving instance's load, version and whether it drains. Unknown instances are ignored.
    pub fn announce(&self, announcement: Announcement) {
        self.backend.announce(announcement);
    }

    /// The instances of a role that serve.
    pub fn instances(&self, role: Role) -> Vec<Announcement> {
        self.backend.instances(role)
    }

    /// Tells everybody who subscribed; done when the event is handed over for good.
    pub async fn publish(&self, event: &Event) -> Result<(), Error> {
        let bytes =
            serde_json::to_vec(event).map_err(|error| Error::permanent(code::INVALID_PARAMS, error.to_string()))?;
        self.backend.publish(bytes.into()).await
    }

    /// Events from now on.
    pub fn subscribe(&self) -> Subscription {
        Subscription::new(self.backend.subscribe())
    }

    /// What the bus has counted since it was made.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    pub(crate) fn send(&self, role: Role, target: &Target, body: bytes::Bytes, context: &Context) -> Pending {
        let (reply, pending) = oneshot::channel();
        let request = Outgoing { body, deadline: context.deadline, key: context.idempotency_key.as_deref() };
        self.backend.send(role, target, request, reply);
        pending
    }
}

/// The response on its way.
pub(crate) type Pending = oneshot::Receiver<Result<bytes::Bytes, Error>>;

/// Waits for a response, at most until the deadline.
pub(crate) async fn wait(
    pending: Pending,
    method: &str,
    deadline: Instant,
    counters: &Counters,
) -> Result<bytes::Bytes, Error> {
    match timeout_at(deadline, pending).await {
        Ok(Ok(Ok(response))) => Ok(response),
        Ok(Ok(Err(error))) => {
            if error.is(code::BUSY) {
                counters.busy();
            } else if error.is(code::DEADLINE_EXCEEDED) {
                counters.late();
            }
            Err(error)
        }
        Ok(Err(_)) => Err(Error::permanent(code::INTERNAL, format!("{method}: the backend lost the request"))),
        Err(_) => {
            counters.late();
            Err(Error::deadline_exceeded(method))
        }
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// What the bus has counted, for metrics.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            /// Requests sent.
            pub requests: u64,
            $($(#[$doc])* pub $name: u64,)+
        }

        #[derive(Default)]
        pub(crate) struct Counters {
            /// The last id given; ids are unique per bus handle and its clones.
            requests: AtomicU64,
            $($name: AtomicU64,)+
        }

        impl Counters {
            pub fn next_id(&self) -> u64 {
                self.requests.fetch_add(1, Ordering::Relaxed) + 1
            }

            $(pub fn $name(&self) {
                self.$name.fetch_add(1, Ordering::Relaxed);
            })+

            fn read(&self) -> Counts {
                Counts {
                    requests: self.requests.load(Ordering::Relaxed),
                    $($name: self.$name.load(Ordering::Relaxed),)+
                }
            }
        }
    };
}

counters! {
    /// Requests refused because an inbox or its key memory was full.
    busy,
    /// Requests whose deadline passed, seen by the caller or in the inbox.
    late,
    /// Attempts after a transient error.
    retried,
    /// Deliveries of a request that had come before, by its idempotency key.
    repeated,
    /// Deliveries that were no JSON-RPC request, and entries in streams that none of us wrote.
    malformed,
    /// Requests that failed at once because their callee had not answered for a while.
    broken,
    /// Requests taken up from a dead instance.
    claimed,
    /// Connections to Redis that went away.
    lost,
}
