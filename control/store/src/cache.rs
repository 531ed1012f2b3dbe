//! Extensions and locations, cached: read cache-aside, marked as changed on writing, and what remains when the database
//! is away. Called by `extensions.rs` and `locations.rs`; nothing here without a [`Cache`] in the options.
//!
//! **No stale value outlives its change.** Whoever writes puts a mark in the value's place before the transaction and
//! again after its commit; a mark lives for `MARK`. Who finds a mark, or nothing, reads the database; who found nothing
//! puts what it read there, but only if the place is still empty ([`Cache::add`]) and if its reading took less than half
//! a mark's life. So a value that was read before the commit either meets a mark, or is overwritten by one. A writer that
//! dies between commit and second mark leaves the first. A mark that could not be set is set later; there are at most
//! `PENDING_MAX` of these.
//!
//! If the database turns out to be away, the writer puts the old value back, which is what the outage is survived with,
//! and marks it once the database is there again: nobody knows whether the last transaction was committed.
//!
//! After the mark has ended, the writer reads the row once more and adds it: otherwise a phone that registers each minute
//! would never be found in the cache when the database goes away.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use crate::error::Result;
use crate::store::Store;
use crate::{extensions, locations};

/// What a cache failed with.
pub type CacheError = Box<dyn std::error::Error + Send + Sync>;

/// A place for bytes by key that all processes share, and that may lose them or be away.
#[async_trait]
pub trait Cache: Send + Sync + 'static {
    /// The bytes under a key.
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError>;
    /// Puts bytes under a key, whatever is there, for this long.
    async fn set(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<(), CacheError>;
    /// Puts bytes under a key unless there is something (Redis: `SET NX PX`); whether it did.
    async fn add(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<bool, CacheError>;
}

/// How long a value is kept: what an outage of the database may last.
const KEEP: Duration = Duration::from_secs(24 * 3600);

/// How long a mark keeps readers from adding what they read before.
const MARK: Duration = Duration::from_secs(2);

/// What takes longer counts as failed. Short: a call waits, and the database is there.
const PATIENCE: Duration = Duration::from_millis(200);

/// After a failure the cache is not asked for this long.
const REST: Duration = Duration::from_secs(1);

/// Marks that wait for the cache, and values that wait for the end of their mark. Beyond it the oldest are dropped; such
/// a value may be stale until it is written again.
const PENDING_MAX: usize = 65_536;

/// The layout of what is cached. What has another one, or none, is nobody's here: a process of another version wrote it, and it may
/// lack what this one needs to know.
const VERSION: u32 = 2;

/// A value as it is cached.
#[derive(Serialize, Deserialize)]
struct Entry<T> {
    version: u32,
    value: T,
}

/// A mark; values are JSON, so none looks like it.
const CHANGED: &[u8] = b"changed";

/// What is cached.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Extension(String),
    Locations(String),
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Extension(user) => write!(f, "extension:{user}"),
            Key::Locations(user) => write!(f, "locations:{user}"),
        }
    }
}

/// How the cache is used, for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Look-ups that it answered.
    pub hits: u64,
    /// Look-ups that went on to the database.
    pub misses: u64,
    /// Operations that failed or took too long.
    pub errors: u64,
    /// Marks that were given up for want of room.
    pub dropped: u64,
}

/// The cache as the store uses it.
pub(crate) struct Cached {
    cache: Arc<dyn Cache>,
    rests_until: Mutex<Option<Instant>>,
    /// Marks to be set again.
    unmarked: Mutex<BTreeSet<Key>>,
    /// What was put back, to be marked when the database is there again.
    doubtful: Mutex<BTreeSet<Key>>,
    /// Values to be read and added once their mark has ended, oldest first.
    refills: Mutex<VecDeque<(Instant, Key)>>,
    work: Notify,
    hits: AtomicU64,
    misses: AtomicU64,
    errors: AtomicU64,
    dropped: AtomicU64,
}

/// What a look-up found.
enum Found<T> {
    Value(T),
    /// Nothing: what the database says may be added, by this ticket.
    Nothing(Ticket),
    /// A mark, or no answer: what the database says may not be added.
    Unknown,
    /// What another version wrote: to be written anew.
    Foreign(Key),
}

/// The right to add a value that was read from now on.
struct Ticket {
    key: Key,
    since: Instant,
}

impl Cached {
    pub fn new(cache: Arc<dyn Cache>) -> Arc<Self> {
        Arc::new(Self {
            cache,
            rests_until: Mutex::default(),
            unmarked: Mutex::default(),
            doubtful: Mutex::default(),
            refills: Mutex::default(),
            work: Notify::new(),
            hits: AtomicU64::default(),
            misses: AtomicU64::default(),
            errors: AtomicU64::default(),
            dropped: AtomicU64::default(),
        })
    }

    pub fn counts(&self) -> CacheCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (hits, misses, errors, dropped) =
            (read(&self.hits), read(&self.misses), read(&self.errors), read(&self.dropped));
        CacheCounts { hits, misses, errors, dropped }
    }

    /// Looks a value up: here, or else by reading it. What is not there is not kept: anybody can ask for anything.
    pub async fn look_up<T>(&self, key: Key, read: impl Future<Output = Result<Option<T>>>) -> Result<Option<T>>
    where
        T: Serialize + DeserializeOwned,
    {
        match self.get(key).await {
            Found::Value(value) => Ok(Some(value)),
            Found::Unknown => read.await,
            Found::Foreign(key) => {
                let value = read.await?;
                self.changed(key).await;
                Ok(value)
            }
            Found::Nothing(ticket) => {
                let value = read.await?;
                if let Some(value) = &value {
                    self.add(ticket, value).await;
                }
                Ok(value)
            }
        }
    }

    async fn get<T: DeserializeOwned>(&self, key: Key) -> Found<T> {
        let since = Instant::now();
        let name = key.to_string();
        let found = match self.ask(self.cache.get(&name)).await {
            // Not known to readers yet: this process could not set the mark.
            _ if lock(&self.unmarked).contains(&key) => Found::Unknown,
            None => Found::Unknown,
            Some(None) => Found::Nothing(Ticket { key, since }),
            Some(Some(bytes)) if bytes == CHANGED => Found::Unknown,
            Some(Some(bytes)) => match serde_json::from_slice(&bytes) {
                Ok(Entry { version: VERSION, value }) => Found::Value(value),
                _ => Found::Foreign(key),
            },
        };
        let counter = if matches!(found, Found::Value(_)) { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Adds what the database said.
    async fn add<T: Serialize>(&self, ticket: Ticket, value: &T) {
        let Ok(bytes) = serde_json::to_vec(&Entry { version: VERSION, value }) else { return };
        if ticket.since.elapsed() < MARK / 2 {
            self.ask(self.cache.add(&ticket.key.to_string(), &bytes, KEEP)).await;
        }
    }

    /// Before a transaction that changes this; gives what was there.
    pub async fn changing(&self, key: &Key) -> Option<Vec<u8>> {
        let name = key.to_string();
        let old = self.ask(self.cache.get(&name)).await.flatten();
        // If this fails the mark after the commit remains.
        self.ask(self.cache.set(&name, CHANGED, MARK)).await;
        old.filter(|old| old != CHANGED)
    }

    /// After it.
    pub async fn changed(&self, key: Key) {
        self.mark(key).await;
        self.work.notify_one();
    }

    /// After it found the database away.
    pub async fn put_back(&self, key: Key, old: Option<Vec<u8>>) {
        if let Some(old) = old {
            self.ask(self.cache.set(&key.to_string(), &old, KEEP)).await;
        }
        let mut doubtful = lock(&self.doubtful);
        if doubtful.len() < PENDING_MAX {
            doubtful.insert(key);
        } else {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        drop(doubtful);
        self.work.notify_one();
    }

    async fn mark(&self, key: Key) {
        let marked = self.ask(self.cache.set(&key.to_string(), CHANGED, MARK)).await.is_some();
        let mut unmarked = lock(&self.unmarked);
        if !marked {
            if unmarked.len() < PENDING_MAX {
                unmarked.insert(key);
            } else {
                self.dropped.fetch_add(1, Ordering::Relaxed);
            }
            return;
        }
        unmarked.remove(&key);
        drop(unmarked);
        let mut refills = lock(&self.refills);
        if refills.len() >= PENDING_MAX {
            refills.pop_front();
        }
        refills.push_back((Instant::now() + MARK + PATIENCE, key));
    }

    /// The values whose marks have ended by now, each once.
    fn due(&self) -> BTreeSet<Key> {
        let now = Instant::now();
        let mut refills = lock(&self.refills);
        let count = refills.iter().take_while(|(at, _)| *at <= now).count();
        refills.drain(..count).map(|(_, key)| key).collect()
    }

    /// Runs an operation, unless the last one failed just now. `None` if it failed.
    async fn ask<T>(&self, operation: impl Future<Output = Result<T, CacheError>>) -> Option<T> {
        if lock(&self.rests_until).is_some_and(|until| Instant::now() < until) {
            return None;
        }
        let error: CacheError = match timeout(PATIENCE, operation).await {
            Ok(Ok(done)) => return Some(done),
            Ok(Err(error)) => error,
            Err(_) => "no answer in time".into(),
        };
        self.errors.fetch_add(1, Ordering::Relaxed);
        tracing::debug!(%error, "the cache failed");
        *lock(&self.rests_until) = Some(Instant::now() + REST);
        None
    }
}

/// Sets marks that could not be set, and adds values after their marks. Ends with the store.
pub(crate) async fn tend(cached: Arc<Cached>, store: impl Fn() -> Option<Store>) {
    loop {
        // Awake at times, to see the end of the store.
        let idle = lock(&cached.unmarked).is_empty() && lock(&cached.refills).is_empty();
        if idle {
            let _ = timeout(REST, cached.work.notified()).await;
        }
        sleep(MARK / 8).await;
        let Some(store) = store() else { return };
        let mut unmarked: Vec<Key> = lock(&cached.unmarked).iter().cloned().collect();
        if store.is_up() {
            unmarked.extend(std::mem::take(&mut *lock(&cached.doubtful)));
        }
        for key in unmarked {
            cached.mark(key).await;
        }
        for key in cached.due() {
            // Reading adds it; what cannot be read now is added when it is looked up.
            let _ = match key {
                Key::Extension(user) => extensions::find(&store, &user).await.map(drop),
                Key::Locations(user) => locations::live(&store, &user, 0).await.map(drop),
            };
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
