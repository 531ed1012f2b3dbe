//! Transactions: RFC 3261 section 17 with the corrections of RFC 6026.
//!
//! Four machines that are pure tables, one file each ([`invite_client`], [`invite_server`], [`client`], [`server`]), and
//! the [`Layer`] that matches messages to them, carries out what they ask for and runs their timers. Called by the
//! proxy's edge; sans-IO.

pub mod client;
mod entry;
pub mod invite_client;
pub mod invite_server;
mod key;
mod layer;
mod machine;
pub mod server;
mod table;
mod token;
mod types;
mod wire;

pub use layer::{Layer, SavedTransaction};
pub use machine::{Action, Event, Machine, Step, response_event};
pub use table::TransactionId;
pub use token::Tokens;
pub use types::{CancelError, Counters, Options, Output, RequestError, RespondError};
