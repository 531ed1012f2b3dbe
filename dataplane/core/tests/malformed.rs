//! Everything that can be wrong with a packet, and what is odd but right: a row each, with the one name it is dropped under.

mod common;
use common::{Call, Rig, at, config, rtp};
use nebula_core::driver::Component::{self, Rtcp, Rtp};
use nebula_core::limits::PACKET_BYTES_MAX;
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};
use nebula_ring::drops::DropReason::{self, *};

const PEER: &str = "192.0.2.1:5000";
const PEER_RTCP: &str = "192.0.2.1:5001";

/// Bytes of the header, then a tail.
fn packet(head: &[u8], tail: &[u8]) -> Vec<u8> {
    [head, tail].concat()
}

/// RTP of type 8 with these first byte and whatever follows the fixed header.
fn with(first: u8, rest: &[u8]) -> Vec<u8> {
    let mut bytes = rtp(8, 1, 160, 9);
    bytes[0] = first;
    bytes.truncate(12);
    bytes.extend(rest);
    bytes
}

/// A CSRC list, an extension, a payload, padding.
fn full(csrcs: u8, extension: Option<(u16, &[u8])>, payload: &[u8], padding: u8) -> Vec<u8> {
    let mut rest = vec![7; 4 * usize::from(csrcs)];
    if let Some((profile, data)) = extension {
        rest.extend(profile.to_be_bytes());
        rest.extend((data.len() as u16 / 4).to_be_bytes());
        rest.extend(data);
    }
    rest.extend(payload);
    if padding > 0 {
        rest.extend(vec![0; usize::from(padding) - 1]);
        rest.push(padding);
    }
    with(0x80 | csrcs | u8::from(extension.is_some()) << 4 | u8::from(padding > 0) << 5, &rest)
}

type Row = (&'static str, Component, Vec<u8>, DropReason);

fn bad() -> Vec<Row> {
    let sr_of_one_block = |words: u8| {
        let mut bytes = vec![0x81, 200, 0, words];
        bytes.resize(4 * (usize::from(words) + 1), 1);
        bytes
    };
    let rr = [0x80, 201, 0, 1, 0, 0, 0, 7];
    vec![
        ("nothing at all", Rtp, vec![], Truncated),
        ("one byte", Rtp, vec![0x80], Truncated),
        ("half a header", Rtp, rtp(8, 1, 0, 9)[..11].to_vec(), Truncated),
        ("a CSRC list past the end", Rtp, with(0x8f, &[0; 56]), Truncated),
        ("an extension without its header", Rtp, with(0x90, &[0xbe, 0xde, 0]), Truncated),
        ("an extension past the end", Rtp, with(0x90, &[0xbe, 0xde, 0, 2, 0, 0, 0, 0]), Truncated),
        ("an extension of 256 KiB", Rtp, with(0x90, &[0xbe, 0xde, 0xff, 0xff, 0, 0, 0, 0]), Truncated),
        ("no padding, but the bit", Rtp, with(0xa0, &[1, 2, 0]), BadPadding),
        ("padding longer than the payload", Rtp, with(0xa0, &[1, 2, 4]), BadPadding),
        ("padding without a payload", Rtp, with(0xa0, &[]), BadPadding),
        ("padding that would eat the extension", Rtp, with(0xb0, &[0xbe, 0xde, 0, 0, 9, 3]), BadPadding),
        ("one byte more than a frame holds", Rtp, with(0x80, &vec![0; PACKET_BYTES_MAX - 11]), TooLong),
        ("a jumbogram", Rtp, with(0x80, &vec![0; 60_000]), TooLong),
        ("version 0 that is no STUN", Rtp, packet(&[0x04], &[0; 30]), BadVersion),
        ("version 1", Rtp, packet(&[0x5f], &[0; 30]), BadVersion),
        ("version 3", Rtp, packet(&[0xc0, 8], &[0; 30]), BadVersion),
        ("a STUN binding request", Rtp, packet(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], &[5; 12]), Stun),
        ("a DTLS client hello", Rtp, packet(&[22, 0xfe, 0xfd, 0, 0], &[0; 60]), Dtls),
        ("DTLS of the highest content type", Rtp, packet(&[63], &[0; 20]), Dtls),
        ("ZRTP", Rtp, packet(&[0x10, 0, 0, 1], &[0; 20]), Zrtp),
        ("a TURN channel", Rtp, packet(&[0x40, 0, 0, 4], &[0; 4]), TurnChannel),
        ("STUN on the RTCP port", Rtcp, packet(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42], &[5; 12]), Stun),
        ("a type that was not negotiated", Rtp, rtp(18, 1, 0, 9), UnknownPayloadType),
        ("RTCP on the RTP port", Rtp, rr.to_vec(), RtcpNotMuxed),
        ("RTP on the RTCP port", Rtcp, rtp(8, 1, 0, 9), NotRtcp),
        ("RTCP of a word less than it says", Rtcp, rr[..4].to_vec(), BadRtcp),
        ("RTCP with bytes left over", Rtcp, packet(&rr, &[0; 3]), BadRtcp),
        ("RTCP whose second packet is no version 2", Rtcp, packet(&rr, &[0x41, 201, 0, 1, 0, 0, 0, 7]), BadRtcp),
        ("RTCP whose second packet is RTP", Rtcp, packet(&rr, &[0x80, 8, 0, 1, 0, 0, 0, 7]), BadRtcp),
        ("RTCP padded in the middle", Rtcp, [&[0xa0, 201, 0, 1, 0, 0, 0, 4][..], &rr].concat(), BadRtcp),
        ("RTCP with padding of no whole words", Rtcp, vec![0xa0, 201, 0, 2, 0, 0, 0, 7, 0, 0, 0, 3], BadRtcp),
        ("RTCP with more padding than it has", Rtcp, vec![0xa0, 201, 0, 1, 0, 0, 0, 8], BadRtcp),
        ("an SR too short for its block", Rtcp, sr_of_one_block(11), BadRtcp),
        ("an RR of 31 blocks and none there", Rtcp, vec![0x9f, 201, 0, 1, 0, 0, 0, 7], BadRtcp),
        ("an SDES item past the end", Rtcp, vec![0x81, 202, 0, 2, 0, 0, 0, 7, 1, 200, b'a', b'b'], BadRtcp),
        ("a BYE of more sources than it has", Rtcp, vec![0x82, 203, 0, 1, 0, 0, 0, 7], BadRtcp),
        ("a BYE whose reason passes the end", Rtcp, vec![0x81, 203, 0, 2, 0, 0, 0, 7, 9, b'x', 0, 0], BadRtcp),
        ("an APP without a name", Rtcp, vec![0x80, 204, 0, 1, 0, 0, 0, 7], BadRtcp),
        ("a compound of 33 packets", Rtcp, rr.repeat(33), BadRtcp),
    ]
}

#[test]
fn what_is_malformed_is_dropped_under_its_name_and_nothing_else_happens() {
    for latched in [false, true] {
        let mut rig = Rig::bridged(config(1), config(2));
        if latched {
            rig.hear(1, Rtp, Some(PEER), &rtp(8, 1, 0, 9));
            rig.hear(1, Rtcp, Some(PEER_RTCP), &[0x80, 201, 0, 1, 0, 0, 0, 7]);
            rig.events.clear();
        }
        for (what, component, bytes, reason) in bad() {
            let before = rig.view(1).drops.get(reason);
            let (received, total) = (rig.view(1).stats.packets_received, rig.view(1).drops.total());
            let source = if component == Rtp { PEER } else { PEER_RTCP };
            let (after, calls) = rig.hear(1, component, Some(source), &bytes);
            assert_eq!((calls.as_slice(), &after), (&[][..], &bytes), "{what}");
            let view = rig.view(1);
            assert_eq!((view.drops.get(reason), view.drops.total()), (before + 1, total + 1), "{what}: {reason:?}");
            assert_eq!((view.stats.packets_received, view.latched), (received, latched), "{what}");
        }
        assert_eq!(rig.events, []);
    }
}

#[test]
fn what_is_odd_but_right_is_relayed_byte_for_byte() {
    let one_byte: &[u8] = &[0x10, 0xff, 0, 0];
    let two_byte: &[u8] = &[1, 2, 3, 4, 0, 0, 0, 0];
    let rows = [
        ("an empty payload", full(0, None, &[], 0)),
        ("one byte of payload", full(0, None, &[1], 0)),
        ("fifteen contributing sources", full(15, None, &[5; 160], 0)),
        ("an empty extension", full(0, Some((0xbede, &[])), &[5; 160], 0)),
        ("one-byte extensions (RFC 8285)", full(0, Some((0xbede, one_byte)), &[5; 160], 0)),
        ("two-byte extensions (RFC 8285)", full(2, Some((0x1000, two_byte)), &[5; 160], 0)),
        ("padding", full(0, None, &[5; 33], 3)),
        ("nothing but padding", full(0, None, &[], 255)),
        ("all of it", full(15, Some((0x1000, two_byte)), &[5; 160], 4)),
        ("as long as a frame", full(0, None, &vec![5; PACKET_BYTES_MAX - 12], 0)),
    ];
    let mut rig = Rig::bridged(config(1), config(2));
    for (number, (what, mut bytes)) in (1u16..).zip(rows) {
        bytes[2..4].copy_from_slice(&number.to_be_bytes());
        let (after, calls) = rig.hear(1, Rtp, Some(PEER), &bytes);
        let forward = Call::Forward(rig.socket(2, Rtp), at("192.0.2.2:5000"));
        assert!(calls.contains(&forward), "{what}: {calls:?}");
        assert_eq!(after, bytes, "{what}");
    }
    assert_eq!((rig.view(1).drops.total(), rig.view(1).stats.packets_lost), (0, 0));
}

#[test]
fn jumps_of_numbers_and_times_and_new_sources_are_relayed_as_they_are() {
    let rows: &[(&str, u16, u32, u32)] = &[
        ("the first", 65_535, 4_294_967_200, 9),
        ("a wrap of both", 0, 64, 9),
        ("a jump ahead", 20_000, 224, 9),
        ("which the next confirms", 20_001, 384, 9),
        ("a jump back in time", 20_002, 4_000_000_000, 9),
        ("far back in number", 5, 4_000_000_160, 9),
        ("the same again", 5, 4_000_000_160, 9),
        ("another source", 777, 0, 10),
        ("which goes on", 778, 160, 10),
        ("the first one again", 20_003, 4_000_000_320, 9),
        ("our own SSRC, which is not heard here", 1, 1, 0xeeee_0001),
    ];
    let mut rig = Rig::bridged(config(1), config(2));
    for &(what, sequence, timestamp, ssrc) in rows {
        let bytes = rtp(8, sequence, timestamp, ssrc);
        let (after, calls) = rig.hear(1, Rtp, Some(PEER), &bytes);
        assert!(calls.iter().any(|call| matches!(call, Call::Forward(..))), "{what}");
        assert_eq!(after, bytes, "{what}");
        rig.pass(20);
    }
    let view = rig.view(1);
    assert_eq!((view.stats.packets_received, view.drops.total()), (rows.len() as u64, 0));
    assert_eq!(view.stats.source_changes, 4, "one jump that was confirmed, three changes of SSRC");
    assert_eq!(rig.view(2).sent.map(|at| at.ssrc), Some(0xeeee_0001));
}

#[test]
fn a_peer_that_has_our_ssrc_makes_us_take_another_and_one_that_echoes_us_is_a_loop() {
    let echo = StreamConfig { mode: Mode::Echo, ..config(1) };
    let ours = echo.ssrc;
    let mut rig = Rig::with(&[echo]);
    let (first, _) = rig.hear(1, Rtp, Some(PEER), &rtp(8, 1, 0, 9));
    assert_eq!(first[8..12], ours.to_be_bytes());
    let (second, calls) = rig.hear(1, Rtp, Some(PEER), &rtp(8, 2, 160, ours));
    let Call::Send(_, to, bye) = &calls[0] else { panic!("a BYE for the old one first: {calls:?}") };
    assert_eq!(*to, at(PEER_RTCP));
    let goodbye = [0x81, 203, 0, 1].into_iter().chain(ours.to_be_bytes());
    assert_eq!(bye[bye.len() - 8..], goodbye.collect::<Vec<u8>>());
    let next = u32::from_be_bytes(second[8..12].try_into().unwrap());
    assert!(next != ours && next != 0, "echoed under another one");
    assert_eq!(rig.dropped(1, PEER, &rtp(8, 3, 320, next)), Loop, "who has that one, too, is ourselves");
    let (fourth, _) = rig.hear(1, Rtp, Some(PEER), &rtp(8, 4, 480, 9));
    assert_eq!(fourth[8..12], next.to_be_bytes(), "a real source is served on");
    rig.apply(Command::DestroyStream { id: StreamId(1) }).unwrap();
}
