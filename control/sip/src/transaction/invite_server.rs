//! The INVITE server transaction: RFC 3261 17.2.1 and figure 7, as corrected by RFC 6026 sections 8.7 and 8.8 (state
//! Accepted, timer L; a transport error is reported and changes nothing).
//!
//! Stepped by the transaction layer; pure and constant time. Proceeding lasts until the user answers: a transaction user
//! answers every INVITE it was given.

use super::machine::{Action::*, Event, Machine, NOTHING, Step};
use crate::timers::{Pace::*, Timer};

/// Where the transaction is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum State {
    /// The user has the INVITE and has not answered finally.
    Proceeding,
    /// The user sent a 2xx and repeats it itself; repeated INVITEs are absorbed.
    Accepted,
    /// The user refused; the refusal is repeated until its ACK comes.
    Completed,
    /// The ACK came; repeated ones are absorbed.
    Confirmed,
    /// Over.
    Terminated,
}

impl Machine for State {
    fn start() -> Step<Self> {
        (State::Proceeding, &[Deliver, Start(Timer::Trying, First)])
    }

    #[rustfmt::skip]
    fn step(self, event: Event) -> Step<Self> {
        use State::*;
        match (self, event) {
            (Proceeding, Event::Request)             => (Proceeding, &[Stop(Timer::Trying), Retransmit]),
            (Proceeding, Event::Fired(Timer::Trying)) => (Proceeding, &[Retransmit]),
            (Proceeding, Event::Provisional)         => (Proceeding, &[Stop(Timer::Trying), Transmit]),
            (Proceeding, Event::Success)             => (Accepted, &[Stop(Timer::Trying), Transmit, Start(Timer::L, First)]),
            (Proceeding, Event::Failure)             => (Completed, &[Stop(Timer::Trying), Transmit,
                                                                      Start(Timer::G, First), Start(Timer::H, First)]),

            (Accepted, Event::Success)               => (Accepted, &[Transmit]),
            (Accepted, Event::Ack)                   => (Accepted, &[Deliver]),
            (Accepted, Event::Fired(Timer::L))       => (Terminated, NOTHING),

            (Completed, Event::Request)              => (Completed, &[Retransmit]),
            (Completed, Event::Fired(Timer::G))      => (Completed, &[Retransmit, Start(Timer::G, Doubled)]),
            (Completed, Event::Fired(Timer::H))      => (Terminated, &[Timeout]),
            (Completed, Event::Ack)                  => (Confirmed, &[Stop(Timer::G), Start(Timer::I, First)]),

            (Confirmed, Event::Fired(Timer::I))      => (Terminated, NOTHING),

            (Proceeding | Accepted | Completed, Event::TransportError)
                                                     => (self, &[TransportFailed]),
            (state, _)                               => (state, NOTHING),
        }
    }

    fn is_terminated(self) -> bool {
        self == State::Terminated
    }
}
