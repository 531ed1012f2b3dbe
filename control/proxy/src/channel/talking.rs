//! The table of a leg whose dialog is confirmed: re-INVITE, UPDATE, INFO, BYE, session timer.
//!
//! RFC 3261 section 14 (re-INVITE, glare) and 15 (BYE), RFC 3311 (UPDATE), RFC 4028 (session timer), RFC 6086 (INFO).
//!
//! | change | input | acts | next change |
//! |---|---|---|---|
//! | none | re-INVITE, UPDATE with SDP | hold it, tell reinvite | theirs |
//! | any | UPDATE without SDP | 200 at once | same |
//! | unacked, not our offer | re-INVITE | as after its ACK | theirs |
//! | ours, acking, refresh, unacked | re-INVITE, UPDATE with SDP | 491 | same |
//! | theirs | re-INVITE, UPDATE with SDP | 500 with Retry-After | same |
//! | theirs | answer | 200; repeated until ACK if an INVITE | unacked or none |
//! | theirs | reject | the final failure | none |
//! | theirs | CANCEL | nothing: the answer is on its way | same |
//! | theirs | too long | 504 | none |
//! | unacked | ACK | tell acked if it answers our offer | none |
//! | unacked | 64 T1 without ACK | BYE, tell hangup network | Ending |
//! | none | reinvite | re-INVITE | ours |
//! | any other | reinvite | tell refused 491: both ends try again later | same |
//! | ours | 2xx | ACK, tell answered | none (acking if it offers) |
//! | ours | failure but 408, 481 | tell refused | none |
//! | ours, refresh | 408, 481, timeout | BYE, tell hangup | Ending |
//! | any | BYE | 200 (487 to what is held), tell hangup | Over |
//! | any | hangup | BYE | Ending |

use super::*;
use nebula_bus::contract::CauseKind;
use std::time::Duration;

/// A refresh that found another transaction open tries again after this.
const REFRESH_AGAIN: Duration = Duration::from_secs(2);

impl Channel {
    pub(super) fn talking_peer(&mut self, input: Peer, now: Instant, out: &mut Vec<Act>) {
        match input {
            Peer::Bye { reason } => {
                out.push(Act::Reply(Reply::code(200)));
                if let Change::Theirs { .. } = self.change {
                    out.push(Act::Respond(Reply::code(487)));
                }
                self.over();
                out.push(Act::Tell(Report::Hangup(bye_cause(reason))));
            }
            Peer::Reinvite { sdp } => self.their_change(true, sdp, now, out),
            Peer::Update { sdp: None } => out.push(Act::Reply(Reply::code(200))),
            Peer::Update { sdp } => self.their_change(false, sdp, now, out),
            Peer::Ack { sdp } => self.change_acked(sdp, out),
            Peer::Info(info) => self.info(info, out),
            Peer::Prack { .. } => out.push(Act::Reply(Reply::code(481))),
            Peer::Success { of: Sent::Reinvite, sdp } => self.our_change_accepted(sdp, now, out),
            Peer::Success { of: Sent::Update, .. } => self.change = Change::None,
            Peer::Failure { of, why, code, reason } => self.request_failed(of, why, code, &reason, now, out),
            // The switchboard is at it and answers soon: the re-INVITE gets that, not 487 (RFC 3261 9.2 leaves it to us).
            Peer::Cancel => {}
            Peer::Provisional { rseq, .. } => out.extend(rseq.map(|rseq| Act::Send(Request::Prack { rseq }))),
            Peer::Success { .. } => {}
        }
    }

    pub(super) fn talking_command(
        &mut self,
        command: Command,
        now: Instant,
        out: &mut Vec<Act>,
    ) -> Result<(), WrongState> {
        match (command, self.change) {
            (Command::Hangup { cause, .. }, change) => {
                match change {
                    Change::Theirs { .. } => out.push(Act::Respond(Reply::code(487))),
                    Change::Acking => out.push(Act::Send(Request::Ack { sdp: None })),
                    _ => {}
                }
                self.bye(cause, out);
            }
            (Command::Answer { sdp }, Change::Theirs { invite }) => {
                self.close_theirs();
                if let Some(sdp) = &sdp {
                    self.local_sdp = Some(sdp.clone());
                }
                if invite {
                    self.change = Change::Unacked;
                    self.timers.repeat_answer(now);
                    if self.exchange == Exchange::None {
                        self.exchange = Exchange::Ours;
                    }
                }
                out.push(Act::Respond(Reply { code: 200, sdp, ..Reply::default() }));
            }
            (Command::Answer { sdp }, Change::Acking) => {
                self.change = Change::None;
                self.local_sdp.clone_from(&sdp);
                self.timers.clear(Timer::Guard);
                out.push(Act::Send(Request::Ack { sdp }));
            }
            (Command::Reject { code, reason, retry_after_s }, Change::Theirs { .. }) => {
                self.close_theirs();
                let code = code.clamp(300, 699);
                out.push(Act::Respond(Reply { code, reason, retry_after_s, ..Reply::default() }));
            }
            (Command::Reinvite { sdp }, Change::None) => {
                self.change = Change::Ours;
                self.exchange = if sdp.is_some() { Exchange::Ours } else { Exchange::None };
                self.local_sdp_offered.clone_from(&sdp);
                out.push(Act::Send(Request::Reinvite { sdp }));
            }
            (Command::Reinvite { .. }, _) => out.push(Act::Tell(Report::Refused(glare()))),
            (Command::Dtmf { digit, duration_ms }, _) => out.push(Act::Send(Request::Info { digit, duration_ms })),
            _ => return Err(WrongState(self.state)),
        }
        Ok(())
    }

    pub(super) fn ending_peer(&mut self, input: Peer, out: &mut Vec<Act>) {
        match input {
            Peer::Bye { .. } => out.push(Act::Reply(Reply::code(200))),
            Peer::Success { of: Sent::Bye, .. } | Peer::Failure { of: Sent::Bye, .. } => self.over(),
            Peer::Success { of: Sent::Invite | Sent::Reinvite, .. } => {
                out.push(Act::Send(Request::Ack { sdp: None }));
            }
            Peer::Reinvite { .. } | Peer::Update { .. } | Peer::Info(_) | Peer::Prack { .. } => {
                out.push(Act::Reply(Reply::code(481)));
            }
            Peer::Cancel | Peer::Ack { .. } | Peer::Provisional { .. } => {}
            Peer::Success { .. } | Peer::Failure { .. } => {}
        }
    }

    /// INFO, in any state that has a dialog.
    pub(super) fn info(&mut self, info: dtmf::Info, out: &mut Vec<Act>) {
        let code = match info {
            dtmf::Info::Key { .. } | dtmf::Info::Empty => 200,
            dtmf::Info::Malformed => 400,
            dtmf::Info::Unsupported => 415,
        };
        out.push(Act::Reply(Reply::code(code)));
        if let dtmf::Info::Key { digit, duration_ms } = info {
            out.push(Act::Tell(Report::Dtmf { digit, duration_ms }));
        }
    }

    fn their_change(&mut self, invite: bool, sdp: Option<String>, now: Instant, out: &mut Vec<Act>) {
        // Who begins another INVITE has sent the ACK of the last (RFC 3261 14.1): see the table of incoming legs.
        if invite && self.change == Change::Unacked && self.exchange != Exchange::Ours {
            self.change_acked(None, out);
        }
        match self.change {
            Change::None => {
                self.change = Change::Theirs { invite };
                self.exchange = if sdp.is_some() { Exchange::Theirs } else { Exchange::None };
                self.timers.guard(now);
                out.push(Act::Hold);
                out.push(Act::Tell(Report::Reinvite { sdp }));
            }
            Change::Theirs { .. } => {
                out.push(Act::Reply(Reply { code: 500, retry_after_s: Some(2), ..Reply::default() }));
            }
            Change::Unacked | Change::Ours | Change::Acking | Change::Refresh => {
                out.push(Act::Reply(Reply::code(491)));
            }
        }
    }

    fn close_theirs(&mut self) {
        self.change = Change::None;
        self.timers.clear(Timer::Guard);
    }

    fn change_acked(&mut self, sdp: Option<String>, out: &mut Vec<Act>) {
        if self.change != Change::Unacked {
            return;
        }
        self.change = Change::None;
        self.timers.repeat_no_more();
        if self.exchange == Exchange::Ours {
            out.push(Act::Tell(Report::Acked { sdp }));
        }
        self.exchange = Exchange::Done;
    }

    fn our_change_accepted(&mut self, sdp: Option<String>, now: Instant, out: &mut Vec<Act>) {
        match self.change {
            Change::Ours if self.exchange == Exchange::None && sdp.is_some() => {
                self.change = Change::Acking;
                self.timers.guard(now);
                out.push(Act::Tell(Report::Answered { sdp }));
            }
            Change::Ours => {
                self.change = Change::None;
                self.exchange = Exchange::Done;
                if self.local_sdp_offered.is_some() {
                    self.local_sdp = self.local_sdp_offered.take();
                }
                out.push(Act::Send(Request::Ack { sdp: None }));
                out.push(Act::Tell(Report::Answered { sdp }));
            }
            _ => {
                if self.change == Change::Refresh {
                    self.change = Change::None;
                }
                out.push(Act::Send(Request::Ack { sdp: None }));
            }
        }
    }

    fn request_failed(&mut self, of: Sent, why: Failure, code: u16, reason: &str, now: Instant, out: &mut Vec<Act>) {
        // The dialog is gone on the other side (RFC 3261 12.2.1.2, RFC 5057): within a dialog these two end it.
        let dialog_gone = why != Failure::Refused || matches!(code, 408 | 481);
        match of {
            Sent::Reinvite | Sent::Update | Sent::Info if dialog_gone => {
                self.bye_and_tell(cause::own(code, CauseKind::Network, reason), out);
            }
            Sent::Reinvite | Sent::Update => match self.change {
                Change::Ours => {
                    self.change = Change::None;
                    self.local_sdp_offered = None;
                    out.push(Act::Tell(Report::Refused(cause::of_response(code, reason))));
                }
                Change::Refresh => {
                    self.change = Change::None;
                    if of == Sent::Update && matches!(code, 405 | 501) {
                        self.peer_takes_update = false;
                    }
                    self.timers.refresh_again(now + REFRESH_AGAIN);
                }
                _ => {}
            },
            Sent::Info | Sent::Invite | Sent::Bye | Sent::Prack => {}
        }
    }

    /// The switchboard did not answer the open change, or has no answer for an ACK.
    pub(super) fn switchboard_silent(&mut self, out: &mut Vec<Act>) {
        let acking = self.state == State::Acking || self.change == Change::Acking;
        if acking {
            out.push(Act::Send(Request::Ack { sdp: None }));
            self.bye_and_tell(cause::own(500, CauseKind::Internal, "No answer to the offer"), out);
        } else if let Change::Theirs { .. } = self.change {
            self.change = Change::None;
            out.push(Act::Respond(Reply::code(504)));
        }
    }

    pub(super) fn refresh_due(&mut self, now: Instant, out: &mut Vec<Act>) {
        if self.state != State::Confirmed || self.change != Change::None {
            self.timers.refresh_again(now + REFRESH_AGAIN);
            return;
        }
        self.change = Change::Refresh;
        out.push(Act::Send(match self.peer_takes_update {
            true => Request::Update,
            false => Request::Reinvite { sdp: self.local_sdp.clone() },
        }));
    }

    pub(super) fn session_expired(&mut self, out: &mut Vec<Act>) {
        if self.state == State::Confirmed {
            if let Change::Theirs { .. } = self.change {
                out.push(Act::Respond(Reply::code(487)));
            }
            self.bye_and_tell(cause::own(408, CauseKind::SessionTimer, "Session timer expired"), out);
        }
    }
}

/// Both ends changed the session at once (RFC 3261 14.1).
pub(super) fn glare() -> Cause {
    cause::own(491, CauseKind::Rejected, "Request Pending")
}

/// Why the peer sent BYE.
pub(super) fn bye_cause(reason: Option<String>) -> Cause {
    Cause { sip_code: 200, kind: CauseKind::Normal, text: reason.unwrap_or_default() }
}
