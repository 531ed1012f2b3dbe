//! The non-INVITE client transaction: RFC 3261 17.1.2 and figure 6.
//!
//! Stepped by the transaction layer; pure and constant time.

use super::machine::{Action::*, Event, Machine, NOTHING, Step};
use crate::timers::{Pace::*, Timer};

/// Where the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// Request sent, nothing heard.
    Trying,
    /// A provisional response came; the request is still repeated, every T2.
    Proceeding,
    /// A final response came; repeated ones are absorbed.
    Completed,
    /// Over.
    Terminated,
}

impl Machine for State {
    fn start() -> Step<Self> {
        (State::Trying, &[Transmit, Start(Timer::E, First), Start(Timer::F, First)])
    }

    #[rustfmt::skip]
    fn step(self, event: Event) -> Step<Self> {
        use State::*;
        match (self, event) {
            (Trying, Event::Fired(Timer::E))         => (Trying, &[Retransmit, Start(Timer::E, Doubled)]),
            (Trying, Event::Provisional)             => (Proceeding, &[Deliver]),

            (Proceeding, Event::Fired(Timer::E))     => (Proceeding, &[Retransmit, Start(Timer::E, Slowest)]),
            (Proceeding, Event::Provisional)         => (Proceeding, &[Deliver]),

            (Trying | Proceeding, Event::Fired(Timer::F)) => (Terminated, &[Timeout]),
            (Trying | Proceeding, Event::TransportError)  => (Terminated, &[TransportFailed]),
            (Trying | Proceeding, Event::Success | Event::Failure)
                                                     => (Completed, &[Stop(Timer::E), Start(Timer::K, First), Deliver]),

            (Completed, Event::Fired(Timer::K))      => (Terminated, NOTHING),

            (state, _)                               => (state, NOTHING),
        }
    }

    fn is_terminated(self) -> bool {
        self == State::Terminated
    }
}
