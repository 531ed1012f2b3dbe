//! The far side in the simulator: a proxy with its legs and a media agent with its streams. They obey the contract and
//! nothing else: what is illegal in their state is refused, what comes twice by its key acts once, a lower fence is fenced.

use std::collections::{BTreeMap, HashMap, VecDeque};

use nebula_bus::contract::{
    to_media::{Created, Negotiated, Step},
    to_proxy::Phase,
};

use crate::call::*;

/// A leg.
#[derive(Debug)]
pub struct Channel {
    pub owner: usize,
    fence: u64,
    pub phase: Phase,
    pub is_caller: bool,
    /// A re-INVITE of the phone waits for us.
    pub asked: bool,
    /// A re-INVITE of ours waits for the phone.
    pub asking: bool,
    /// An ACK with an answer is due.
    pub ack_due: bool,
    late_offer: bool,
    pub since_ms: u64,
    /// Reports and when they happened, the oldest being sent.
    pub outbox: VecDeque<(u64, ChannelEvent)>,
    pub sending: bool,
}

/// A stream.
#[derive(Debug)]
pub struct Stream {
    pub call: String,
    pub channel: String,
    pub owner: usize,
    fence: u64,
    pub alive: bool,
}

#[derive(Debug, Default)]
pub struct Edge {
    pub channels: BTreeMap<String, Channel>,
    pub streams: BTreeMap<String, Stream>,
    /// What was answered, by key; lost with the process.
    pub answered: HashMap<String, Result<Reply, Failure>>,
    pub fenced: usize,
}

impl Edge {
    pub fn caller(&mut self, channel: &str, owner: usize, fence: u64, late_offer: bool, now_ms: u64) {
        let leg = Channel {
            owner,
            fence,
            phase: Phase::Early,
            is_caller: true,
            asked: false,
            asking: false,
            ack_due: false,
            late_offer,
            since_ms: now_ms,
            outbox: VecDeque::new(),
            sending: false,
        };
        self.channels.insert(channel.to_owned(), leg);
    }

    pub fn take(
        &mut self,
        owner: usize,
        fence: u64,
        key: String,
        request: &Request,
        now_ms: u64,
    ) -> Result<Reply, Failure> {
        if let Some(result) = self.answered.get(&key) {
            return result.clone();
        }
        let result = if request.is_for_media() {
            self.media(owner, fence, request)
        } else {
            self.proxy(owner, fence, request, now_ms)
        };
        self.fenced += usize::from(matches!(result, Err(Failure::Fenced)));
        self.answered.insert(key, result.clone());
        result
    }

    /// The owner of legs says so.
    pub fn adopt_channel(&mut self, owner: usize, fence: u64, channel: &str) -> Result<Phase, Failure> {
        let Some(leg) = self.channels.get_mut(channel) else { return Ok(Phase::Gone) };
        if fence < leg.fence {
            return Err(Failure::Fenced);
        }
        (leg.owner, leg.fence) = (owner, fence);
        Ok(leg.phase)
    }

    /// The owner of streams says so.
    pub fn adopt_stream(&mut self, owner: usize, fence: u64, stream: &str) -> Result<bool, Failure> {
        let Some(stream) = self.streams.get_mut(stream) else { return Ok(false) };
        if fence < stream.fence {
            return Err(Failure::Fenced);
        }
        (stream.owner, stream.fence) = (owner, fence);
        Ok(stream.alive)
    }

    fn proxy(&mut self, owner: usize, fence: u64, request: &Request, now_ms: u64) -> Result<Reply, Failure> {
        if let Request::Dial(dial) = request {
            let channel = dial.channel_id.as_str();
            assert!(!self.channels.contains_key(channel), "{channel} dialled twice");
            self.caller(channel, owner, fence, false, now_ms);
            self.channels.entry(channel.to_owned()).and_modify(|leg| leg.is_caller = false);
            return Ok(Reply::Accepted);
        }
        let channel = super::super::rig::channel_of(request);
        let leg = self.channels.get_mut(channel).filter(|leg| leg.phase != Phase::Gone).ok_or(Failure::Unknown)?;
        if fence < leg.fence {
            return Err(Failure::Fenced);
        }
        leg.fence = fence;
        let waits = leg.is_caller && leg.phase == Phase::Early;
        let legal = match request {
            Request::Ring(_) | Request::Progress(_) => waits,
            Request::Answer(_) if waits => {
                (leg.phase, leg.ack_due) = (Phase::Answered, leg.late_offer);
                true
            }
            Request::Answer(_) => std::mem::replace(&mut leg.asked, false),
            Request::Reject(_) if waits => {
                leg.phase = Phase::Gone;
                true
            }
            Request::Reject(_) => std::mem::replace(&mut leg.asked, false),
            Request::Reinvite(_) => leg.phase == Phase::Answered && !std::mem::replace(&mut leg.asking, true),
            Request::HangUp(_) => {
                leg.phase = Phase::Gone;
                leg.outbox.clear();
                true
            }
            _ => true,
        };
        if legal { Ok(Reply::Accepted) } else { Err(Failure::Internal) }
    }

    fn media(&mut self, owner: usize, fence: u64, request: &Request) -> Result<Reply, Failure> {
        let mut touch = |stream: &str| {
            let stream = self.streams.get_mut(stream).filter(|stream| stream.alive).ok_or(Failure::Unknown)?;
            if fence < stream.fence {
                return Err(Failure::Fenced);
            }
            stream.fence = fence;
            Ok(())
        };
        match request {
            Request::Create(create) => {
                let stream_id = format!("stream-{}", self.streams.len());
                let (call, channel) = (create.call_id.0.clone(), create.channel_id.0.clone());
                self.streams.insert(stream_id.clone(), Stream { call, channel, owner, fence, alive: true });
                let sdp = matches!(create.step, Step::LocalOffer { .. }).then(|| "offer".to_owned());
                Ok(Reply::Created(Created { stream_id: stream_id.into(), media: "media".into(), sdp }))
            }
            Request::Update(update) => {
                touch(update.stream_id.as_str())?;
                let makes = matches!(update.step, Step::LocalOffer { .. } | Step::LocalAnswer { .. });
                let held =
                    matches!(&update.step, Step::RemoteAnswer { sdp } | Step::RemoteOffer { sdp } if sdp == "hold");
                Ok(Reply::Negotiated(Negotiated { sdp: makes.then(|| "made".to_owned()), held }))
            }
            Request::Destroy(destroy) => {
                touch(destroy.stream_id.as_str())?;
                self.streams.entry(destroy.stream_id.0.clone()).and_modify(|stream| stream.alive = false);
                Ok(Reply::Stats(Box::default()))
            }
            Request::Bridge(bridge) => {
                touch(bridge.a.as_str())?;
                touch(bridge.b.as_str())?;
                Ok(Reply::Accepted)
            }
            other => panic!("not for an agent: {other:?}"),
        }
    }
}
