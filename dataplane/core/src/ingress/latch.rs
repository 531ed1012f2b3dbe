//! Whose packets a stream believes: the latching rules (design, section 4) as a pure machine.
//!
//! ```text
//!                signalled source, at once; or, NAT expected and within the window,
//!                LATCH_PACKETS in order from one source
//!    Open ------------------------------------------------------------------------> Locked
//!      ^                                                                              |
//!      +------------------------ control signals another remote -----------------------+
//! ```
//!
//! Nothing foreign passes in either state: while open, packets of a source under observation are `drop_learning`, and
//! the one that completes its proof is the first that counts. RTCP follows RTP: on its own port it is believed from the
//! signalled address until RTP has latched, then from the same IP address, and the first one fixes the port.

use crate::limits::{LATCH_CANDIDATES_MAX, LATCH_PACKETS};
use crate::time::Nanos;
use nebula_ring::drops::DropReason;
use std::net::SocketAddr;

/// What control knows of the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expectation {
    /// Where the peer says it receives RTP, if that is an address one can send to.
    pub rtp: Option<SocketAddr>,
    /// The same for RTCP.
    pub rtcp: Option<SocketAddr>,
    /// Whether RTCP shares the RTP port.
    pub muxed: bool,
    /// Until when another source may be learned; none when no NAT is expected.
    pub learn_until: Option<Nanos>,
}

/// A packet that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer was known already.
    Known,
    /// This packet closed the latch to this address.
    Latched(SocketAddr),
}

/// What `expect` opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reopened {
    /// RTP was locked.
    pub rtp: bool,
    /// RTCP was locked, on a port of its own.
    pub rtcp: bool,
}

/// One stream's latch.
#[derive(Debug, Clone)]
pub struct Latch {
    /// The locked RTP source.
    rtp: Option<SocketAddr>,
    /// The locked RTCP source, when not muxed.
    rtcp: Option<SocketAddr>,
    expected: Expectation,
    candidates: [Candidate; LATCH_CANDIDATES_MAX],
}

/// A foreign source that may be the peer behind NAT.
#[derive(Debug, Clone, Copy, Default)]
struct Candidate {
    source: Option<SocketAddr>,
    ssrc: u32,
    next_sequence: u16,
    /// Packets in order so far.
    proof: u8,
    heard_at: Nanos,
}

impl Latch {
    /// An open latch.
    pub const fn new(expected: Expectation) -> Self {
        const NOBODY: Candidate = Candidate { source: None, ssrc: 0, next_sequence: 0, proof: 0, heard_at: Nanos(0) };
        Self { rtp: None, rtcp: None, expected, candidates: [NOBODY; LATCH_CANDIDATES_MAX] }
    }

    /// Goes on with the peer that another dataplane had latched to. What control has expected since does not fit: then the
    /// latch stays open.
    pub fn resume(&mut self, rtp: Option<SocketAddr>, rtcp: Option<SocketAddr>) {
        self.rtp = rtp;
        self.rtcp = rtcp.filter(|_| !self.expected.muxed && rtp.is_some());
    }

    /// Takes what control now says, and says what was locked and no longer is: another remote was signalled. An open
    /// latch goes on learning, until the new end of the window.
    pub fn expect(&mut self, expected: Expectation) -> Reopened {
        let before = std::mem::replace(&mut self.expected, expected);
        let moved = (before.rtp, before.rtcp, before.muxed) != (expected.rtp, expected.rtcp, expected.muxed);
        let reopened = Reopened { rtp: moved && self.rtp.is_some(), rtcp: moved && self.rtcp.is_some() };
        if moved {
            *self = Self::new(expected);
        }
        reopened
    }

    /// Whether a packet from here can be refused at once. A source of none is the driver's connected peer, which needs
    /// the latch to be closed.
    #[inline]
    pub fn is_foreign(&self, source: Option<SocketAddr>) -> bool {
        match (self.rtp, source) {
            (Some(locked), Some(source)) => locked != source,
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Judges the source of a well-formed RTP packet of a negotiated payload type.
    #[inline]
    pub fn rtp(
        &mut self,
        now: Nanos,
        source: Option<SocketAddr>,
        ssrc: u32,
        sequence: u16,
    ) -> Result<Verdict, DropReason> {
        match (self.rtp, source) {
            (Some(locked), Some(source)) if locked != source => Err(DropReason::ForeignSource),
            (Some(_), _) => Ok(Verdict::Known),
            (None, None) => Err(DropReason::ForeignSource),
            (None, Some(source)) => self.learn(now, source, ssrc, sequence),
        }
    }

    /// Judges the source of a well-formed RTCP packet.
    pub fn rtcp(&mut self, source: Option<SocketAddr>) -> Result<Verdict, DropReason> {
        let locked = if self.expected.muxed { self.rtp } else { self.rtcp };
        let Some(source) = source else {
            return locked.map(|_| Verdict::Known).ok_or(DropReason::ForeignSource);
        };
        match (locked, self.rtp) {
            (Some(locked), _) if locked == source => Ok(Verdict::Known),
            (Some(_), _) => Err(DropReason::ForeignSource),
            (None, Some(rtp)) if rtp.ip() == source.ip() => {
                self.rtcp = Some(source);
                Ok(Verdict::Latched(source))
            }
            (None, None) if self.signalled_rtcp() == Some(source) => Ok(Verdict::Known),
            (None, None) if self.expected.learn_until.is_some() => Err(DropReason::Learning),
            (None, _) => Err(DropReason::ForeignSource),
        }
    }

    /// The locked RTP source.
    #[inline]
    pub fn locked(&self) -> Option<SocketAddr> {
        self.rtp
    }

    /// The locked RTCP source, when not muxed.
    pub fn locked_rtcp(&self) -> Option<SocketAddr> {
        self.rtcp
    }

    /// Where RTP is to be sent: the locked source, or the signalled address until then.
    pub fn rtp_target(&self) -> Option<SocketAddr> {
        self.rtp.or(self.expected.rtp)
    }

    /// Where RTCP is to be sent. None for a peer behind NAT whose RTCP port is not known yet.
    pub fn rtcp_target(&self) -> Option<SocketAddr> {
        if self.expected.muxed {
            return self.rtp_target();
        }
        let reachable = |signalled: &SocketAddr| self.rtp.is_none_or(|rtp| rtp.ip() == signalled.ip());
        self.rtcp.or(self.expected.rtcp.filter(reachable))
    }

    fn signalled_rtcp(&self) -> Option<SocketAddr> {
        if self.expected.muxed { self.expected.rtp } else { self.expected.rtcp }
    }

    fn learn(&mut self, now: Nanos, source: SocketAddr, ssrc: u32, sequence: u16) -> Result<Verdict, DropReason> {
        if self.expected.rtp == Some(source) {
            self.rtp = Some(source);
            return Ok(Verdict::Latched(source));
        }
        if self.expected.learn_until.is_none_or(|end| now > end) {
            return Err(DropReason::ForeignSource);
        }
        let candidate = self.candidate(source);
        let in_order = candidate.source == Some(source)
            && candidate.ssrc == ssrc
            && candidate.next_sequence == sequence
            && candidate.proof > 0;
        let proof = if in_order { candidate.proof + 1 } else { 1 };
        let next_sequence = sequence.wrapping_add(1);
        *candidate = Candidate { source: Some(source), ssrc, next_sequence, proof, heard_at: now };
        if proof < LATCH_PACKETS {
            return Err(DropReason::Learning);
        }
        self.rtp = Some(source);
        Ok(Verdict::Latched(source))
    }

    /// The place of a source: its own, or that of the least proven and longest silent other. So a source that has two
    /// packets in order cannot be pushed out by spraying from many addresses, each of which has one.
    fn candidate(&mut self, source: SocketAddr) -> &mut Candidate {
        let own = self.candidates.iter().position(|c| c.source == Some(source));
        let weakest =
            || (0..LATCH_CANDIDATES_MAX).min_by_key(|&i| (self.candidates[i].proof, self.candidates[i].heard_at));
        let at = own.or_else(weakest).unwrap_or(0);
        &mut self.candidates[at]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use DropReason::{ForeignSource, Learning};
    use Verdict::{Known, Latched};

    const SSRC: u32 = 0xabcd;

    fn at(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn expected(nat: bool) -> Expectation {
        Expectation {
            rtp: Some(at("192.0.2.1:4000")),
            rtcp: Some(at("192.0.2.1:4001")),
            muxed: false,
            learn_until: nat.then_some(Nanos::from_millis(1000)),
        }
    }

    fn hear(latch: &mut Latch, ms: u64, source: &str, sequence: u16) -> Result<Verdict, DropReason> {
        latch.rtp(Nanos::from_millis(ms), Some(at(source)), SSRC, sequence)
    }

    #[test]
    fn the_signalled_source_latches_at_once_and_for_good() {
        let mut latch = Latch::new(expected(false));
        assert_eq!(hear(&mut latch, 0, "203.0.113.9:4000", 1), Err(ForeignSource));
        assert_eq!(hear(&mut latch, 0, "192.0.2.1:4000", 1), Ok(Latched(at("192.0.2.1:4000"))));
        assert_eq!(hear(&mut latch, 9, "192.0.2.1:4000", 7), Ok(Known));
        assert_eq!(hear(&mut latch, 9, "192.0.2.1:4002", 8), Err(ForeignSource));
        assert!(latch.is_foreign(Some(at("192.0.2.1:4002"))));
        assert_eq!(latch.rtp(Nanos(0), None, SSRC, 9), Ok(Known), "the driver vouches for its connected peer");
    }

    #[test]
    fn behind_nat_four_in_order_packets_latch() {
        let mut latch = Latch::new(expected(true));
        for sequence in [65534, 65535, 0] {
            assert_eq!(hear(&mut latch, 10, "203.0.113.9:777", sequence), Err(Learning));
            assert_eq!(latch.locked(), None);
        }
        assert_eq!(hear(&mut latch, 20, "203.0.113.9:777", 1), Ok(Latched(at("203.0.113.9:777"))));
        assert_eq!(latch.rtp_target(), Some(at("203.0.113.9:777")));
        assert_eq!(hear(&mut latch, 30, "192.0.2.1:4000", 1), Err(ForeignSource), "locked is locked");
    }

    #[test]
    fn a_gap_another_ssrc_or_the_end_of_the_window_spoils_the_proof() {
        let mut latch = Latch::new(expected(true));
        for sequence in [1, 2, 3, 5, 6, 7, 9] {
            assert_eq!(hear(&mut latch, 10, "203.0.113.9:777", sequence), Err(Learning));
        }
        let other = latch.rtp(Nanos(0), Some(at("203.0.113.9:777")), SSRC + 1, 10);
        assert_eq!(other, Err(Learning));
        for sequence in [11, 12, 13] {
            assert_eq!(hear(&mut latch, 1000, "203.0.113.9:777", sequence), Err(Learning));
        }
        assert_eq!(hear(&mut latch, 1001, "203.0.113.9:777", 14), Err(ForeignSource));
        assert_eq!(hear(&mut latch, 1002, "192.0.2.1:4000", 1), Ok(Latched(at("192.0.2.1:4000"))));
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
        assert_eq!(hear(&mut latch, 5, "203.0.113.9:777", 1), Err(Learning));
        spray(&mut latch, 3);
        assert_eq!(hear(&mut latch, 5, "203.0.113.9:777", 2), Err(Learning));
        spray(&mut latch, 10_000);
        assert_eq!(hear(&mut latch, 5, "203.0.113.9:777", 3), Err(Learning));
        spray(&mut latch, 10_000);
        assert_eq!(hear(&mut latch, 5, "203.0.113.9:777", 4), Ok(Latched(at("203.0.113.9:777"))));
    }

    #[test]
    fn rtcp_follows_rtp_to_the_same_address() {
        let mut latch = Latch::new(expected(true));
        assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Ok(Known), "signalled, before RTP");
        assert_eq!(latch.rtcp(Some(at("203.0.113.9:778"))), Err(Learning));
        assert_eq!(latch.rtcp(None), Err(ForeignSource));
        for sequence in 1..=4 {
            let _ = hear(&mut latch, 0, "203.0.113.9:777", sequence);
        }
        assert_eq!(latch.rtcp_target(), None, "its port behind NAT is not known");
        assert_eq!(latch.rtcp(Some(at("192.0.2.1:4001"))), Err(ForeignSource));
        assert_eq!(latch.rtcp(Some(at("203.0.113.9:900"))), Ok(Latched(at("203.0.113.9:900"))));
        assert_eq!(latch.rtcp(Some(at("203.0.113.9:778"))), Err(ForeignSource));
        assert_eq!(latch.rtcp(None), Ok(Known));
        assert_eq!(latch.rtcp_target(), Some(at("203.0.113.9:900")));
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
    fn another_remote_opens_it_anew_and_the_same_one_does_not() {
        let mut latch = Latch::new(expected(true));
        for sequence in 1..=4 {
            let _ = hear(&mut latch, 0, "203.0.113.9:777", sequence);
        }
        let later = Some(Nanos::from_millis(9000));
        let same = latch.expect(Expectation { learn_until: later, ..expected(true) });
        assert_eq!(same, Reopened { rtp: false, rtcp: false });
        assert_eq!(latch.locked(), Some(at("203.0.113.9:777")));
        let moved = Expectation { rtp: Some(at("192.0.2.7:5000")), learn_until: later, ..expected(true) };
        assert_eq!(latch.expect(moved), Reopened { rtp: true, rtcp: false });
        assert_eq!(latch.locked(), None);
        assert_eq!(hear(&mut latch, 5000, "203.0.113.9:777", 5), Err(Learning), "earlier proof is void");
        assert_eq!(hear(&mut latch, 5000, "192.0.2.7:5000", 1), Ok(Latched(at("192.0.2.7:5000"))));
    }
}
