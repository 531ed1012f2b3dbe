//! Redis with TLS and a password, behind sentinels, and as a cluster: the same bus over each.
#![allow(missing_docs)]

use std::time::Duration;

use nebula_bus::contract::to_proxy::{Channel, ChannelRing};
use nebula_bus::contract::{Accepted, Event, Role};
use nebula_bus::redis::{Options, Redis};
use nebula_bus::{Bus, Context, Inbox, Membership, Target, dispatch};
use tokio::time::timeout;

mod servers;

use servers::{Server, until};

fn within_ms(ms: u64) -> Context {
    Context::new(Duration::from_millis(ms))
}

fn channel(id: impl ToString) -> Channel {
    Channel { channel_id: id.to_string().into() }
}

fn answering(mut inbox: Inbox) {
    tokio::spawn(async move {
        while let Some(request) = inbox.recv().await {
            dispatch!(request; { ChannelRing => |_params, call| call.reply(Ok(Accepted {})) });
        }
    });
}

/// Requests by name and by service, answers, events and snapshots all get through.
async fn works(caller: &Redis, server: &Redis) {
    let (from, at) = (caller.bus(), server.bus());
    let asked = async |target: &Target| from.call::<ChannelRing>(target, channel(1), &within_ms(500)).await.ok();
    until("by service", async || asked(&Target::Service).await).await;
    until("by name", async || asked(&Target::Instance("p".into())).await).await;
    let mut events = from.subscribe();
    let data = serde_json::json!({});
    let event = Event { sequence: 1, kind: "call.started".into(), subject: "c".into(), at_unix_ms: 5, data };
    until("an event", async || at.publish(&event).await.ok()).await;
    assert_eq!(timeout(Duration::from_secs(10), events.recv()).await.expect("in time"), Some(event));
    let enter = async || Membership::enter(server.keep(), Role::Switchboard, "a").await.ok();
    let member = until("entered", enter).await;
    member.snapshots.put("call-1", "1");
    timeout(Duration::from_secs(10), member.snapshots.flush()).await.expect("kept in time");
    let kept = until("read", enter).await.restored;
    assert!(kept.contains(&("call-1".to_owned(), "1".into())), "{kept:?}");
    let cache = caller.cache("x");
    until("the cache", async || cache.set("k", b"v", Duration::from_secs(60)).await.ok()).await;
    assert_eq!(cache.get("k").await, Ok(Some("v".into())));
}

async fn pair(options: &Options) -> (Redis, Redis) {
    let connect = async || Redis::connect(options.clone()).await.expect("connected");
    let (caller, server) = (connect().await, connect().await);
    answering(server.bus().serve(Role::Proxy, "p".into()));
    (caller, server)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_tls_and_a_password() {
    let folder = tempfile::tempdir().expect("a folder");
    servers::certificates(folder.path());
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (cert, key) = (file("redis.crt"), file("redis.key"));
    let args = ["--port", "0", "--tls-port", "PORT", "--tls-cert-file", &cert, "--tls-key-file", &key];
    let redis = Server::with(&[&args[..], &["--tls-auth-clients", "no", "--requirepass", "se:cret"]].concat()).await;
    let url = |password: &str| format!("rediss://:{password}@127.0.0.1:{}", redis.port);
    let ca = std::fs::read(file("ca.crt")).expect("a certificate");

    let good = Options::parse(&url("se%3Acret")).expect("a URL").ca_pem(ca.clone());
    let (caller, server) = pair(&good).await;
    works(&caller, &server).await;

    let wrong = Options::parse(&url("guess")).expect("a URL").ca_pem(ca.clone());
    let error = Bus::redis(wrong).await.err().expect("refused").to_string();
    assert!(error.contains("127.0.0.1") && !error.contains("guess"), "{error}");
    let unknown = Bus::redis(Options::parse(&url("se%3Acret")).expect("a URL")).await.err().expect("refused");
    assert!(unknown.to_string().contains("ertificate"), "{unknown}");
    let plain = Options::parse(&url("se%3Acret").replace("rediss", "redis")).expect("a URL");
    assert!(Bus::redis(plain).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_sentinel_through_a_failover() {
    let mut master = Server::start().await;
    let replica = servers::replica(&master).await;
    let sentinel = servers::sentinel(&master).await;
    let knows = async || sentinel.ask("INFO sentinel").await.contains("slaves=1").then_some(());
    until("the sentinel knows the replica", knows).await;
    let options = Options::parse(&format!("redis-sentinel://127.0.0.1:{}/calls", sentinel.port)).expect("a URL");
    let (caller, server) = pair(&options).await;
    works(&caller, &server).await;

    master.kill();
    let away = async || caller.bus().call::<ChannelRing>(&Target::Service, channel(1), &within_ms(500)).await.err();
    until("it is away", away).await;
    works(&caller, &server).await;
    assert!(replica.ask("ROLE").await.contains("master"));
    let other = Options::parse(&format!("redis-sentinel://127.0.0.1:{}/other", sentinel.port)).expect("a URL");
    let error = Bus::redis(other).await.err().expect("no such master").to_string();
    assert!(error.contains("other"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_a_cluster_and_after_a_slot_has_moved() {
    let nodes = servers::cluster().await;
    // One node is enough to find the others.
    let options = Options::parse(&format!("redis+cluster://127.0.0.1:{}", nodes[0].port)).expect("a URL");
    let (caller, server) = pair(&options).await;
    works(&caller, &server).await;
    let mut with_keys = 0;
    for node in &nodes {
        with_keys += u32::from(!node.ask("DBSIZE").await.starts_with(":0"));
    }
    assert!(with_keys >= 2, "all roles are on one node");

    // The slot of the proxies' inboxes goes to another node, as an operator would move it.
    let slot = nodes[0].ask("CLUSTER KEYSLOT {nebula:proxy}").await.trim_start_matches(':').trim().to_owned();
    let mut holds = Vec::new();
    for node in &nodes {
        holds.push(node.ask(&format!("CLUSTER COUNTKEYSINSLOT {slot}")).await.trim() != ":0");
    }
    let from = holds.iter().position(|holds| *holds).expect("a holder");
    let (from, to) = (&nodes[from], &nodes[(from + 1) % 3]);
    let id = async |node: &Server| node.ask("CLUSTER MYID").await.lines().nth(1).expect("an id").to_owned();
    let (from_id, to_id) = (id(from).await, id(to).await);
    to.ask(&format!("CLUSTER SETSLOT {slot} IMPORTING {from_id}")).await;
    from.ask(&format!("CLUSTER SETSLOT {slot} MIGRATING {to_id}")).await;
    let keys = from.ask(&format!("CLUSTER GETKEYSINSLOT {slot} 100")).await;
    for key in keys.lines().filter(|line| line.starts_with('{')) {
        from.ask(&format!("MIGRATE 127.0.0.1 {} {key} 0 5000", to.port)).await;
    }
    for node in [to, from] {
        assert!(node.ask(&format!("CLUSTER SETSLOT {slot} NODE {to_id}")).await.starts_with("+OK"));
    }
    works(&caller, &server).await;
    assert!(to.ask("EXISTS {nebula:proxy}:inbox:p").await.starts_with(":1"));
}
