//! Requests about one leg to the switchboard, in order: one under way, the rest waits.
//!
//! The request under way runs in a task of its own and comes back to the actor as an input; a transient failure is
//! retried inside the deadline by the bus, under an idempotency key, so a report acts once. After that the leg ends.

use std::collections::VecDeque;
use std::time::Duration;

use nebula_bus::contract::to_switchboard::*;
use nebula_bus::contract::{ChannelId, InstanceId};
use nebula_bus::{Context, Error, Target};

use super::Input;
use super::core::Core;
use super::legs::LegKey;
use crate::channel::Report;

/// Reports of one leg that wait; beyond it key presses and provisional responses, of which a peer may send any number,
/// are dropped and counted. Of the others a leg makes only a few.
const WAITING_MAX: usize = 32;

/// Something to tell the switchboard.
#[derive(Debug)]
pub enum Message {
    /// The first one of an incoming leg.
    Invite(Box<Invite>),
    /// Any later one.
    Report(Report),
}

impl Message {
    fn is_at_the_peers_will(&self) -> bool {
        let Message::Report(report) = self else { return false };
        matches!(report, Report::Dtmf { .. } | Report::Ringing { .. } | Report::Progress { .. })
    }
}

/// How a request came out.
#[derive(Debug)]
pub struct Told {
    /// Which leg's.
    pub leg: LegKey,
    /// The reply to `channel.invite`, or nothing.
    pub result: Result<Option<Invited>, Error>,
    /// Whether the leg can live on if it failed.
    pub vital: bool,
}

/// One leg's requests.
#[derive(Debug)]
pub struct Outbox {
    channel_id: ChannelId,
    /// Who owns the call; none until `channel.invite` is answered.
    switchboard: Option<InstanceId>,
    waiting: VecDeque<Message>,
    busy: bool,
    sent: u32,
}

impl Outbox {
    /// For a leg whose call is owned by `switchboard`, if that is known.
    pub fn new(channel_id: ChannelId, switchboard: Option<InstanceId>) -> Self {
        Self { channel_id, switchboard, waiting: VecDeque::new(), busy: false, sent: 0 }
    }

    /// Who owns the call, if that is known.
    pub fn switchboard(&self) -> Option<&InstanceId> {
        self.switchboard.as_ref()
    }

    /// Nothing under way, nothing waiting.
    pub fn is_empty(&self) -> bool {
        !self.busy && self.waiting.is_empty()
    }

    /// Sends it, now or when those before it are through.
    pub fn push(&mut self, message: Message, leg: LegKey, core: &Core) {
        if self.waiting.len() >= WAITING_MAX && message.is_at_the_peers_will() {
            core.metrics.reports_dropped.increment(1);
            return;
        }
        self.waiting.push_back(message);
        self.send_next(leg, core);
    }

    /// The request under way was answered.
    pub fn told(&mut self, invited: Option<Invited>, leg: LegKey, core: &Core) {
        self.busy = false;
        if let Some(invited) = invited {
            self.switchboard = Some(invited.switchboard);
        }
        self.send_next(leg, core);
    }

    /// The request under way failed for good, and there is nobody to tell the rest to.
    pub fn give_up(&mut self) {
        self.busy = false;
        self.waiting.clear();
    }

    fn send_next(&mut self, leg: LegKey, core: &Core) {
        if self.busy {
            return;
        }
        let Some(message) = self.waiting.pop_front() else { return };
        self.busy = true;
        self.sent += 1;
        let vital = !matches!(message, Message::Report(Report::Dtmf { .. } | Report::Hangup(_)));
        let timeout = Duration::from_millis(core.options.rpc_timeout_ms.into());
        let context = Context::new(timeout).key(format!("{}/{}", self.channel_id, self.sent));
        let target = self.switchboard.clone().map_or(Target::Service, Target::Instance);
        let (bus, inputs, channel_id) = (core.bus.clone(), core.inputs.clone(), self.channel_id.clone());
        tokio::spawn(async move {
            let result = match message {
                Message::Invite(invite) => {
                    bus.call_retrying::<ChannelInvite>(&target, *invite, &context).await.map(Some)
                }
                Message::Report(report) => tell(&bus, &target, channel_id, report, &context).await.map(|()| None),
            };
            // The actor may be gone, at shutdown; then nobody needs to know.
            let _ = inputs.send(Input::Told(Told { leg, result, vital }));
        });
    }
}

async fn tell(
    bus: &nebula_bus::Bus,
    target: &Target,
    channel_id: ChannelId,
    report: Report,
    context: &Context,
) -> Result<(), Error> {
    let accepted = match report {
        Report::Ringing { code } => {
            let params = Provisional { channel_id, sip_code: code, sdp: None };
            bus.call_retrying::<ChannelRinging>(target, params, context).await
        }
        Report::Progress { code, sdp } => {
            let params = Provisional { channel_id, sip_code: code, sdp };
            bus.call_retrying::<ChannelProgress>(target, params, context).await
        }
        Report::Answered { sdp } => {
            bus.call_retrying::<ChannelAnswered>(target, Sdp { channel_id, sdp }, context).await
        }
        Report::Refused(cause) => {
            bus.call_retrying::<ChannelRefused>(target, Ended { channel_id, cause }, context).await
        }
        Report::Reinvite { sdp } => {
            bus.call_retrying::<ChannelReinvite>(target, Reinvite { channel_id, sdp }, context).await
        }
        Report::Acked { sdp } => bus.call_retrying::<ChannelAcked>(target, Sdp { channel_id, sdp }, context).await,
        Report::Dtmf { digit, duration_ms } => {
            bus.call_retrying::<ChannelDtmf>(target, Dtmf { channel_id, digit, duration_ms }, context).await
        }
        Report::Hangup(cause) => bus.call_retrying::<ChannelHangup>(target, Ended { channel_id, cause }, context).await,
    };
    accepted.map(drop)
}
