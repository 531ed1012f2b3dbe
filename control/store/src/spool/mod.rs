//! What a call leaves in the database when the database is away: its changes go to a file in order, and from there to the
//! database when it is back, each once in effect.
//!
//! [`Health`] knows whether the database is up; whoever fails to reach it says so ([`Health::suspect`]). A task on a
//! thread of its own ([`task`]) appends, probes and replays. While anything is left to replay, all changes go through the
//! file, so that those of a call keep their order. What the disk has no room for waits in memory, bounded; the end of a
//! call is acknowledged only when it is on a disk.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::calls::Change;
use crate::error::{Away, Error, Result};

mod file;
mod task;

pub(crate) use task::Task;

/// Changes that may be on their way to the task; one more is refused as `Busy`.
const QUEUE_MAX: usize = 8192;

/// How long the database may take for a change of a call until it counts as away.
pub(crate) const NOTICE: Duration = Duration::from_millis(500);

/// How the store stands, for readiness and metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The database answers and takes writes, as far as known.
    pub database_up: bool,
    /// It can be read; a full or read-only one can.
    pub(crate) readable: bool,
    /// Changes on the disk that are not in the database yet.
    pub spooled: u64,
    /// Changes in memory for which the disk has no room.
    pub waiting: u64,
    /// How often the database went away.
    pub outages: u64,
    /// Changes that went to the disk.
    pub spooled_total: u64,
    /// Changes that came from there, or from memory, into the database.
    pub replayed_total: u64,
    /// Changes refused because memory was full too, or by the database for good.
    pub refused_total: u64,
}

impl Status {
    /// Whether a change may go straight to the database.
    fn direct(&self) -> bool {
        self.database_up && self.spooled == 0 && self.waiting == 0
    }
}

/// Whether the database is up. Shared by all handles.
pub(crate) struct Health {
    status: watch::Sender<Status>,
    place: String,
    suspected: Notify,
}

impl Health {
    pub fn new(place: String, up: bool) -> Arc<Self> {
        let status = Status { database_up: up, readable: up, outages: u64::from(!up), ..Status::default() };
        Arc::new(Self { status: watch::Sender::new(status), place, suspected: Notify::new() })
    }

    pub fn subscribe(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    pub fn readable(&self) -> bool {
        self.status.borrow().readable
    }

    pub fn up(&self) -> bool {
        self.status.borrow().database_up
    }

    /// Somebody failed to reach the database.
    pub fn suspect(&self, error: &Error) {
        let readable = error.away() == Some(Away::Unwritable);
        self.status.send_if_modified(|status| {
            let news = status.database_up || (status.readable && !readable);
            if status.database_up {
                status.outages += 1;
                tracing::error!(database = self.place, %error, "the database is away");
            }
            status.database_up = false;
            status.readable &= readable;
            news
        });
        self.suspected.notify_one();
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        self.status.send_modify(change);
    }
}

/// Where spool files are, and whose they are.
#[derive(Debug, Clone)]
pub(crate) struct Folder {
    pub path: PathBuf,
    pub instance: String,
}

/// The handle of the task; clones share it. The task ends with the last one.
#[derive(Clone)]
pub(crate) struct Spooler {
    pub health: Arc<Health>,
    /// Whether there is a folder.
    spools: bool,
    queue: mpsc::Sender<Message>,
}

enum Message {
    Take(Box<Entry>),
    Close(oneshot::Sender<()>),
}

/// A change on its way to the disk.
struct Entry {
    change: Change,
    line: Vec<u8>,
    /// Told when it is safe; gone when it was told.
    done: Option<oneshot::Sender<Result<()>>>,
}

impl Spooler {
    /// Whether a change of a call must go this way, and can.
    pub fn takes(&self) -> bool {
        self.spools && !self.health.status.borrow().direct()
    }

    /// Whether a change can go this way if the database fails.
    pub fn spools(&self) -> bool {
        self.spools
    }

    /// Takes a change; returns when it is safe.
    pub async fn take(&self, change: Change) -> Result<()> {
        let line = file::encode(&change).map_err(|error| Error::Spool(error.to_string()))?;
        let (done, safe) = oneshot::channel();
        match self.queue.try_send(Message::Take(Box::new(Entry { change, line, done: Some(done) }))) {
            Ok(()) => safe.await.unwrap_or(Err(Error::Closed)),
            Err(TrySendError::Full(_)) => Err(Error::Busy(QUEUE_MAX)),
            Err(TrySendError::Closed(_)) => Err(Error::Closed),
        }
    }

    /// Ends the task; what is spooled stays for the next start.
    pub async fn close(&self) {
        let (closed, done) = oneshot::channel();
        if self.queue.send(Message::Close(closed)).await.is_ok() {
            // An error means that it has ended already.
            let _ = done.await;
        }
    }
}
