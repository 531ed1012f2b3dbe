//! Messages that belong to a leg: requests within its dialogs, ACK and CANCEL, responses to its requests.
//!
//! RFC 3261 9.2, 12.2, 13.2.2.4 (2xx and forks), 8.1.3.1 (timeouts), RFC 3262 section 4, 3311, 4028, 6086.

use std::time::Instant;

use nebula_sip::dialog::{DialogId, Heard};
use nebula_sip::message::ByteStr;
use nebula_sip::reliable::Verdict;
use nebula_sip::session_timer::{self, Offer};
use nebula_sip::transaction::TransactionId;
use nebula_sip::{Flow, Method, Name, Request, Response, StatusCode};

use super::Edge;
use super::calls::sdp_of;
use super::core::{Core, Owner, SDP_TYPE, SUPPORTED};
use super::leg::{Leg, Open, Side};
use super::legs::LegKey;
use crate::admission::{self, ALLOW};
use crate::channel::{Failure, Peer, Sent, Weight, cause, dtmf};

impl Edge {
    /// A request with a To tag.
    pub fn requested_in_dialog(&mut self, id: TransactionId, request: Box<Request>, flow: Flow, now: Instant) {
        let tag = DialogId::of_request(&request).ok().flatten();
        let key = tag.as_ref().and_then(|dialog| self.legs.by_tag(&dialog.local_tag));
        let leg = key.and_then(|key| self.legs.get_mut(key));
        let (Some(key), Some(leg), Some(tag)) = (key, leg, tag) else {
            return self.core.refuse(id, &request, StatusCode::CALL_DOES_NOT_EXIST, now);
        };
        let Some(dialog) = leg.dialog_of(&tag.remote_tag) else {
            return self.core.refuse(id, &request, StatusCode::CALL_DOES_NOT_EXIST, now);
        };
        if let Err(refusal) = dialog.receive(&request) {
            let response = refusal.response(&request);
            return self.core.reply(id, response, now);
        }
        // The peer is where it last spoke from, whatever NAT or network lies between.
        leg.flow = flow;
        match input(&request, &self.core) {
            Ok(input) => {
                let current = Open { id, request };
                leg.peer(input, Some(current), &mut self.core, now);
            }
            Err(refusal) => self.core.reply(id, *refusal, now),
        }
        self.settle(key, now);
    }

    /// The ACK of a 2xx of ours; any other is nobody's.
    pub fn acknowledged(&mut self, request: &Request, flow: Flow, now: Instant) {
        let Ok(Some(dialog)) = DialogId::of_request(request) else { return };
        let Some(key) = self.legs.by_tag(&dialog.local_tag) else { return };
        let Some(leg) = self.legs.get_mut(key) else { return };
        let ours = leg.dialog_of(&dialog.remote_tag).is_some_and(|dialog| dialog.receive(request).is_ok());
        let cseq = request.headers.cseq().map_or(0, |cseq| cseq.number);
        if ours && leg.awaits_ack(cseq) {
            leg.flow = flow;
            // A body that is no text is no answer; the switchboard then sees that it is missing.
            let sdp = sdp_of(&request.body).ok().flatten();
            leg.peer(Peer::Ack { sdp }, None, &mut self.core, now);
            self.settle(key, now);
        }
    }

    /// An INVITE is taken back.
    pub fn cancelled(&mut self, id: TransactionId, cancel: &Request, now: Instant) {
        let reason = cancel.headers.get(Name::Reason);
        tracing::debug!(sip_call_id = cancel.headers.call_id().unwrap_or(""), reason, "cancelled");
        match self.core.owners.get(&id).copied() {
            Some(Owner::Server(key)) => self.feed(key, Peer::Cancel, now),
            _ => self.cancel_parked(id, now),
        }
    }

    /// A response to a request of ours.
    pub fn responded(&mut self, id: TransactionId, response: Box<Response>, flow: Flow, now: Instant) {
        let Some(Owner::Client(key, sent)) = self.core.owners.get(&id).copied() else { return };
        let Some(leg) = self.legs.get_mut(key) else { return };
        match sent {
            Sent::Invite => leg.heard(id, response, flow, &mut self.core, now),
            Sent::Reinvite | Sent::Update => leg.change_answered(sent, response, &mut self.core, now),
            Sent::Bye | Sent::Info | Sent::Prack => {
                if response.status.is_success() {
                    leg.peer(Peer::Success { of: sent, sdp: None }, None, &mut self.core, now);
                } else if response.status.is_final() {
                    leg.peer(refused(sent, &response), None, &mut self.core, now);
                }
            }
        }
        self.settle(key, now);
    }

    /// A request of ours got no final response, or could not be sent.
    pub fn failed(&mut self, id: TransactionId, why: Failure, status: StatusCode, now: Instant) {
        let Some(Owner::Client(key, sent)) = self.core.owners.get(&id).copied() else { return };
        let input = Peer::Failure { of: sent, why, code: status.get(), reason: status.reason().to_owned() };
        self.feed(key, input, now);
    }

    fn feed(&mut self, key: LegKey, input: Peer, now: Instant) {
        if let Some(leg) = self.legs.get_mut(key) {
            leg.peer(input, None, &mut self.core, now);
            self.settle(key, now);
        }
    }
}

impl Leg {
    /// A response to the first INVITE: which fork, and whether it is news.
    fn heard(&mut self, id: TransactionId, response: Box<Response>, flow: Flow, core: &mut Core, now: Instant) {
        let Side::Uac(uac) = &mut self.side else { return };
        let Some(forks) = &mut uac.forks else { return };
        let heard = match forks.receive(&response) {
            Ok(heard) => heard,
            // A 2xx without Contact: nobody can be acknowledged. Its INVITE ends by the transaction's timer.
            Err(error) => return tracing::debug!(channel_id = %self.channel.id, %error, "useless response"),
        };
        match heard {
            Heard::Trying | Heard::Ignored => {}
            Heard::Early { reliable: Some(Verdict::Repeated | Verdict::OutOfOrder), .. } => {}
            Heard::Early { remote_tag, reliable } => {
                uac.fork = Some(remote_tag);
                let rseq = reliable.and(response.headers.rseq().ok().flatten());
                let input = Peer::Provisional { code: response.status.get(), sdp: body(&response), rseq };
                self.provisional = rseq.map(|_| response);
                self.peer(input, None, core, now);
            }
            Heard::Answered(dialog) => {
                self.flow.connection = flow.connection;
                uac.fork = Some(dialog.id().remote_tag.clone());
                uac.dialog = Some(*dialog);
                self.channel.peer_takes_update(response.headers.lists(Name::Allow, "UPDATE"));
                self.agree_as_uac(&response, now);
                let input = Peer::Success { of: Sent::Invite, sdp: body(&response) };
                self.success = Some(response);
                self.peer(input, None, core, now);
            }
            Heard::Surplus(mut dialog) => {
                let Ok(ack) = dialog.ack(&response) else { return };
                let bytes = core.layer.send_ack(ack, self.flow);
                forks.acknowledged(&dialog.id().remote_tag, bytes);
                let bye = dialog.request(Method::Bye).with(Name::UserAgent, core.product());
                // Nobody waits for what it says; the layer repeats it.
                if let Err(error) = core.layer.request(now, bye, self.flow) {
                    tracing::debug!(channel_id = %self.channel.id, %error, "surplus fork not ended");
                }
            }
            Heard::Repeated { ack } => {
                if let Some(ack) = ack {
                    core.transmit(self.flow, ack, None, now);
                }
            }
            Heard::Refused
                if response.status == StatusCode::SESSION_INTERVAL_TOO_SMALL
                    && !uac.raised
                    && uac.request.is_some() =>
            {
                self.raise_session(id, &response, core, now);
            }
            Heard::Refused => self.peer(refused(Sent::Invite, &response), None, core, now),
        }
    }

    /// 422: the same INVITE once more, with the interval that the peer accepts (RFC 4028 section 7.4).
    fn raise_session(&mut self, id: TransactionId, response: &Response, core: &mut Core, now: Instant) {
        let Side::Uac(uac) = &mut self.side else { return };
        let Some(request) = &mut uac.request else { return };
        let cseq = request.headers.cseq().map_or(1, |cseq| cseq.number) + 1;
        self.min_se_s = response.headers.min_se().ok().flatten();
        uac.raised = true;
        request.headers.set(Name::CSeq, format!("{cseq} INVITE"));
        session_timer::request(core.options.session(), self.min_se_s).put(&mut request.headers);
        match core.layer.request(now, request.clone(), self.flow) {
            Ok(again) => {
                uac.forks = Some(nebula_sip::dialog::Forks::new(request.clone()));
                uac.invite = Some(again);
                core.owners.remove(&id);
                self.note_sent(Sent::Invite, again, core);
                self.touch(Weight::Now);
                if self.channel.state() == crate::channel::State::Cancelling {
                    // Given up meanwhile: the second try goes the way of the first.
                    let _ = core.layer.cancel(now, again, None);
                }
            }
            Err(_) => self.peer(refused(Sent::Invite, response), None, core, now),
        }
    }

    /// A response to a re-INVITE or UPDATE of ours.
    fn change_answered(&mut self, sent: Sent, response: Box<Response>, core: &mut Core, now: Instant) {
        let cseq = response.headers.cseq().map_or(0, |cseq| cseq.number);
        if !response.status.is_final() {
            return;
        }
        if !response.status.is_success() {
            if response.status == StatusCode::SESSION_INTERVAL_TOO_SMALL {
                self.min_se_s = response.headers.min_se().ok().flatten();
            }
            return self.peer(refused(sent, &response), None, core, now);
        }
        let pending = self
            .success
            .as_ref()
            .is_some_and(|success| success.headers.cseq().is_ok_and(|pending| pending.number == cseq));
        match &self.ack {
            Some((acked, bytes)) if sent == Sent::Reinvite && *acked == cseq => {
                let (flow, bytes) = (self.flow, bytes.clone());
                return core.transmit(flow, bytes, None, now);
            }
            _ if pending => return,
            _ => {}
        }
        if let Some(Err(error)) = self.dialog().map(|dialog| dialog.receive_response(&response)) {
            tracing::debug!(channel_id = %self.channel.id, %error, "unreadable 2xx");
        }
        self.agree_as_uac(&response, now);
        let input = Peer::Success { of: sent, sdp: body(&response) };
        if sent == Sent::Reinvite {
            self.success = Some(response);
        }
        self.peer(input, None, core, now);
    }
}

/// What a request in a dialog means to the machine, or the refusal of one that is wrong in itself.
fn input(request: &Request, core: &Core) -> Result<Peer, Box<Response>> {
    let refuse = |status| Err(Box::new(Response::to(request, status)));
    admission::validate(request)?;
    let headers = &request.headers;
    match request.method {
        Method::Bye => Ok(Peer::Bye { reason: headers.get(Name::Reason).map(cut) }),
        Method::Info => {
            let content_type = headers.get(Name::ContentType);
            Ok(Peer::Info(dtmf::read(content_type, &request.body)))
        }
        Method::Options => {
            let response = Response::to(request, StatusCode::OK)
                .with(Name::Allow, ByteStr::from_static(ALLOW))
                .with(Name::Accept, ByteStr::from_static(SDP_TYPE))
                .with(Name::Supported, ByteStr::from_static(SUPPORTED));
            Err(Box::new(response))
        }
        Method::Invite | Method::Update | Method::Prack => {
            let Ok(sdp) = sdp_of(&request.body) else { return refuse(StatusCode::BAD_REQUEST) };
            if request.method == Method::Prack {
                return match headers.rack() {
                    Ok(Some(rack)) => Ok(Peer::Prack { rack, sdp }),
                    _ => refuse(StatusCode::BAD_REQUEST),
                };
            }
            if let Err(session_timer::Error::TooSmall { min_se_s }) =
                session_timer::answer(core.options.session(), &Offer::of(headers))
            {
                let response = Response::to(request, StatusCode::SESSION_INTERVAL_TOO_SMALL);
                return Err(Box::new(response.with(Name::MinSe, min_se_s.to_string())));
            }
            Ok(if request.method == Method::Invite { Peer::Reinvite { sdp } } else { Peer::Update { sdp } })
        }
        _ => {
            let response = Response::to(request, StatusCode::METHOD_NOT_ALLOWED);
            Err(Box::new(response.with(Name::Allow, ByteStr::from_static(ALLOW))))
        }
    }
}

fn refused(of: Sent, response: &Response) -> Peer {
    Peer::Failure { of, why: Failure::Refused, code: response.status.get(), reason: cut(&response.reason) }
}

/// What a peer says, short enough for the record.
fn cut(text: &str) -> String {
    text.chars().take(cause::TEXT_CHARS_MAX).collect()
}

/// The session description in a response, if it has one that is text.
fn body(response: &Response) -> Option<String> {
    sdp_of(&response.body).ok().flatten()
}
