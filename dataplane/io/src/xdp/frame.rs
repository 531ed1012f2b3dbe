//! An Ethernet frame from the wire, read as a UDP datagram: Ethernet II, up to two VLAN tags (802.1Q, 802.1ad), IPv4 without
//! options (RFC 791) or IPv6 without extension headers (RFC 8200), UDP (RFC 768). Pure: bytes go in, offsets come out.
//!
//! Frames are hostile. The BPF program has looked at the same fields, but nothing here relies on it.

use super::checksum::{add, add_number, fold};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Ethernet: two addresses and a type.
pub const ETHERNET_BYTES: usize = 14;
/// A VLAN tag.
pub const VLAN_BYTES: usize = 4;
/// As many as the BPF program looks through.
pub const VLAN_TAGS_MAX: usize = 2;
/// IPv4 without options.
pub const IPV4_BYTES: usize = 20;
/// IPv6.
pub const IPV6_BYTES: usize = 40;
/// UDP.
pub const UDP_BYTES: usize = 8;
/// The longest headers that are read or written.
pub const HEADERS_BYTES_MAX: usize = ETHERNET_BYTES + VLAN_TAGS_MAX * VLAN_BYTES + IPV6_BYTES + UDP_BYTES;

pub(super) const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
pub(super) const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
const ETHERTYPE_VLAN: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
pub(super) const UDP: u8 = 17;

/// Why a frame is not a datagram for us.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It ends within a header, or before the end that a header names.
    #[error("truncated")]
    Truncated,
    /// Neither IPv4 nor IPv6, or a version that its Ethernet type denies.
    #[error("not IP")]
    NotIp,
    /// IPv4 options.
    #[error("IPv4 options")]
    Options,
    /// A piece of a datagram.
    #[error("a fragment")]
    Fragment,
    /// Another protocol, or an IPv6 extension header before it.
    #[error("not UDP")]
    NotUdp,
    /// The IPv4 header's checksum is wrong.
    #[error("bad IPv4 checksum")]
    BadIpChecksum,
    /// The UDP checksum is wrong, or is missing over IPv6.
    #[error("bad UDP checksum")]
    BadUdpChecksum,
}

/// Where things are in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Headers {
    /// Bytes before the IP header: Ethernet and VLAN tags.
    pub link_bytes: usize,
    /// Who sent it.
    pub source: SocketAddr,
    /// To which of our addresses.
    pub destination: SocketAddr,
    /// Where the payload begins.
    pub payload_start: usize,
    /// How long it is, by the UDP header.
    pub payload_bytes: usize,
}

/// Reads a frame.
#[inline]
pub fn parse(frame: &[u8]) -> Result<Headers, Refused> {
    let (link_bytes, ethertype) = link(frame)?;
    let packet = &frame[link_bytes..];
    let (ip_bytes, source, destination, datagram) = match ethertype {
        ETHERTYPE_IPV4 => ipv4(packet)?,
        ETHERTYPE_IPV6 => ipv6(packet)?,
        _ => return Err(Refused::NotIp),
    };
    let header: &[u8; UDP_BYTES] = datagram.first_chunk().ok_or(Refused::Truncated)?;
    let [source_port, destination_port, len] = [0, 2, 4].map(|at| u16::from_be_bytes([header[at], header[at + 1]]));
    // What IP carries beyond it is not ours (and is usual in short frames, which are padded).
    let datagram = datagram.get(..usize::from(len)).ok_or(Refused::Truncated)?;
    let payload_bytes = datagram.len().checked_sub(UDP_BYTES).ok_or(Refused::Truncated)?;
    check_udp(source, destination, datagram, len, [header[6], header[7]])?;
    Ok(Headers {
        link_bytes,
        source: SocketAddr::new(source, source_port),
        destination: SocketAddr::new(destination, destination_port),
        payload_start: link_bytes + ip_bytes + UDP_BYTES,
        payload_bytes,
    })
}

/// The link headers' length, and the type behind them.
#[inline]
fn link(frame: &[u8]) -> Result<(usize, [u8; 2]), Refused> {
    let type_at =
        |at: usize| frame.get(at..).and_then(|rest| rest.first_chunk::<2>()).copied().ok_or(Refused::Truncated);
    let mut bytes = ETHERNET_BYTES;
    let mut ethertype = type_at(bytes - 2)?;
    for _ in 0..VLAN_TAGS_MAX {
        if !ETHERTYPE_VLAN.contains(&ethertype) {
            break;
        }
        bytes += VLAN_BYTES;
        ethertype = type_at(bytes - 2)?;
    }
    Ok((bytes, ethertype))
}

type Inner<'a> = (usize, IpAddr, IpAddr, &'a [u8]);

#[inline]
fn ipv4(packet: &[u8]) -> Result<Inner<'_>, Refused> {
    let header: &[u8; IPV4_BYTES] = packet.first_chunk().ok_or(Refused::Truncated)?;
    match header[0] {
        0x45 => {}
        other if other >> 4 == 4 => return Err(Refused::Options),
        _ => return Err(Refused::NotIp),
    }
    if u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0 {
        return Err(Refused::Fragment);
    }
    if header[9] != UDP {
        return Err(Refused::NotUdp);
    }
    if fold(add(0, header)) != 0xffff {
        return Err(Refused::BadIpChecksum);
    }
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let datagram = packet.get(IPV4_BYTES..total).ok_or(Refused::Truncated)?;
    let address = |at: usize| IpAddr::from(Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]));
    Ok((IPV4_BYTES, address(12), address(16), datagram))
}

#[inline]
fn ipv6(packet: &[u8]) -> Result<Inner<'_>, Refused> {
    let header: &[u8; IPV6_BYTES] = packet.first_chunk().ok_or(Refused::Truncated)?;
    if header[0] >> 4 != 6 {
        return Err(Refused::NotIp);
    }
    if header[6] != UDP {
        return Err(Refused::NotUdp);
    }
    let payload = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let datagram = packet[IPV6_BYTES..].get(..payload).ok_or(Refused::Truncated)?;
    let address = |at: usize| {
        let mut octets = [0; 16];
        octets.copy_from_slice(&header[at..at + 16]);
        IpAddr::from(Ipv6Addr::from(octets))
    };
    Ok((IPV6_BYTES, address(8), address(24), datagram))
}

/// The part of a UDP checksum that covers no byte of the datagram: addresses, protocol, length.
#[inline]
pub fn pseudo_header(source: IpAddr, destination: IpAddr) -> u64 {
    let addresses = [source, destination].into_iter().fold(0, |sum, ip| match ip {
        IpAddr::V4(ip) => add(sum, &ip.octets()),
        IpAddr::V6(ip) => add(sum, &ip.octets()),
    });
    add_number(addresses, UDP.into())
}

/// Right is what adds up; what is absent over IPv4; and what a virtual interface leaves to hardware that the frame never
/// passes (its sum is that of the pseudo-header alone: the host that sent it is this one, or the one this is a guest of).
#[inline]
fn check_udp(source: IpAddr, destination: IpAddr, datagram: &[u8], len: u16, field: [u8; 2]) -> Result<(), Refused> {
    if field == [0, 0] {
        return if source.is_ipv4() { Ok(()) } else { Err(Refused::BadUdpChecksum) };
    }
    let pseudo = add_number(pseudo_header(source, destination), len);
    let is_left_open = fold(pseudo).to_ne_bytes() == field;
    if is_left_open || fold(add(pseudo, datagram)) == 0xffff {
        return Ok(());
    }
    Err(Refused::BadUdpChecksum)
}
