//! What operators look through and turn: `nebula top`, `nebula stream`, `nebula capture`, `nebula tune`. Called by the
//! `nebula` binary, a command each, on its main thread.
//!
//! The crate reads the dataplane's segment as an observer and never attaches as control, so nothing here can disturb a
//! call. No runtime, no database, no network but the captured one: a machine whose control is broken can still be looked at
//! (but for the keys of `nebula capture --decrypt`, which only control has).
//!
//! Each command is split as all else: a pure core (`quality`, `view`, `explain`, `capture::filter`, `tune::check`) and a
//! thin shell that reads and prints.

#![forbid(unsafe_code)]

pub mod capture;
mod codec;
mod explain;
mod quality;
mod sample;
pub mod stream;
pub mod top;
pub mod tune;
mod view;

pub use sample::Unobservable;
