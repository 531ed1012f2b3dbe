//! Calls whose switchboard died and of which nothing is left but their row (it was written, the snapshot was not yet, or is
//! lost): what a row keeps for that case, and closing them, so that every call leaves exactly one record. The last net,
//! below `shell/resume`.

use std::time::Duration;

use futures_util::future::join_all;
use metrics::Counter;
use nebula_bus::contract::{
    Cause, CauseKind, ChannelId, InstanceId, Role, StreamId, to_media, to_proxy, to_switchboard,
};
use nebula_bus::error::code;
use nebula_bus::{Bus, Context, Target};
use nebula_store::calls::CallRow;
use nebula_store::cdrs::Leg as CdrLeg;
use nebula_store::{Store, now_unix_ms};
use serde::{Deserialize, Serialize};

use super::record;
use crate::call::{Call, Sip};
use crate::cdr;

/// Calls closed side by side.
const CLOSED_AT_ONCE: usize = 64;

/// Who closes them.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    pub switchboard: InstanceId,
    pub fence: u64,
}

/// A leg that must be ended, and told of in the record, if its switchboard dies.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Leg {
    channel_id: ChannelId,
    sip_call_id: String,
    proxy: InstanceId,
    place: String,
    talks: bool,
    stream: Option<StreamId>,
}

/// The living legs of a call, as kept in its row.
pub(super) fn snapshot(call: &Call) -> Option<String> {
    let leg = |(index, leg): (usize, &crate::call::Leg)| Leg {
        channel_id: leg.channel_id.clone(),
        sip_call_id: cdr::sip_call_id(call, index),
        proxy: leg.proxy.clone(),
        place: leg.destination.as_ref().map_or(&call.invite().source, |destination| &destination.uri).clone(),
        talks: call.talks(index),
        stream: leg.stream_id().cloned(),
    };
    let legs = call.legs().iter().enumerate().filter(|(_, leg)| leg.sip != Sip::Gone);
    let legs: Vec<Leg> = legs.map(leg).collect();
    serde_json::to_string(&legs).ok()
}

/// Closes, once, calls of a switchboard that is gone. Those that another one runs by now, or may run, are left alone.
pub(super) async fn close_all(
    bus: Bus,
    store: Store,
    owner: Owner,
    rows: Vec<CallRow>,
    timeout: Duration,
    counters: (Counter, Counter),
) {
    let (crashed, retries) = counters;
    let own = &owner.switchboard;
    let others = bus.instances(Role::Switchboard).into_iter().map(|living| living.instance);
    let others: Vec<InstanceId> = others.filter(|instance| instance != own).collect();
    let mut closed = 0;
    for rows in rows.chunks(CLOSED_AT_ONCE) {
        let close = async |row: &CallRow| {
            let context = Context::new(timeout);
            !is_run_by(&bus, &others, &row.id, &context).await
                && close(&bus, &store, &owner, row, timeout, &retries).await
        };
        closed += join_all(rows.iter().map(close)).await.into_iter().filter(|first| *first).count();
    }
    crashed.increment(closed as u64);
    if closed > 0 {
        tracing::warn!(calls = closed, "closed calls of switchboards that are gone");
    }
}

/// Whether another switchboard has the call, or does not say that it has not.
async fn is_run_by(bus: &Bus, others: &[InstanceId], call_id: &str, context: &Context) -> bool {
    let ask = async |instance: &InstanceId| {
        let call = to_switchboard::GetCall { call_id: call_id.into() };
        let target = Target::Instance(instance.clone());
        match bus.call::<to_switchboard::CallGet>(&target, call, context).await {
            Ok(_) => true,
            Err(error) => !error.is("unknown_call") && !error.is(code::UNKNOWN_INSTANCE),
        }
    };
    join_all(others.iter().map(ask)).await.contains(&true)
}

/// Ends what is left of a call, and records it with the statistics of the streams that were still carried.
async fn close(bus: &Bus, store: &Store, owner: &Owner, row: &CallRow, timeout: Duration, retries: &Counter) -> bool {
    let legs: Vec<Leg> = row.snapshot.as_deref().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let context = Context::new(timeout).fence(owner.fence);
    let answered = row.answered_unix_ms.is_some();
    let ended = join_all(legs.into_iter().map(|leg| end_leg(bus, owner, &row.id, leg, answered, &context))).await;
    record::end(store, &cdr::of_crashed(row, ended, now_unix_ms()), retries).await
}

/// Whether the proxy has the leg. It hears nothing of a switchboard before us from then on.
async fn adopt(bus: &Bus, owner: &Owner, call_id: &str, leg: &Leg, context: &Context) -> bool {
    let Owner { switchboard, fence } = owner.clone();
    let adopt = to_proxy::Adopt { switchboard, fence, channels: vec![(leg.channel_id.clone(), call_id.into())] };
    let adopted = bus.call::<to_proxy::ChannelAdopt>(&Target::Instance(leg.proxy.clone()), adopt, context).await;
    adopted.is_ok_and(|adopted| adopted.channels.iter().any(|(_, phase)| *phase != to_proxy::Phase::Gone))
}

/// Best effort: what is gone needs no end. If the proxy still has the leg, it hangs up and the stream is closed. If it has
/// died too, the phones talk on, and their stream is left to the media agent's rule for streams that nobody claims. Any
/// agent of the dataplane can tell its statistics, once it has attached.
async fn end_leg(bus: &Bus, owner: &Owner, call_id: &str, leg: Leg, answered: bool, context: &Context) -> CdrLeg {
    let is_there = adopt(bus, owner, call_id, &leg, context).await;
    if is_there {
        let cause = Cause { sip_code: 500, kind: CauseKind::Crash, text: "the switchboard died".to_owned() };
        let ended = to_switchboard::Ended { channel_id: leg.channel_id.clone(), cause };
        let hung_up = bus.call::<to_proxy::ChannelHangup>(&Target::Instance(leg.proxy), ended, context).await;
        if let Err(error) = hung_up {
            tracing::warn!(channel_id = %leg.channel_id, %error, "a leg of a dead switchboard's call is not hung up");
        }
    }
    let stats = match leg.stream.map(|stream_id| to_media::Stream { stream_id }) {
        Some(stream) if is_there => {
            bus.call_retrying::<to_media::StreamDestroy>(&Target::Service, stream, context).await.ok()
        }
        Some(stream) => bus.call_retrying::<to_media::StreamGet>(&Target::Service, stream, context).await.ok(),
        None => None,
    };
    CdrLeg {
        channel_id: leg.channel_id.0,
        sip_call_id: Some(leg.sip_call_id),
        place: leg.place,
        answered: answered && leg.talks,
        sip_code: None,
        stats: stats.and_then(|stats| serde_json::to_value(stats).ok()).unwrap_or_default(),
    }
}
