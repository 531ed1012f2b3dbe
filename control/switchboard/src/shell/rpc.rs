//! What the machine asks of proxies, media agents and the location table, as futures of the actor.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use nebula_bus::contract::{Accepted, CallId, Destination, InstanceId, Method, Role, to_media, to_proxy};
use nebula_bus::error::code;
use nebula_bus::{Bus, Category, Error, Target};
use nebula_store::{locations, steady_unix_ms};
use tokio::time::{Instant, sleep};

use super::{Done, Key, Shell};
use crate::call::{Failure, Now, Patience, Reply, Request, Route, RpcId, To};

/// The first pause between attempts; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between attempts: what a hang-up may be late after its proxy came back.
const PAUSE_MAX: Duration = Duration::from_millis(500);

impl Shell {
    /// Sends a request; its end becomes the call's input.
    pub(super) fn ask(&mut self, key: Key, id: RpcId, to: To, request: Request, now: Now) {
        use to_media::*;
        use to_proxy::*;
        self.measure(key, &request, now);
        let target = match to {
            To::Proxy(instance) | To::Media(Some(instance)) => Target::Instance(instance),
            To::Media(None) => Target::Service,
        };
        let stats = |stats| Reply::Stats(Box::new(stats));
        let patience = match (request.patience(), &target) {
            (Patience::None, _) => Duration::ZERO,
            (Patience::Short, _) => self.rpc_timeout(),
            (Patience::Grace, _) if request.is_for_media() => self.media_grace(),
            (Patience::Grace, _) => self.proxy_grace(),
        };
        let ask = Ask { key, id, target, patience };
        match request {
            Request::Dial(dial) => self.send::<ChannelDial>(ask, *dial, accepted),
            Request::Ring(channel) => self.send::<ChannelRing>(ask, channel, accepted),
            Request::Progress(progress) => self.send::<ChannelProgress>(ask, progress, accepted),
            Request::Answer(answer) => self.send::<ChannelAnswer>(ask, answer, accepted),
            Request::Reject(reject) => self.send::<ChannelReject>(ask, reject, accepted),
            Request::Reinvite(answer) => self.send::<ChannelReinvite>(ask, answer, accepted),
            Request::Dtmf(dtmf) => self.send::<ChannelDtmf>(ask, dtmf, accepted),
            Request::HangUp(ended) => self.send::<ChannelHangup>(ask, ended, accepted),
            Request::Create(create) => self.send::<StreamCreate>(ask, *create, Reply::Created),
            Request::Update(update) => self.send::<StreamUpdate>(ask, update, Reply::Negotiated),
            Request::Destroy(stream) => self.send::<StreamDestroy>(ask, stream, stats),
            Request::Bridge(bridge) => self.send::<BridgeCreate>(ask, bridge, accepted),
        }
    }

    fn send<M: Method>(&mut self, ask: Ask, params: M::Params, reply: impl FnOnce(M::Reply) -> Reply + Send + 'static)
    where
        M::Params: Clone,
    {
        let Ask { key, id, target, patience } = ask;
        let Some(slot) = self.calls.get(&key) else { return };
        let (call_id, fence, timeout) = (slot.call.id().clone(), self.fence.get(), self.rpc_timeout());
        let context = slot.context.detached(timeout).fence(fence);
        if patience.is_zero() {
            let answer = self.bus.call::<M>(&target, params, &context);
            self.work.push(Box::pin(async move {
                let result = answer.await.map(reply).map_err(|error| failed::<M>(&call_id, &error));
                Done::Rpc { key, id, result }
            }));
            return;
        }
        // Numbers begin anew in each process, fences do not.
        let name: Arc<str> = format!("{call_id}/{fence}/{}", id.0).into();
        let first = self.bus.call::<M>(&target, params.clone(), &context.key(name.clone()));
        let (bus, retries) = (self.bus.clone(), self.metrics.request_retries.clone());
        let base = slot.context.clone();
        self.work.push(Box::pin(async move {
            let again = || {
                retries.increment(1);
                bus.call::<M>(&target, params.clone(), &base.detached(timeout).fence(fence).key(name.clone()))
            };
            let result = persist(patience, first, again).await;
            let result = result.map(reply).map_err(|error| failed::<M>(&call_id, &error));
            Done::Rpc { key, id, result }
        }));
    }

    /// Looks up where the callee's phones are.
    pub(super) fn locate(&mut self, key: Key) {
        let Some(slot) = self.calls.get(&key) else { return };
        let (store, user) = (self.store.clone(), slot.call.invite().to.clone());
        let (bus, caller_proxy) = (self.bus.clone(), slot.call.invite().proxy.clone());
        let timeout = self.rpc_timeout();
        self.work.push(Box::pin(async move {
            let route = |binding: locations::Binding| Route {
                proxy: owner(&bus, binding.proxy, &caller_proxy),
                destination: Destination {
                    uri: binding.contact,
                    transport: binding.transport,
                    address: binding.address,
                    path: binding.path,
                },
            };
            let result = match within(timeout, locations::live(&store, &user, steady_unix_ms())).await {
                Ok(bindings) => Ok(bindings.into_iter().map(route).collect()),
                Err(error) => {
                    tracing::warn!(%user, %error, "location look-up failed");
                    Err(Failure::Unavailable)
                }
            };
            Done::Located { key, result }
        }));
    }

    pub(super) fn rpc_timeout(&self) -> Duration {
        Duration::from_millis(self.options.rpc_timeout_ms.into())
    }

    pub(super) fn proxy_grace(&self) -> Duration {
        Duration::from_secs(self.options.proxy_grace_s.into())
    }

    pub(super) fn media_grace(&self) -> Duration {
        Duration::from_secs(self.options.media_grace_s.into())
    }
}

/// A request to be sent.
struct Ask {
    key: Key,
    id: RpcId,
    target: Target,
    patience: Duration,
}

/// Tries again after transient errors until the patience is over. Each attempt has a deadline of its own, since an
/// instance that died took its requests along.
pub(super) async fn persist<T, A: Future<Output = Result<T, Error>>>(
    patience: Duration,
    first: impl Future<Output = Result<T, Error>>,
    again: impl Fn() -> A,
) -> Result<T, Error> {
    let by = Instant::now() + patience;
    let mut pause = PAUSE_MIN;
    let mut result = first.await;
    while let Err(error) = &result
        && error.is_transient()
        && Instant::now() + pause < by
    {
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
        result = again().await;
    }
    result
}

fn failed<M: Method>(call_id: &CallId, error: &Error) -> Failure {
    tracing::debug!(%call_id, method = M::NAME, %error, "request failed");
    failure(error)
}

/// The proxy that has the flow to the phone (it took its REGISTER), or the caller's own if that one is gone.
fn owner(bus: &Bus, registrar: String, caller_proxy: &InstanceId) -> InstanceId {
    let registrar = InstanceId(registrar);
    let lives = || bus.instances(Role::Proxy).iter().any(|proxy| proxy.instance == registrar);
    if registrar != *caller_proxy && lives() { registrar } else { caller_proxy.clone() }
}

fn accepted(_: Accepted) -> Reply {
    Reply::Accepted
}

/// An error of the bus or of a role, as the machine tells them apart.
pub(super) fn failure(error: &Error) -> Failure {
    match (error.category, &*error.code) {
        (_, code::FENCED) => Failure::Fenced,
        (Category::Business, "incompatible" | "bad_sdp") => Failure::Incompatible,
        (Category::Business, "unknown_channel" | "unknown_stream" | "stream_lost") => Failure::Unknown,
        (Category::Business, "unreachable" | "bad_destination") => Failure::Unreachable,
        (Category::Transient, code::DEADLINE_EXCEEDED | code::UNAVAILABLE) => Failure::Unavailable,
        (Category::Transient, code::NO_INSTANCE | code::UNKNOWN_INSTANCE) => Failure::Unavailable,
        (Category::Transient, _) => Failure::Busy,
        _ => Failure::Internal,
    }
}

/// Why a read of the store gave nothing.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("no answer in time")]
    Late,
    #[error(transparent)]
    Store(#[from] nebula_store::Error),
}

async fn within<T>(timeout: Duration, read: impl Future<Output = nebula_store::Result<T>>) -> Result<T, ReadError> {
    match tokio::time::timeout(timeout, read).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(ReadError::Late),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_told_apart_by_their_codes() {
        for (error, expected) in [
            (Error::business("incompatible", ""), Failure::Incompatible),
            (Error::business("unknown_stream", ""), Failure::Unknown),
            (Error::business("unreachable", ""), Failure::Unreachable),
            (Error::business("wrong_state", ""), Failure::Internal),
            (Error::transient("no_ports", ""), Failure::Busy),
            (Error::transient(code::BUSY, ""), Failure::Busy),
            (Error::transient(code::DEADLINE_EXCEEDED, ""), Failure::Unavailable),
            (Error::permanent(code::INTERNAL, ""), Failure::Internal),
            (Error::permanent(code::FENCED, ""), Failure::Fenced),
        ] {
            assert_eq!(failure(&error), expected, "{error}");
        }
    }
}
