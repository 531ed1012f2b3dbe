//! The non-INVITE server transaction: RFC 3261 17.2.2 and figure 8.
//!
//! Stepped by the transaction layer; pure and constant time. Trying and Proceeding last until the user answers: a
//! transaction user answers every request it was given.

use super::machine::{Action::*, Event, Machine, NOTHING, Step};
use crate::timers::{Pace::*, Timer};

/// Where the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// The user has the request and has not answered; repeated requests are absorbed.
    Trying,
    /// The user answered provisionally; repeated requests get that again.
    Proceeding,
    /// The user answered finally; repeated requests get that again.
    Completed,
    /// Over.
    Terminated,
}

impl Machine for State {
    fn start() -> Step<Self> {
        (State::Trying, &[Deliver])
    }

    #[rustfmt::skip]
    fn step(self, event: Event) -> Step<Self> {
        use State::*;
        match (self, event) {
            (Trying | Proceeding, Event::Provisional) => (Proceeding, &[Transmit]),
            (Trying | Proceeding, Event::Success | Event::Failure)
                                                     => (Completed, &[Transmit, Start(Timer::J, First)]),
            (Proceeding | Completed, Event::Request) => (self, &[Retransmit]),
            (Proceeding | Completed, Event::TransportError)
                                                     => (Terminated, &[TransportFailed]),
            (Completed, Event::Fired(Timer::J))      => (Terminated, NOTHING),

            (state, _)                               => (state, NOTHING),
        }
    }

    fn is_terminated(self) -> bool {
        self == State::Terminated
    }
}
