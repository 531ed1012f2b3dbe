//! What Nebula keeps: customers, extensions, registered locations, calls, records, the outbox and the audit log.
//!
//! Roles call the functions of one module per aggregate with a [`Store`] handle. Every change is one transaction that
//! also writes its event into the outbox; [`publisher`] carries events from there to whoever listens. Order of every
//! change: database first, cache second, event third. Knows no role and no bus.
//!
//! SQLite or Postgres, behind the same entities and migrations; what is one's own is in `sqlite.rs` or `postgres.rs`.

#![forbid(unsafe_code)]

pub mod audit;
pub mod cache;
pub mod calls;
pub mod cdrs;
pub mod error;
pub mod extensions;
pub mod locations;
pub mod migration;
pub mod outbox;
pub mod publisher;
pub mod snapshots;
pub mod store;

mod clock;
mod database;
mod entity;
mod postgres;
mod spool;
mod sqlite;
mod writer;

pub use cache::{Cache, CacheCounts, CacheError};
pub use clock::steady_unix_ms;
pub use error::{Error, Result};
pub use spool::Status;
pub use store::{Options, Store, WriteCounts, now_unix_ms};

/// A future whose type is forgotten.
pub(crate) type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;
