//! What goes into the call machine and what comes out of it.

use std::{collections::HashSet, sync::Arc};

use nebula_bus::contract::{
    Cause, CauseKind, ChannelId, Destination, InstanceId, StreamId, StreamStats,
    to_media::{Bridge, Create, Created, Negotiated, Stream, Update},
    to_proxy::{Answer, Channel, Dial, Phase, Progress, Reject},
    to_switchboard::{Dtmf, Ended},
};

use nebula_store::cdrs::Cdr;
use serde::{Deserialize, Serialize};

use super::{LegIndex, change, response};

/// A moment on both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Now {
    /// Never set back; what durations and deadlines are made of. The host's own (CLOCK_BOOTTIME), so that it goes on for a
    /// call that another process of this host takes up.
    pub monotonic_ms: u64,
    /// For the record.
    pub unix_ms: i64,
}

/// Names an RPC of one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RpcId(pub u32);

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Input {
    /// The call's row is in the database, or cannot be put there.
    Recorded(Result<(), Failure>),
    /// The callee's bindings.
    Located(Result<Vec<Route>, Failure>),
    /// An RPC ended.
    Reply {
        /// Which.
        id: RpcId,
        /// How.
        result: Result<Reply, Failure>,
    },
    /// A proxy reports something about a leg.
    Channel {
        /// The leg.
        channel_id: ChannelId,
        /// How long ago.
        age_ms: u64,
        /// What.
        event: ChannelEvent,
    },
    /// No RTP came for the configured time.
    StreamTimeout {
        /// Where.
        stream_id: StreamId,
    },
    /// A media agent lost its dataplane.
    DataplaneLost {
        /// Which.
        media: InstanceId,
    },
    /// It is back.
    DataplaneBack {
        /// Which.
        media: InstanceId,
        /// The streams that live.
        alive: Arc<HashSet<StreamId>>,
    },
    /// A proxy was told that the call is ours, and says where its legs stand.
    Adopted {
        /// Those of this call at that proxy.
        channels: Vec<(ChannelId, Phase)>,
    },
    /// A media agent was told that the streams are ours, and says which there are.
    StreamsAdopted {
        /// Which.
        media: InstanceId,
        /// The streams that live.
        alive: Arc<HashSet<StreamId>>,
    },
    /// A proxy has been away for longer than it may: its legs are lost.
    ProxyGone {
        /// Which.
        proxy: InstanceId,
    },
    /// A media agent has been away for longer than it may: its streams are lost.
    MediaGone {
        /// Which.
        media: InstanceId,
    },
    /// Another switchboard owns the call now.
    Disowned,
    /// An operator, the API or a drain ends the call.
    Hangup {
        /// Why.
        cause: Cause,
    },
    /// `deadline_ms` is over.
    Timeout,
}

/// One way to the callee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The proxy that shall own the leg.
    pub proxy: InstanceId,
    /// Where the phone is.
    pub destination: Destination,
}

/// What a proxy reports about a leg.
#[derive(Debug, Clone)]
pub enum ChannelEvent {
    /// 1xx but 100.
    Provisional {
        /// 101 to 199.
        sip_code: u16,
        /// The early answer.
        sdp: Option<String>,
    },
    /// 2xx to an INVITE, re-INVITE or UPDATE of ours.
    Answered {
        /// The answer.
        sdp: Option<String>,
    },
    /// A re-INVITE or UPDATE of ours was refused.
    Refused {
        /// Why.
        cause: Cause,
    },
    /// The phone sent a re-INVITE or UPDATE.
    Reinvite {
        /// Its offer.
        sdp: Option<String>,
    },
    /// The ACK (or PRACK) to an offer of ours.
    Acked {
        /// The answer.
        sdp: Option<String>,
    },
    /// A key press by INFO.
    Dtmf {
        /// `0-9*#A-D`.
        digit: char,
        /// How long.
        duration_ms: u32,
    },
    /// The leg ended.
    Hangup {
        /// Why.
        cause: Cause,
    },
}

/// How an RPC succeeded.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Taken on.
    Accepted,
    /// `stream.create`.
    Created(Created),
    /// `stream.update`.
    Negotiated(Negotiated),
    /// `stream.destroy`.
    Stats(Box<StreamStats>),
}

/// How an RPC or a look-up failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The descriptions have nothing in common.
    Incompatible,
    /// The callee has no room now.
    Busy,
    /// The callee does not know the leg or stream.
    Unknown,
    /// The proxy cannot send to the phone.
    Unreachable,
    /// Nobody answered in time.
    Unavailable,
    /// Somebody else owns the call.
    Fenced,
    /// Anything else.
    Internal,
}

impl Failure {
    /// It may pass: nobody was asked, or nobody answered.
    pub fn is_transient(self) -> bool {
        matches!(self, Failure::Busy | Failure::Unavailable)
    }

    /// The cause that a failed step gives its leg.
    pub fn cause(self) -> Cause {
        let (sip_code, kind, text) = match self {
            Failure::Incompatible => (488, CauseKind::Incompatible, "no codec in common"),
            Failure::Busy => (503, CauseKind::Internal, "overloaded"),
            Failure::Unknown => (481, CauseKind::Network, "leg or stream unknown"),
            Failure::Unreachable => (480, CauseKind::Unreachable, "the phone cannot be reached"),
            Failure::Unavailable => (503, CauseKind::Internal, "a part of the system does not answer"),
            Failure::Internal | Failure::Fenced => (500, CauseKind::Internal, "a part of the system failed"),
        };
        response::cause(sip_code, kind, text)
    }
}

/// Who is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum To {
    /// The proxy of the leg.
    Proxy(InstanceId),
    /// The media agent of the call; none means any.
    Media(Option<InstanceId>),
}

/// What is asked.
#[derive(Debug, Clone)]
pub enum Request {
    /// `channel.dial`.
    Dial(Box<Dial>),
    /// `channel.ring`.
    Ring(Channel),
    /// `channel.progress`.
    Progress(Progress),
    /// `channel.answer`.
    Answer(Answer),
    /// `channel.reject`.
    Reject(Reject),
    /// `channel.reinvite`.
    Reinvite(Answer),
    /// `channel.dtmf`.
    Dtmf(Dtmf),
    /// `channel.hangup`.
    HangUp(Ended),
    /// `stream.create`.
    Create(Box<Create>),
    /// `stream.update`.
    Update(Update),
    /// `stream.destroy`.
    Destroy(Stream),
    /// `bridge.create`.
    Bridge(Bridge),
}

/// How long a request is tried again while its callee cannot be reached. All that is tried again acts once however often it
/// arrives: by its nature, or by its idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Once: whoever waits for it does not wait for long.
    None,
    /// As long as one request may take: a proxy or an agent that merely starts again is back by then.
    Short,
    /// As long as the callee may come back at all: somebody's phone, or a port, hangs on it.
    Grace,
}

impl Request {
    /// Whether a media agent is asked; else a proxy.
    pub fn is_for_media(&self) -> bool {
        matches!(self, Request::Create(_) | Request::Update(_) | Request::Destroy(_) | Request::Bridge(_))
    }

    /// See [`Patience`].
    pub fn patience(&self) -> Patience {
        match self {
            Request::Dial(_) | Request::Ring(_) | Request::Progress(_) | Request::Dtmf(_) | Request::Create(_) => {
                Patience::None
            }
            Request::Reinvite(_) | Request::Update(_) => Patience::Short,
            Request::Answer(_) | Request::Reject(_) | Request::HangUp(_) | Request::Destroy(_) | Request::Bridge(_) => {
                Patience::Grace
            }
        }
    }
}

/// What an RPC was for: how its end is understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// A leg's stream.
    Create(LegIndex),
    /// Its end.
    Destroy(LegIndex),
    /// A fork's INVITE.
    Dial(LegIndex),
    /// The fork's answer applied to its stream.
    JoinRemote(LegIndex),
    /// The caller's answer (or offer) made from the fork's.
    JoinCaller(LegIndex),
    /// The caller bridged to the fork.
    Bridge(LegIndex),
    /// 2xx to the caller's INVITE; the call is dead without it.
    Answer,
    /// 2xx to a re-INVITE of this leg.
    AnswerChange(LegIndex),
    /// A step of a change.
    Change {
        /// Which change.
        number: u32,
        /// Which step.
        step: change::Step,
    },
    /// Nothing depends on it.
    Tell,
    /// The same of a proxy, which may turn out not to know the leg.
    TellLeg(LegIndex),
}

/// Something to be done, in this order but without waiting for one before the next: the bus keeps the order of requests
/// to one instance. Each RPC, look-up and `Record::Started` is answered by its input, at the latest by its deadline.
#[derive(Debug, Clone)]
pub enum Effect {
    /// Ask a role; the answer is `Input::Reply`.
    Rpc {
        /// Its name.
        id: RpcId,
        /// The leg it is about.
        leg: LegIndex,
        /// Who.
        to: To,
        /// What.
        request: Request,
    },
    /// Look up the bindings of the dialled extension; the answer is `Input::Located`.
    Locate,
    /// Write to the store, in this order within the call.
    Record(Record),
}

/// A change of the call's record.
#[derive(Debug, Clone)]
pub enum Record {
    /// The call began; the answer is `Input::Recorded`.
    Started,
    /// It was answered.
    Answered {
        /// When.
        at_unix_ms: i64,
    },
    /// It ended: its only CDR.
    Ended(Box<Cdr>),
}

pub(super) fn dtmf(channel_id: ChannelId, digit: char, duration_ms: u32) -> Dtmf {
    Dtmf { channel_id, digit, duration_ms }
}
