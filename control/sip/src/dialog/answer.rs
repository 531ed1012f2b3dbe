//! A 2xx to INVITE that waits for its ACK (RFC 3261 13.3.1.4): the UAS core repeats it itself, over TCP too, T1 doubling
//! to T2, and ends the call with BYE after 64*T1.
//!
//! Kept by the owner of the dialog from the 2xx on, for re-INVITE as well. Repeat it with
//! [`Layer::respond`](crate::transaction::Layer::respond).

use std::time::Instant;

use crate::message::{Method, Request, Response};
use crate::timers::{Base, Repeat, Repetition};

/// A 2xx without its ACK.
#[derive(Debug, Clone)]
pub struct Unacknowledged {
    response: Response,
    cseq: u32,
    repetition: Repetition,
}

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due<'a> {
    /// Send this again.
    Repeat(&'a Response),
    /// No ACK came: send BYE. Said once.
    GiveUp,
}

impl Unacknowledged {
    /// From the moment the 2xx to the INVITE with this CSeq number is sent.
    pub fn new(now: Instant, base: Base, cseq: u32, response: Response) -> Self {
        Self { response, cseq, repetition: Repetition::new(now, base, Some(base.t2)) }
    }

    /// Whether this ACK, already matched to the dialog, is the one: drop `self` then.
    pub fn is_acknowledged_by(&self, ack: &Request) -> bool {
        ack.method == Method::Ack && ack.headers.cseq().is_ok_and(|cseq| cseq.number == self.cseq)
    }

    /// When to call `handle_timeout`.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.repetition.next_timeout()
    }

    /// What is due now.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due<'_>> {
        self.repetition.handle_timeout(now).map(|due| match due {
            Repeat::Again => Due::Repeat(&self.response),
            Repeat::GiveUp => Due::GiveUp,
        })
    }
}
