//! One packet under one session key and one index: encrypted and authenticated where it lies. No state; who calls chose the
//! index, and never the same one twice.
//!
//! | | counter mode | AEAD |
//! |---|---|---|
//! | SRTP | header, *payload*, MKI, tag | header, *payload*, tag, MKI |
//! | SRTCP | 8 bytes, *the rest*, E and index, MKI, tag | 8 bytes, *the rest*, tag, E and index, MKI |
//!
//! What is in italics is encrypted (RFC 3711 sections 3.1 and 3.4, RFC 7714 sections 8.2 and 9.2).

use super::Error;
use super::keys::{Session, counter_iv, nonce};
use super::suite::SRTCP_INDEX_BYTES;
use crate::driver::Datagram;
use crate::limits::PACKET_BYTES_MAX;
use nebula_ring::srtp::Mki;
use nebula_simd::{Kernels, ctr, equal, gcm, hmac};

/// What SRTCP leaves in the clear: the first header and the sender's SSRC.
pub(super) const RTCP_CLEAR_BYTES: usize = 8;
/// The E bit: the packet is encrypted.
const ENCRYPTED: u32 = 1 << 31;

/// What is the same for all packets of a key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Form {
    pub kernels: Kernels,
    pub mki: Mki,
    /// Bytes of a tag.
    pub tag: usize,
}

/// What the tag of an RTP packet in counter mode is computed from.
#[derive(Debug, Clone, Copy)]
pub struct Signing<'a> {
    /// The number of the key.
    pub serial: u32,
    pub(super) key: &'a hmac::Key,
    pub(super) data: &'a [u8],
    pub(super) rollover: [u8; 4],
}

impl Signing<'_> {
    /// For `hmac::tag_many`.
    #[inline]
    pub fn job(&self) -> hmac::Job<'_> {
        hmac::Job { key: self.key, data: self.data, tail: &self.rollover }
    }

    /// By itself.
    #[inline]
    pub fn tag(&self, kernels: Kernels) -> [u8; hmac::TAG_BYTES] {
        hmac::tag(kernels, self.key, self.data, &self.rollover)
    }
}

/// The tag that a protected packet still lacks: all else is as it will be, and there is room for it at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Owed {
    /// The end of what is authenticated. The key's identifier follows, then the tag.
    end: usize,
    tag_at: usize,
    rollover: [u8; 4],
}

impl Owed {
    /// What it is to be computed from; none if these are not the keys, or this is not the packet.
    #[inline]
    pub(super) fn signing<'a>(&self, serial: u32, session: &'a Session, bytes: &'a [u8]) -> Option<Signing<'a>> {
        let Session::CounterMode { auth, .. } = session else { return None };
        Some(Signing { serial, key: auth, data: bytes.get(..self.end)?, rollover: self.rollover })
    }

    /// Puts it in, as much of it as the suite sends.
    #[inline]
    pub fn pay(&self, packet: &mut Datagram<'_>, tag: &[u8; hmac::TAG_BYTES]) {
        let room = packet.as_mut().get_mut(self.tag_at..).unwrap_or_default();
        let len = room.len().min(tag.len());
        room[..len].copy_from_slice(&tag[..len]);
    }
}

/// Protects an RTP packet whose headers end at `header`, but for a tag that is then owed.
#[inline]
pub(super) fn seal_rtp(
    form: Form,
    session: &Session,
    packet: &mut Datagram<'_>,
    header: usize,
    ssrc: u32,
    index: u64,
) -> Result<Option<Owed>, Error> {
    let len = packet.len();
    let mki = form.mki.as_bytes();
    let bytes = grow(packet, form.tag + mki.len())?;
    match session {
        Session::CounterMode { cipher, salt, .. } => {
            ctr::apply(form.kernels, cipher, counter_iv(salt, ssrc, index), &mut bytes[header..len]);
            put(bytes, len, &[mki]);
            Ok(Some(Owed { end: len, tag_at: len + mki.len(), rollover: rollover(index) }))
        }
        Session::Aead { key, salt } => {
            let (aad, data) = bytes[..len].split_at_mut(header);
            let tag = gcm::seal(form.kernels, key, &nonce(salt, ssrc, index), aad, data);
            put(bytes, len, &[&tag, mki]);
            Ok(None)
        }
    }
}

/// What the tag of an SRTP packet should be computed from, if it is under that index; none if it needs no such thing, or is
/// not of this key.
#[inline]
pub(super) fn expected<'a>(
    form: Form,
    serial: u32,
    session: &'a Session,
    bytes: &'a [u8],
    header: usize,
    index: u64,
) -> Option<Signing<'a>> {
    let Session::CounterMode { auth, .. } = session else { return None };
    let mki = form.mki.as_bytes();
    let end = bytes.len().checked_sub(form.tag + mki.len()).filter(|&end| end >= header)?;
    let (data, rest) = bytes.split_at_checked(end)?;
    rest.starts_with(mki).then_some(Signing { serial, key: auth, data, rollover: rollover(index) })
}

/// Reads an SRTP packet whose headers end at `header`. If it is not what it should be, it stays as it was. What its tag
/// should be may be known.
#[inline]
pub(super) fn open_rtp(
    form: Form,
    session: &Session,
    packet: &mut Datagram<'_>,
    header: usize,
    ssrc: u32,
    index: u64,
    tag: Option<[u8; hmac::TAG_BYTES]>,
) -> Result<(), Error> {
    let mki = form.mki.as_bytes();
    let end = packet.len().checked_sub(form.tag + mki.len()).filter(|&end| end >= header).ok_or(Error::Short)?;
    let (body, rest) = packet.as_mut().split_at_mut(end);
    match session {
        Session::CounterMode { cipher, auth, salt } => {
            let (its_mki, its_tag) = rest.split_at(mki.len());
            check(its_mki == mki, Error::OtherKey)?;
            let tag = tag.unwrap_or_else(|| hmac::tag(form.kernels, auth, body, &rollover(index)));
            check(equal(&tag[..form.tag], its_tag), Error::BadTag)?;
            ctr::apply(form.kernels, cipher, counter_iv(salt, ssrc, index), &mut body[header..]);
        }
        Session::Aead { key, salt } => {
            let (its_tag, its_mki) = rest.split_first_chunk().ok_or(Error::Short)?;
            check(its_mki == mki, Error::OtherKey)?;
            let (aad, data) = body.split_at_mut(header);
            gcm::open(form.kernels, key, &nonce(salt, ssrc, index), aad, data, its_tag)
                .map_err(|gcm::BadTag| Error::BadTag)?;
        }
    }
    packet.set_len(end);
    Ok(())
}

/// Protects an RTCP compound, which has `RTCP_CLEAR_BYTES` at least.
pub(super) fn seal_rtcp(
    form: Form,
    session: &Session,
    packet: &mut Datagram<'_>,
    ssrc: u32,
    index: u32,
) -> Result<(), Error> {
    let len = packet.len();
    check(len >= RTCP_CLEAR_BYTES, Error::Short)?;
    let mki = form.mki.as_bytes();
    let bytes = grow(packet, form.tag + SRTCP_INDEX_BYTES + mki.len())?;
    let word = (ENCRYPTED | index).to_be_bytes();
    match session {
        Session::CounterMode { cipher, auth, salt } => {
            let iv = counter_iv(salt, ssrc, index.into());
            ctr::apply(form.kernels, cipher, iv, &mut bytes[RTCP_CLEAR_BYTES..len]);
            let tag = hmac::tag(form.kernels, auth, &bytes[..len], &word);
            put(bytes, len, &[&word, mki, &tag[..form.tag]]);
        }
        Session::Aead { key, salt } => {
            let (clear, data) = bytes[..len].split_at_mut(RTCP_CLEAR_BYTES);
            let tag = gcm::seal(form.kernels, key, &nonce(salt, ssrc, index.into()), &rtcp_aad(clear, word), data);
            put(bytes, len, &[&tag, &word, mki]);
        }
    }
    Ok(())
}

/// Where the parts of an SRTCP packet lie.
pub(super) struct RtcpParts {
    /// The end of what was RTCP.
    end: usize,
    /// E bit and index.
    word: [u8; SRTCP_INDEX_BYTES],
}

impl RtcpParts {
    /// Finds them. Nothing is believed yet.
    pub fn find(form: Form, session: &Session, bytes: &[u8]) -> Result<Self, Error> {
        let mki = form.mki.as_bytes();
        let added = form.tag + SRTCP_INDEX_BYTES + mki.len();
        let end = bytes.len().checked_sub(added).filter(|&end| end >= RTCP_CLEAR_BYTES).ok_or(Error::Short)?;
        let word_at = match session {
            Session::CounterMode { .. } => end,
            Session::Aead { .. } => end + form.tag,
        };
        let (word, rest) = bytes[word_at..].split_first_chunk().ok_or(Error::Short)?;
        check(rest.starts_with(mki), Error::OtherKey)?;
        Ok(Self { end, word: *word })
    }

    /// The index that it claims.
    pub fn index(&self) -> u32 {
        u32::from_be_bytes(self.word) & !ENCRYPTED
    }

    fn is_encrypted(&self) -> bool {
        u32::from_be_bytes(self.word) & ENCRYPTED != 0
    }
}

/// Reads an SRTCP packet, encrypted or not: the E bit is under the tag like all else. If it is not what it should be, it
/// stays as it was.
pub(super) fn open_rtcp(
    form: Form,
    session: &Session,
    packet: &mut Datagram<'_>,
    parts: &RtcpParts,
    ssrc: u32,
) -> Result<(), Error> {
    let RtcpParts { end, word } = *parts;
    let index = parts.index();
    let bytes = packet.as_mut();
    match session {
        Session::CounterMode { cipher, auth, salt } => {
            let (body, rest) = bytes.split_at_mut(end);
            let tag = hmac::tag(form.kernels, auth, body, &word);
            let its_tag = &rest[SRTCP_INDEX_BYTES + form.mki.as_bytes().len()..];
            check(equal(&tag[..form.tag], its_tag), Error::BadTag)?;
            if parts.is_encrypted() {
                let iv = counter_iv(salt, ssrc, index.into());
                ctr::apply(form.kernels, cipher, iv, &mut body[RTCP_CLEAR_BYTES..]);
            }
        }
        Session::Aead { key, salt } => {
            let nonce = nonce(salt, ssrc, index.into());
            let (body, rest) = bytes.split_at_mut(end);
            let its_tag = *rest.first_chunk().ok_or(Error::Short)?;
            let opened = if parts.is_encrypted() {
                let (clear, data) = body.split_at_mut(RTCP_CLEAR_BYTES);
                gcm::open(form.kernels, key, &nonce, &rtcp_aad(clear, word), data, &its_tag)
            } else {
                // All of it and the word are authenticated, and the tag lies between them: the word takes its place.
                let aad = &mut bytes[..end + SRTCP_INDEX_BYTES];
                aad[end..].copy_from_slice(&word);
                let opened = gcm::open(form.kernels, key, &nonce, aad, &mut [], &its_tag);
                aad[end..].copy_from_slice(&its_tag[..SRTCP_INDEX_BYTES]);
                opened
            };
            opened.map_err(|gcm::BadTag| Error::BadTag)?;
        }
    }
    packet.set_len(end);
    Ok(())
}

/// RFC 7714 section 9.2: the first eight bytes, then E bit and index.
fn rtcp_aad(clear: &[u8], word: [u8; SRTCP_INDEX_BYTES]) -> [u8; RTCP_CLEAR_BYTES + SRTCP_INDEX_BYTES] {
    let mut aad = [0; RTCP_CLEAR_BYTES + SRTCP_INDEX_BYTES];
    let (front, back) = aad.split_at_mut(RTCP_CLEAR_BYTES);
    front.copy_from_slice(clear);
    back.copy_from_slice(&word);
    aad
}

/// The rollover counter, which is authenticated and not sent (RFC 3711 section 4.2).
pub(super) fn rollover(index: u64) -> [u8; 4] {
    ((index >> 16) as u32).to_be_bytes()
}

/// Makes room behind a packet, up to what an Ethernet frame holds.
fn grow<'d>(packet: &'d mut Datagram<'_>, by: usize) -> Result<&'d mut [u8], Error> {
    let len = packet.len() + by;
    check(len <= packet.capacity().min(PACKET_BYTES_MAX), Error::TooLong)?;
    packet.set_len(len);
    Ok(packet.as_mut())
}

fn put(bytes: &mut [u8], mut at: usize, parts: &[&[u8]]) {
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
}

fn check(holds: bool, error: Error) -> Result<(), Error> {
    if holds { Ok(()) } else { Err(error) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::keys::Traffic;
    use crate::srtp::suite::profile;
    use nebula_ring::srtp::{MasterKey, Suite};
    use serde_json::Value;
    use std::path::{Path, PathBuf};

    /// The vectors of RFC 7714 and of libsrtp lie beside the clone; CI may name another place. Without them the test says so and
    /// passes.
    fn vectors() -> Vec<Value> {
        let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata");
        let file =
            std::env::var_os("NEBULA_TESTDATA").map_or_else(beside, PathBuf::from).join("srtp/srtp_vectors.json");
        let Ok(text) = std::fs::read_to_string(&file) else {
            eprintln!("skipped: no vectors at {}", file.display());
            return Vec::new();
        };
        serde_json::from_str(&text).expect("vectors are JSON")
    }

    fn bytes(vector: &Value, name: &str) -> Option<Vec<u8>> {
        vector[name].as_str().map(|text| hex::decode(text).unwrap())
    }

    #[test]
    fn packets_are_protected_and_read_as_in_the_vectors() {
        let vectors = vectors();
        let mut tried = 0;
        for vector in &vectors {
            let (Some(plain), Some(protected)) = (bytes(vector, "plain"), bytes(vector, "protected")) else { continue };
            let suite = Suite::from_name(vector["profile"].as_str().unwrap()).unwrap();
            let kernels = Kernels::detect();
            let is_rtcp = !vector["srtcp_index"].is_null();
            let traffic = if is_rtcp { Traffic::Rtcp } else { Traffic::Rtp };
            let session = match (bytes(vector, "master_key"), bytes(vector, "session_key")) {
                (Some(key), _) => {
                    let master = [key, bytes(vector, "master_salt").unwrap()].concat();
                    Session::derive(kernels, &MasterKey::new(1, suite, &master, Mki::default()).unwrap(), traffic)
                }
                (None, key) => Session::aead(&key.unwrap(), bytes(vector, "session_salt").unwrap().try_into().unwrap()),
            };
            let mut buffer = plain.clone();
            buffer.resize(plain.len() + 40, 0);
            let mut packet = Datagram::new(&mut buffer, plain.len());
            if is_rtcp {
                let form = Form { kernels, mki: Mki::default(), tag: profile(suite).rtcp_tag };
                let ssrc = crate::wire::u32_at(&plain, 4);
                let index = vector["srtcp_index"].as_u64().unwrap() as u32;
                seal_rtcp(form, &session, &mut packet, ssrc, index).unwrap();
                assert_eq!(hex::encode(packet.as_ref()), hex::encode(&protected), "{}", vector["id"]);
                let parts = RtcpParts::find(form, &session, packet.as_ref()).unwrap();
                assert_eq!(parts.index(), index);
                open_rtcp(form, &session, &mut packet, &parts, ssrc).unwrap();
            } else {
                let form = Form { kernels, mki: Mki::default(), tag: profile(suite).rtp_tag };
                let ssrc = crate::wire::u32_at(&plain, 8);
                let index = vector["roc"].as_u64().unwrap() << 16 | u64::from(crate::wire::u16_at(&plain, 2));
                if let Some(owed) = seal_rtp(form, &session, &mut packet, 12, ssrc, index).unwrap() {
                    let tag = owed.signing(1, &session, packet.as_ref()).unwrap().tag(kernels);
                    owed.pay(&mut packet, &tag);
                }
                assert_eq!(hex::encode(packet.as_ref()), hex::encode(&protected), "{}", vector["id"]);
                open_rtp(form, &session, &mut packet, 12, ssrc, index, None).unwrap();
            }
            assert_eq!(packet.as_ref(), plain);
            tried += 1;
        }
        assert_eq!(tried, if vectors.is_empty() { 0 } else { 9 });
    }
}
