//! The agent's shell: requests from the bus, news from the dataplane and the sweep come in here; nothing is decided here.
//!
//! One task reads the inbox. What a request decides is decided, and its commands are submitted, before the next request
//! is read; only the waiting for the dataplane is left to a task of the request's own. So steps of a stream take effect
//! in the order in which they were asked for.

mod news;

use crate::agent::{Agent, Draft, Errand, Farewell, Random};
use crate::error::Error;
use crate::metrics::Exporter;
use crate::options::Options;
use crate::ring_client::{Error as RingError, News, RingClient};
use crate::{route, stats};
use nebula_bus::contract::to_media::{
    Bridge, BridgeCreate, BridgeDestroy, Create, Created, Negotiated, Stream, StreamCreate, StreamDestroy, StreamGet,
    StreamUpdate, Update,
};
use nebula_bus::contract::{Accepted, InstanceId, StreamStats};
use nebula_bus::{Bus, Inbox, Request, dispatch};
use nebula_ring::command::{Command, StreamId};
use nebula_ring::event::Reason;
use nebula_ring::segment::Segment;
use nebula_ring::table::StreamRecord;
use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How often the tables are read, for metrics and for streams that nobody claims.
const SWEEP: Duration = Duration::from_secs(5);
/// Pairs of ports that are tried for a stream, should others hold them.
const PORT_ATTEMPTS_MAX: usize = 16;
/// How often a stream's end is sent again to a busy dataplane.
const DESTROY_ATTEMPTS_MAX: u32 = 8;
/// The pause between such attempts; it doubles each time.
const DESTROY_PAUSE: Duration = Duration::from_millis(10);

pub(crate) struct Service {
    bus: Bus,
    instance: InstanceId,
    ring: RingClient,
    agent: Mutex<Agent>,
    /// The attached dataplane's.
    segment: Mutex<Option<Segment>>,
    /// The last records of streams that were lost with their dataplane, until they are destroyed: they are billed too.
    last_records: Mutex<HashMap<StreamId, StreamRecord>>,
    exporter: Mutex<Exporter>,
    attached: AtomicBool,
    draining: AtomicBool,
    streams: watch::Sender<usize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Service {
    pub fn new(options: Options, bus: Bus, instance: InstanceId, ring: RingClient, stop: CancellationToken) -> Self {
        Exporter::describe();
        Self {
            bus,
            instance,
            ring,
            agent: Mutex::new(Agent::new(options)),
            segment: Mutex::new(None),
            last_records: Mutex::default(),
            exporter: Mutex::default(),
            attached: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            streams: watch::Sender::new(0),
            tasks: TaskTracker::new(),
            stop,
        }
    }

    pub fn is_ready(&self) -> bool {
        self.attached.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.announce();
    }

    /// How many streams the agent owns, as it changes.
    pub fn streams(&self) -> watch::Receiver<usize> {
        self.streams.subscribe()
    }

    /// Until `stop`; then waits for the requests under way.
    pub async fn run(self: Arc<Self>, mut inbox: Inbox, mut news: mpsc::Receiver<News>) {
        let mut sweep = tokio::time::interval(SWEEP);
        // Not attached yet: nobody should send calls here.
        self.announce();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                Some(news) = news.recv() => self.learn(news),
                request = inbox.recv() => match request {
                    Some(request) => self.answer(request),
                    None => break,
                },
                _ = sweep.tick() => self.sweep(),
            }
        }
        drop(inbox);
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn answer(self: &Arc<Self>, request: Request) {
        dispatch!(request; {
            StreamCreate => |create, call| {
                let (service, created) = (self.clone(), self.clone().create(create));
                self.tasks.spawn(async move {
                    let created = created.await;
                    if let Ok(Created { stream_id, .. }) = &created
                        && call.context().remaining().is_zero()
                    {
                        // Nobody waits for the answer any more, so nobody would ever end it.
                        let _ = service.destroy(&Stream { stream_id: stream_id.clone() }).await;
                    }
                    call.reply(created.map_err(Into::into));
                });
            },
            StreamUpdate => |update, call| {
                let updated = self.update(&update);
                self.tasks.spawn(async move { call.reply(updated.await.map_err(Into::into)) });
            },
            BridgeCreate => |bridge, call| {
                let bridged = self.bridge(&bridge);
                self.tasks.spawn(async move { call.reply(bridged.await.map_err(Into::into)) });
            },
            BridgeDestroy => |bridge, call| {
                let parted = self.unbridge(&bridge);
                self.tasks.spawn(async move { call.reply(parted.await.map_err(Into::into)) });
            },
            StreamDestroy => |stream, call| {
                let destroyed = self.clone().destroy(&stream);
                self.tasks.spawn(async move { call.reply(destroyed.await.map_err(Into::into)) });
            },
            StreamGet => |stream, call| call.reply(self.stats(&stream).map_err(Into::into)),
        });
    }
}

/// Requests. The part before the future is done when the function returns.
impl Service {
    fn create(self: Arc<Self>, create: Create) -> impl Future<Output = Result<Created, Error>> + Send + use<> {
        let first = random().and_then(|random| {
            let mut agent = lock(&self.agent);
            let draft = agent.draft(&create, random, route::towards)?;
            let (worker, command) = draft.errand();
            let answer = self.ring.submit(worker, &command);
            Ok((draft, answer))
        });
        async move {
            let (mut draft, answer) = first?;
            match self.place(&mut draft, answer).await {
                Ok(()) => Ok(self.admit(draft)),
                Err(error) => {
                    if error == Error::Dataplane(RingError::TimedOut) {
                        // It may come to be yet, and nobody would know of it.
                        let errand = draft.undoing();
                        self.tasks.spawn(insist(self.ring.clone(), self.ring.submit(errand.0, &errand.1), errand));
                    }
                    lock(&self.agent).abandon(draft);
                    Err(error)
                }
            }
        }
    }

    /// Waits for the dataplane to take a stream in, on other ports if it must be.
    async fn place(
        &self,
        draft: &mut Draft,
        first: impl Future<Output = Result<(), RingError>> + Send,
    ) -> Result<(), Error> {
        let mut answer = first.await;
        for _ in 1..PORT_ATTEMPTS_MAX {
            if answer != Err(RingError::Refused(Reason::PortInUse)) {
                break;
            }
            lock(&self.agent).move_ports(draft)?;
            let (worker, command) = draft.errand();
            let again = self.ring.submit(worker, &command);
            answer = again.await;
        }
        Ok(answer?)
    }

    fn admit(&self, draft: Draft) -> Created {
        let mut agent = lock(&self.agent);
        let (stream_id, sdp) = agent.admit(draft);
        self.streams.send_replace(agent.stream_count());
        Created { stream_id, media: self.instance.clone(), sdp }
    }

    fn update(self: &Arc<Self>, update: &Update) -> impl Future<Output = Result<Negotiated, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let stepped = agent.step(&update.stream_id, &update.step);
        let done = stepped.map(|(negotiated, errands)| (negotiated, self.submit(errands)));
        async move {
            let (negotiated, done) = done?;
            done.await?;
            Ok(negotiated)
        }
    }

    fn bridge(self: &Arc<Self>, bridge: &Bridge) -> impl Future<Output = Result<Accepted, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let done = agent.bridge(&bridge.a, &bridge.b).map(|errands| self.submit(errands));
        async move {
            done?.await?;
            Ok(Accepted {})
        }
    }

    fn unbridge(self: &Arc<Self>, bridge: &Bridge) -> impl Future<Output = Result<Accepted, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let done = agent.unbridge(&bridge.a, &bridge.b).map(|errands| self.submit(errands));
        async move {
            done?.await?;
            Ok(Accepted {})
        }
    }

    /// The final record is in the table when the dataplane has answered; should its entry be reused by then, the one from
    /// before has to do.
    fn destroy(self: Arc<Self>, stream: &Stream) -> impl Future<Output = Result<StreamStats, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let destroyed = agent.destroy(&stream.stream_id).map(|(id, farewell, errands)| {
            let before = self.record(id, farewell.worker);
            let closing: Vec<_> = errands
                .into_iter()
                .map(|errand| insist(self.ring.clone(), self.ring.submit(errand.0, &errand.1), errand))
                .collect();
            (id, farewell, before, closing)
        });
        self.streams.send_replace(agent.stream_count());
        drop(agent);
        async move {
            let (id, farewell, before, closing) = destroyed?;
            for closed in closing {
                closed.await;
            }
            let record = self.record(id, farewell.worker).or(before);
            match &record {
                Some(record) if farewell.worker.is_some() => lock(&self.exporter).settle(record),
                _ => drop(lock(&self.last_records).remove(&id)),
            }
            Ok(final_stats(record.as_ref(), farewell))
        }
    }

    fn stats(&self, stream: &Stream) -> Result<StreamStats, Error> {
        let (id, farewell) = lock(&self.agent).farewell(&stream.stream_id)?;
        Ok(final_stats(self.record(id, farewell.worker).as_ref(), farewell))
    }

    fn record(&self, id: StreamId, worker: Option<usize>) -> Option<StreamRecord> {
        let Some(worker) = worker else { return lock(&self.last_records).get(&id).copied() };
        let segment = lock(&self.segment).clone()?;
        (worker < segment.sizes().workers).then(|| segment.table(worker).find(id))?
    }

    /// Sends commands in their order; the future waits for all answers and tells of the first that failed.
    fn submit(self: &Arc<Self>, errands: Vec<Errand>) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let service = self.clone();
        let submitted = |errand: Errand| (self.ring.submit(errand.0, &errand.1), errand);
        let answers: Vec<_> = errands.into_iter().map(submitted).collect();
        async move {
            let mut all = Ok(());
            for (answer, errand) in answers {
                let answer = answer.await;
                if answer.is_err() {
                    lock(&service.agent).doubt(&errand);
                }
                all = all.and(answer);
            }
            Ok(all?)
        }
    }
}

/// A stream's end must arrive, or it would flow on unowned. A dataplane that is gone has ended it already.
async fn insist(ring: RingClient, first: impl Future<Output = Result<(), RingError>> + Send, errand: Errand) {
    let (worker, command) = errand;
    let mut answer = first.await;
    let mut pause = DESTROY_PAUSE;
    for _ in 1..DESTROY_ATTEMPTS_MAX {
        if !matches!(answer, Err(RingError::Busy | RingError::TimedOut)) {
            break;
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
        let again = ring.submit(worker, &command);
        answer = again.await;
    }
    match answer {
        Ok(()) | Err(RingError::Gone | RingError::Refused(Reason::UnknownStream)) => {}
        Err(error) => tracing::error!(%error, id = stream_of(&command), "a stream was not closed"),
    }
}

fn stream_of(command: &Command) -> u64 {
    match command {
        Command::CreateStream { id, .. }
        | Command::ResumeStream { id, .. }
        | Command::UpdateStream { id, .. }
        | Command::DestroyStream { id } => id.0,
        Command::CreateBridge { a, .. } | Command::DestroyBridge { a, .. } => a.0,
    }
}

/// The table's word; without a record (a stream that died with its dataplane) what the agent knows itself.
fn final_stats(record: Option<&StreamRecord>, farewell: Farewell) -> StreamStats {
    match record {
        Some(record) => stats::of(record, farewell.codec),
        None => StreamStats {
            codec: farewell.codec,
            local: farewell.local.map(|local| local.to_string()),
            remote: farewell.remote.map(|remote| remote.to_string()),
            ..StreamStats::default()
        },
    }
}

fn random() -> Result<Random, Error> {
    let id = getrandom::u64().map_err(|_| Error::NoRandom)?.max(1);
    let ssrc = getrandom::u32().map_err(|_| Error::NoRandom)?.max(1);
    Ok(Random { id, ssrc })
}

/// The clock of the stream table.
fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// What a panic elsewhere left behind is still the best we know.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
