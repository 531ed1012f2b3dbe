//! Extensions and locations in the cache: trusted, never older than the last change, and what an outage is survived with.
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use common::postgres::Server;
use common::{binding, customer, extension, options};
use nebula_store::extensions::{self, Ha1, Srtp};
use nebula_store::locations::{self, Changes};
use nebula_store::{Cache, CacheError, Error, Options, Store};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout};

/// A cache as Redis is one: shared, with expiry, and away at times.
#[derive(Default)]
struct Shared {
    values: Mutex<HashMap<String, (Instant, Vec<u8>)>>,
    away: AtomicBool,
    /// The next `add` waits for `go`.
    hold: AtomicBool,
    held: Notify,
    go: Notify,
}

impl Shared {
    fn there(&self) -> Result<(), CacheError> {
        if self.away.load(Ordering::SeqCst) { Err("away".into()) } else { Ok(()) }
    }

    fn peek(&self, key: &str) -> Option<Vec<u8>> {
        let values = self.values.lock().unwrap();
        values.get(key).filter(|(until, _)| Instant::now() < *until).map(|(_, bytes)| bytes.clone())
    }

    /// Waits for a value of a user's locations that names this.
    async fn until_it_holds(&self, key: &str, text: &str) {
        let holds = async {
            while !self.peek(key).is_some_and(|bytes| String::from_utf8_lossy(&bytes).contains(text)) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        timeout(Duration::from_secs(20), holds).await.unwrap_or_else(|_| panic!("{key} never holds {text}"));
    }
}

#[async_trait::async_trait]
impl Cache for Shared {
    async fn get(&self, key: &str) -> Result<Option<Vec<u8>>, CacheError> {
        self.there()?;
        Ok(self.peek(key))
    }

    async fn set(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<(), CacheError> {
        self.there()?;
        self.values.lock().unwrap().insert(key.to_owned(), (Instant::now() + ttl, bytes.to_vec()));
        Ok(())
    }

    async fn add(&self, key: &str, bytes: &[u8], ttl: Duration) -> Result<bool, CacheError> {
        self.there()?;
        if self.hold.swap(false, Ordering::SeqCst) {
            self.held.notify_one();
            self.go.notified().await;
        }
        if self.peek(key).is_some() {
            return Ok(false);
        }
        self.set(key, bytes, ttl).await.map(|()| true)
    }
}

const EXTENSION: &str = "extension:1000";
const LOCATIONS: &str = "locations:1000";
const A: &str = "sip:1000@192.0.2.7:5060";
const B: &str = "sip:1000@192.0.2.8:5060";

fn cached(options: Options, cache: &Arc<Shared>) -> Options {
    Options { cache: Some(cache.clone()), ..options }
}

async fn seed(store: &Store) {
    extensions::seed(store, customer(), vec![extension("1000")], "test").await.unwrap();
}

async fn register(store: &Store, contact: &str, cseq: u32) -> nebula_store::Result<()> {
    let set = vec![binding(contact, cseq)];
    let changes = Changes { call_id: "register@phone".into(), cseq, remove_all: true, set, ..Changes::default() };
    locations::apply(store, "1000", changes, 1).await.map(drop)
}

async fn contacts(store: &Store) -> Vec<String> {
    locations::live(store, "1000", 2).await.unwrap().into_iter().map(|binding| binding.contact).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_is_in_the_cache_and_what_is_not_there_is_not() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), Arc::new(Shared::default()));
    let store = Store::open(&cached(options(&folder), &cache)).await.unwrap();
    seed(&store).await;
    let read = extensions::find(&store, "1000").await.unwrap();
    assert!(cache.peek(EXTENSION).is_some());
    assert_eq!(extensions::find(&store, "1000").await.unwrap(), read);
    assert_eq!(extensions::find(&store, "9999").await.unwrap(), None);
    assert_eq!(contacts(&store).await, Vec::<String>::new());
    assert_eq!(cache.values.lock().unwrap().len(), 1, "only what is there");
    let counts = store.cache_counts().unwrap();
    assert_eq!((counts.hits, counts.misses, counts.errors), (1, 3, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_by_another_process_is_seen_at_once_and_cached_again() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), Arc::new(Shared::default()));
    let one = Store::open(&cached(options(&folder), &cache)).await.unwrap();
    let other = Store::open(&cached(options(&folder), &cache)).await.unwrap();
    seed(&one).await;
    extensions::find(&one, "1000").await.unwrap();
    let new = Ha1::new("1000", "nebula", "new");
    assert!(extensions::set_password(&other, "1000", new.clone(), "operator").await.unwrap());
    assert_eq!(extensions::find(&one, "1000").await.unwrap().unwrap().ha1_md5, new.md5);
    for (cseq, contact) in [A, B].into_iter().enumerate() {
        register(&other, contact, cseq as u32 + 1).await.unwrap();
        assert_eq!(contacts(&one).await, [contact]);
    }
    // Without anybody who asks: it is there when the database goes away.
    cache.until_it_holds(LOCATIONS, B).await;
    cache.until_it_holds(EXTENSION, &new.md5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_of_another_version_cached_is_read_anew() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), Arc::new(Shared::default()));
    let store = Store::open(&cached(options(&folder), &cache)).await.unwrap();
    seed(&store).await;
    assert!(extensions::set_srtp(&store, "1000", Some(Srtp::Required), "operator").await.unwrap());
    // As the version before this one wrote it, which knew of no such setting.
    let mut old = serde_json::to_value(extensions::find(&store, "1000").await.unwrap().unwrap()).unwrap();
    old.as_object_mut().unwrap().remove("srtp").unwrap();
    for old in [old.clone(), serde_json::json!({ "version": 1, "value": old })] {
        let bytes = serde_json::to_vec(&old).unwrap();
        cache.set(EXTENSION, &bytes, Duration::from_secs(60)).await.unwrap();
        assert_eq!(extensions::find(&store, "1000").await.unwrap().unwrap().srtp, Some(Srtp::Required));
        cache.until_it_holds(EXTENSION, "\"srtp\":\"required\"").await;
        assert_eq!(extensions::find(&store, "1000").await.unwrap().unwrap().srtp, Some(Srtp::Required));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_was_overtaken_by_a_change_leaves_nothing_stale() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), Arc::new(Shared::default()));
    let store = Store::open(&cached(options(&folder), &cache)).await.unwrap();
    seed(&store).await;
    // It has read the old row, and is about to put it into the cache.
    cache.hold.store(true, Ordering::SeqCst);
    let reading = store.clone();
    let reader = tokio::spawn(async move { extensions::find(&reading, "1000").await.unwrap() });
    cache.held.notified().await;
    assert!(extensions::set_enabled(&store, "1000", false, "operator").await.unwrap());
    cache.go.notify_one();
    assert!(reader.await.unwrap().unwrap().enabled, "it was read before the change");
    assert!(!extensions::find(&store, "1000").await.unwrap().unwrap().enabled, "and nobody sees that any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_cache_all_works_and_its_return_shows_nothing_old() {
    let (folder, cache) = (tempfile::tempdir().unwrap(), Arc::new(Shared::default()));
    let store = Store::open(&cached(options(&folder), &cache)).await.unwrap();
    seed(&store).await;
    extensions::find(&store, "1000").await.unwrap();
    cache.away.store(true, Ordering::SeqCst);
    assert!(extensions::set_enabled(&store, "1000", false, "operator").await.unwrap());
    assert!(!extensions::find(&store, "1000").await.unwrap().unwrap().enabled);
    assert!(store.cache_counts().unwrap().errors > 0);
    cache.away.store(false, Ordering::SeqCst);
    assert!(!extensions::find(&store, "1000").await.unwrap().unwrap().enabled, "the old one is there, not trusted");
    cache.until_it_holds(EXTENSION, "\"enabled\":false").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_of_the_database_is_survived_with_what_is_cached() {
    let (mut server, cache) = (Server::start().await, Arc::new(Shared::default()));
    let store = Store::open(&cached(Options::url(server.url()), &cache)).await.unwrap();
    seed(&store).await;
    register(&store, A, 1).await.unwrap();
    let known = extensions::find(&store, "1000").await.unwrap();
    cache.until_it_holds(LOCATIONS, A).await;
    server.kill();
    // The first to notice fails, and does not take the entry along.
    let failed = register(&store, B, 2).await;
    assert!(failed.is_err());
    let asked = Instant::now();
    assert_eq!(extensions::find(&store, "1000").await.unwrap(), known);
    assert_eq!(contacts(&store).await, [A]);
    assert!(matches!(extensions::find(&store, "1001").await, Err(Error::Away)), "not known to the cache");
    assert!(matches!(register(&store, B, 3).await, Err(Error::Away)));
    assert!(asked.elapsed() < Duration::from_millis(500), "nobody waits for what is known to be away");
    assert_eq!(contacts(&store).await, [A]);
    server.start_again().await;
    let mut status = store.spooling();
    let back = timeout(Duration::from_secs(5), status.wait_for(|status| status.database_up)).await;
    back.expect("back within 5 s").unwrap();
    register(&store, B, 4).await.unwrap();
    assert_eq!(contacts(&store).await, [B]);
}
