//! Sans-IO SIP: messages, transactions, dialogs, digest authentication.
//!
//! No socket, clock, thread or random source inside: bytes, times and nonces are handed in. The proxy's shell does the I/O.
#![forbid(unsafe_code)]

pub mod dialog;
pub mod digest;
pub mod flow;
pub mod message;
pub mod reliable;
pub mod session_timer;
pub mod snapshot;
pub mod timers;
pub mod transaction;

pub use flow::{Flow, Protocol};
pub use message::{Headers, Message, Method, Name, NameAddr, Request, Response, StatusCode, Uri, Via};
