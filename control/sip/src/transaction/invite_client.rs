//! The INVITE client transaction: RFC 3261 17.1.1 and figure 5, as corrected by RFC 6026 section 8.4 (state Accepted,
//! timer M).
//!
//! Stepped by the transaction layer; pure and constant time. The figure lets Proceeding last for ever. The user ends it by
//! a CANCEL, after which `Abandon` bounds it (9.1); timer C (16.6) bounds one that the user forgot, such as a re-INVITE
//! whose 2xx was lost in a crash.

use super::machine::{Action::*, Event, Machine, NOTHING, Step};
use crate::timers::{Pace::*, Timer};

/// Where the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// INVITE sent, nothing heard.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A 2xx came; more of them, repeated or from other forks, go to the user.
    Accepted,
    /// A refusal came and was acknowledged; repeated ones are acknowledged again.
    Completed,
    /// Over.
    Terminated,
}

impl Machine for State {
    fn start() -> Step<Self> {
        (State::Calling, &[Transmit, Start(Timer::A, First), Start(Timer::B, First)])
    }

    #[rustfmt::skip]
    fn step(self, event: Event) -> Step<Self> {
        use State::*;
        match (self, event) {
            (Calling, Event::Fired(Timer::A))        => (Calling, &[Retransmit, Start(Timer::A, Doubled)]),
            (Calling, Event::Fired(Timer::B))        => (Terminated, &[Timeout]),
            (Calling, Event::TransportError)         => (Terminated, &[TransportFailed]),
            (Calling, Event::Provisional)            => (Proceeding, &[Stop(Timer::A), Start(Timer::C, First), Deliver]),
            (Calling, Event::Success)                => (Accepted, &[Stop(Timer::A), Start(Timer::M, First), Deliver]),
            (Calling, Event::Failure)                => (Completed, &[Stop(Timer::A), Ack, Start(Timer::D, First), Deliver]),

            (Proceeding, Event::Provisional)         => (Proceeding, &[Deliver]),
            (Proceeding, Event::Success)             => (Accepted, &[Start(Timer::M, First), Deliver]),
            (Proceeding, Event::Failure)             => (Completed, &[Ack, Start(Timer::D, First), Deliver]),
            (Proceeding, Event::Fired(Timer::C | Timer::Abandon)) => (Terminated, &[Timeout]),
            (Proceeding, Event::TransportError)      => (Terminated, &[TransportFailed]),

            (Accepted, Event::Success)               => (Accepted, &[Deliver]),
            (Accepted, Event::Fired(Timer::M))       => (Terminated, NOTHING),

            (Completed, Event::Failure)              => (Completed, &[Ack]),
            (Completed, Event::Fired(Timer::D))      => (Terminated, NOTHING),
            (Completed, Event::TransportError)       => (Terminated, &[TransportFailed]),

            (state, _)                               => (state, NOTHING),
        }
    }

    fn is_terminated(self) -> bool {
        self == State::Terminated
    }
}
