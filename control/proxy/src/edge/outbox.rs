//! Requests about one leg to the switchboard, in order: one under way, the rest waits.
//!
//! Each has a number and with it an idempotency key, so that it acts once however often it is sent. The request under way
//! runs in a task of its own and comes back to the actor as an input. `channel.invite` has a short time, for a caller
//! waits; a report that fails for a reason that may pass is sent again, with growing pauses, for as long as the leg has an
//! owner or may get a new one: through a switchboard's restart, its end, and a bus that is away. An answer and an end say
//! each time how long ago they were, so that the record has the moment, whenever it is told.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_bus::contract::to_switchboard::*;
use nebula_bus::contract::{CallId, ChannelId, InstanceId};
use nebula_bus::error::code;
use nebula_bus::{Context, Error, Target};
use nebula_sip::snapshot::Resume;
use serde::{Deserialize, Serialize};

use super::Input;
use super::core::Core;
use super::held::HOLD_MAX;
use super::legs::LegKey;
use crate::channel::Report;

/// Reports of one leg that wait; beyond it key presses and provisional responses, of which a peer may send any number,
/// are dropped and counted. Of the others a leg makes only a few.
const WAITING_MAX: usize = 32;
/// The first pause before a report is sent again; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause: what healing may take after a switchboard or the bus came back.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Something to tell the switchboard.
#[derive(Debug, Clone)]
pub enum Message {
    /// The first one of an incoming leg.
    Invite(Arc<Invite>),
    /// Any later one.
    Report(Report),
}

impl Message {
    fn is_at_the_peers_will(&self) -> bool {
        let Message::Report(report) = self else { return false };
        matches!(report, Report::Dtmf { .. } | Report::Ringing { .. } | Report::Progress { .. })
    }

    /// Whether the leg cannot go on if the switchboard does not take it.
    fn is_vital(&self) -> bool {
        !matches!(self, Message::Report(Report::Dtmf { .. } | Report::Hangup(_)))
    }
}

/// A request and its number, which makes its idempotency key.
#[derive(Debug)]
struct Numbered {
    number: u32,
    /// When it happened.
    at: Instant,
    message: Message,
}

/// What of an outbox outlives its process: the owner, and the reports that nobody has confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    switchboard: Option<InstanceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call_id: Option<CallId>,
    /// How many requests were numbered.
    numbered: u32,
    waiting: Vec<(u32, Report)>,
    /// How old each of these was when this was saved.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    ages_ms: Vec<u64>,
}

/// How a request came out.
#[derive(Debug)]
pub struct Told {
    /// Which leg's.
    pub leg: LegKey,
    /// Which attempt of its outbox.
    pub attempt: u32,
    /// The reply to `channel.invite`, or nothing.
    pub result: Result<Option<Invited>, Error>,
}

/// What came of a request.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing: the attempt had been given up.
    Stale,
    /// It was taken; the reply to `channel.invite`, if it was that.
    Taken(Option<Invited>),
    /// It is sent again later.
    Again(Error),
    /// It was refused for good, but the leg can live with that.
    Passed(Error),
    /// The leg cannot go on.
    Fatal(Error),
}

/// One leg's requests.
#[derive(Debug)]
pub struct Outbox {
    channel_id: ChannelId,
    /// Who owns the call; none until `channel.invite` is answered.
    switchboard: Option<InstanceId>,
    /// The call, as far as it is known.
    call_id: Option<CallId>,
    /// The first one is the one under way, if `busy`.
    waiting: VecDeque<Numbered>,
    busy: bool,
    numbered: u32,
    /// Counts attempts, so that one that was given up is known when it comes back.
    attempt: u32,
    pause: Duration,
    again_at: Option<Instant>,
}

impl Outbox {
    /// For a leg of a call, owned by a switchboard, if that is known.
    pub fn new(channel_id: ChannelId, owner: Option<(InstanceId, CallId)>) -> Self {
        let (switchboard, call_id) = owner.unzip();
        Self {
            channel_id,
            switchboard,
            call_id,
            waiting: VecDeque::new(),
            busy: false,
            numbered: 0,
            attempt: 0,
            pause: PAUSE_MIN,
            again_at: None,
        }
    }

    /// As it was saved; nothing is sent before the next push or [`Outbox::wake`].
    pub fn restored(channel_id: ChannelId, saved: Saved, resume: &Resume) -> Self {
        let ages = saved.ages_ms.into_iter().chain(std::iter::repeat(0)).map(Duration::from_millis);
        let numbered = |((number, report), age): ((u32, Report), Duration)| {
            let at = resume.now.checked_sub(resume.elapsed.saturating_add(age)).unwrap_or(resume.now);
            Numbered { number, at, message: Message::Report(report) }
        };
        Self {
            switchboard: saved.switchboard,
            call_id: saved.call_id,
            waiting: saved.waiting.into_iter().zip(ages).map(numbered).collect(),
            numbered: saved.numbered,
            ..Self::new(channel_id, None)
        }
    }

    /// For the snapshot. An unanswered `channel.invite` is not kept: its caller is refused at a restart.
    pub fn save(&self, now: Instant) -> Saved {
        let report = |numbered: &Numbered| match &numbered.message {
            Message::Report(report) => Some(((numbered.number, report.clone()), age_ms(numbered.at, now))),
            Message::Invite(_) => None,
        };
        let (waiting, ages_ms) = self.waiting.iter().filter_map(report).unzip();
        Saved {
            switchboard: self.switchboard.clone(),
            call_id: self.call_id.clone(),
            numbered: self.numbered,
            waiting,
            ages_ms,
        }
    }

    /// Who owns the call, if that is known.
    pub fn switchboard(&self) -> Option<&InstanceId> {
        self.switchboard.as_ref()
    }

    /// Nothing under way, nothing waiting.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// When [`Outbox::wake`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.again_at
    }

    /// Sends it, now or when those before it are through.
    pub fn push(&mut self, message: Message, leg: LegKey, core: &Core) {
        if self.waiting.len() >= WAITING_MAX && message.is_at_the_peers_will() {
            core.metrics.reports_dropped.increment(1);
            return;
        }
        self.queue(message, core);
        self.send_next(leg, core);
    }

    /// Gives it its number; it is sent with the next push or [`Outbox::wake`].
    pub fn queue(&mut self, message: Message, core: &Core) {
        self.numbered += 1;
        self.waiting.push_back(Numbered { number: self.numbered, at: core.came_at, message });
    }

    /// Sends again what is due.
    pub fn wake(&mut self, leg: LegKey, core: &Core, now: Instant) {
        if self.again_at.is_none_or(|at| at <= now) {
            self.again_at = None;
            self.send_next(leg, core);
        }
    }

    /// Another switchboard, or the same one anew, owns the call: it gets what nobody has confirmed.
    pub fn adopted(&mut self, switchboard: InstanceId, call_id: CallId, leg: LegKey, core: &Core) {
        (self.switchboard, self.call_id) = (Some(switchboard), Some(call_id));
        // Whoever knows the leg has had its INVITE.
        self.waiting.retain(|numbered| matches!(numbered.message, Message::Report(_)));
        self.attempt = self.attempt.wrapping_add(1);
        (self.busy, self.again_at, self.pause) = (false, None, PAUSE_MIN);
        self.send_next(leg, core);
    }

    /// Asks the owner whether it still has the call. The answer comes back as an input.
    pub fn ask_after(&self, leg: LegKey, core: &Core) {
        let (Some(owner), Some(call_id)) = (&self.switchboard, &self.call_id) else { return };
        let context = Context::new(Duration::from_millis(core.options.rpc_timeout_ms.into()));
        let asked =
            core.bus.call::<CallGet>(&Target::Instance(owner.clone()), GetCall { call_id: call_id.clone() }, &context);
        let inputs = core.inputs.clone();
        tokio::spawn(async move {
            let result = asked.await.map(drop);
            // The actor may be gone, at shutdown; then nobody needs to know.
            let _ = inputs.send(Input::AskedAfter { leg, result });
        });
    }

    /// The request under way came back.
    pub fn told(&mut self, told: Told, core: &Core, now: Instant) -> Outcome {
        if !self.busy || told.attempt != self.attempt {
            return Outcome::Stale;
        }
        self.busy = false;
        let is_invite = self.waiting.front().is_some_and(|front| matches!(front.message, Message::Invite(_)));
        let outcome = match told.result {
            Err(error) if error.is_transient() && !is_invite => {
                let named = error.retry_after_s.map(|seconds| Duration::from_secs(seconds.into()).min(PAUSE_MAX));
                self.again_at = Some(now + named.unwrap_or(self.pause));
                self.pause = (self.pause * 2).min(PAUSE_MAX);
                core.metrics.reports_retried.increment(1);
                return Outcome::Again(error);
            }
            Err(error) if self.waiting.front().is_some_and(|front| front.message.is_vital()) => {
                return Outcome::Fatal(error);
            }
            Err(error) => Outcome::Passed(error),
            Ok(invited) => {
                if let Some(invited) = &invited {
                    self.switchboard = Some(invited.switchboard.clone());
                    self.call_id = Some(invited.call_id.clone());
                }
                Outcome::Taken(invited)
            }
        };
        self.waiting.pop_front();
        self.pause = PAUSE_MIN;
        self.send_next(told.leg, core);
        outcome
    }

    /// There is nobody to tell anything to.
    pub fn give_up(&mut self) {
        self.attempt = self.attempt.wrapping_add(1);
        (self.busy, self.again_at) = (false, None);
        self.waiting.clear();
    }

    fn send_next(&mut self, leg: LegKey, core: &Core) {
        if self.busy || self.again_at.is_some() {
            return;
        }
        let Some(Numbered { number, at, message }) = self.waiting.front() else { return };
        let target = match (&self.switchboard, message) {
            (Some(owner), _) => Target::Instance(owner.clone()),
            (None, Message::Invite(_)) => Target::Service,
            // The INVITE that would have named an owner has failed.
            (None, Message::Report(_)) => return self.waiting.clear(),
        };
        self.busy = true;
        self.attempt = self.attempt.wrapping_add(1);
        let options = &core.options;
        let timeout_ms = match message {
            Message::Invite(_) => options.invite_timeout_ms,
            Message::Report(_) => options.rpc_timeout_ms,
        };
        let context =
            Context::new(Duration::from_millis(timeout_ms.into())).key(format!("{}/{number}", self.channel_id));
        let (bus, inputs, channel_id) = (core.bus.clone(), core.inputs.clone(), self.channel_id.clone());
        let (message, at, attempt) = (message.clone(), *at, self.attempt);
        let snapshots = core.snapshots.clone();
        tokio::spawn(async move {
            let result = match message {
                Message::Invite(invite) => {
                    // Once the leg is kept: a phone that repeats its INVITE to the next process is then known there, and
                    // its call is no second one. With the keep away it goes all the same.
                    let _ = tokio::time::timeout(HOLD_MAX, snapshots.flush()).await;
                    ask(&bus, &target, &invite, &context).await.map(Some)
                }
                Message::Report(report) => tell(&bus, &target, channel_id, report, at, &context).await.map(|()| None),
            };
            // The actor may be gone, at shutdown; then nobody needs to know.
            let _ = inputs.send(Input::Told(Told { leg, attempt, result }));
        });
    }
}

/// `channel.invite`: tried again while there is time, unless it is plain that nobody can be reached.
async fn ask(bus: &nebula_bus::Bus, target: &Target, invite: &Invite, context: &Context) -> Result<Invited, Error> {
    let mut pause = PAUSE_MIN;
    loop {
        let error = match bus.call::<ChannelInvite>(target, invite.clone(), context).await {
            Ok(invited) => return Ok(invited),
            Err(error) => error,
        };
        let may_pass = error.is_transient() && !error.is(code::UNAVAILABLE) && error.retry_after_s.is_none();
        if !may_pass || context.remaining() <= pause {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
}

async fn tell(
    bus: &nebula_bus::Bus,
    target: &Target,
    channel_id: ChannelId,
    report: Report,
    at: Instant,
    context: &Context,
) -> Result<(), Error> {
    let age_ms = age_ms(at, Instant::now());
    let accepted = match report {
        Report::Ringing { code } => {
            let params = Provisional { channel_id, sip_code: code, sdp: None };
            bus.call::<ChannelRinging>(target, params, context).await
        }
        Report::Progress { code, sdp } => {
            let params = Provisional { channel_id, sip_code: code, sdp };
            bus.call::<ChannelProgress>(target, params, context).await
        }
        Report::Answered { sdp } => {
            bus.call::<ChannelAnswered>(target, Answered { channel_id, sdp, age_ms }, context).await
        }
        Report::Refused(cause) => bus.call::<ChannelRefused>(target, Ended { channel_id, cause }, context).await,
        Report::Reinvite { sdp } => bus.call::<ChannelReinvite>(target, Reinvite { channel_id, sdp }, context).await,
        Report::Acked { sdp } => bus.call::<ChannelAcked>(target, Sdp { channel_id, sdp }, context).await,
        Report::Dtmf { digit, duration_ms } => {
            bus.call::<ChannelDtmf>(target, Dtmf { channel_id, digit, duration_ms }, context).await
        }
        Report::Hangup(cause) => bus.call::<ChannelHangup>(target, HungUp { channel_id, cause, age_ms }, context).await,
    };
    accepted.map(drop)
}

fn age_ms(at: Instant, now: Instant) -> u64 {
    u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX)
}
