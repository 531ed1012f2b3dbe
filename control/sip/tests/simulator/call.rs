//! One call as an agent keeps it: plain data that goes into its snapshot, and the clocks beside it.

use std::time::Instant;

use bytes::Bytes;
use nebula_sip::dialog::{Dialog, Forks, Renegotiation, SavedUnacknowledged, Unacknowledged};
use nebula_sip::reliable::{SavedSender, Sender};
use nebula_sip::session_timer::{SavedWatch, Watch};
use nebula_sip::snapshot::{self, Resume};
use nebula_sip::timers::Base;
use nebula_sip::transaction::{SavedTransaction, TransactionId};
use nebula_sip::{Flow, Method, Request, Response};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Our INVITE, or the peer's, has no final response.
    Setup,
    /// The same, and we took ours back.
    Cancelling,
    /// A 2xx went out (and waits for its ACK) or came.
    Talking,
    /// Our BYE is out.
    Ending,
    /// Nothing more is sent; transactions may linger.
    Over,
}

/// What the user will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Plan {
    /// Answer the peer's INVITE or re-INVITE.
    Respond(u16),
    /// The same with a reliable 183.
    RespondReliably,
    /// Take our INVITE back, if it is still open.
    GiveUp,
    Reinvite,
    Update,
    Info,
    HangUp,
}

/// How an INVITE of ours ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    Answered,
    Refused,
    Failed,
}

/// Whose a transaction is, and what it must be about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub call: Option<u32>,
    pub ours: bool,
    pub method: Method,
    pub cseq: u32,
    pub sip_call_id: String,
    /// Whether it is the request that made the call.
    pub first: bool,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Call {
    pub key: u32,
    pub is_uac: bool,
    pub sip_call_id: String,
    pub local_tag: String,
    pub flow: Flow,
    pub phase: Phase,
    pub dialog: Option<Dialog>,
    pub forks: Option<Forks>,
    pub renegotiation: Renegotiation,
    /// The peer's INVITE or re-INVITE that waits for an answer.
    pub open: Option<Request>,
    /// The CSeq of our latest re-INVITE that was answered, and its ACK.
    #[serde(with = "snapshot::wire::maybe")]
    pub ack: Option<Bytes>,
    pub ack_cseq: u32,
    pub outcome: Option<Outcome>,
    /// In ms from the start of the world.
    pub plans: Vec<(u64, Plan)>,
    #[serde(skip)]
    pub clocks: Clocks,
}

/// What has a clock, or the name of a transaction.
#[derive(Debug, Default)]
pub struct Clocks {
    /// The transaction of `open`, and of the 2xx that is repeated.
    pub open_id: Option<TransactionId>,
    pub invite_id: Option<TransactionId>,
    pub unacknowledged: Option<(TransactionId, Unacknowledged)>,
    pub sender: Option<(TransactionId, Sender<Response>)>,
    pub watch: Option<Watch>,
}

/// A call in a snapshot.
#[derive(Serialize, Deserialize)]
pub struct SavedCall {
    pub call: Call,
    pub transactions: Vec<(Owner, SavedTransaction)>,
    /// Which of the transactions is which.
    pub open_at: Option<usize>,
    pub invite_at: Option<usize>,
    pub unacknowledged: Option<(usize, SavedUnacknowledged)>,
    pub sender: Option<(usize, SavedSender<Response>)>,
    pub watch: Option<SavedWatch>,
}

impl Call {
    pub fn next_timeout(&self, start: Instant) -> Option<Instant> {
        let plan = self.plans.iter().map(|(ms, _)| start + std::time::Duration::from_millis(*ms)).min();
        let clocks = &self.clocks;
        [
            plan,
            clocks.unacknowledged.as_ref().and_then(|(_, unacknowledged)| unacknowledged.next_timeout()),
            clocks.sender.as_ref().and_then(|(_, sender)| sender.next_timeout()),
            clocks.watch.as_ref().and_then(Watch::next_timeout),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    pub fn over(&mut self) {
        self.phase = Phase::Over;
        self.plans.clear();
        self.clocks.unacknowledged = None;
        self.clocks.watch = None;
        if let Some((_, sender)) = &mut self.clocks.sender {
            sender.finish();
        }
    }
}

impl SavedCall {
    /// The clocks of a call whose transactions were taken up as `ids`.
    pub fn clocks(&self, ids: &[Option<TransactionId>], base: Base, resume: &Resume) -> Clocks {
        let id = |at: usize| ids.get(at).copied().flatten();
        let unacknowledged = self
            .unacknowledged
            .clone()
            .and_then(|(at, saved)| Some((id(at)?, Unacknowledged::resume(saved, base, resume).expect("undamaged"))));
        let sender = self
            .sender
            .clone()
            .and_then(|(at, saved)| Some((id(at)?, Sender::resume(saved, base, resume).expect("undamaged"))));
        Clocks {
            open_id: self.open_at.and_then(id),
            invite_id: self.invite_at.and_then(id),
            unacknowledged,
            sender,
            watch: self.watch.map(|saved| Watch::resume(saved, resume)),
        }
    }
}
