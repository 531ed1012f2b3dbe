//! The bus over Redis when something dies, comes back empty, says nothing, or lies.
#![allow(missing_docs)]

use std::time::Duration;

use nebula_bus::contract::to_proxy::{Channel, ChannelRing};
use nebula_bus::contract::{Accepted, Event, Role};
use nebula_bus::error::code;
use nebula_bus::redis::{Options, Redis};
use nebula_bus::{Announcement, Bus, Category, Context, Inbox, Target, dispatch};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

mod servers;

use servers::{Server, until};

/// Short, so that the tests need not wait for what nobody hurries.
const LEASE: Duration = Duration::from_millis(600);

async fn connect(options: Options) -> Bus {
    Bus::redis(options.lease(LEASE)).await.expect("connected")
}

fn soon() -> Context {
    Context::new(Duration::from_secs(10))
}

fn within_ms(ms: u64) -> Context {
    Context::new(Duration::from_millis(ms))
}

fn to(name: &str) -> Target {
    Target::Instance(name.into())
}

fn channel(id: impl ToString) -> Channel {
    Channel { channel_id: id.to_string().into() }
}

fn event(sequence: i64) -> Event {
    let data = serde_json::json!({});
    Event { sequence, kind: "call.started".into(), subject: "c".into(), at_unix_ms: 5, data }
}

async fn known(caller: &Bus, name: &str) {
    let knows = async || caller.instances(Role::Proxy).iter().any(|a| a.instance.as_str() == name).then_some(());
    until("the caller knows of it", knows).await;
}

/// Answers everything.
fn answering(mut inbox: Inbox) -> JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(request) = inbox.recv().await {
            dispatch!(request; { ChannelRing => |_params, call| call.reply(Ok(Accepted {})) });
        }
    })
}

fn id_of(request: &nebula_bus::Request) -> String {
    request.parse::<ChannelRing>().expect("its parameters").channel_id.0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_dies_in_traffic_and_comes_back_empty() {
    let mut redis = Server::start().await;
    let (caller, server) = (connect(redis.options()).await, connect(redis.options()).await);
    answering(server.serve(Role::Proxy, "p".into()));
    known(&caller, "p").await;
    let mut events = caller.subscribe();
    caller.call::<ChannelRing>(&to("p"), channel(0), &soon()).await.expect("answered");

    redis.kill();
    let fails = async || {
        let begun = Instant::now();
        let error = caller.call::<ChannelRing>(&to("p"), channel(1), &soon()).await.err()?;
        Some((error, begun.elapsed()))
    };
    let (error, after) = until("it fails", fails).await;
    assert_eq!((error.category, &*error.code), (Category::Transient, code::UNAVAILABLE));
    assert!(after < Duration::from_secs(1), "{after:?}");
    // From now on at once, for service and instance alike, and for events.
    for target in [to("p"), Target::Service] {
        let begun = Instant::now();
        let error = caller.call::<ChannelRing>(&target, channel(1), &soon()).await.expect_err("away");
        assert!(error.is(code::UNAVAILABLE) && begun.elapsed() < Duration::from_millis(100), "{error}");
    }
    assert!(server.publish(&event(1)).await.is_err());

    redis.run().await;
    let back = Instant::now();
    for target in [to("p"), Target::Service] {
        let works = async || caller.call::<ChannelRing>(&target, channel(2), &within_ms(200)).await.ok();
        until("it works again", works).await;
    }
    until("events as well", async || server.publish(&event(2)).await.ok()).await;
    assert_eq!(timeout(Duration::from_secs(5), events.recv()).await.expect("in time"), Some(event(2)));
    assert!(back.elapsed() < Duration::from_secs(5), "healed after {:?}", back.elapsed());
    assert!(caller.counts().lost >= 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_that_says_nothing_is_away_within_a_second() {
    let redis = Server::start().await;
    let (caller, server) = (connect(redis.options()).await, connect(redis.options()).await);
    answering(server.serve(Role::Proxy, "p".into()));
    known(&caller, "p").await;
    redis.signal("-STOP");
    let begun = Instant::now();
    let error = caller.call::<ChannelRing>(&to("p"), channel(1), &soon()).await.expect_err("no answer can come");
    assert!(error.is(code::UNAVAILABLE) && begun.elapsed() < Duration::from_secs(2), "{error} {:?}", begun.elapsed());
    redis.signal("-CONT");
    until("it works again", async || caller.call::<ChannelRing>(&to("p"), channel(2), &within_ms(200)).await.ok())
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_redis_forgets_is_told_again_even_if_the_connection_stays() {
    let redis = Server::start().await;
    let (caller, server) = (connect(redis.options()).await, connect(redis.options()).await);
    answering(server.serve(Role::Proxy, "p".into()));
    known(&caller, "p").await;
    redis.ask("FLUSHALL").await;
    let begun = Instant::now();
    until("it works again", async || caller.call::<ChannelRing>(&to("p"), channel(2), &within_ms(200)).await.ok())
        .await;
    assert!(begun.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_instance_first_takes_up_what_it_had_not_answered() {
    let redis = Server::start().await;
    let caller = connect(redis.options()).await;
    let first = Process::start(redis.options()).await;
    let mut inbox = first.bus.serve(Role::Proxy, "p".into());
    known(&caller, "p").await;
    let calls: Vec<_> = (0..3).map(|n| caller.call::<ChannelRing>(&to("p"), channel(n), &soon())).collect();
    // It took all of them, answered one, and dies without a word: its bus goes, its inbox never says goodbye.
    let answered = inbox.recv().await.expect("the first");
    assert_eq!(id_of(&answered), "0");
    answered.reply::<ChannelRing>(Ok(Accepted {}));
    let open = inbox.recv().await.expect("the second");
    let mut calls = calls.into_iter();
    assert_eq!(calls.next().expect("the first").await, Ok(Accepted {}));
    first.kill((open, inbox));

    let second = connect(redis.options()).await;
    let mut inbox = second.serve(Role::Proxy, "p".into());
    for n in ["1", "2"] {
        let request = timeout(Duration::from_secs(5), inbox.recv()).await.expect("in time").expect("open");
        assert_eq!(id_of(&request), n);
        request.reply::<ChannelRing>(Ok(Accepted {}));
    }
    for call in calls {
        assert_eq!(call.await, Ok(Accepted {}));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_instances_requests_are_taken_up_by_another_of_its_service() {
    let redis = Server::start().await;
    let (caller, heir) = (connect(redis.options()).await, connect(redis.options()).await);
    let dying = Process::start(redis.options()).await;
    let mut inbox = dying.bus.serve(Role::Proxy, "dead".into());
    known(&caller, "dead").await;
    let service = caller.call::<ChannelRing>(&Target::Service, channel("any"), &soon());
    let late = caller.call::<ChannelRing>(&Target::Service, channel("late"), &within_ms(300));
    let addressed = caller.call::<ChannelRing>(&to("dead"), channel("it alone"), &within_ms(1000));
    let taken = inbox.recv().await.expect("it is taken and not answered");
    dying.kill((taken, inbox));

    let mut inbox = heir.serve(Role::Proxy, "heir".into());
    let request = timeout(Duration::from_secs(10), inbox.recv()).await.expect("in time").expect("open");
    assert_eq!(id_of(&request), "any");
    request.reply::<ChannelRing>(Ok(Accepted {}));
    assert_eq!(service.await, Ok(Accepted {}));
    assert!(late.await.expect_err("late").is(code::DEADLINE_EXCEEDED));
    assert!(addressed.await.expect_err("nobody").is(code::DEADLINE_EXCEEDED));
    // The late one was moved as well, and dropped there.
    let next = caller.call::<ChannelRing>(&to("heir"), channel("next"), &soon());
    let request = inbox.recv().await.expect("open");
    assert_eq!(id_of(&request), "next");
    request.reply::<ChannelRing>(Ok(Accepted {}));
    assert_eq!(next.await, Ok(Accepted {}));
    assert_eq!((heir.counts().claimed, heir.counts().late), (2, 1));
    assert!(redis.ask("EXISTS {nebula:proxy}:inbox:dead").await.starts_with(":0"));
    until("it is forgotten", async || (caller.instances(Role::Proxy).len() == 1).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_is_delivered_twice_acts_once() {
    let redis = Server::start().await;
    let (caller, server) = (connect(redis.options()).await, connect(redis.options()).await);
    let mut inbox = server.serve(Role::Proxy, "p".into());
    known(&caller, "p").await;
    let call = caller.call::<ChannelRing>(&to("p"), channel(1), &soon().key("k"));
    let request = inbox.recv().await.expect("open");
    // The very entry again, as a sender that does not know whether Redis took it would write it.
    let entries = redis.ask("XRANGE {nebula:proxy}:inbox:p - +").await;
    let body = entries.lines().find(|line| line.starts_with('{')).expect("the request").to_owned();
    let words: [&[u8]; 5] = [b"XADD", b"{nebula:proxy}:inbox:p", b"*", b"q", body.as_bytes()];
    redis.ask_words(&words).await;
    let marker = caller.call::<ChannelRing>(&to("p"), channel("marker"), &soon());
    let next = inbox.recv().await.expect("open");
    assert_eq!(id_of(&next), "marker", "the second delivery came out");
    next.reply::<ChannelRing>(Ok(Accepted {}));
    request.reply::<ChannelRing>(Ok(Accepted {}));
    assert_eq!((call.await, marker.await), (Ok(Accepted {}), Ok(Accepted {})));
    assert_eq!(server.counts().repeated, 1);
    until("nothing is left", async || redis.ask("XLEN {nebula:proxy}:inbox:p").await.starts_with(":0").then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_of_one_name_the_newer_serves() {
    let redis = Server::start().await;
    let (caller, old, new) =
        (connect(redis.options()).await, connect(redis.options()).await, connect(redis.options()).await);
    let mut inbox = old.serve(Role::Proxy, "p".into());
    known(&caller, "p").await;
    let newer = new.serve(Role::Proxy, "p".into());
    assert!(timeout(Duration::from_secs(5), inbox.recv()).await.expect("in time").is_none(), "it is replaced");
    drop(inbox);
    answering(newer);
    for n in 0..20 {
        assert_eq!(caller.call::<ChannelRing>(&to("p"), channel(n), &soon()).await, Ok(Accepted {}), "{n}");
    }
    // Time must pass: the older one must not come back with its next sign of life.
    sleep(LEASE * 2).await;
    assert_eq!(caller.call::<ChannelRing>(&to("p"), channel("later"), &soon()).await, Ok(Accepted {}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_strangers_write_into_the_streams_harms_nobody() {
    let redis = Server::start().await;
    let (caller, server) = (connect(redis.options()).await, connect(redis.options()).await);
    answering(server.serve(Role::Proxy, "p".into()));
    known(&caller, "p").await;
    let mut events = caller.subscribe();
    let huge = vec![b'x'; (4 << 20) + 1];
    let inbox = b"{nebula:proxy}:inbox:p".as_slice();
    let lies: [&[&[u8]]; 9] = [
        &[b"x", b"y"],
        &[b"q", b"not json", b"r", b"nobody", b"n", b"1"],
        &[b"q", b"{\"jsonrpc\":\"2.0\",\"id\":1}", b"r", b"", b"n", b"18446744073709551616"],
        &[b"q", &huge, b"r", b"x", b"n", b"1"],
        &[b"q", b"\xff\xfe", b"r", b"\xff", b"n", b"\xff", b"t", b"\xff/", b"o", b"9-"],
        &[b"q", b"{}", b"t", b"99999999999999999999/x"],
        &[b"q", b"{}", b"o", b"18446744073709551615-0"],
        &[b"", b""],
        &[b"n", b"1", b"a", b"{}", b"e", b"[]", b"j", b"{\"role\":\"proxy\",\"instance\":5}"],
    ];
    let streams = redis.ask("KEYS {nebula}:*").await;
    let shared: Vec<&str> = streams.lines().filter(|line| line.starts_with("{nebula}:")).collect();
    assert!(shared.iter().any(|key| key.contains(":replies:")) && shared.len() >= 3, "{shared:?}");
    for stream in shared.iter().map(|key| key.as_bytes()).chain([inbox]) {
        for lie in lies {
            let words = [&[b"XADD".as_slice(), stream, b"*"], lie].concat();
            redis.ask_words(&words).await;
        }
    }
    // Nor does what is no stream at all where one should be.
    redis.ask("SET {nebula:proxy}:instance:liar x").await;
    redis.ask("SADD {nebula:proxy}:instances liar nobody").await;
    redis.ask("SADD {nebula:media}:instances \u{1F4DE}").await;
    redis.ask("HSET {nebula:media}:instance:\u{1F4DE} number x announcement {}").await;
    assert_eq!(caller.call::<ChannelRing>(&to("p"), channel(1), &soon()).await, Ok(Accepted {}));
    server.publish(&event(7)).await.expect("published");
    assert_eq!(timeout(Duration::from_secs(5), events.recv()).await.expect("in time"), Some(event(7)));
    let late = connect(redis.options()).await;
    answering(late.serve(Role::Proxy, "q".into()));
    known(&caller, "q").await;
    assert_eq!(late.call::<ChannelRing>(&to("p"), channel(1), &soon()).await, Ok(Accepted {}));
    // Those of this shape can be answered or passed over; all others are counted.
    assert!(server.counts().malformed >= 9 && caller.counts().malformed >= 9, "{:?}", caller.counts());
    let long = caller.call::<ChannelRing>(&to("p"), channel("x".repeat(5 << 20)), &soon()).await.expect_err("too long");
    assert_eq!((long.category, &*long.code), (Category::Permanent, code::INVALID_REQUEST));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_callee_that_does_not_answer_is_left_alone_for_a_while() {
    let redis = Server::start().await;
    let (caller, server) = (connect(redis.options()).await, connect(redis.options()).await);
    let mute = server.serve(Role::Proxy, "mute".into());
    known(&caller, "mute").await;
    let shut = async || {
        let error = caller.call::<ChannelRing>(&to("mute"), channel(1), &within_ms(20)).await.expect_err("mute");
        error.is(code::UNAVAILABLE).then_some(())
    };
    until("its breaker shuts", shut).await;
    let begun = Instant::now();
    let error = caller.call::<ChannelRing>(&to("mute"), channel(1), &soon()).await.expect_err("shut");
    assert!(error.is(code::UNAVAILABLE) && begun.elapsed() < Duration::from_millis(200), "{error}");
    assert!(caller.counts().broken >= 2);
    // A service request goes round it.
    let other = connect(redis.options()).await;
    answering(other.serve(Role::Proxy, "well".into()));
    other.announce(Announcement::new(Role::Proxy, "well".into(), "1").load(99));
    known(&caller, "well").await;
    for n in 0..10 {
        assert_eq!(caller.call::<ChannelRing>(&Target::Service, channel(n), &soon()).await, Ok(Accepted {}));
    }
    // It is tried again, and once it answers it is itself again.
    answering(mute);
    let well = async || caller.call::<ChannelRing>(&to("mute"), channel(2), &soon()).await.ok();
    until("it answers", well).await;
    assert_eq!(caller.call::<ChannelRing>(&to("mute"), channel(3), &soon()).await, Ok(Accepted {}));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cache_keeps_forgets_and_says_when_it_is_away() {
    let mut server = Server::start().await;
    let redis = Redis::connect(server.options()).await.expect("connected");
    let (cache, other) = (redis.cache("extensions"), redis.cache("locations"));
    cache.set("1000", b"one", Duration::from_secs(60)).await.expect("set");
    assert_eq!(cache.get("1000").await, Ok(Some("one".into())));
    assert_eq!(other.get("1000").await, Ok(None));
    assert_eq!(cache.add("1000", b"late", Duration::from_secs(60)).await, Ok(false), "there is something");
    assert_eq!(cache.get("1000").await, Ok(Some("one".into())));
    assert_eq!(cache.add("1002", b"first", Duration::from_secs(60)).await, Ok(true));
    cache.delete("1000").await.expect("deleted");
    assert_eq!(cache.get("1000").await, Ok(None));
    cache.set("1001", b"two", Duration::from_millis(20)).await.expect("set");
    until("its time passes", async || cache.get("1001").await.expect("there").is_none().then_some(())).await;
    server.kill();
    until("it is away", async || cache.get("1000").await.err()).await;
    let begun = Instant::now();
    assert!(cache.set("1000", b"", Duration::from_secs(1)).await.is_err());
    assert!(begun.elapsed() < Duration::from_millis(150));
}

/// A bus with a runtime of its own: it can be killed like a process, and then says nothing more.
struct Process {
    bus: Bus,
    runtime: Runtime,
}

impl Process {
    async fn start(options: Options) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let bus = runtime.spawn(async move { connect(options).await }).await.expect("connected");
        Self { bus, runtime }
    }

    /// No farewell, no answers, no sign of life.
    fn kill(self, held: impl Sized) {
        self.runtime.shutdown_background();
        std::mem::forget((self.bus, held));
    }
}
