//! The handle: opening, migrating, reading and writing.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::BoxFuture;
use sea_orm::DatabaseConnection;
use tokio::sync::Notify;

use crate::database::{Database, Pools};
use crate::error::{Error, Result};
use crate::migration;
use crate::writer::{Patience, Transaction, Writer};

/// Where the data is, and how it is opened.
#[derive(Debug, Clone)]
pub struct Options {
    /// `sqlite:///path/nebula.db`, `sqlite::memory:` or `postgres://user:password@host:5432/name?sslmode=verify-full`.
    pub url: String,
    /// Bring the database to this binary's schema; else one that is behind is refused.
    pub migrate: bool,
}

impl Options {
    /// A database of either kind, which is migrated.
    pub fn url(url: impl Into<String>) -> Self {
        Self { url: url.into(), migrate: true }
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
    pools: Arc<Pools>,
    writer: Writer,
    outbox_filled: Arc<Notify>,
}

impl Store {
    /// Opens the database, makes it if it is not there, and migrates it to this binary's schema.
    pub async fn open(options: &Options) -> Result<Self> {
        let database = Database::parse(&options.url)?;
        let connections = database.connect().await?;
        let place = database.to_string();
        // A database in memory is its connection; Postgres is migrated under a lock.
        let db = match &database {
            Database::Sqlite(_) => connections.writer.clone(),
            Database::Postgres(server) => server.exclusive().await?,
        };
        let fits = match options.migrate {
            true => migration::migrate(&db, &place).await.map(drop),
            false => migration::check(&db, &place).await,
        };
        if let Database::Postgres(_) = &database {
            let _ = db.close().await;
        }
        fits.map_err(|error| database.explain(error))?;
        let pools = Arc::new(Pools::new(database, connections));
        let outbox_filled = Arc::new(Notify::new());
        let writer =
            Writer::start(pools.clone(), outbox_filled.clone()).map_err(|error| Error::Writer(error.to_string()))?;
        Ok(Self { pools, writer, outbox_filled })
    }

    /// An empty store in memory, for tests. It ends with its last handle.
    pub async fn memory() -> Result<Self> {
        Self::open(&Options::url("sqlite::memory:")).await
    }

    /// Ends the writer after what it has, and closes the connections. Handles that are left get `Closed`.
    pub async fn close(self) {
        self.writer.close().await;
        // The writing connection last: only it can fold the WAL back into the file. A pool that is closed already is
        // what is wanted.
        let _ = self.pools.readers().close().await;
        let _ = self.pools.writer().close().await;
    }

    /// How many write groups were committed, and how many writes were in them.
    pub fn write_counts(&self) -> WriteCounts {
        self.writer.counts()
    }

    pub(crate) fn readers(&self) -> DatabaseConnection {
        self.pools.readers()
    }

    /// Woken after a commit that put something into the outbox.
    pub(crate) fn outbox_filled(&self) -> &Notify {
        &self.outbox_filled
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
        self.writer.write(patience, input, run).await
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
