//! The task behind the spool: appends what comes, probes a database that is away, replays when it is back.
//!
//! It has a thread of its own, since it waits for the disk. Changes are taken while a probe or a replay is under way.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

use super::file::{Batch, Spool};
use super::{Entry, Folder, Health, Message, QUEUE_MAX, Spooler};
use crate::calls::Change;
use crate::database::{Database, Pools};
use crate::error::{Error, Result};
use crate::migration;
use crate::writer::{Patience, Writer};

/// Changes appended with one write.
const GROUP_MAX: usize = 256;

/// Changes replayed in one transaction: some three statements each, in less than a writer's patience also where a round
/// trip takes 10 ms.
const REPLAY_MAX: usize = 64;

/// Changes that wait in memory while the disk is full; one more is refused.
const WAITING_MAX: usize = 16_384;

/// The pauses between probes: the first, and the longest of the doubling ones.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// How often files of dead processes are looked for.
const ADOPT_EVERY: Duration = Duration::from_secs(30);

const THREAD: &str = "store-spool";

pub(crate) struct Task {
    pools: Arc<Pools>,
    writer: Writer,
    health: Arc<Health>,
    messages: mpsc::Receiver<Message>,
    folder: Option<Folder>,
    /// The schema is still to be looked at: the database was away at the start. Whether to migrate it then.
    schema: Option<bool>,
    /// To be replayed, oldest first: files of dead processes, then the one that is written to.
    files: VecDeque<Spool>,
    /// The last of `files` is ours.
    writing: bool,
    waiting: VecDeque<Entry>,
    under_way: Option<Work>,
    /// Changes at the head to be replayed one by one, since one of them cannot be.
    alone: usize,
    pause: Duration,
    next_try: Instant,
    next_adoption: Instant,
    away_since: Option<Instant>,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// What was under way is done.
enum Done {
    Probed(Result<()>),
    /// From a file, or from memory: this many.
    Replayed(Source, Result<()>),
}

enum Source {
    File(Batch),
    Memory(Vec<Change>),
}

impl Source {
    fn changes(&self) -> &[Change] {
        match self {
            Source::File(batch) => &batch.changes,
            Source::Memory(changes) => changes,
        }
    }
}

impl Task {
    /// Starts it. `schema`: see there.
    pub fn start(
        pools: Arc<Pools>,
        writer: Writer,
        health: Arc<Health>,
        folder: Option<Folder>,
        schema: Option<bool>,
    ) -> Result<Spooler> {
        let wrong = |error: io::Error| Error::Spool(error.to_string());
        let files: VecDeque<_> = match &folder {
            Some(folder) => {
                std::fs::create_dir_all(&folder.path).map_err(wrong)?;
                Spool::adopt(&folder.path).map_err(wrong)?.into()
            }
            None => VecDeque::new(),
        };
        let left: u64 = files.iter().map(Spool::lines).sum();
        health.update(|status| status.spooled = left);
        let (queue, messages) = mpsc::channel(QUEUE_MAX);
        let spooler = Spooler { health: health.clone(), spools: folder.is_some(), queue };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(wrong)?;
        let run = move || {
            runtime.block_on(async {
                let now = Instant::now();
                let away_since = (!health.up()).then_some(now);
                let task = Self {
                    pools,
                    writer,
                    health,
                    messages,
                    folder,
                    schema,
                    files,
                    writing: false,
                    waiting: VecDeque::new(),
                    under_way: None,
                    alone: 0,
                    pause: PAUSE_MIN,
                    next_try: now,
                    next_adoption: now + ADOPT_EVERY,
                    away_since,
                };
                task.run().await;
            });
        };
        std::thread::Builder::new().name(THREAD.to_owned()).spawn(run).map_err(wrong)?;
        Ok(spooler)
    }

    async fn run(mut self) {
        let health = self.health.clone();
        let closed = loop {
            // What is under way is of the first file: which that is, must not change meanwhile.
            let due = if self.under_way.is_some() { Instant::now() + ADOPT_EVERY } else { self.due() };
            tokio::select! {
                biased;
                message = self.messages.recv() => match message {
                    Some(Message::Take(entry)) => {
                        if let Some(closed) = self.take(*entry) {
                            break Some(closed);
                        }
                    }
                    Some(Message::Close(closed)) => break Some(closed),
                    None => break None,
                },
                done = finish(&mut self.under_way) => {
                    self.under_way = None;
                    self.done(done);
                }
                () = health.suspected.notified() => self.suspected(),
                () = sleep_until(due) => self.try_now(),
            }
        };
        self.flush();
        for entry in self.waiting {
            tracing::error!(call_id = entry.change.call_id(), change = ?entry.change, "this could not be written anywhere");
        }
        if let Some(closed) = closed {
            let _ = closed.send(());
        }
    }

    /// When there is something to do without being asked.
    fn due(&self) -> Instant {
        let idle = self.files.is_empty() && self.waiting.is_empty() && self.away_since.is_none();
        if idle { self.next_adoption } else { self.next_try.min(self.next_adoption) }
    }

    fn suspected(&mut self) {
        if self.away_since.is_none() && !self.health.up() {
            self.away_since = Some(Instant::now());
            self.pause = PAUSE_MIN;
            self.next_try = Instant::now();
        }
    }

    /// Takes a change and what waits behind it, which may be the end.
    fn take(&mut self, first: Entry) -> Option<oneshot::Sender<()>> {
        let (mut entries, mut closed) = (vec![first], None);
        while entries.len() < GROUP_MAX && closed.is_none() {
            match self.messages.try_recv() {
                Ok(Message::Take(entry)) => entries.push(*entry),
                Ok(Message::Close(last)) => closed = Some(last),
                Err(_) => break,
            }
        }
        self.keep(entries);
        closed
    }

    /// Onto the disk, or into memory.
    fn keep(&mut self, mut entries: Vec<Entry>) {
        if self.waiting.is_empty() {
            match self.append(&entries) {
                Ok(()) => return acknowledge(&mut entries),
                Err(error) => tracing::error!(%error,
                    "the spool cannot be written; what calls leave waits in memory, and may be lost"),
            }
        }
        for mut entry in entries {
            if self.waiting.len() >= WAITING_MAX {
                self.health.update(|status| status.refused_total += 1);
                entry.tell(Err(Error::Spool(format!("no room on the disk, and {WAITING_MAX} changes wait in memory"))));
                continue;
            }
            // A call must not wait for its start; its record holds all else. That one is worth waiting for.
            if !matches!(entry.change, Change::Ended(_)) {
                entry.tell(Ok(()));
            }
            self.waiting.push_back(entry);
        }
        self.count_waiting();
        self.next_try = self.next_try.min(Instant::now() + PAUSE_MAX);
    }

    /// Appends to the file of this process, which is made if there is none.
    fn append(&mut self, entries: &[Entry]) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Err(io::ErrorKind::NotFound.into()) };
        if !self.writing {
            self.files.push_back(Spool::create(&folder.path, &folder.instance)?);
            self.writing = true;
        }
        let Some(file) = self.files.back_mut() else { return Err(io::ErrorKind::NotFound.into()) };
        let lines: Vec<_> = entries.iter().map(|entry| entry.line.clone()).collect();
        file.append(&lines)?;
        self.health.update(|status| {
            status.spooled += lines.len() as u64;
            status.spooled_total += lines.len() as u64;
        });
        Ok(())
    }

    /// Puts what waits in memory onto the disk, as far as there is room.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let mut some: Vec<_> = self.waiting.drain(..self.waiting.len().min(GROUP_MAX)).collect();
            if self.append(&some).is_err() {
                some.into_iter().rev().for_each(|entry| self.waiting.push_front(entry));
                return;
            }
            acknowledge(&mut some);
            self.count_waiting();
        }
    }

    fn count_waiting(&self) {
        self.health.update(|status| status.waiting = self.waiting.len() as u64);
    }

    /// A pause is over: probes, or replays.
    fn try_now(&mut self) {
        if self.under_way.is_some() {
            return;
        }
        if Instant::now() >= self.next_adoption {
            self.adopt();
        }
        // From memory alone is replayed only what the disk has no room for.
        self.flush();
        self.under_way = if self.away_since.is_some() { Some(self.probe()) } else { self.replay() };
    }

    fn adopt(&mut self) {
        self.next_adoption = Instant::now() + ADOPT_EVERY;
        let Some(folder) = &self.folder else { return };
        let found = match Spool::adopt(&folder.path) {
            Ok(found) => found,
            Err(error) => return tracing::warn!(%error, "spool files of dead processes cannot be looked for"),
        };
        for file in found {
            tracing::warn!(lines = file.lines(), "found what a dead process left in its spool");
            self.health.update(|status| status.spooled += file.lines());
            self.files.push_front(file);
        }
    }

    /// Whether the server is there again. A file is asked by replaying.
    fn probe(&self) -> Work {
        let (pools, schema) = (self.pools.clone(), self.schema);
        Box::pin(async move {
            let Database::Postgres(server) = &pools.database else { return Done::Probed(Ok(())) };
            let probed = match schema {
                Some(true) => migration::apply(&pools.database).await.map(drop),
                Some(false) => migration::check_alone(&pools.database).await,
                None => server.probe().await,
            };
            Done::Probed(probed)
        })
    }

    /// The next changes into the database; none if there are none.
    fn replay(&mut self) -> Option<Work> {
        let many = if self.alone > 0 { 1 } else { REPLAY_MAX };
        while let Some(file) = self.files.front_mut() {
            match file.read(many) {
                Ok(batch) if batch.changes.is_empty() => self.drained(),
                Ok(batch) => return Some(self.write(Source::File(batch))),
                Err(error) => {
                    tracing::error!(%error, "a spool file cannot be read; trying again");
                    self.retry_later();
                    return None;
                }
            }
        }
        if self.waiting.is_empty() {
            self.caught_up();
            return None;
        }
        let changes = self.waiting.iter().take(many).map(|entry| entry.change.clone()).collect();
        Some(self.write(Source::Memory(changes)))
    }

    fn write(&self, source: Source) -> Work {
        let (writer, changes) = (self.writer.clone(), source.changes().to_vec());
        Box::pin(async move {
            let written = writer
                .write(Patience::None, changes, |tx, changes| {
                    Box::pin(async move {
                        for change in changes {
                            change.replay(tx).await?;
                        }
                        Ok(())
                    })
                })
                .await;
            Done::Replayed(source, written)
        })
    }

    /// The first file has nothing more.
    fn drained(&mut self) {
        if let Some(file) = self.files.pop_front() {
            file.remove();
        }
        self.writing &= !self.files.is_empty();
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Probed(Ok(())) => {
                self.schema = None;
                if !self.health.readable() {
                    self.pools.renew();
                }
                self.health.update(|status| status.readable = true);
                // Whether it takes writes is seen by writing.
                self.under_way = self.replay();
            }
            Done::Probed(Err(error)) => {
                tracing::debug!(%error, "the database is still away");
                if self.schema.is_some() && error.away().is_none() {
                    tracing::error!(%error, "the database is there, but it cannot be used");
                }
                self.retry_later();
            }
            Done::Replayed(source, Ok(())) => {
                self.alone = self.alone.saturating_sub(1);
                self.replayed(&source, true);
                self.under_way = self.replay();
            }
            Done::Replayed(_, Err(Error::Closed | Error::Busy(_))) => self.retry_later(),
            Done::Replayed(source, Err(error)) if error.away().is_some() || source.changes().len() > 1 => {
                if error.away().is_some() {
                    self.health.suspect(&error);
                    self.away_since.get_or_insert_with(Instant::now);
                    return self.retry_later();
                }
                // One of them is refused for good: find out which.
                self.alone = source.changes().len();
                self.under_way = self.replay();
            }
            Done::Replayed(source, Err(error)) => {
                tracing::error!(%error, change = ?source.changes(), "the database refuses this for good");
                self.alone = self.alone.saturating_sub(1);
                self.replayed(&source, false);
                self.under_way = self.replay();
            }
        }
    }

    /// These are in the database, or will never be.
    fn replayed(&mut self, source: &Source, written: bool) {
        let count = source.changes().len() as u64;
        match source {
            Source::File(batch) => {
                if let Some(file) = self.files.front_mut() {
                    file.replayed(batch);
                }
            }
            Source::Memory(changes) => {
                let mut safe: Vec<_> = self.waiting.drain(..changes.len()).collect();
                acknowledge(&mut safe);
                self.count_waiting();
            }
        }
        let left: u64 = self.files.iter().map(Spool::lines).sum();
        let drained = left == 0;
        if drained {
            // The file goes before anybody writes past it: a start after a crash must not replay what is older.
            while self.files.front().is_some_and(|file| file.lines() == 0) {
                self.drained();
            }
        }
        self.health.update(|status| {
            status.spooled = left;
            *(if written { &mut status.replayed_total } else { &mut status.refused_total }) += count;
        });
    }

    /// Nothing is left to replay, so the database took all.
    fn caught_up(&mut self) {
        self.pause = PAUSE_MIN;
        let Some(since) = self.away_since.take() else { return };
        self.health.update(|status| (status.database_up, status.readable) = (true, true));
        let replayed = self.health.status.borrow().replayed_total;
        tracing::info!(
            database = self.health.place,
            away_ms = since.elapsed().as_millis() as u64,
            replayed,
            "the database is back"
        );
    }

    fn retry_later(&mut self) {
        self.next_try = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }
}

impl Entry {
    fn tell(&mut self, outcome: Result<()>) {
        if let Some(done) = self.done.take() {
            // Whoever asked may have stopped waiting.
            let _ = done.send(outcome);
        }
    }
}

/// For ever, if nothing is under way.
async fn finish(under_way: &mut Option<Work>) -> Done {
    match under_way {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

fn acknowledge(entries: &mut [Entry]) {
    entries.iter_mut().for_each(|entry| entry.tell(Ok(())));
}
