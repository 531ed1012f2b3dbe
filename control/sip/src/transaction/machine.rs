//! What the four transaction machines have in common: their events, their actions and their three methods.
//!
//! A machine is a `Copy` state; `step` is a pure table from (state, event) to (state, actions) that can be held against
//! the figure of RFC 3261 section 17 that the module names. Anything a table does not list leaves the state as it is and
//! asks for nothing. The layer carries the actions out, in order.

use crate::timers::{Pace, Timer};

/// What can happen to a transaction. A client receives the responses, a server's user sends them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Event {
    /// The same request came again (servers).
    Request,
    /// An ACK that belongs to this INVITE (servers).
    Ack,
    /// A 1xx response.
    Provisional,
    /// A 2xx response.
    Success,
    /// A 300 to 699 response.
    Failure,
    /// A timer of this transaction ran out.
    Fired(Timer),
    /// The transport could not send for this transaction.
    TransportError,
}

/// What a machine asks the layer to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send the message that came with the event and keep it for retransmission.
    Transmit,
    /// Send the kept message again; nothing if there is none yet.
    Retransmit,
    /// Send the ACK for the refusal that came with the event (17.1.1.3).
    Ack,
    /// Hand the message that came with the event to the transaction user.
    Deliver,
    /// Tell the user that no answer (client) or no ACK (server) came in time.
    Timeout,
    /// Tell the user that the transport failed.
    TransportFailed,
    /// Let a timer run. A transaction has one repeating timer and one deadline; a later one takes its kind's place.
    Start(Timer, Pace),
    /// Stop a timer.
    Stop(Timer),
}

/// Nothing to do.
pub const NOTHING: &[Action] = &[];

/// The next state and what to do on the way there.
pub type Step<S> = (S, &'static [Action]);

/// The three methods of every transaction machine.
pub trait Machine: Copy + Sized {
    /// The state after the first request, sent (client) or received (server).
    fn start() -> Step<Self>;
    /// One arc of the figure.
    fn step(self, event: Event) -> Step<Self>;
    /// Whether the transaction is to be destroyed at once.
    fn is_terminated(self) -> bool;
}

/// The event that a response is to a machine.
pub const fn response_event(code: u16) -> Event {
    match code {
        ..200 => Event::Provisional,
        200..300 => Event::Success,
        300.. => Event::Failure,
    }
}
