//! The tester's own SIP, over `rsip`: it shares nothing with the product, so it cannot repeat the product's mistakes.
//!
//! - `message`: requests, responses, digest credentials and SDP.
//! - `endpoint`: a UDP socket, its messages sorted by Call-ID, retransmission.
//! - `caller`, `callee`, `register`: what a phone does.

pub mod callee;
pub mod caller;
pub mod endpoint;
pub mod message;
pub mod register;

use std::time::Duration;

/// RFC 3261 section 17.1.1.1.
pub const T1: Duration = Duration::from_millis(500);

/// RFC 3261 section 17.1.2.1.
pub const T2: Duration = Duration::from_secs(4);

/// Timers B and F: 64 x T1.
pub const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(32);

/// Why a call, or a registration, came to nothing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Failure {
    /// A final refusal.
    #[error("{0}")]
    Refused(u16),
    /// No final response in time.
    #[error("timeout")]
    Timeout,
    /// A response without what it must have.
    #[error("malformed response: {0}")]
    Malformed(&'static str),
    /// Keys that don't fit, or none.
    #[error("a=crypto: {0}")]
    Crypto(&'static str),
    /// The other end's BYE came before ours.
    #[error("ended by the far end")]
    EndedEarly,
    /// This machine, not the system under test: sockets, ports.
    #[error("local: {0}")]
    Local(String),
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Local(error.to_string())
    }
}
