//! A session's packets: protected with our key, authenticated with the peer's. Called on the session's media thread; some
//! microseconds a packet.

use super::indices::{Indices, Use};
use super::sdes::Master;
use crate::media::source;
use std::hash::{DefaultHasher, Hasher};
use webrtc_srtp::context::Context;

/// RTP's fixed header, which nobody here makes longer (RFC 3550 section 5.1): its first byte.
const PLAIN_HEADER: u8 = 0x80;

/// SSRCs that a peer may have under one key. The system may have one for each source that it relays, here one.
const SOURCES_MAX: usize = 8;

/// Both directions of a session.
pub struct Secure {
    out: Context,
    heard: Context,
    tag_bytes: usize,
    sources: Vec<(u32, Indices)>,
}

/// Why a packet is none of those that the peer was to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bad {
    /// Not made with its key, or not for this index.
    Unauthentic,
    /// The same packet again.
    Again,
    /// Another packet under an index that was used.
    IndexReused,
}

impl Secure {
    /// Of two keys.
    pub fn new(own: &Master, peer: &Master) -> Result<Self, webrtc_srtp::Error> {
        let profile = peer.suite.profile();
        let tag_bytes = profile.rtp_auth_tag_len() + profile.aead_auth_tag_len();
        Ok(Self { out: own.context()?, heard: peer.context()?, tag_bytes, sources: Vec::new() })
    }

    /// Protects with another key from now on. `webrtc-srtp` begins it in the first cycle of sequence numbers, so this is for sources that
    /// have not wrapped.
    pub fn renew(&mut self, own: &Master) -> Result<(), webrtc_srtp::Error> {
        self.out = own.context()?;
        Ok(())
    }

    /// SRTP of an RTP packet; nothing once a key is used up.
    pub fn protect(&mut self, packet: &[u8]) -> Option<impl AsRef<[u8]> + use<>> {
        self.out.encrypt_rtp(packet).ok()
    }

    /// RTP of an SRTP packet that has `bytes` without its protection.
    pub fn open(&mut self, packet: &[u8], bytes: usize) -> Result<impl AsRef<[u8]> + use<>, Bad> {
        // `webrtc-srtp` is safe with packets of the right length and shape alone.
        if packet.len() != bytes + self.tag_bytes || packet[0] != PLAIN_HEADER {
            return Err(Bad::Unauthentic);
        }
        let plain = self.heard.decrypt_rtp(packet).map_err(|_| Bad::Unauthentic)?;
        let (ssrc, sequence) = source(packet);
        let at = match self.sources.iter().position(|(known, _)| *known == ssrc) {
            Some(at) => at,
            None if self.sources.len() < SOURCES_MAX => {
                self.sources.push((ssrc, Indices::new()));
                self.sources.len() - 1
            }
            None => return Err(Bad::Unauthentic),
        };
        let indices = &mut self.sources[at].1;
        let mut digest = DefaultHasher::new();
        digest.write(packet);
        match indices.note(indices.estimate(sequence), digest.finish()) {
            Use::Once => Ok(plain),
            Use::Again => Err(Bad::Again),
            Use::Twice => Err(Bad::IndexReused),
        }
    }

    /// How often the peer's sequence numbers have begun anew.
    pub fn rollovers(&self) -> u64 {
        self.sources.iter().map(|(_, indices)| indices.rollovers()).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::SUITES;

    const BYTES: usize = 172;

    fn packet(sequence: u16, fill: u8) -> Vec<u8> {
        let mut packet = vec![fill; BYTES];
        packet[..12].copy_from_slice(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7]);
        packet[2..4].copy_from_slice(&sequence.to_be_bytes());
        packet
    }

    /// Two phones, each with the other's key.
    fn pair(suite: crate::srtp::Suite) -> [Secure; 2] {
        let (a, b) = (Master::random(suite), Master::random(suite));
        [Secure::new(&a, &b).unwrap(), Secure::new(&b, &a).unwrap()]
    }

    #[test]
    fn what_one_protects_the_other_hears_over_a_rollover() {
        for (name, suite, _) in SUITES {
            let [mut says, mut hears] = pair(suite);
            for n in 0..70_u16 {
                let plain = packet(65_500_u16.wrapping_add(n), n as u8);
                let sent = says.protect(&plain).unwrap();
                assert!(!sent.as_ref().ends_with(&plain[12..]), "{name}");
                assert_eq!(hears.open(sent.as_ref(), BYTES).ok().unwrap().as_ref(), plain, "{name} {n}");
            }
            assert_eq!(hears.rollovers(), 1, "{name}");
        }
    }

    #[test]
    fn what_is_not_the_peers_is_told() {
        for (name, suite, _) in SUITES {
            let [mut says, mut hears] = pair(suite);
            let sent = says.protect(&packet(9, 1)).unwrap().as_ref().to_vec();
            let told = |hears: &mut Secure, packet: &[u8]| hears.open(packet, BYTES).err();
            for at in [3, 9, 40, sent.len() - 1] {
                let mut bent = sent.clone();
                bent[at] ^= 1;
                assert_eq!(told(&mut hears, &bent), Some(Bad::Unauthentic), "{name}: byte {at}");
            }
            for bytes in 0..sent.len() {
                assert_eq!(told(&mut hears, &sent[..bytes]), Some(Bad::Unauthentic), "{name}: {bytes} bytes");
            }
            assert_eq!(told(&mut hears, &packet(9, 1)), Some(Bad::Unauthentic), "{name}: not protected");
            assert_eq!(told(&mut hears, &sent), None, "{name}");
            assert_eq!(told(&mut hears, &sent), Some(Bad::Again), "{name}");
            // Other contents under the same index: what a system does that has forgotten what it had sent.
            let other = says.protect(&packet(9, 2)).unwrap();
            assert_eq!(told(&mut hears, other.as_ref()), Some(Bad::IndexReused), "{name}");
        }
    }
}
