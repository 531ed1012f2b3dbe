//! The table of an incoming leg until its ACK: RFC 3261 13.3 (INVITE server), 9.2 (CANCEL), RFC 3262 (PRACK).
//!
//! | state | input | acts | next |
//! |---|---|---|---|
//! | Proceeding, Early | ring, progress | 1xx; reliably if required | Early |
//! | Proceeding, Early | answer | 200 and its repetition (after PRACK, if one is due) | Answered |
//! | Proceeding, Early | reject, hangup | the final failure | Over |
//! | Proceeding, Early | CANCEL, BYE | 487, tell hangup | Over |
//! | Early | PRACK | 200; tell acked if it answers our offer; send what waited | same |
//! | Answered | ACK | tell acked if it answers our offer | Confirmed |
//! | Answered | re-INVITE | as after an ACK, unless that answers our offer: 491 | Confirmed |
//! | Answered | CANCEL | nothing: 200 was first, the caller will send BYE | same |
//! | Answered | hangup | BYE after the ACK | same |
//! | Answered | BYE | 200, tell hangup | Over |
//! | Answered | 64 T1 without ACK | BYE, tell hangup network | Ending |

use super::*;
use nebula_bus::contract::CauseKind;

impl Channel {
    pub(super) fn incoming_peer(&mut self, input: Peer, now: Instant, out: &mut Vec<Act>) {
        let answered = self.state == State::Answered;
        match input {
            Peer::Cancel if answered => {}
            Peer::Cancel => {
                self.refuse(487, CauseKind::Cancelled, "Cancelled by the caller", out);
            }
            Peer::Bye { reason } => {
                out.push(Act::Reply(Reply::code(200)));
                if !answered {
                    out.push(Act::Respond(Reply::code(487)));
                }
                self.over();
                if self.hangup_after_ack.is_none() {
                    out.push(Act::Tell(Report::Hangup(talking::bye_cause(reason))));
                }
            }
            Peer::Ack { sdp } if answered => self.acked(sdp, out),
            Peer::Prack { rack, sdp } => self.pracked(&rack, sdp, now, out),
            Peer::Info(info) => self.info(info, out),
            Peer::Update { sdp: None } => out.push(Act::Reply(Reply::code(200))),
            // The exchange of the INVITE is not over: the peer tries again later (RFC 3311 section 5.2, RFC 3261 14.2).
            Peer::Update { .. } => out.push(Act::Reply(Reply::code(491))),
            // Who begins another INVITE has sent the ACK of the last (RFC 3261 14.1); it is lost, or came to a process that
            // died. Only an answer in it would be missed.
            Peer::Reinvite { sdp } if answered && self.exchange != Exchange::Ours => {
                self.acked(None, out);
                if self.state == State::Confirmed {
                    self.talking_peer(Peer::Reinvite { sdp }, now, out);
                } else {
                    out.push(Act::Reply(Reply::code(491)));
                }
            }
            Peer::Reinvite { .. } if answered => out.push(Act::Reply(Reply::code(491))),
            Peer::Reinvite { .. } => out.push(Act::Reply(retry_soon())),
            Peer::Ack { .. } | Peer::Provisional { .. } | Peer::Success { .. } | Peer::Failure { .. } => {}
        }
    }

    pub(super) fn incoming_command(
        &mut self,
        command: Command,
        now: Instant,
        out: &mut Vec<Act>,
    ) -> Result<(), WrongState> {
        let answered = self.state == State::Answered;
        match command {
            Command::Hangup { cause, .. } if answered => self.hangup_after_ack = Some(cause),
            Command::Hangup { cause, retry_after_s } => {
                let code = cause::refusal_code(&cause);
                let reason = (code == cause.sip_code && !cause.text.is_empty()).then_some(cause.text);
                self.over();
                out.push(Act::Respond(Reply { code, reason, retry_after_s, ..Reply::default() }));
            }
            Command::Dtmf { digit, duration_ms } if answered => {
                out.push(Act::Send(Request::Info { digit, duration_ms }));
            }
            // The ACK is on its way, if anything: the switchboard may try again.
            Command::Reinvite { .. } if answered => out.push(Act::Tell(Report::Refused(talking::glare()))),
            Command::Dtmf { .. } | Command::Reinvite { .. } => return Err(WrongState(self.state)),
            _ if answered => return Err(WrongState(self.state)),
            Command::Ring => self.progress(180, None, now, out),
            Command::Progress { code, sdp } => self.progress(code.clamp(101, 199), sdp, now, out),
            Command::Answer { sdp } => self.answer(sdp, now, out),
            Command::Reject { code, reason, retry_after_s } => {
                self.over();
                let code = code.clamp(300, 699);
                out.push(Act::Respond(Reply { code, reason, retry_after_s, ..Reply::default() }));
            }
        }
        Ok(())
    }

    fn progress(&mut self, code: u16, sdp: Option<String>, now: Instant, out: &mut Vec<Act>) {
        let Some(reliable) = &mut self.reliable else {
            self.state = State::Early;
            // Without an offer in the INVITE ours must travel reliably: it waits for the 200 (RFC 3261 13.2.1).
            let sdp = sdp.filter(|_| self.exchange == Exchange::Theirs);
            out.push(Act::Respond(Reply { code, sdp, ..Reply::default() }));
            return;
        };
        if reliable.sender.is_waiting() {
            // One at a time; a later one replaces what waits, but never an answer.
            if !matches!(reliable.held, Some(Held::Answer { .. })) {
                reliable.held = Some(Held::Progress { code, sdp });
            }
            return;
        }
        let sdp = sdp.filter(|_| self.exchange != Exchange::Done);
        let Ok(rseq) = reliable.sender.send(now, sdp.is_some(), |rseq| rseq).copied() else { return };
        reliable.offered = sdp.is_some() && self.exchange == Exchange::None;
        if let Some(sdp) = &sdp {
            self.exchange = if reliable.offered { Exchange::Ours } else { Exchange::Done };
            self.local_sdp = Some(sdp.clone());
        }
        self.state = State::Early;
        out.push(Act::Respond(Reply { code, sdp, rseq: Some(rseq), ..Reply::default() }));
    }

    fn answer(&mut self, sdp: Option<String>, now: Instant, out: &mut Vec<Act>) {
        if let Some(reliable) = self.reliable.as_mut().filter(|reliable| reliable.sender.is_waiting()) {
            reliable.held = Some(Held::Answer { sdp });
            return;
        }
        // What a reliable response already said is not said again (RFC 6337 section 2).
        let sdp = sdp.filter(|_| self.exchange != Exchange::Done);
        if let Some(sdp) = &sdp {
            self.exchange = if self.exchange == Exchange::Theirs { Exchange::Done } else { Exchange::Ours };
            self.local_sdp = Some(sdp.clone());
        }
        self.state = State::Answered;
        self.timers.clear(Timer::Setup);
        self.timers.repeat_answer(now);
        out.push(Act::Respond(Reply { code: 200, sdp, ..Reply::default() }));
    }

    fn pracked(&mut self, rack: &RAck, sdp: Option<String>, now: Instant, out: &mut Vec<Act>) {
        let Some(reliable) = &mut self.reliable else { return out.push(Act::Reply(Reply::code(481))) };
        if reliable.sender.acknowledge(rack).is_err() {
            return out.push(Act::Reply(Reply::code(481)));
        }
        let (offered, held) = (std::mem::take(&mut reliable.offered), reliable.held.take());
        // A new offer in PRACK is declined: the early session stays as it is.
        let code = if sdp.is_some() && !offered { 488 } else { 200 };
        out.push(Act::Reply(Reply::code(code)));
        if offered {
            self.exchange = Exchange::Done;
            out.push(Act::Tell(Report::Acked { sdp }));
        }
        match held {
            None => {}
            Some(Held::Progress { code, sdp }) => self.progress(code, sdp, now, out),
            Some(Held::Answer { sdp }) => self.answer(sdp, now, out),
        }
    }

    fn acked(&mut self, sdp: Option<String>, out: &mut Vec<Act>) {
        self.timers.repeat_no_more();
        self.state = State::Confirmed;
        if let Some(cause) = self.hangup_after_ack.take() {
            self.bye(cause, out);
            return;
        }
        if self.exchange == Exchange::Ours {
            self.exchange = Exchange::Done;
            out.push(Act::Tell(Report::Acked { sdp }));
        }
    }

    /// Refuses the open INVITE and tells the switchboard.
    fn refuse(&mut self, code: u16, kind: CauseKind, text: &str, out: &mut Vec<Act>) {
        self.over();
        out.push(Act::Respond(Reply::code(code)));
        out.push(Act::Tell(Report::Hangup(cause::own(code, kind, text))));
    }

    /// Neither ACK nor PRACK came in 64 T1.
    pub(super) fn unacknowledged(&mut self, out: &mut Vec<Act>) {
        if self.state == State::Early {
            self.refuse(504, CauseKind::Network, "No PRACK", out);
        } else if let Some(cause) = self.hangup_after_ack.take() {
            self.bye(cause, out);
        } else {
            self.bye_and_tell(cause::own(408, CauseKind::Network, "No ACK"), out);
        }
    }

    /// The INVITE, either way, has had no final response for too long.
    pub(super) fn setup_timed_out(&mut self, out: &mut Vec<Act>) {
        match self.state {
            State::Proceeding | State::Early => self.refuse(480, CauseKind::NoAnswer, "No answer", out),
            State::Calling | State::Ringing => {
                let cause = cause::own(408, CauseKind::NoAnswer, "No answer");
                self.give_up(cause.clone(), out);
                out.push(Act::Tell(Report::Hangup(cause)));
            }
            _ => {}
        }
    }
}

/// A second request came before the first was answered (RFC 3261 14.2: 500 and a short Retry-After).
fn retry_soon() -> Reply {
    Reply { code: 500, retry_after_s: Some(2), ..Reply::default() }
}
