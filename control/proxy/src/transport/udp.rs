//! One UDP socket: a task that reads and parses, and a send that never waits.
//!
//! A wake reads up to [`BATCH_MAX`] datagrams before it yields. A datagram is copied once, from the task's own buffer to one
//! of its size; all that the parser yields are slices of that.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use nebula_sip::message::Message;
use nebula_sip::{Flow, Protocol};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;

use super::counters::Counters;
use super::local::Routes;
use super::{Inbound, event_of};

/// Datagrams read per wake before other tasks get their turn.
const BATCH_MAX: usize = 64;
/// The largest datagram, bytes.
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A bound socket.
#[derive(Clone)]
pub struct Socket {
    socket: Arc<UdpSocket>,
    bound: SocketAddr,
    routes: Arc<Routes>,
    counters: Arc<Counters>,
}

impl Socket {
    pub fn new(socket: UdpSocket, routes: Arc<Routes>, counters: Arc<Counters>) -> Self {
        let bound = socket.local_addr().unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)));
        Self { socket: Arc::new(socket), bound, routes, counters }
    }

    /// The address it is bound to, possibly unspecified.
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Whether a flow with these addresses goes over this socket.
    pub fn serves(&self, local: SocketAddr, remote: SocketAddr) -> bool {
        self.bound.is_ipv4() == remote.is_ipv4()
            && self.bound.port() == local.port()
            && (self.bound.ip().is_unspecified() || self.bound.ip() == local.ip())
    }

    /// Sends at once; a full socket buffer loses the datagram as the network might, and the sender's timers repeat it.
    pub fn send(&self, message: &[u8], remote: SocketAddr) -> io::Result<()> {
        match self.socket.try_send_to(message, remote) {
            Ok(_) => {
                self.counters.sent(Protocol::Udp);
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.counters.dropped_send.increment(1);
                Ok(())
            }
            Err(error) => {
                self.counters.dropped_send.increment(1);
                Err(error)
            }
        }
    }

    /// Reads until the edge is gone.
    pub async fn receive(self, inbound: mpsc::Sender<Inbound>) {
        let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
        while !inbound.is_closed() {
            if self.socket.readable().await.is_err() {
                return;
            }
            for _ in 0..BATCH_MAX {
                match self.socket.try_recv_from(&mut buffer) {
                    Ok((len, remote)) => self.take(&buffer[..len], remote, &inbound),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    // An ICMP error of an earlier send; the socket itself is well.
                    Err(_) => {}
                }
            }
            tokio::task::yield_now().await;
        }
    }

    fn take(&self, datagram: &[u8], remote: SocketAddr, inbound: &mpsc::Sender<Inbound>) {
        // Port 0 cannot be answered.
        if datagram.iter().all(|b| matches!(b, b'\r' | b'\n' | b' ' | 0)) || remote.port() == 0 {
            self.counters.keepalives.increment(1);
            return;
        }
        self.counters.received(Protocol::Udp);
        let parsed = Message::parse(Bytes::copy_from_slice(datagram));
        let Some(event) = event_of(parsed, Protocol::Udp, remote, &self.counters) else { return };
        let local = self.routes.concrete(self.bound, remote);
        let flow = Flow { protocol: Protocol::Udp, local, remote, connection: 0 };
        if inbound.try_send(Inbound { flow, at: Instant::now(), event }).is_err() {
            self.counters.dropped_overload.increment(1);
        }
    }
}
