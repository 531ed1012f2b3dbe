//! The sans-IO media engine: packets, commands and the time go in; packets, events and statistics come out.
//!
//! One worker thread owns an [`Engine`](engine::Engine) and its [`Driver`](driver::Driver). Nothing here knows a socket,
//! a clock, a thread or a random source, and nothing allocates after `Engine::new`. A packet's path is `engine::receive`
//! -> `ingress::classify`
//! -> `ingress::unprotect` -> `wire` -> `ingress::latch` -> `source` (statistics) -> `egress::relay` -> `egress::protect` ->
//! `driver::Forward`. The tags of several packets are computed together (`batch`).
#![forbid(unsafe_code)]

mod apply;
pub mod batch;
pub mod driver;
pub mod egress;
pub mod engine;
mod ids;
pub mod ingress;
pub mod limits;
mod outlet;
pub mod record;
pub mod source;
pub mod srtp;
pub mod stats;
mod stream;
mod table;
pub mod time;
pub mod timers;
pub mod view;
pub mod wire;
