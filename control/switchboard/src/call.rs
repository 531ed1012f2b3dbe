//! The call machine, sans-IO: what came in, where the call stands, what to do next.
//!
//! A [`Call`] is a back-to-back user agent (RFC 3261 section 6): one incoming leg, the caller, and one outgoing leg per
//! registered binding of the callee. They ring together; the first 2xx wins. The shell hands in each [`Input`] with the
//! time and carries out the [`Effect`]s; nothing here waits, sends, reads a clock or draws a random number. A call
//! costs a few hundred bytes and no allocation per input but the messages themselves.
//!
//! # States
//!
//! | state | input | what happens | next |
//! |---|---|---|---|
//! | `Routing` | row written, caller's stream made, bindings found | a stream per binding; then dial each | `Dialling` |
//! | | no binding | 480 to the caller | `Ending` |
//! | | the same for a service | answer the caller from the service | `Answered` |
//! | `Dialling` | fork's stream made | `channel.dial` | |
//! | | 1xx | `channel.ring` to the caller, once | `Ringing` |
//! | | 1xx with SDP | join fork and caller, `channel.progress` | `Ringing` |
//! | | 2xx | hang up the other forks, join | `Answering` |
//! | | the last fork failed | the best of the codes to the caller | `Ending` |
//! | | no-answer time over | 480 to the caller, CANCEL to the forks | `Ending` |
//! | `Ringing` | as in `Dialling`, without a second 180 | | |
//! | `Answering` | joined | `channel.answer` to the caller | `Answered` |
//! | | cannot be joined | 488 or 5xx to the caller, BYE to the callee | `Ending` |
//! | `Answered` | re-INVITE, UPDATE | one change (`call/change.rs`) at a time, 491 to a second | |
//! | | key press | `channel.dtmf` to the peer | |
//! | | RTP timeout, dataplane lost, longest duration | hang up both | `Ending` |
//! | any before `Ending` | a party leaves, an operator hangs up | hang up or refuse every leg | `Ending` |
//! | `Ending` | last stream's statistics came | the CDR | |
//! | | nothing under way any more | | `Ended` |
//!
//! Late, doubled and unknown inputs fall through the table and change nothing; a 2xx on a leg that was hung up is hung
//! up again, since the two may have crossed.
//!
//! A call outlives its process: `call/snapshot.rs` says how it is kept, `call/resume.rs` how it is taken up again. An
//! answer `fenced` means that somebody else did so: the call is dropped here without a trace.

mod change;
mod end;
mod leg;
mod message;
mod response;
mod resume;
mod setup;
mod snapshot;
#[cfg(test)]
mod tests;

use nebula_bus::contract::{
    CallId, Cause, CauseKind, ChannelId, EndedBy, InstanceId, StreamId,
    to_media::Mode,
    to_switchboard::{CallView, Invite},
};

use serde::{Deserialize, Serialize};

use crate::services::{self, Service};
pub use change::Change;
pub use leg::{Leg, LegIndex, Media, Sip};
pub use message::{
    Asked, ChannelEvent, Effect, Failure, Input, Now, Patience, Record, Reply, Request, Route, RpcId, To,
};
pub use snapshot::{KIND, VERSION};

/// The caller's leg is the first; the others are forks.
pub(crate) const CALLER: LegIndex = LegIndex(0);
/// Bindings of one extension that ring at once; further ones are not tried.
pub const FORKS_MAX: usize = 16;
/// A re-INVITE of ours without a final response for so long has failed: longer than timer B (32 s).
const CHANGE_TIMEOUT_MS: u64 = 40_000;
/// A re-INVITE of our own waits so long for the ACK to the last answer, and again after a 491 (RFC 3261 section 14.1).
const REOFFER_PAUSE_MS: u64 = 1_000;
/// Re-INVITEs of our own that one call may try.
const REOFFERS_MAX: u8 = 8;
/// When a caller that got 503 may try again.
pub(crate) const RETRY_AFTER_S: u32 = 5;

/// Where a call stands; the table in the module's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The caller's stream, the row and the bindings are awaited.
    Routing,
    /// The forks are being called; the caller has heard nothing yet.
    Dialling,
    /// The caller hears ringing or early media.
    Ringing,
    /// A fork answered; its media and the caller's are being joined.
    Answering,
    /// Both talk.
    Answered,
    /// Every leg is told; statistics are being collected.
    Ending,
    /// Nothing is under way any more.
    Ended,
}

impl State {
    /// The name operators see.
    pub const fn name(self) -> &'static str {
        match self {
            State::Routing => "routing",
            State::Dialling => "dialling",
            State::Ringing => "ringing",
            State::Answering => "answering",
            State::Answered => "answered",
            State::Ending => "ending",
            State::Ended => "ended",
        }
    }
}

/// The times a call is held to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How long forks ring before the caller gets 480.
    pub no_answer_ms: u64,
    /// How long a call may last after its answer.
    pub duration_ms_max: u64,
    /// How long a call waits for its lost dataplane to come back.
    pub dataplane_grace_ms: u64,
}

/// How and when a call ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Why.
    pub cause: Cause,
    /// Who ended it.
    pub by: EndedBy,
    /// When, on the monotonic clock.
    pub at_ms: u64,
}

/// What `Routing` waits for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Awaited {
    /// The row of the call is in the database.
    recorded: bool,
    /// The bindings of the callee, once looked up.
    routes: Option<Vec<Route>>,
}

/// A fork's media being joined with the caller's, for early media or for good.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Join {
    leg: LegIndex,
    /// The 1xx that asked for it; none when a 2xx did.
    progress: Option<u16>,
}

/// Moments at which the machine wants to be woken, monotonic ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Deadlines {
    #[serde(skip_serializing_if = "Option::is_none")]
    no_answer: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dataplane: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    change: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reoffer: Option<u64>,
    /// The report of a leg that ended unseen is waited for so long.
    #[serde(skip_serializing_if = "Option::is_none")]
    gone: Option<u64>,
    /// Nobody speaks: for so long a party may still turn out to have hung up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    silence: Option<u64>,
}

/// One call: plain data, driven by [`Call::handle`].
#[derive(Debug, Clone)]
pub struct Call {
    id: CallId,
    switchboard: InstanceId,
    timing: Timing,
    service: Option<Service>,
    invite: Invite,
    /// The INVITE had no SDP: we offer in the 200, the answer comes with the ACK.
    late_offer: bool,
    state: State,
    legs: Vec<Leg>,
    awaited: Awaited,
    join: Option<Join>,
    /// The fork that answered, and the SDP of its 2xx until it is applied.
    winner: Option<LegIndex>,
    winner_sdp: Option<String>,
    /// The fork whose early answer the caller's answer was made from.
    early: Option<LegIndex>,
    /// The fork the caller is bridged to.
    bridged: Option<LegIndex>,
    /// The SDP the caller was or will be answered with.
    caller_sdp: Option<String>,
    /// The caller's early answer does not fit the winner: offer anew once answered.
    reoffer: bool,
    change: Option<Change>,
    change_last: u32,
    /// Who is to be offered the session anew when the pause is over.
    reoffer_due: Option<LegIndex>,
    reoffers_left: u8,
    /// A re-INVITE of ours to this leg was given up: a late 2xx leaves it in a session that its peer is not in.
    owed: Option<LegIndex>,
    asked: Vec<(RpcId, Asked)>,
    rpc_last: u32,
    started: Now,
    answered_ms: Option<u64>,
    /// The callee's 2xx came.
    callee_answered_ms: Option<u64>,
    deadlines: Deadlines,
    end: Option<End>,
    filed: bool,
    /// It was taken up from a snapshot and its legs are still being asked for.
    adoption: Option<resume::Adoption>,
    /// Somebody else owns it now.
    disowned: bool,
    /// What the last snapshot looked like; see `snapshot_due`.
    kept_shape: u64,
}

impl Call {
    /// A call for an INVITE, with its first effects: the row, the caller's stream and the look-up, all at once.
    pub fn start(
        id: CallId,
        switchboard: InstanceId,
        timing: Timing,
        mut invite: Invite,
        now: Now,
        out: &mut Vec<Effect>,
    ) -> Call {
        let offer = invite.sdp.take();
        let mut call = Call {
            service: services::find(&invite.to),
            late_offer: offer.is_none(),
            legs: vec![Leg::caller(invite.channel_id.clone(), invite.proxy.clone())],
            id,
            switchboard,
            timing,
            invite,
            state: State::Routing,
            awaited: Awaited::default(),
            join: None,
            winner: None,
            winner_sdp: None,
            early: None,
            bridged: None,
            caller_sdp: None,
            reoffer: false,
            change: None,
            change_last: 0,
            reoffer_due: None,
            reoffers_left: REOFFERS_MAX,
            owed: None,
            asked: Vec::with_capacity(4),
            rpc_last: 0,
            started: now,
            answered_ms: None,
            callee_answered_ms: None,
            deadlines: Deadlines::default(),
            end: None,
            filed: false,
            adoption: None,
            disowned: false,
            kept_shape: 0,
        };
        Turn::of(&mut call, now, out).start(offer);
        call
    }

    /// Takes one input in and appends what is to be done. Inputs of one call are handed in one after the other.
    pub fn handle(&mut self, now: Now, input: Input, out: &mut Vec<Effect>) {
        debug_assert!(now.monotonic_ms >= self.started.monotonic_ms);
        let mut turn = Turn::of(self, now, out);
        turn.take(input);
        turn.settle();
    }

    /// When `Input::Timeout` is due, monotonic ms.
    pub fn deadline_ms(&self) -> Option<u64> {
        let Deadlines { no_answer, duration, dataplane, change, reoffer, gone, silence } = self.deadlines;
        [no_answer, duration, dataplane, change, reoffer, gone, silence].into_iter().flatten().min()
    }

    /// The call's name.
    pub fn id(&self) -> &CallId {
        &self.id
    }

    /// Where it stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Its legs, the caller's first.
    pub fn legs(&self) -> &[Leg] {
        &self.legs
    }

    /// The INVITE that made it, without its SDP.
    pub fn invite(&self) -> &Invite {
        &self.invite
    }

    /// The switchboard that runs it.
    pub fn switchboard(&self) -> &InstanceId {
        &self.switchboard
    }

    /// Whether a leg is one of the two that talk (or would).
    pub fn talks(&self, leg: usize) -> bool {
        leg == 0 || self.winner == Some(LegIndex::from(leg))
    }

    /// When it began.
    pub fn started(&self) -> Now {
        self.started
    }

    /// When the caller was answered, monotonic ms.
    pub fn answered_ms(&self) -> Option<u64> {
        self.answered_ms
    }

    /// Somebody else owns it now: it has ended here, without a record.
    pub fn is_disowned(&self) -> bool {
        self.disowned
    }

    /// How it ended; none while it lives.
    pub fn ended(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Unix time of a moment of this call: the start plus monotonic time, so that a set clock cannot bend a record.
    pub fn unix_ms(&self, monotonic_ms: u64) -> i64 {
        self.started.unix_ms.saturating_add_unsigned(monotonic_ms.saturating_sub(self.started.monotonic_ms))
    }

    /// Whether a stream of this name belongs to it, or may: one of its streams is still being made.
    pub fn may_own(&self, stream_id: &StreamId) -> bool {
        self.legs.iter().any(|leg| matches!(leg.media, Media::Creating) || leg.stream_id() == Some(stream_id))
    }

    /// The call as operators see it.
    pub fn view(&self) -> CallView {
        CallView {
            call_id: self.id.clone(),
            state: self.state.name().to_owned(),
            from: self.invite.from.clone(),
            to: self.invite.to.clone(),
            started_unix_ms: self.started.unix_ms,
            answered_unix_ms: self.answered_ms.map(|at| self.unix_ms(at)),
            channels: self.legs.iter().map(|leg| leg.channel_id.clone()).collect(),
            streams: self.legs.iter().filter_map(Leg::stream_id).cloned().collect(),
        }
    }

    fn mode(&self) -> Mode {
        match self.service {
            Some(Service::Echo) => Mode::Echo,
            None => Mode::Bridge,
        }
    }

    fn leg(&self, index: LegIndex) -> &Leg {
        &self.legs[index.0 as usize]
    }

    fn leg_mut(&mut self, index: LegIndex) -> &mut Leg {
        &mut self.legs[index.0 as usize]
    }

    fn find_leg(&self, channel_id: &ChannelId) -> Option<LegIndex> {
        self.legs.iter().position(|leg| leg.channel_id == *channel_id).map(LegIndex::from)
    }

    /// The other talking party; none in a service.
    fn peer(&self, index: LegIndex) -> Option<LegIndex> {
        if index == CALLER { self.winner } else { Some(CALLER) }
    }

    fn forks(&self) -> impl Iterator<Item = LegIndex> + use<> {
        (1..self.legs.len()).map(LegIndex::from)
    }
}

/// A call, the time, and where effects go: what every transition needs.
pub(crate) struct Turn<'a> {
    call: &'a mut Call,
    now: Now,
    /// When what is being handled happened, monotonic ms: now, or before if it was told late.
    happened_ms: u64,
    out: &'a mut Vec<Effect>,
}

impl<'a> Turn<'a> {
    fn of(call: &'a mut Call, now: Now, out: &'a mut Vec<Effect>) -> Self {
        Turn { call, now, happened_ms: now.monotonic_ms, out }
    }

    /// The table: which transition an input is, in which state.
    fn take(&mut self, input: Input) {
        use State::*;
        let input = match input {
            Input::Reply { result: Err(Failure::Fenced), .. } | Input::Disowned => return self.disown(),
            Input::Reply { id, result } => return self.reply(id, result),
            Input::Adopted { channels } => return self.adopted(&channels),
            Input::ProxyGone { proxy } => return self.proxy_gone(&proxy),
            Input::MediaGone { media } => return self.media_gone(&media),
            Input::Timeout => return self.timeout(),
            Input::Channel { channel_id, age_ms, event } => {
                let Some(leg) = self.call.find_leg(&channel_id) else { return };
                let at_ms = self.now.monotonic_ms.saturating_sub(age_ms);
                self.happened_ms = at_ms.max(self.call.started.monotonic_ms);
                return self.channel(leg, event);
            }
            other => other,
        };
        match (self.call.state, input) {
            (Ended | Ending, _) => {}
            (Routing, Input::Recorded(result)) => self.recorded(result),
            (Routing, Input::Located(result)) => self.located(result),
            (Answered, Input::StreamTimeout { stream_id }) => self.stream_timeout(&stream_id),
            (_, Input::DataplaneLost { media }) => self.dataplane_lost(&media),
            (_, Input::DataplaneBack { media, alive }) => self.dataplane_back(&media, &alive),
            (_, Input::StreamsAdopted { media, alive }) => self.streams_adopted(&media, &alive),
            (_, Input::Hangup { cause }) => self.end(cause, EndedBy::System),
            _ => {}
        }
    }

    /// The same for what a phone did.
    fn channel(&mut self, leg: LegIndex, event: ChannelEvent) {
        use ChannelEvent as On;
        use State::*;
        match self.call.leg(leg).sip {
            // Nothing can come from a leg that was not dialled.
            Sip::Idle => return,
            // Our hang-up and the phone's 2xx crossed.
            Sip::Gone if matches!(event, On::Answered { .. }) => return self.hang_up(leg, response::elsewhere()),
            Sip::Gone => return,
            Sip::Inviting | Sip::Answered => {}
        }
        let fork = leg != CALLER;
        match (self.call.state, event) {
            (Ended | Ending, _) => {}
            (_, On::Hangup { cause }) => self.left(leg, cause),
            // Taken up before its answer: it is being ended, unless the caller turns out to be answered.
            (Routing | Dialling | Ringing | Answering, _) if self.call.adoption.is_some() => {}
            (Dialling | Ringing, On::Provisional { sip_code, sdp }) if fork => self.provisional(leg, sip_code, sdp),
            (Dialling | Ringing, On::Answered { sdp }) if fork => self.fork_answered(leg, sdp),
            (Answered, On::Answered { sdp }) => self.change_answered(leg, sdp),
            (Answered, On::Refused { cause }) => self.change_refused(leg, &cause),
            (Answered, On::Acked { sdp }) => self.change_acked(leg, sdp),
            (Answered, On::Dtmf { digit, duration_ms }) => self.dtmf(leg, digit, duration_ms),
            (_, On::Reinvite { sdp }) => self.reinvite(leg, sdp),
            _ => {}
        }
    }

    /// The end of something we asked for: matched by what it was, then by the state.
    fn reply(&mut self, id: RpcId, result: Result<Reply, Failure>) {
        let Some(at) = self.call.asked.iter().position(|(asked, _)| *asked == id) else { return };
        let (_, asked) = self.call.asked.swap_remove(at);
        match (asked, result) {
            (Asked::Create(leg), result) => self.created(leg, result),
            (Asked::Destroy(leg), result) => self.destroyed(leg, result),
            (_, _) if self.call.end.is_some() => {}
            (Asked::Dial(leg), Err(failure)) => self.dial_failed(leg, failure),
            (Asked::JoinRemote(leg), result) => self.join_remote_done(leg, result),
            (Asked::JoinCaller(leg), result) => self.join_caller_done(leg, result),
            (Asked::Bridge(leg), Err(failure)) => self.bridge_failed(leg, failure),
            (Asked::Answer, Err(failure)) => self.end(failure.cause(), EndedBy::System),
            (Asked::AnswerChange(leg), Err(failure)) => self.answer_change_failed(leg, failure),
            (Asked::Change { number, step }, result) => self.change_done(number, step, result),
            (Asked::TellLeg(leg), Err(Failure::Unknown)) => self.leg_unknown(leg),
            (Asked::Dial(_) | Asked::Bridge(_) | Asked::Answer | Asked::AnswerChange(_), Ok(_)) => {}
            (Asked::Tell | Asked::TellLeg(_), _) => {}
        }
    }

    fn timeout(&mut self) {
        let now_ms = self.now.monotonic_ms;
        let over = |deadline: &mut Option<u64>| deadline.take_if(|at| *at <= now_ms).is_some();
        let deadlines = &mut self.call.deadlines;
        let (no_answer, duration) = (over(&mut deadlines.no_answer), over(&mut deadlines.duration));
        let (dataplane, change) = (over(&mut deadlines.dataplane), over(&mut deadlines.change));
        let (reoffer, gone) = (over(&mut deadlines.reoffer), over(&mut deadlines.gone));
        let silence = over(&mut deadlines.silence);
        if gone {
            self.gone_unseen();
        }
        if no_answer {
            self.end(response::cause(480, CauseKind::NoAnswer, "no answer"), EndedBy::System);
        } else if dataplane {
            self.end(response::cause(500, CauseKind::Crash, "dataplane lost"), EndedBy::System);
        } else if duration {
            self.end(response::cause(200, CauseKind::Administrative, "longest duration reached"), EndedBy::System);
        } else if silence {
            self.silence_lasted();
        } else {
            if change {
                self.change_timeout();
            }
            if reoffer {
                self.reoffer_due();
            }
        }
    }

    fn dtmf(&mut self, leg: LegIndex, digit: char, duration_ms: u32) {
        let Some(peer) = self.call.peer(leg) else { return };
        self.tell(peer, |channel_id| Request::Dtmf(message::dtmf(channel_id, digit, duration_ms)));
    }

    fn ask(&mut self, leg: LegIndex, asked: Asked, to: To, request: Request) {
        self.call.rpc_last += 1;
        let id = RpcId(self.call.rpc_last);
        self.call.asked.push((id, asked));
        self.out.push(Effect::Rpc { id, leg, to, request });
    }

    /// Asks the proxy of a leg.
    fn ask_proxy(&mut self, leg: LegIndex, asked: Asked, request: impl FnOnce(ChannelId) -> Request) {
        let Leg { proxy, channel_id, .. } = self.call.leg(leg);
        let (to, request) = (To::Proxy(proxy.clone()), request(channel_id.clone()));
        self.ask(leg, asked, to, request);
    }

    /// Asks the proxy of a leg for something whose failure needs no action: the leg's own end will be reported, unless its
    /// proxy has died and knows nothing of it any more.
    fn tell(&mut self, leg: LegIndex, request: impl FnOnce(ChannelId) -> Request) {
        self.ask_proxy(leg, Asked::TellLeg(leg), request);
    }

    /// Asks the media agent that owns the stream of a leg; only for legs whose stream is open.
    fn ask_media(&mut self, leg: LegIndex, asked: Asked, request: impl FnOnce(StreamId) -> Request) {
        let Media::Open { stream_id, media } = &self.call.leg(leg).media else {
            debug_assert!(false, "{leg:?} has no stream for {asked:?}");
            return;
        };
        let (to, request) = (To::Media(Some(media.clone())), request(stream_id.clone()));
        self.ask(leg, asked, to, request);
    }
}
