//! What goes wrong with the store, as an operator can act on it.

use std::path::PathBuf;

use sea_orm::sqlx::postgres::PgDatabaseError;
use sea_orm::{ConnAcquireErr, DbErr, RuntimeErr, sqlx};

use crate::{postgres, sqlite};

/// The store's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Cheap to clone, since every caller of a failed group commit gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The URL names no database that this binary can use.
    #[error("database url {url:?}: {why}; write sqlite:///absolute/path/nebula.db or postgres://user@host:5432/name")]
    Url {
        /// As configured, without a password.
        url: String,
        /// What is wrong with it.
        why: String,
    },
    /// Nobody answers at the server's address.
    #[error("no database answers at {place}: {why}; start it, or correct the address")]
    Unreachable {
        /// The server.
        place: String,
        /// As the system says.
        why: String,
    },
    /// The server will not have us.
    #[error("the database {place} refuses: {why}; correct user, password, name or certificates")]
    Refused {
        /// The server.
        place: String,
        /// As the server or the TLS library says.
        why: String,
    },
    /// The file cannot be opened or made.
    #[error("cannot open the database {}: {why}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// As the system says.
        why: String,
    },
    /// There is a file, but of another kind.
    #[error("{} is not a database; move it away or name another file", path.display())]
    NotADatabase {
        /// The file.
        path: PathBuf,
    },
    /// A database whose pages are damaged.
    #[error("the database {} is damaged ({why}); restore a backup or move it away", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// As SQLite says.
        why: String,
    },
    /// The file, its folder or the disk takes no writes.
    #[error("the database {} cannot be written: {why}", path.display())]
    NotWritable {
        /// The file.
        path: PathBuf,
        /// As SQLite says.
        why: String,
    },
    /// A newer binary has migrated this database; this one must not touch it.
    #[error("the database {place} has schema {found}, this binary knows up to {known}; use the newer nebula")]
    NewerSchema {
        /// The file or server.
        place: String,
        /// The newest migration in the database.
        found: String,
        /// The newest migration of this binary.
        known: String,
    },
    /// This binary needs migrations that the database does not have.
    #[error("the database {place} has schema {found}, this binary needs {known}; run `nebula migrate up`")]
    OlderSchema {
        /// The file or server.
        place: String,
        /// The newest migration in the database, or `none`.
        found: String,
        /// The newest migration of this binary.
        known: String,
    },
    /// The database is away; it is tried for, and this was not even asked.
    #[error("the database is away")]
    Away,
    /// The database gave no answer in time.
    #[error("the database gives no answer")]
    TimedOut,
    /// The database is away, and the spool cannot be written either.
    #[error("the spool cannot be written: {0}")]
    Spool(String),
    /// Another transaction changes the same; tried again by the writer, alone.
    #[error("another transaction changes the same")]
    Contended,
    /// A row with this key exists.
    #[error("it exists already")]
    Duplicate,
    /// The system gives no thread to write with.
    #[error("cannot start the database's writer: {0}")]
    Writer(String),
    /// The store was closed, or its writer died.
    #[error("the store is closed")]
    Closed,
    /// Too many writes wait; the database is too slow for the load.
    #[error("{0} writes wait for the database already")]
    Busy(usize),
    /// A row holds what cannot be read.
    #[error("{table} row {key}: {why}")]
    Row {
        /// The table.
        table: &'static str,
        /// The row's key.
        key: String,
        /// What is wrong.
        why: String,
    },
    /// Anything else the database says.
    #[error("database: {0}")]
    Database(DbErr),
}

/// How a database is away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Away {
    /// Nobody answers.
    Unreachable,
    /// It answers, and reads, but takes no writes.
    Unwritable,
}

impl Error {
    /// What the driver said.
    pub(crate) fn sqlx(&self) -> Option<&sqlx::Error> {
        match self {
            Error::Database(
                DbErr::Conn(RuntimeErr::SqlxError(error))
                | DbErr::Exec(RuntimeErr::SqlxError(error))
                | DbErr::Query(RuntimeErr::SqlxError(error)),
            ) => Some(error),
            _ => None,
        }
    }

    /// Whether a connection of old was found dead: a new one may do.
    pub(crate) fn is_dead_connection(&self) -> bool {
        self.away() == Some(Away::Unreachable)
            && matches!(self.sqlx(), Some(sqlx::Error::Io(_) | sqlx::Error::Database(_) | sqlx::Error::Protocol(_)))
    }

    /// Whether this says that the database is away, rather than that something is wrong with what was asked.
    pub(crate) fn away(&self) -> Option<Away> {
        match self {
            Error::NotWritable { .. } | Error::Open { .. } => Some(Away::Unwritable),
            Error::Away | Error::TimedOut | Error::Unreachable { .. } => Some(Away::Unreachable),
            Error::Database(DbErr::ConnectionAcquire(ConnAcquireErr::Timeout | ConnAcquireErr::ConnectionClosed)) => {
                Some(Away::Unreachable)
            }
            _ => match self.sqlx()? {
                sqlx::Error::Database(said) => match said.try_downcast_ref::<PgDatabaseError>() {
                    Some(said) => postgres::away(said),
                    None => sqlite::away(&**said),
                },
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::Protocol(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed => Some(Away::Unreachable),
                _ => None,
            },
        }
    }
}

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(sea_orm::SqlErr::UniqueConstraintViolation(_)) => Error::Duplicate,
            _ => Error::Database(error),
        }
    }
}
