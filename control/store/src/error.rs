//! What goes wrong with the store, as an operator can act on it.

use std::path::PathBuf;

use sea_orm::DbErr;

/// The store's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong. Cheap to clone, since every caller of a failed group commit gets it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The URL names no database that this binary can use.
    #[error("database url {url:?}: {why}; write sqlite:///absolute/path/nebula.db")]
    Url {
        /// As configured.
        url: String,
        /// What is wrong with it.
        why: &'static str,
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

impl From<DbErr> for Error {
    fn from(error: DbErr) -> Self {
        match error.sql_err() {
            Some(sea_orm::SqlErr::UniqueConstraintViolation(_)) => Error::Duplicate,
            _ => Error::Database(error),
        }
    }
}
