//! What goes into the transaction layer besides messages, and what comes out of it.

use std::net::SocketAddr;

use bytes::Bytes;
use thiserror::Error;

use super::table::TransactionId;
use crate::flow::Flow;
use crate::message::{Method, Request, Response, StatusCode};
use crate::timers::Base;

/// How a layer is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// T1, T2, T4 and when 100 Trying is due.
    pub timers: Base,
    /// At most so many transactions; more requests get 503.
    pub transactions_max: u32,
    /// The Retry-After of such a 503.
    pub retry_after_s: u32,
    /// What our Via says instead of the flow's local address, behind a NAT of ours.
    pub sent_by: Option<SocketAddr>,
}

impl Default for Options {
    /// 200,000 transactions: at 32 s each, 6,000 new ones per second, and below 200 MiB with their messages.
    fn default() -> Self {
        Self { timers: Base::default(), transactions_max: 200_000, retry_after_s: 5, sent_by: None }
    }
}

/// What the layer wants done. [`Output::Terminated`] is the last word about an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes. Report a failure with [`Layer::transport_failed`](super::Layer::transport_failed) and the id.
    Transmit {
        /// Where to. Over UDP its remote address is where the Via wants the answer.
        flow: Flow,
        /// A whole message.
        bytes: Bytes,
        /// The transaction that sends; none for an answer or ACK without state.
        id: Option<TransactionId>,
    },
    /// A new request, never ACK or CANCEL, its top Via stamped. Answer it with
    /// [`Layer::respond`](super::Layer::respond).
    Request {
        /// Its server transaction.
        id: TransactionId,
        /// The request.
        request: Box<Request>,
        /// The flow it came over.
        flow: Flow,
    },
    /// An ACK that is no part of a transaction: that of a 2xx, for the dialog to match; or a stray one.
    Ack {
        /// The ACK.
        request: Box<Request>,
        /// The flow it came over.
        flow: Flow,
    },
    /// An open INVITE is taken back. CANCEL itself is answered; answer the INVITE with 487.
    Cancel {
        /// The INVITE's server transaction.
        id: TransactionId,
        /// The CANCEL, for its Reason.
        request: Box<Request>,
    },
    /// A response to a request of ours. To INVITE several may come, even several 2xx.
    Response {
        /// Its client transaction.
        id: TransactionId,
        /// The response.
        response: Box<Response>,
        /// The flow it came over.
        flow: Flow,
    },
    /// Client: no final response came (408 to whoever asked). INVITE server: no ACK came for a refusal.
    Timeout {
        /// The transaction.
        id: TransactionId,
    },
    /// The transport failed it (503 to whoever asked). A server INVITE transaction lives on.
    TransportFailed {
        /// The transaction.
        id: TransactionId,
    },
    /// The transaction is gone.
    Terminated {
        /// It was.
        id: TransactionId,
    },
}

/// Why a request was not sent.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RequestError {
    /// ACK and CANCEL: see [`Layer::send_ack`](super::Layer::send_ack) and [`Layer::cancel`](super::Layer::cancel).
    #[error("{0} opens no transaction")]
    NoTransactionOfItsOwn(Method),
    /// The table is full.
    #[error("{transactions_max} transactions are open")]
    Full {
        /// The cap.
        transactions_max: u32,
    },
}

/// Why a response was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RespondError {
    /// The transaction is gone, or never was.
    #[error("no transaction {0}")]
    Unknown(TransactionId),
    /// A final response was sent already, or it is a client transaction.
    #[error("transaction {id} cannot send {status} any more")]
    NotNow {
        /// The transaction.
        id: TransactionId,
        /// What was to be sent.
        status: StatusCode,
    },
}

/// Why an INVITE cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CancelError {
    /// The transaction is gone, or never was.
    #[error("no transaction {0}")]
    Unknown(TransactionId),
    /// A final response came: ACK and BYE end an answered call.
    #[error("transaction {0} has its final response")]
    TooLate(TransactionId),
    /// Only INVITE is cancelled.
    #[error("transaction {0} is no INVITE of ours")]
    NoInvite(TransactionId),
}

/// What happened, since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// New requests that opened a transaction.
    pub requests_received: u64,
    /// Repeated requests that were absorbed.
    pub requests_repeated: u64,
    /// Requests that came over two ways (482).
    pub requests_merged: u64,
    /// Requests refused, received or our own, because the table was full.
    pub refused_full: u64,
    /// CANCELs that took an INVITE back.
    pub cancels_received: u64,
    /// CANCELs without an INVITE (481).
    pub cancels_unmatched: u64,
    /// Responses that matched a transaction.
    pub responses_received: u64,
    /// Responses that matched none, dropped.
    pub responses_stray: u64,
    /// Messages sent again.
    pub retransmissions: u64,
    /// Timers B, F, H and the end of a cancelled INVITE.
    pub timeouts: u64,
    /// Transport errors.
    pub transport_failures: u64,
}
