//! What the end-to-end tests are made of: whole systems and real peers, on free ports, in temporary folders.
//!
//! Everything a test starts is ended when its handle is dropped, by pid. Waiting is for an event, with a deadline.

#![forbid(unsafe_code)]

pub mod audio;
pub mod baresip;
pub mod faults;
pub mod load;
pub mod process;
pub mod script;
pub mod sipp;
pub mod system;
pub mod testdata;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

/// Waits until `probe` has something, and says what it waited for when the deadline passes.
pub fn wait_for<T>(what: &str, deadline: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {deadline:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Where ports for peers are taken from: below those that the kernel gives to whoever binds 0 or connects, so that nobody
/// takes one between our look and the peer's start by chance, and above the RTP ports of the systems under test.
const PEER_PORTS: std::ops::Range<u16> = 20_000..30_000;

/// A UDP and TCP port on loopback that was free a moment ago, for peers that cannot choose one by themselves.
pub fn free_port() -> u16 {
    use std::hash::{BuildHasher, RandomState};
    loop {
        let random = RandomState::new().hash_one(Instant::now());
        let port = PEER_PORTS.start + (random % PEER_PORTS.len() as u64) as u16;
        let is_free = |ip: IpAddr| UdpSocket::bind((ip, port)).is_ok() && TcpListener::bind((ip, port)).is_ok();
        if is_free(Ipv4Addr::LOCALHOST.into()) && is_free(Ipv6Addr::LOCALHOST.into()) {
            return port;
        }
    }
}

/// Whether somebody has the UDP address.
pub fn udp_taken(address: SocketAddr) -> bool {
    UdpSocket::bind(address).is_err()
}
