//! Group commit: one task owns the one writing connection, takes the writes that wait, runs them in one transaction and
//! tells their callers after COMMIT. At 200 calls/s this makes of some 600 write transactions about 200.
//!
//! The task has a thread of its own: each statement is a round trip to the connection's thread, and on a runtime that is
//! busy with calls each of these would wait for all the rest of a turn, so that groups, and set-up times with them, grow
//! just when there is the least time.
//!
//! A write says how long it can wait for company ([`Patience`]); an urgent one takes all that wait along. Writes of one
//! group see each other. If one fails, the group is rolled back and each is run again in a transaction of its own, so a
//! failure costs time but never touches its neighbours. Outbox rows of a group are inserted with one statement.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::BoxFuture;
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseTransaction, DbErr, EntityTrait, TransactionTrait};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::database::{Database, Pools};
use crate::entity::outbox;
use crate::error::{Error, Result};
use crate::postgres;
use crate::store::WriteCounts;

/// Writes that may wait; one more is refused at once as `Busy`.
const QUEUE_WRITES_MAX: usize = 8192;

/// Writes in one group: bounds how long the first of them waits for the last.
const GROUP_WRITES_MAX: usize = 256;

/// The writer's thread, as `top -H` shows it.
const THREAD: &str = "store-writer";

/// The longest that a group may take: one connection of SQLite waits 5 s for another process; no server takes longer.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(8);

/// How long, after its last write, the task waits for whoever closes the store to close the readers.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// How long a write can wait for company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// A call waits for it.
    None,
    /// Nobody notices 10 ms.
    Some,
    /// Only the next commit's company counts; 50 ms when there is none.
    Much,
}

impl Patience {
    fn duration(self) -> Duration {
        match self {
            Patience::None => Duration::ZERO,
            Patience::Some => Duration::from_millis(10),
            Patience::Much => Duration::from_millis(50),
        }
    }
}

/// The open transaction of a group.
pub(crate) struct Transaction {
    db: DatabaseTransaction,
    outbox: Mutex<Vec<outbox::ActiveModel>>,
    alone: bool,
}

impl Transaction {
    /// Where statements run.
    pub fn db(&self) -> &DatabaseTransaction {
        &self.db
    }

    /// Keeps other transactions from changing the same, until this one ends. SQLite has no other.
    ///
    /// # Errors
    /// `Contended`, and the write is run again alone: a group that waited for one lock while it holds others could wait
    /// for a group that waits for it.
    pub async fn lock(&self, table: &'static str, key: &str) -> Result<()> {
        match self.db.get_database_backend() {
            DatabaseBackend::Postgres => postgres::lock(&self.db, table, key, self.alone).await,
            _ => Ok(()),
        }
    }

    /// Adds an event, to be inserted with this transaction's others.
    pub fn emit(&self, event: outbox::ActiveModel) {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

/// The handle of the writer task; clones share it.
#[derive(Clone)]
pub(crate) struct Writer {
    queue: mpsc::Sender<Message>,
    counters: Arc<Counters>,
}

enum Message {
    Write(Queued),
    Close(oneshot::Sender<()>),
}

struct Queued {
    job: Box<dyn Job>,
    run_by: Instant,
}

impl Writer {
    /// Starts the task and its thread. They end with the last handle.
    pub fn start(pools: Arc<Pools>, outbox_filled: Arc<Notify>) -> std::io::Result<Self> {
        let (queue, messages) = mpsc::channel(QUEUE_WRITES_MAX);
        let counters = Arc::new(Counters::default());
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        match &pools.database {
            // Timers alone: without sockets to watch, a wake-up is one futex call.
            Database::Sqlite(_) => runtime.enable_time(),
            Database::Postgres(_) => runtime.enable_all(),
        };
        let runtime = runtime.build()?;
        let task = Task { pools, messages, outbox_filled, counters: counters.clone(), unsure: AtomicBool::new(false) };
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(move || runtime.block_on(task.run()))?;
        Ok(Self { queue, counters })
    }

    /// Queues a write and waits for its commit. It is done even if the caller stops waiting.
    pub async fn write<I, T>(
        &self,
        patience: Patience,
        input: I,
        run: for<'a> fn(&'a Transaction, &'a I) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        self.queue(patience, input, run, false).await
    }

    /// The same, but passed over if the caller has stopped waiting before its turn: it goes another way then.
    pub async fn write_while_waited<I, T>(
        &self,
        patience: Patience,
        input: I,
        run: for<'a> fn(&'a Transaction, &'a I) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        self.queue(patience, input, run, true).await
    }

    async fn queue<I, T>(
        &self,
        patience: Patience,
        input: I,
        run: for<'a> fn(&'a Transaction, &'a I) -> BoxFuture<'a, Result<T>>,
        while_waited: bool,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        let (reply, committed) = oneshot::channel();
        let job = Box::new(Write { input, run, while_waited, output: None, reply: Some(reply) });
        let queued = Queued { job, run_by: Instant::now() + patience.duration() };
        match self.queue.try_send(Message::Write(queued)) {
            Ok(()) => committed.await.unwrap_or(Err(Error::Closed)),
            Err(TrySendError::Full(_)) => {
                self.counters.busy.fetch_add(1, Ordering::Relaxed);
                Err(Error::Busy(QUEUE_WRITES_MAX))
            }
            Err(TrySendError::Closed(_)) => Err(Error::Closed),
        }
    }

    /// Ends the task after the writes that were queued before.
    pub async fn close(&self) {
        let (closed, done) = oneshot::channel();
        if self.queue.send(Message::Close(closed)).await.is_ok() {
            // An error means that it has ended already.
            let _ = done.await;
        }
    }

    pub fn counts(&self) -> WriteCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        WriteCounts {
            commits: read(&self.counters.commits),
            writes: read(&self.counters.writes),
            reruns: read(&self.counters.reruns),
            busy: read(&self.counters.busy),
        }
    }
}

#[derive(Default)]
struct Counters {
    commits: AtomicU64,
    writes: AtomicU64,
    reruns: AtomicU64,
    busy: AtomicU64,
}

struct Task {
    pools: Arc<Pools>,
    messages: mpsc::Receiver<Message>,
    outbox_filled: Arc<Notify>,
    counters: Arc<Counters>,
    /// A transaction may not have ended on the writing connection.
    unsure: AtomicBool,
}

impl Task {
    async fn run(mut self) {
        let closed = loop {
            let first = match self.messages.recv().await {
                Some(Message::Write(first)) => first,
                Some(Message::Close(closed)) => break Some(closed),
                None => break None,
            };
            let mut group = Vec::with_capacity(16);
            let closed = self.gather(first, &mut group).await;
            self.commit(group).await;
            if closed.is_some() {
                break closed;
            }
        };
        // First refuse what comes later, then say so; whoever closed may have stopped waiting.
        self.messages.close();
        if let Some(closed) = closed {
            let _ = closed.send(());
            if let Database::Sqlite(_) = self.pools.database {
                let writer = self.pools.writer();
                let being_closed = writer.get_sqlite_connection_pool().close_event();
                let _ = timeout(CLOSE_TIMEOUT, being_closed).await;
            }
        }
        // The connection's way back from the last transaction to its pool is a task on this runtime: not to be cut short.
        let _ = timeout(CLOSE_TIMEOUT, self.pools.writer().close()).await;
    }

    /// Collects writes until the least patient of them must run.
    async fn gather(&mut self, first: Queued, group: &mut Vec<Box<dyn Job>>) -> Option<oneshot::Sender<()>> {
        let mut run_by = first.run_by;
        group.push(first.job);
        while group.len() < GROUP_WRITES_MAX {
            let next = match self.messages.try_recv() {
                Ok(next) => Some(next),
                Err(_) if run_by <= Instant::now() => None,
                Err(_) => timeout_at(run_by, self.messages.recv()).await.ok().flatten(),
            };
            match next {
                Some(Message::Write(queued)) => {
                    run_by = run_by.min(queued.run_by);
                    group.push(queued.job);
                }
                Some(Message::Close(closed)) => return Some(closed),
                None => break,
            }
        }
        None
    }

    async fn commit(&self, mut group: Vec<Box<dyn Job>>) {
        match self.attempt(&mut group).await {
            Ok(()) => group.into_iter().for_each(|job| job.finish()),
            Err(error) if group.len() == 1 || error.away().is_some() => {
                group.into_iter().for_each(|job| job.fail(error.clone()))
            }
            Err(_) => {
                self.counters.reruns.fetch_add(1, Ordering::Relaxed);
                for job in group {
                    let mut alone = vec![job];
                    let outcome = self.attempt(&mut alone).await;
                    for job in alone {
                        match &outcome {
                            Ok(()) => job.finish(),
                            Err(error) => job.fail(error.clone()),
                        }
                    }
                }
            }
        }
    }

    /// One transaction; an error means that nothing of it is left, or that the database is away and nobody knows.
    async fn attempt(&self, group: &mut [Box<dyn Job>]) -> Result<()> {
        let twice = async {
            match self.attempt_once(group).await {
                // The connection has died since it was last used; the next one is new.
                Err(Failed { error, committing: false }) if error.is_dead_connection() => {
                    self.attempt_once(group).await.map_err(|failed| failed.error)
                }
                outcome => outcome.map_err(|failed| failed.error),
            }
        };
        match timeout(ATTEMPT_TIMEOUT, twice).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.unsure.store(true, Ordering::Relaxed);
                Err(Error::TimedOut)
            }
        }
    }

    async fn attempt_once(&self, group: &mut [Box<dyn Job>]) -> Result<(), Failed> {
        if self.unsure.load(Ordering::Relaxed) {
            self.pools.renew_writer().await.map_err(|error| Failed { error, committing: false })?;
            self.unsure.store(false, Ordering::Relaxed);
        }
        let (writer, options) = (self.pools.writer(), self.pools.database.transaction());
        let db = writer.begin_with_options(options).await?;
        let transaction = Transaction { db, outbox: Mutex::default(), alone: group.len() == 1 };
        let events = match Self::fill(&transaction, group).await {
            Ok(events) => events,
            Err(error) => {
                // A full disk may have rolled it back already; a dead connection has.
                if transaction.db.rollback().await.is_err() {
                    self.unsure.store(true, Ordering::Relaxed);
                }
                return Err(Failed { error, committing: false });
            }
        };
        if let Err(error) = transaction.db.commit().await {
            self.unsure.store(true, Ordering::Relaxed);
            return Err(Failed { error: error.into(), committing: true });
        }
        self.counters.commits.fetch_add(1, Ordering::Relaxed);
        self.counters.writes.fetch_add(group.len() as u64, Ordering::Relaxed);
        if events > 0 {
            self.outbox_filled.notify_one();
        }
        Ok(())
    }

    /// Runs the group's writes and inserts its events; how many there were.
    async fn fill(transaction: &Transaction, group: &mut [Box<dyn Job>]) -> Result<usize> {
        for job in group {
            job.run(transaction).await?;
        }
        let events = std::mem::take(&mut *transaction.outbox.lock().unwrap_or_else(PoisonError::into_inner));
        let count = events.len();
        if count > 0 {
            outbox::Entity::insert_many(events).exec_without_returning(&transaction.db).await?;
        }
        Ok(count)
    }
}

/// Why an attempt failed, and whether it may have been committed all the same.
struct Failed {
    error: Error,
    committing: bool,
}

impl From<DbErr> for Failed {
    fn from(error: DbErr) -> Self {
        Self { error: error.into(), committing: false }
    }
}

/// A write whose types are forgotten.
trait Job: Send + Sync {
    fn run<'a>(&'a mut self, transaction: &'a Transaction) -> BoxFuture<'a, Result<()>>;
    fn finish(self: Box<Self>);
    fn fail(self: Box<Self>, error: Error);
}

struct Write<I, T> {
    input: I,
    run: for<'a> fn(&'a Transaction, &'a I) -> BoxFuture<'a, Result<T>>,
    while_waited: bool,
    output: Option<T>,
    reply: Option<oneshot::Sender<Result<T>>>,
}

impl<I, T> Job for Write<I, T>
where
    I: Send + Sync + 'static,
    T: Send + Sync + 'static,
{
    fn run<'a>(&'a mut self, transaction: &'a Transaction) -> BoxFuture<'a, Result<()>> {
        Box::pin(async move {
            if self.while_waited && self.reply.as_ref().is_none_or(oneshot::Sender::is_closed) {
                return Ok(());
            }
            self.output = Some((self.run)(transaction, &self.input).await?);
            Ok(())
        })
    }

    fn finish(mut self: Box<Self>) {
        if let (Some(reply), Some(output)) = (self.reply.take(), self.output.take()) {
            // The caller may have stopped waiting; the write stands.
            let _ = reply.send(Ok(output));
        }
    }

    fn fail(mut self: Box<Self>, error: Error) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Err(error));
        }
    }
}
