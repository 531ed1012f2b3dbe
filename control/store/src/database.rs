//! Which database it is, and the connections to it. What is one's own is in `sqlite.rs` and `postgres.rs`.

use std::fmt;
use std::sync::{PoisonError, RwLock};

use sea_orm::{DatabaseConnection, DbErr, RuntimeErr, SqliteTransactionMode, TransactionOptions, sqlx};

use crate::error::{Error, Result};
use crate::{postgres, sqlite};

/// Where the data is.
#[derive(Debug, Clone)]
pub(crate) enum Database {
    Sqlite(sqlite::Database),
    Postgres(Box<postgres::Database>),
}

/// The open connections; clones share them.
#[derive(Clone)]
pub(crate) struct Connections {
    pub writer: DatabaseConnection,
    pub readers: DatabaseConnection,
}

impl Database {
    /// Reads a URL of either kind. `pool_size`: connections to a server for reading.
    pub fn parse(url: &str, pool_size: u32) -> Result<Self> {
        match url.split_once(':').map_or(url, |(scheme, _)| scheme) {
            "sqlite" => sqlite::Database::parse(url).map(Database::Sqlite),
            "postgres" | "postgresql" => {
                postgres::Database::parse(url, pool_size).map(|server| Database::Postgres(Box::new(server)))
            }
            _ => Err(Error::Url { url: url.to_owned(), why: "neither sqlite nor postgres".to_owned() }),
        }
    }

    pub async fn connect(&self) -> Result<Connections> {
        match self {
            Database::Sqlite(database) => database.connect().await,
            Database::Postgres(database) => Ok(database.connections()),
        }
    }

    /// One connection that no other process has at the same time, to be closed afterwards. A SQLite file has one process;
    /// what opens it beside that waits for its lock.
    pub async fn exclusive(&self) -> Result<DatabaseConnection> {
        match self {
            Database::Sqlite(database) => database.connect_writer().await,
            Database::Postgres(database) => database.exclusive().await,
        }
    }

    /// How a transaction that writes begins.
    pub fn transaction(&self) -> TransactionOptions {
        let mode = matches!(self, Database::Sqlite(_)).then_some(SqliteTransactionMode::Immediate);
        TransactionOptions { sqlite_transaction_mode: mode, ..TransactionOptions::default() }
    }

    /// Says of a failed opening or migration what an operator can act on.
    pub fn explain(&self, error: Error) -> Error {
        match self {
            Database::Sqlite(database) => database.explain(error),
            Database::Postgres(database) => database.explain(error),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::Sqlite(database) => database.fmt(f),
            Database::Postgres(database) => database.fmt(f),
        }
    }
}

/// The connections as they are now: those of a server that was away are made anew.
pub(crate) struct Pools {
    pub database: Database,
    current: RwLock<Connections>,
}

impl Pools {
    pub fn new(database: Database, connections: Connections) -> Self {
        Self { database, current: RwLock::new(connections) }
    }

    pub fn readers(&self) -> DatabaseConnection {
        self.current().readers
    }

    pub fn writer(&self) -> DatabaseConnection {
        self.current().writer
    }

    fn current(&self) -> Connections {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A new writing connection to a file, after the old one failed to end a transaction: the driver would take all that
    /// follows for part of it, and commit none.
    pub async fn renew_writer(&self) -> Result<()> {
        let Database::Sqlite(file) = &self.database else { return Ok(()) };
        if !file.is_in_memory() {
            let _ = self.writer().close().await;
            let writer = file.connect_writer().await?;
            self.current.write().unwrap_or_else(PoisonError::into_inner).writer = writer;
        }
        Ok(())
    }

    /// New pools to a server that may have dropped the old connections without a word. A file keeps its own.
    pub fn renew(&self) {
        if let Database::Postgres(server) = &self.database {
            let fresh = server.connections();
            let old = std::mem::replace(&mut *self.current.write().unwrap_or_else(PoisonError::into_inner), fresh);
            // Closing waits for connections that hang; nobody else should.
            tokio::spawn(async move { (old.readers.close().await, old.writer.close().await) });
        }
    }
}

/// As if sea-orm had said it.
pub(crate) fn sqlx_error(error: sqlx::Error) -> Error {
    DbErr::Query(RuntimeErr::SqlxError(error.into())).into()
}
