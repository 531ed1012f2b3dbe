//! The handle: opening, migrating, reading and writing.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sea_orm::{DatabaseConnection, DbErr, EntityTrait, Select};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use crate::cache::{self, Cache, CacheCounts, Cached, Key};
use crate::calls::Change;
use crate::database::{Database, Pools};
use crate::error::{Away, Error, Result};
use crate::spool::{Folder, Health, NOTICE, Spooler, Status, Task};
use crate::writer::{Patience, Transaction, Writer};
use crate::{BoxFuture, migration};

/// Connections to Postgres for reading, unless told otherwise.
const POOL_SIZE: u32 = 8;

/// How long a start waits until what an earlier process spooled is in the database.
const REPLAY_AT_START: Duration = Duration::from_secs(5);

/// The patience of a query on whose answer a call waits, and of the others.
pub(crate) const SOON: Duration = NOTICE;
pub(crate) const SOMETIME: Duration = Duration::from_secs(5);

/// Where the data is, and how it is opened.
#[derive(Clone)]
pub struct Options {
    /// `sqlite:///path/nebula.db`, `sqlite::memory:` or `postgres://user:password@host:5432/name?sslmode=verify-full`.
    pub url: String,
    /// Bring the database to this binary's schema; else one that is behind is refused.
    pub migrate: bool,
    /// Connections to Postgres for reading; one more writes.
    pub pool_size: u32,
    /// A folder for what calls leave while the database is away; processes may share it. With one, a server that is away
    /// does not keep the store from opening. `None`: such changes fail.
    pub spool: Option<PathBuf>,
    /// Whose files in the spool these are, for people.
    pub instance: String,
    /// Where extensions and locations are cached, for all processes at this database. They are read there as long as it
    /// has them, so all that write must have it too.
    pub cache: Option<Arc<dyn Cache>>,
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may have a password.
        let Self { url: _, migrate, pool_size, spool, instance, cache } = self;
        let cache = cache.is_some();
        f.debug_struct("Options")
            .field("migrate", migrate)
            .field("pool_size", pool_size)
            .field("spool", spool)
            .field("instance", instance)
            .field("cache", &cache)
            .finish_non_exhaustive()
    }
}

impl Options {
    /// A database of either kind, which is migrated.
    pub fn url(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            migrate: true,
            pool_size: POOL_SIZE,
            spool: None,
            instance: "nebula".to_owned(),
            cache: None,
        }
    }

    /// A file; its folder must exist.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::url(format!("sqlite://{}", path.into().display()))
    }
}

/// The handle of the store; clones share it. Writes go through one writer task that commits them in groups, reads
/// through a small pool of their own, so neither waits for the other.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    pools: Arc<Pools>,
    writer: Writer,
    spooler: Spooler,
    cached: Option<Arc<Cached>>,
    outbox_filled: Arc<Notify>,
}

impl Store {
    /// Opens the database, makes it if it is not there, and migrates it to this binary's schema. What an earlier process
    /// left in the spool is written first, if that does not take long.
    pub async fn open(options: &Options) -> Result<Self> {
        let database = Database::parse(&options.url, options.pool_size)?;
        let connections = database.connect().await?;
        let place = database.to_string();
        let fits = match (&database, options.migrate) {
            // A database in memory is its connection; Postgres is migrated on one of its own, under a lock.
            (Database::Sqlite(_), true) => migration::migrate(&connections.writer, &place).await.map(drop),
            (Database::Sqlite(_), false) => migration::check(&connections.writer, &place).await,
            (Database::Postgres(_), true) => migration::apply(&database).await.map(drop),
            (Database::Postgres(_), false) => migration::check_alone(&database).await,
        };
        let up = match fits.map_err(|error| database.explain(error)) {
            Err(error @ Error::Unreachable { .. }) if options.spool.is_some() => {
                tracing::error!(%error, "starting without the database");
                false
            }
            fits => fits.map(|()| true)?,
        };
        let pools = Arc::new(Pools::new(database, connections));
        let outbox_filled = Arc::new(Notify::new());
        let writer =
            Writer::start(pools.clone(), outbox_filled.clone()).map_err(|error| Error::Writer(error.to_string()))?;
        let folder =
            options.spool.as_ref().map(|path| Folder { path: path.clone(), instance: options.instance.clone() });
        let schema = (!up).then_some(options.migrate);
        let spooler = Task::start(pools.clone(), writer.clone(), Health::new(place, up), folder, schema)?;
        if up {
            let mut status = spooler.health.subscribe();
            // Too slow, or away by now: it goes on by itself.
            let _ = timeout(REPLAY_AT_START, status.wait_for(|status| status.spooled == 0)).await;
        }
        let cached = options.cache.clone().map(Cached::new);
        let inner = Arc::new(Inner { pools, writer, spooler, cached: cached.clone(), outbox_filled });
        if let Some(cached) = cached {
            let inner = Arc::downgrade(&inner);
            tokio::spawn(cache::tend(cached, move || inner.upgrade().map(|inner| Self { inner })));
        }
        Ok(Self { inner })
    }

    /// An empty store in memory, for tests. It ends with its last handle.
    pub async fn memory() -> Result<Self> {
        Self::open(&Options::url("sqlite::memory:")).await
    }

    /// Ends the writer after what it has, and closes the connections. Handles that are left get `Closed`.
    pub async fn close(self) {
        self.inner.spooler.close().await;
        self.inner.writer.close().await;
        // The writing connection last: only it can fold the WAL back into the file. A pool that is closed already is
        // what is wanted.
        let _ = self.inner.pools.readers().close().await;
        let _ = self.inner.pools.writer().close().await;
    }

    /// How many write groups were committed, and how many writes were in them.
    pub fn write_counts(&self) -> WriteCounts {
        self.inner.writer.counts()
    }

    /// Whether the database is up, and how much is spooled: for readiness and metrics.
    pub fn spooling(&self) -> watch::Receiver<Status> {
        self.inner.spooler.health.subscribe()
    }

    /// Woken after a commit that put something into the outbox.
    pub(crate) fn outbox_filled(&self) -> &Notify {
        &self.inner.outbox_filled
    }

    /// Runs a write in a transaction it shares with others, and returns when that is committed. `run` may be run again,
    /// alone, if another write of the group failed; its own failure leaves nothing behind.
    pub(crate) async fn write<I, T>(
        &self,
        patience: Patience,
        input: I,
        run: for<'a> fn(&'a Transaction, &'a I) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        if !self.reachable() {
            return Err(Error::Away);
        }
        let written = self.inner.writer.write(patience, input, run).await;
        if let Err(error) = &written {
            self.suspect_if_unreachable(error);
        }
        written
    }

    /// Writes what is cached under this key.
    pub(crate) async fn write_cached<I, T>(
        &self,
        key: Key,
        patience: Patience,
        input: I,
        run: for<'a> fn(&'a Transaction, &'a I) -> BoxFuture<'a, Result<T>>,
    ) -> Result<T>
    where
        I: Send + Sync + 'static,
        T: Send + Sync + 'static,
    {
        let Some(cached) = &self.inner.cached else { return self.write(patience, input, run).await };
        if !self.reachable() {
            return Err(Error::Away);
        }
        let old = cached.changing(&key).await;
        let written = self.write(patience, input, run).await;
        match &written {
            Err(error) if error.away().is_some() => cached.put_back(key, old).await,
            _ => cached.changed(key).await,
        }
        written
    }

    /// Reads what is cached under this key.
    pub(crate) async fn look_up<T>(&self, key: Key, read: impl Future<Output = Result<Option<T>>>) -> Result<Option<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        match &self.inner.cached {
            Some(cached) => cached.look_up(key, read).await,
            None => read.await,
        }
    }

    /// How the cache is used; `None` without one.
    pub fn cache_counts(&self) -> Option<CacheCounts> {
        self.inner.cached.as_ref().map(|cached| cached.counts())
    }

    pub(crate) fn database(&self) -> &Database {
        &self.inner.pools.database
    }

    /// Whether the database is up, as far as known.
    pub(crate) fn is_up(&self) -> bool {
        self.inner.spooler.health.up()
    }

    /// Writes a change of a call: into the database, or into the spool when that is away.
    pub(crate) async fn change(&self, patience: Patience, change: Change) -> Result<bool> {
        if !self.inner.spooler.spools() {
            return self.write(patience, change, |tx, change| Box::pin(change.apply(tx))).await;
        }
        if !self.inner.spooler.takes() {
            let write =
                self.inner.writer.write_while_waited(patience, change.clone(), |tx, change| Box::pin(change.apply(tx)));
            let error = match timeout(NOTICE, write).await {
                Err(_) => Error::TimedOut,
                Ok(Err(error)) if error.away().is_some() || matches!(error, Error::Busy(_)) => error,
                Ok(outcome) => return outcome,
            };
            self.inner.spooler.health.suspect(&error);
        }
        self.inner.spooler.take(change).await.map(|()| true)
    }

    /// The rows that a query finds; see [`Store::read`].
    pub(crate) async fn all<E: EntityTrait>(&self, patience: Duration, select: Select<E>) -> Result<Vec<E::Model>> {
        let query = |db: DatabaseConnection| {
            let select = select.clone();
            async move { select.all(&db).await }
        };
        self.read(patience, query).await
    }

    /// The first row that a query finds; see [`Store::read`].
    pub(crate) async fn one<E: EntityTrait>(&self, patience: Duration, select: Select<E>) -> Result<Option<E::Model>> {
        let query = |db: DatabaseConnection| {
            let select = select.clone();
            async move { select.one(&db).await }
        };
        self.read(patience, query).await
    }

    /// Runs a query, which may be run again on a new connection. It fails at once while a server is known to be away, and
    /// after `patience` when it does not answer.
    async fn read<T, F>(&self, patience: Duration, query: impl Fn(DatabaseConnection) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, DbErr>>,
    {
        if let Database::Sqlite(_) = self.inner.pools.database {
            return Ok(query(self.inner.pools.readers()).await?);
        }
        if !self.reachable() {
            return Err(Error::Away);
        }
        let twice = async {
            match query(self.inner.pools.readers()).await.map_err(Error::from) {
                Err(error) if error.is_dead_connection() => {
                    // The others of the pool are probably dead as well.
                    self.inner.pools.renew();
                    Ok(query(self.inner.pools.readers()).await?)
                }
                outcome => outcome,
            }
        };
        let outcome = timeout(patience, twice).await.unwrap_or(Err(Error::TimedOut));
        if let Err(error) = &outcome {
            self.suspect_if_unreachable(error);
        }
        outcome
    }

    /// False while a server is known to be away.
    fn reachable(&self) -> bool {
        matches!(self.inner.pools.database, Database::Sqlite(_)) || self.inner.spooler.health.readable()
    }

    fn suspect_if_unreachable(&self, error: &Error) {
        if let (Database::Postgres(_), Some(Away::Unreachable)) = (&self.inner.pools.database, error.away()) {
            self.inner.spooler.health.suspect(error);
        }
    }
}

/// What the writer has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WriteCounts {
    /// Committed groups.
    pub commits: u64,
    /// Committed writes.
    pub writes: u64,
    /// Groups that were rolled back and run again one by one.
    pub reruns: u64,
    /// Writes refused because the queue was full.
    pub busy: u64,
}

/// The wall clock, as every `*_unix_ms` column has it.
pub fn now_unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis().try_into().unwrap_or(i64::MAX)
}
