//! What every backend of the bus must do. One list of behaviours, run for each backend; the caller and the server have
//! a handle each, as if they were two processes.
#![allow(missing_docs)]

use std::future::Future;
use std::time::Duration;

use nebula_bus::contract::to_proxy::{Channel, ChannelHangup, ChannelRing};
use nebula_bus::contract::to_switchboard::{CallGet, CallList, CallView, Ended, GetCall, ListCalls};
use nebula_bus::contract::{Accepted, CallId, Cause, CauseKind, Event, InstanceId, Party, Role};
use nebula_bus::error::code;
use nebula_bus::{Announcement, Bus, Category, Context, Error, Inbox, Request, Target, dispatch};
use tokio::time::{Instant, timeout};

mod servers;

/// Two handles of one system: the caller's and the server's.
trait Backend {
    /// What must live as long as they.
    type Below;

    fn connect() -> impl Future<Output = (Bus, Bus, Self::Below)>;
}

struct Local;

impl Backend for Local {
    type Below = ();

    async fn connect() -> (Bus, Bus, ()) {
        let bus = Bus::local();
        (bus.clone(), bus, ())
    }
}

/// Two connections to a Redis of the test's own.
struct Redis;

impl Backend for Redis {
    type Below = servers::Server;

    async fn connect() -> (Bus, Bus, servers::Server) {
        let server = servers::Server::start().await;
        let connect = async || Bus::redis(server.options()).await.expect("connected");
        (connect().await, connect().await, server)
    }
}

macro_rules! suite {
    ($($name:ident),+ $(,)?) => {
        suite! { local Local: $($name),+ }
        suite! { redis Redis: $($name),+ }
    };
    ($module:ident $backend:ident: $($name:ident),+) => {
        mod $module {
            use super::*;
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    // Far above what any of them takes: a hang fails instead of hanging.
                    timeout(Duration::from_secs(30), behaviour::$name::<$backend>()).await.expect("it hangs");
                }
            )+
        }
    };
}

suite! {
    requests_arrive_in_the_order_of_the_calls,
    a_deadline_ends_the_wait_and_the_late_request,
    a_full_inbox_is_busy_at_once,
    unknown_methods_instances_and_services_are_told_apart,
    a_key_acts_once,
    duplicates_wait_for_the_first,
    a_key_may_be_tried_again_after_a_transient_failure,
    a_dropped_request_and_a_dead_server_answer,
    many_callers_get_their_own_answers,
    transient_failures_are_retried_inside_the_deadline,
    a_service_request_goes_to_the_least_loaded_that_does_not_drain,
    a_new_inbox_of_the_same_name_takes_over,
    the_context_travels,
    json_from_outside,
    events_reach_every_subscriber_in_order,
}

fn instance(name: &str) -> InstanceId {
    name.into()
}

/// Serves, and returns when the caller knows of it: word travels.
async fn serve(caller: &Bus, server: &Bus, role: Role, name: &str) -> Inbox {
    let inbox = server.serve(role, instance(name));
    known(caller, role, name).await;
    inbox
}

async fn known(caller: &Bus, role: Role, name: &str) {
    let knows = async || caller.instances(role).iter().any(|a| a.instance.as_str() == name).then_some(());
    servers::until("the caller knows of it", knows).await;
}

async fn unknown(caller: &Bus, role: Role) {
    servers::until("the caller knows nobody", async || caller.instances(role).is_empty().then_some(())).await;
}

fn to(name: &str) -> Target {
    Target::Instance(name.into())
}

fn soon() -> Context {
    Context::new(Duration::from_secs(10))
}

fn get(id: impl ToString) -> GetCall {
    GetCall { call_id: CallId(id.to_string()) }
}

fn channel(id: impl ToString) -> Channel {
    Channel { channel_id: id.to_string().into() }
}

fn view(id: &CallId) -> CallView {
    CallView {
        call_id: id.clone(),
        state: "up".into(),
        from: Party::default(),
        to: "1001".into(),
        started_unix_ms: 1,
        answered_unix_ms: None,
        channels: vec![],
        streams: vec![],
    }
}

/// Answers `call.get` with the call that was asked for, until its inbox goes.
fn echo(mut inbox: Inbox) -> tokio::task::JoinHandle<()> {
    tokio::spawn(async move {
        while let Some(request) = inbox.recv().await {
            dispatch!(request; {
                CallGet => |params, call| call.reply(Ok(view(&params.call_id))),
            });
        }
    })
}

fn ring_channel(request: &Request) -> String {
    request.parse::<ChannelRing>().expect("its parameters").channel_id.0
}

mod behaviour {
    use super::*;

    pub async fn requests_arrive_in_the_order_of_the_calls<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        // The futures run in tasks of their own and are polled in whatever order.
        let calls: Vec<_> =
            (0..500).map(|n| tokio::spawn(caller.call::<ChannelRing>(&to("p"), channel(n), &soon()))).collect();
        for n in 0..500 {
            let request = inbox.recv().await.unwrap();
            assert_eq!(ring_channel(&request), n.to_string());
            request.reply::<ChannelRing>(Ok(Accepted {}));
        }
        for call in calls {
            assert_eq!(call.await.unwrap(), Ok(Accepted {}));
        }
    }

    pub async fn a_deadline_ends_the_wait_and_the_late_request<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        let begun = Instant::now();
        let short = Context::new(Duration::from_millis(50));
        let error = caller.call::<ChannelRing>(&to("p"), channel("late"), &short).await.unwrap_err();
        assert_eq!((error.category, &*error.code), (Category::Transient, code::DEADLINE_EXCEEDED));
        assert!((50..2000).contains(&begun.elapsed().as_millis()), "{:?}", begun.elapsed());
        // The server comes to it too late: the role must not see it, only what follows.
        let next = caller.call::<ChannelRing>(&to("p"), channel("in time"), &soon());
        let request = inbox.recv().await.unwrap();
        assert_eq!(ring_channel(&request), "in time");
        request.reply::<ChannelRing>(Ok(Accepted {}));
        assert_eq!(next.await, Ok(Accepted {}));
        assert!(caller.counts().late >= 1);
    }

    pub async fn a_full_inbox_is_busy_at_once<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = server.serve_bounded(Role::Proxy, instance("p"), 2);
        known(&caller, Role::Proxy, "p").await;
        let waiting: Vec<_> =
            (0..2).map(|n| tokio::spawn(caller.call::<ChannelRing>(&to("p"), channel(n), &soon()))).collect();
        let begun = Instant::now();
        let error = caller.call::<ChannelRing>(&to("p"), channel(2), &soon()).await.unwrap_err();
        assert_eq!((error.category, &*error.code), (Category::Transient, code::BUSY));
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(caller.counts().busy, 1);
        for call in waiting {
            inbox.recv().await.unwrap().reply::<ChannelRing>(Ok(Accepted {}));
            assert_eq!(call.await.unwrap(), Ok(Accepted {}));
        }
    }

    pub async fn unknown_methods_instances_and_services_are_told_apart<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        echo(serve(&caller, &server, Role::Switchboard, "s").await);
        let method = caller.call::<CallList>(&to("s"), ListCalls::default(), &soon()).await.unwrap_err();
        assert_eq!((method.category, &*method.code), (Category::Permanent, code::UNKNOWN_METHOD));
        let gone = caller.call::<CallGet>(&to("t"), get(1), &soon()).await.unwrap_err();
        assert_eq!((gone.category, &*gone.code), (Category::Transient, code::UNKNOWN_INSTANCE));
        // The name exists, but in another role.
        let role = caller.call::<ChannelRing>(&to("s"), channel(1), &soon()).await.unwrap_err();
        assert_eq!(&*role.code, code::UNKNOWN_INSTANCE);
        let service = caller.call::<ChannelRing>(&Target::Service, channel(1), &soon()).await.unwrap_err();
        assert_eq!((service.category, &*service.code), (Category::Transient, code::NO_INSTANCE));
    }

    pub async fn a_key_acts_once<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Switchboard, "s").await;
        let acting = tokio::spawn(async move {
            let mut acted = 0;
            while let Some(request) = inbox.recv().await {
                dispatch!(request; {
                    CallGet => |params, call| {
                        acted += 1;
                        let mut view = view(&params.call_id);
                        view.started_unix_ms = acted;
                        call.reply(Ok(view));
                    },
                    CallList => |_params, call| call.reply(Ok(vec![])),
                });
            }
        });
        let call = async |key: &str| {
            let context = soon().key(key);
            caller.call::<CallGet>(&to("s"), get("c"), &context).await.unwrap().started_unix_ms
        };
        assert_eq!([call("a").await, call("a").await, call("b").await, call("a").await], [1, 1, 2, 1]);
        // The same key on another method is another matter.
        assert_eq!(caller.call::<CallList>(&to("s"), ListCalls::default(), &soon().key("a")).await, Ok(vec![]));
        assert_eq!(server.counts().repeated, 2);
        acting.abort();
    }

    pub async fn duplicates_wait_for_the_first<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        let context = soon().key("k");
        let both: Vec<_> = (0..2).map(|_| caller.call::<ChannelRing>(&to("p"), channel(1), &context)).collect();
        let last = caller.call::<ChannelRing>(&to("p"), channel(2), &soon());
        let first = inbox.recv().await.unwrap();
        // The duplicate was taken on the way to this one, and did not come out.
        let other = inbox.recv().await.unwrap();
        assert_eq!(ring_channel(&other), "2");
        other.reply::<ChannelRing>(Ok(Accepted {}));
        last.await.unwrap();
        first.fail(Error::business("unknown_channel", "gone"));
        for call in both {
            assert_eq!(call.await, Err(Error::business("unknown_channel", "gone")));
        }
    }

    pub async fn a_key_may_be_tried_again_after_a_transient_failure<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        let context = soon().key("k");
        let first = caller.call::<ChannelRing>(&to("p"), channel(1), &context);
        inbox.recv().await.unwrap().fail(Error::transient("database_busy", "later"));
        assert!(first.await.unwrap_err().is("database_busy"));
        let second = caller.call::<ChannelRing>(&to("p"), channel(1), &context);
        inbox.recv().await.unwrap().reply::<ChannelRing>(Ok(Accepted {}));
        assert_eq!(second.await, Ok(Accepted {}));
    }

    pub async fn a_dropped_request_and_a_dead_server_answer<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        let dropped = caller.call::<ChannelRing>(&to("p"), channel(1), &soon());
        let keyed = caller.call::<ChannelRing>(&to("p"), channel(2), &soon().key("k"));
        let queued = caller.call::<ChannelRing>(&to("p"), channel(3), &soon());
        drop(inbox.recv().await.unwrap());
        let handling = inbox.recv().await.unwrap();
        let dying = tokio::spawn(async move {
            let _handling = handling;
            panic!("on purpose");
        });
        assert!(dying.await.unwrap_err().is_panic());
        drop(inbox);
        for call in [dropped, keyed] {
            let error = call.await.unwrap_err();
            assert_eq!((error.category, &*error.code), (Category::Permanent, code::INTERNAL));
        }
        let error = queued.await.unwrap_err();
        assert_eq!((error.category, &*error.code), (Category::Transient, code::UNAVAILABLE));
        unknown(&caller, Role::Proxy).await;
        let after = caller.call::<ChannelRing>(&to("p"), channel(4), &soon()).await.unwrap_err();
        assert!(after.is(code::UNKNOWN_INSTANCE), "{after}");
    }

    pub async fn many_callers_get_their_own_answers<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        echo(serve(&caller, &server, Role::Switchboard, "s").await);
        let callers: Vec<_> = (0..20)
            .map(|c| {
                let bus = caller.clone();
                tokio::spawn(async move {
                    for n in 0..100 {
                        let asked = get(format!("{c}-{n}"));
                        let got = bus.call::<CallGet>(&Target::Service, asked.clone(), &soon()).await.unwrap();
                        assert_eq!(got.call_id, asked.call_id);
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.unwrap();
        }
    }

    pub async fn transient_failures_are_retried_inside_the_deadline<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        let refusing = tokio::spawn(async move {
            for _ in 0..2 {
                inbox.recv().await.unwrap().fail(Error::transient("later", "not yet"));
            }
            inbox.recv().await.unwrap().reply::<ChannelRing>(Ok(Accepted {}));
            inbox.recv().await.unwrap().fail(Error::business("unknown_channel", "gone"));
            // The pause that this names is beyond the deadline: no further attempt comes.
            inbox.recv().await.unwrap().fail(Error::transient("later", "much").retry_after_s(60));
            inbox
        });
        assert_eq!(caller.call_retrying::<ChannelRing>(&to("p"), channel(1), &soon()).await, Ok(Accepted {}));
        assert_eq!(caller.counts().retried, 2);
        let refused = caller.call_retrying::<ChannelRing>(&to("p"), channel(1), &soon()).await.unwrap_err();
        assert!(refused.is("unknown_channel"));
        let begun = Instant::now();
        let gave_up = caller.call_retrying::<ChannelRing>(&to("p"), channel(1), &soon()).await.unwrap_err();
        assert!(gave_up.is("later") && begun.elapsed() < Duration::from_secs(5));
        assert_eq!(caller.counts().retried, 2);
        drop(refusing.await.unwrap());
    }

    pub async fn a_service_request_goes_to_the_least_loaded_that_does_not_drain<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inboxes = Vec::new();
        for name in ["a", "b", "c"] {
            inboxes.push(serve(&caller, &server, Role::Proxy, name).await);
        }
        let announce = async |name: &str, load, draining| {
            let announcement = Announcement::new(Role::Proxy, instance(name), "1").load(load).draining(draining);
            server.announce(announcement.clone());
            let heard = async || caller.instances(Role::Proxy).contains(&announcement).then_some(());
            servers::until("the caller hears of it", heard).await;
        };
        announce("a", 0, true).await;
        announce("b", 7, false).await;
        announce("c", 3, false).await;
        let call = caller.call::<ChannelRing>(&Target::Service, channel(1), &soon());
        inboxes[2].recv().await.unwrap().reply::<ChannelRing>(Ok(Accepted {}));
        call.await.unwrap();
        announce("b", 1, false).await;
        let call = caller.call::<ChannelRing>(&Target::Service, channel(1), &soon());
        inboxes[1].recv().await.unwrap().reply::<ChannelRing>(Ok(Accepted {}));
        call.await.unwrap();
        // One that drains is still reached by name.
        let call = caller.call::<ChannelRing>(&to("a"), channel(1), &soon());
        inboxes[0].recv().await.unwrap().reply::<ChannelRing>(Ok(Accepted {}));
        call.await.unwrap();
        announce("b", 2, false).await;
        let mut known: Vec<_> = caller.instances(Role::Proxy).into_iter().map(|a| a.instance.0).collect();
        known.sort();
        assert_eq!(known, ["a", "b", "c"]);
        drop(inboxes);
        unknown(&caller, Role::Proxy).await;
    }

    pub async fn a_new_inbox_of_the_same_name_takes_over<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut old = serve(&caller, &server, Role::Switchboard, "s").await;
        let new = serve(&caller, &server, Role::Switchboard, "s").await;
        assert!(old.recv().await.is_none());
        drop(old);
        echo(new);
        assert!(caller.call::<CallGet>(&to("s"), get(1), &soon()).await.is_ok());
    }

    pub async fn the_context_travels<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let mut inbox = serve(&caller, &server, Role::Proxy, "p").await;
        let context = soon().key("k");
        let cause = Cause { sip_code: 200, kind: CauseKind::Normal, text: "bye \"quoted\" \u{1F4DE}".into() };
        let params = Ended { channel_id: "c".into(), cause };
        let call = caller.call::<ChannelHangup>(&to("p"), params.clone(), &context);
        let request = inbox.recv().await.unwrap();
        assert_eq!(request.method(), "channel.hangup");
        assert_eq!(request.parse::<ChannelHangup>(), Ok(params));
        let got = request.context().clone();
        assert_eq!((&got.request_id, &got.idempotency_key), (&context.request_id, &context.idempotency_key));
        // Rounded up to a millisecond on the way.
        let drift = got.deadline.max(context.deadline) - got.deadline.min(context.deadline);
        assert!(drift < Duration::from_millis(200), "{drift:?}");
        let child = got.child();
        assert_eq!((child.request_id, child.deadline, child.idempotency_key), (got.request_id, got.deadline, None));
        request.reply::<ChannelHangup>(Ok(Accepted {}));
        call.await.unwrap();
    }

    pub async fn json_from_outside<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        echo(serve(&caller, &server, Role::Switchboard, "s").await);
        let ask = async |raw: &str| {
            let answer = caller.call_json(Role::Switchboard, &Target::Service, raw.as_bytes(), &soon()).await;
            String::from_utf8(answer).unwrap()
        };
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();

        let good = value(&ask(r#"{"jsonrpc":"2.0","id":"x-1","method":"call.get","params":{"call_id":"c7"}}"#).await);
        assert_eq!((&good["id"], &good["result"]["call_id"]), (&"x-1".into(), &"c7".into()));
        assert_eq!(good["jsonrpc"], "2.0");
        assert!(good.get("error").is_none());
        let codes = [
            (r#"{"jsonrpc":"2.0","id":1,"method":"call.gets","params":{}}"#, -32601),
            (r#"{"jsonrpc":"2.0","id":1,"method":"call.get","params":{"call":"c7"}}"#, -32602),
            (r#"{"jsonrpc":"2.0","id":1,"method":"call.get"}"#, -32602),
            (r#"{"jsonrpc":"1.0","id":1,"method":"call.get"}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1}"#, -32600),
            (r#"{"jsonrpc":"2.0","id":1,"#, -32700),
            ("", -32700),
            ("[]", -32600),
            ("[1", -32700),
        ];
        for (raw, code) in codes {
            assert_eq!(value(&ask(raw).await)["error"]["code"], code, "{raw}");
        }
        let notification = r#"{"jsonrpc":"2.0","method":"call.get","params":{"call_id":"c7"}}"#;
        assert_eq!(ask(notification).await, "");
        let batch = format!(r#" [{notification}, 5, {{"jsonrpc":"2.0","id":9,"method":"none"}}]"#);
        let answers = value(&ask(&batch).await);
        assert_eq!(answers.as_array().unwrap().len(), 2);
        assert_eq!((&answers[0]["id"], &answers[0]["error"]["code"]), (&serde_json::Value::Null, &(-32600).into()));
        assert_eq!((&answers[1]["id"], &answers[1]["error"]["code"]), (&9.into(), &(-32601).into()));
        let long = format!("[{}]", vec![notification; 65].join(","));
        assert_eq!(value(&ask(&long).await)["error"]["code"], -32600);
        let huge = " ".repeat((1 << 20) + 1);
        assert_eq!(value(&ask(&huge).await)["error"]["code"], -32600);
    }

    pub async fn events_reach_every_subscriber_in_order<B: Backend>() {
        let (caller, server, _below) = B::connect().await;
        let event = |sequence| Event {
            sequence,
            kind: "call.started".into(),
            subject: "c".into(),
            at_unix_ms: 5,
            data: serde_json::json!({ "n": sequence }),
        };
        let (mut before, mut there) = (caller.subscribe(), server.subscribe());
        server.publish(&event(0)).await.unwrap();
        // Both have it, so it is from before what subscribes now.
        assert_eq!((before.recv().await, there.recv().await), (Some(event(0)), Some(event(0))));
        let (mut one, mut two) = (caller.subscribe(), server.subscribe());
        for sequence in 1..=100 {
            server.publish(&event(sequence)).await.unwrap();
        }
        for sequence in 1..=100 {
            assert_eq!(one.recv().await, Some(event(sequence)), "none from before the subscription");
            assert_eq!(two.recv().await, Some(event(sequence)));
        }
        // A subscriber that does not read loses the oldest, and can see how many.
        for sequence in 0..5000 {
            server.publish(&event(sequence)).await.unwrap();
        }
        while before.recv().await.unwrap().sequence != 4999 {}
        let next = one.recv().await.unwrap().sequence;
        assert!(one.lagged() > 0);
        assert_eq!(next, one.lagged() as i64);
    }
}
