//! One SIP leg as a sans-IO state machine: peer messages, switchboard commands and the clock in; acts out.
//!
//! The edge owns it, feeds it and carries its acts out at once; nothing here reads a socket, a clock or the bus, and all
//! state is plain data. A step is a match and a few moves: no allocation but that of the acts' own bodies.
//!
//! The tables are one file per phase: [`incoming`] (UAS until ACK, RFC 3261 13.3, RFC 3262), [`outgoing`] (UAC until the
//! final response, 13.2, 9.1) and [`talking`] (within the confirmed dialog, 14 and 15, RFC 3311, 4028, 6086).
//!
//! ```text
//! incoming:  Proceeding -> Early -> Answered -> Confirmed -> Ending -> Over
//! outgoing:  Calling -> Ringing -> (Acking) -> Confirmed -> Ending -> Over
//!                 \-> Cancelling -> Over, or Ending when a 200 crossed the CANCEL
//! ```

pub mod cause;
pub mod dtmf;
mod incoming;
mod outgoing;
mod snapshot;
mod talking;
#[cfg(test)]
mod tests;
mod timing;

use std::time::Instant;

use nebula_bus::contract::{Cause, ChannelId};
use nebula_sip::reliable::{self, RAck};
use nebula_sip::session_timer::{Agreed, Due, Refresher};
use nebula_sip::timers::Repeat;
use serde::{Deserialize, Serialize};

use timing::{Timer, Timers, Wake};

pub use snapshot::{Saved, Weight, weight};
pub use timing::Timing;

/// Where a leg stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// Incoming: the INVITE is open, only 100 was sent.
    Proceeding,
    /// Incoming: a provisional response went out.
    Early,
    /// Incoming: 200 went out and is repeated until its ACK comes.
    Answered,
    /// Outgoing: INVITE sent, nothing heard.
    Calling,
    /// Outgoing: a provisional response came.
    Ringing,
    /// Outgoing: a 200 with an offer came; ACK waits for the switchboard's answer.
    Acking,
    /// Outgoing: given up; the final response to the INVITE is awaited, which the transaction layer bounds.
    Cancelling,
    /// The dialog is confirmed: people talk.
    Confirmed,
    /// BYE sent; its response is awaited.
    Ending,
    /// Nothing is left to do; the edge drops the channel.
    Over,
}

impl State {
    /// Whether the INVITE has no final response yet.
    pub const fn is_setup(self) -> bool {
        matches!(self, State::Proceeding | State::Early | State::Calling | State::Ringing)
    }

    /// The name in logs.
    pub const fn name(self) -> &'static str {
        match self {
            State::Proceeding => "proceeding",
            State::Early => "early",
            State::Answered => "answered",
            State::Calling => "calling",
            State::Ringing => "ringing",
            State::Acking => "acking",
            State::Cancelling => "cancelling",
            State::Confirmed => "confirmed",
            State::Ending => "ending",
            State::Over => "over",
        }
    }
}

/// Who owes what in the offer/answer exchange of the open INVITE (RFC 3264, RFC 6337).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Exchange {
    /// No offer was made yet.
    None,
    /// The peer offered, we owe the answer.
    Theirs,
    /// We offered, the peer owes the answer.
    Ours,
    /// Complete.
    Done,
}

/// A change of the session within the confirmed dialog; at most one at a time (RFC 3261 14).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Change {
    /// None is open.
    None,
    /// The peer's re-INVITE or UPDATE waits for the switchboard.
    Theirs {
        /// Whether it is an INVITE, whose 200 wants an ACK.
        invite: bool,
    },
    /// Our 200 to the peer's re-INVITE is repeated until its ACK comes.
    Unacked,
    /// Our re-INVITE for the switchboard is out.
    Ours,
    /// The peer's 200 had an offer; ACK waits for the switchboard's answer.
    Acking,
    /// Our session refresh is out (RFC 4028).
    Refresh,
}

/// What a message of ours is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Sent {
    /// The first INVITE.
    Invite,
    /// A later INVITE.
    Reinvite,
    /// UPDATE.
    Update,
    /// BYE.
    Bye,
    /// INFO.
    Info,
    /// PRACK.
    Prack,
}

/// How a request of ours failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The peer sent a final response of 300 or more.
    Refused,
    /// No final response came (timers B, F).
    Timeout,
    /// It could not be sent.
    Transport,
}

/// What comes from the peer, matched to this leg by the edge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// CANCEL of the open INVITE (already answered 200 by the edge).
    Cancel,
    /// ACK of our 2xx.
    Ack {
        /// Its body.
        sdp: Option<String>,
    },
    /// BYE.
    Bye {
        /// Its Reason header, for the record.
        reason: Option<String>,
    },
    /// An INVITE within the dialog.
    Reinvite {
        /// The new offer.
        sdp: Option<String>,
    },
    /// UPDATE.
    Update {
        /// The new offer; none only refreshes the session.
        sdp: Option<String>,
    },
    /// PRACK of the open INVITE.
    Prack {
        /// What it acknowledges.
        rack: RAck,
        /// Its body.
        sdp: Option<String>,
    },
    /// INFO.
    Info(dtmf::Info),
    /// 101 to 199 to our INVITE.
    Provisional {
        /// The status.
        code: u16,
        /// The body.
        sdp: Option<String>,
        /// RSeq, if it wants a PRACK and is the next in order.
        rseq: Option<u32>,
    },
    /// 2xx. Repetitions of one to an INVITE are acknowledged by the edge.
    Success {
        /// To what.
        of: Sent,
        /// The body.
        sdp: Option<String>,
    },
    /// A final failure or none at all.
    Failure {
        /// Of what.
        of: Sent,
        /// Why.
        why: Failure,
        /// The status; 408 and 503 for timeout and transport (RFC 3261 8.1.3.1).
        code: u16,
        /// The reason phrase.
        reason: String,
    },
}

/// What the switchboard asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// 180.
    Ring,
    /// A provisional response with SDP.
    Progress {
        /// 180 to 199.
        code: u16,
        /// The early answer.
        sdp: Option<String>,
    },
    /// 200 to what is open, or the answer that a held-back ACK waits for.
    Answer {
        /// The body.
        sdp: Option<String>,
    },
    /// A final failure to what is open.
    Reject {
        /// 300 to 699.
        code: u16,
        /// The reason phrase; none means the standard one.
        reason: Option<String>,
        /// Retry-After.
        retry_after_s: Option<u32>,
    },
    /// A re-INVITE.
    Reinvite {
        /// The offer; none asks for the peer's.
        sdp: Option<String>,
    },
    /// A key press.
    Dtmf {
        /// The key.
        digit: char,
        /// How long.
        duration_ms: u32,
    },
    /// End the leg, whatever its state.
    Hangup {
        /// Why.
        cause: Cause,
        /// Retry-After, if the leg is still being set up.
        retry_after_s: Option<u32>,
    },
}

/// The command makes no sense in the leg's present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not possible while the channel is {}", .0.name())]
pub struct WrongState(pub State);

/// A response to send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub code: u16,
    /// The reason phrase; none means the standard one.
    pub reason: Option<String>,
    /// The body.
    pub sdp: Option<String>,
    /// RSeq: send it reliably (RFC 3262).
    pub rseq: Option<u32>,
    /// Retry-After.
    pub retry_after_s: Option<u32>,
}

impl Reply {
    fn code(code: u16) -> Self {
        Self { code, ..Self::default() }
    }
}

/// A request to send within (or to open) the leg's dialog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// ACK of the 2xx that just came, or that waits in [`State::Acking`].
    Ack {
        /// The answer, if the 2xx offered.
        sdp: Option<String>,
    },
    /// CANCEL of our INVITE; the transaction layer holds it back until a provisional response came (RFC 3261 9.1).
    Cancel {
        /// For its Reason header (RFC 3326).
        cause: Cause,
    },
    /// BYE.
    Bye {
        /// For its Reason header (RFC 3326).
        cause: Cause,
    },
    /// A re-INVITE.
    Reinvite {
        /// The offer.
        sdp: Option<String>,
    },
    /// UPDATE without a body: a session refresh.
    Update,
    /// PRACK of a reliable provisional response.
    Prack {
        /// What it acknowledges.
        rseq: u32,
    },
    /// INFO with a key press.
    Info {
        /// The key.
        digit: char,
        /// How long.
        duration_ms: u32,
    },
}

/// What the switchboard is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// `channel.ringing`.
    Ringing {
        /// The status.
        code: u16,
    },
    /// `channel.progress`.
    Progress {
        /// The status.
        code: u16,
        /// The early answer.
        sdp: Option<String>,
    },
    /// `channel.answered`.
    Answered {
        /// The body.
        sdp: Option<String>,
    },
    /// `channel.refused`.
    Refused(Cause),
    /// `channel.reinvite`.
    Reinvite {
        /// The offer.
        sdp: Option<String>,
    },
    /// `channel.acked`.
    Acked {
        /// The answer.
        sdp: Option<String>,
    },
    /// `channel.dtmf`.
    Dtmf {
        /// The key.
        digit: char,
        /// How long.
        duration_ms: u32,
    },
    /// `channel.hangup`.
    Hangup(Cause),
}

/// What the edge shall do, in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// Answer the request that is being handled.
    Reply(Reply),
    /// Keep the request that is being handled: it is the leg's open one from now on.
    Hold,
    /// Answer the leg's open request: the first INVITE, or a held re-INVITE or UPDATE.
    Respond(Reply),
    /// Send the last reliable provisional response or 2xx of the open INVITE once more.
    Repeat,
    /// Send a request.
    Send(Request),
    /// Tell the switchboard.
    Tell(Report),
}

/// The reliable provisional responses of an incoming leg whose caller insists on them (RFC 3262 section 3).
#[derive(Debug, Clone)]
struct Reliable {
    sender: reliable::Sender<u32>,
    /// Whether the one in flight carries our offer, so that PRACK brings the answer.
    offered: bool,
    /// What the switchboard said meanwhile, to be sent after PRACK.
    held: Option<Held>,
}

/// A response that waits for PRACK.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Progress { code: u16, sdp: Option<String> },
    Answer { sdp: Option<String> },
}

/// One SIP leg.
#[derive(Debug, Clone)]
pub struct Channel {
    /// Its name on the bus.
    pub id: ChannelId,
    state: State,
    exchange: Exchange,
    change: Change,
    timers: Timers,
    reliable: Option<Reliable>,
    /// Incoming, answered but not yet ACKed: BYE follows the ACK (RFC 3261 15).
    hangup_after_ack: Option<Cause>,
    /// Whether the peer takes UPDATE, so that a refresh needs no SDP.
    peer_takes_update: bool,
    /// What we described ourselves as last: the body of a refresh by re-INVITE.
    local_sdp: Option<String>,
    /// What our open re-INVITE offers; becomes `local_sdp` when it is accepted.
    local_sdp_offered: Option<String>,
}

impl Channel {
    /// A leg that a phone opened by an INVITE; `sender` if it has `Require: 100rel`.
    pub fn incoming(
        id: ChannelId,
        offered: bool,
        sender: Option<reliable::Sender<u32>>,
        timing: Timing,
        now: Instant,
    ) -> Self {
        let exchange = if offered { Exchange::Theirs } else { Exchange::None };
        let mut channel = Self::new(id, State::Proceeding, exchange, timing, now);
        channel.reliable = sender.map(|sender| Reliable { sender, offered: false, held: None });
        channel
    }

    /// A leg that the switchboard opens; the edge sends the INVITE with `sdp`.
    pub fn outgoing(id: ChannelId, sdp: Option<String>, timing: Timing, now: Instant) -> Self {
        let exchange = if sdp.is_some() { Exchange::Ours } else { Exchange::None };
        let mut channel = Self::new(id, State::Calling, exchange, timing, now);
        channel.local_sdp = sdp;
        channel
    }

    fn new(id: ChannelId, state: State, exchange: Exchange, timing: Timing, now: Instant) -> Self {
        let mut timers = Timers::new(timing);
        timers.setup(now);
        Self {
            id,
            state,
            exchange,
            change: Change::None,
            timers,
            reliable: None,
            hangup_after_ack: None,
            peer_takes_update: false,
            local_sdp: None,
            local_sdp_offered: None,
        }
    }

    /// Where the leg stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether the leg is done with and may be dropped.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// The next time at which [`Channel::wake`] wants to be called.
    pub fn deadline(&self) -> Option<Instant> {
        let provisional = self.reliable.as_ref().and_then(|reliable| reliable.sender.next_timeout());
        self.timers.next().into_iter().chain(provisional).min()
    }

    /// The peer's Allow header was seen.
    pub fn peer_takes_update(&mut self, yes: bool) {
        self.peer_takes_update = yes;
    }

    /// A 2xx to an INVITE or UPDATE went either way and settled the session timer (RFC 4028); restarts its clock.
    pub fn session_agreed(&mut self, agreed: Option<Agreed>, we_are: Refresher, now: Instant) {
        if !matches!(self.state, State::Ending | State::Over | State::Cancelling) {
            self.timers.session(agreed, we_are, now);
        }
    }

    /// Takes what the peer sent.
    pub fn peer(&mut self, input: Peer, now: Instant, out: &mut Vec<Act>) {
        match self.state {
            State::Proceeding | State::Early | State::Answered => self.incoming_peer(input, now, out),
            State::Calling | State::Ringing | State::Acking | State::Cancelling => {
                self.outgoing_peer(input, now, out);
            }
            State::Confirmed => self.talking_peer(input, now, out),
            State::Ending | State::Over => self.ending_peer(input, out),
        }
    }

    /// Takes what the switchboard asks for.
    pub fn command(&mut self, command: Command, now: Instant, out: &mut Vec<Act>) -> Result<(), WrongState> {
        match self.state {
            State::Proceeding | State::Early | State::Answered => self.incoming_command(command, now, out),
            State::Calling | State::Ringing | State::Acking | State::Cancelling => self.outgoing_command(command, out),
            State::Confirmed => self.talking_command(command, now, out),
            // A hang-up that crossed another has what it wants.
            State::Ending | State::Over => match command {
                Command::Hangup { .. } => Ok(()),
                _ => Err(WrongState(self.state)),
            },
        }
    }

    /// Does what is due at `now`.
    pub fn wake(&mut self, now: Instant, out: &mut Vec<Act>) {
        while let Some(wake) = self.due(now) {
            match wake {
                Wake::Timer(Timer::Setup) => self.setup_timed_out(out),
                Wake::Timer(Timer::Guard) => self.switchboard_silent(out),
                Wake::Timer(Timer::Refresh) | Wake::Session(Due::Refresh) => self.refresh_due(now, out),
                Wake::Session(Due::Expire) => self.session_expired(out),
                Wake::Repeat(Repeat::Again) => out.push(Act::Repeat),
                Wake::Repeat(Repeat::GiveUp) => self.unacknowledged(out),
            }
        }
    }

    fn due(&mut self, now: Instant) -> Option<Wake> {
        let provisional = self.reliable.as_mut().and_then(|reliable| match reliable.sender.handle_timeout(now)? {
            reliable::Due::Repeat(_) => Some(Wake::Repeat(Repeat::Again)),
            reliable::Due::GiveUp => Some(Wake::Repeat(Repeat::GiveUp)),
        });
        provisional.or_else(|| self.timers.due(now))
    }

    /// Whatever happens next, the leg is done.
    fn over(&mut self) {
        self.state = State::Over;
        self.reliable = None;
        self.timers.clear_all();
    }

    /// Sends BYE and waits for its response, which the transaction layer bounds.
    fn bye(&mut self, cause: Cause, out: &mut Vec<Act>) {
        out.push(Act::Send(Request::Bye { cause }));
        self.state = State::Ending;
        self.change = Change::None;
        self.timers.clear_all();
    }

    /// Ends the leg by BYE for a reason of ours and reports it.
    fn bye_and_tell(&mut self, cause: Cause, out: &mut Vec<Act>) {
        self.bye(cause.clone(), out);
        out.push(Act::Tell(Report::Hangup(cause)));
    }
}
