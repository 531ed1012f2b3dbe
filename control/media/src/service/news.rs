//! What the dataplane tells, and the sweep over its tables: who is to hear of it, and what is to be closed.

use super::{Service, insist, lock, now_ms, random};
use crate::agent::BySwitchboard;
use crate::ring_client::News;
use crate::stats;
use nebula_bus::contract::to_switchboard::{
    DataplaneBack, DataplaneLost, DataplaneState, StreamEvent, StreamTimeout, StreamUp,
};
use nebula_bus::contract::{Accepted, InstanceId, Method, Role};
use nebula_bus::{Announcement, Context, Target};
use nebula_ring::command::StreamId;
use nebula_ring::segment::Segment;
use nebula_ring::table::FLAG_TIMED_OUT;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// How long a switchboard is told something again that it did not take.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);

impl Service {
    pub(super) fn learn(&self, news: News) {
        match news {
            News::Up { id, remote } => self.tell_of::<StreamUp>(id, Some(remote)),
            News::Silent { id } => self.tell_of::<StreamTimeout>(id, None),
            News::Attached(segment) => {
                let found = stats::read_all(&segment);
                let random = random().map_or(0, |random| random.id);
                let back = lock(&self.agent).attached(segment.sizes().workers, &found, random, now_ms());
                *lock(&self.segment) = Some(segment);
                self.attached.store(true, Ordering::Relaxed);
                self.announce();
                self.tell_all::<DataplaneBack>(back);
            }
            News::Lost(segment) => {
                self.attached.store(false, Ordering::Relaxed);
                self.keep_last_records(&segment);
                let lost = lock(&self.agent).lost(now_ms());
                let count: usize = lost.values().map(Vec::len).sum();
                tracing::error!(streams = count, pid = segment.pid(), "the dataplane is gone");
                self.announce();
                self.tell_all::<DataplaneLost>(lost);
            }
            News::Superseded => {
                self.attached.store(false, Ordering::Relaxed);
                tracing::error!("another media agent has taken the dataplane over; this one does nothing more");
                self.drain();
            }
        }
    }

    /// The segment outlives the dataplane, but not its successor.
    fn keep_last_records(&self, segment: &Segment) {
        let found = stats::read_all(segment);
        let agent = lock(&self.agent);
        let ours =
            found.iter().map(|it| (StreamId(it.record.id), it.record)).filter(|(id, _)| agent.owner(*id).is_some());
        lock(&self.last_records).extend(ours);
        let mut exporter = lock(&self.exporter);
        exporter.sweep(&found);
        exporter.publish(segment, agent.free_ports());
        exporter.sweep(&[]);
        *lock(&self.segment) = None;
    }

    pub(super) fn sweep(&self) {
        let Some(segment) = lock(&self.segment).clone().filter(|_| self.attached.load(Ordering::Relaxed)) else {
            return;
        };
        let found = stats::read_all(&segment);
        let mut agent = lock(&self.agent);
        for errand in agent.sweep(&found, now_ms()) {
            tracing::info!(?errand, "closing a stream that nobody claims");
            self.tasks.spawn(insist(self.ring.clone(), self.ring.submit(errand.0, &errand.1), errand));
        }
        let silent = found.iter().filter(|it| it.record.is(FLAG_TIMED_OUT)).map(|it| StreamId(it.record.id));
        let mut exporter = lock(&self.exporter);
        exporter.sweep(&found);
        exporter.publish(&segment, agent.free_ports());
        lock(&self.last_records).retain(|id, _| agent.owner(*id).is_some());
        self.streams.send_replace(agent.stream_count());
        drop(agent);
        self.announce();
        // The dataplane reports a silence once: the ring may have been full, the switchboard away, the call ringing.
        silent.for_each(|id| self.tell_of::<StreamTimeout>(id, None));
    }

    pub(super) fn announce(&self) {
        let load = *self.streams.borrow() as u64;
        let announcement = Announcement::new(Role::Media, self.instance.clone(), env!("CARGO_PKG_VERSION"));
        self.bus.announce(announcement.load(load).draining(!self.is_ready()));
    }

    fn tell_of<M: Method<Params = StreamEvent, Reply = Accepted>>(&self, id: StreamId, remote: Option<SocketAddr>) {
        let Some(owner) = lock(&self.agent).owner(id).cloned() else { return };
        let event = StreamEvent {
            stream_id: crate::agent::name(id),
            call_id: owner.call_id,
            channel_id: owner.channel_id,
            remote: remote.map(|remote| remote.to_string()),
        };
        self.tell::<M>(owner.switchboard, event);
    }

    fn tell_all<M: Method<Params = DataplaneState, Reply = Accepted>>(&self, streams: BySwitchboard) {
        for (switchboard, streams) in streams {
            self.tell::<M>(switchboard, DataplaneState { media: self.instance.clone(), streams });
        }
    }

    fn tell<M: Method>(&self, switchboard: InstanceId, params: M::Params)
    where
        M::Params: Clone,
    {
        let (bus, stop) = (self.bus.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            let (target, context) = (Target::Instance(switchboard), Context::new(NOTICE_TIMEOUT));
            let told = tokio::select! {
                () = stop.cancelled() => return,
                told = bus.call_retrying::<M>(&target, params, &context) => told,
            };
            if let Err(error) = told {
                tracing::warn!(%error, method = M::NAME, ?target, "a switchboard was not told");
            }
        });
    }
}
