//! What each fuzz target does with its bytes: plain functions that panic if something is wrong.
//!
//! `scripts/fuzz` runs them under libFuzzer on nightly. The crates they are about take in the same files by `#[path]`, so
//! that an ordinary `cargo test` runs the whole corpus, and mutations of it, through each.

#[cfg(feature = "roles")]
pub mod call;
pub mod control;
#[cfg(feature = "roles")]
pub mod envelope;
#[cfg(feature = "roles")]
pub mod leg;
pub mod frames;
pub mod packets;
#[cfg(feature = "roles")]
pub mod sdp;
pub mod sip;
