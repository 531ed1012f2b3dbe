//! The bus inbox: each request becomes an input of one call and is answered at once; what comes of it follows by requests
//! of its own. A subject that is not here is a business error: whoever has such a leg or stream may end it.

use std::collections::HashSet;
use std::sync::Arc;

use nebula_bus::contract::to_switchboard::*;
use nebula_bus::contract::{Accepted, CallId, Cause, CauseKind, ChannelId, Method, Role, StreamId};
use nebula_bus::{self as bus, Context, Error, Request, dispatch};
use nebula_store::outbox;

use super::{Done, Key, Shell};
use crate::call::{Call, ChannelEvent as On, Input, RETRY_AFTER_S};

/// Calls listed at most when nobody says how many.
const LIST_DEFAULT: usize = 1_000;

impl Shell {
    pub(super) fn serve(&mut self, request: Request) {
        dispatch!(request; {
            ChannelInvite => |invite, call| {
                let context = call.context().clone();
                self.invite(invite, context, |result| call.reply(result));
            },
            ChannelRinging => |p, call| self.channel(p.channel_id, provisional(p.sip_code, p.sdp), 0, call),
            ChannelProgress => |p, call| self.channel(p.channel_id, provisional(p.sip_code, p.sdp), 0, call),
            ChannelAnswered => |p, call| self.channel(p.channel_id, On::Answered { sdp: p.sdp }, p.age_ms, call),
            ChannelRefused => |p, call| self.channel(p.channel_id, On::Refused { cause: p.cause }, 0, call),
            ChannelReinvite => |p, call| self.channel(p.channel_id, On::Reinvite { sdp: p.sdp }, 0, call),
            ChannelAcked => |p, call| self.channel(p.channel_id, On::Acked { sdp: p.sdp }, 0, call),
            ChannelDtmf => |p, call| {
                let Dtmf { channel_id, digit, duration_ms } = p;
                self.channel(channel_id, On::Dtmf { digit, duration_ms }, 0, call);
            },
            ChannelHangup => |p, call| self.channel(p.channel_id, On::Hangup { cause: p.cause }, p.age_ms, call),
            StreamUp => |p, call| call.reply(self.stream(&p).map(|_| Accepted {})),
            StreamTimeout => |p, call| call.reply(self.stream(&p).map(|key| {
                self.drive(key, Input::StreamTimeout { stream_id: p.stream_id });
                Accepted {}
            })),
            DataplaneLost => |p, call| {
                self.metrics.dataplanes_lost.increment(1);
                self.tell_of_dataplane("dataplane.lost", &p);
                tracing::warn!(event = "dataplane.lost", media = %p.media, streams = p.streams.len(), "calls wait for their streams");
                self.each(|| Input::DataplaneLost { media: p.media.clone() });
                call.reply(Ok(Accepted {}));
            },
            DataplaneBack => |p, call| {
                self.metrics.dataplanes_back.increment(1);
                self.tell_of_dataplane("dataplane.back", &p);
                tracing::warn!(event = "dataplane.back", media = %p.media, streams = p.streams.len(), "streams are back");
                let alive: Arc<HashSet<StreamId>> = Arc::new(p.streams.into_iter().collect());
                self.each(|| Input::DataplaneBack { media: p.media.clone(), alive: alive.clone() });
                call.reply(Ok(Accepted {}));
            },
            CallList => |p, call| call.reply(Ok(self.list(p.limit as usize))),
            CallGet => |p, call| call.reply(self.find(&p.call_id).map(|key| self.calls[&key].call.view())),
            CallHangup => |p, call| call.reply(self.find(&p.call_id).map(|key| {
                let text = "ended by an operator".to_owned();
                let cause = Cause { sip_code: 200, kind: CauseKind::Administrative, text };
                self.drive(key, Input::Hangup { cause });
                Accepted {}
            })),
        });
    }

    /// A phone calls. The call is named after its first leg, so that it is the same one for whoever is asked again because
    /// its predecessor died over it: its row, if that was written, is there already, and nobody is rung a second time.
    fn invite(&mut self, invite: Invite, context: Context, reply: impl FnOnce(Result<Invited, Error>)) {
        if let Some(key) = self.by_channel.get(&invite.channel_id) {
            // The same INVITE again: its first answer was lost.
            let call_id = self.calls[key].call.id().clone();
            return reply(Ok(Invited { call_id, switchboard: self.instance.clone() }));
        }
        self.presence.note(Role::Proxy, &invite.proxy);
        if self.draining {
            self.metrics.refused_draining.increment(1);
            return reply(Err(Error::business("draining", "no new calls").retry_after_s(RETRY_AFTER_S)));
        }
        if self.calls.len() >= self.options.calls_max as usize {
            self.metrics.refused_overloaded.increment(1);
            let text = format!("{} calls are up", self.calls.len());
            return reply(Err(Error::business("overloaded", text).retry_after_s(RETRY_AFTER_S)));
        }
        let id = CallId(invite.channel_id.0.clone());
        reply(Ok(Invited { call_id: id.clone(), switchboard: self.instance.clone() }));
        tracing::debug!(call_id = %id, from = invite.from.user, to = invite.to, sip_call_id = invite.sip_call_id,
            request_id = %context.request_id, "call begins");
        let (now, mut effects) = (self.now(), std::mem::take(&mut self.effects));
        let (switchboard, timing) = (self.instance.clone(), self.options.timing());
        let call = Call::start(id.clone(), switchboard, timing, invite, now, &mut effects);
        let key = self.insert(id, call, context);
        self.carry_out(key, &mut effects, now);
        self.effects = effects;
    }

    /// What a phone did, so long before it was sent here.
    fn channel<M>(&mut self, channel_id: ChannelId, event: On, age_ms: u64, call: bus::Call<M>)
    where
        M: Method<Reply = Accepted>,
    {
        let Some(key) = self.by_channel.get(&channel_id).copied() else {
            self.metrics.unknown.increment(1);
            return call.reply(Err(Error::business("unknown_channel", format!("no channel {channel_id}"))));
        };
        let under_way_ms = u64::try_from(call.under_way().as_millis()).unwrap_or(u64::MAX);
        self.drive(key, Input::Channel { channel_id, age_ms: age_ms.saturating_add(under_way_ms), event });
        call.reply(Ok(Accepted {}));
    }

    /// The call a stream belongs to; its agent may close a stream that belongs to none.
    fn stream(&self, event: &StreamEvent) -> Result<Key, Error> {
        let key = self.find(&event.call_id)?;
        if self.calls[&key].call.may_own(&event.stream_id) {
            return Ok(key);
        }
        self.metrics.unknown.increment(1);
        Err(Error::business("unknown_stream", format!("call {} has no stream {}", event.call_id, event.stream_id)))
    }

    fn find(&self, call_id: &CallId) -> Result<Key, Error> {
        self.by_id.get(call_id).copied().ok_or_else(|| {
            self.metrics.unknown.increment(1);
            Error::business("unknown_call", format!("no call {call_id}"))
        })
    }

    /// An event for the world, from one switchboard: the first by name.
    fn tell_of_dataplane(&mut self, kind: &'static str, state: &DataplaneState) {
        let others = self.bus.instances(Role::Switchboard);
        if others.iter().any(|other| other.instance < self.instance) {
            return;
        }
        let (store, media, at) = (self.store.clone(), state.media.clone(), self.now().unix_ms);
        let data = serde_json::json!({ "media": media, "streams": state.streams.len() });
        self.work.push(Box::pin(async move {
            if let Err(error) = outbox::note(&store, kind, media.as_str(), at, data).await {
                tracing::warn!(kind, %error, "an event could not be written");
            }
            Done::Noted
        }));
    }

    /// The same input to every call: for what happens once in a blue moon.
    pub(super) fn each(&mut self, input: impl Fn() -> Input) {
        let keys: Vec<Key> = self.calls.keys().copied().collect();
        for key in keys {
            self.drive(key, input());
        }
    }

    fn list(&self, limit: usize) -> Vec<CallView> {
        let limit = if limit == 0 { LIST_DEFAULT } else { limit };
        let mut keys: Vec<Key> = self.calls.keys().copied().collect();
        keys.sort_unstable_by(|a, b| b.cmp(a));
        keys.into_iter().take(limit).map(|key| self.calls[&key].call.view()).collect()
    }
}

fn provisional(sip_code: u16, sdp: Option<String>) -> On {
    On::Provisional { sip_code, sdp }
}
