//! The RTP packet (RFC 3550 section 5.1), read and rewritten in place. Called for every packet, on the worker's thread;
//! a few dozen instructions, no copy.

use super::{u16_at, u32_at};

/// The fixed header: everything up to the CSRC list.
pub const HEADER_BYTES: usize = 12;

/// Why bytes are not an RTP packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The headers need more than there is.
    #[error("RTP packet of {len} bytes, its headers need {needed}")]
    Truncated {
        /// What the headers ask for.
        needed: usize,
        /// What there is.
        len: usize,
    },
    /// Not version 2.
    #[error("RTP version {0}")]
    BadVersion(u8),
    /// The padding count is zero or passes the payload.
    #[error("RTP padding of {count} bytes in a payload of {payload_len}")]
    BadPadding {
        /// The last byte.
        count: u8,
        /// Payload and padding together.
        payload_len: usize,
    },
}

/// How many bytes the headers ask for, with CSRC list and extension; maybe more than there are. None for less than a fixed
/// header.
#[inline]
pub(crate) fn headers_bytes(bytes: &[u8]) -> Option<usize> {
    let &[first, ..] = bytes.first_chunk::<HEADER_BYTES>()?;
    let mut end = HEADER_BYTES + 4 * usize::from(first & 0x0f);
    if first & 0x10 != 0 {
        let extension = end;
        end += 4;
        if end <= bytes.len() {
            end += 4 * usize::from(u16_at(bytes, extension + 2));
        }
    }
    Some(end)
}

/// An RTP packet over borrowed bytes.
#[derive(Debug)]
pub struct Packet<T> {
    bytes: T,
    payload_start: usize,
    payload_end: usize,
}

impl<T: AsRef<[u8]>> Packet<T> {
    /// Checks version, CSRC list, extension and padding against the length.
    #[inline]
    pub fn new_checked(bytes: T) -> Result<Self, Error> {
        let b = bytes.as_ref();
        let len = b.len();
        let (Some(payload_start), Some(&first)) = (headers_bytes(b), b.first()) else {
            return Err(Error::Truncated { needed: HEADER_BYTES, len });
        };
        if first >> 6 != 2 {
            return Err(Error::BadVersion(first >> 6));
        }
        if payload_start > len {
            return Err(Error::Truncated { needed: payload_start, len });
        }
        let mut payload_end = len;
        if first & 0x20 != 0 {
            let count = b[len - 1];
            let payload_len = len - payload_start;
            if count == 0 || usize::from(count) > payload_len {
                return Err(Error::BadPadding { count, payload_len });
            }
            payload_end -= usize::from(count);
        }
        Ok(Self { bytes, payload_start, payload_end })
    }

    /// The marker bit.
    pub fn marker(&self) -> bool {
        self.byte(1) & 0x80 != 0
    }

    /// 0 to 127.
    #[inline]
    pub fn payload_type(&self) -> u8 {
        self.byte(1) & 0x7f
    }

    /// The sequence number.
    #[inline]
    pub fn sequence(&self) -> u16 {
        u16_at(self.bytes.as_ref(), 2)
    }

    /// The timestamp, in units of the payload type's clock.
    #[inline]
    pub fn timestamp(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 4)
    }

    /// The synchronization source.
    #[inline]
    pub fn ssrc(&self) -> u32 {
        u32_at(self.bytes.as_ref(), 8)
    }

    /// The contributing sources, up to fifteen.
    pub fn csrcs(&self) -> impl Iterator<Item = u32> + '_ {
        let count = usize::from(self.byte(0) & 0x0f);
        (0..count).map(|i| u32_at(self.bytes.as_ref(), HEADER_BYTES + 4 * i))
    }

    /// The header extension (section 5.3.1): its profile word and its data, a multiple of four bytes.
    pub fn extension(&self) -> Option<(u16, &[u8])> {
        if self.byte(0) & 0x10 == 0 {
            return None;
        }
        let at = HEADER_BYTES + 4 * usize::from(self.byte(0) & 0x0f);
        let b = self.bytes.as_ref();
        Some((u16_at(b, at), b.get(at + 4..self.payload_start)?))
    }

    /// The payload without padding.
    pub fn payload(&self) -> &[u8] {
        self.bytes.as_ref().get(self.payload_start..self.payload_end).unwrap_or(&[])
    }

    /// The length of the payload without padding.
    #[inline]
    pub fn payload_bytes(&self) -> usize {
        self.payload_end - self.payload_start
    }

    /// The whole packet's length.
    #[inline]
    pub fn len_bytes(&self) -> usize {
        self.bytes.as_ref().len()
    }

    /// The bytes themselves. Whoever protects them makes what is said of the payload untrue; the headers stay.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut T {
        &mut self.bytes
    }

    #[inline]
    fn byte(&self, at: usize) -> u8 {
        self.bytes.as_ref().get(at).copied().unwrap_or(0)
    }
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> Packet<T> {
    /// Sets the payload type (its lower seven bits); the marker stays.
    #[inline]
    pub fn set_payload_type(&mut self, payload_type: u8) {
        let marker = self.byte(1) & 0x80;
        self.put(1, [marker | payload_type & 0x7f]);
    }

    /// Sets the marker bit.
    pub fn set_marker(&mut self, marker: bool) {
        let payload_type = self.byte(1) & 0x7f;
        self.put(1, [payload_type | u8::from(marker) << 7]);
    }

    /// Sets the sequence number.
    pub fn set_sequence(&mut self, sequence: u16) {
        self.put(2, sequence.to_be_bytes());
    }

    /// Sets the timestamp.
    pub fn set_timestamp(&mut self, timestamp: u32) {
        self.put(4, timestamp.to_be_bytes());
    }

    /// Sets the synchronization source.
    pub fn set_ssrc(&mut self, ssrc: u32) {
        self.put(8, ssrc.to_be_bytes());
    }

    #[inline]
    fn put<const N: usize>(&mut self, at: usize, value: [u8; N]) {
        if let Some(place) = self.bytes.as_mut().get_mut(at..).and_then(|b| b.first_chunk_mut()) {
            *place = value;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Version 2, padding, extension of one word, two CSRCs; marker, type 8; payload `abc`, two bytes of padding.
    const FULL: &[u8] = &[
        0xb2, 0x88, 0x12, 0x34, 0, 0, 0, 160, 0xde, 0xad, 0xbe, 0xef, 0, 0, 0, 1, 0, 0, 0, 2, 0xbe, 0xde, 0, 1, 9, 9,
        9, 9, b'a', b'b', b'c', 0, 2,
    ];

    #[test]
    fn every_field_is_found() {
        let p = Packet::new_checked(FULL).unwrap();
        assert!(p.marker());
        assert_eq!((p.payload_type(), p.sequence(), p.timestamp(), p.ssrc()), (8, 0x1234, 160, 0xdead_beef));
        assert_eq!(p.csrcs().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(p.extension(), Some((0xbede, &[9u8, 9, 9, 9][..])));
        assert_eq!(p.payload(), b"abc");
        assert_eq!(p.payload_bytes(), 3);
    }

    #[test]
    fn setters_touch_their_field_only() {
        let mut bytes = FULL.to_vec();
        let mut p = Packet::new_checked(&mut bytes[..]).unwrap();
        p.set_payload_type(101);
        assert!(p.marker());
        p.set_marker(false);
        p.set_sequence(7);
        p.set_timestamp(8);
        p.set_ssrc(9);
        assert_eq!((p.payload_type(), p.sequence(), p.timestamp(), p.ssrc()), (101, 7, 8, 9));
        assert_eq!(bytes[0], FULL[0]);
        assert_eq!(bytes[12..], FULL[12..]);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_its_size() {
        assert_eq!(Packet::new_checked([0x80; 11]).unwrap_err(), Error::Truncated { needed: 12, len: 11 });
        assert_eq!(Packet::new_checked([0x40; 12]).unwrap_err(), Error::BadVersion(1));
        let mut csrc = [0u8; 12];
        csrc[0] = 0x8f;
        assert_eq!(Packet::new_checked(csrc).unwrap_err(), Error::Truncated { needed: 72, len: 12 });
        let mut extension = [0u8; 16];
        (extension[0], extension[14], extension[15]) = (0x90, 0xff, 0xff);
        assert_eq!(Packet::new_checked(extension).unwrap_err(), Error::Truncated { needed: 16 + 4 * 65535, len: 16 });
        let mut padding = [0u8; 14];
        (padding[0], padding[13]) = (0xa0, 3);
        assert_eq!(Packet::new_checked(padding).unwrap_err(), Error::BadPadding { count: 3, payload_len: 2 });
        padding[13] = 0;
        assert_eq!(Packet::new_checked(padding).unwrap_err(), Error::BadPadding { count: 0, payload_len: 2 });
        padding[13] = 2;
        assert_eq!(Packet::new_checked(padding).unwrap().payload(), b"");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic_and_parts_add_up(mut bytes in prop::collection::vec(any::<u8>(), 0..120), v2: bool) {
            if let (true, Some(first)) = (v2, bytes.first_mut()) {
                *first = *first & 0x3f | 0x80;
            }
            if let Ok(p) = Packet::new_checked(&bytes[..]) {
                let padding = if bytes[0] & 0x20 != 0 { usize::from(bytes[bytes.len() - 1]) } else { 0 };
                let extension = p.extension().map_or(0, |(_, data)| data.len() + 4);
                prop_assert_eq!(12 + 4 * p.csrcs().count() + extension + p.payload().len() + padding, bytes.len());
            }
        }
    }
}
