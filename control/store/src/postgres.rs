//! All that is Postgres' own: the URL, how connections are set up, what its error codes mean, its locks.
//!
//! `postgres://user:password@host:5432/name?sslmode=verify-full&sslrootcert=/path/ca.pem`, as libpq reads it. One
//! connection writes, in the writer's thread; some read. They are made when they are first needed, on the runtime that
//! needs them, and made anew after the server was away, so that none of them is a dead one.

use std::fmt;
use std::io::ErrorKind;
use std::time::Duration;

use sea_orm::sqlx::postgres::{PgConnectOptions, PgConnection, PgDatabaseError, PgListener, PgPoolOptions, PgSslMode};
use sea_orm::sqlx::{self, ConnectOptions as _, Connection as _, Executor as _};
use sea_orm::{ConnectionTrait, DatabaseBackend, DatabaseConnection, DatabaseTransaction, Statement};
use tokio::time::timeout;

use crate::database::{Connections, sqlx_error};
use crate::entity::outbox;
use crate::error::{Away, Error, Result};

/// How long to wait for a connection: to the server, or of the pool.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the leading publisher waits for an answer before it leads no more.
const LEADER_PATIENCE: Duration = Duration::from_secs(10);

/// Prepared statements kept per connection.
const STATEMENTS: usize = 512;

/// The advisory lock of whoever migrates, and of whoever publishes: "nebula" and a number, as an integer of 64 bits.
const MIGRATION_LOCK: i64 = i64::from_be_bytes(*b"nebula\0\x01");
const PUBLISHER_LOCK: i64 = i64::from_be_bytes(*b"nebula\0\x02");

/// What wakes the publisher; the trigger of migration `m0002` notifies it.
pub(crate) const OUTBOX_CHANNEL: &str = "nebula_outbox";

/// A server and the database there.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    options: PgConnectOptions,
    /// Connections for reading.
    readers: u32,
}

impl Database {
    /// Reads `postgres://` and `postgresql://`.
    pub fn parse(url: &str, readers: u32) -> Result<Self> {
        let options: PgConnectOptions = url
            .parse()
            .map_err(|error: sqlx::Error| Error::Url { url: without_password(url), why: error.to_string() })?;
        let options =
            options.application_name("nebula").statement_cache_capacity(STATEMENTS).disable_statement_logging();
        Ok(Self { options, readers: readers.max(1) })
    }

    /// Pools that connect when they are used.
    pub fn connections(&self) -> Connections {
        Connections { writer: self.pool(1), readers: self.pool(self.readers) }
    }

    fn pool(&self, connections: u32) -> DatabaseConnection {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .idle_timeout(None)
            .max_lifetime(None)
            .test_before_acquire(false)
            .connect_lazy_with(self.options.clone())
            .into()
    }

    /// One connection of its own.
    pub async fn connect(&self) -> Result<PgConnection> {
        match timeout(ACQUIRE_TIMEOUT, PgConnection::connect_with(&self.options)).await {
            Ok(connected) => connected.map_err(|error| self.explain(sqlx_error(error))),
            Err(_) => Err(Error::Unreachable { place: self.to_string(), why: "no answer".to_owned() }),
        }
    }

    /// Whether it lets us in.
    pub async fn probe(&self) -> Result<()> {
        let _ = self.connect().await?.close().await;
        Ok(())
    }

    /// Becomes the one that publishes, or not: another is.
    pub async fn lead(&self) -> Result<Option<Leader>> {
        let mut session = self.connect().await?;
        // The server notices within 11 s that our host is gone, and gives the lock to another.
        let notice = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2; SET tcp_keepalives_count = 3";
        session.execute(notice).await.map_err(sqlx_error)?;
        let locked: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1)")
            .bind(PUBLISHER_LOCK)
            .fetch_one(&mut session)
            .await
            .map_err(sqlx_error)?;
        if !locked {
            let _ = session.close().await;
            return Ok(None);
        }
        let pool = PgPoolOptions::new().max_connections(1).connect_lazy_with(self.options.clone());
        let mut news = PgListener::connect_with(&pool).await.map_err(sqlx_error)?;
        news.listen(OUTBOX_CHANNEL).await.map_err(sqlx_error)?;
        Ok(Some(Leader { session, news }))
    }

    /// One connection that no other process has at the same time: for migrations. It ends, and the lock with it, when it
    /// is closed.
    pub async fn exclusive(&self) -> Result<DatabaseConnection> {
        // First alone: it fails at once if nobody is there, while a pool tries again for a while.
        let _ = self.connect().await?.close().await;
        let db = self.pool(1);
        match db.execute_unprepared(&format!("SELECT pg_advisory_lock({MIGRATION_LOCK})")).await {
            Ok(_) => Ok(db),
            Err(error) => Err(self.explain(error.into())),
        }
    }

    /// Says of a failed opening or migration what an operator can act on.
    pub fn explain(&self, error: Error) -> Error {
        let place = self.to_string();
        match error.sqlx() {
            Some(sqlx::Error::Database(said)) => match said.code().as_deref() {
                Some(code) if refuses(code) => Error::Refused { place, why: said.message().to_owned() },
                _ => error,
            },
            Some(sqlx::Error::Tls(why)) => Error::Refused { place, why: format!("TLS: {why}") },
            Some(sqlx::Error::Configuration(why)) => Error::Refused { place, why: why.to_string() },
            // A certificate that does not fit.
            Some(sqlx::Error::Io(why)) if why.kind() == ErrorKind::InvalidData => {
                Error::Refused { place, why: why.to_string() }
            }
            Some(why @ (sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut)) => {
                Error::Unreachable { place, why: why.to_string() }
            }
            _ => error,
        }
    }
}

/// The one process that publishes: a session with the publisher's lock, through which it also reads and marks. When the
/// session ends so does the lock, and with it all that this one can do.
pub(crate) struct Leader {
    session: PgConnection,
    news: PgListener,
}

impl Leader {
    /// What is to be published, the oldest first, after this sequence number.
    pub async fn unpublished(&mut self, after: i64, limit: u64) -> Result<Vec<outbox::Model>> {
        let sql = "SELECT sequence, kind, subject, at_unix_ms, data FROM outbox
            WHERE published_unix_ms IS NULL AND sequence > $1 ORDER BY sequence LIMIT $2";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let rows = sqlx::query_as(sql).bind(after).bind(limit).fetch_all(&mut self.session);
        let rows: Vec<(i64, String, String, i64, String)> = soon(rows).await?;
        let model = |(sequence, kind, subject, at_unix_ms, data)| outbox::Model {
            sequence,
            kind,
            subject,
            at_unix_ms,
            data,
            published_unix_ms: None,
        };
        Ok(rows.into_iter().map(model).collect())
    }

    /// Notes that these were published.
    pub async fn mark_published(&mut self, sequences: &[i64], now_unix_ms: i64) -> Result<()> {
        let sql = "UPDATE outbox SET published_unix_ms = $1 WHERE sequence = ANY($2)";
        soon(sqlx::query(sql).bind(now_unix_ms).bind(sequences).execute(&mut self.session)).await.map(drop)
    }

    /// Returns when something may be there.
    pub async fn filled(&mut self) -> Result<()> {
        // `None`: the connection was lost and made anew, and so may notifications have been.
        self.news.try_recv().await.map(drop).map_err(sqlx_error)
    }
}

/// A server that gives no answer is one that is away.
async fn soon<T>(answer: impl Future<Output = sqlx::Result<T>>) -> Result<T> {
    match timeout(LEADER_PATIENCE, answer).await {
        Ok(answer) => answer.map_err(sqlx_error),
        Err(_) => Err(Error::TimedOut),
    }
}

/// Whether the server cannot do its work now, by SQLSTATE.
pub(crate) fn away(error: &PgDatabaseError) -> Option<Away> {
    // https://www.postgresql.org/docs/15/errcodes-appendix.html
    match error.code() {
        // A transaction that only reads: a standby, or told so. Disk full, I/O error.
        "25006" | "53100" | "58030" => Some(Away::Unwritable),
        // Shut down, crashed, starting; too many connections, out of memory; connection exceptions.
        code if code.starts_with("57P") || code.starts_with("53") || code.starts_with("08") => Some(Away::Unreachable),
        _ => None,
    }
}

/// Locks a name until the transaction ends. A group does not wait for it.
pub(crate) async fn lock(db: &DatabaseTransaction, table: &'static str, key: &str, wait: bool) -> Result<()> {
    let which = if wait { "pg_advisory_xact_lock" } else { "pg_try_advisory_xact_lock" };
    let sql = format!("SELECT coalesce({which}(hashtextextended($1, 0))::text, '') AS locked");
    let values = [format!("{table}/{key}").into()];
    let row = db.query_one_raw(Statement::from_sql_and_values(DatabaseBackend::Postgres, sql, values)).await?;
    match row.map(|row| row.try_get::<String>("", "locked")).transpose()? {
        Some(locked) if locked == "false" => Err(Error::Contended),
        _ => Ok(()),
    }
}

/// Wrong password or user (28xxx), no such database (3D000), no right to it (42501).
fn refuses(code: &str) -> bool {
    code.starts_with("28") || code == "3D000" || code == "42501"
}

fn without_password(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, place))) => format!("{scheme}://{place}"),
        _ => url.to_owned(),
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        write!(f, "postgres://{}@{}:{}", options.get_username(), options.get_host(), options.get_port())?;
        write!(f, "/{}", options.get_database().unwrap_or(options.get_username()))?;
        match options.get_ssl_mode() {
            PgSslMode::Require | PgSslMode::VerifyCa | PgSslMode::VerifyFull => f.write_str(" (TLS)"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url = "postgres://nebula:s3cret@db.example.com:5433/pbx?sslmode=require";
        let shown = Database::parse(url, 1).unwrap().to_string();
        assert_eq!(shown, "postgres://nebula@db.example.com:5433/pbx (TLS)");
        let wrong = Database::parse("postgres://nebula:s3cret@db.example.com:port/pbx", 1).unwrap_err().to_string();
        assert!(wrong.contains("db.example.com") && !wrong.contains("s3cret"), "{wrong}");
    }
}
