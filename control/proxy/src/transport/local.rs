//! Which of our addresses a peer sees: what the kernel's routes say, asked through a connected but silent UDP socket.
//!
//! Sockets bound to all addresses do not know it, but Via, Contact and SDP need it. Cached for a minute per peer.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::unspecified_like;

/// Peers remembered; beyond it all are forgotten and asked anew.
const PEERS_MAX: usize = 4096;
const FRESH: Duration = Duration::from_secs(60);

/// A cache of route look-ups.
#[derive(Default)]
pub struct Routes {
    by_peer: Mutex<HashMap<IpAddr, (Instant, IpAddr)>>,
}

impl Routes {
    /// The address that `remote` sees of a socket bound to `bound`.
    pub fn concrete(&self, bound: SocketAddr, remote: SocketAddr) -> SocketAddr {
        if !bound.ip().is_unspecified() {
            return bound;
        }
        let now = Instant::now();
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let known = by_peer.get(&remote.ip()).copied();
        let fresh = known.filter(|(asked, _)| now.duration_since(*asked) < FRESH).map(|(_, ip)| ip);
        let ip = fresh.or_else(|| {
            let ip = ask(remote)?;
            if by_peer.len() >= PEERS_MAX {
                by_peer.clear();
            }
            by_peer.insert(remote.ip(), (now, ip));
            Some(ip)
        });
        // Without a file descriptor nobody can be asked, but routes seldom change.
        let ip = ip.or(known.map(|(_, ip)| ip)).unwrap_or(bound.ip());
        SocketAddr::new(ip, bound.port())
    }

    /// Whether an address belongs to this host: only then a socket can be bound to it.
    pub fn is_local(&self, ip: IpAddr) -> bool {
        UdpSocket::bind((ip, 0)).is_ok()
    }
}

fn ask(remote: SocketAddr) -> Option<IpAddr> {
    let socket = UdpSocket::bind((unspecified_like(remote), 0)).ok()?;
    socket.connect(remote).ok()?;
    socket.local_addr().ok().map(|local| local.ip())
}
