//! What the machine asks of proxies, media agents and the location table, as futures of the actor.

use std::future::Future;
use std::time::Duration;

use nebula_bus::contract::{Accepted, Destination, InstanceId, Method, Role, to_media, to_proxy};
use nebula_bus::error::code;
use nebula_bus::{Bus, Category, Error, Target};
use nebula_store::locations;

use super::{Done, Key, Shell};
use crate::call::{Failure, Now, Reply, Request, Route, RpcId, To};

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
        match request {
            Request::Dial(dial) => self.send::<ChannelDial>(key, id, &target, *dial, accepted),
            Request::Ring(channel) => self.send::<ChannelRing>(key, id, &target, channel, accepted),
            Request::Progress(progress) => self.send::<ChannelProgress>(key, id, &target, progress, accepted),
            Request::Answer(answer) => self.send::<ChannelAnswer>(key, id, &target, answer, accepted),
            Request::Reject(reject) => self.send::<ChannelReject>(key, id, &target, reject, accepted),
            Request::Reinvite(answer) => self.send::<ChannelReinvite>(key, id, &target, answer, accepted),
            Request::Dtmf(dtmf) => self.send::<ChannelDtmf>(key, id, &target, dtmf, accepted),
            Request::HangUp(ended) => self.send::<ChannelHangup>(key, id, &target, ended, accepted),
            Request::Create(create) => self.send::<StreamCreate>(key, id, &target, *create, Reply::Created),
            Request::Update(update) => self.send::<StreamUpdate>(key, id, &target, update, Reply::Negotiated),
            Request::Destroy(stream) => self.send::<StreamDestroy>(key, id, &target, stream, stats),
            Request::Bridge(bridge) => self.send::<BridgeCreate>(key, id, &target, bridge, accepted),
        }
    }

    fn send<M: Method>(
        &mut self,
        key: Key,
        id: RpcId,
        target: &Target,
        params: M::Params,
        reply: impl FnOnce(M::Reply) -> Reply + Send + 'static,
    ) {
        let Some(slot) = self.calls.get(&key) else { return };
        let answer = self.bus.call::<M>(target, params, &slot.context.detached(self.rpc_timeout()));
        let call_id = slot.call.id().clone();
        self.work.push(Box::pin(async move {
            let result = answer.await.map(reply).map_err(|error| {
                tracing::debug!(%call_id, method = M::NAME, %error, "request failed");
                failure(&error)
            });
            Done::Rpc { key, id, result }
        }));
    }

    /// Looks up where the callee's phones are.
    pub(super) fn locate(&mut self, key: Key, now: Now) {
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
            let result = match within(timeout, locations::live(&store, &user, now.unix_ms)).await {
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
fn failure(error: &Error) -> Failure {
    match (error.category, &*error.code) {
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
        ] {
            assert_eq!(failure(&error), expected, "{error}");
        }
    }
}
