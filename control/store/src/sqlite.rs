//! All that is SQLite's own: the URL, how connections are set up, what its error codes mean.
//!
//! WAL, so that readers and the writer do not wait for each other; `synchronous = NORMAL`: a commit is in the WAL and
//! survives the process, a power cut may take the last moments but leaves the file whole. One connection writes
//! (`BEGIN IMMEDIATE`), a few read.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use sea_orm::sqlx::ConnectOptions as _;
use sea_orm::sqlx::error::DatabaseError;
use sea_orm::sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sea_orm::{ConnectOptions, DatabaseConnection, DbErr, sqlx};

use crate::database::Connections;
use crate::error::{Away, Error, Result};

/// Connections for reading.
const READERS: u32 = 4;

/// How long a connection waits for another process that holds the file (`nebula migrate`, a backup).
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Prepared statements kept per connection; the store has some thirty, and multi-row inserts one per row count.
const STATEMENTS: usize = 512;

/// Where the data is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Database {
    File { path: PathBuf, read_only: bool },
    Memory,
}

impl Database {
    /// Reads `sqlite:///path`, `sqlite://path`, `sqlite:path` (all with `?mode=ro` for a look at a foreign file) and
    /// `sqlite::memory:`.
    pub fn parse(url: &str) -> Result<Self> {
        let refuse = |why: &str| Error::Url { url: url.to_owned(), why: why.to_owned() };
        let rest = url.strip_prefix("sqlite:").ok_or_else(|| refuse("not sqlite"))?;
        if rest == ":memory:" {
            return Ok(Database::Memory);
        }
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(refuse("no file named"));
        }
        match query {
            "" | "mode=rwc" => Ok(Database::File { path: path.into(), read_only: false }),
            "mode=ro" => Ok(Database::File { path: path.into(), read_only: true }),
            _ => Err(refuse("only mode=rwc and mode=ro may follow the file")),
        }
    }

    pub async fn connect(&self) -> Result<Connections> {
        let writer = self.connect_writer().await?;
        let readers = match self {
            Database::File { .. } => self.pool(READERS, true).await?,
            // A second connection to `:memory:` would be a second database.
            Database::Memory => writer.clone(),
        };
        Ok(Connections { writer, readers })
    }

    pub fn is_in_memory(&self) -> bool {
        *self == Database::Memory
    }

    pub async fn connect_writer(&self) -> Result<DatabaseConnection> {
        self.pool(1, false).await
    }

    async fn pool(&self, connections: u32, reading: bool) -> Result<DatabaseConnection> {
        let database = self.clone();
        let mut options = ConnectOptions::new("sqlite::memory:");
        options
            .max_connections(connections)
            .min_connections(1)
            .idle_timeout(None::<Duration>)
            .max_lifetime(None::<Duration>)
            .test_before_acquire(false)
            .record_stmt_in_spans(false)
            .sqlx_logging(false)
            .map_sqlx_sqlite_opts(move |options| database.set_up(options, reading));
        sea_orm::Database::connect(options).await.map_err(|error| self.explain(error.into()))
    }

    fn set_up(&self, memory: SqliteConnectOptions, reading: bool) -> SqliteConnectOptions {
        let options = match self {
            Database::Memory => memory,
            Database::File { path, read_only } => {
                let options = SqliteConnectOptions::new().filename(path);
                match (reading || *read_only, read_only) {
                    // The file has its journal mode by then, and this connection could not set it.
                    (true, _) => options.read_only(true),
                    (false, _) => options.create_if_missing(true).journal_mode(SqliteJournalMode::Wal),
                }
            }
        };
        options
            .synchronous(SqliteSynchronous::Normal)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true)
            .statement_cache_capacity(STATEMENTS)
            .disable_statement_logging()
    }

    /// Says of a failed opening or migration what an operator can act on.
    pub fn explain(&self, error: Error) -> Error {
        let (Error::Database(db_error), Database::File { path, .. }) = (&error, self) else { return error };
        let Some((code, why)) = said(&error) else {
            return match db_error {
                DbErr::Conn(_) | DbErr::ConnectionAcquire(_) => {
                    Error::Open { path: path.clone(), why: db_error.to_string() }
                }
                _ => error,
            };
        };
        let path = path.clone();
        // The primary result code is the low byte: https://www.sqlite.org/rescode.html
        match code & 0xff {
            NOTADB => Error::NotADatabase { path },
            CORRUPT => Error::Damaged { path, why },
            READONLY | PERM | FULL => Error::NotWritable { path, why },
            CANTOPEN | IOERR | BUSY | LOCKED | AUTH => Error::Open { path, why },
            _ => error,
        }
    }
}

const PERM: i32 = 3;
const BUSY: i32 = 5;
const LOCKED: i32 = 6;
const READONLY: i32 = 8;
const IOERR: i32 = 10;
const CORRUPT: i32 = 11;
const FULL: i32 = 13;
const CANTOPEN: i32 = 14;
const AUTH: i32 = 23;
const NOTADB: i32 = 26;

/// SQLite's extended result code and text, if it was SQLite that spoke.
fn said(error: &Error) -> Option<(i32, String)> {
    let Some(sqlx::Error::Database(said)) = error.sqlx() else { return None };
    Some((code(&**said)?, said.message().to_owned()))
}

fn code(said: &dyn DatabaseError) -> Option<i32> {
    said.code()?.parse().ok()
}

/// Whether the file takes no writes now: no room, no right, a broken disk, somebody else who holds it.
pub(crate) fn away(said: &dyn DatabaseError) -> Option<Away> {
    let primary = code(said)? & 0xff;
    matches!(primary, FULL | READONLY | PERM | IOERR | CANTOPEN | BUSY | LOCKED).then_some(Away::Unwritable)
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Database::File { path, .. } => path.display().fmt(f),
            Database::Memory => f.write_str("in memory"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_file_or_memory() {
        let file = |path: &str| Database::File { path: path.into(), read_only: false };
        assert_eq!(Database::parse("sqlite:///var/lib/nebula.db").unwrap(), file("/var/lib/nebula.db"));
        assert_eq!(Database::parse("sqlite://nebula.db?mode=rwc").unwrap(), file("nebula.db"));
        assert_eq!(Database::parse("sqlite::memory:").unwrap(), Database::Memory);
        for wrong in ["postgres://x", "sqlite://", "sqlite:///a?cache=shared", ""] {
            assert!(matches!(Database::parse(wrong), Err(Error::Url { .. })), "{wrong}");
        }
    }
}
