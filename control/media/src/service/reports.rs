//! What switchboards are told, each in the order in which it happened, until it has heard it: a report that cannot be
//! delivered waits, and goes to whoever owns the stream by then.

use super::{Service, lock};
use nebula_bus::contract::to_switchboard::{
    DataplaneBack, DataplaneLost, DataplaneState, StreamEvent, StreamTimeout, StreamUp,
};
use nebula_bus::contract::{self, Accepted, InstanceId, Method};
use nebula_bus::{Category, Context, Target};
use nebula_ring::command::StreamId;
use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

/// One delivery's time, its repetitions included.
const NOTICE_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause before a switchboard that could not be reached is tried again.
const PAUSE: Duration = Duration::from_millis(500);
/// Reports that may wait for one switchboard; of more, the oldest goes. What they tell can be read from the tables.
const WAITING_MAX: usize = 16_384;

/// What is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// The latch closed.
    Up { remote: SocketAddr },
    /// No RTP comes.
    Silent,
    /// These streams are gone for now.
    DataplaneLost { streams: Vec<contract::StreamId> },
    /// Those that are alive when it is told; none else.
    DataplaneBack,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Report {
    /// None: about all streams of that switchboard.
    stream: Option<StreamId>,
    kind: Kind,
}

/// Reports that wait, by switchboard. A switchboard that is here has a task that tells it.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<HashMap<InstanceId, VecDeque<Report>>>);

impl Service {
    /// Tells the stream's owner.
    pub(super) fn report(self: &Arc<Self>, id: StreamId, kind: Kind) {
        let owner = lock(&self.agent).owner(id).map(|owner| owner.switchboard.clone());
        if let Some(switchboard) = owner {
            self.post(switchboard, Report { stream: Some(id), kind });
        }
    }

    /// Tells a switchboard of all its streams.
    pub(super) fn report_to(self: &Arc<Self>, switchboard: InstanceId, kind: Kind) {
        self.post(switchboard, Report { stream: None, kind });
    }

    /// Streams have another owner: what waits for their former one goes to it.
    pub(super) fn readdress_reports(self: &Arc<Self>, owner: &InstanceId) {
        let mut moved = Vec::new();
        let agent = lock(&self.agent);
        for (switchboard, waiting) in lock(&self.reports.0).iter_mut().filter(|(switchboard, _)| *switchboard != owner)
        {
            let is_moved = |report: &Report| {
                let stream = report.stream.and_then(|id| agent.owner(id));
                stream.is_some_and(|stream| stream.switchboard != *switchboard)
            };
            let (go, stay): (VecDeque<Report>, VecDeque<Report>) = waiting.drain(..).partition(is_moved);
            *waiting = stay;
            moved.extend(go);
        }
        drop(agent);
        for report in moved {
            self.post(owner.clone(), report);
        }
    }

    fn post(self: &Arc<Self>, switchboard: InstanceId, report: Report) {
        let mut waiting = lock(&self.reports.0);
        let is_new = !waiting.contains_key(&switchboard);
        let queue = waiting.entry(switchboard.clone()).or_default();
        if queue.contains(&report) {
            return;
        }
        if queue.len() == WAITING_MAX {
            queue.pop_front();
        }
        queue.push_back(report);
        drop(waiting);
        if is_new {
            let service = self.clone();
            self.tasks.spawn(async move {
                tokio::select! {
                    () = service.stop.cancelled() => {}
                    () = service.tell_all(&switchboard) => {}
                }
            });
        }
    }

    /// Until nothing waits for it.
    async fn tell_all(&self, switchboard: &InstanceId) {
        while let Some(report) = self.next_report(switchboard) {
            if self.tell(switchboard, &report).await {
                // It may have been readdressed meanwhile.
                if let Some(queue) = lock(&self.reports.0).get_mut(switchboard)
                    && queue.front() == Some(&report)
                {
                    queue.pop_front();
                }
            } else {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// The first of those that wait; none ends the task, and its queue with it.
    fn next_report(&self, switchboard: &InstanceId) -> Option<Report> {
        let mut reports = lock(&self.reports.0);
        let next = reports.get(switchboard).and_then(|queue| queue.front().cloned());
        if next.is_none() {
            reports.remove(switchboard);
        }
        next
    }

    /// Whether it is done with: heard, refused for good, or void.
    async fn tell(&self, switchboard: &InstanceId, report: &Report) -> bool {
        if report.stream.is_none() && !lock(&self.agent).has_streams_of(switchboard) {
            // They have ended, or are another's by now.
            return true;
        }
        let state = |streams| DataplaneState { media: self.instance.clone(), streams };
        match &report.kind {
            Kind::Up { remote } => self.tell_of::<StreamUp>(switchboard, report.stream, Some(*remote)).await,
            Kind::Silent => self.tell_of::<StreamTimeout>(switchboard, report.stream, None).await,
            Kind::DataplaneLost { streams } => self.call::<DataplaneLost>(switchboard, state(streams.clone())).await,
            Kind::DataplaneBack => {
                let is_back = lock(&self.lost_at).is_none();
                let alive = lock(&self.agent).alive_of(switchboard);
                // Lost again: there will be another report.
                !is_back || self.call::<DataplaneBack>(switchboard, state(alive)).await
            }
        }
    }

    async fn tell_of<M>(&self, switchboard: &InstanceId, id: Option<StreamId>, remote: Option<SocketAddr>) -> bool
    where
        M: Method<Params = StreamEvent, Reply = Accepted>,
    {
        let owner = id.and_then(|id| Some((id, lock(&self.agent).owner(id).cloned()?)));
        let Some((id, owner)) = owner.filter(|(_, owner)| owner.switchboard == *switchboard) else { return true };
        let event = StreamEvent {
            stream_id: crate::agent::name(id),
            call_id: owner.call_id,
            channel_id: owner.channel_id,
            remote: remote.map(|remote| remote.to_string()),
        };
        self.call::<M>(switchboard, event).await
    }

    async fn call<M: Method>(&self, switchboard: &InstanceId, params: M::Params) -> bool
    where
        M::Params: Clone,
    {
        let (target, context) = (Target::Instance(switchboard.clone()), Context::new(NOTICE_TIMEOUT));
        match self.bus.call_retrying::<M>(&target, params, &context).await {
            Ok(_) => true,
            Err(error) => {
                tracing::warn!(%error, method = M::NAME, ?target, "a switchboard was not told");
                error.category != Category::Transient
            }
        }
    }
}
