//! A 2xx to INVITE that waits for its ACK (RFC 3261 13.3.1.4): the UAS core repeats it itself, over TCP too, T1 doubling
//! to T2, and ends the call with BYE after 64*T1.
//!
//! Kept by the owner of the dialog from the 2xx on, for re-INVITE as well. Repeat it with
//! [`Layer::respond`](crate::transaction::Layer::respond).

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::message::{Method, Request, Response};
use crate::snapshot::{Resume, SnapshotError};
use crate::timers::{Base, Repeat, Repetition, SavedRepetition};

/// A 2xx without its ACK.
#[derive(Debug, Clone)]
pub struct Unacknowledged {
    response: Response,
    cseq: u32,
    repetition: Repetition,
}

/// An [`Unacknowledged`] in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedUnacknowledged {
    response: Response,
    cseq: u32,
    repetition: SavedRepetition,
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

    /// What is left of it; `None` once given up.
    pub fn save(&self, now: Instant) -> Option<SavedUnacknowledged> {
        let repetition = self.repetition.save(now)?;
        Some(SavedUnacknowledged { response: self.response.clone(), cseq: self.cseq, repetition })
    }

    /// Goes on where it was.
    pub fn resume(saved: SavedUnacknowledged, base: Base, resume: &Resume) -> Result<Self, SnapshotError> {
        let SavedUnacknowledged { response, cseq, repetition } = saved;
        if !response.status.is_success() {
            return Err(SnapshotError::Damaged("a 2xx that is none"));
        }
        Ok(Self { response, cseq, repetition: Repetition::resume(repetition, base, resume)? })
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
