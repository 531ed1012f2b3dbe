//! To whom a stream belongs: whom to tell of it, and who may command it. A switchboard that takes calls over adopts their
//! streams; from then on its predecessor, should it still live, is refused by its lower fence.

use super::{Agent, BySwitchboard, name, parse_name};
use crate::error::Error;
use nebula_bus::contract::to_media::{AdoptStreams, Create, Step};
use nebula_bus::contract::{self, CallId, ChannelId, InstanceId};
use nebula_ring::command::StreamId;
use serde::{Deserialize, Serialize};

/// For whom a stream was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// Its call.
    pub call_id: CallId,
    /// Its leg.
    pub channel_id: ChannelId,
    /// Whom to tell about it.
    pub switchboard: InstanceId,
}

impl Agent {
    /// For whom a stream was made.
    pub fn owner(&self, id: StreamId) -> Option<&Owner> {
        self.streams.get(&id).map(|stream| &stream.owner)
    }

    /// Whether a request with this fence may command the streams; none is of somebody who knows no fences. From then on
    /// lower ones may not.
    pub fn authorise(&mut self, ids: &[&contract::StreamId], fence: Option<u64>) -> Result<(), Error> {
        let ids: Vec<StreamId> = ids.iter().filter_map(|id| parse_name(id).ok()).collect();
        if let Some(fence) = fence {
            self.check_fence(&ids, fence)?;
        }
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if fence.is_some_and(|fence| fence > stream.fence) {
                stream.fence = fence.unwrap_or(stream.fence);
                self.changed.insert(id);
            }
            stream.claimed = true;
        }
        Ok(())
    }

    /// The stream of a leg that an agent before this one made, with the description of its first step: that agent died before
    /// its answer was sure to be there, and so it is asked for once more.
    pub fn made_before(
        &mut self,
        create: &Create,
        fence: Option<u64>,
    ) -> Option<Result<(contract::StreamId, Option<String>), Error>> {
        let id = *self.made_before.get(&create.channel_id)?;
        let stream = self.streams.get(&id)?;
        if stream.owner.call_id != create.call_id || stream.has_failed() {
            return None;
        }
        if let Err(error) = self.authorise(&[&name(id)], fence) {
            return Some(Err(error));
        }
        let makes_sdp = matches!(create.step, Step::LocalOffer { .. });
        let sdp = self.streams.get_mut(&id).filter(|_| makes_sdp).and_then(|stream| stream.exchange.render());
        Some(Ok((name(id), sdp)))
    }

    /// A switchboard is the owner of streams from now on. Returns those that there are, or soon will be again.
    pub fn adopt(&mut self, adopt: &AdoptStreams) -> Result<Vec<contract::StreamId>, Error> {
        let ids: Vec<StreamId> = adopt.streams.iter().filter_map(|id| parse_name(id).ok()).collect();
        self.check_fence(&ids, adopt.fence)?;
        let mut alive = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.owner.switchboard = adopt.switchboard.clone();
            stream.fence = adopt.fence;
            stream.claimed = true;
            self.changed.insert(id);
            if !stream.has_failed() {
                alive.push(name(id));
            }
        }
        Ok(alive)
    }

    fn check_fence(&self, ids: &[StreamId], fence: u64) -> Result<(), Error> {
        let seen = ids.iter().filter_map(|id| self.streams.get(id)).map(|stream| stream.fence).max().unwrap_or(0);
        if fence < seen { Err(Error::Fenced { fence, seen }) } else { Ok(()) }
    }

    /// Streams that flow, by switchboard; those that have none of these are named too.
    pub fn alive_by_switchboard(&self) -> BySwitchboard {
        let mut all = BySwitchboard::new();
        for (id, stream) in &self.streams {
            let streams = all.entry(stream.owner.switchboard.clone()).or_default();
            if stream.worker().is_some() {
                streams.push(name(*id));
            }
        }
        all
    }

    /// A switchboard's streams that flow.
    pub fn alive_of(&self, switchboard: &InstanceId) -> Vec<contract::StreamId> {
        let owned = self.streams.iter().filter(|(_, stream)| stream.owner.switchboard == *switchboard);
        owned.filter(|(_, stream)| stream.worker().is_some()).map(|(id, _)| name(*id)).collect()
    }

    /// Whether a switchboard has streams here, in whatever state.
    pub fn has_streams_of(&self, switchboard: &InstanceId) -> bool {
        self.streams.values().any(|stream| stream.owner.switchboard == *switchboard)
    }

    /// Streams of an agent before this one that nobody has asked for, though there was time, with their owners: whether
    /// their calls are still there is to be asked.
    pub fn unasked_for(&self, now_ms: u64) -> Vec<(StreamId, Owner)> {
        let grace_ms = u64::from(self.options.unclaimed_silence_s) * 1000;
        let there_was_time = now_ms.saturating_sub(self.restored_at_ms) >= grace_ms;
        let unasked = self.streams.iter().filter(|(_, it)| there_was_time && !it.claimed && it.worker().is_some());
        unasked.map(|(id, stream)| (*id, stream.owner.clone())).collect()
    }

    /// Its call is there.
    pub fn claim(&mut self, id: StreamId) {
        if let Some(stream) = self.streams.get_mut(&id) {
            stream.claimed = true;
        }
    }
}
