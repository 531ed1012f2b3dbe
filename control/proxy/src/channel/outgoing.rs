//! The table of an outgoing leg until its final response: RFC 3261 13.2 (INVITE client), 9.1 (CANCEL), RFC 3262.
//!
//! | state | input | acts | next |
//! |---|---|---|---|
//! | Calling, Ringing | 1xx | PRACK if asked; tell ringing, or progress if it has SDP | Ringing |
//! | Calling, Ringing | 2xx | ACK, tell answered | Confirmed |
//! | Calling, Ringing | 2xx with an offer | tell answered | Acking |
//! | Calling, Ringing | final failure, timeout, transport | tell hangup | Over |
//! | Calling, Ringing | hangup | CANCEL | Cancelling |
//! | Calling, Ringing | too long | CANCEL, tell hangup no answer | Cancelling |
//! | Cancelling | 2xx | ACK, BYE: the answer crossed the CANCEL | Ending |
//! | Cancelling | final failure, timeout | | Over |
//! | Acking | answer | ACK with it | Confirmed |
//! | Acking | hangup | ACK, BYE | Ending |
//! | Acking | too long | ACK, BYE, tell hangup internal | Ending |

use super::*;
use nebula_bus::contract::CauseKind;

impl Channel {
    pub(super) fn outgoing_peer(&mut self, input: Peer, now: Instant, out: &mut Vec<Act>) {
        let cancelling = matches!(self.state, State::Cancelling);
        match input {
            Peer::Provisional { .. } if self.state == State::Acking => {}
            Peer::Provisional { rseq, .. } if cancelling => {
                out.extend(rseq.map(|rseq| Act::Send(Request::Prack { rseq })));
            }
            Peer::Provisional { code, sdp, rseq } => {
                self.state = State::Ringing;
                if let Some(rseq) = rseq {
                    out.push(Act::Send(Request::Prack { rseq }));
                    if sdp.is_some() {
                        self.exchange = Exchange::Done;
                    }
                }
                match sdp {
                    None => out.push(Act::Tell(Report::Ringing { code })),
                    sdp => out.push(Act::Tell(Report::Progress { code, sdp })),
                }
            }
            Peer::Success { of: Sent::Invite, .. } if cancelling => {
                out.push(Act::Send(Request::Ack { sdp: None }));
                self.bye(cause::own(487, CauseKind::Cancelled, "Request Cancelled"), out);
            }
            Peer::Success { of: Sent::Invite, sdp } if self.state != State::Acking => {
                if self.exchange == Exchange::None && sdp.is_some() {
                    // The switchboard's answer goes into the ACK; the callee repeats its 200 for 32 s at most.
                    self.state = State::Acking;
                    self.timers.clear(Timer::Setup);
                    self.timers.guard(now);
                } else {
                    self.confirmed();
                    out.push(Act::Send(Request::Ack { sdp: None }));
                }
                out.push(Act::Tell(Report::Answered { sdp }));
            }
            Peer::Failure { of: Sent::Invite, .. } if cancelling => self.over(),
            Peer::Failure { of: Sent::Invite, why, code, reason } => {
                self.over();
                let cause = match why {
                    Failure::Refused => cause::of_response(code, &reason),
                    Failure::Timeout | Failure::Transport => cause::own(code, CauseKind::Network, &reason),
                };
                out.push(Act::Tell(Report::Hangup(cause)));
            }
            Peer::Bye { reason } => {
                // RFC 3261 15: a callee may not, before its final response. Some do; the INVITE then ends by CANCEL.
                out.push(Act::Reply(Reply::code(200)));
                if self.state == State::Acking {
                    out.push(Act::Send(Request::Ack { sdp: None }));
                    self.over();
                    out.push(Act::Tell(Report::Hangup(talking::bye_cause(reason))));
                } else if !cancelling {
                    let cause = talking::bye_cause(reason);
                    self.give_up(cause.clone(), out);
                    out.push(Act::Tell(Report::Hangup(cause)));
                }
            }
            Peer::Info(info) => self.info(info, out),
            Peer::Update { sdp: None } => out.push(Act::Reply(Reply::code(200))),
            Peer::Update { .. } | Peer::Reinvite { .. } => out.push(Act::Reply(Reply::code(491))),
            Peer::Prack { .. } => out.push(Act::Reply(Reply::code(481))),
            Peer::Cancel | Peer::Ack { .. } | Peer::Success { .. } | Peer::Failure { .. } => {}
        }
    }

    pub(super) fn outgoing_command(&mut self, command: Command, out: &mut Vec<Act>) -> Result<(), WrongState> {
        match (command, self.state) {
            (Command::Hangup { .. }, State::Cancelling) => {}
            (Command::Hangup { cause, .. }, State::Acking) => {
                out.push(Act::Send(Request::Ack { sdp: None }));
                self.bye(cause, out);
            }
            (Command::Hangup { cause, .. }, _) => self.give_up(cause, out),
            (Command::Answer { sdp }, State::Acking) => {
                self.local_sdp.clone_from(&sdp);
                self.confirmed();
                out.push(Act::Send(Request::Ack { sdp }));
            }
            (Command::Dtmf { digit, duration_ms }, State::Ringing) => {
                out.push(Act::Send(Request::Info { digit, duration_ms }));
            }
            _ => return Err(WrongState(self.state)),
        }
        Ok(())
    }

    /// Ends an INVITE of ours that has no final response.
    pub(super) fn give_up(&mut self, cause: Cause, out: &mut Vec<Act>) {
        self.state = State::Cancelling;
        self.timers.clear_all();
        out.push(Act::Send(Request::Cancel { cause }));
    }

    fn confirmed(&mut self) {
        self.state = State::Confirmed;
        self.exchange = Exchange::Done;
        self.timers.clear(Timer::Setup);
        self.timers.clear(Timer::Guard);
    }
}
