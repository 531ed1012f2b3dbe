//! SRTP by the kernels of `simd`, as little else as there can be: session keys, IVs and tags by RFC 3711 and RFC 7714, for
//! packets with plain headers and a rollover counter of zero.

use crate::suite::{HEADER_BYTES, Packet, STREAMS, Suite, master, ssrc};
use anyhow::{Context, Result, ensure};
use nebula_bench::srtp::{derive, schedule};
use nebula_simd::aes::Schedule;
use nebula_simd::{Kernels, ctr, equal, gcm, hmac};

const TAG_BYTES: usize = 10;
const ROLLOVERS: [u8; 4] = [0; 4];

/// All streams under one suite.
pub enum Ours {
    AesCm { kernels: Kernels, schedules: Vec<Schedule>, keys: Vec<hmac::Key>, salts: Vec<[u8; 16]> },
    Gcm { kernels: Kernels, keys: Vec<gcm::Key>, salts: Vec<[u8; 12]> },
}

impl Ours {
    pub fn new(suite: Suite, kernels: Kernels) -> Result<Ours> {
        let masters: Vec<_> = (0..STREAMS).map(|stream| master(suite, stream)).collect();
        let derived = |label, length| -> Result<Vec<Vec<u8>>> {
            let split = masters.iter().map(|master| master.split_at(suite.key_bytes()));
            split.map(|(key, salt)| derive(kernels, key, salt, label, length)).collect()
        };
        let ciphers = derived(0, suite.key_bytes())?;
        let salts = derived(2, suite.salt_bytes())?;
        // The SSRC never changes, so it goes into the salt here.
        let mixed = |at: usize| {
            salts.iter().enumerate().map(move |(stream, salt)| {
                let mut mixed = salt.clone();
                mixed[at..at + 4].iter_mut().zip(ssrc(stream)).for_each(|(a, b)| *a ^= b);
                mixed
            })
        };
        Ok(match suite {
            Suite::AesCm128 | Suite::AesCm256 => Ours::AesCm {
                kernels,
                schedules: ciphers.iter().map(|key| schedule(key)).collect::<Result<_>>()?,
                keys: derived(1, 20)?.iter().map(|key| hmac::Key::new(key)).collect(),
                salts: mixed(4)
                    .map(|salt| {
                        let mut iv = [0; 16];
                        iv[..14].copy_from_slice(&salt);
                        iv
                    })
                    .collect(),
            },
            Suite::Gcm128 | Suite::Gcm256 => Ours::Gcm {
                kernels,
                keys: ciphers.iter().map(|key| gcm_key(key)).collect::<Result<_>>()?,
                salts: mixed(2).map(|salt| salt.as_slice().try_into().context("12 bytes")).collect::<Result<_>>()?,
            },
        })
    }

    /// Protects a packet of each stream.
    pub fn protect(&mut self, packets: &mut [Packet; STREAMS]) -> Result<()> {
        match self {
            Ours::AesCm { kernels, schedules, keys, salts } => {
                apply(*kernels, schedules, salts, packets);
                let tags = tags(*kernels, keys, packets);
                for (packet, tag) in packets.iter_mut().zip(&tags) {
                    packet.buffer[packet.length..packet.length + TAG_BYTES].copy_from_slice(&tag[..TAG_BYTES]);
                    packet.length += TAG_BYTES;
                }
            }
            Ours::Gcm { kernels, keys, salts } => {
                for ((packet, key), salt) in packets.iter_mut().zip(keys).zip(salts) {
                    let nonce = nonce(salt, &packet.buffer);
                    let (header, data) = packet.buffer[..packet.length].split_at_mut(HEADER_BYTES);
                    let tag = gcm::seal(*kernels, key, &nonce, header, data);
                    packet.buffer[packet.length..packet.length + tag.len()].copy_from_slice(&tag);
                    packet.length += tag.len();
                }
            }
        }
        Ok(())
    }

    /// Unprotects a packet of each stream.
    pub fn unprotect(&mut self, packets: &mut [Packet; STREAMS]) -> Result<()> {
        match self {
            Ours::AesCm { kernels, schedules, keys, salts } => {
                packets.iter_mut().for_each(|packet| packet.length -= TAG_BYTES);
                let tags = tags(*kernels, keys, packets);
                for (packet, tag) in packets.iter().zip(&tags) {
                    let theirs = &packet.buffer[packet.length..packet.length + TAG_BYTES];
                    ensure!(equal(theirs, &tag[..TAG_BYTES]), "a bad tag");
                }
                apply(*kernels, schedules, salts, packets);
            }
            Ours::Gcm { kernels, keys, salts } => {
                for ((packet, key), salt) in packets.iter_mut().zip(keys).zip(salts) {
                    packet.length -= gcm::TAG_BYTES;
                    let nonce = nonce(salt, &packet.buffer);
                    let (packet, behind) = packet.buffer.split_at_mut(packet.length);
                    let (header, data) = packet.split_at_mut(HEADER_BYTES);
                    let tag = behind.first_chunk().context("room for a tag")?;
                    gcm::open(*kernels, key, &nonce, header, data, tag)?;
                }
            }
        }
        Ok(())
    }
}

fn apply(kernels: Kernels, schedules: &[Schedule], salts: &[[u8; 16]], packets: &mut [Packet; STREAMS]) {
    let mut streams = schedules.iter().zip(salts);
    let mut jobs = packets.each_mut().map(|packet| {
        let (schedule, salt) = streams.next().expect("as many streams as packets");
        let mut iv = *salt;
        iv[12] ^= packet.buffer[2];
        iv[13] ^= packet.buffer[3];
        ctr::Job { schedule, iv, data: &mut packet.buffer[HEADER_BYTES..packet.length] }
    });
    ctr::apply_many(kernels, &mut jobs);
}

fn tags(kernels: Kernels, keys: &[hmac::Key], packets: &[Packet; STREAMS]) -> [[u8; hmac::TAG_BYTES]; STREAMS] {
    let mut keys = keys.iter();
    let jobs = packets.each_ref().map(|packet| {
        let key = keys.next().expect("as many keys as packets");
        hmac::Job { key, data: packet.bytes(), tail: &ROLLOVERS }
    });
    let mut tags = [[0; hmac::TAG_BYTES]; STREAMS];
    hmac::tag_many(kernels, &jobs, &mut tags);
    tags
}

fn nonce(salt: &[u8; 12], packet: &[u8]) -> [u8; 12] {
    let mut nonce = *salt;
    nonce[10] ^= packet[2];
    nonce[11] ^= packet[3];
    nonce
}

fn gcm_key(key: &[u8]) -> Result<gcm::Key> {
    Ok(match key.len() {
        16 => gcm::Key::aes_128(key.try_into()?),
        _ => gcm::Key::aes_256(key.try_into()?),
    })
}
