//! A driver that is none, and streams to measure the engine with.

use nebula_core::driver::{Driver, OpenError, Socket};
use nebula_ring::command::{Mode, PayloadType, StreamConfig};
use nebula_ring::srtp::SrtpConfig;
use std::net::{Ipv4Addr, SocketAddr};

/// Takes everything and does nothing.
pub struct Nothing;

impl Driver for Nothing {
    fn open(&mut self, _: Socket, _: SocketAddr) -> Result<(), OpenError> {
        Ok(())
    }
    fn close(&mut self, _: Socket) {}
    fn connect(&mut self, _: Socket, _: SocketAddr) {}
    fn disconnect(&mut self, _: Socket) {}
    fn send(&mut self, _: Socket, _: SocketAddr, _: &[u8]) {}
}

/// A stream's peer.
pub fn remote(stream: u32) -> SocketAddr {
    SocketAddr::from(([10, 0, (stream >> 8) as u8, stream as u8], 4000))
}

/// A stream's leg of a bridged call.
pub fn bridged(stream: u32, srtp: Option<SrtpConfig>) -> StreamConfig {
    StreamConfig {
        local_ip: Ipv4Addr::LOCALHOST.into(),
        rtp_port: 10_000 + 2 * stream as u16,
        rtcp_port: 10_001 + 2 * stream as u16,
        remote_rtp: Some(remote(stream)),
        remote_rtcp: None,
        nat_expected: false,
        learning_window_ms: 0,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Bridge,
        rtp_timeout_ms: 30_000,
        ssrc: 1,
        srtp,
        payload_types: [PayloadType { number: 0, forward_as: 0, clock_rate_hz: 8000 }].into_iter().collect(),
    }
}
