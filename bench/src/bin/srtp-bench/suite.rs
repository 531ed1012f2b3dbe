//! The suites that are compared, and the packets.

use std::fmt;

/// Streams that are served in turn, each with keys of its own: what a worker finds in one turn.
pub const STREAMS: usize = 16;

/// The bytes of an RTP header without extension and contributors.
pub const HEADER_BYTES: usize = 12;

/// Room for the longest packet and what libsrtp adds at most.
pub const BUFFER_BYTES: usize = 1500;

/// A suite of SRTP.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    AesCm128,
    AesCm256,
    Gcm128,
    Gcm256,
}

impl Suite {
    pub const ALL: [Suite; 4] = [Suite::AesCm128, Suite::AesCm256, Suite::Gcm128, Suite::Gcm256];

    pub fn key_bytes(self) -> usize {
        match self {
            Suite::AesCm128 | Suite::Gcm128 => 16,
            Suite::AesCm256 | Suite::Gcm256 => 32,
        }
    }

    pub fn salt_bytes(self) -> usize {
        match self {
            Suite::AesCm128 | Suite::AesCm256 => 14,
            Suite::Gcm128 | Suite::Gcm256 => 12,
        }
    }
}

impl fmt::Display for Suite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Suite::AesCm128 => "AES_CM_128_HMAC_SHA1_80",
            Suite::AesCm256 => "AES_256_CM_HMAC_SHA1_80",
            Suite::Gcm128 => "AEAD_AES_128_GCM",
            Suite::Gcm256 => "AEAD_AES_256_GCM",
        })
    }
}

/// A packet and the room behind it.
#[derive(Clone)]
pub struct Packet {
    pub buffer: [u8; BUFFER_BYTES],
    pub length: usize,
}

impl Packet {
    /// A packet of stream `stream`.
    pub fn new(stream: usize, sequence: u16, length: usize) -> Packet {
        let mut buffer = [0; BUFFER_BYTES];
        for (at, byte) in buffer[..length].iter_mut().enumerate() {
            *byte = (at * 31 + stream) as u8;
        }
        buffer[..2].copy_from_slice(&[0x80, 0]);
        buffer[2..4].copy_from_slice(&sequence.to_be_bytes());
        buffer[8..12].copy_from_slice(&ssrc(stream));
        Packet { buffer, length }
    }

    pub fn bytes(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

pub fn ssrc(stream: usize) -> [u8; 4] {
    [0xca, 0xfe, 0, stream as u8]
}

/// The master key of a stream, and the salt after it.
pub fn master(suite: Suite, stream: usize) -> Vec<u8> {
    (0..suite.key_bytes() + suite.salt_bytes()).map(|at| (at * 13 + stream * 7 + 1) as u8).collect()
}
