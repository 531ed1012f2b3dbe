//! Protected streams: what is read, what is refused, what leaves, and that no number is used twice. The phones protect with
//! webrtc-srtp, which shares no line with us.

mod common;
use common::{Call, Rig, at, config, rtp};
use nebula_core::driver::Component::{self, Rtcp, Rtp};
use nebula_core::limits::KEY_OVERLAP_MS;
use nebula_core::record::record;
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};
use nebula_ring::drops::DropReason::{self, *};
use nebula_ring::event::Reason;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use nebula_ring::table::StreamRecord;
use std::collections::BTreeSet;
use webrtc_srtp::context::Context;
use webrtc_srtp::protection_profile::ProtectionProfile;

const A: &str = "192.0.2.1:5000";
const B: &str = "192.0.2.2:5000";
const A_RTCP: &str = "192.0.2.1:5001";
const B_RTCP: &str = "192.0.2.2:5001";
const SSRC: u32 = 0x00ab_cdef;

const SUITES: [(Suite, ProtectionProfile); 6] = [
    (Suite::AesCm128HmacSha1_80, ProtectionProfile::Aes128CmHmacSha1_80),
    (Suite::AesCm128HmacSha1_32, ProtectionProfile::Aes128CmHmacSha1_32),
    (Suite::AesCm256HmacSha1_80, ProtectionProfile::Aes256CmHmacSha1_80),
    (Suite::AesCm256HmacSha1_32, ProtectionProfile::Aes256CmHmacSha1_32),
    (Suite::AeadAes128Gcm, ProtectionProfile::AeadAes128Gcm),
    (Suite::AeadAes256Gcm, ProtectionProfile::AeadAes256Gcm),
];

/// A key that differs from those of other numbers.
fn master(suite: Suite, serial: u32, number: u8) -> MasterKey {
    with_mki(suite, serial, number, &[])
}

fn with_mki(suite: Suite, serial: u32, number: u8, mki: &[u8]) -> MasterKey {
    let bytes: Vec<u8> =
        (0..suite.key_bytes() + suite.salt_bytes()).map(|i| number.wrapping_mul(31) ^ i as u8).collect();
    MasterKey::new(serial, suite, &bytes, Mki::new(mki).unwrap()).unwrap()
}

/// The other end of a key.
fn context(master: &MasterKey) -> Context {
    let profile = SUITES.iter().find(|row| row.0 == master.suite).unwrap().1;
    Context::new(master.key(), master.salt(), profile, None, None).unwrap()
}

/// Stream n with these keys.
fn secured(n: u8, receive: &MasterKey, send: &MasterKey) -> StreamConfig {
    let srtp = SrtpConfig { receive: Some(receive.clone()), send: Some(send.clone()) };
    StreamConfig { srtp: Some(srtp), ..config(n) }
}

fn report(ssrc: u32) -> Vec<u8> {
    [&[0x80, 201, 0, 1][..], &ssrc.to_be_bytes(), &[0x81, 202, 0, 2], &ssrc.to_be_bytes(), &[1, 1, b'x', 0]].concat()
}

/// Hands RTCP in and says by which reason it was dropped.
fn dropped(rig: &mut Rig, component: Component, from: &str, packet: &[u8]) -> DropReason {
    let before = *rig.view(1).drops;
    let (after, calls) = rig.hear(1, component, Some(from), packet);
    assert_eq!((calls.len(), after), (0, packet.to_vec()), "what is refused is not touched and goes nowhere");
    let drops = *rig.view(1).drops;
    *DropReason::ALL.iter().find(|&&reason| drops.get(reason) > before.get(reason)).expect("dropped")
}

/// A phone that protects behind stream 1, one that does not behind stream 2.
fn half(suite: Suite) -> (Rig, Context, Context) {
    let (theirs, ours) = (master(suite, 1, 1), master(suite, 1, 2));
    let rig = Rig::bridged(secured(1, &theirs, &ours), config(2));
    (rig, context(&theirs), context(&ours))
}

#[test]
fn srtp_becomes_rtp_and_back_for_each_suite() {
    for (suite, _) in SUITES {
        let (mut rig, mut out, mut heard) = half(suite);
        for sequence in [62_400u16, 62_401, 65_300, 65_535, 0, 1] {
            let plain = rtp(8, sequence, u32::from(sequence), SSRC);
            let protected = out.encrypt_rtp(&plain).unwrap();
            let (forwarded, calls) = rig.hear(1, Rtp, Some(A), &protected);
            assert_eq!(forwarded, plain, "{suite:?}");
            assert!(matches!(calls.last(), Some(Call::Forward(_, to)) if *to == at(B)));
            let (protected, _) = rig.hear(2, Rtp, Some(B), &plain);
            assert_ne!(protected, plain);
            assert_eq!(heard.decrypt_rtp(&protected).unwrap(), plain, "{suite:?}");
        }
        let (forwarded, _) = rig.hear(1, Rtcp, Some(A_RTCP), &out.encrypt_rtcp(&report(SSRC)).unwrap());
        assert_eq!(forwarded, report(SSRC));
        let (protected, _) = rig.hear(2, Rtcp, Some(B_RTCP), &report(7));
        assert_eq!(heard.decrypt_rtcp(&protected).unwrap(), report(7));
        let mut shown = StreamRecord::default();
        rig.engine.streams().filter(|(_, view)| view.id.0 == 1).for_each(|(_, view)| shown = record(&view));
        assert_eq!((shown.rollover_in, shown.rollover_out), (1, 1), "{suite:?}");
        assert_eq!(rig.view(1).drops.total() + rig.view(2).drops.total(), 0);
    }
}

#[test]
fn both_legs_protect_with_suites_and_keys_of_their_own() {
    let (a_in, a_out) = (master(Suite::AeadAes256Gcm, 1, 1), master(Suite::AeadAes256Gcm, 1, 2));
    let (b_in, b_out) = (master(Suite::AesCm128HmacSha1_32, 1, 3), master(Suite::AesCm128HmacSha1_32, 1, 4));
    let mut rig = Rig::bridged(secured(1, &a_in, &a_out), secured(2, &b_in, &b_out));
    let (mut from_a, mut to_b) = (context(&a_in), context(&b_out));
    for sequence in 0..300 {
        let plain = rtp(101, sequence, 0, SSRC);
        let (sent, _) = rig.hear(1, Rtp, Some(A), &from_a.encrypt_rtp(&plain).unwrap());
        assert_eq!(to_b.decrypt_rtp(&sent).unwrap(), rtp(96, sequence, 0, SSRC), "the payload type is mapped");
    }
    let (sent, _) = rig.hear(1, Rtcp, Some(A_RTCP), &from_a.encrypt_rtcp(&report(SSRC)).unwrap());
    assert_eq!(to_b.decrypt_rtcp(&sent).unwrap(), report(SSRC));
}

#[test]
fn what_is_changed_cut_or_replayed_is_refused_and_untouched() {
    for (suite, _) in SUITES {
        let (mut rig, mut out, _) = half(suite);
        let good = out.encrypt_rtp(&rtp(8, 1, 0, SSRC)).unwrap();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x10;
            let reason = rig.dropped(1, A, &bad);
            // The first two bytes say what a packet is, before anything else; the sequence number where it stands.
            assert!(at < 2 || reason == BadTag, "{suite:?} {at}: {reason:?}");
        }
        for len in 0..good.len() {
            let reason = rig.dropped(1, A, &good[..len]);
            assert!([BadTag, Short].contains(&reason) || len < 2, "{suite:?} {len}: {reason:?}");
        }
        assert_eq!(rig.view(1).stats.packets_received, 0);
        assert_eq!(rig.hear(1, Rtp, Some(A), &good).0, rtp(8, 1, 0, SSRC));
        assert_eq!(rig.dropped(1, A, &good), Replay);

        let good = out.encrypt_rtcp(&report(SSRC)).unwrap();
        for at in 2..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 0x80;
            // A flipped bit in the index may make a replay of it, and the top bit is E: webrtc-srtp falls for that.
            assert_eq!(dropped(&mut rig, Rtcp, A_RTCP, &bad), BadTag, "{suite:?} {at}");
        }
        for len in 2..good.len() {
            let reason = dropped(&mut rig, Rtcp, A_RTCP, &good[..len]);
            assert!([BadTag, Short].contains(&reason), "{suite:?} {len}: {reason:?}");
        }
        assert_eq!(rig.hear(1, Rtcp, Some(A_RTCP), &good).0, report(SSRC));
        assert_eq!(dropped(&mut rig, Rtcp, A_RTCP, &good), Replay);
        assert_eq!(rig.dropped(1, A, &rtp(8, 2, 0, SSRC)), BadTag, "plain RTP is none");
    }
}

#[test]
fn the_window_is_128_packets_wide() {
    let (mut rig, mut out, _) = half(Suite::AesCm128HmacSha1_80);
    let packets: Vec<_> = (1000..1200).map(|s| out.encrypt_rtp(&rtp(8, s, 0, SSRC)).unwrap()).collect();
    rig.hear(1, Rtp, Some(A), &packets[199]);
    assert_eq!(rig.dropped(1, A, &packets[71]), Replay, "128 behind");
    assert_eq!(rig.hear(1, Rtp, Some(A), &packets[72]).1.len(), 1, "127 behind");
    assert_eq!(rig.dropped(1, A, &packets[72]), Replay);
}

#[test]
fn nothing_is_learned_from_a_packet_that_is_not_the_peers() {
    let (theirs, ours) = (master(Suite::AeadAes128Gcm, 1, 1), master(Suite::AeadAes128Gcm, 1, 2));
    let nat = StreamConfig { nat_expected: true, ..secured(1, &theirs, &ours) };
    let mut rig = Rig::bridged(nat, config(2));
    let mut forger = context(&master(Suite::AeadAes128Gcm, 1, 9));
    for sequence in 0..50 {
        let forged = forger.encrypt_rtp(&rtp(8, sequence, 0, SSRC)).unwrap();
        assert_eq!(rig.dropped(1, A, &forged), BadTag, "from the very address that was signalled");
        assert_eq!(rig.dropped(1, "203.0.113.9:777", &forged), BadTag);
        rig.now = rig.now.plus_millis(20);
    }
    assert!(!rig.view(1).latched && rig.view(1).source.is_none() && rig.events.is_empty());
    let (_, calls) = rig.hear(1, Rtp, Some(A), &context(&theirs).encrypt_rtp(&rtp(8, 50, 0, SSRC)).unwrap());
    assert!(matches!(calls[0], Call::Connect(_, peer) if peer == at(A)));
}

#[test]
fn without_keys_nothing_is_believed_and_nothing_leaves_in_the_clear() {
    let waiting = StreamConfig { srtp: Some(SrtpConfig::default()), mode: Mode::Echo, ..config(1) };
    let mut rig = Rig::bridged(waiting.clone(), config(2));
    assert_eq!(rig.dropped(1, A, &rtp(8, 1, 0, SSRC)), NoKey);
    let (packet, calls) = rig.hear(2, Rtp, Some(B), &rtp(8, 1, 0, 9));
    assert!(calls.iter().all(|call| !matches!(call, Call::Forward(..))), "{calls:?} {packet:?}");
    assert_eq!(rig.view(2).drops.get(NoKey), 1);
    let mut rig = Rig::with(&[waiting]);
    assert_eq!(rig.pass(30_000), [], "no reports either");
}

#[test]
fn a_new_key_takes_effect_at_once_and_the_old_one_is_heard_out() {
    let suite = Suite::AesCm128HmacSha1_80;
    let (mut rig, mut before, mut heard) = half(suite);
    rig.hear(1, Rtp, Some(A), &before.encrypt_rtp(&rtp(8, 1, 0, SSRC)).unwrap());
    let in_flight: Vec<_> = (2..5).map(|s| before.encrypt_rtp(&rtp(8, s, 0, SSRC)).unwrap()).collect();
    rig.update(1, secured(1, &master(suite, 2, 5), &master(suite, 1, 2)));
    let mut after = context(&master(suite, 2, 5));
    assert_eq!(rig.hear(1, Rtp, Some(A), &in_flight[0]).0, rtp(8, 2, 0, SSRC));
    assert_eq!(rig.hear(1, Rtp, Some(A), &after.encrypt_rtp(&rtp(8, 5, 0, SSRC)).unwrap()).0, rtp(8, 5, 0, SSRC));
    assert_eq!(rig.hear(1, Rtp, Some(A), &in_flight[1]).0, rtp(8, 3, 0, SSRC), "it came late");
    assert_eq!(rig.dropped(1, A, &in_flight[1]), Replay);
    rig.now = rig.now.plus_millis(KEY_OVERLAP_MS + 1);
    assert_eq!(rig.dropped(1, A, &in_flight[2]), BadTag);
    assert_eq!(rig.hear(1, Rtp, Some(A), &after.encrypt_rtp(&rtp(8, 6, 0, SSRC)).unwrap()).0, rtp(8, 6, 0, SSRC));

    // The same keys again: nothing begins anew.
    for sequence in [62_500, 65_400] {
        let (sent, _) = rig.hear(2, Rtp, Some(B), &rtp(8, sequence, 0, 9));
        heard.decrypt_rtp(&sent).unwrap();
    }
    rig.update(1, secured(1, &master(suite, 2, 5), &master(suite, 1, 2)));
    let (sent, _) = rig.hear(2, Rtp, Some(B), &rtp(8, 300, 0, 9));
    assert_eq!(heard.decrypt_rtp(&sent).unwrap(), rtp(8, 300, 0, 9), "under the next rollover counter");

    // Our own key may be another, and never one before it.
    let newer = secured(1, &master(suite, 2, 5), &master(suite, 2, 6));
    rig.update(1, newer.clone());
    let (sent, _) = rig.hear(2, Rtp, Some(B), &rtp(8, 1, 0, 9));
    assert_eq!(context(&master(suite, 2, 6)).decrypt_rtp(&sent).unwrap(), rtp(8, 1, 0, 9));
    for (serial, number) in [(1, 2), (2, 7)] {
        let config = secured(1, &master(suite, 2, 5), &master(suite, serial, number));
        assert_eq!(rig.apply(Command::UpdateStream { id: StreamId(1), config }), Err(Reason::Invalid));
    }
    rig.update(1, config(1));
    assert_eq!(rig.hear(2, Rtp, Some(B), &rtp(8, 2, 0, 9)).0, rtp(8, 2, 0, 9), "no longer protected");
}

#[test]
fn key_identifiers_stand_where_the_rfcs_put_them() {
    for (suite, _) in SUITES {
        let mki = [0xc0, 0xff, 0xee];
        let (theirs, ours) = (with_mki(suite, 1, 1, &mki), with_mki(suite, 1, 2, &mki));
        let mut rig = Rig::bridged(secured(1, &theirs, &ours), config(2));
        let (mut out, mut heard) = (context(&theirs), context(&ours));
        let tag = match suite {
            Suite::AesCm128HmacSha1_80 | Suite::AesCm256HmacSha1_80 => 10,
            Suite::AesCm128HmacSha1_32 | Suite::AesCm256HmacSha1_32 => 4,
            // The tag of AEAD belongs to the ciphertext, so the identifier comes last.
            _ => 0,
        };
        let with = |packet: &[u8], tag: usize| {
            let at = packet.len() - tag;
            [&packet[..at], &mki, &packet[at..]].concat()
        };
        let without = |packet: &[u8], tag: usize| {
            let at = packet.len() - tag;
            assert_eq!(packet[at - 3..at], mki);
            [&packet[..at - 3], &packet[at..]].concat()
        };
        let protected = out.encrypt_rtp(&rtp(8, 1, 0, SSRC)).unwrap();
        assert_eq!(rig.dropped(1, A, &protected), NoKey, "{suite:?}");
        assert_eq!(rig.hear(1, Rtp, Some(A), &with(&protected, tag)).0, rtp(8, 1, 0, SSRC));
        let (sent, _) = rig.hear(2, Rtp, Some(B), &rtp(8, 1, 0, 9));
        assert_eq!(heard.decrypt_rtp(&without(&sent, tag)).unwrap(), rtp(8, 1, 0, 9));
        let rtcp_tag = if tag == 0 { 0 } else { 10 };
        let protected = out.encrypt_rtcp(&report(SSRC)).unwrap();
        assert_eq!(rig.hear(1, Rtcp, Some(A_RTCP), &with(&protected, rtcp_tag)).0, report(SSRC));
        let (sent, _) = rig.hear(2, Rtcp, Some(B_RTCP), &report(9));
        assert_eq!(heard.decrypt_rtcp(&without(&sent, rtcp_tag)).unwrap(), report(9));
    }
}

/// What identifies a nonce: two packets with the same key stream were protected under one.
fn key_stream(protected: &[u8], plain: &[u8]) -> Vec<u8> {
    protected[12..28].iter().zip(&plain[12..28]).map(|(a, b)| a ^ b).collect()
}

#[test]
fn no_number_is_used_twice_whatever_the_plain_side_sends() {
    for (suite, _) in [SUITES[0], SUITES[4]] {
        let (mut rig, _, mut heard) = half(suite);
        let mut used = BTreeSet::new();
        let mut say = |rig: &mut Rig, ssrc: u32, sequence: u16, mark: u8| {
            let mut plain = rtp(8, sequence, 0, ssrc);
            plain[12] = mark;
            let (sent, calls) = rig.hear(2, Rtp, Some(B), &plain);
            let left = calls.iter().any(|call| matches!(call, Call::Forward(..)));
            if left {
                assert!(used.insert(key_stream(&sent, &plain)), "{suite:?} {ssrc} {sequence}");
                let read = heard.decrypt_rtp(&sent).unwrap_or_else(|error| panic!("{ssrc} {sequence}: {error}"));
                assert_eq!(read[12..], plain[12..]);
            }
            left
        };
        assert!(say(&mut rig, 1, 100, 0));
        assert!(!say(&mut rig, 1, 100, 1), "a duplicate with another content");
        assert!(say(&mut rig, 1, 102, 0) && say(&mut rig, 1, 101, 0), "late, but not used yet");
        assert_eq!(rig.view(2).drops.get(OutOfOrder), 1);
        // It begins anew with the same SSRC: believed from the second packet on, and it goes on with our numbers.
        assert!(!say(&mut rig, 1, 60_000, 0) && say(&mut rig, 1, 60_001, 0) && say(&mut rig, 1, 60_002, 0));
        // A lone packet from far away does not move us.
        assert!(!say(&mut rig, 1, 30_000, 0) && say(&mut rig, 1, 60_003, 0));
        // Sources come and go, return, and are more than are remembered.
        for round in 0..3u16 {
            for ssrc in 1..=12 {
                for sequence in 0..5 {
                    say(&mut rig, ssrc, 200 + 10 * round + sequence, round as u8);
                }
            }
        }
        for _ in 0..4 {
            for sequence in 0..2000 {
                say(&mut rig, 1, sequence, 9);
            }
        }
        assert!(used.len() > 2000, "{}", used.len());
    }
}

#[test]
fn a_successor_goes_on_behind_all_that_was_sent_and_hears_no_replays() {
    for (suite, _) in [SUITES[0], SUITES[5]] {
        let (mut rig, mut out, mut heard) = half(suite);
        let mut used = BTreeSet::new();
        let mut protected = Vec::new();
        for sequence in 62_400..65_700u32 {
            let sequence = sequence as u16;
            let plain = rtp(8, sequence, 0, SSRC);
            protected = out.encrypt_rtp(&plain).unwrap().to_vec();
            rig.hear(1, Rtp, Some(A), &protected);
            let (sent, _) = rig.hear(2, Rtp, Some(B), &plain);
            assert!(used.insert(key_stream(&sent, &plain)));
            heard.decrypt_rtp(&sent).unwrap();
            // The table as a worker writes it: at once what it must, the rest now and then.
            if sequence.is_multiple_of(50) {
                let Rig { engine, events, .. } = &mut rig;
                engine.for_each_dirty(|_, view| {
                    events.table.insert(view.id.0, record(view));
                });
            }
        }
        let (sent, _) = rig.hear(2, Rtcp, Some(B_RTCP), &report(SSRC));
        heard.decrypt_rtcp(&sent).unwrap();
        let index_before = u32::from_be_bytes(*sent[sent.len() - 14..].first_chunk().unwrap());
        let shown = std::mem::take(&mut rig.events.table);
        let configs = [rig.view(1).config.clone(), rig.view(2).config.clone()];
        let mut heir = Rig::new();
        for (id, config) in (1..).zip(configs) {
            heir.apply(Command::ResumeStream { id: StreamId(id), config, record: shown[&id] }).unwrap();
        }
        heir.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
        assert_eq!(heir.dropped(1, A, &at_or_before(&shown[&1], &protected)), Replay);
        let mut first = None;
        for sequence in 170..700u16 {
            let plain = rtp(8, sequence, 0, SSRC);
            let (got, _) = heir.hear(1, Rtp, Some(A), &out.encrypt_rtp(&plain).unwrap());
            assert_eq!(got, plain, "under the rollover counter of before");
            let (sent, _) = heir.hear(2, Rtp, Some(B), &plain);
            assert!(used.insert(key_stream(&sent, &plain)), "{suite:?} {sequence}");
            let read = heard.decrypt_rtp(&sent).unwrap();
            assert_eq!((&read[4..12], &read[12..]), (&plain[4..12], &plain[12..]), "the same SSRC");
            first.get_or_insert(u16::from_be_bytes([read[2], read[3]]));
        }
        let ahead = first.unwrap().wrapping_sub(163);
        assert!((1..=600).contains(&ahead), "it leaps, but a receiver takes it for loss: {ahead}");
        let (sent, _) = heir.hear(2, Rtcp, Some(B_RTCP), &report(SSRC));
        heard.decrypt_rtcp(&sent).unwrap();
        let index_after = u32::from_be_bytes(*sent[sent.len() - 14..].first_chunk().unwrap());
        assert!(suite != Suite::AesCm128HmacSha1_80 || index_after > index_before);
    }
}

/// Both streams of a rig as they stand: configurations and records.
fn stand(rig: &Rig) -> Vec<(StreamId, StreamConfig, StreamRecord)> {
    rig.engine.streams().map(|(_, view)| (view.id, view.config.clone(), record(&view))).collect()
}

#[test]
fn keys_that_are_handed_over_go_on_as_they_stood() {
    for (suite, _) in SUITES {
        let (mut rig, mut out, mut heard) = half(suite);
        let mut protected = Vec::new();
        for sequence in 65_400..65_600u32 {
            protected.push(out.encrypt_rtp(&rtp(8, sequence as u16, 0, SSRC)).unwrap().to_vec());
        }
        // One is late.
        let late = protected.remove(150);
        for (packet, sequence) in protected.iter().zip(100..) {
            rig.hear(1, Rtp, Some(A), packet);
            let (sent, _) = rig.hear(2, Rtp, Some(B), &rtp(8, sequence, 0, 9));
            heard.decrypt_rtp(&sent).unwrap();
        }
        let (sent, _) = rig.hear(2, Rtcp, Some(B_RTCP), &report(9));
        heard.decrypt_rtcp(&sent).unwrap();
        // The phone takes a new key; what it sent under the one before is still on its way.
        let (theirs, ours) = (master(suite, 2, 3), master(suite, 1, 2));
        rig.apply(Command::UpdateStream { id: StreamId(1), config: secured(1, &theirs, &ours) }).unwrap();
        let mut heir = Rig::new();
        for (id, config, record) in stand(&rig) {
            let keys = rig.engine.hand_over(rig.now, id, &mut rig.driver, &mut rig.events).unwrap();
            assert_eq!(keys.is_some(), config.srtp.is_some());
            heir.apply(Command::ResumeStream { id, config, record }).unwrap();
            if let Some(keys) = keys {
                heir.engine.entrust(id, keys, &mut heir.driver, &mut heir.events).unwrap();
            }
        }
        assert!(rig.engine.streams().next().is_none());
        heir.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
        let (got, _) = heir.hear(1, Rtp, Some(A), &late);
        assert_eq!(
            got,
            rtp(8, 14, 0, SSRC),
            "{suite:?}: within the window, under the rollover counter and the key of before"
        );
        for old in [&late, &protected[0], protected.last().unwrap()] {
            assert_eq!(heir.dropped(1, A, old), Replay, "{suite:?}");
        }
        let plain = rtp(8, 14, 1, SSRC);
        assert_eq!(heir.hear(1, Rtp, Some(A), &context(&theirs).encrypt_rtp(&plain).unwrap()).0, plain);
        let (sent, _) = heir.hear(2, Rtp, Some(B), &rtp(8, 299, 0, 9));
        assert_eq!(heard.decrypt_rtp(&sent).unwrap(), rtp(8, 299, 0, 9), "the very next number");
        assert_eq!(heir.dropped(2, B, &rtp(8, 298, 0, 9)), OutOfOrder, "{suite:?}: used up");
        let (sent, _) = heir.hear(2, Rtcp, Some(B_RTCP), &report(9));
        heard.decrypt_rtcp(&sent).unwrap();
        if suite == Suite::AesCm128HmacSha1_80 {
            assert_eq!(sent[sent.len() - 14..][..4], (1u32 << 31 | 2).to_be_bytes(), "the very next index");
        }
        assert!(heir.events.table[&1].srtp_used_out[0] >= 299, "{suite:?}: and it is shown");
    }
}

#[test]
fn where_nobody_knows_what_was_sent_no_index_comes_again() {
    for (suite, _) in [SUITES[0], SUITES[5]] {
        let (mut rig, _, mut heard) = half(suite);
        rig.hear(2, Rtp, Some(B), &rtp(8, 999, 0, SSRC));
        // All that is kept, while far more is sent than any bound on the rate would allow for: more than a cycle each time.
        let kept = stand(&rig);
        let (mut used, mut used_rtcp) = (BTreeSet::new(), BTreeSet::new());
        for rename in [0, 0x0bad_cafe, 0x1234_5678] {
            if rename != 0 {
                rig = Rig::new();
                for (id, config, record) in kept.clone() {
                    let (srtp_ssrc_out, srtp_used_out) = Default::default();
                    let record = StreamRecord { srtp_ssrc_out, srtp_used_out, srtp_rename_out: rename, ..record };
                    rig.apply(Command::ResumeStream { id, config, record }).unwrap();
                }
                rig.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
            }
            let name = (SSRC ^ rename).to_be_bytes();
            for sequence in 1000..67_000u32 {
                let plain = rtp(8, sequence as u16, 0, SSRC);
                let (sent, _) = rig.hear(2, Rtp, Some(B), &plain);
                assert!(used.insert(key_stream(&sent, &plain)), "{suite:?} {sequence}");
                let read = heard.decrypt_rtp(&sent).unwrap();
                assert_eq!((&read[..8], &read[8..12], &read[12..]), (&plain[..8], &name[..], &plain[12..]));
            }
            let (sent, _) = rig.hear(2, Rtcp, Some(B_RTCP), &report(SSRC));
            assert_eq!(heard.decrypt_rtcp(&sent).unwrap()[4..8], name, "and reports say who reports");
            assert!(used_rtcp.insert((sent[4..8].to_vec(), sent[sent.len() - 14..][..4].to_vec())));
        }
        // The next death is one whose table is there: the names stay.
        let record = rig.events.table[&1];
        let mine = rig.view(1).config.clone();
        let mut heir = Rig::new();
        heir.apply(Command::CreateStream { id: StreamId(2), config: config(2) }).unwrap();
        heir.apply(Command::ResumeStream { id: StreamId(1), config: mine, record }).unwrap();
        heir.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
        let plain = rtp(8, 1464, 0, SSRC);
        let (sent, _) = heir.hear(2, Rtp, Some(B), &plain);
        assert!(used.insert(key_stream(&sent, &plain)));
        assert_eq!(heard.decrypt_rtp(&sent).unwrap()[8..12], (SSRC ^ 0x1234_5678).to_be_bytes());
    }
}

/// A packet under the last number that the table tells of: a replay is refused before its tag is looked at.
fn at_or_before(shown: &StreamRecord, packet: &[u8]) -> Vec<u8> {
    let mut old = packet.to_vec();
    old[2..4].copy_from_slice(&((shown.srtp_next_in[0] - 1) as u16).to_be_bytes());
    old
}

#[test]
fn a_source_that_is_about_to_wrap_is_moved_so_that_all_can_follow() {
    let (mut rig, _, mut heard) = half(Suite::AesCm128HmacSha1_80);
    for sequence in 65_530..65_545u32 {
        let (sent, _) = rig.hear(2, Rtp, Some(B), &rtp(8, sequence as u16, 0, 9));
        // It misses all before the wrap.
        if sequence > 65_535 {
            let read = heard.decrypt_rtp(&sent).unwrap();
            assert_eq!(read[2..4], (sequence as u16).wrapping_add(1 << 15).to_be_bytes());
        }
    }
}

#[test]
fn echo_and_reports_of_our_own_are_protected() {
    let suite = Suite::AesCm128HmacSha1_80;
    let (theirs, ours) = (master(suite, 1, 1), master(suite, 1, 2));
    let mut rig = Rig::with(&[StreamConfig { mode: Mode::Echo, ..secured(1, &theirs, &ours) }]);
    let (mut out, mut heard) = (context(&theirs), context(&ours));
    for sequence in 0..100 {
        let (sent, _) = rig.hear(1, Rtp, Some(A), &out.encrypt_rtp(&rtp(8, sequence, 0, SSRC)).unwrap());
        let read = heard.decrypt_rtp(&sent).unwrap();
        assert_eq!(read[8..12], 0xeeee_0001u32.to_be_bytes());
        rig.now = rig.now.plus_millis(20);
    }
    let reports = rig.pass(20_000);
    assert!(reports.len() > 2);
    for call in reports {
        let Call::Send(_, _, bytes) = call else { panic!("{call:?}") };
        assert_eq!(heard.decrypt_rtcp(&bytes).unwrap()[1], if bytes[1] == 200 { 200 } else { 201 });
    }
    rig.apply(Command::DestroyStream { id: StreamId(1) }).unwrap();
    let bye = rig.driver.calls.iter().find_map(|call| match call {
        Call::Send(_, _, bytes) => Some(heard.decrypt_rtcp(bytes).unwrap()),
        _ => None,
    });
    assert!(bye.unwrap().windows(2).any(|pair| pair == [0x81, 203]));
}

#[test]
fn packets_that_would_not_fit_a_frame_are_dropped() {
    let (mut rig, ..) = half(Suite::AeadAes128Gcm);
    let mut long = rtp(8, 1, 0, 9);
    long.resize(1472, 0);
    let (_, calls) = rig.hear(2, Rtp, Some(B), &long);
    assert!(calls.iter().all(|call| !matches!(call, Call::Forward(..))));
    assert_eq!(rig.view(2).drops.get(TooLong), 1);
    long.resize(1400, 0);
    long[3] = 2;
    assert_eq!(rig.hear(2, Rtp, Some(B), &long).0.len(), 1416);
}
