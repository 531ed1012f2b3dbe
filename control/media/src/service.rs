//! The agent's shell: requests from the bus, news from the dataplane and the sweep come in here; nothing is decided here.
//!
//! One task reads the inbox. What a request decides is decided, and its commands are submitted, before the next request
//! is read; only the waiting for the dataplane is left to a task of the request's own. So steps of a stream take effect
//! in the order in which they were asked for.

mod news;
mod recovery;
mod reports;

use crate::agent::{Agent, Draft, Errand, Farewell, Random};
use crate::error::Error;
use crate::metrics::Exporter;
use crate::options::Options;
use crate::ring_client::{Error as RingError, News, RingClient};
use crate::{route, stats};
use nebula_bus::contract::to_media::{
    AdoptStreams, AdoptedStreams, Bridge, BridgeCreate, BridgeDestroy, Create, Created, Negotiated, Stream,
    StreamAdopt, StreamCreate, StreamDestroy, StreamGet, StreamUpdate, Update,
};
use nebula_bus::contract::{Accepted, InstanceId, StreamId, StreamStats};
use nebula_bus::snapshots::Snapshots;
use nebula_bus::{Bus, Context, Inbox, Membership, Request, dispatch};
use nebula_ring::command::Command;
use nebula_ring::event::Reason;
use nebula_ring::segment::Segment;
use nebula_ring::srtp::SrtpConfig;
use nebula_ring::table::StreamRecord;
use reports::Reports;
use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
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
    snapshots: Snapshots,
    reports: Reports,
    /// The attached dataplane's.
    segment: Mutex<Option<Segment>>,
    exporter: Mutex<Exporter>,
    /// Since when there has been no dataplane, until all is well again.
    lost_at: Mutex<Option<Instant>>,
    attached: AtomicBool,
    draining: AtomicBool,
    streams: watch::Sender<usize>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Service {
    /// With the streams that an agent of the same name had kept; they wait for the dataplane.
    pub fn new(options: Options, bus: Bus, member: Membership, ring: RingClient, stop: CancellationToken) -> Self {
        Exporter::describe();
        recovery::describe();
        let mut agent = Agent::new(options);
        let kept = member.restored.iter().map(|(key, bytes)| (key.as_str(), &bytes[..]));
        for (key, error) in agent.restore(kept, now_ms()) {
            tracing::error!(%key, %error, "a stream of the process before cannot be taken up");
            member.snapshots.delete(key);
        }
        let count = agent.stream_count();
        tracing::info!(streams = count, "took up what was kept");
        Self {
            bus,
            instance: member.instance,
            ring,
            agent: Mutex::new(agent),
            snapshots: member.snapshots,
            reports: Reports::default(),
            segment: Mutex::new(None),
            exporter: Mutex::default(),
            lost_at: Mutex::default(),
            attached: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            streams: watch::Sender::new(count),
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

    /// See `Keys`.
    pub fn keys(&self, id: nebula_ring::StreamId) -> Option<Option<SrtpConfig>> {
        lock(&self.agent).keys(id)
    }

    /// See `Handle::kept`.
    pub async fn kept(&self) {
        self.snapshots.flush().await;
    }

    /// Until `stop`; then waits for the requests under way.
    pub async fn run(self: Arc<Self>, mut inbox: Inbox, mut news: mpsc::Receiver<News>) {
        let mut sweep = tokio::time::interval(SWEEP);
        let mut given_up = false;
        // Not attached yet: nobody should send calls here.
        self.announce();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => break,
                () = self.snapshots.fenced(), if !given_up => {
                    given_up = true;
                    tracing::error!(instance = %self.instance, "another media agent of this name has taken over");
                    self.drain();
                }
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
                if let Some(made) = self.made_before(&create, call.context().fence) {
                    return call.reply(made.map_err(Into::into));
                }
                let (service, created) = (self.clone(), self.clone().create(create, call.context().fence));
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
                let updated = self.allowed(&[&update.stream_id], call.context()).map(|()| self.update(&update));
                let updated = async move { updated?.await };
                self.tasks.spawn(async move { call.reply(updated.await.map_err(Into::into)) });
            },
            BridgeCreate => |bridge, call| {
                let bridged = self.allowed(&[&bridge.a, &bridge.b], call.context()).map(|()| self.bridge(&bridge));
                let bridged = async move { bridged?.await };
                self.tasks.spawn(async move { call.reply(bridged.await.map_err(Into::into)) });
            },
            BridgeDestroy => |bridge, call| {
                let parted = self.allowed(&[&bridge.a, &bridge.b], call.context()).map(|()| self.unbridge(&bridge));
                let parted = async move { parted?.await };
                self.tasks.spawn(async move { call.reply(parted.await.map_err(Into::into)) });
            },
            StreamDestroy => |stream, call| {
                let destroyed =
                    self.allowed(&[&stream.stream_id], call.context()).map(|()| self.clone().destroy(&stream));
                let destroyed = async move { destroyed?.await };
                self.tasks.spawn(async move { call.reply(destroyed.await.map_err(Into::into)) });
            },
            StreamGet => |stream, call| call.reply(self.stats(&stream).map_err(Into::into)),
            StreamAdopt => |adopt, call| call.reply(self.adopt(&adopt).map_err(Into::into)),
        });
    }
}

/// Requests. The part before the future is done when the function returns.
impl Service {
    /// Whether whoever asks may command these streams.
    fn allowed(&self, streams: &[&StreamId], context: &Context) -> Result<(), Error> {
        lock(&self.agent).authorise(streams, context.fence)
    }

    fn adopt(self: &Arc<Self>, adopt: &AdoptStreams) -> Result<AdoptedStreams, Error> {
        let mut agent = lock(&self.agent);
        let alive = agent.adopt(adopt)?;
        self.keep(&mut agent);
        drop(agent);
        self.readdress_reports(&adopt.switchboard);
        Ok(AdoptedStreams { alive })
    }

    /// The answer that an agent before this one gave, or would have given.
    fn made_before(&self, create: &Create, fence: Option<u64>) -> Option<Result<Created, Error>> {
        let made = lock(&self.agent).made_before(create, fence)?;
        Some(made.map(|(stream_id, sdp)| Created { stream_id, media: self.instance.clone(), sdp }))
    }

    /// Hands on what has changed of the streams, to be kept.
    fn keep(&self, agent: &mut Agent) {
        for (key, value) in agent.take_changes(now_ms()) {
            match value {
                Some(value) => self.snapshots.put(key, value),
                None => self.snapshots.delete(key),
            }
        }
    }

    fn create(
        self: Arc<Self>,
        create: Create,
        fence: Option<u64>,
    ) -> impl Future<Output = Result<Created, Error>> + Send + use<> {
        let first = random().and_then(|random| {
            let mut agent = lock(&self.agent);
            let draft = agent.draft(&create, random, fence, route::towards)?;
            let (worker, command) = draft.errand();
            let answer = self.ring.submit(worker, &command);
            Ok((draft, answer))
        });
        async move {
            let (mut draft, answer) = first?;
            match self.place(&mut draft, answer).await {
                Ok(()) => {
                    let errand = draft.undoing();
                    let created = self.admit(draft);
                    if created.is_err() {
                        self.insist(errand);
                    }
                    created
                }
                Err(error) => {
                    if error == Error::Dataplane(RingError::TimedOut) {
                        // It may come to be yet, and nobody would know of it.
                        self.insist(draft.undoing());
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

    fn admit(&self, draft: Draft) -> Result<Created, Error> {
        let mut agent = lock(&self.agent);
        let (stream_id, sdp) = agent.admit(draft).ok_or(RingError::Gone)?;
        self.keep(&mut agent);
        self.streams.send_replace(agent.stream_count());
        Ok(Created { stream_id, media: self.instance.clone(), sdp })
    }

    fn update(self: &Arc<Self>, update: &Update) -> impl Future<Output = Result<Negotiated, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let stepped = agent.step(&update.stream_id, &update.step);
        let done = stepped.map(|(negotiated, errands)| (negotiated, self.submit(errands)));
        self.keep(&mut agent);
        async move {
            let (negotiated, done) = done?;
            done.await?;
            Ok(negotiated)
        }
    }

    fn bridge(self: &Arc<Self>, bridge: &Bridge) -> impl Future<Output = Result<Accepted, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let meeting = agent.meeting(&bridge.a, &bridge.b);
        let moving = meeting.as_ref().ok().copied().flatten().map(|it| {
            let (worker, command) = it.errand();
            (it, self.ring.submit(worker, &command))
        });
        let done = match &moving {
            None => Some(agent.bridge(&bridge.a, &bridge.b).map(|errands| self.submit(errands))),
            Some(_) => None,
        };
        self.keep(&mut agent);
        drop(agent);
        let (service, bridge) = (self.clone(), bridge.clone());
        async move {
            let done = match (moving, done) {
                (Some((it, moved)), _) => {
                    moved.await?;
                    let mut agent = lock(&service.agent);
                    if let Some(end) = agent.moved(it) {
                        service.insist(end);
                    }
                    let done = agent.bridge(&bridge.a, &bridge.b).map(|errands| service.submit(errands));
                    service.keep(&mut agent);
                    done
                }
                (None, Some(done)) => done,
                (None, None) => Err(Error::UnknownStream),
            };
            done?.await?;
            Ok(Accepted {})
        }
    }

    fn unbridge(self: &Arc<Self>, bridge: &Bridge) -> impl Future<Output = Result<Accepted, Error>> + Send + use<> {
        let mut agent = lock(&self.agent);
        let done = agent.unbridge(&bridge.a, &bridge.b).map(|errands| self.submit(errands));
        self.keep(&mut agent);
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
            let closing: Vec<_> = errands.into_iter().map(|errand| self.closing(errand)).collect();
            (id, farewell, before, closing)
        });
        self.keep(&mut agent);
        self.streams.send_replace(agent.stream_count());
        drop(agent);
        async move {
            let (id, farewell, before, closing) = destroyed?;
            for closed in closing {
                closed.await;
            }
            let record = self.record(id, farewell.worker).or(before);
            if let Some(record) = record.as_ref().filter(|_| farewell.worker.is_some()) {
                lock(&self.exporter).settle(record);
            }
            Ok(final_stats(record.as_ref(), farewell))
        }
    }

    fn stats(&self, stream: &Stream) -> Result<StreamStats, Error> {
        let (id, farewell) = lock(&self.agent).farewell(&stream.stream_id)?;
        Ok(final_stats(self.record(id, farewell.worker).as_ref(), farewell))
    }

    fn record(&self, id: nebula_ring::StreamId, worker: Option<usize>) -> Option<StreamRecord> {
        let worker = worker?;
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
                lock(&service.agent).settle_errand(&errand, answer.is_ok());
                all = all.and(answer);
            }
            Ok(all?)
        }
    }
}

/// Ends of streams.
impl Service {
    /// Sends a stream's end, in a task of its own.
    fn insist(self: &Arc<Self>, errand: Errand) {
        self.tasks.spawn(self.closing(errand));
    }

    /// Sends a stream's end at once. It must arrive, or the stream would flow on unowned; a dataplane that is gone has ended
    /// it already, unless only the way to it was cut.
    fn closing(self: &Arc<Self>, errand: Errand) -> impl Future<Output = ()> + Send + use<> {
        let (worker, command) = errand;
        let first = self.ring.submit(worker, &command);
        let service = self.clone();
        async move {
            let mut answer = first.await;
            let mut pause = DESTROY_PAUSE;
            for _ in 1..DESTROY_ATTEMPTS_MAX {
                if !matches!(answer, Err(RingError::Busy | RingError::TimedOut)) {
                    break;
                }
                tokio::time::sleep(pause).await;
                pause *= 2;
                let again = service.ring.submit(worker, &command);
                answer = again.await;
            }
            match answer {
                Ok(()) | Err(RingError::Refused(Reason::UnknownStream)) => {}
                Err(error) => {
                    if let Command::DestroyStream { id } = command {
                        lock(&service.agent).owe_end(id);
                    }
                    if error != RingError::Gone {
                        tracing::error!(%error, id = stream_of(&command), "a stream was not closed");
                    }
                }
            }
        }
    }
}

fn stream_of(command: &Command) -> u64 {
    match command {
        Command::CreateStream { id, .. }
        | Command::ResumeStream { id, .. }
        | Command::UpdateStream { id, .. }
        | Command::MigrateStream { id, .. }
        | Command::DestroyStream { id } => id.0,
        Command::CreateBridge { a, .. } | Command::DestroyBridge { a, .. } => a.0,
    }
}

/// The table's word, or the last one of a dataplane that is gone; without a record what the agent knows itself.
fn final_stats(record: Option<&StreamRecord>, farewell: Farewell) -> StreamStats {
    match record.or(farewell.base.as_deref()) {
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
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|_| Error::NoRandom)?;
    Ok(Random { id, ssrc, seed })
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
