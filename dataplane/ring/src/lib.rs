//! The ABI between control and dataplane: one shared-memory segment, its rings, its stream table and the socket by which
//! control attaches to it. No other crate knows the layout.
//!
//! The segment is a slice of 64-bit atomic words and nothing else, so that a partner that crashes in the middle of a write,
//! or lies, can confuse values but never memory: everything read from it is copied out and validated before use. The
//! only `unsafe` is the mapping itself.

#![deny(unsafe_code)]

pub mod attach;
pub mod command;
pub mod drops;
pub mod event;
#[allow(unsafe_code)]
mod mapping;
pub mod segment;
pub mod slot;
pub mod spsc;
pub mod srtp;
pub mod table;
pub mod wakeup;
pub mod word;
mod worker_end;

pub use attach::{Attached, Dataplane, SendError, WorkerHandle};
pub use command::{Command, Mode, PayloadType, PayloadTypes, StreamConfig, StreamId};
pub use drops::{DropCounters, DropReason};
pub use event::{Event, Reason};
pub use segment::Sizes;
pub use table::{StreamRecord, Table};
pub use worker_end::WorkerEnd;

/// The ABI's version. Both sides must have the same; raised by every change of layout or meaning.
pub const ABI_VERSION: u32 = 4;
