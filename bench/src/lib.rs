//! The side-by-side runs: what Nebula and its peers cost for the same work, in the same run, on the same machine.
//!
//! `relay-bench` measures the relay of RTP and SRTP, `call-bench` whole calls, `survival-bench` what it takes to come back,
//! `srtp-bench` what it costs to protect a packet. Each prints a table; `make bench` runs them, and `make bench-peers`
//! what `relay-bench peers` holds against the limits.

#![forbid(unsafe_code)]

pub mod bare;
pub mod dataplane;
pub mod load;
pub mod place;
pub mod process;
pub mod rtpengine;
pub mod servers;
pub mod srtp;
pub mod system;
