//! The plain relay: what is touched, what is let through, and where it goes.

mod common;
use common::{Call, Rig, at, config, rtp};
use nebula_core::driver::Component::{Rtcp, Rtp};
use nebula_core::driver::OpenError;
use nebula_ring::command::{Command, StreamConfig, StreamId};
use nebula_ring::drops::DropReason::*;
use nebula_ring::event::Reason;

const A: &str = "192.0.2.1:5000";

#[test]
fn only_the_payload_type_changes() {
    let mut rig = Rig::bridged(config(1), config(2));
    let sent = rtp(0x80 | 101, 65535, 0xffff_fff0, 0xabcd);
    let (got, _) = rig.hear(1, Rtp, Some(A), &sent);
    assert_eq!(got[1], 0x80 | 96, "mapped, marker kept");
    assert_eq!((got[0], &got[2..]), (sent[0], &sent[2..]));
    let (same, _) = rig.hear(1, Rtp, Some(A), &rtp(8, 0, 0x90, 0xabcd));
    assert_eq!(same, rtp(8, 0, 0x90, 0xabcd));
    let (a, b) = (rig.view(1), rig.view(2));
    assert_eq!((a.stats.packets_received, a.stats.bytes_received), (2, 344));
    assert_eq!((b.stats.packets_sent, b.stats.bytes_sent), (2, 344));
    assert_eq!(a.source.map(|s| (s.ssrc, s.timestamp)), Some((0xabcd, 0x90)));
    assert_eq!(b.sent.map(|s| (s.ssrc, s.sequence_extended)), Some((0xabcd, 0x1_0000)));
    assert_eq!(a.bridged_with, Some(StreamId(2)));
}

#[test]
fn both_directions_have_a_say() {
    for (a_receives, b_sends, passes) in [(true, true, true), (false, true, false), (true, false, false)] {
        let a = StreamConfig { receive: a_receives, ..config(1) };
        let mut rig = Rig::bridged(a, StreamConfig { send: b_sends, ..config(2) });
        let (_, calls) = rig.hear(1, Rtp, Some(A), &rtp(8, 1, 0, 9));
        assert!(matches!(calls[0], Call::Connect(..)), "the latch closes on hold, too");
        assert_eq!(calls.len() == 2, passes);
        assert_eq!(rig.view(1).drops.get(Direction), u64::from(!passes));
    }
}

#[test]
fn packets_with_nowhere_to_go_are_counted() {
    let mut rig = Rig::with(&[config(1), StreamConfig { remote_rtp: Some(at("0.0.0.0:5000")), ..config(2) }]);
    rig.hear(1, Rtp, Some(A), &rtp(8, 1, 0, 9));
    assert_eq!(rig.view(1).drops.get(NoPeer), 1);
    rig.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
    assert_eq!(rig.dropped(1, A, &rtp(8, 2, 0, 9)), NoRemote, "0.0.0.0 is nowhere");
    rig.apply(Command::DestroyBridge { a: StreamId(2), b: StreamId(1) }).unwrap();
    assert_eq!(rig.dropped(1, A, &rtp(8, 3, 0, 9)), NoPeer);
    let stats = rig.view(1).stats;
    assert_eq!((stats.handled, stats.forwarded, stats.packets_received), (3, 0, 3));
}

#[test]
fn each_kind_of_junk_has_its_counter() {
    let mut rig = Rig::bridged(config(1), config(2));
    let with_first = |first: u8| [vec![first], rtp(8, 1, 0, 9)[1..].to_vec()].concat();
    assert_eq!(rig.dropped(1, A, &[]), Truncated);
    assert_eq!(rig.dropped(1, A, &with_first(0x8f)[..40]), Truncated);
    assert_eq!(rig.dropped(1, A, &with_first(0x40)), TurnChannel);
    assert_eq!(rig.dropped(1, A, &with_first(0xc0)), BadVersion);
    assert_eq!(rig.dropped(1, A, &with_first(1)), Stun);
    assert_eq!(rig.dropped(1, A, &with_first(17)), Zrtp);
    assert_eq!(rig.dropped(1, A, &with_first(22)), Dtls);
    assert_eq!(rig.dropped(1, A, &[&with_first(0xa0)[..20], &[99]].concat()), BadPadding);
    assert_eq!(rig.dropped(1, A, &[0x80; 1473]), TooLong);
    assert_eq!(rig.dropped(1, A, &[0x80, 201, 0, 1, 0, 0, 0, 7]), RtcpNotMuxed);
    rig.hear(1, Rtcp, Some("192.0.2.1:5001"), &rtp(8, 1, 0, 9));
    rig.hear(1, Rtcp, Some("192.0.2.1:5001"), &[0x80, 201, 0, 9, 0, 0, 0, 7]);
    let drops = rig.view(1).drops;
    assert_eq!((drops.get(NotRtcp), drops.get(BadRtcp)), (1, 1));
    assert_eq!(rig.engine.totals().drops.total(), 12);
}

#[test]
fn rtcp_crosses_between_a_muxed_and_a_plain_leg() {
    let report = [0x80, 201, 0, 1, 0, 0, 0, 7];
    let muxed = StreamConfig { rtcp_port: config(2).rtp_port, send: false, ..config(2) };
    let mut rig = Rig::bridged(config(1), muxed);
    let (got, calls) = rig.hear(1, Rtcp, Some("192.0.2.1:5001"), &report);
    assert_eq!(got, report);
    assert_eq!(calls, [Call::Forward(rig.socket(2, Rtp), at("192.0.2.2:5000"))], "whatever the direction");
    let (_, calls) = rig.hear(2, Rtp, Some("192.0.2.2:5000"), &report);
    assert_eq!(calls, [Call::Forward(rig.socket(1, Rtcp), at("192.0.2.1:5001"))]);
    assert_eq!((rig.view(1).stats.rtcp_received, rig.view(1).stats.rtcp_sent), (1, 1));
}

#[test]
fn a_new_bridge_replaces_the_old_ones() {
    let mut rig = Rig::with(&[config(1), config(2), config(3), config(4)]);
    for (a, b) in [(1, 2), (3, 4), (1, 3)] {
        rig.apply(Command::CreateBridge { a: StreamId(a), b: StreamId(b) }).unwrap();
    }
    let peers: Vec<_> = (1..=4).map(|id| rig.view(id).bridged_with.map(|p| p.0)).collect();
    assert_eq!(peers, [Some(3), None, Some(1), None]);
    rig.apply(Command::DestroyBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
    assert_eq!(rig.view(1).bridged_with, Some(StreamId(3)), "not theirs to take apart");
    rig.apply(Command::DestroyStream { id: StreamId(3) }).unwrap();
    assert_eq!(rig.view(1).bridged_with, None);
}

#[test]
fn refusals_leave_nothing_behind() {
    let mut rig = Rig::new();
    let create = |id, config: StreamConfig| Command::CreateStream { id: StreamId(id), config };
    rig.driver.refuse = vec![(4003, OpenError::PortInUse), (4004, OpenError::System { errno: 12 })];
    assert_eq!(rig.apply(create(1, config(1))), Err(Reason::PortInUse));
    assert_eq!(rig.driver.calls.len(), 2, "RTP was opened and closed again: {:?}", rig.driver.calls);
    assert_eq!(rig.apply(create(1, config(2))), Err(Reason::System { errno: 12 }));
    assert_eq!(rig.apply(create(0, config(3))), Err(Reason::Invalid));
    assert_eq!(rig.apply(create(1, StreamConfig { ssrc: 0, ..config(3) })), Err(Reason::Invalid));
    let v6 = Some(at("[2001:db8::1]:5000"));
    assert_eq!(rig.apply(create(1, StreamConfig { remote_rtp: v6, ..config(3) })), Err(Reason::Invalid));
    let group = Some(at("224.0.0.1:5000"));
    assert_eq!(rig.apply(create(1, StreamConfig { remote_rtp: group, ..config(3) })), Err(Reason::Invalid));
    assert_eq!(rig.engine.streams().count(), 0);
    rig.apply(create(1, config(3))).unwrap();
    let other_port = StreamConfig { rtp_port: 9000, ..config(3) };
    assert_eq!(rig.apply(Command::UpdateStream { id: StreamId(1), config: other_port }), Err(Reason::Invalid));
    assert_eq!(*rig.view(1).config, config(3));
}

#[test]
fn the_peers_answer_may_turn_on_rtcp_mux() {
    let mut rig = Rig::with(&[config(1)]);
    rig.update(1, StreamConfig { rtcp_port: config(1).rtp_port, ..config(1) });
    assert_eq!(rig.driver.calls, [Call::Close(rig.socket(1, Rtcp))]);
    assert_eq!(rig.view(1).remote_rtcp, Some(at(A)));
}
