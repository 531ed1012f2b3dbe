//! Frames by hand: made and read byte by byte as the RFCs draw them, with nothing of the driver's own, and a raw socket that
//! puts them on a wire and takes them off.
#![allow(dead_code, reason = "each test file uses its part")]

use rustix::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

/// A datagram in its frame. Lengths and checksums are right unless a test makes them wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    /// Ethertype and tag control information of each.
    pub tags: Vec<(u16, u16)>,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
}

impl Frame {
    /// Its bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut udp = Vec::new();
        for number in [self.from.port(), self.to.port(), 8 + self.payload.len() as u16, 0] {
            udp.extend(number.to_be_bytes());
        }
        udp.extend(&self.payload);
        let sum = match udp_sum(self.from.ip(), self.to.ip(), &udp) {
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        self.around(&ip_packet(self.from.ip(), self.to.ip(), 17, &udp))
    }

    /// The frame around any IP packet.
    pub fn around(&self, packet: &[u8]) -> Vec<u8> {
        let mut bytes = [self.to_mac, self.from_mac].concat();
        for (ethertype, control) in &self.tags {
            bytes.extend(ethertype.to_be_bytes());
            bytes.extend(control.to_be_bytes());
        }
        bytes.extend(if self.from.is_ipv4() { [8, 0] } else { [0x86, 0xdd] });
        bytes.extend(packet);
        bytes
    }

    /// Reads one and checks every length and checksum; none if it is something else than UDP.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let (mut at, mut tags) = (12, Vec::new());
        while matches!(number(at), 0x8100 | 0x88a8) {
            tags.push((number(at), number(at + 2)));
            at += 4;
        }
        let packet = &bytes[at + 2..];
        let (from, to, udp) = match number(at) {
            0x0800 if packet[9] == 17 => {
                assert_eq!((packet[0], packet[8]), (0x45, 64), "version, header length, hops");
                assert_eq!(sum(&packet[..20]), 0, "the IPv4 checksum");
                let total = u16::from_be_bytes([packet[2], packet[3]]) as usize;
                let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
                (ip(12), ip(16), &packet[20..total])
            }
            0x86dd if packet[6] == 17 => {
                assert_eq!((packet[0] >> 4, packet[7]), (6, 64), "version, hops");
                let len = u16::from_be_bytes([packet[4], packet[5]]) as usize;
                let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
                (ip(8), ip(24), &packet[40..40 + len])
            }
            _ => return None,
        };
        let number = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
        assert_eq!(usize::from(number(4)), udp.len(), "the UDP length");
        assert_ne!(number(6), 0, "there is a UDP checksum");
        assert_eq!(udp_sum(from, to, udp), 0, "the UDP checksum");
        Some(Self {
            to_mac: bytes[..6].try_into().unwrap(),
            from_mac: bytes[6..12].try_into().unwrap(),
            tags,
            from: SocketAddr::new(from, number(0)),
            to: SocketAddr::new(to, number(2)),
            payload: udp[8..].to_vec(),
        })
    }
}

/// An IP packet around a payload; `protocol` 17 is UDP.
pub fn ip_packet(from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            packet.extend([0x45, 0]);
            packet.extend((20 + payload.len() as u16).to_be_bytes());
            packet.extend([0x12, 0x34, 0, 0, 64, protocol, 0, 0]);
            packet.extend([from.octets(), to.octets()].concat());
            set_ipv4_sum(&mut packet);
        }
        (IpAddr::V6(from), IpAddr::V6(to)) => {
            packet.extend([0x60, 0, 0, 0]);
            packet.extend((payload.len() as u16).to_be_bytes());
            packet.extend([protocol, 64]);
            packet.extend([from.octets(), to.octets()].concat());
        }
        _ => panic!("one family"),
    }
    packet.extend(payload);
    packet
}

/// Sets the checksum of an IPv4 header, whatever it says.
pub fn set_ipv4_sum(packet: &mut [u8]) {
    let header_bytes = usize::from(packet[0] & 15) * 4;
    packet[10..12].fill(0);
    let sum = sum(&packet[..header_bytes]);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// RFC 768 and RFC 8200 section 8.1: zero if the checksum within is right.
pub fn udp_sum(from: IpAddr, to: IpAddr, udp: &[u8]) -> u16 {
    let mut bytes = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [from.octets(), to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [from.octets(), to.octets()].concat(),
        _ => panic!("one family"),
    };
    bytes.extend((udp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, 17]);
    bytes.extend(udp);
    sum(&bytes)
}

/// RFC 1071.
fn sum(bytes: &[u8]) -> u16 {
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A raw socket on an interface of the thread's namespace.
pub struct Wire(OwnedFd);

const PACKET_AUXDATA: libc::c_int = 8;
const PACKET_IGNORE_OUTGOING: libc::c_int = 23;
const STATUS_VLAN: u32 = 1 << 4;

impl Wire {
    pub fn new(device: &str) -> Self {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: plain system calls; what they point at outlives them.
        unsafe {
            let fd = libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, all.into());
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            let wire = Self(OwnedFd::from_raw_fd(fd));
            let mut address: libc::sockaddr_ll = std::mem::zeroed();
            address.sll_family = libc::AF_PACKET as u16;
            address.sll_protocol = all;
            let name = std::ffi::CString::new(device).unwrap();
            address.sll_ifindex = libc::if_nametoindex(name.as_ptr()) as i32;
            let result = libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as u32);
            assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
            for option in [PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
                let one = 1i32;
                assert_eq!(libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const one).cast(), 4), 0);
            }
            wire
        }
    }

    pub fn send(&self, frame: &[u8]) {
        assert_eq!(rustix::net::send(&self.0, frame, rustix::net::SendFlags::empty()).unwrap(), frame.len());
    }

    /// The next UDP datagram to this port that passes; none when `patience` is over. Every one is checked whole.
    pub fn next(&self, port: u16, patience: Duration) -> Option<Frame> {
        let end = Instant::now() + patience;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let timeout =
                rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            let mut ready = [rustix::event::PollFd::new(&self.0, rustix::event::PollFlags::IN)];
            if rustix::event::poll(&mut ready, Some(&timeout)).unwrap() == 0 {
                return None;
            }
            let bytes = self.receive();
            // A peek at the port: other traffic (neighbour discovery) is not ours to check.
            if let Some(frame) = Frame::read(&bytes).filter(|frame| frame.to.port() == port) {
                return Some(frame);
            }
        }
    }

    /// One frame; the kernel has taken its first tag out and tells it apart.
    fn receive(&self) -> Vec<u8> {
        let mut bytes = vec![0u8; 4096];
        let mut control = [0u64; 16];
        // SAFETY: the message points at both buffers with their true lengths; the kernel fills in an auxdata where the
        // control message says so.
        unsafe {
            let mut part = libc::iovec { iov_base: bytes.as_mut_ptr().cast(), iov_len: bytes.len() };
            let mut message: libc::msghdr = std::mem::zeroed();
            (message.msg_iov, message.msg_iovlen) = (&raw mut part, 1);
            (message.msg_control, message.msg_controllen) = (control.as_mut_ptr().cast(), size_of_val(&control));
            let len = libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0);
            assert!(len > 0, "{}", std::io::Error::last_os_error());
            bytes.truncate(len as usize);
            let header = libc::CMSG_FIRSTHDR(&message);
            if !header.is_null() {
                let auxdata = libc::CMSG_DATA(header).cast::<libc::tpacket_auxdata>().read_unaligned();
                if auxdata.tp_status & STATUS_VLAN != 0 {
                    let tag = [auxdata.tp_vlan_tpid.to_be_bytes(), auxdata.tp_vlan_tci.to_be_bytes()].concat();
                    bytes.splice(12..12, tag);
                }
            }
        }
        bytes
    }
}
