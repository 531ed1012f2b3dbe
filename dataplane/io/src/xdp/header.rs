//! The headers of what is sent to a peer: learned from a frame of its own, kept ready, and written in front of a payload that
//! stays where it is.

use super::checksum::{add, add_number, finish, finish_udp};
use super::frame::{
    ETHERNET_BYTES, ETHERTYPE_IPV4, HEADERS_BYTES_MAX, Headers, IPV4_BYTES, IPV6_BYTES, UDP, UDP_BYTES, pseudo_header,
};
use std::net::{IpAddr, SocketAddr};

/// Hops a packet may make: the kernel's default.
const HOPS: u8 = 64;
/// IPv4: do not fragment, as the kernel's sockets say (RFC 6864 then asks nothing of the identification).
const DO_NOT_FRAGMENT: [u8; 2] = [0x40, 0];

/// Headers to one peer, complete but for lengths and checksums.
#[derive(Debug, Clone)]
pub struct Template {
    bytes: [u8; HEADERS_BYTES_MAX],
    link_bytes: u8,
    len: u8,
    peer: SocketAddr,
    /// Sum of the IPv4 header without its length; unused for IPv6.
    ip_sum: u64,
    /// Sum of pseudo-header and ports without the length, which counts twice.
    udp_sum: u64,
}

/// Bytes 0 to 12 of an Ethernet header with the addresses exchanged.
fn exchanged(frame: &[u8]) -> [u8; 12] {
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&frame[6..12]);
    addresses[6..].copy_from_slice(&frame[..6]);
    addresses
}

impl Template {
    /// What goes back to whoever sent a frame: MAC addresses, IP addresses and ports exchanged, the same VLAN tags. None if
    /// the sender's MAC is a group's, for no sender has one.
    pub fn answering(frame: &[u8], headers: &Headers) -> Option<Self> {
        if frame[6] & 1 != 0 {
            return None;
        }
        let (ours, peer) = (headers.destination, headers.source);
        let link_bytes = headers.link_bytes;
        let mut bytes = [0; HEADERS_BYTES_MAX];
        bytes[..12].copy_from_slice(&exchanged(frame));
        bytes[12..link_bytes].copy_from_slice(&frame[12..link_bytes]);
        let ip = &mut bytes[link_bytes..];
        let ip_bytes = match (ours.ip(), peer.ip()) {
            (IpAddr::V4(ours), IpAddr::V4(peer)) => {
                ip[0] = 0x45;
                ip[6..8].copy_from_slice(&DO_NOT_FRAGMENT);
                [ip[8], ip[9]] = [HOPS, UDP];
                ip[12..16].copy_from_slice(&ours.octets());
                ip[16..20].copy_from_slice(&peer.octets());
                IPV4_BYTES
            }
            (IpAddr::V6(ours), IpAddr::V6(peer)) => {
                ip[0] = 0x60;
                [ip[6], ip[7]] = [UDP, HOPS];
                ip[8..24].copy_from_slice(&ours.octets());
                ip[24..40].copy_from_slice(&peer.octets());
                IPV6_BYTES
            }
            _ => return None,
        };
        let ip_sum = add(0, &ip[..ip_bytes]);
        let ([a, b], [c, d]) = (ours.port().to_be_bytes(), peer.port().to_be_bytes());
        let ports = [a, b, c, d];
        ip[ip_bytes..ip_bytes + 4].copy_from_slice(&ports);
        let udp_sum = add(pseudo_header(ours.ip(), peer.ip()), &ports);
        let len = (link_bytes + ip_bytes + UDP_BYTES) as u8;
        Some(Self { bytes, link_bytes: link_bytes as u8, len, peer, ip_sum, udp_sum })
    }

    /// Whom it reaches.
    #[inline]
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// Bytes of all headers.
    #[inline]
    pub fn headers_bytes(&self) -> usize {
        self.len.into()
    }

    /// The packet's length as the interface's MTU counts it.
    #[inline]
    pub fn packet_bytes(&self, payload_bytes: usize) -> usize {
        self.headers_bytes() - usize::from(self.link_bytes) + payload_bytes
    }

    /// Whether a frame came the way that this one goes: same peer, same addresses, same tags.
    #[inline]
    pub fn answers(&self, frame: &[u8], headers: &Headers) -> bool {
        let link_bytes = usize::from(self.link_bytes);
        let ours_ip = &self.bytes[link_bytes..];
        let same_local = match headers.destination.ip() {
            IpAddr::V4(ip) => ours_ip[12..16] == ip.octets(),
            IpAddr::V6(ip) => ours_ip[8..24] == ip.octets(),
        };
        headers.link_bytes == link_bytes
            && self.peer == headers.source
            && same_local
            && self.bytes[..12] == exchanged(frame)
            && self.bytes[12..link_bytes] == frame[12..link_bytes]
    }

    /// Writes all headers in front of the payload: `buffer[start..start + bytes]`. Returns where the frame begins; none if
    /// there is no room for them, or the packet is longer than a length field can say.
    #[inline]
    pub fn write(&self, buffer: &mut [u8], start: usize, bytes: usize) -> Option<usize> {
        let begin = start.checked_sub(self.headers_bytes())?;
        let udp_len = u16::try_from(UDP_BYTES + bytes).ok()?;
        let ip_len = u16::try_from(self.packet_bytes(bytes)).ok()?;
        let (front, payload) = buffer.get_mut(begin..start + bytes)?.split_at_mut(self.headers_bytes());
        front.copy_from_slice(&self.bytes[..self.headers_bytes()]);
        let (ip, udp) = front[usize::from(self.link_bytes)..]
            .split_at_mut(self.headers_bytes() - usize::from(self.link_bytes) - UDP_BYTES);
        if self.is_ipv4() {
            ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
            ip[10..12].copy_from_slice(&finish(add_number(self.ip_sum, ip_len)));
        } else {
            ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        let sum = add_number(add_number(self.udp_sum, udp_len), udp_len);
        udp[6..8].copy_from_slice(&finish_udp(add(sum, payload)));
        Some(begin)
    }

    #[inline]
    fn is_ipv4(&self) -> bool {
        let at = usize::from(self.link_bytes);
        self.bytes[at - 2..at] == ETHERTYPE_IPV4
    }
}

const _: () = assert!(HEADERS_BYTES_MAX < 256 && ETHERNET_BYTES == 12 + 2);
