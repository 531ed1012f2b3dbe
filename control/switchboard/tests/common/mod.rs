//! A switchboard over a real bus and store, between a scripted proxy and a scripted media agent.
#![allow(dead_code, missing_docs)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nebula_bus::contract::{
    Accepted, CallId, Cause, CauseKind, ChannelId, InstanceId, Method, Party, Role, StreamId, StreamStats, to_media,
    to_proxy, to_switchboard::*,
};
use nebula_bus::{Bus, Context, Error, Inbox, Membership, Target, dispatch};
use nebula_store::cdrs::Cdr;
use nebula_store::locations::{self, Binding, Changes};
use nebula_store::{Store, calls, cdrs, now_unix_ms};
use nebula_switchboard::{Handle, Options};
use tokio::sync::mpsc;

/// Longer than anything here takes, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct World {
    pub bus: Bus,
    pub store: Store,
    pub switchboard: Handle,
    pub script: Arc<Mutex<Script>>,
    /// What the proxy was asked, `name channel [detail]`.
    asked: mpsc::UnboundedReceiver<String>,
    waiting: Vec<String>,
}

/// What the doubles do.
#[derive(Default)]
pub struct Script {
    /// Methods that are never answered.
    pub silent: Vec<&'static str>,
    /// Methods that fail.
    pub errors: HashMap<&'static str, Error>,
    pub streams_open: Vec<StreamId>,
    pub destroyed: Vec<StreamId>,
    /// Where legs stand when they are adopted; those not named here are answered.
    pub phases: HashMap<ChannelId, to_proxy::Phase>,
    /// The fences of the requests, in their order.
    pub fences: Vec<Option<u64>>,
    streams_last: u64,
}

pub fn options() -> Options {
    Options {
        rpc_timeout_ms: 300,
        stop_timeout_ms: 5_000,
        proxy_grace_s: 1,
        media_grace_s: 1,
        switchboard_grace_s: 1,
        ..Options::default()
    }
}

pub fn cause(sip_code: u16, kind: CauseKind) -> Cause {
    Cause { sip_code, kind, text: String::new() }
}

impl World {
    pub async fn new() -> World {
        World::with(options(), Store::memory().await.unwrap()).await
    }

    pub async fn with(options: Options, store: Store) -> World {
        World::of(options, store, Membership::alone(Role::Switchboard)).await
    }

    /// With a switchboard of this name and past.
    pub async fn of(options: Options, store: Store, member: Membership) -> World {
        let bus = Bus::local();
        let script = Arc::new(Mutex::new(Script::default()));
        let (sender, asked) = mpsc::unbounded_channel();
        tokio::spawn(proxy(bus.serve(Role::Proxy, "proxy".into()), sender, script.clone()));
        tokio::spawn(agent(bus.serve(Role::Media, "media".into()), script.clone()));
        let switchboard = nebula_switchboard::start(options, bus.clone(), store.clone(), member).await.unwrap();
        World { bus, store, switchboard, script, asked, waiting: Vec::new() }
    }

    pub async fn register(&self, user: &str, phones: usize) {
        let binding = |n: usize| Binding {
            contact: format!("sip:{user}@192.0.2.{n}"),
            call_id: "register".into(),
            cseq: 1,
            expires_unix_ms: now_unix_ms() + 600_000,
            transport: "udp".into(),
            address: format!("192.0.2.{n}:5060"),
            path: Vec::new(),
            user_agent: String::new(),
            q_thousandths: 1_000,
            proxy: "a proxy that is gone".into(),
        };
        let set = (1..=phones).map(binding).collect();
        let changes = Changes { call_id: "register".into(), cseq: 1, set, ..Changes::default() };
        locations::apply(&self.store, user, changes, now_unix_ms()).await.unwrap();
    }

    pub async fn tell<M: Method>(&self, params: M::Params) -> Result<M::Reply, Error> {
        self.bus.call::<M>(&Target::Service, params, &Context::new(PATIENCE)).await
    }

    pub async fn invite(&self, channel: &str, to: &str) -> Result<Invited, Error> {
        let invite = Invite {
            channel_id: channel.into(),
            proxy: "proxy".into(),
            sip_call_id: format!("{channel}@phone"),
            customer_id: "demo".into(),
            from: Party { user: "1000".into(), display: Some("Alice".into()) },
            to: to.into(),
            source: "192.0.2.9:5060".into(),
            sdp: Some("offer".into()),
            max_forwards: 69,
            from_srtp: None,
            to_srtp: None,
        };
        self.tell::<ChannelInvite>(invite).await
    }

    pub async fn hang_up(&self, channel: &str, sip_code: u16, kind: CauseKind) -> Result<Accepted, Error> {
        self.hang_up_late(channel, sip_code, kind, 0).await
    }

    /// Told so long after the leg ended.
    pub async fn hang_up_late(
        &self,
        channel: &str,
        sip_code: u16,
        kind: CauseKind,
        age_ms: u64,
    ) -> Result<Accepted, Error> {
        let hung_up = HungUp { channel_id: channel.into(), cause: cause(sip_code, kind), age_ms };
        self.tell::<ChannelHangup>(hung_up).await
    }

    /// The order to drain may still be on its way when the first INVITE is sent.
    pub async fn invite_until_refused(&self) -> Error {
        for n in 0.. {
            match self.invite(&format!("refused-{n}"), "none").await {
                Err(error) => return error,
                Ok(invited) => _ = self.cdr(&invited.call_id).await,
            }
            assert!(n < 100, "a draining switchboard takes calls");
        }
        unreachable!()
    }

    /// To the instance itself: a service that drains is not asked any more.
    pub async fn hang_up_addressed(&self, channel: &str) {
        let target = Target::Instance(self.switchboard.instance().clone());
        let hung_up = HungUp { channel_id: channel.into(), cause: cause(200, CauseKind::Normal), age_ms: 0 };
        self.bus.call::<ChannelHangup>(&target, hung_up, &Context::new(PATIENCE)).await.unwrap();
    }

    pub async fn answer(&self, channel: &str) {
        let answered = Answered { channel_id: channel.into(), sdp: Some("answer".into()), age_ms: 0 };
        self.tell::<ChannelAnswered>(answered).await.unwrap();
    }

    /// Waits until the proxy was asked this.
    #[track_caller]
    pub fn expect(&mut self, what: &str) -> impl Future<Output = ()> {
        let what = what.to_owned();
        let at = std::panic::Location::caller();
        async move {
            loop {
                if let Some(found) = self.waiting.iter().position(|asked| *asked == what) {
                    self.waiting.remove(found);
                    return;
                }
                match tokio::time::timeout(PATIENCE, self.asked.recv()).await {
                    Ok(Some(asked)) => self.waiting.push(asked),
                    _ => panic!("{at}: no {what:?} among {:?}", self.waiting),
                }
            }
        }
    }

    /// Whether the proxy was asked for something that begins so, which nobody expected.
    pub fn was_asked(&mut self, what: &str) -> bool {
        while let Ok(asked) = self.asked.try_recv() {
            self.waiting.push(asked);
        }
        self.waiting.iter().any(|asked| asked.starts_with(what))
    }

    pub async fn ring(&self, channel: &str) {
        let ringing = Provisional { channel_id: channel.into(), sip_code: 180, sdp: None };
        self.tell::<ChannelRinging>(ringing).await.unwrap();
    }

    /// A call from `channel` to 1001, answered by its first phone.
    pub async fn talk(&mut self, channel: &str) -> CallId {
        let call_id = self.invite(channel, "1001").await.unwrap().call_id;
        self.expect(&format!("dial {call_id}-1")).await;
        self.answer(&format!("{call_id}-1")).await;
        self.expect(&format!("answer {channel} local answer")).await;
        call_id
    }

    /// Drops what the proxy was asked and nobody expects.
    pub fn forget(&mut self) {
        while self.asked.try_recv().is_ok() {}
        self.waiting.clear();
    }

    /// Waits until the last call is recorded.
    pub async fn quiet_within(&self, time: Duration) {
        let quiet = async {
            while self.switchboard.calls() > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::time::timeout(time, quiet).await.expect("calls that end");
    }

    /// Waits for the record of a call.
    pub async fn cdr(&self, call_id: &CallId) -> Cdr {
        let find = async {
            loop {
                if let Some(cdr) = cdrs::get(&self.store, call_id.as_str()).await.unwrap() {
                    return cdr;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, find).await.expect("a record")
    }

    /// The switchboard has no call left, every stream is closed, and there are so many records.
    pub async fn quiet(&self, records: usize) {
        let quiet = async {
            while self.switchboard.calls() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(PATIENCE, quiet).await.expect("calls that end");
        assert!(self.script.lock().unwrap().streams_open.is_empty());
        assert_eq!(cdrs::list(&self.store, 1_000).await.unwrap().len(), records);
        let living = calls::orphans(&self.store, &[]).await.unwrap();
        assert!(living.is_empty(), "rows without an end: {living:?}");
    }
}

async fn proxy(mut inbox: Inbox, asked: mpsc::UnboundedSender<String>, script: Arc<Mutex<Script>>) {
    let tell = |text: String| _ = asked.send(text);
    let mut unanswered = Vec::new();
    while let Some(request) = inbox.recv().await {
        script.lock().unwrap().fences.push(request.context().fence);
        let error = match scripted(&script, request.method()) {
            Scripted::Silent => {
                unanswered.push(request);
                continue;
            }
            Scripted::Error(error) => {
                request.fail(error);
                continue;
            }
            Scripted::Ok => Ok(Accepted {}),
        };
        use to_proxy::*;
        let text =
            |channel: &ChannelId, sdp: &Option<String>| format!("{channel} {}", sdp.as_deref().unwrap_or_default());
        dispatch!(request; {
            ChannelDial => |p, call| { call.reply(error); tell(format!("dial {}", p.channel_id)) },
            ChannelRing => |p, call| { call.reply(error); tell(format!("ring {}", p.channel_id)) },
            ChannelProgress => |p, call| { call.reply(error); tell(format!("progress {}", text(&p.channel_id, &p.sdp))) },
            ChannelAnswer => |p, call| { call.reply(error); tell(format!("answer {}", text(&p.channel_id, &p.sdp))) },
            ChannelReject => |p, call| { call.reply(error); tell(format!("reject {} {}", p.channel_id, p.sip_code)) },
            ChannelReinvite => |p, call| { call.reply(error); tell(format!("reinvite {}", text(&p.channel_id, &p.sdp))) },
            ChannelDtmf => |p, call| { call.reply(error); tell(format!("dtmf {} {}", p.channel_id, p.digit)) },
            to_proxy::ChannelHangup => |p, call| {
                call.reply(error);
                tell(format!("hangup {} {}", p.channel_id, p.cause.sip_code));
            },
            ChannelAdopt => |p, call| {
                let phases = &script.lock().unwrap().phases;
                let stands = |id: &ChannelId| phases.get(id).copied().unwrap_or(Phase::Answered);
                let channels = p.channels.into_iter().map(|(id, _)| (id.clone(), stands(&id))).collect();
                call.reply(Ok(Adopted { channels }));
                tell(format!("adopt {}", p.switchboard));
            },
        });
    }
}

async fn agent(mut inbox: Inbox, script: Arc<Mutex<Script>>) {
    use to_media::*;
    let mut unanswered = Vec::new();
    while let Some(request) = inbox.recv().await {
        match scripted(&script, request.method()) {
            Scripted::Silent => {
                unanswered.push(request);
                continue;
            }
            Scripted::Error(error) => {
                request.fail(error);
                continue;
            }
            Scripted::Ok => {}
        }
        let sdp = |step: &Step| match step {
            Step::LocalOffer { .. } => Some("local offer".to_owned()),
            Step::LocalAnswer { .. } => Some("local answer".to_owned()),
            _ => None,
        };
        let mut script = script.lock().unwrap();
        dispatch!(request; {
            StreamCreate => |p, call| {
                script.streams_last += 1;
                let stream_id = StreamId(format!("{:016x}", script.streams_last));
                script.streams_open.push(stream_id.clone());
                let media = InstanceId::from("media");
                call.reply(Ok(Created { stream_id, media, sdp: sdp(&p.step) }));
            },
            StreamUpdate => |p, call| call.reply(Ok(Negotiated { sdp: sdp(&p.step), held: false })),
            BridgeCreate => |_p, call| call.reply(Ok(Accepted {})),
            StreamAdopt => |p, call| {
                let alive = p.streams.into_iter().filter(|id| script.streams_open.contains(id)).collect();
                call.reply(Ok(AdoptedStreams { alive }));
            },
            StreamDestroy => |p, call| {
                script.streams_open.retain(|open| *open != p.stream_id);
                script.destroyed.push(p.stream_id);
                call.reply(Ok(StreamStats { packets_received: 50, ..StreamStats::default() }));
            },
        });
    }
}

enum Scripted {
    Ok,
    Silent,
    Error(Error),
}

fn scripted(script: &Mutex<Script>, method: &str) -> Scripted {
    let script = script.lock().unwrap();
    match script.errors.get(method) {
        Some(error) => Scripted::Error(error.clone()),
        None if script.silent.contains(&method) => Scripted::Silent,
        None => Scripted::Ok,
    }
}
