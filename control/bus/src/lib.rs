//! How roles speak to each other: typed requests and events, as JSON-RPC 2.0, over a backend that carries bytes.
//!
//! A role calls [`Bus::call`], serves [`Inbox::recv`] (with [`dispatch!`] as its table), publishes and subscribes
//! [`contract::Event`]s. The crate knows no role's insides; [`contract`] is all that roles share. The in-process backend
//! ([`Bus::local`]) carries the very bytes that the one over Redis does ([`Bus::redis`]), behind the seam in `backend.rs`.

#![forbid(unsafe_code)]

pub mod contract;
pub mod error;
pub mod events;
pub mod membership;
pub mod redis;
pub mod registry;
pub mod rpc;
pub mod serve;
pub mod snapshots;

mod backend;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod limits;
mod local;
mod recent;
mod wire;

pub use error::{Category, Error};
pub use events::Subscription;
pub use membership::Membership;
pub use registry::Announcement;
pub use rpc::{Bus, Context, Counts, Target};
pub use serve::{Call, Inbox, Request};
pub use snapshots::{Keep, Snapshots};
