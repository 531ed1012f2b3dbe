//! What the dataplane tells, and the sweep over its tables: who is to hear of it, and what is to be closed.

use super::{Service, lock, now_ms, random};
use crate::agent::Owner;
use crate::ring_client::News;
use crate::service::reports::Kind;
use crate::stats;
use nebula_bus::contract::Role;
use nebula_bus::contract::to_switchboard::{CallGet, GetCall};
use nebula_bus::{Announcement, Category, Context, Target};
use nebula_ring::command::StreamId;
use nebula_ring::segment::{Counter, Segment};
use nebula_ring::table::FLAG_TIMED_OUT;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long a switchboard may take to say whether it has a call.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Streams that are asked for at once; the others have time.
const ASKED_PER_SWEEP_MAX: usize = 256;

/// Added to the load of an agent that would refuse a call: no agent has so many streams, so others are asked as long as there
/// are any, and among those who refuse the one with the fewest.
const REFUSES_LOAD: u64 = 1 << 32;

impl Service {
    pub(super) fn learn(self: &Arc<Self>, news: News) {
        match news {
            News::Up { id, remote } => {
                self.keep_peer(id);
                self.report(id, Kind::Up { remote });
            }
            News::Silent { id } => self.report(id, Kind::Silent),
            News::Overload { worker, on } => {
                tracing::warn!(worker, overloaded = on, "the load of a worker");
                lock(&self.agent).overload(worker, on);
                self.announce();
            }
            News::Attached(segment) => {
                let found = stats::read_all(&segment);
                let random = random().map_or(0, |random| random.id);
                let workers = segment.sizes().workers;
                let mut agent = lock(&self.agent);
                let arrival = agent.attached(workers, &found, random, now_ms());
                (0..workers)
                    .for_each(|worker| agent.overload(worker, segment.counter(worker, Counter::Overloaded) > 0));
                drop(agent);
                *lock(&self.segment) = Some(segment);
                self.attached.store(true, Ordering::Relaxed);
                self.recover(arrival);
                self.announce();
            }
            News::Lost(segment) => {
                self.attached.store(false, Ordering::Relaxed);
                self.keep_remains(&segment);
                self.announce();
            }
            News::Superseded => {
                self.attached.store(false, Ordering::Relaxed);
                tracing::error!("another media agent has taken the dataplane over; this one does nothing more");
                self.drain();
            }
        }
    }

    /// The segment outlives the dataplane, but not its successor.
    fn keep_remains(self: &Arc<Self>, segment: &Segment) {
        let found = stats::read_remains(segment);
        let mut agent = lock(&self.agent);
        let lost = agent.lost(&found, now_ms());
        self.keep(&mut agent);
        let mut exporter = lock(&self.exporter);
        exporter.sweep(&found);
        exporter.publish(segment, agent.free_ports());
        exporter.suspend();
        drop((exporter, agent));
        *lock(&self.segment) = None;
        let count: usize = lost.values().map(Vec::len).sum();
        *lock(&self.lost_at) = Some(Instant::now());
        metrics::counter!(super::recovery::LOST).increment(1);
        tracing::error!(streams = count, pid = segment.pid(), "the dataplane is gone");
        for (switchboard, streams) in lost {
            self.report_to(switchboard, Kind::DataplaneLost { streams });
        }
    }

    /// Who its peer is shall be known even if agent and dataplane die.
    fn keep_peer(&self, id: StreamId) {
        let mut agent = lock(&self.agent);
        let worker = agent.owner(id).and_then(|_| agent.farewell(&crate::agent::name(id)).ok()?.1.worker);
        if let Some(record) = self.record(id, worker) {
            agent.seen(&record, now_ms());
            self.keep(&mut agent);
        }
    }

    pub(super) fn sweep(self: &Arc<Self>) {
        let Some(segment) = lock(&self.segment).clone().filter(|_| self.attached.load(Ordering::Relaxed)) else {
            return;
        };
        let found = stats::read_all(&segment);
        let mut agent = lock(&self.agent);
        for errand in agent.sweep(&found, now_ms()) {
            tracing::info!(?errand, "closing a stream that nobody claims");
            self.insist(errand);
        }
        self.keep(&mut agent);
        let silent = found.iter().filter(|it| it.record.is(FLAG_TIMED_OUT)).map(|it| StreamId(it.record.id));
        let mut exporter = lock(&self.exporter);
        exporter.sweep(&found);
        exporter.publish(&segment, agent.free_ports());
        self.streams.send_replace(agent.stream_count());
        let unasked = agent.unasked_for(now_ms());
        drop((exporter, agent));
        self.announce();
        for (id, owner) in unasked.into_iter().take(ASKED_PER_SWEEP_MAX) {
            self.ask_for(id, owner);
        }
        // The dataplane reports a silence once: the ring may have been full, the switchboard away, the call ringing.
        silent.for_each(|id| self.report(id, Kind::Silent));
    }

    /// Whether a stream of the agent before belongs to a call that is there; else it is closed.
    fn ask_for(self: &Arc<Self>, id: StreamId, owner: Owner) {
        let service = self.clone();
        self.tasks.spawn(async move {
            let (target, context) = (Target::Instance(owner.switchboard), Context::new(ASK_TIMEOUT));
            let asked = service.bus.call::<CallGet>(&target, GetCall { call_id: owner.call_id }, &context);
            let asked = tokio::select! {
                () = service.stop.cancelled() => return,
                asked = asked => asked,
            };
            let name = crate::agent::name(id);
            match asked {
                Ok(call) if call.streams.contains(&name) => lock(&service.agent).claim(id),
                Err(error) if error.category != Category::Business => {}
                Ok(_) | Err(_) => {
                    tracing::info!(id = %name, "closing a stream of a call that is gone");
                    let destroyed = service.clone().destroy(&super::Stream { stream_id: name });
                    let _ = destroyed.await;
                }
            }
        });
    }

    pub(super) fn announce(&self) {
        let takes_calls = lock(&self.agent).takes_calls();
        let load = *self.streams.borrow() as u64 + if takes_calls { 0 } else { REFUSES_LOAD };
        let announcement = Announcement::new(Role::Media, self.instance.clone(), env!("CARGO_PKG_VERSION"));
        self.bus.announce(announcement.load(load).draining(!self.is_ready()));
    }
}
