//! The snapshots of an embedded system: values by instance and key in a SQLite file of their own, behind the bus's
//! `Keep`. Called by the snapshot writers of all roles of one process; one thread owns the one connection.
//!
//! WAL with `synchronous = OFF`: what was written survives the process, not the host, whose end takes the calls along
//! anyway. A file that a host's end left damaged is moved aside. A value of 2 KiB costs some 6 us of CPU in a group of 16,
//! and 49 us alone (`examples/snapshot_cost.rs`).
//!
//! Each instance has a fence; it rises with each [`File::enter`], and who writes with a lower one is refused.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::{fs, thread};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};
use tokio::sync::{mpsc, oneshot};

/// The module's results.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Values by key.
pub type Rows = Vec<(String, Vec<u8>)>;

/// Jobs that may wait for the thread; whoever brings one more waits.
const JOBS_MAX: usize = 64;

/// The thread, as `top -H` shows it.
const THREAD: &str = "snapshots";

/// What this binary writes, as `user_version`.
const VERSION: i64 = 1;

const SCHEMA: &str = "
    CREATE TABLE fences (instance TEXT PRIMARY KEY, fence INTEGER NOT NULL);
    CREATE TABLE snapshots (
        instance TEXT NOT NULL, key TEXT NOT NULL, bytes BLOB NOT NULL, PRIMARY KEY (instance, key)
    );";

/// What goes wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The file cannot be opened or made.
    #[error("cannot open the snapshots {}: {why}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// As the system says.
        why: String,
    },
    /// A newer binary wrote it.
    #[error("the snapshots {} have format {found}, this binary knows up to {VERSION}; use the newer nebula, or move them away to end the calls in them", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: i64,
    },
    /// A higher fence was given for this instance.
    #[error("{0} was taken over by another process of that name")]
    Fenced(String),
    /// It was not written; to be tried again.
    #[error("snapshots cannot be written: {0}")]
    Database(String),
    /// The thread is gone.
    #[error("the snapshots are closed")]
    Closed,
}

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Error::Database(error.to_string())
    }
}

/// The open file; clones share it. The thread ends with the last of them.
#[derive(Clone)]
pub struct File {
    jobs: mpsc::Sender<Job>,
    /// The instances of this process.
    entered: Arc<Mutex<HashSet<String>>>,
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

impl File {
    /// Opens the file, or makes it. Waits for the disk; meant for the start of the process.
    pub fn open(path: &Path) -> Result<Self> {
        let mut connection = connect(path)?;
        let (jobs, mut waiting) = mpsc::channel::<Job>(JOBS_MAX);
        let run = move || {
            while let Some(job) = waiting.blocking_recv() {
                job(&mut connection);
            }
        };
        thread::Builder::new()
            .name(THREAD.to_owned())
            .spawn(run)
            .map_err(|error| Error::Open { path: path.to_owned(), why: error.to_string() })?;
        Ok(Self { jobs, entered: Arc::default() })
    }

    /// Takes an instance's name: gives the next fence, above all given before, and what was kept under that name.
    pub async fn enter(&self, instance: &str) -> Result<(u64, Rows)> {
        let name = instance.to_owned();
        let entered = self
            .transact(move |tx| {
                let fence = next_fence(tx)?;
                set_fence(tx, &name, fence)?;
                Ok((fence, rows(tx, &name)?))
            })
            .await?;
        self.entered().insert(instance.to_owned());
        Ok(entered)
    }

    /// Writes changes, all or none: values, or `None` to forget a key.
    pub async fn write<B>(&self, instance: &str, fence: u64, changes: &[(String, Option<B>)]) -> Result<()>
    where
        B: AsRef<[u8]> + Clone + Send + 'static,
    {
        let (instance, changes) = (instance.to_owned(), changes.to_vec());
        self.transact(move |tx| {
            own(tx, &instance, fence)?;
            apply(tx, &instance, changes.iter().map(|(key, bytes)| (key, bytes.as_ref())))
        })
        .await
    }

    /// Replaces all that is kept of an instance.
    pub async fn rewrite<B>(&self, instance: &str, fence: u64, all: &[(String, B)]) -> Result<()>
    where
        B: AsRef<[u8]> + Clone + Send + 'static,
    {
        let (instance, all) = (instance.to_owned(), all.to_vec());
        self.transact(move |tx| {
            own(tx, &instance, fence)?;
            tx.prepare_cached("DELETE FROM snapshots WHERE instance = ?1")?.execute([&instance])?;
            apply(tx, &instance, all.iter().map(|(key, bytes)| (key, Some(bytes))))
        })
        .await
    }

    /// Moves what another instance left to `heir`, whose fence this is, at once or not at all, and gives a fence above both;
    /// the heir's own still counts. `None` if the instance is one of this process, or left nothing, or if the heir is fenced.
    pub async fn take_over(&self, dead: &str, heir: &str, fence: u64) -> Result<Option<(u64, Rows)>> {
        if self.entered().contains(dead) {
            return Ok(None);
        }
        let (dead, heir) = (dead.to_owned(), heir.to_owned());
        self.transact(move |tx| {
            match own(tx, &heir, fence) {
                Err(Error::Fenced(_)) => return Ok(None),
                owned => owned?,
            }
            let left = rows(tx, &dead)?;
            if left.is_empty() {
                return Ok(None);
            }
            let fence = next_fence(tx)?;
            set_fence(tx, &dead, fence)?;
            tx.prepare_cached("UPDATE OR REPLACE snapshots SET instance = ?2 WHERE instance = ?1")?
                .execute([&dead, &heir])?;
            Ok(Some((fence, left)))
        })
        .await
    }

    /// The instances that left something and are none of this process: those that [`File::take_over`] would take.
    pub async fn left(&self) -> Result<Vec<String>> {
        let all: Vec<String> = self
            .transact(|tx| {
                let mut select = tx.prepare_cached("SELECT DISTINCT instance FROM snapshots ORDER BY instance")?;
                let names = select.query_map([], |row| row.get(0))?;
                Ok(names.collect::<Result<_, _>>()?)
            })
            .await?;
        let entered = self.entered();
        Ok(all.into_iter().filter(|instance| !entered.contains(instance)).collect())
    }

    fn entered(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.entered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a transaction on the thread.
    async fn transact<T: Send + 'static>(
        &self,
        run: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (reply, done) = oneshot::channel();
        let job = move |connection: &mut Connection| {
            let outcome = (|| {
                let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
                let output = run(&tx)?;
                tx.commit()?;
                Ok(output)
            })();
            // Whoever asked may have stopped waiting; what is written stands.
            let _ = reply.send(outcome);
        };
        self.jobs.send(Box::new(job)).await.map_err(|_| Error::Closed)?;
        done.await.unwrap_or(Err(Error::Closed))
    }
}

fn next_fence(tx: &Transaction<'_>) -> Result<u64> {
    let highest: i64 = tx.query_row("SELECT coalesce(max(fence), 0) FROM fences", [], |row| row.get(0))?;
    Ok(highest.unsigned_abs() + 1)
}

fn set_fence(tx: &Transaction<'_>, instance: &str, fence: u64) -> Result<()> {
    let fence = i64::try_from(fence).unwrap_or(i64::MAX);
    tx.execute("INSERT OR REPLACE INTO fences (instance, fence) VALUES (?1, ?2)", params![instance, fence])?;
    Ok(())
}

/// Refuses whoever writes with less than the last fence of the name.
fn own(tx: &Transaction<'_>, instance: &str, fence: u64) -> Result<()> {
    let mut select = tx.prepare_cached("SELECT fence FROM fences WHERE instance = ?1")?;
    let last: Option<i64> = select.query_row([instance], |row| row.get(0)).optional()?;
    match last {
        Some(last) if last.unsigned_abs() <= fence => Ok(()),
        _ => Err(Error::Fenced(instance.to_owned())),
    }
}

fn rows(tx: &Transaction<'_>, instance: &str) -> Result<Rows> {
    let mut select = tx.prepare_cached("SELECT key, bytes FROM snapshots WHERE instance = ?1 ORDER BY key")?;
    let rows = select.query_map([instance], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<Result<_, _>>()?)
}

fn apply<'a, B: AsRef<[u8]> + 'a>(
    tx: &Transaction<'_>,
    instance: &str,
    changes: impl Iterator<Item = (&'a String, Option<&'a B>)>,
) -> Result<()> {
    let mut put = tx.prepare_cached(
        "INSERT INTO snapshots (instance, key, bytes) VALUES (?1, ?2, ?3)
         ON CONFLICT (instance, key) DO UPDATE SET bytes = excluded.bytes",
    )?;
    let mut delete = tx.prepare_cached("DELETE FROM snapshots WHERE instance = ?1 AND key = ?2")?;
    for (key, bytes) in changes {
        match bytes {
            Some(bytes) => put.execute(params![instance, key, bytes.as_ref()])?,
            None => delete.execute(params![instance, key])?,
        };
    }
    Ok(())
}

/// Opens the file; one that is damaged is moved aside, once.
fn connect(path: &Path) -> Result<Connection> {
    let refuse = |error: rusqlite::Error| Error::Open { path: path.to_owned(), why: error.to_string() };
    let found = match prepare(path) {
        Err(error) if is_damaged(&error) => {
            let aside = beside(path, ".damaged");
            tracing::warn!(path = %path.display(), aside = %aside.display(), %error,
                "the snapshots are damaged and moved aside; the calls in them are not taken up again");
            fs::rename(path, &aside).map_err(|error| Error::Open { path: path.to_owned(), why: error.to_string() })?;
            for suffix in ["-wal", "-shm"] {
                // Mostly there are none.
                let _ = fs::remove_file(beside(path, suffix));
            }
            prepare(path).map_err(refuse)
        }
        opened => opened.map_err(refuse),
    };
    match found? {
        (connection, VERSION) => Ok(connection),
        (_, found) => Err(Error::Newer { path: path.to_owned(), found }),
    }
}

/// A connection that is set up, and the format of what it holds.
fn prepare(path: &Path) -> rusqlite::Result<(Connection, i64)> {
    let connection = Connection::open(path)?;
    connection.pragma_update_and_check(None, "journal_mode", "wal", |_| Ok(()))?;
    connection.pragma_update(None, "synchronous", "off")?;
    let sound: String = connection.pragma_query_value(None, "quick_check", |row| row.get(0))?;
    if sound != "ok" {
        return Err(rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(CORRUPT), Some(sound)));
    }
    let mut version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    if version == 0 {
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;"))?;
        version = VERSION;
    }
    Ok((connection, version))
}

/// SQLite's primary result code: <https://www.sqlite.org/rescode.html#corrupt>
const CORRUPT: i32 = 11;

fn is_damaged(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
