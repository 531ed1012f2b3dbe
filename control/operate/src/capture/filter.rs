//! Which packets are a stream's: as a program of the kernel's classic BPF, and the same by ourselves. Pure.
//!
//! Packets begin with their IP header (SOCK_DGRAM of packet(7)). On the loopback each is seen twice, going out and coming in;
//! so what we sent counts when it goes out, and what came to us when it comes in.

use nebula_ring::StreamRecord;
use socket2::SockFilter;
use std::net::IpAddr;

/// Our side of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint {
    ip: IpAddr,
    ports: [u16; 2],
}

/// `sll_pkttype` of what leaves.
pub const OUTGOING: u8 = libc::PACKET_OUTGOING;

const UDP: u8 = 17;
/// The low 13 bits of the word at 6: anything but zero is a later fragment, which has no ports.
const FRAGMENT_OFFSET: u16 = 0x1fff;

impl Endpoint {
    /// Of a stream's record.
    pub fn of(record: &StreamRecord) -> Self {
        Self { ip: record.local_rtp().ip(), ports: [record.rtp_port, record.rtcp_port] }
    }

    /// Whether RTCP comes to the port of RTP.
    pub fn is_muxed(&self) -> bool {
        self.ports[0] == self.ports[1]
    }

    /// Whether a packet of this stream is of its port for RTP, by its UDP header.
    pub fn is_rtp_port(&self, udp: &[u8], is_outgoing: bool) -> bool {
        let at = if is_outgoing { 0 } else { 2 };
        udp.get(at..at + 2) == Some(&self.ports[0].to_be_bytes()[..])
    }

    /// Whether an IP packet is of this stream. What the filter says, in our own words.
    pub fn concerns(&self, packet: &[u8], is_outgoing: bool) -> bool {
        let Some(&first) = packet.first() else { return false };
        let header = match (first >> 4, self.ip) {
            (4, IpAddr::V4(_)) => 4 * usize::from(first & 15),
            (6, IpAddr::V6(_)) => 40,
            _ => return false,
        };
        let (Some(udp), Some(whole)) = (packet.get(header..header + 4), packet.get(..header)) else { return false };
        let port = if is_outgoing { &udp[..2] } else { &udp[2..] };
        let (protocol, address) = match self.ip {
            IpAddr::V4(_) if header < 20 => return false,
            IpAddr::V4(_) if u16::from_be_bytes([whole[6], whole[7]]) & FRAGMENT_OFFSET != 0 => return false,
            IpAddr::V4(_) => (whole[9], if is_outgoing { &whole[12..16] } else { &whole[16..20] }),
            IpAddr::V6(_) => (whole[6], if is_outgoing { &whole[8..24] } else { &whole[24..40] }),
        };
        let is_ours = match self.ip {
            ip if ip.is_unspecified() => true,
            IpAddr::V4(ip) => address == ip.octets(),
            IpAddr::V6(ip) => address == ip.octets(),
        };
        protocol == UDP && is_ours && self.ports.contains(&u16::from_be_bytes([port[0], port[1]]))
    }
}

/// The program for some endpoints; none lets nothing through.
pub fn program(endpoints: &[Endpoint]) -> Vec<SockFilter> {
    let blocks = endpoints.iter().flat_map(|it| [block(it, true), block(it, false)]).flatten();
    blocks.chain([RETURN_NOTHING]).collect()
}

/// One instruction: code, jumps if true and if false, operand.
const fn op(code: u32, jt: u8, jf: u8, k: u32) -> SockFilter {
    SockFilter::new(code as u16, jt, jf, k)
}

const LOAD_BYTE: u32 = libc::BPF_LD | libc::BPF_B | libc::BPF_ABS;
const LOAD_HALF: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_ABS;
const LOAD_WORD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
const LOAD_HALF_BEHIND_HEADER: u32 = libc::BPF_LD | libc::BPF_H | libc::BPF_IND;
const LOAD_HEADER_LENGTH: u32 = libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH;
const AND: u32 = libc::BPF_ALU | libc::BPF_AND | libc::BPF_K;
const IF_EQUAL: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
const IF_ANY_BIT: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
/// `sll_pkttype`, by the kernel's extension.
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
const RETURN_ALL: SockFilter = op(libc::BPF_RET | libc::BPF_K, 0, 0, 0x4_0000);
const RETURN_NOTHING: SockFilter = op(libc::BPF_RET | libc::BPF_K, 0, 0, 0);

/// What must hold, or the block is left.
enum Test {
    Equal(u32),
    NotEqual(u32),
    NoBit(u32),
}

/// One endpoint, one way: its last instruction lets the packet through, and a test that fails jumps behind it.
fn block(endpoint: &Endpoint, is_outgoing: bool) -> Vec<SockFilter> {
    let mut tests: Vec<(Vec<SockFilter>, Test)> = Vec::new();
    let mut must = |loads: Vec<SockFilter>, test| tests.push((loads, test));
    let (version, protocol_at) = if endpoint.ip.is_ipv4() { (0x40, 9) } else { (0x60, 6) };
    must(vec![op(LOAD_BYTE, 0, 0, 0), op(AND, 0, 0, 0xf0)], Test::Equal(version));
    let outgoing = u32::from(OUTGOING);
    let direction = if is_outgoing { Test::Equal(outgoing) } else { Test::NotEqual(outgoing) };
    must(vec![op(LOAD_WORD, 0, 0, PACKET_TYPE)], direction);
    must(vec![op(LOAD_BYTE, 0, 0, protocol_at)], Test::Equal(UDP.into()));
    if !endpoint.ip.is_unspecified() {
        let (octets, source_at): (Vec<u8>, u32) = match endpoint.ip {
            IpAddr::V4(ip) => (ip.octets().to_vec(), 12),
            IpAddr::V6(ip) => (ip.octets().to_vec(), 8),
        };
        let at = if is_outgoing { source_at } else { source_at + octets.len() as u32 };
        for (at, word) in (at..).step_by(4).zip(octets.as_chunks::<4>().0) {
            must(vec![op(LOAD_WORD, 0, 0, at)], Test::Equal(u32::from_be_bytes(*word)));
        }
    }
    let port_at = if is_outgoing { 0 } else { 2 };
    let load_port = if endpoint.ip.is_ipv4() {
        must(vec![op(LOAD_HALF, 0, 0, 6)], Test::NoBit(FRAGMENT_OFFSET.into()));
        vec![op(LOAD_HEADER_LENGTH, 0, 0, 0), op(LOAD_HALF_BEHIND_HEADER, 0, 0, port_at)]
    } else {
        vec![op(LOAD_HALF, 0, 0, 40 + port_at)]
    };
    let [first, second] = endpoint.ports.map(u32::from);
    // Either port: the first skips the test of the second.
    let mut tail = load_port;
    tail.extend([op(IF_EQUAL, 1, 0, first), op(IF_EQUAL, 0, 1, second), RETURN_ALL]);

    let mut left: usize = tests.iter().map(|(loads, _)| loads.len() + 1).sum::<usize>() + tail.len();
    let mut program = Vec::with_capacity(left);
    for (loads, test) in tests {
        left -= loads.len() + 1;
        program.extend(loads);
        // Some forty instructions a block: it fits.
        let out = left as u8;
        program.push(match test {
            Test::Equal(k) => op(IF_EQUAL, 0, out, k),
            Test::NotEqual(k) => op(IF_EQUAL, out, 0, k),
            Test::NoBit(k) => op(IF_ANY_BIT, out, 0, k),
        });
    }
    program.extend(tail);
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(from: [u8; 4], to: [u8; 4], source: u16, target: u16) -> Vec<u8> {
        let mut packet = vec![0; 20];
        (packet[0], packet[9]) = (0x45, UDP);
        packet[12..16].copy_from_slice(&from);
        packet[16..20].copy_from_slice(&to);
        packet.extend(source.to_be_bytes().into_iter().chain(target.to_be_bytes()).chain([0; 4]));
        packet
    }

    #[test]
    fn packets_are_ours_by_address_port_and_direction() {
        let ours = Endpoint { ip: [10, 0, 0, 1].into(), ports: [4000, 4001] };
        let (us, them) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        assert!(ours.concerns(&v4(us, them, 4000, 9), true));
        assert!(ours.concerns(&v4(them, us, 9, 4001), false));
        for (packet, is_outgoing) in [
            (v4(us, them, 4000, 9), false),
            (v4(them, us, 9, 4000), true),
            (v4(us, them, 4002, 9), true),
            (v4(them, [10, 0, 0, 3], 9, 4000), false),
        ] {
            assert!(!ours.concerns(&packet, is_outgoing));
        }
        let mut fragment = v4(them, us, 9, 4000);
        fragment[7] = 1;
        let mut tcp = v4(them, us, 9, 4000);
        tcp[9] = 6;
        assert!(!ours.concerns(&fragment, false) && !ours.concerns(&tcp, false));
        let anywhere = Endpoint { ip: [0, 0, 0, 0].into(), ..ours };
        assert!(anywhere.concerns(&v4(them, [10, 0, 0, 3], 9, 4000), false));
        for cut in 0..24 {
            assert!(!anywhere.concerns(&v4(them, us, 9, 4000)[..cut.min(23)], false));
        }
    }

    #[test]
    fn jumps_stay_within_reach() {
        let v6 = Endpoint { ip: "2001:db8::1".parse().unwrap(), ports: [1, 2] };
        assert!(block(&v6, true).len() < 64);
        assert_eq!(program(&[]).len(), 1);
        assert!(program(&[v6; 2]).len() < usize::from(u16::MAX));
    }
}
