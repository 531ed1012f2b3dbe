//! The latching rules, case by case.

use super::*;
use DropReason::{ForeignSource, Learning};
use Verdict::{Known, Latched, Settled};

const SSRC: u32 = 0xabcd;
const PEER: &str = "203.0.113.9:777";

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn expected(nat: bool) -> Expectation {
    Expectation {
        rtp: Some(at("192.0.2.1:4000")),
        rtcp: Some(at("192.0.2.1:4001")),
        muxed: false,
        learn_until: nat.then_some(Nanos::from_millis(1000)),
        learn_from: None,
        relatch_interval_ms: 0,
    }
}

fn hear(latch: &mut Latch, ms: u64, source: &str, sequence: u16) -> Result<Verdict, DropReason> {
    latch.rtp(Nanos::from_millis(ms), Some(at(source)), SSRC, sequence)
}

/// Packets 20 ms apart from `ms` on, as many as are asked for.
fn talk(latch: &mut Latch, ms: u64, source: &str, packets: u16) -> Vec<Result<Verdict, DropReason>> {
    (0..packets).map(|n| hear(latch, ms + 20 * u64::from(n), source, n.wrapping_sub(2))).collect()
}

#[test]
fn the_signalled_source_latches_at_once_and_for_good() {
    let mut latch = Latch::new(expected(false));
    assert_eq!(hear(&mut latch, 0, "203.0.113.9:4000", 1), Err(ForeignSource));
    assert_eq!(hear(&mut latch, 0, "192.0.2.1:4000", 1), Ok(Latched(at("192.0.2.1:4000"))));
    assert!(latch.is_settled());
    assert_eq!(hear(&mut latch, 9, "192.0.2.1:4000", 7), Ok(Known));
    assert_eq!(hear(&mut latch, 9, "192.0.2.1:4002", 8), Err(ForeignSource));
    assert!(latch.is_foreign(Some(at("192.0.2.1:4002"))));
    assert_eq!(latch.rtp(Nanos(0), None, SSRC, 9), Ok(Known), "the driver vouches for its connected peer");
}

#[test]
fn behind_nat_four_in_order_packets_are_a_trial_and_steady_talk_latches() {
    let mut latch = Latch::new(expected(true));
    let heard = talk(&mut latch, 0, PEER, 10);
    assert_eq!(heard[..3], [Err(Learning); 3]);
    assert_eq!(heard[3], Ok(Verdict::OnTrial { passes: true }));
    assert_eq!(heard[4..8], [Ok(Known); 4], "a steady talker loses nothing more");
    assert_eq!(heard[8], Ok(Latched(at(PEER))));
    assert_eq!((heard[9], latch.rtp_target()), (Ok(Known), Some(at(PEER))));
    assert!(!latch.is_settled());
    assert_eq!(hear(&mut latch, 1001, PEER, 100), Ok(Settled(at(PEER))), "the window is over");
    assert!(latch.is_settled());
    assert_eq!(hear(&mut latch, 2000, "192.0.2.1:4000", 1), Err(ForeignSource), "locked is locked");
}

#[test]
fn a_gap_another_ssrc_or_the_end_of_the_window_spoils_the_proof() {
    let mut latch = Latch::new(expected(true));
    for sequence in [1, 2, 3, 5, 6, 7, 9] {
        assert_eq!(hear(&mut latch, 20 * u64::from(sequence), PEER, sequence), Err(Learning));
    }
    let other = latch.rtp(Nanos::from_millis(200), Some(at(PEER)), SSRC + 1, 10);
    assert_eq!(other, Err(Learning));
    for sequence in [11, 12, 13] {
        assert_eq!(hear(&mut latch, 740 + 20 * u64::from(sequence), PEER, sequence), Err(Learning));
    }
    assert_eq!(hear(&mut latch, 1001, PEER, 14), Err(ForeignSource));
    assert_eq!(hear(&mut latch, 1002, "192.0.2.1:4000", 1), Ok(Latched(at("192.0.2.1:4000"))));
}

#[test]
fn a_burst_proves_nothing() {
    let mut latch = Latch::new(expected(true));
    for n in 0..1000 {
        assert_eq!(hear(&mut latch, u64::from(n / 250), "198.51.100.1:9", n), Err(Learning));
    }
    assert_eq!(latch.rtp_target(), expected(true).rtp);
}

#[test]
fn who_does_not_last_gets_no_more_than_its_trial_and_the_peer_takes_its_place() {
    let mut latch = Latch::new(expected(true));
    let tried: Vec<_> = (0..4).map(|n| hear(&mut latch, 10 * u64::from(n), "198.51.100.1:9", n)).collect();
    let burst: Vec<_> = (4..100).map(|n| hear(&mut latch, 40, "198.51.100.1:9", n)).collect();
    assert_eq!(tried.iter().chain(&burst).filter(|it| it.is_ok()).count(), usize::from(TRIAL_PACKETS));
    assert_eq!((latch.locked(), latch.rtp_target()), (None, Some(at("198.51.100.1:9"))));
    let sent = (0..100).filter(|_| latch.spend(Nanos::from_millis(1))).count();
    assert_eq!(sent, usize::from(TRIAL_PACKETS));
    let heard = talk(&mut latch, 20, PEER, 40);
    assert_eq!(heard.iter().filter(|it| matches!(it, Ok(Latched(_)))).count(), 1);
    assert_eq!(latch.locked(), Some(at(PEER)));
    for n in 100..200 {
        assert_eq!(hear(&mut latch, 830, "198.51.100.1:9", n), Err(Learning), "the peer is not silent");
    }
    assert_eq!(hear(&mut latch, 1100, "198.51.100.1:9", 200), Err(ForeignSource));
}

#[test]
fn who_was_silent_is_replaced_only_within_the_window() {
    let mut latch = Latch::new(expected(true));
    talk(&mut latch, 0, "198.51.100.1:9", 10);
    assert_eq!(latch.locked(), Some(at("198.51.100.1:9")));
    let heard = talk(&mut latch, 500, PEER, 20);
    assert_eq!(heard[3], Ok(Verdict::OnTrial { passes: false }), "the trials' packets are used up");
    assert_eq!(latch.locked(), Some(at(PEER)));
    assert_eq!(talk(&mut latch, 1300, "198.51.100.1:9", 20), [Err(ForeignSource); 20]);
}

#[test]
fn where_its_sip_came_from_is_known_nobody_else_is_even_tried() {
    let ip = at(PEER).ip();
    let mut latch = Latch::new(Expectation { learn_from: Some(ip), ..expected(true) });
    assert_eq!(talk(&mut latch, 0, "198.51.100.1:9", 30), [Err(ForeignSource); 30]);
    assert_eq!(latch.rtp_target(), Some(at("192.0.2.1:4000")));
    talk(&mut latch, 0, PEER, 9);
    assert_eq!(latch.locked(), Some(at(PEER)));
    assert_eq!(talk(&mut latch, 600, "198.51.100.1:9", 10), [Err(ForeignSource); 10]);
}

#[test]
fn spraying_from_many_addresses_neither_latches_nor_keeps_the_peer_out() {
    let mut latch = Latch::new(expected(true));
    let mut sprayed = 0u32;
    let mut spray = |latch: &mut Latch, packets: u32| {
        for _ in 0..packets {
            sprayed += 1;
            let source = format!("198.51.100.{}:{}", sprayed % 250 + 1, 1024 + sprayed % 60_000);
            assert_eq!(hear(latch, 5, &source, sprayed as u16), Err(Learning));
        }
    };
    assert_eq!(hear(&mut latch, 5, PEER, 1), Err(Learning));
    spray(&mut latch, 3);
    assert_eq!(hear(&mut latch, 25, PEER, 2), Err(Learning));
    spray(&mut latch, 10_000);
    assert_eq!(hear(&mut latch, 45, PEER, 3), Err(Learning));
    spray(&mut latch, 10_000);
    assert_eq!(hear(&mut latch, 65, PEER, 4), Ok(Verdict::OnTrial { passes: true }));
}

#[test]
fn a_silent_peer_is_found_again_where_that_is_allowed_rarely_and_at_its_own_address() {
    let relatch = |ms| Expectation { relatch_interval_ms: ms, ..expected(false) };
    let locked = |ms| {
        let mut latch = Latch::new(relatch(ms));
        assert_eq!(hear(&mut latch, 0, "192.0.2.1:4000", 1), Ok(Latched(at("192.0.2.1:4000"))));
        latch
    };
    assert_eq!(talk(&mut locked(0), 9_000, "192.0.2.1:5000", 9), [Err(ForeignSource); 9]);
    let mut latch = locked(5_000);
    assert!(!latch.is_settled());
    assert_eq!(talk(&mut latch, 6_000, "198.51.100.1:9", 9), [Err(ForeignSource); 9]);
    assert_eq!(talk(&mut latch, 3_000, "192.0.2.1:5000", 9), [Err(ForeignSource); 9], "too soon");
    hear(&mut latch, 6_000, "192.0.2.1:4000", 2).unwrap();
    assert_eq!(talk(&mut latch, 6_100, "192.0.2.1:5000", 9), [Err(ForeignSource); 9], "it is not silent");
    let heard = talk(&mut latch, 8_000, "192.0.2.1:5000", 6);
    assert_eq!(heard[3..5], [Ok(Latched(at("192.0.2.1:5000"))), Ok(Known)]);
    assert_eq!(talk(&mut latch, 10_500, "192.0.2.1:6000", 9), [Err(ForeignSource); 9], "not again so soon");
}

#[test]
fn rtcp_follows_rtp_to_the_same_address() {
    let mut latch = Latch::new(expected(true));
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Ok(Known), "signalled, before RTP");
    assert_eq!(latch.rtcp(Some(at("203.0.113.9:778"))), Err(Learning));
    assert_eq!(latch.rtcp(None), Err(ForeignSource));
    talk(&mut latch, 0, PEER, 9);
    assert_eq!(latch.rtcp_target(), None, "its port behind NAT is not known");
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Err(ForeignSource));
    hear(&mut latch, 1001, PEER, 7).unwrap();
    assert_eq!(latch.rtcp(Some(at("203.0.113.9:900"))), Ok(Latched(at("203.0.113.9:900"))));
    assert_eq!(latch.rtcp(Some(at("203.0.113.9:778"))), Err(ForeignSource));
    assert_eq!(latch.rtcp(None), Ok(Known));
    assert_eq!(latch.rtcp_target(), Some(at("203.0.113.9:900")));
}

#[test]
fn without_nat_rtcp_comes_from_where_it_was_signalled() {
    let mut latch = Latch::new(expected(false));
    hear(&mut latch, 0, "192.0.2.1:4000", 1).unwrap();
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:9001"))), Err(ForeignSource));
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Ok(Latched(at("192.0.2.1:4001"))));
    let mut unsaid = Latch::new(Expectation { rtcp: None, ..expected(false) });
    hear(&mut unsaid, 0, "192.0.2.1:4000", 1).unwrap();
    assert_eq!(unsaid.rtcp(Some(at("192.0.2.1:9001"))), Ok(Latched(at("192.0.2.1:9001"))));
}

#[test]
fn muxed_rtcp_comes_from_the_rtp_source_alone() {
    let mut latch = Latch::new(Expectation { muxed: true, rtcp: None, ..expected(false) });
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Err(ForeignSource));
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:4000"))), Ok(Known));
    assert_eq!(hear(&mut latch, 0, "192.0.2.1:4000", 1), Ok(Latched(at("192.0.2.1:4000"))));
    assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Err(ForeignSource));
    assert_eq!(latch.rtcp_target(), Some(at("192.0.2.1:4000")));
}

#[test]
fn the_window_closes_when_no_nat_is_expected_any_more() {
    let unsaid = |nat| Expectation { rtp: None, rtcp: None, ..expected(nat) };
    let mut latch = Latch::new(unsaid(true));
    talk(&mut latch, 0, PEER, 9);
    assert_eq!((latch.locked(), latch.is_settled()), (Some(at(PEER)), false));
    latch.expect(unsaid(false));
    assert_eq!(talk(&mut latch, 500, "198.51.100.1:9", 20), [Err(ForeignSource); 20]);
    assert_eq!(latch.locked(), Some(at(PEER)));
}

#[test]
fn another_remote_opens_it_anew_and_the_same_one_does_not() {
    let mut latch = Latch::new(expected(true));
    talk(&mut latch, 0, PEER, 9);
    let later = Some(Nanos::from_millis(9000));
    let nothing = Reopened { known: false, rtp: false, rtcp: false };
    let same = latch.expect(Expectation { learn_until: later, ..expected(true) });
    assert_eq!((same, latch.locked()), (nothing, Some(at(PEER))));
    assert_eq!(hear(&mut latch, 1001, PEER, 7), Ok(Settled(at(PEER))), "its window does not grow");
    let moved = Expectation { rtp: Some(at("192.0.2.7:5000")), learn_until: later, ..expected(true) };
    assert_eq!(latch.expect(moved), Reopened { known: true, rtp: true, rtcp: false });
    assert_eq!(latch.locked(), None);
    assert_eq!(hear(&mut latch, 5000, PEER, 8), Err(Learning), "earlier proof is void");
    assert_eq!(hear(&mut latch, 5000, "192.0.2.7:5000", 1), Ok(Latched(at("192.0.2.7:5000"))));
}
