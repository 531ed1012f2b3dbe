//! Where we terminate: echoed media, and RTCP of our own against the formulas of RFC 3550.

mod common;
use common::{Call, Rig, at, config, rtp};
use nebula_core::driver::Component::{Rtcp, Rtp};
use nebula_core::wire::rtcp::{Compound, Packet, ReportBlock, SDES_CNAME};
use nebula_core::wire::rtp::Packet as RtpPacket;
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};

const A: &str = "192.0.2.1:5000";

fn echo() -> Rig {
    Rig::with(&[StreamConfig { mode: Mode::Echo, ..config(1) }])
}

/// The reports among what the driver was asked.
fn reports(calls: Vec<Call>) -> Vec<Vec<u8>> {
    calls
        .into_iter()
        .map(|call| match call {
            Call::Send(_, to, bytes) => {
                assert_eq!(to, at("192.0.2.1:5001"));
                bytes
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn media_comes_back_from_our_own_source() {
    let mut rig = echo();
    let first = rtp(8, 900, 10_000, 0xabcd);
    let (back, calls) = rig.hear(1, Rtp, Some(A), &first);
    assert_eq!(calls[1..], [Call::Forward(rig.socket(1, Rtp), at(A))]);
    let ours = RtpPacket::new_checked(&back[..]).unwrap();
    assert_eq!((ours.ssrc(), ours.payload_type(), ours.payload()), (0xeeee_0001, 8, &first[12..]));
    rig.pass(20);
    let (back, _) = rig.hear(1, Rtp, None, &rtp(101, 901, 10_160, 0xabcd));
    let next = RtpPacket::new_checked(&back[..]).unwrap();
    assert_eq!(next.sequence(), ours.sequence().wrapping_add(1));
    assert_eq!(next.timestamp(), ours.timestamp().wrapping_add(160));
    assert_eq!(next.payload_type(), 101, "the peer's own number");
    rig.pass(40);
    let (back, _) = rig.hear(1, Rtp, None, &rtp(8, 7, 77, 0x9999));
    let after = RtpPacket::new_checked(&back[..]).unwrap();
    assert_eq!((after.ssrc(), after.sequence()), (0xeeee_0001, ours.sequence().wrapping_add(2)));
    assert_eq!(after.timestamp(), next.timestamp().wrapping_add(320), "40 ms at 8 kHz");
    assert_eq!(rig.view(1).stats.source_changes, 1);
}

#[test]
fn our_sender_report_says_what_was_heard_and_sent() {
    let mut rig = echo();
    let mut last_out = 0;
    let mut sent = vec![];
    let mut ms = 0;
    // 50 packets a second, each tenth lost, until the first report.
    let calls = loop {
        let i = ms / 20;
        if i % 10 != 5 {
            let (back, _) =
                rig.hear(1, Rtp, Some(A), &rtp(8, 65_500u16.wrapping_add(i as u16), i as u32 * 160, 0xabcd));
            last_out = RtpPacket::new_checked(&back[..]).unwrap().timestamp();
            sent.push(i);
        }
        let calls = rig.pass(20);
        ms += 20;
        if !calls.is_empty() {
            break calls;
        }
    };
    assert!((1000..3100).contains(&ms), "after half the interval: {ms}");
    let report = reports(calls).remove(0);
    let all: Vec<_> = Compound::new_checked(&report).unwrap().packets().collect();
    let [Packet::SenderReport(sr), Packet::SourceDescription(sdes)] = all[..] else { panic!("{all:?}") };
    assert_eq!(sr.ssrc(), 0xeeee_0001);
    assert_eq!((sr.packet_count(), sr.octet_count()), (sent.len() as u32, sent.len() as u32 * 160));
    let since_last = sr.rtp_timestamp().wrapping_sub(last_out);
    assert!(since_last <= 320, "the RTP clock of the same instant: {since_last}");
    let seconds = (sr.ntp() >> 32) as f64 + (sr.ntp() & 0xffff_ffff) as f64 / 4294967296.0;
    assert!((rig.now.0 as f64 / 1e9 - seconds).abs() < 0.021);
    let items: Vec<_> = sdes.items().collect();
    assert_eq!(items, [(0xeeee_0001, SDES_CNAME, &b"0000000000000001"[..])]);
    let [block] = sr.blocks().collect::<Vec<_>>()[..] else { panic!() };
    // A.1 counts from the second packet in sequence on; A.3: expected less received.
    let last = sent[sent.len() - 1];
    let (expected, received) = (last, sent.len() as u64 - 1);
    let lost = expected - received;
    assert!(lost >= 5);
    assert_eq!(block.cumulative_lost, lost as i32);
    assert_eq!(u64::from(block.fraction_lost), (lost << 8) / expected);
    assert_eq!(u64::from(block.sequence_extended), 65_500 + last);
    assert_eq!((block.ssrc, block.jitter, block.last_sr, block.delay_since_last_sr), (0xabcd, 0, 0, 0));
    let view = rig.view(1);
    assert_eq!((view.stats.packets_lost, view.stats.rtcp_sent), (lost as i64, 1));
}

#[test]
fn the_peers_sender_report_is_answered_with_its_time_and_ours_since() {
    let mut rig = echo();
    for i in 0..3 {
        rig.hear(1, Rtp, Some(A), &rtp(8, i, 0, 0xabcd));
    }
    let mut sr = vec![0x80, 200, 0, 6];
    for word in [0xabcdu32, 0x1111_2222, 0x3333_4444, 0, 3, 480] {
        sr.extend(word.to_be_bytes());
    }
    let at_sr = rig.now;
    let (_, calls) = rig.hear(1, Rtcp, Some("192.0.2.1:5001"), &sr);
    assert_eq!(calls, [Call::Connect(rig.socket(1, Rtcp), at("192.0.2.1:5001"))], "read, not echoed");
    let stats = rig.view(1).stats;
    assert_eq!((stats.rtcp_received, stats.consumed), (1, 1));
    let mut calls = vec![];
    while calls.is_empty() {
        calls = rig.pass(1);
    }
    let block = first_block(&reports(calls)[0]);
    assert_eq!(block.last_sr, 0x2222_3333);
    let delay_ms = f64::from(block.delay_since_last_sr) * 1000.0 / 65536.0;
    assert!((delay_ms - (rig.now.since(at_sr) / 1_000_000) as f64).abs() < 2.0, "{delay_ms}");
}

fn first_block(report: &[u8]) -> ReportBlock {
    match Compound::new_checked(report).unwrap().packets().next() {
        Some(Packet::SenderReport(sr)) => sr.blocks().next().unwrap(),
        Some(Packet::ReceiverReport(rr)) => rr.blocks().next().unwrap(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn reports_come_every_few_seconds_and_become_receiver_reports_when_we_fall_silent() {
    let mut rig = echo();
    rig.hear(1, Rtp, Some(A), &rtp(8, 1, 0, 0xabcd));
    let kinds: Vec<u8> = reports(rig.pass(60_000)).iter().map(|report| report[1]).collect();
    assert!((9..=30).contains(&kinds.len()), "{kinds:?}");
    assert_eq!(kinds[..2], [200, 200], "a sender for two intervals");
    assert!(kinds[2..].iter().all(|&kind| kind == 201), "{kinds:?}");
}

#[test]
fn who_leaves_says_goodbye_and_who_never_spoke_does_not() {
    let bye = |calls: &[Call]| {
        let Call::Send(_, _, bytes) = &calls[0] else { panic!("{calls:?}") };
        let last = Compound::new_checked(bytes).unwrap().packets().last();
        let Some(Packet::Bye(bye)) = last else { panic!("{last:?}") };
        assert_eq!(bye.ssrcs().collect::<Vec<_>>(), [0xeeee_0001]);
    };
    let mut rig = echo();
    rig.hear(1, Rtp, Some(A), &rtp(8, 1, 0, 0xabcd));
    rig.apply(Command::DestroyStream { id: StreamId(1) }).unwrap();
    bye(&rig.driver.calls);
    assert!(matches!(rig.driver.calls[1..], [Call::Close(_), Call::Close(_)]), "then the ports close");

    let mut rig = echo();
    rig.hear(1, Rtp, Some(A), &rtp(8, 1, 0, 0xabcd));
    rig.apply(Command::CreateStream { id: StreamId(2), config: config(2) }).unwrap();
    rig.driver.calls.clear();
    rig.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
    bye(&std::mem::take(&mut rig.driver.calls));
    assert_eq!(rig.pass(60_000), [], "a relayed stream has no reports of ours");

    let mut rig = echo();
    assert_eq!(rig.pass(60_000), [], "nobody was heard");
    rig.apply(Command::DestroyStream { id: StreamId(1) }).unwrap();
    assert_eq!(rig.driver.calls.len(), 2, "only closed: {:?}", rig.driver.calls);
}
