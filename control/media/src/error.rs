//! Why the agent refuses a request, and as what the caller sees it on the bus.

use crate::offer_answer;
use crate::ring_client;
use nebula_bus::Error as BusError;
use nebula_bus::error::code;
use nebula_ring::event::Reason;

/// When to try again what had no room: about when some call may have ended.
const RETRY_AFTER_S: u32 = 2;

/// Why a request was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Neither the agent nor the dataplane has a stream of this name.
    #[error("no such stream")]
    UnknownStream,
    /// Its dataplane is gone, and it is not yet there again.
    #[error("the stream is being made again in another dataplane")]
    StreamReturning,
    /// Somebody with a higher fence commands it.
    #[error("fence {fence} is lower than {seen}: another switchboard has taken the call over")]
    Fenced {
        /// As it came.
        fence: u64,
        /// The highest so far.
        seen: u64,
    },
    /// It was lost with its dataplane and could not be made again; all one can do is destroy it.
    #[error("the stream was lost with its dataplane")]
    StreamLost,
    /// The step was refused.
    #[error(transparent)]
    Negotiation(#[from] offer_answer::Error),
    /// A stream cannot be bridged with itself.
    #[error("a stream cannot be bridged with itself")]
    SameStream,
    /// Only streams of one call are sure to share a worker.
    #[error("the streams live on workers {a} and {b}")]
    DifferentWorkers {
        /// One stream's.
        a: usize,
        /// The other's.
        b: usize,
    },
    /// Every worker has more to do than it should: calls that exist keep their quality, new ones go elsewhere.
    #[error("all {workers} workers of the dataplane are overloaded")]
    Overloaded {
        /// How many there are.
        workers: usize,
    },
    /// Every pair of ports is in use.
    #[error("no RTP port is free")]
    NoPorts,
    /// The dataplane could not do it, or is not there.
    #[error(transparent)]
    Dataplane(#[from] ring_client::Error),
    /// The system's source of random numbers failed.
    #[error("no random numbers")]
    NoRandom,
}

impl From<Error> for BusError {
    fn from(error: Error) -> Self {
        use ring_client::Error::{Busy, Gone, Refused, TimedOut};
        let text = error.to_string();
        match &error {
            Error::UnknownStream | Error::Dataplane(Refused(Reason::UnknownStream)) => {
                BusError::business("unknown_stream", text)
            }
            Error::StreamReturning => BusError::transient("stream_returning", text),
            Error::Fenced { .. } => BusError::permanent(code::FENCED, text),
            Error::StreamLost => BusError::business("stream_lost", text),
            Error::Negotiation(why) => BusError::business(why.code(), text),
            Error::SameStream => BusError::business("same_stream", text),
            Error::DifferentWorkers { .. } => BusError::business("different_workers", text),
            Error::NoPorts | Error::Dataplane(Refused(Reason::PortInUse)) => {
                BusError::transient("no_ports", text).retry_after_s(RETRY_AFTER_S)
            }
            Error::Overloaded { .. } => BusError::transient("overloaded", text).retry_after_s(RETRY_AFTER_S),
            Error::Dataplane(Busy) => BusError::transient("busy", text).retry_after_s(RETRY_AFTER_S),
            Error::Dataplane(Gone | TimedOut) => BusError::transient("no_dataplane", text),
            Error::Dataplane(Refused(Reason::TableFull | Reason::NoFileDescriptor)) => {
                BusError::transient("dataplane_full", text).retry_after_s(RETRY_AFTER_S)
            }
            Error::Dataplane(Refused(_)) | Error::NoRandom => BusError::permanent("internal", text),
        }
    }
}
