//! What a packet holds: RTP with some milliseconds of PCMU, of which the first bytes name origin, number and time of the
//! packet, and the rest is sound that follows from them. Every byte is checked at the far end.

/// Samples, and bytes, of a millisecond at 8 kHz.
const SAMPLES_PER_MS: usize = 8;

/// RTP's fixed header (RFC 3550 section 5.1).
const HEADER_BYTES: usize = 12;

/// The longest packetization time.
pub const PTIME_MS_MAX: usize = 100;

/// Room for any datagram of ours.
pub const PACKET_BYTES_MAX: usize = packet_bytes(PTIME_MS_MAX);

/// The whole datagram of a packetization time.
pub const fn packet_bytes(ptime_ms: usize) -> usize {
    HEADER_BYTES + ptime_ms * SAMPLES_PER_MS
}

/// SSRC and sequence number as RTP's header tells them; a relay may have put in its own.
pub fn source(datagram: &[u8]) -> (u32, u16) {
    let (ssrc, sequence) = (&datagram[8..12], &datagram[2..4]);
    (u32::from_be_bytes([ssrc[0], ssrc[1], ssrc[2], ssrc[3]]), u16::from_be_bytes([sequence[0], sequence[1]]))
}

/// A packet that was heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packet {
    /// Who sent it.
    pub origin: u32,
    /// How many it had sent before.
    pub number: u64,
    /// When, in nanoseconds since the start of the program.
    pub sent_ns: u64,
}

impl Packet {
    /// As a datagram of this sequence number, whose length says how much sound it holds.
    pub fn write(&self, datagram: &mut [u8], sequence: u16) {
        let samples = (datagram.len() - HEADER_BYTES) as u32;
        datagram[0] = 0x80;
        // The marker bit begins the talk spurt (RFC 3551 section 4.1).
        datagram[1] = if self.number == 0 { 0x80 } else { 0 };
        datagram[2..4].copy_from_slice(&sequence.to_be_bytes());
        datagram[4..8].copy_from_slice(&(self.number as u32).wrapping_mul(samples).to_be_bytes());
        datagram[8..12].copy_from_slice(&self.origin.to_be_bytes());
        let payload = &mut datagram[HEADER_BYTES..];
        payload[..4].copy_from_slice(&self.origin.to_be_bytes());
        payload[4..12].copy_from_slice(&self.number.to_be_bytes());
        payload[12..20].copy_from_slice(&self.sent_ns.to_be_bytes());
        let mut noise = self.seed();
        for chunk in payload[20..].chunks_mut(8) {
            noise = step(noise);
            chunk.copy_from_slice(&noise.to_be_bytes()[..chunk.len()]);
        }
    }

    /// From a datagram; none unless every byte of its payload is as its sender wrote it. The RTP header may have been
    /// rewritten on the way.
    pub fn read(datagram: &[u8], ptime_ms: usize) -> Option<Self> {
        if datagram.len() != packet_bytes(ptime_ms) || datagram[0] != 0x80 || datagram[1] & 0x7f != 0 {
            return None;
        }
        let payload = &datagram[HEADER_BYTES..];
        let packet = Self {
            origin: u32::from_be_bytes(payload[..4].try_into().ok()?),
            number: u64::from_be_bytes(payload[4..12].try_into().ok()?),
            sent_ns: u64::from_be_bytes(payload[12..20].try_into().ok()?),
        };
        let mut expected = [0; PACKET_BYTES_MAX];
        let expected = &mut expected[..datagram.len()];
        packet.write(expected, 0);
        (expected[HEADER_BYTES..] == *payload).then_some(packet)
    }

    fn seed(&self) -> u64 {
        step(u64::from(self.origin) << 32 ^ self.number ^ self.sent_ns.rotate_left(17))
    }
}

/// splitmix64.
fn step(x: u64) -> u64 {
    let mut z = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_the_payload_is_checked() {
        let packet = Packet { origin: 7, number: 70_000, sent_ns: 123_456_789 };
        for ptime_ms in [20, 60] {
            let mut datagram = vec![0; packet_bytes(ptime_ms)];
            packet.write(&mut datagram, 4464);
            assert_eq!(Packet::read(&datagram, ptime_ms), Some(packet));
            assert_eq!(source(&datagram), (7, 4464));
            for at in HEADER_BYTES..datagram.len() {
                datagram[at] ^= 1;
                assert_eq!(Packet::read(&datagram, ptime_ms), None, "byte {at}");
                datagram[at] ^= 1;
            }
            // A relay may speak with an SSRC and sequence numbers of its own.
            datagram[2..12].fill(0x55);
            assert_eq!(Packet::read(&datagram, ptime_ms), Some(packet));
            assert_eq!(Packet::read(&datagram[..datagram.len() - 1], ptime_ms), None);
        }
    }
}
