//! The pcap file format, as far as it is written here: version 2.4, nanoseconds, packets that begin with their IP header.

use std::io::{Result, Write};
use std::time::Duration;

/// Nanoseconds instead of microseconds; the reader learns the byte order from it.
const MAGIC_NANOSECONDS: u32 = 0xa1b2_3c4d;
/// LINKTYPE_RAW: IPv4 or IPv6, as the first nibble says.
const LINK_TYPE_RAW: u32 = 101;
/// The longest packet that fits; none is cut.
pub const PACKET_BYTES_MAX: usize = 65_535;

/// A file being written.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: Write> Writer<W> {
    /// Begins with the file's header.
    pub fn new(mut out: W) -> Result<Self> {
        let mut header = [0; 24];
        header[..4].copy_from_slice(&MAGIC_NANOSECONDS.to_le_bytes());
        header[4..6].copy_from_slice(&2u16.to_le_bytes());
        header[6..8].copy_from_slice(&4u16.to_le_bytes());
        header[16..20].copy_from_slice(&(PACKET_BYTES_MAX as u32).to_le_bytes());
        header[20..].copy_from_slice(&LINK_TYPE_RAW.to_le_bytes());
        out.write_all(&header)?;
        Ok(Self(out))
    }

    /// Adds a packet seen at a time since 1970.
    pub fn write(&mut self, at: Duration, packet: &[u8]) -> Result<()> {
        let len = packet.len() as u32;
        for word in [at.as_secs() as u32, at.subsec_nanos(), len, len] {
            self.0.write_all(&word.to_le_bytes())?;
        }
        self.0.write_all(packet)
    }

    /// Sees to it that all is out.
    pub fn finish(mut self) -> Result<()> {
        self.0.flush()
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Reads what was written, by the format's description.
    pub fn read(mut bytes: &[u8]) -> Vec<(Duration, Vec<u8>)> {
        let mut take = |n: usize| {
            let (head, rest) = bytes.split_at(n);
            bytes = rest;
            (head.to_vec(), rest.len())
        };
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().unwrap());
        let (header, mut left) = take(24);
        assert_eq!((word(&header[..4]), &header[4..8], word(&header[20..])), (0xa1b2_3c4d, &[2, 0, 4, 0][..], 101));
        let mut packets = Vec::new();
        while left > 0 {
            let (head, _) = take(16);
            assert_eq!(head[8..12], head[12..]);
            let (packet, after) = take(word(&head[8..12]) as usize);
            packets.push((Duration::new(word(&head[..4]).into(), word(&head[4..8])), packet));
            left = after;
        }
        packets
    }

    #[test]
    fn what_is_written_is_read() {
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes).unwrap();
        let packets = [(Duration::new(7, 1), vec![0x45; 60]), (Duration::new(7, 999_999_999), vec![])];
        packets.iter().for_each(|(at, packet)| writer.write(*at, packet).unwrap());
        writer.finish().unwrap();
        assert_eq!(read(&bytes), packets);
    }
}
