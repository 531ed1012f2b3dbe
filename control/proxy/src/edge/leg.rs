//! A leg: the channel machine with its dialogs, its open request and its outbox. Carries the machine's acts out as SIP
//! messages and requests to the switchboard.
//!
//! RFC 3261 12 and 13, RFC 3262, 3311, 4028, 6086, 3326 (Reason).

use std::time::Instant;

use bytes::Bytes;
use nebula_bus::Error;
use nebula_bus::contract::to_proxy::Phase;
use nebula_bus::contract::{Cause, CauseKind};
use nebula_bus::error::code;
use nebula_sip::dialog::{Dialog, Forks};
use nebula_sip::message::ByteStr;
use nebula_sip::session_timer::{self, Offer, Refresher};
use nebula_sip::transaction::{RequestError, TransactionId};
use nebula_sip::{Flow, Method, Name, Request, Response, StatusCode};

use super::core::{Core, Owner, SDP_TYPE, SUPPORTED};
use super::legs::LegKey;
use super::outbox::{Message, Outbox};
use super::snapshot;
use crate::admission::ALLOW;
use crate::channel::{self, Act, Channel, Failure, Peer, Reply, Report, Sent, State, Weight, dtmf, weight};

/// Which side of the INVITE we are, and the dialogs that came of it.
#[derive(Debug)]
pub enum Side {
    /// The phone called.
    Uas(Box<Dialog>),
    /// We call the phone.
    Uac(Box<Uac>),
}

/// What an INVITE of ours needs.
#[derive(Debug)]
pub struct Uac {
    /// Its transaction; none if it did not outlive a restart.
    pub invite: Option<TransactionId>,
    /// The INVITE as it was sent, for a second try with a longer session interval; there is none after a restart.
    pub request: Option<Request>,
    /// Its dialogs; none once no response can come any more.
    pub forks: Option<Forks>,
    /// The fork that was heard last: what we send before the answer goes there.
    pub fork: Option<ByteStr>,
    /// The dialog, once answered.
    pub dialog: Option<Dialog>,
    /// Whether the session interval was raised after a 422.
    pub raised: bool,
}

impl Side {
    /// The dialog, once there is one for good; before that the early one of this fork, or of the fork heard last.
    fn dialog(&mut self, fork: Option<&str>) -> Option<&mut Dialog> {
        let uac = match self {
            Side::Uas(dialog) => return Some(dialog),
            Side::Uac(uac) => uac,
        };
        if uac.dialog.is_some() {
            return uac.dialog.as_mut();
        }
        uac.forks.as_mut()?.early_mut(fork.or(uac.fork.as_deref())?)
    }
}

/// A request of the peer that waits for its final response.
#[derive(Debug)]
pub struct Open {
    /// Its transaction.
    pub id: TransactionId,
    /// It.
    pub request: Box<Request>,
}

/// What [`Act::Repeat`] repeats.
#[derive(Debug)]
pub struct Kept {
    /// The transaction it was sent in.
    pub id: TransactionId,
    /// It.
    pub response: Response,
    /// CSeq of the INVITE it answers.
    pub cseq: u32,
}

/// One leg.
#[derive(Debug)]
pub struct Leg {
    /// Its own name among legs.
    pub key: LegKey,
    /// The machine.
    pub channel: Channel,
    /// Our tag.
    pub local_tag: String,
    /// Call-ID, for logs.
    pub sip_call_id: ByteStr,
    /// Which way the peer is.
    pub flow: Flow,
    /// Which side we are.
    pub side: Side,
    /// The open request.
    pub open: Option<Open>,
    /// The 2xx that the next ACK of ours acknowledges.
    pub success: Option<Box<Response>>,
    /// The CSeq of our latest INVITE that got a 2xx, and its ACK, to be sent again when that 2xx comes again.
    pub ack: Option<(u32, Bytes)>,
    /// The provisional response that the next PRACK of ours acknowledges.
    pub provisional: Option<Box<Response>>,
    /// The peer's Min-SE, from a 422.
    pub min_se_s: Option<u32>,
    /// Requests to the switchboard.
    pub outbox: Outbox,
    /// The highest fence of an owner of its call; who comes with a lower one owns it no more.
    pub fence: u64,
    /// What [`Act::Repeat`] repeats.
    pub kept: Option<Kept>,
    /// Requests of ours whose transactions may live.
    pub sent: Vec<(Sent, TransactionId)>,
    /// How much has changed since its last snapshot.
    pub touched: Weight,
    /// Whether its owner has said anything of it to this process.
    pub is_claimed: bool,
    /// Whether there is a snapshot of it.
    pub is_saved: bool,
}

impl Leg {
    /// A leg whose INVITE is open (incoming) or sent (outgoing).
    pub fn new(
        key: LegKey,
        channel: Channel,
        local_tag: String,
        sip_call_id: ByteStr,
        flow: Flow,
        side: Side,
        outbox: Outbox,
    ) -> Self {
        Self {
            key,
            channel,
            local_tag,
            sip_call_id,
            flow,
            side,
            open: None,
            success: None,
            ack: None,
            provisional: None,
            min_se_s: None,
            outbox,
            fence: 0,
            kept: None,
            sent: Vec::new(),
            touched: Weight::Now,
            is_claimed: false,
            is_saved: false,
        }
    }

    /// Something changed that a restart should know.
    pub fn touch(&mut self, weight: Weight) {
        self.touched = self.touched.max(weight);
    }

    /// Takes its snapshot.
    pub fn keep(&mut self, core: &Core, now: Instant) {
        self.touched = Weight::Nothing;
        if let Some(bytes) = self.encode(core, now) {
            core.snapshots.put(snapshot::key(&self.channel.id), bytes);
            self.is_saved = true;
        }
    }

    /// A request of ours went out in this transaction.
    pub fn note_sent(&mut self, what: Sent, id: TransactionId, core: &mut Core) {
        core.owners.insert(id, Owner::Client(self.key, what));
        self.sent.retain(|(_, id)| core.owners.contains_key(id));
        self.sent.push((what, id));
    }

    /// Lets the owner of the call pass, and refuses one that was its owner before.
    pub fn admit(&mut self, fence: Option<u64>) -> Result<(), Error> {
        match fence {
            Some(fence) if fence < self.fence => {
                let why = format!("{} has an owner of fence {}", self.channel.id, self.fence);
                Err(Error::permanent(code::FENCED, why))
            }
            fence => {
                if fence.is_some_and(|fence| fence > self.fence) {
                    self.touch(Weight::Soon);
                }
                self.fence = self.fence.max(fence.unwrap_or(0));
                self.is_claimed = true;
                Ok(())
            }
        }
    }

    /// Where it stands, as its owner is told.
    pub fn phase(&self) -> Phase {
        match self.channel.state() {
            State::Proceeding | State::Early | State::Calling | State::Ringing => Phase::Early,
            State::Answered | State::Acking | State::Confirmed => Phase::Answered,
            State::Cancelling | State::Ending | State::Over => Phase::Gone,
        }
    }

    /// When [`Leg::wake`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.channel.deadline().into_iter().chain(self.outbox.deadline()).min()
    }

    /// Whether it may be dropped: the machine is over and the switchboard knows.
    pub fn is_done(&self) -> bool {
        self.channel.is_over() && self.outbox.is_empty()
    }

    /// The dialog that requests of ours go into, if there is one yet.
    pub fn dialog(&mut self) -> Option<&mut Dialog> {
        self.side.dialog(None)
    }

    /// The dialog that a request of the peer with this tag is in.
    pub fn dialog_of(&mut self, remote_tag: &str) -> Option<&mut Dialog> {
        self.side.dialog(Some(remote_tag))
    }

    /// Whether this is the number of the INVITE whose 2xx waits for its ACK.
    pub fn awaits_ack(&self, cseq: u32) -> bool {
        self.kept.as_ref().is_some_and(|kept| kept.cseq == cseq && kept.response.status.is_success())
    }

    /// Feeds the machine and carries out what it wants. `current` is the request that is being handled.
    pub fn peer(&mut self, input: Peer, current: Option<Open>, core: &mut Core, now: Instant) {
        let mut acts = Vec::new();
        let before = self.channel.standing();
        self.channel.peer(input, now, &mut acts);
        self.touch(weight(before, self.channel.standing(), &acts));
        self.carry_out(acts, current, core, now);
    }

    /// The same for a command of the switchboard.
    pub fn command(
        &mut self,
        command: channel::Command,
        core: &mut Core,
        now: Instant,
    ) -> Result<(), channel::WrongState> {
        let mut acts = Vec::new();
        let before = self.channel.standing();
        self.channel.command(command, now, &mut acts)?;
        self.touch(weight(before, self.channel.standing(), &acts));
        self.carry_out(acts, None, core, now);
        Ok(())
    }

    /// The same for a clock.
    pub fn wake(&mut self, core: &mut Core, now: Instant) {
        let mut acts = Vec::new();
        let before = self.channel.standing();
        self.channel.wake(now, &mut acts);
        self.touch(weight(before, self.channel.standing(), &acts));
        self.carry_out(acts, None, core, now);
        self.outbox.wake(self.key, core, now);
    }

    /// Ends the leg because Nebula cannot go on with it; a caller in setup may try again.
    pub fn abandon(&mut self, cause: Cause, retry_after_s: Option<u32>, core: &mut Core, now: Instant) {
        let retry_after_s = retry_after_s.or(Some(core.options.retry_after_s));
        // Hanging up is possible in every state.
        let _ = self.command(channel::Command::Hangup { cause, retry_after_s }, core, now);
    }

    fn carry_out(&mut self, acts: Vec<Act>, mut current: Option<Open>, core: &mut Core, now: Instant) {
        for act in acts {
            match act {
                Act::Reply(reply) => {
                    if let Some(current) = &current {
                        self.respond_in_dialog(current, reply, core, now);
                    }
                }
                Act::Hold => {
                    self.open = current.take();
                    if let Some(open) = &self.open {
                        core.owners.insert(open.id, Owner::Server(self.key));
                    }
                }
                Act::Respond(reply) => self.respond(reply, core, now),
                Act::Repeat => {
                    if let Some(kept) = &self.kept {
                        core.respond(kept.id, &kept.response, now);
                    }
                }
                Act::Send(request) => self.send(request, core, now),
                Act::Tell(report) => self.tell(report, core),
            }
        }
    }

    fn tell(&mut self, report: Report, core: &Core) {
        if let Report::Hangup(cause) = &report {
            tracing::debug!(channel_id = %self.channel.id, sip_call_id = %self.sip_call_id, sip_code = cause.sip_code,
                kind = ?cause.kind, "leg ended");
        }
        self.outbox.push(Message::Report(report), self.key, core);
    }

    /// Answers the open request; a final response closes it.
    fn respond(&mut self, reply: Reply, core: &mut Core, now: Instant) {
        let Some(open) = self.open.take() else { return };
        let is_final = reply.code >= 200;
        self.respond_in_dialog(&open, reply, core, now);
        if !is_final {
            self.open = Some(open);
        }
    }

    /// Answers a request of this leg's dialog.
    fn respond_in_dialog(&mut self, open: &Open, reply: Reply, core: &mut Core, now: Instant) {
        let Some(status) = StatusCode::new(reply.code) else { return };
        let Some(response) = self.dialog().map(|dialog| dialog.response(&open.request, status)) else {
            return core.refuse(open.id, &open.request, status, now);
        };
        let is_invite = open.request.method == Method::Invite;
        let mut response = response.with(Name::Server, core.product());
        if let Some(reason) = reply.reason {
            response = response.with_reason(reason);
        }
        if let Some(rseq) = reply.rseq {
            response.headers.push(Name::Require, ByteStr::from_static(nebula_sip::reliable::OPTION_TAG));
            response.headers.push(Name::RSeq, rseq.to_string());
        }
        if let Some(retry_after_s) = reply.retry_after_s {
            response.headers.push(Name::RetryAfter, retry_after_s.to_string());
        }
        match status {
            StatusCode::UNSUPPORTED_MEDIA_TYPE if open.request.method == Method::Info => {
                let types = format!("{}, {}", dtmf::TYPE_RELAY, dtmf::TYPE_PLAIN);
                response.headers.push(Name::Accept, types);
            }
            _ if status.is_success() && matches!(open.request.method, Method::Invite | Method::Update) => {
                response.headers.push(Name::Allow, ByteStr::from_static(ALLOW));
                response.headers.push(Name::Supported, ByteStr::from_static(SUPPORTED));
                self.agree_as_uas(&open.request, &mut response, core, now);
            }
            _ => {}
        }
        if let Some(sdp) = reply.sdp {
            response = response.with_body(SDP_TYPE, sdp);
        }
        if let (true, true, Side::Uas(dialog)) = (is_invite, status.is_success(), &mut self.side) {
            dialog.confirm();
        }
        core.respond(open.id, &response, now);
        if is_invite && (reply.rseq.is_some() || status.is_success()) {
            let cseq = open.request.headers.cseq().map_or(0, |cseq| cseq.number);
            self.kept = Some(Kept { id: open.id, response, cseq });
        }
    }

    /// Settles the session timer in a 2xx of ours (RFC 4028 section 9). Too short a wish was refused before.
    fn agree_as_uas(&mut self, request: &Request, response: &mut Response, core: &Core, now: Instant) {
        let agreed = session_timer::answer(core.options.session(), &Offer::of(&request.headers)).ok().flatten();
        if let Some(agreed) = &agreed {
            agreed.put(&mut response.headers);
        }
        self.channel.session_agreed(agreed, Refresher::Uas, now);
    }

    /// Settles the session timer by a 2xx of the peer (RFC 4028 section 7.2).
    pub fn agree_as_uac(&mut self, response: &Response, now: Instant) {
        let agreed = session_timer::settle(response.headers.session_expires().ok().flatten());
        self.channel.session_agreed(agreed, Refresher::Uac, now);
    }

    fn send(&mut self, request: channel::Request, core: &mut Core, now: Instant) {
        match request {
            channel::Request::Ack { sdp } => self.send_ack(sdp, core),
            channel::Request::Cancel { cause } => {
                if let Side::Uac(uac) = &self.side
                    && let Some(invite) = uac.invite
                    && let Err(error) = core.layer.cancel(now, invite, Some(&reason_of(&cause)))
                {
                    // Answered meanwhile: the 2xx or the refusal is on its way to the machine.
                    tracing::debug!(channel_id = %self.channel.id, %error, "CANCEL not sent");
                }
            }
            channel::Request::Bye { cause } => {
                let Some(dialog) = self.dialog() else { return };
                let bye = dialog.request(Method::Bye).with(Name::Reason, reason_of(&cause));
                self.request(bye, Sent::Bye, core, now);
            }
            channel::Request::Reinvite { sdp } => {
                let Some(dialog) = self.dialog() else { return };
                let mut reinvite = dialog.request(Method::Invite);
                put_session(&mut reinvite, sdp.is_some(), self.min_se_s, core);
                self.request(with_sdp(reinvite, sdp), Sent::Reinvite, core, now);
            }
            channel::Request::Update => {
                let Some(dialog) = self.dialog() else { return };
                let mut update = dialog.request(Method::Update);
                put_session(&mut update, false, self.min_se_s, core);
                self.request(update, Sent::Update, core, now);
            }
            channel::Request::Prack { .. } => {
                let Some(provisional) = self.provisional.take() else { return };
                if let Some(Ok(Some(prack))) = self.dialog().map(|dialog| dialog.prack(&provisional)) {
                    self.request(prack, Sent::Prack, core, now);
                }
            }
            channel::Request::Info { digit, duration_ms } => {
                let Some(dialog) = self.dialog() else { return };
                let info = dialog.request(Method::Info).with_body(dtmf::TYPE_RELAY, dtmf::write(digit, duration_ms));
                self.request(info, Sent::Info, core, now);
            }
        }
    }

    /// Acknowledges the 2xx that came last.
    fn send_ack(&mut self, sdp: Option<String>, core: &mut Core) {
        let Some(success) = self.success.take() else { return };
        let flow = self.flow;
        let Some(Ok(ack)) = self.dialog().map(|dialog| dialog.ack(&success)) else { return };
        let bytes = core.layer.send_ack(with_sdp(ack, sdp), flow);
        if let Side::Uac(uac) = &mut self.side
            && let Some(dialog) = &uac.dialog
        {
            let remote_tag = &dialog.id().remote_tag;
            uac.forks.iter_mut().for_each(|forks| forks.acknowledged(remote_tag, bytes.clone()));
        }
        self.ack = success.headers.cseq().ok().map(|cseq| (cseq.number, bytes));
    }

    /// Sends a request in the dialog; one that cannot be sent fails like one that the transport lost.
    fn request(&mut self, request: Request, sent: Sent, core: &mut Core, now: Instant) {
        let request = request.with(Name::UserAgent, core.product());
        match core.layer.request(now, request, self.flow) {
            Ok(id) => self.note_sent(sent, id, core),
            Err(RequestError::Full { .. } | RequestError::NoTransactionOfItsOwn(_)) => {
                let reason = "Too many transactions".to_owned();
                self.peer(Peer::Failure { of: sent, why: Failure::Transport, code: 503, reason }, None, core, now);
            }
        }
    }
}

/// Says what we can do, and asks for a session timer (RFC 4028 section 7.1). Without an offer there is no 100rel: a
/// reliable response would bring the offer, and its PRACK had to wait for the answer.
pub fn put_session(request: &mut Request, offers: bool, min_se_s: Option<u32>, core: &Core) {
    let supported = if offers { SUPPORTED } else { session_timer::OPTION_TAG };
    request.headers.push(Name::Supported, ByteStr::from_static(supported));
    request.headers.push(Name::Allow, ByteStr::from_static(ALLOW));
    session_timer::request(core.options.session(), min_se_s).put(&mut request.headers);
}

/// With a body, if there is one.
pub fn with_sdp(request: Request, sdp: Option<String>) -> Request {
    match sdp {
        Some(sdp) => request.with_body(SDP_TYPE, sdp),
        None => request,
    }
}

/// A Reason header (RFC 3326).
fn reason_of(cause: &Cause) -> String {
    let text = if cause.text.is_empty() && cause.kind == CauseKind::Normal { "Normal" } else { &cause.text };
    let text = nebula_sip::message::quote(text);
    format!("SIP;cause={};text={text}", cause.sip_code)
}
