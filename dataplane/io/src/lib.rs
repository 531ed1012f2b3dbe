//! Packet drivers: what moves packets between the network and the engine. Each implements
//! [`Driver`](nebula_core::driver::Driver) for the engine and offers its worker a wait and a receive.
//!
//! `uring` is io_uring over ordinary sockets (Linux 6.0 or later). Where io_uring is not available there is no driver yet:
//! `uring::Error` says why it is not, and the dataplane does not start. AF_XDP comes later.
//! `sim` is a seeded network in virtual time, for tests.

#![deny(unsafe_code)]

pub mod sim;
#[allow(unsafe_code)]
pub mod uring;
