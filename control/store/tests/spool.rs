//! The database goes away and comes back: what calls leave is in it afterwards, each once.
#![allow(missing_docs)]

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use common::postgres::Server;
use common::{call, cdr, options};
use nebula_store::outbox::OutboxEvent;
use nebula_store::{Error, Options, Status, Store, calls, cdrs, outbox};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// A call must not wait longer for its row, with the database away; the machine may be busy.
const START_WITHIN: Duration = Duration::from_millis(1_500);
const BACK_WITHIN: Duration = Duration::from_secs(5);

fn spooling(url: impl Into<String>, folder: &Path) -> Options {
    Options { spool: Some(folder.join("spool")), instance: "switchboard-a".into(), ..Options::url(url) }
}

async fn until(store: &Store, within: Duration, what: &str, is: impl Fn(&Status) -> bool) -> Status {
    let mut status = store.spooling();
    match timeout(within, status.wait_for(is)).await {
        Ok(reached) => reached.expect("an open store").clone(),
        Err(_) => panic!("not {what} in time: {:?}", store.spooling().borrow().clone()),
    }
}

async fn back(store: &Store, within: Duration) -> Status {
    until(store, within, "back", |status| status.database_up && status.spooled + status.waiting == 0).await
}

/// One whole call; how long its row took.
async fn life(store: &Store, id: &str) -> Duration {
    let begun = Instant::now();
    calls::start(store, call(id)).await.expect("a start");
    let started = begun.elapsed();
    assert!(calls::answered(store, id, "up", 3_000, None).await.expect("an answer"));
    assert!(calls::end(store, cdr(id)).await.expect("an end"));
    started
}

/// Each of these calls has its row, its record and its three events, once and in order, and no other has.
async fn assert_complete(store: &Store, ids: &[String]) {
    let mut records: Vec<_> = cdrs::list(store, 10_000).await.unwrap().into_iter().map(|cdr| cdr.call_id).collect();
    records.sort();
    let mut expected = ids.to_vec();
    expected.sort();
    assert_eq!(records, expected);
    let mut kinds: HashMap<String, Vec<String>> = HashMap::new();
    for OutboxEvent { kind, subject, .. } in outbox::unpublished(store, 0, 100_000).await.unwrap() {
        kinds.entry(subject).or_default().push(kind);
    }
    assert_eq!(kinds.len(), ids.len());
    for (id, kinds) in kinds {
        assert_eq!(kinds, ["call.started", "call.answered", "call.ended"], "{id}");
    }
    assert!(calls::orphans(store, &[]).await.unwrap().is_empty(), "all have ended");
    for id in ids {
        let row = calls::get(store, id).await.unwrap().unwrap_or_else(|| panic!("no row of {id}"));
        assert_eq!((row.answered_unix_ms, row.ended_unix_ms), (Some(3_000), Some(10_500)));
    }
}

fn spool_files(folder: &Path) -> Vec<PathBuf> {
    let files = fs::read_dir(folder.join("spool")).expect("a spool").map(|entry| entry.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|extension| extension == "spool")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_500_calls_costs_none_of_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start().await;
    let store = Store::open(&spooling(server.url(), folder.path())).await.unwrap();
    let ids: Vec<String> = (0..500).map(|n| format!("c{n:03}")).collect();
    let (middle, reached) = oneshot::channel();
    let (lives, all) = (store.clone(), ids.clone());
    let calling = tokio::spawn(async move {
        let (mut running, mut middle) = (JoinSet::new(), Some(middle));
        let mut slowest = Duration::ZERO;
        for (n, id) in all.into_iter().enumerate() {
            if running.len() == 16 {
                slowest = slowest.max(running.join_next().await.unwrap().unwrap());
            }
            if n == 150 {
                middle.take().unwrap().send(()).unwrap();
            }
            let store = lives.clone();
            running.spawn(async move { life(&store, &id).await });
        }
        running.join_all().await.into_iter().fold(slowest, Duration::max)
    });
    reached.await.unwrap();
    server.kill();
    let slowest = calling.await.unwrap();
    assert!(slowest < START_WITHIN, "a start took {slowest:?}");
    let away = store.spooling().borrow().clone();
    assert!(!away.database_up && away.spooled > 0 && away.outages == 1, "{away:?}");
    assert_eq!(spool_files(folder.path()).len(), 1);
    assert!(matches!(calls::get(&store, "c000").await, Err(Error::Away)), "a read fails at once");
    server.start_again().await;
    let status = back(&store, BACK_WITHIN).await;
    assert_eq!((status.spooled_total, status.refused_total), (status.replayed_total, 0), "{status:?}");
    assert_complete(&store, &ids).await;
    assert!(spool_files(folder.path()).is_empty());
    calls::start(&store, call("after")).await.unwrap();
    assert_eq!(store.spooling().borrow().spooled_total, status.spooled_total, "it goes straight again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_meanwhile_leaves_its_spool_to_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start().await;
    let options = spooling(server.url(), folder.path());
    let ids: Vec<String> = (0..30).map(|n| format!("c{n:02}")).collect();
    let store = Store::open(&options).await.unwrap();
    life(&store, &ids[0]).await;
    calls::start(&store, call(&ids[1])).await.unwrap();
    server.kill();
    calls::answered(&store, &ids[1], "up", 3_000, None).await.unwrap();
    for id in &ids[2..10] {
        life(&store, id).await;
    }
    calls::start(&store, call(&ids[10])).await.unwrap();
    store.close().await;

    // The next one starts without the database, and ends two calls of its predecessor.
    let store = Store::open(&options).await.expect("a start without the database");
    assert!(!store.spooling().borrow().database_up);
    assert_eq!(store.spooling().borrow().spooled, 1 + 8 * 3 + 1);
    calls::end(&store, cdr(&ids[1])).await.unwrap();
    calls::answered(&store, &ids[10], "up", 3_000, None).await.unwrap();
    calls::end(&store, cdr(&ids[10])).await.unwrap();
    for id in &ids[11..20] {
        life(&store, id).await;
    }
    server.start_again().await;
    back(&store, BACK_WITHIN).await;
    for id in &ids[20..] {
        life(&store, id).await;
    }
    assert_complete(&store, &ids).await;
    assert!(spool_files(folder.path()).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ended_elsewhere_is_not_begun_again_by_a_late_spool() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start().await;
    let options = spooling(server.url(), folder.path());
    let dead = Store::open(&options).await.unwrap();
    server.kill();
    calls::start(&dead, call("c1")).await.unwrap();
    dead.close().await;
    server.start_again().await;
    // Another host took the call over and ended it; it does not see this spool.
    let heir = Store::open(&Options::url(server.url())).await.unwrap();
    assert!(calls::end(&heir, cdr("c1")).await.unwrap());
    let late = Store::open(&options).await.unwrap();
    assert!(spool_files(folder.path()).is_empty(), "a start waits for the replay");
    assert!(calls::orphans(&late, &[]).await.unwrap().is_empty());
    let kinds: Vec<_> = outbox::unpublished(&late, 0, 10).await.unwrap().into_iter().map(|event| event.kind).collect();
    assert_eq!(kinds, ["call.ended"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_only_reads_is_read_and_spooled_for() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start().await;
    let store = Store::open(&spooling(server.url(), folder.path())).await.unwrap();
    life(&store, "c0").await;
    server.execute("ALTER ROLE nebula SET default_transaction_read_only = on").await;
    let end_others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'";
    server.execute(end_others).await;
    life(&store, "c1").await;
    let status = until(&store, BACK_WITHIN, "spooled", |status| status.spooled == 3).await;
    assert!(!status.database_up);
    assert!(cdrs::get(&store, "c0").await.unwrap().is_some(), "it can be read");
    server.execute("BEGIN READ WRITE; ALTER ROLE nebula RESET default_transaction_read_only; COMMIT").await;
    server.execute(end_others).await;
    back(&store, BACK_WITHIN).await;
    assert_complete(&store, &["c0".into(), "c1".into()]).await;
}

/// A file system of 2 MiB; `None`, and said so, where none can be mounted.
struct Small(TempDir);

impl Small {
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"])
            .arg(folder.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("SKIPPED: a file system of its own cannot be mounted here; run the tests as root");
        }
        mounted.then(|| Self(folder))
    }

    fn fill(&self) {
        use std::io::Write;
        let mut filler = fs::File::create(self.0.path().join("filler")).unwrap();
        while filler.write_all(&[0; 4096]).is_ok() {}
        while filler.write_all(&[0]).is_ok() {}
    }

    fn empty(&self) {
        fs::remove_file(self.0.path().join("filler")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        // Lazily: the store of a failed test may be open still.
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_under_sqlite_costs_no_call() {
    let Some(small) = Small::mount() else { return };
    let folder = tempfile::tempdir().unwrap();
    let database = Options { spool: Some(folder.path().join("spool")), ..options(&small.0) };
    let store = Store::open(&database).await.unwrap();
    let ids: Vec<String> = (0..60).map(|n| format!("c{n:02}")).collect();
    for id in &ids[..10] {
        life(&store, id).await;
    }
    small.fill();
    for id in &ids[10..50] {
        let took = life(&store, id).await;
        assert!(took < START_WITHIN, "{took:?}");
    }
    // Some went into what the WAL had left.
    let status = store.spooling().borrow().clone();
    assert!(!status.database_up && status.spooled > 0, "{status:?}");
    assert!(cdrs::get(&store, "c00").await.unwrap().is_some(), "it can be read");
    small.empty();
    back(&store, BACK_WITHIN).await;
    for id in &ids[50..] {
        life(&store, id).await;
    }
    assert_complete(&store, &ids).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_spool_on_the_full_disk_too_ends_wait_and_nothing_is_half_written() {
    let Some(small) = Small::mount() else { return };
    let database = Options { spool: Some(small.0.path().join("spool")), ..options(&small.0) };
    let store = Store::open(&database).await.unwrap();
    let ids: Vec<String> = (0..40).map(|n| format!("c{n:02}")).collect();
    for id in &ids[..5] {
        life(&store, id).await;
    }
    small.fill();
    let mut lives = JoinSet::new();
    for id in &ids[5..] {
        let (store, id) = (store.clone(), id.clone());
        lives.spawn(async move { life(&store, &id).await });
    }
    let waiting = until(&store, BACK_WITHIN, "waiting", |status| status.waiting >= 30).await;
    assert!(!waiting.database_up, "{waiting:?}");
    small.empty();
    for took in lives.join_all().await {
        assert!(took < START_WITHIN, "a start does not wait for the disk: {took:?}");
    }
    back(&store, BACK_WITHIN).await;
    assert_complete(&store, &ids).await;
    assert!(spool_files(small.0.path()).is_empty());
    store.close().await;
}
