//! Packet drivers: what moves packets between the network and the engine. Each implements
//! [`Driver`](nebula_core::driver::Driver) for the engine and offers its worker a wait and a receive.
//!
//! `uring` is io_uring over ordinary sockets (Linux 6.0 or later). Where io_uring is not available there is no driver:
//! `uring::Error` says why it is not, and the dataplane does not start. `xdp` adds AF_XDP to it on chosen interfaces.
//! `sim` is a seeded network in virtual time, for tests.

#![deny(unsafe_code)]

pub mod sim;
#[allow(unsafe_code)]
pub mod uring;
#[allow(unsafe_code)]
pub mod xdp;

use nebula_core::driver::{Driver, Incoming, Socket};
use rustix::fd::OwnedFd;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use uring::Gather;

/// What a worker's loop asks of a driver, apart from what its engine does.
pub trait PacketDriver: Driver + 'static {
    /// What the engine drives while packets are handed to it.
    type Turn<'a>: Driver;

    /// Sends what is queued and sleeps until a packet comes, the eventfd is raised or `timeout` is over. With `gather` it may
    /// sleep on to gather more.
    fn wait(&mut self, timeout: Option<Duration>, gather: Option<Gather>) -> io::Result<()>;

    /// Hands the packets that have come to `handle`, several at once, which may drive the driver meanwhile. What it says of
    /// each in `Incoming::forward` is then done.
    fn receive<F>(&mut self, handle: F)
    where
        F: for<'a> FnMut(&mut Self::Turn<'a>, &mut [Incoming<'_>]);

    /// A socket whose peer the network has called unreachable since the last turn.
    fn take_unreachable(&mut self) -> Option<Socket>;

    /// Ends the receive of a socket that is to go to another worker; what it has taken is handed in by the next `receive`.
    fn rest(&mut self, socket: Socket);

    /// A second descriptor of a socket, with which another worker goes on.
    fn share(&self, socket: Socket) -> Option<OwnedFd>;

    /// Another worker's sockets: the next opens of their addresses take them. What was not taken is closed by the next call.
    fn adopt(&mut self, sockets: [Option<(SocketAddr, OwnedFd)>; 2]);

    /// What was counted so far, over all ways.
    fn counters(&self) -> uring::Counters;

    /// Of that, what AF_XDP did.
    fn frame_counters(&self) -> xdp::Counters;
}

impl PacketDriver for uring::Uring {
    type Turn<'a> = Self;

    fn wait(&mut self, timeout: Option<Duration>, gather: Option<Gather>) -> io::Result<()> {
        Self::wait(self, timeout, gather)
    }

    fn receive<F>(&mut self, handle: F)
    where
        F: FnMut(&mut Self, &mut [Incoming<'_>]),
    {
        Self::receive(self, handle);
    }

    fn take_unreachable(&mut self) -> Option<Socket> {
        Self::take_unreachable(self)
    }

    fn rest(&mut self, socket: Socket) {
        Self::rest(self, socket);
    }

    fn share(&self, socket: Socket) -> Option<OwnedFd> {
        Self::share(self, socket)
    }

    fn adopt(&mut self, sockets: [Option<(SocketAddr, OwnedFd)>; 2]) {
        Self::adopt(self, sockets);
    }

    fn counters(&self) -> uring::Counters {
        Self::counters(self)
    }

    fn frame_counters(&self) -> xdp::Counters {
        xdp::Counters::default()
    }
}
