//! A client transaction of a held leg (RFC 3261 section 17.1): one request, repeated until it is answered or its time is up.

use crate::media::unix_ns;
use crate::sip::message::cseq;
use crate::sip::{T1, T2, TRANSACTION_TIMEOUT};
use rsip::{Method, Request};
use serde::Serialize;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Milliseconds since 1970.
pub fn unix_ms() -> f64 {
    unix_ns() as f64 / 1e6
}

/// What came of a request.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Outcome {
    /// The final response; 0 if there was none in time.
    pub code: u16,
    /// Its Retry-After.
    pub retry_after_s: Option<u32>,
    /// When the request was first sent.
    pub sent_unix_ms: f64,
    /// When its final response came, or its time was up.
    pub final_unix_ms: f64,
    /// How often it was sent.
    pub tries: u32,
}

impl Outcome {
    /// Of a request that there was no dialog for.
    pub fn none() -> Self {
        let now = unix_ms();
        Self { code: 0, retry_after_s: None, sent_unix_ms: now, final_unix_ms: now, tries: 0 }
    }
}

/// Why it was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// The INVITE that makes the dialog; whether it has credentials.
    Setup { challenged: bool },
    /// One that changes it.
    Reinvite,
    /// Its end.
    Bye,
}

/// An open request.
pub struct Client {
    /// What is repeated.
    pub request: Request,
    /// The branch that an ACK of a refusal repeats.
    pub branch: String,
    /// Why.
    pub purpose: Purpose,
    /// Who wants to know.
    pub answer: Option<oneshot::Sender<Outcome>>,
    sent_unix_ms: f64,
    tries: u32,
    wait: Duration,
    next: Instant,
    end: Instant,
    proceeding: bool,
}

impl Client {
    /// One that was just sent; `patience` is how long a request in progress is waited for.
    pub fn new(
        request: Request,
        branch: String,
        purpose: Purpose,
        answer: Option<oneshot::Sender<Outcome>>,
        patience: Duration,
    ) -> Self {
        let now = Instant::now();
        let patience = if matches!(purpose, Purpose::Setup { .. }) { patience } else { TRANSACTION_TIMEOUT };
        let (sent_unix_ms, end) = (unix_ms(), now + patience);
        let (wait, next) = (T1, now + T1);
        Self { request, branch, purpose, answer, sent_unix_ms, tries: 1, wait, next, end, proceeding: false }
    }

    /// The same attempt goes on with another request: the first one was challenged.
    pub fn challenged(mut self, request: Request, branch: String) -> Self {
        let now = Instant::now();
        (self.request, self.branch, self.purpose) = (request, branch, Purpose::Setup { challenged: true });
        (self.wait, self.next, self.proceeding) = (T1, now + T1, false);
        self
    }

    /// Whether it is an INVITE.
    pub fn is_invite(&self) -> bool {
        self.request.method == Method::Invite
    }

    /// Whether a response with this CSeq is its own.
    pub fn is_answered_by(&self, its: &Option<(u32, Method)>) -> bool {
        its.is_some() && cseq(&self.request) == *its
    }

    /// A provisional response came.
    pub fn proceeds(&mut self) {
        self.proceeding = true;
    }

    /// When something is to be done next.
    pub fn due(&self) -> Instant {
        if self.proceeding && self.is_invite() { self.end } else { self.next.min(self.end) }
    }

    /// Whether its time is up.
    pub fn is_over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// It is sent once more.
    pub fn again(&mut self) {
        self.tries += 1;
        let doubled = self.wait * 2;
        self.wait = match (self.is_invite(), self.proceeding) {
            (true, _) => doubled,
            (false, false) => doubled.min(T2),
            (false, true) => T2,
        };
        self.next = Instant::now() + self.wait;
    }

    /// What came of it.
    pub fn outcome(&self, code: u16, retry_after_s: Option<u32>) -> Outcome {
        let (sent_unix_ms, tries) = (self.sent_unix_ms, self.tries);
        Outcome { code, retry_after_s, sent_unix_ms, final_unix_ms: unix_ms(), tries }
    }
}
