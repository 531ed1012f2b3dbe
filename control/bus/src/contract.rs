//! Every method and event of the bus, typed. Roles know each other only by this file.
//!
//! A method is a type that names its wire name, the role that answers it, its parameters and its reply. Direction is
//! part of the module, because the same wire name may exist both ways (`channel.hangup`). Everything here is carried as
//! JSON-RPC 2.0, in process and over Redis alike.
//!
//! Offer and answer travel as opaque SDP text (`sdp`): only the media agent reads them.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A kind of process. `nebula up` runs all of them in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The SIP edge: transports, registrar, routing, channels.
    Proxy,
    /// Call control.
    Switchboard,
    /// Offer/answer and the dataplane's client.
    Media,
    /// The HTTP gateway.
    Api,
}

impl Role {
    /// The name used in stream names, metrics and logs.
    pub const fn name(self) -> &'static str {
        match self {
            Role::Proxy => "proxy",
            Role::Switchboard => "switchboard",
            Role::Media => "media",
            Role::Api => "api",
        }
    }

    /// The role of that name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Role::Proxy, Role::Switchboard, Role::Media, Role::Api].into_iter().find(|role| role.name() == name)
    }
}

/// One method of the contract.
pub trait Method: Send + Sync + 'static {
    /// The JSON-RPC `method`.
    const NAME: &'static str;
    /// Who answers.
    const CALLEE: Role;
    /// The JSON-RPC `params`.
    type Params: Serialize + DeserializeOwned + Send + Sync + 'static;
    /// The JSON-RPC `result`.
    type Reply: Serialize + DeserializeOwned + Send + Sync + 'static;
}

/// Whether a party's media is protected, where it has a setting of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Srtp {
    /// Neither offered nor accepted.
    Off,
    /// Offered, as something that may be declined, and accepted.
    Optional,
    /// Nothing else is offered or accepted.
    Required,
}

macro_rules! id {
    ($(#[$doc:meta] $name:ident),+ $(,)?) => {$(
        #[$doc]
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl From<String> for $name {
            fn from(value: String) -> Self {
                Self(value)
            }
        }

        impl From<&str> for $name {
            fn from(value: &str) -> Self {
                Self(value.to_owned())
            }
        }
    )+};
}

id! {
    /// One running role, for example `proxy-01JD3...`; the address of a bus request.
    InstanceId,
    /// A call, named by the switchboard (a ULID).
    CallId,
    /// A SIP leg of a call, named by whoever opens it (a ULID): the proxy for an incoming one, the switchboard else.
    ChannelId,
    /// A stream, named by the media agent: sixteen hexadecimal digits, the dataplane's 64-bit id.
    StreamId,
}

/// An empty reply: the callee has taken the request on. What comes of it is reported by requests of its own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accepted {}

/// Who calls or is called, as the record and the phone's display show it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Party {
    /// The user part: an extension or a number.
    pub user: String,
    /// The display name, if any.
    pub display: Option<String>,
}

/// Which side ended something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndedBy {
    /// The calling party.
    Caller,
    /// The called party.
    Callee,
    /// Nebula itself: a timeout, a drain, an operator, a fault.
    System,
}

/// Why a leg ended or shall end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The SIP status that says it best (RFC 3261 section 21; 200 for a normal BYE, 487 for CANCEL).
    pub sip_code: u16,
    /// What happened, from a fixed list that the record keeps.
    pub kind: CauseKind,
    /// Free text for people: a reason phrase or a Reason header.
    pub text: String,
}

/// The fixed list of causes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// BYE by either side.
    Normal,
    /// CANCEL before the answer.
    Cancelled,
    /// 486 or 600.
    Busy,
    /// 603 or another refusal by the phone.
    Rejected,
    /// Nobody answered in the configured time, or 408 or 480 from the phone.
    NoAnswer,
    /// No such user (404), or nobody registered (480).
    Unreachable,
    /// No codec in common (488).
    Incompatible,
    /// No RTP for the configured time.
    RtpTimeout,
    /// The session timer ran out (RFC 4028).
    SessionTimer,
    /// An operator or a drain ended it.
    Administrative,
    /// The network or a transaction failed (timer B, F or H, transport error).
    Network,
    /// A process that owned the call died.
    Crash,
    /// Nebula failed: a bug, an overload, a missing part.
    Internal,
}

/// How a phone is reached: one registered binding or a static address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// The Request-URI to call: the registered Contact.
    pub uri: String,
    /// `udp` or `tcp`.
    pub transport: String,
    /// Where to send: the address the REGISTER came from (`ip:port`); empty if the URI's own host is to be resolved.
    pub address: String,
    /// Path header values (RFC 3327), outermost first.
    #[serde(default)]
    pub path: Vec<String>,
}

/// What a stream has seen, in RTP packets of one direction pair.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStats {
    /// RTP packets accepted from the peer.
    pub packets_received: u64,
    /// Their payload and header bytes (UDP payload).
    pub bytes_received: u64,
    /// RTP packets sent to the peer.
    pub packets_sent: u64,
    /// Their UDP payload bytes.
    pub bytes_sent: u64,
    /// Packets expected but never received (RFC 3550 A.3); negative when duplicates outnumber losses.
    pub packets_lost: i64,
    /// Packets that came later than a higher sequence number.
    pub packets_reordered: u64,
    /// Packets that came twice.
    pub packets_duplicated: u64,
    /// Interarrival jitter (RFC 3550 A.8) in microseconds.
    pub jitter_us: u64,
    /// The highest such jitter seen.
    pub jitter_us_max: u64,
    /// RTCP packets received and sent.
    pub rtcp_received: u64,
    /// RTCP packets sent.
    pub rtcp_sent: u64,
    /// Refused packets by reason (`drop_bad_version`, ...); only those that are not zero.
    pub drops: std::collections::BTreeMap<String, u64>,
    /// The codec that was negotiated (`PCMU/8000`).
    pub codec: Option<String>,
    /// Our RTP address.
    pub local: Option<String>,
    /// The peer's RTP address, once known.
    pub remote: Option<String>,
}

macro_rules! methods {
    ($role:ident { $($(#[$doc:meta])* $name:literal $ty:ident ($params:ty) -> $reply:ty;)+ }) => {$(
        $(#[$doc])*
        #[derive(Debug)]
        pub enum $ty {}

        impl Method for $ty {
            const NAME: &'static str = $name;
            const CALLEE: Role = Role::$role;
            type Params = $params;
            type Reply = $reply;
        }
    )+

        /// The wire names that this role answers, for dispatch tables and for a test that none is forgotten.
        pub const NAMES: &[&str] = &[$($name),+];
    };
}

/// What the switchboard answers: to proxies, to media agents and to the API.
pub mod to_switchboard {
    use super::*;

    methods! { Switchboard {
        /// A phone calls: the INVITE was validated, authenticated and found routable.
        "channel.invite" ChannelInvite(Invite) -> Invited;
        /// The called phone rings (a provisional response without SDP).
        "channel.ringing" ChannelRinging(Provisional) -> Accepted;
        /// Early media from the called phone (a provisional response with SDP).
        "channel.progress" ChannelProgress(Provisional) -> Accepted;
        /// 2xx to an INVITE, re-INVITE or UPDATE that the switchboard asked for. ACK is sent by then, unless we made no
        /// offer: then the SDP here is the phone's, and the ACK goes out with our answer in `channel.answer`.
        "channel.answered" ChannelAnswered(Answered) -> Accepted;
        /// A final refusal of a re-INVITE or UPDATE that the switchboard asked for. The leg itself lives on.
        "channel.refused" ChannelRefused(Ended) -> Accepted;
        /// The phone sent a re-INVITE or UPDATE; to be answered by `channel.answer` or `channel.reject`.
        "channel.reinvite" ChannelReinvite(Reinvite) -> Accepted;
        /// The SDP answer to an offer of ours arrived in ACK or PRACK.
        "channel.acked" ChannelAcked(Sdp) -> Accepted;
        /// The phone pressed a key, by INFO.
        "channel.dtmf" ChannelDtmf(Dtmf) -> Accepted;
        /// The leg has ended: BYE, CANCEL, a final refusal, a timeout, a dead transport.
        "channel.hangup" ChannelHangup(HungUp) -> Accepted;
        /// The stream knows where its peer is: the first valid packet came and the latch closed.
        "stream.up" StreamUp(StreamEvent) -> Accepted;
        /// No RTP came for `rtp_timeout_s`.
        "stream.timeout" StreamTimeout(StreamEvent) -> Accepted;
        /// A media agent lost its dataplane.
        "dataplane.lost" DataplaneLost(DataplaneState) -> Accepted;
        /// A media agent has its dataplane back, with these streams alive.
        "dataplane.back" DataplaneBack(DataplaneState) -> Accepted;
        /// The calls this switchboard owns.
        "call.list" CallList(ListCalls) -> Vec<CallView>;
        /// One call.
        "call.get" CallGet(GetCall) -> CallView;
        /// End a call.
        "call.hangup" CallHangup(GetCall) -> Accepted;
    }}

    /// Parameters of `channel.invite`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Invite {
        /// The new leg.
        pub channel_id: ChannelId,
        /// The proxy that owns it; requests about the channel go there.
        pub proxy: InstanceId,
        /// The SIP Call-ID, for logs and records.
        pub sip_call_id: String,
        /// The customer the caller belongs to.
        pub customer_id: String,
        /// The authenticated caller.
        pub from: Party,
        /// What was dialled: the user part of the Request-URI.
        pub to: String,
        /// The address the INVITE came from, `ip:port`.
        pub source: String,
        /// The offer; none means that the phone wants ours in the answer.
        pub sdp: Option<String>,
        /// Max-Forwards as received, less one: what `channel.dial` hands on, so that loops end.
        pub max_forwards: u8,
        /// The caller's own setting.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub from_srtp: Option<Srtp>,
        /// The called extension's own setting.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub to_srtp: Option<Srtp>,
    }

    /// Reply to `channel.invite`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Invited {
        /// The call that was made for it.
        pub call_id: CallId,
        /// The switchboard that owns the call; everything about the channel is reported there.
        pub switchboard: InstanceId,
    }

    /// Parameters of `channel.ringing` and `channel.progress`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Provisional {
        /// The leg.
        pub channel_id: ChannelId,
        /// 180, 181, 182, 183 or another 1xx but 100.
        pub sip_code: u16,
        /// The early answer (or offer, if we sent none).
        pub sdp: Option<String>,
    }

    /// A leg and the SDP that came with the message.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Sdp {
        /// The leg.
        pub channel_id: ChannelId,
        /// The body, if it had one.
        pub sdp: Option<String>,
    }

    /// Parameters of `channel.answered`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Answered {
        /// The leg.
        pub channel_id: ChannelId,
        /// The body, if it had one.
        pub sdp: Option<String>,
        /// How long ago the 2xx came, as of the moment of sending this: a report that could not be told is told later.
        #[serde(default)]
        pub age_ms: u64,
    }

    /// Parameters of `channel.reinvite`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Reinvite {
        /// The leg.
        pub channel_id: ChannelId,
        /// The new offer; none asks for ours (a re-INVITE without a body).
        pub sdp: Option<String>,
    }

    /// A leg (or a change of it) and why it ended.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Ended {
        /// The leg.
        pub channel_id: ChannelId,
        /// Why.
        pub cause: Cause,
    }

    /// Parameters of `channel.hangup`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct HungUp {
        /// The leg.
        pub channel_id: ChannelId,
        /// Why.
        pub cause: Cause,
        /// How long ago it ended, as of the moment of sending this: a report that could not be told is told later.
        #[serde(default)]
        pub age_ms: u64,
    }

    /// A key press.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Dtmf {
        /// The leg.
        pub channel_id: ChannelId,
        /// One of `0-9*#A-D`.
        pub digit: char,
        /// How long it was held.
        pub duration_ms: u32,
    }

    /// Something a stream reports.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct StreamEvent {
        /// The stream.
        pub stream_id: StreamId,
        /// The call it was created for.
        pub call_id: CallId,
        /// The leg it was created for.
        pub channel_id: ChannelId,
        /// The peer's address, if it is known.
        pub remote: Option<String>,
    }

    /// Parameters of `dataplane.lost` and `dataplane.back`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct DataplaneState {
        /// The media agent that reports.
        pub media: InstanceId,
        /// The streams it speaks of.
        pub streams: Vec<StreamId>,
    }

    /// Parameters of `call.list`.
    #[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
    pub struct ListCalls {
        /// At most so many, newest first; 0 means 1000.
        #[serde(default)]
        pub limit: u32,
    }

    /// Parameters of `call.get` and `call.hangup`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct GetCall {
        /// The call.
        pub call_id: CallId,
    }

    /// A live call as operators see it.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct CallView {
        /// The call.
        pub call_id: CallId,
        /// The state's name in the call machine.
        pub state: String,
        /// The caller.
        pub from: Party,
        /// What was dialled.
        pub to: String,
        /// When it began, Unix time.
        pub started_unix_ms: i64,
        /// When it was answered, Unix time.
        pub answered_unix_ms: Option<i64>,
        /// Its legs.
        pub channels: Vec<ChannelId>,
        /// Their streams.
        pub streams: Vec<StreamId>,
    }
}

/// What a proxy answers to the switchboard. All are addressed to the instance that owns the channel.
pub mod to_proxy {
    use super::*;

    methods! { Proxy {
        /// Open an outgoing leg: send an INVITE.
        "channel.dial" ChannelDial(Dial) -> Accepted;
        /// Send 180 on an incoming leg.
        "channel.ring" ChannelRing(Channel) -> Accepted;
        /// Send 183 (or another 1xx) with SDP on an incoming leg.
        "channel.progress" ChannelProgress(Progress) -> Accepted;
        /// Answer the open INVITE, re-INVITE or UPDATE of a leg with 200; or, after `channel.answered` with the phone's
        /// offer, with the ACK.
        "channel.answer" ChannelAnswer(Answer) -> Accepted;
        /// Refuse the open INVITE, re-INVITE or UPDATE of a leg, the newest one first. A refused first INVITE ends the leg.
        "channel.reject" ChannelReject(Reject) -> Accepted;
        /// Send a re-INVITE on an answered leg; none means without a body.
        "channel.reinvite" ChannelReinvite(Answer) -> Accepted;
        /// Send a key press by INFO.
        "channel.dtmf" ChannelDtmf(super::to_switchboard::Dtmf) -> Accepted;
        /// End a leg, whatever state it is in: BYE, CANCEL or a refusal. No `channel.hangup` comes back for it.
        "channel.hangup" ChannelHangup(super::to_switchboard::Ended) -> Accepted;
        /// A switchboard is, from now on or again, the owner of these legs: reports go to it, those that nobody has
        /// confirmed go to it anew, and requests with a lower fence are refused.
        "channel.adopt" ChannelAdopt(Adopt) -> Adopted;
    }}

    /// Parameters of `channel.adopt`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Adopt {
        /// The owner.
        pub switchboard: InstanceId,
        /// Its fence; lower ones are refused afterwards.
        pub fence: u64,
        /// The legs, each with its call.
        pub channels: Vec<(ChannelId, CallId)>,
    }

    /// Reply to `channel.adopt`: where each leg stands.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Adopted {
        /// In the order of the request.
        pub channels: Vec<(ChannelId, Phase)>,
    }

    /// Where a leg stands, as far as its owner must know.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Phase {
        /// It has ended, or was never here.
        Gone,
        /// Its first INVITE has no final response yet.
        Early,
        /// Answered.
        Answered,
    }

    /// Parameters of `channel.dial`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Dial {
        /// The new leg, named by the switchboard; its SIP Call-ID is the same.
        pub channel_id: ChannelId,
        /// The call.
        pub call_id: CallId,
        /// The switchboard that owns the call; everything about the channel is reported there.
        pub switchboard: InstanceId,
        /// Shown to the called phone.
        pub from: Party,
        /// The called party, for the To header.
        pub to: Party,
        /// Where the phone is.
        pub destination: Destination,
        /// The offer.
        pub sdp: Option<String>,
        /// Max-Forwards to send: that of the incoming leg, less one; loops end by it.
        pub max_forwards: u8,
    }

    /// A leg.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Channel {
        /// The leg.
        pub channel_id: ChannelId,
    }

    /// Parameters of `channel.progress`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Progress {
        /// The leg.
        pub channel_id: ChannelId,
        /// 180 to 199.
        pub sip_code: u16,
        /// The early answer.
        pub sdp: Option<String>,
    }

    /// Parameters of `channel.answer` and `channel.reinvite`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Answer {
        /// The leg.
        pub channel_id: ChannelId,
        /// The body.
        pub sdp: Option<String>,
    }

    /// Parameters of `channel.reject`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Reject {
        /// The leg.
        pub channel_id: ChannelId,
        /// 300 to 699.
        pub sip_code: u16,
        /// The reason phrase; none means the standard one.
        pub reason: Option<String>,
        /// Retry-After, for 503 and 480.
        pub retry_after_s: Option<u32>,
    }
}

/// What a media agent answers to the switchboard. Offer and answer after RFC 3264, one exchange at a time per stream.
pub mod to_media {
    use super::*;

    methods! { Media {
        /// Make a stream (ports, worker) and take the first step of its offer/answer exchange.
        "stream.create" StreamCreate(Create) -> Created;
        /// Take the next step of a stream's offer/answer exchange.
        "stream.update" StreamUpdate(Update) -> Negotiated;
        /// Close a stream and get its final statistics. Closing an unknown one is `business` error `unknown_stream`.
        "stream.destroy" StreamDestroy(Stream) -> StreamStats;
        /// Statistics of a living stream.
        "stream.stats" StreamGet(Stream) -> StreamStats;
        /// Let two streams of one call hear each other. Idempotent; replaces an earlier bridge of either.
        "bridge.create" BridgeCreate(Bridge) -> Accepted;
        /// Take two streams apart. Idempotent.
        "bridge.destroy" BridgeDestroy(Bridge) -> Accepted;
        /// A switchboard is, from now on or again, the owner of these streams: reports go to it, and requests with a
        /// lower fence are refused.
        "stream.adopt" StreamAdopt(AdoptStreams) -> AdoptedStreams;
    }}

    /// Parameters of `stream.adopt`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct AdoptStreams {
        /// The owner.
        pub switchboard: InstanceId,
        /// Its fence; lower ones are refused afterwards.
        pub fence: u64,
        /// The streams.
        pub streams: Vec<StreamId>,
    }

    /// Reply to `stream.adopt`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct AdoptedStreams {
        /// Those that this agent has.
        pub alive: Vec<StreamId>,
    }

    /// One step of offer/answer.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(tag = "step", rename_all = "snake_case")]
    pub enum Step {
        /// The peer offers. The reply has no SDP; `LocalAnswer` follows when the other leg is known.
        RemoteOffer {
            /// The offer.
            sdp: String,
        },
        /// We offer; the reply has the offer. With `mirror`, its codecs and direction are those of that stream's
        /// latest remote description; without, everything we can do.
        LocalOffer {
            /// The stream on the other leg.
            mirror: Option<StreamId>,
        },
        /// The peer answers our offer. No codec in common is `business` error `incompatible`. With no offer open it
        /// replaces the last answer: another fork downstream answered with a description of its own.
        RemoteAnswer {
            /// The answer.
            sdp: String,
        },
        /// We answer the peer's offer; the reply has the answer. With `mirror`, as the other leg answered; without, as
        /// we ourselves can (echo).
        LocalAnswer {
            /// The stream on the other leg.
            mirror: Option<StreamId>,
        },
        /// The open exchange failed (a refused re-INVITE): the session that was last agreed stays (RFC 3264 section 8).
        /// Idempotent; the reply has no SDP.
        Rollback,
    }

    /// What the dataplane does with what it hears, unless it is bridged.
    #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    pub enum Mode {
        /// Drop it, until a bridge is made.
        #[default]
        Bridge,
        /// Send it back: the echo service.
        Echo,
    }

    /// Parameters of `stream.create`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Create {
        /// The call; all its streams live on one worker.
        pub call_id: CallId,
        /// The leg.
        pub channel_id: ChannelId,
        /// The switchboard to report to.
        pub switchboard: InstanceId,
        /// What it is for.
        #[serde(default)]
        pub mode: Mode,
        /// The first step: `RemoteOffer` or `LocalOffer`.
        pub step: Step,
        /// Where the peer's SIP comes from, or is sent to (`ip:port`): decides which of our addresses it is told, and
        /// whether NAT is to be expected.
        pub source: Option<String>,
        /// The setting of the leg's extension; none for as the configuration says.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub srtp: Option<Srtp>,
    }

    /// Reply to `stream.create`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Created {
        /// The stream.
        pub stream_id: StreamId,
        /// The media agent that owns it; later requests go there.
        pub media: InstanceId,
        /// The SDP that the step made, if it makes one.
        pub sdp: Option<String>,
    }

    /// Parameters of `stream.update`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Update {
        /// The stream.
        pub stream_id: StreamId,
        /// The step.
        pub step: Step,
    }

    /// Reply to `stream.update`.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Negotiated {
        /// The SDP that the step made, if it makes one.
        pub sdp: Option<String>,
        /// Whether the peer holds us (`sendonly`, `inactive` or `0.0.0.0` in its last description).
        pub held: bool,
    }

    /// A stream.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Stream {
        /// The stream.
        pub stream_id: StreamId,
    }

    /// Two streams.
    #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
    pub struct Bridge {
        /// One.
        pub a: StreamId,
        /// The other.
        pub b: StreamId,
    }
}

/// What the world is told, published from the outbox in the order of each call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// The outbox row's number: rises by time, unique.
    pub sequence: i64,
    /// `call.started`, `call.answered`, `call.ended`, `registration.changed`, ...
    pub kind: String,
    /// What it is about: a call id, an address of record.
    pub subject: String,
    /// When it happened, Unix time.
    pub at_unix_ms: i64,
    /// The particulars, a JSON object.
    pub data: serde_json::Value,
}
