//! The dataplane's client: attaches, sends commands, waits for their answers, attaches again when the dataplane is gone.
//!
//! Used by `service` alone. A task per worker drains its event ring when the eventfd says so; commands are sent from
//! whichever task has one, without waiting: a full ring, or too many answers outstanding, is `Busy` at once. Commands to
//! one worker are carried out in the order of `submit`.

use nebula_ring::attach::{self, Connection, Lost};
use nebula_ring::command::{Command, StreamId};
use nebula_ring::event::{Event, Reason};
use nebula_ring::segment::Segment;
use nebula_ring::{Attached, Dataplane, SendError, WorkerHandle};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Commands of one worker that may wait for their answers; one more is `Busy`. A worker takes 64 a turn.
pub const OUTSTANDING_MAX: usize = 1024;
/// News that may wait for the agent; then the event rings fill, and the dataplane counts what it drops.
const NEWS_MAX: usize = 1024;
/// The first pause between attempts to attach. A dataplane that has just gone is started again at once.
const ATTACH_PAUSE_MS_MIN: u64 = 10;
/// Attempts before the pauses begin to double.
const ATTACH_ATTEMPTS_QUICK: u32 = 200;
/// The longest such pause.
const ATTACH_PAUSE_MS_MAX: u64 = 1_000;

/// What the dataplane has to tell.
#[derive(Debug)]
pub enum News {
    /// It is there: read the tables. Commands are accepted from now on.
    Attached(Segment),
    /// It is gone; its last statistics can still be read. Commands fail until it is back.
    Lost(Segment),
    /// Another media agent has taken it over. This one will not fight for it.
    Superseded,
    /// A stream's latch closed.
    Up {
        /// The stream.
        id: StreamId,
        /// Its peer.
        remote: SocketAddr,
    },
    /// A stream is silent.
    Silent {
        /// The stream.
        id: StreamId,
    },
    /// A worker has more to do than it should, or no longer.
    Overload {
        /// Which.
        worker: usize,
        /// Whether.
        on: bool,
    },
}

/// Why a command failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The ring, or the list of outstanding answers, is full.
    #[error("the dataplane is busy")]
    Busy,
    /// No dataplane is attached, or it went away before it answered.
    #[error("the dataplane is gone")]
    Gone,
    /// No answer in time.
    #[error("the dataplane did not answer in time")]
    TimedOut,
    /// It answered so.
    #[error("the dataplane refused: {0:?}")]
    Refused(Reason),
}

/// The client's handle; clones share the attachment.
#[derive(Debug, Clone)]
pub struct RingClient {
    lanes: Arc<Mutex<Vec<Lane>>>,
    timeout: Duration,
}

type Lane = Arc<Mutex<LaneState>>;

#[derive(Debug)]
struct LaneState {
    handle: WorkerHandle,
    correlation_last: u64,
    outstanding: HashMap<u64, oneshot::Sender<Result<(), Error>>>,
}

impl RingClient {
    /// Attaches, and keeps attaching, until `stop`. The second half is the task that does it.
    pub fn new(
        path: PathBuf,
        timeout: Duration,
        stop: CancellationToken,
    ) -> (Self, mpsc::Receiver<News>, impl Future<Output = ()> + Send + 'static) {
        let client = Self { lanes: Arc::default(), timeout };
        let (sender, news) = mpsc::channel(NEWS_MAX);
        let keeper = client.clone();
        let run = async move {
            tokio::select! {
                () = stop.cancelled() => keeper.let_go(),
                () = keeper.stay_attached(&path, sender) => {}
            }
        };
        (client, news, run)
    }

    /// Sends a command, now; the future waits for its answer. Dropping it does not take the command back.
    pub fn submit(&self, worker: usize, command: &Command) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let lane = lock(&self.lanes).get(worker).cloned().ok_or(Error::Gone);
        let sent = lane.and_then(|lane| {
            let (correlation, answer) = lock(&lane).send(command)?;
            Ok((lane, correlation, answer))
        });
        let timeout = self.timeout;
        async move {
            let (lane, correlation, answer) = sent?;
            let answer = tokio::time::timeout(timeout, answer).await;
            lock(&lane).outstanding.remove(&correlation);
            answer.map_err(|_| Error::TimedOut)?.unwrap_or(Err(Error::Gone))
        }
    }

    async fn stay_attached(&self, path: &Path, news: mpsc::Sender<News>) {
        let (mut pause_ms, mut attempts) = (ATTACH_PAUSE_MS_MIN, 0);
        loop {
            let path = path.to_owned();
            let attached = tokio::task::spawn_blocking(move || Dataplane::attach(&path)).await;
            match attached {
                Ok(Ok(attached)) => {
                    (pause_ms, attempts) = (ATTACH_PAUSE_MS_MIN, 0);
                    match self.serve(attached, &news).await {
                        Ok(Lost::Died) => {}
                        Ok(Lost::Superseded) => return drop(news.send(News::Superseded).await),
                        Err(error) => tracing::error!(%error, "cannot watch the dataplane"),
                    }
                }
                Ok(Err(error)) => complain(&error, pause_ms),
                Err(error) => tracing::error!(%error, "attaching to the dataplane panicked"),
            }
            tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            attempts += 1;
            if attempts > ATTACH_ATTEMPTS_QUICK {
                pause_ms = (pause_ms * 2).min(ATTACH_PAUSE_MS_MAX);
            }
        }
    }

    /// From attached to lost.
    async fn serve(&self, attached: Attached, news: &mpsc::Sender<News>) -> std::io::Result<Lost> {
        let (epoch, segment) = (attached.epoch(), attached.segment().clone());
        let connection = watch(attached.connection)?;
        let mut lanes = Vec::new();
        let mut pumps = JoinSet::new();
        for handle in attached.workers {
            let wakeup = watch(handle.as_fd().try_clone_to_owned()?)?;
            // Apart from every earlier attachment's, so that a late answer to one of those meets nobody.
            let correlation_last = epoch << 32;
            let lane = Arc::new(Mutex::new(LaneState { handle, correlation_last, outstanding: HashMap::new() }));
            pumps.spawn(pump(wakeup, lane.clone(), news.clone()));
            lanes.push(lane);
        }
        *lock(&self.lanes) = lanes;
        tracing::info!(epoch, workers = pumps.len(), "attached to the dataplane");
        let _ = news.send(News::Attached(segment.clone())).await;
        let lost = until_lost(&connection).await;
        pumps.shutdown().await;
        self.let_go();
        if !matches!(lost, Ok(Lost::Superseded)) {
            let _ = news.send(News::Lost(segment)).await;
        }
        lost
    }

    /// Every outstanding command fails as `Gone`.
    fn let_go(&self) {
        for lane in std::mem::take(&mut *lock(&self.lanes)) {
            lock(&lane).outstanding.clear();
        }
    }
}

impl LaneState {
    fn send(&mut self, command: &Command) -> Result<(u64, oneshot::Receiver<Result<(), Error>>), Error> {
        if self.outstanding.len() >= OUTSTANDING_MAX {
            return Err(Error::Busy);
        }
        self.correlation_last += 1;
        self.handle.send(self.correlation_last, command).map_err(|error| match error {
            SendError::Busy => Error::Busy,
            SendError::Superseded => Error::Gone,
        })?;
        let (sender, answer) = oneshot::channel();
        self.outstanding.insert(self.correlation_last, sender);
        Ok((self.correlation_last, answer))
    }

    /// Settles answers on the way to the next thing that is news.
    fn next_news(&mut self) -> Option<News> {
        loop {
            let (correlation, answer) = match self.handle.receive()? {
                Event::Done { correlation } => (correlation, Ok(())),
                Event::Failed { correlation, reason } => (correlation, Err(Error::Refused(reason))),
                Event::StreamUp { id, remote } => return Some(News::Up { id, remote }),
                Event::RtpTimeout { id } => return Some(News::Silent { id }),
                Event::Overload { on } => return Some(News::Overload { worker: self.handle.index(), on }),
            };
            // Nobody waits any more for an answer that came too late.
            if let Some(waiter) = self.outstanding.remove(&correlation) {
                let _ = waiter.send(answer);
            }
        }
    }
}

/// Drains a worker's events whenever there are some.
async fn pump(wakeup: AsyncFd<OwnedFd>, lane: Lane, news: mpsc::Sender<News>) {
    loop {
        match wakeup.readable().await {
            // Before the drain: what comes during it raises readiness anew.
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => return tracing::error!(%error, "cannot wait for the dataplane's events"),
        }
        loop {
            let next = lock(&lane).next_news();
            let Some(next) = next else { break };
            if news.send(next).await.is_err() {
                return;
            }
        }
    }
}

async fn until_lost(connection: &AsyncFd<Connection>) -> std::io::Result<Lost> {
    loop {
        let mut ready = connection.readable().await?;
        match connection.get_ref().lost() {
            Some(lost) => return Ok(lost),
            None => ready.clear_ready(),
        }
    }
}

/// The form without `unsafe`, which this crate forbids. What the newer form asks for holds: both types passed here own
/// their descriptor, never exchange it, and close it only when dropped.
#[expect(deprecated, reason = "`register_with_interest` is unsafe")]
fn watch<T: AsRawFd>(file: T) -> std::io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(file, Interest::READABLE)
}

/// A dataplane that is only late is no news; one that cannot be used is.
fn complain(error: &attach::Error, pause_ms: u64) {
    match error {
        attach::Error::Unreachable { .. } if pause_ms < ATTACH_PAUSE_MS_MAX => {
            tracing::debug!(%error, "no dataplane yet")
        }
        _ => tracing::warn!(%error, "no dataplane"),
    }
}

/// What a panic elsewhere left behind is consistent: every critical section here is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
