//! Snapshots in Redis: they outlive the process, have one owner, and survive a Redis that loses everything.
#![allow(missing_docs)]

use std::time::Duration;

use bytes::Bytes;
use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::redis::Redis;
use nebula_bus::snapshots::{KeepError, Kept};
use nebula_bus::{Inbox, Membership};
use tokio::time::{Instant, sleep, timeout};

mod servers;

use servers::{Server, until};

const LEASE: Duration = Duration::from_millis(600);

/// A process: its connection, its membership, and that it is seen alive while it serves.
struct Process {
    redis: Redis,
    member: Membership,
    inbox: Option<Inbox>,
}

async fn connect(server: &Server) -> Redis {
    Redis::connect(server.options().lease(LEASE)).await.expect("connected")
}

async fn start(server: &Server, node: &str) -> Process {
    let redis = connect(server).await;
    let member = enter(&redis, node).await;
    let inbox = Some(redis.bus().serve(Role::Switchboard, member.instance.clone()));
    Process { redis, member, inbox }
}

async fn enter(redis: &Redis, node: &str) -> Membership {
    Membership::enter(redis.keep(), Role::Switchboard, node).await.expect("entered")
}

async fn sees(process: &Process, other: &InstanceId) {
    let bus = process.redis.bus();
    let seen = async || bus.instances(Role::Switchboard).iter().any(|a| a.instance == *other).then_some(());
    until("it is seen", seen).await;
}

async fn put(process: &Process, key: &str, value: &'static str) {
    process.member.snapshots.put(key, value);
    timeout(Duration::from_secs(10), process.member.snapshots.flush()).await.expect("kept in time");
}

async fn heir_of(process: &Process, dead: &InstanceId) -> Kept {
    let taken = async || process.member.snapshots.take_over(dead).await.expect("Redis is there");
    until("it is taken over", taken).await
}

fn sorted(mut kept: Kept) -> Vec<(String, String)> {
    kept.sort();
    kept.into_iter().map(|(key, value)| (key, String::from_utf8(value.to_vec()).expect("text"))).collect()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_kept_comes_back_and_the_older_process_is_fenced() {
    let server = Server::start().await;
    let first = start(&server, "a").await;
    assert!(first.member.restored.is_empty());
    put(&first, "call-1", "old").await;
    put(&first, "call-1", "new").await;
    put(&first, "call-2", "ended").await;
    first.member.snapshots.delete("call-2");
    first.member.snapshots.flush().await;

    let second = start(&server, "a").await;
    assert_eq!(sorted(second.member.restored.clone()), pairs(&[("call-1", "new")]));
    assert!(second.member.fence.get() > first.member.fence.get());
    // It need not write to find out: its beat tells it.
    timeout(Duration::from_secs(10), first.member.snapshots.fenced()).await.expect("it is fenced");
    first.member.snapshots.put("call-1", "from the dead");
    put(&second, "call-3", "mine").await;
    let kept = enter(&second.redis, "a").await.restored;
    assert_eq!(sorted(kept), pairs(&[("call-1", "new"), ("call-3", "mine")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_ones_calls_go_to_one_heir_and_a_living_ones_to_nobody() {
    let server = Server::start().await;
    let (mut dead, heir, other) =
        (start(&server, "dead").await, start(&server, "heir").await, start(&server, "other").await);
    put(&dead, "call-1", "1").await;
    put(&heir, "call-2", "2").await;
    sees(&heir, &dead.member.instance).await;
    // Time must pass: it has to be believed alive for longer than a lease.
    sleep(LEASE * 2).await;
    let snapshots = &heir.member.snapshots;
    assert_eq!(snapshots.take_over(&dead.member.instance).await, Ok(None), "it lives");
    // As if Redis' clock had been set forward: its key is gone before its time, and it is no less alive.
    server.ask("DEL {nebula:switchboard}:instance:switchboard-dead").await;
    assert_eq!(snapshots.take_over(&dead.member.instance).await, Ok(None), "it was just heard");
    assert!(heir.redis.bus().instances(Role::Switchboard).iter().any(|a| a.instance == dead.member.instance));
    assert_eq!(snapshots.take_over(&heir.member.instance).await, Ok(None), "itself");
    assert_eq!(snapshots.take_over(&"switchboard-nobody".into()).await, Ok(None), "it never was");
    assert_eq!(snapshots.take_over(&"proxy-dead".into()).await, Ok(None), "another role");
    assert_eq!(snapshots.abandoned().await, Ok(vec![]));

    // It serves no more, but its process lives and would write.
    dead.inbox = None;
    let abandoned = async || snapshots.abandoned().await.expect("Redis is there").into_iter().next();
    assert_eq!(until("it is missed", abandoned).await, dead.member.instance);
    let (one, two) = tokio::join!(
        snapshots.take_over(&dead.member.instance),
        other.member.snapshots.take_over(&dead.member.instance)
    );
    let (one, two) = (one.expect("Redis is there"), two.expect("Redis is there"));
    assert!(one.is_some() != two.is_some(), "one of both: {one:?} {two:?}");
    let winner = if one.is_some() { &heir } else { &other };
    assert_eq!(sorted(one.or(two).unwrap_or_default()), pairs(&[("call-1", "1")]));
    assert!(winner.member.fence.get() > dead.member.fence.get());
    dead.member.snapshots.put("call-1", "from the dead");
    timeout(Duration::from_secs(10), dead.member.snapshots.fenced()).await.expect("it is fenced");
    put(winner, "call-9", "9").await;
    let node = winner.member.instance.as_str().trim_start_matches("switchboard-");
    let restored = sorted(enter(&winner.redis, node).await.restored);
    assert!(restored.contains(&("call-1".into(), "1".into())) && restored.contains(&("call-9".into(), "9".into())));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_lost_everything_is_told_everything_again() {
    let mut server = Server::start().await;
    let (quiet, busy) = (start(&server, "quiet").await, start(&server, "busy").await);
    for process in [&quiet, &busy] {
        put(process, "call-1", "1").await;
        put(process, "call-2", "2").await;
    }
    let fences = [quiet.member.fence.get(), busy.member.fence.get()];
    server.kill();
    busy.member.snapshots.put("call-3", "while it was away");
    busy.member.snapshots.delete("call-1");
    assert!(busy.member.snapshots.pending() > 0);
    let away = async || busy.member.snapshots.take_over(&quiet.member.instance).await.err();
    assert!(matches!(until("it is away", away).await, KeepError::Away(_)));

    server.run().await;
    let back = Instant::now();
    timeout(Duration::from_secs(5), busy.member.snapshots.flush()).await.expect("written in time");
    until("the quiet one, too", async || {
        server.ask("HLEN {nebula:switchboard}:kept:switchboard-quiet").await.starts_with(":2").then_some(())
    })
    .await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    // The counter of fences went with the rest, and still rises.
    let next = connect(&server).await;
    let quiet_again = enter(&next, "quiet").await;
    assert!(quiet_again.fence.get() > fences[0].max(fences[1]));
    assert_eq!(sorted(quiet_again.restored), pairs(&[("call-1", "1"), ("call-2", "2")]));
    let busy_again = enter(&next, "busy").await;
    assert_eq!(sorted(busy_again.restored), pairs(&[("call-2", "2"), ("call-3", "while it was away")]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_fenced_stays_fenced_though_redis_forgets_it() {
    let server = Server::start().await;
    let (mut zombie, heir) = (start(&server, "zombie").await, start(&server, "heir").await);
    put(&zombie, "call-1", "1").await;
    zombie.inbox = None;
    heir_of(&heir, &zombie.member.instance).await;
    server.ask("FLUSHALL").await;
    put(&heir, "call-2", "2").await;
    until("the heir has written all again", async || {
        server.ask("HLEN {nebula:switchboard}:kept:switchboard-heir").await.starts_with(":2").then_some(())
    })
    .await;
    zombie.member.snapshots.put("call-1", "from the dead");
    timeout(Duration::from_secs(10), zombie.member.snapshots.fenced()).await.expect("it is fenced");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_dead_right_after_redis_came_back() {
    let mut server = Server::start().await;
    let (mut gone, heir) = (start(&server, "gone").await, start(&server, "heir").await);
    put(&gone, "call-1", "1").await;
    sees(&heir, &gone.member.instance).await;
    server.kill();
    until("it is away", async || heir.member.snapshots.abandoned().await.err()).await;
    gone.inbox = None;
    server.run().await;
    until("it is back", async || heir.member.snapshots.abandoned().await.ok()).await;
    let back = Instant::now();
    until("the other has written again", async || {
        server.ask("HLEN {nebula:switchboard}:kept:switchboard-gone").await.starts_with(":1").then_some(())
    })
    .await;
    // There is no sign of life of it at all in this Redis; still it gets its lease.
    heir_of(&heir, &gone.member.instance).await;
    assert!(back.elapsed() >= LEASE / 2, "{:?}", back.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_and_large_snapshots_are_kept_together() {
    let server = Server::start().await;
    let process = start(&server, "a").await;
    let large = Bytes::from(vec![b'x'; 100_000]);
    for n in 0..2000 {
        process
            .member
            .snapshots
            .put(format!("call-{n}"), if n % 100 == 0 { large.clone() } else { Bytes::from_static(b"{}") });
    }
    timeout(Duration::from_secs(10), process.member.snapshots.flush()).await.expect("kept in time");
    let restored = enter(&process.redis, "a").await.restored;
    assert_eq!(restored.len(), 2000);
    assert_eq!(restored.iter().filter(|(_, value)| *value == large).count(), 20);
}
