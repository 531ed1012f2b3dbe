//! The Internet checksum (RFC 1071). Sums are kept in the order of bytes in memory, which the RFC allows (section 2 (B)):
//! nothing is swapped but constants.

/// Adds bytes to a sum that begins at an even offset. So long as no more than 2^32 words are added nothing overflows.
#[inline]
pub fn add(mut sum: u64, bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    for word in words {
        sum += u64::from(u32::from_ne_bytes(*word));
    }
    let (halves, last) = rest.as_chunks::<2>();
    for half in halves {
        sum += u64::from(u16::from_ne_bytes(*half));
    }
    for byte in last {
        sum += u64::from(u16::from_ne_bytes([*byte, 0]));
    }
    sum
}

/// Adds a number that stands in a header in network order.
#[inline]
pub fn add_number(sum: u64, number: u16) -> u64 {
    sum + u64::from(number.to_be())
}

/// The sum in 16 bits; 0xffff is both of its zeros.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// What goes into an IPv4 header, as it lies in memory.
#[inline]
pub fn finish(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// What goes into a UDP header: zero would mean that there is none (RFC 768; RFC 8200 section 8.1 forbids it).
#[inline]
pub fn finish_udp(sum: u64) -> [u8; 2] {
    match finish(sum) {
        [0, 0] => [0xff, 0xff],
        sum => sum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 1071, word by word in network order.
    fn by_the_book(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(u16::from_be_bytes([pair[0], *pair.get(1).unwrap_or(&0)]));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        !(sum as u16)
    }

    #[test]
    fn agrees_with_the_rfc_at_every_length() {
        let bytes: Vec<u8> = (0..1500u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        for len in 0..bytes.len() {
            assert_eq!(u16::from_be_bytes(finish(add(0, &bytes[..len]))), by_the_book(&bytes[..len]), "{len} bytes");
        }
        let ones = [0xff; 1500];
        assert_eq!(u16::from_be_bytes(finish(add(0, &ones))), by_the_book(&ones));
    }

    #[test]
    fn parts_add_up_and_zero_is_written_as_ones() {
        assert_eq!(finish(add(add(0, &[1, 2]), &[3, 4, 5])), finish(add(0, &[1, 2, 3, 4, 5])));
        assert_eq!(finish(add_number(0, 0x0102)), finish(add(0, &[1, 2])));
        assert_eq!((finish(add(0, &[0xff, 0xff])), finish_udp(add(0, &[0xff, 0xff]))), ([0, 0], [0xff, 0xff]));
    }
}
