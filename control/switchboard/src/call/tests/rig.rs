//! Models around one call. The proxy and the media agent take requests in order, check them against the leg's or the
//! stream's state, and answer; phones act when a test (or a random number) says so. Nothing moves by itself.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use nebula_bus::contract::{
    CallId, Cause, CauseKind, Destination, EndedBy, Party, StreamStats,
    to_media::{Created, Negotiated, Step},
    to_switchboard::Invite,
};

use crate::call::*;
use nebula_store::cdrs::Cdr;

pub const A: &str = "a";
pub const B: &str = "call-1";
pub const C: &str = "call-2";

/// A transaction that waits for a final response.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Open {
    Invite { offer: bool },
    Reinvite { offer: bool },
}

/// A leg at the proxy.
#[derive(Debug, Default)]
pub struct Channel {
    pub alive: bool,
    pub answered: bool,
    /// From the phone, the newest last.
    pub incoming: Vec<Open>,
    /// To the phone.
    pub outgoing: Option<Open>,
    pub ack_awaited: bool,
    /// What the switchboard asked for, in order.
    pub log: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Exchange {
    Stable,
    RemoteOffered,
    LocalOffered,
}

/// A stream at the media agent.
#[derive(Debug)]
pub struct Stream {
    pub channel: String,
    pub alive: bool,
    pub agreed: bool,
    exchange: Exchange,
    pub log: Vec<String>,
}

/// The failure that a test injects: the n-th request of this name from now.
#[derive(Debug)]
pub struct Fault {
    pub name: &'static str,
    pub failure: Failure,
    pub after: usize,
}

pub struct Rig {
    pub call: Call,
    pub now_ms: u64,
    pub channels: BTreeMap<String, Channel>,
    pub streams: BTreeMap<String, Stream>,
    pub bridges: Vec<(String, String)>,
    pub to_proxy: VecDeque<(RpcId, Request)>,
    pub to_media: VecDeque<(RpcId, Request)>,
    pub replies: VecDeque<(RpcId, Result<Reply, Failure>)>,
    pub events: VecDeque<(String, ChannelEvent)>,
    pub shell: VecDeque<Input>,
    pub records: Vec<&'static str>,
    pub cdrs: Vec<Cdr>,
    pub faults: Vec<Fault>,
    pub destinations: usize,
    gone: HashSet<String>,
    out: Vec<Effect>,
}

/// A record with its words read back.
pub struct Filed {
    pub cause: CauseKind,
    pub ended_by: EndedBy,
    cdr: Cdr,
}

impl std::ops::Deref for Filed {
    type Target = Cdr;

    fn deref(&self) -> &Cdr {
        &self.cdr
    }
}

pub fn cause(sip_code: u16, kind: CauseKind) -> Cause {
    Cause { sip_code, kind, text: String::new() }
}

pub fn timing() -> Timing {
    Timing { no_answer_ms: 60_000, duration_ms_max: 86_400_000, dataplane_grace_ms: 2_000 }
}

impl Rig {
    /// A call to an extension with this many bindings.
    pub fn new(destinations: usize) -> Rig {
        Rig::dialling("1001", Some("offer"), destinations)
    }

    pub fn dialling(to: &str, offer: Option<&str>, destinations: usize) -> Rig {
        let invite = Invite {
            channel_id: A.into(),
            proxy: "proxy".into(),
            sip_call_id: "sip".into(),
            customer_id: "customer".into(),
            from: Party { user: "1000".into(), display: None },
            to: to.into(),
            source: "192.0.2.1:5060".into(),
            sdp: offer.map(str::to_owned),
            max_forwards: 69,
            from_srtp: None,
            to_srtp: None,
        };
        let caller =
            Channel { alive: true, incoming: vec![Open::Invite { offer: offer.is_some() }], ..Channel::default() };
        let now = Now { monotonic_ms: 1_000, unix_ms: 1_700_000_000_000 };
        let mut out = Vec::new();
        let call = Call::start(CallId::from("call"), "switchboard".into(), timing(), invite, now, &mut out);
        let mut rig = Rig {
            call,
            now_ms: now.monotonic_ms,
            channels: BTreeMap::from([(A.to_owned(), caller)]),
            streams: BTreeMap::new(),
            bridges: Vec::new(),
            to_proxy: VecDeque::new(),
            to_media: VecDeque::new(),
            replies: VecDeque::new(),
            events: VecDeque::new(),
            shell: VecDeque::new(),
            records: Vec::new(),
            cdrs: Vec::new(),
            faults: Vec::new(),
            destinations,
            gone: HashSet::new(),
            out,
        };
        rig.carry_out();
        rig
    }

    /// Everything that moves without phones and time, in order, until nothing does.
    pub fn settle(&mut self) -> &mut Rig {
        while self.step_shell() || self.step_event() || self.step_proxy() || self.step_media() || self.step_reply(0) {}
        self
    }

    pub fn fail(&mut self, name: &'static str, failure: Failure) -> &mut Rig {
        self.faults.push(Fault { name, failure, after: 0 });
        self
    }

    pub fn input(&mut self, input: Input) {
        if let Input::Channel { channel_id, event: ChannelEvent::Hangup { .. }, .. } = &input {
            self.gone.insert(channel_id.0.clone());
        }
        self.call.handle(self.now(), input, &mut self.out);
        self.carry_out();
    }

    pub fn now(&self) -> Now {
        // The Unix clock jumps back an hour after a while; no record may show it.
        let jump = if self.now_ms > 5_000 { 3_600_000 } else { 0 };
        Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms as i64 - 1_000 - jump }
    }

    /// Lets time pass, waking the machine whenever it wants to be.
    pub fn pass(&mut self, ms: u64) -> &mut Rig {
        let until = self.now_ms + ms;
        while let Some(at) = self.call.deadline_ms().filter(|at| *at <= until) {
            self.now_ms = self.now_ms.max(at);
            self.input(Input::Timeout);
            self.settle();
        }
        self.now_ms = until;
        self.settle()
    }

    /// A phone or its proxy reports; delivered by `settle`.
    pub fn event(&mut self, channel: &str, event: ChannelEvent) -> &mut Rig {
        self.events.push_back((channel.to_owned(), event));
        self
    }

    pub fn ring(&mut self, channel: &str) -> &mut Rig {
        self.event(channel, ChannelEvent::Provisional { sip_code: 180, sdp: None })
    }

    pub fn progress(&mut self, channel: &str, sdp: &str) -> &mut Rig {
        self.event(channel, ChannelEvent::Provisional { sip_code: 183, sdp: Some(sdp.into()) })
    }

    /// 2xx to whatever we asked of the phone.
    pub fn answer(&mut self, channel: &str, sdp: Option<&str>) -> &mut Rig {
        let leg = self.channels.get_mut(channel).expect("dialled");
        leg.answered = true;
        leg.outgoing.take().expect("something to answer");
        self.event(channel, ChannelEvent::Answered { sdp: sdp.map(str::to_owned) })
    }

    /// The phone leaves: BYE, CANCEL, a refusal.
    pub fn leave(&mut self, channel: &str, sip_code: u16, kind: CauseKind) -> &mut Rig {
        let leg = self.channels.get_mut(channel).expect("there");
        assert!(leg.alive, "{channel} has left");
        leg.alive = false;
        self.event(channel, ChannelEvent::Hangup { cause: cause(sip_code, kind) })
    }

    pub fn reinvite(&mut self, channel: &str, sdp: Option<&str>) -> &mut Rig {
        let leg = self.channels.get_mut(channel).expect("there");
        leg.incoming.push(Open::Reinvite { offer: sdp.is_some() });
        self.event(channel, ChannelEvent::Reinvite { sdp: sdp.map(str::to_owned) })
    }

    pub fn refuse(&mut self, channel: &str, sip_code: u16) -> &mut Rig {
        self.channels.get_mut(channel).expect("there").outgoing.take().expect("something to refuse");
        self.event(channel, ChannelEvent::Refused { cause: cause(sip_code, CauseKind::Rejected) })
    }

    pub fn ack(&mut self, channel: &str, sdp: Option<&str>) -> &mut Rig {
        let leg = self.channels.get_mut(channel).expect("there");
        assert!(std::mem::take(&mut leg.ack_awaited), "no ACK with an answer is due on {channel}");
        self.event(channel, ChannelEvent::Acked { sdp: sdp.map(str::to_owned) })
    }

    /// What the proxy was asked about a leg.
    pub fn asked(&self, channel: &str) -> Vec<&str> {
        self.channels.get(channel).map_or(Vec::new(), |leg| leg.log.iter().map(String::as_str).collect())
    }

    /// What the agent was asked about the stream of a leg.
    pub fn media(&self, channel: &str) -> Vec<&str> {
        let of = |stream: &&Stream| stream.channel == channel;
        self.streams.values().find(of).map_or(Vec::new(), |stream| stream.log.iter().map(String::as_str).collect())
    }

    pub fn stream_of(&self, channel: &str) -> String {
        self.streams.iter().find(|(_, stream)| stream.channel == channel).expect("a stream").0.clone()
    }

    /// The invariants of a call that is over; its record.
    #[track_caller]
    pub fn over(&self) -> Filed {
        assert_eq!(self.call.state(), State::Ended, "{:?} asked {:?}", self.call.legs, self.call.asked);
        assert_eq!(self.call.deadline_ms(), None);
        for (name, leg) in &self.channels {
            assert!(!leg.alive, "leg {name} was left open: {leg:?}");
        }
        for (name, stream) in &self.streams {
            assert!(!stream.alive, "stream {name} was left open: {stream:?}");
        }
        assert_eq!(self.cdrs.len(), 1, "exactly one CDR");
        assert_eq!(self.records.iter().filter(|record| **record == "ended").count(), 1);
        let cdr = self.cdrs[0].clone();
        assert_eq!(cdr.answered_unix_ms.is_some(), self.records.contains(&"answered"));
        assert!(cdr.started_unix_ms <= cdr.answered_unix_ms.unwrap_or(cdr.ended_unix_ms));
        assert!(cdr.answered_unix_ms.unwrap_or(0) <= cdr.ended_unix_ms);
        assert!((100..700).contains(&cdr.sip_code), "{cdr:?}");
        let read = |word: &str| serde_json::Value::from(word);
        Filed {
            cause: serde_json::from_value(read(&cdr.cause)).expect("a cause of the contract"),
            ended_by: serde_json::from_value(read(&cdr.ended_by)).expect("a side of the contract"),
            cdr,
        }
    }

    fn carry_out(&mut self) {
        for effect in std::mem::take(&mut self.out) {
            match effect {
                Effect::Rpc { id, leg, to, request } => {
                    let channel = self.call.legs()[leg.0 as usize].channel_id.0.clone();
                    match to {
                        To::Proxy(_) => {
                            self.check_gone(&channel, &request);
                            self.to_proxy.push_back((id, request));
                        }
                        To::Media(_) => self.to_media.push_back((id, request)),
                    }
                }
                Effect::Locate => {
                    let destination = |n: usize| Destination {
                        uri: format!("sip:1001@192.0.2.{n}"),
                        transport: "udp".into(),
                        address: String::new(),
                        path: Vec::new(),
                    };
                    let route = |n| Route { proxy: "proxy".into(), destination: destination(n) };
                    self.shell.push_back(Input::Located(Ok((0..self.destinations).map(route).collect())));
                }
                Effect::Record(Record::Started) => {
                    self.records.push("started");
                    self.shell.push_back(Input::Recorded(Ok(())));
                }
                Effect::Record(Record::Answered { .. }) => self.records.push("answered"),
                Effect::Record(Record::Ended(cdr)) => {
                    self.records.push("ended");
                    self.cdrs.push(*cdr);
                }
            }
        }
    }

    /// A leg that the machine knows has ended is only ever hung up.
    fn check_gone(&mut self, channel: &str, request: &Request) {
        let ended = self.gone.contains(channel);
        match request {
            Request::HangUp(_) => {
                self.gone.insert(channel.to_owned());
            }
            other => assert!(!ended, "{channel} has ended, but: {other:?}"),
        }
    }

    pub fn step_shell(&mut self) -> bool {
        let Some(input) = self.shell.pop_front() else { return false };
        self.input(input);
        true
    }

    pub fn step_event(&mut self) -> bool {
        let Some((channel, event)) = self.events.pop_front() else { return false };
        self.input(Input::Channel { channel_id: channel.as_str().into(), age_ms: 0, event });
        true
    }

    pub fn step_reply(&mut self, index: usize) -> bool {
        let Some((id, result)) = self.replies.remove(index) else { return false };
        self.input(Input::Reply { id, result });
        true
    }

    pub fn step_proxy(&mut self) -> bool {
        let Some((id, request)) = self.to_proxy.pop_front() else { return false };
        let result = match self.fault(proxy_name(&request)) {
            Some(failure) => Err(failure),
            None => self.proxy(request).map(|()| Reply::Accepted),
        };
        self.replies.push_back((id, result));
        true
    }

    pub fn step_media(&mut self) -> bool {
        let Some((id, request)) = self.to_media.pop_front() else { return false };
        let result = match self.fault(&media_name(&request)) {
            Some(failure) => Err(failure),
            None => self.agent(request),
        };
        self.replies.push_back((id, result));
        true
    }

    fn fault(&mut self, name: &str) -> Option<Failure> {
        let at = self.faults.iter().position(|fault| fault.name == name)?;
        if self.faults[at].after > 0 {
            self.faults[at].after -= 1;
            return None;
        }
        Some(self.faults.remove(at).failure)
    }

    fn proxy(&mut self, request: Request) -> Result<(), Failure> {
        let name = proxy_name(&request).to_owned();
        if let Request::Dial(dial) = request {
            let leg = Channel {
                alive: true,
                outgoing: Some(Open::Invite { offer: dial.sdp.is_some() }),
                log: vec![name],
                ..Channel::default()
            };
            assert!(dial.sdp.is_some() && dial.max_forwards == 69);
            assert!(self.channels.insert(dial.channel_id.0, leg).is_none(), "dialled twice");
            return Ok(());
        }
        let channel = channel_of(&request).to_owned();
        let leg = self.channels.get_mut(&channel).filter(|leg| leg.alive).ok_or(Failure::Unknown)?;
        let newest = leg.incoming.last().copied();
        match &request {
            Request::Ring(_) | Request::Progress(_) => {
                assert!(matches!(leg.incoming[..], [Open::Invite { .. }, ..]), "{name} without an open INVITE");
                leg.log.push(match &request {
                    Request::Progress(progress) => format!("{} {name} {:?}", progress.sip_code, progress.sdp),
                    _ => name,
                });
            }
            Request::Answer(answer) => {
                let open = leg.incoming.pop().expect("an open transaction to answer");
                assert!(answer.sdp.is_some(), "answered without SDP");
                let (Open::Invite { offer } | Open::Reinvite { offer }) = open;
                leg.ack_awaited = !offer;
                leg.answered = true;
                leg.log.push(format!("{name} {}", answer.sdp.as_deref().unwrap_or_default()));
            }
            Request::Reject(reject) => {
                leg.incoming.pop().expect("an open transaction to reject");
                leg.alive = !matches!(newest, Some(Open::Invite { .. }));
                leg.log.push(format!("{name} {}", reject.sip_code));
            }
            Request::Reinvite(answer) => {
                if !leg.answered {
                    // The answer before it failed.
                    return Err(Failure::Internal);
                }
                assert!(leg.outgoing.is_none(), "a second re-INVITE");
                leg.outgoing = Some(Open::Reinvite { offer: answer.sdp.is_some() });
                leg.log.push(format!("{name} {}", answer.sdp.as_deref().unwrap_or_default()));
            }
            Request::HangUp(ended) => {
                (leg.alive, leg.outgoing) = (false, None);
                leg.incoming.clear();
                leg.log.push(format!("{name} {}", ended.cause.sip_code));
            }
            _ => leg.log.push(name),
        }
        Ok(())
    }

    fn agent(&mut self, request: Request) -> Result<Reply, Failure> {
        let name = media_name(&request);
        match request {
            Request::Create(create) => {
                let stream_id = format!("stream-{}", self.streams.len());
                let (exchange, sdp) = match create.step {
                    Step::RemoteOffer { .. } => (Exchange::RemoteOffered, None),
                    _ => (Exchange::LocalOffered, Some(format!("offer of {stream_id}"))),
                };
                let channel = create.channel_id.0;
                let log = vec![name];
                let stream = Stream { channel, alive: true, agreed: false, exchange, log };
                self.streams.insert(stream_id.clone(), stream);
                Ok(Reply::Created(Created { stream_id: stream_id.into(), media: "media".into(), sdp }))
            }
            Request::Update(update) => {
                if let Step::LocalOffer { mirror: Some(mirror) } | Step::LocalAnswer { mirror: Some(mirror) } =
                    &update.step
                {
                    self.streams.get(&mirror.0).filter(|stream| stream.alive).ok_or(Failure::Unknown)?;
                }
                let stream_id = update.stream_id.0;
                let stream = self.streams.get_mut(&stream_id).filter(|stream| stream.alive).ok_or(Failure::Unknown)?;
                stream.log.push(name);
                let (next, sdp) = exchange(stream, &update.step, &stream_id);
                stream.agreed |= next == Exchange::Stable && update.step != Step::Rollback;
                stream.exchange = next;
                let held = matches!(&update.step, Step::RemoteAnswer { sdp } if sdp == "hold");
                Ok(Reply::Negotiated(Negotiated { sdp, held }))
            }
            Request::Destroy(stream) => {
                let stream = self.streams.get_mut(&stream.stream_id.0).ok_or(Failure::Unknown)?;
                assert!(std::mem::replace(&mut stream.alive, false), "destroyed twice");
                stream.log.push(name);
                Ok(Reply::Stats(Box::new(StreamStats { packets_received: 7, ..StreamStats::default() })))
            }
            Request::Bridge(bridge) => {
                for stream in [&bridge.a, &bridge.b] {
                    self.streams.get(&stream.0).filter(|stream| stream.alive).ok_or(Failure::Unknown)?;
                }
                self.bridges.push((bridge.a.0, bridge.b.0));
                Ok(Reply::Accepted)
            }
            other => panic!("not for an agent: {other:?}"),
        }
    }

    /// The dataplane comes back with these streams.
    pub fn back(&mut self, alive: &[String]) {
        let alive = Arc::new(alive.iter().map(|id| StreamId(id.clone())).collect());
        self.input(Input::DataplaneBack { media: "media".into(), alive });
    }
}

/// RFC 3264: who may offer and answer when.
fn exchange(stream: &Stream, step: &Step, stream_id: &str) -> (Exchange, Option<String>) {
    match (stream.exchange, step) {
        (Exchange::Stable, Step::RemoteOffer { .. }) => (Exchange::RemoteOffered, None),
        (Exchange::Stable, Step::LocalOffer { .. }) => (Exchange::LocalOffered, Some(format!("offer of {stream_id}"))),
        // Replaced before it was sent to anybody.
        (Exchange::LocalOffered, Step::LocalOffer { .. }) if !stream.agreed => {
            (Exchange::LocalOffered, Some(format!("offer of {stream_id}")))
        }
        (Exchange::LocalOffered, Step::RemoteAnswer { .. }) => (Exchange::Stable, None),
        (Exchange::Stable, Step::RemoteAnswer { .. }) if stream.agreed => (Exchange::Stable, None),
        (Exchange::RemoteOffered, Step::LocalAnswer { mirror }) => {
            let like = mirror.as_ref().map_or("itself", |mirror| mirror.as_str());
            (Exchange::Stable, Some(format!("answer like {like}")))
        }
        (_, Step::Rollback) => (Exchange::Stable, None),
        (state, step) => panic!("{step:?} in {state:?} of {stream_id}: {:?}", stream.log),
    }
}

fn proxy_name(request: &Request) -> &'static str {
    match request {
        Request::Dial(_) => "dial",
        Request::Ring(_) => "ring",
        Request::Progress(_) => "progress",
        Request::Answer(_) => "answer",
        Request::Reject(_) => "reject",
        Request::Reinvite(_) => "reinvite",
        Request::Dtmf(_) => "dtmf",
        Request::HangUp(_) => "hangup",
        other => panic!("not for a proxy: {other:?}"),
    }
}

fn media_name(request: &Request) -> String {
    let step = |step: &Step| match step {
        Step::RemoteOffer { .. } => "remote offer",
        Step::LocalOffer { .. } => "local offer",
        Step::RemoteAnswer { .. } => "remote answer",
        Step::LocalAnswer { .. } => "local answer",
        Step::Rollback => "rollback",
    };
    match request {
        Request::Create(create) => format!("create {}", step(&create.step)),
        Request::Update(update) => step(&update.step).to_owned(),
        Request::Destroy(_) => "destroy".to_owned(),
        Request::Bridge(_) => "bridge".to_owned(),
        other => panic!("not for an agent: {other:?}"),
    }
}

pub fn channel_of(request: &Request) -> &str {
    match request {
        Request::Dial(dial) => dial.channel_id.as_str(),
        Request::Ring(channel) => channel.channel_id.as_str(),
        Request::Progress(progress) => progress.channel_id.as_str(),
        Request::Answer(answer) | Request::Reinvite(answer) => answer.channel_id.as_str(),
        Request::Reject(reject) => reject.channel_id.as_str(),
        Request::Dtmf(dtmf) => dtmf.channel_id.as_str(),
        Request::HangUp(ended) => ended.channel_id.as_str(),
        other => panic!("not for a proxy: {other:?}"),
    }
}
