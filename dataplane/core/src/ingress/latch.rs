//! Whose packets a stream believes: the latching rules (design, section 4) as a pure machine.
//!
//! ```text
//!                 signalled source, at once
//!    Open --------------------------------------------------------------------> Locked
//!     |  ^                                                                      ^   |
//!     |  | silent, or the window is over      LATCH_STEADY_MS of steady talk    |   |
//!     |  +------------------------------ On trial ------------------------------+   |
//!     +------------------------------------^   ^                                    |
//!       LATCH_PACKETS in order and no burst,   +------------------------------------+
//!       where NAT is expected, in the window     the same of another source, and the locked one silent,
//!                                                while the window is open
//! ```
//!
//! Control signals another remote: Open. Only where the peer is expected behind NAT can anybody but the signalled source be
//! believed, and then only from its SIP's address (or, if that is not known, any). What cannot be told in that case is
//! bounded: a source on trial may have `TRIAL_PACKETS` relayed, and as many sent to it, whoever is on trial how often. So
//! somebody who sprays all ports gets no more than those before the peer, who talks steadily, takes its place; and nothing
//! after the window. Then the socket is connected.
//!
//! RTCP follows RTP: on its own port it is believed from the signalled address until RTP has latched, then, behind NAT,
//! from the same IP address, and the first one fixes the port.

use crate::limits::{
    LATCH_CANDIDATES_MAX, LATCH_PACKETS, LATCH_PAUSE_MS, LATCH_SPACING_MS, LATCH_STEADY_MS, RELATCH_SILENCE_MS,
    TRIAL_PACKETS,
};
use crate::time::Nanos;
use nebula_ring::drops::DropReason;
use std::net::{IpAddr, SocketAddr};

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
    /// From which address besides the signalled one; none if from any.
    pub learn_from: Option<IpAddr>,
    /// A silent peer may be found again at another port so often; zero never.
    pub relatch_interval_ms: u32,
}

/// A packet that is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The peer was known already.
    Known,
    /// A source that has yet to last is sent to from now on, a little.
    OnTrial {
        /// Whether this packet may pass.
        passes: bool,
    },
    /// This packet closed the latch to this address.
    Latched(SocketAddr),
    /// The peer was known; from now on no other can take its place.
    Settled(SocketAddr),
}

/// What `expect` opened anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reopened {
    /// The peer was known.
    pub known: bool,
    /// RTP was locked and settled: the socket is connected.
    pub rtp: bool,
    /// The same for RTCP on a port of its own.
    pub rtcp: bool,
}

/// One stream's latch.
#[derive(Debug, Clone)]
pub struct Latch {
    /// The locked RTP source.
    rtp: Option<SocketAddr>,
    /// The locked RTCP source, when not muxed.
    rtcp: Option<SocketAddr>,
    /// Whether another may still take the place of the locked one.
    unsettled: bool,
    /// Whether RTCP was locked when nothing could change any more.
    rtcp_settled: bool,
    trial: Option<Trial>,
    /// Packets that sources on trial may still have relayed.
    trial_in: u8,
    /// Packets that may still be sent to them.
    trial_out: u8,
    /// When the locked source was last heard; kept while it is unsettled.
    heard_at: Nanos,
    latched_at: Nanos,
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
    /// When the last of them came.
    heard_at: Nanos,
}

/// A source that has proved itself, and has yet to last.
#[derive(Debug, Clone, Copy)]
struct Trial {
    source: SocketAddr,
    /// Since when it has talked without a pause.
    since: Nanos,
    heard_at: Nanos,
}

const STEADY_NANOS: u64 = LATCH_STEADY_MS * 1_000_000;
const SPACING_NANOS: u64 = LATCH_SPACING_MS * 1_000_000;
const PAUSE_NANOS: u64 = LATCH_PAUSE_MS * 1_000_000;

impl Latch {
    /// An open latch.
    pub const fn new(expected: Expectation) -> Self {
        const NOBODY: Candidate = Candidate { source: None, ssrc: 0, next_sequence: 0, proof: 0, heard_at: Nanos(0) };
        Self {
            rtp: None,
            rtcp: None,
            unsettled: false,
            rtcp_settled: false,
            trial: None,
            trial_in: TRIAL_PACKETS,
            trial_out: TRIAL_PACKETS,
            heard_at: Nanos(0),
            latched_at: Nanos(0),
            expected,
            candidates: [NOBODY; LATCH_CANDIDATES_MAX],
        }
    }

    /// Goes on with the peer that another dataplane had latched to. What control has expected since does not fit: then the
    /// latch stays open.
    pub fn resume(&mut self, now: Nanos, rtp: Option<SocketAddr>, rtcp: Option<SocketAddr>) {
        self.rtp = rtp;
        self.rtcp = rtcp.filter(|_| !self.expected.muxed && rtp.is_some());
        self.unsettled = rtp.is_some() && self.expected.relatch_interval_ms > 0;
        self.rtcp_settled = self.rtcp.is_some() && !self.unsettled;
        (self.heard_at, self.latched_at) = (now, now);
    }

    /// Takes what control now says, and says what was locked and no longer is: another remote was signalled. An open
    /// latch goes on learning, until the new end of the window; a closed one learns nobody else.
    pub fn expect(&mut self, expected: Expectation) -> Reopened {
        let before = std::mem::replace(&mut self.expected, expected);
        let moved = (before.rtp, before.rtcp, before.muxed) != (expected.rtp, expected.rtcp, expected.muxed);
        let known = moved && self.rtp.is_some();
        let reopened =
            Reopened { known, rtp: known && !self.unsettled, rtcp: moved && self.rtcp.is_some() && self.rtcp_settled };
        if moved {
            *self = Self::new(expected);
        } else if self.rtp.is_some() {
            // Nobody else is learned for longer than was said, nor at all if no NAT is expected any more.
            self.expected.learn_until = before.learn_until.filter(|_| expected.learn_until.is_some());
            // A socket that is connected stays so.
            let may_relatch = self.unsettled && expected.relatch_interval_ms > 0;
            self.expected.relatch_interval_ms = if may_relatch { expected.relatch_interval_ms } else { 0 };
        }
        reopened
    }

    /// Whether a packet from here can be refused at once. A source of none is the driver's connected peer, which needs
    /// the latch to be closed.
    #[inline]
    pub fn is_foreign(&self, source: Option<SocketAddr>) -> bool {
        match (self.rtp, source) {
            (Some(locked), Some(source)) => locked != source && !self.unsettled,
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
            (Some(locked), Some(source)) if locked != source => self.challenge(now, source, ssrc, sequence),
            (Some(_), _) if !self.unsettled => Ok(Verdict::Known),
            (Some(locked), _) => Ok(self.hear_again(now, locked)),
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
            (Some(_), Some(rtp)) if self.unsettled && !self.expected.muxed => self.rtcp_beside(rtp, source),
            (Some(_), _) => Err(DropReason::ForeignSource),
            (None, Some(rtp)) => self.rtcp_beside(rtp, source),
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

    /// Whether the locked source is so for good, until control says otherwise: the driver may connect to it.
    pub fn is_settled(&self) -> bool {
        self.rtp.is_some() && !self.unsettled
    }

    /// Whether `rtp_target` is a source on trial: `spend` before each packet to it.
    pub fn is_on_trial(&self) -> bool {
        self.trial.is_some() && self.rtp.is_none()
    }

    /// Whether one more packet may be sent to the source on trial.
    pub fn spend(&mut self, now: Nanos) -> bool {
        let may = self.is_open_at(now) && self.trial_out > 0;
        self.trial_out -= u8::from(may);
        may
    }

    /// Where RTP is to be sent: the locked source, or one on trial, or the signalled address until then.
    pub fn rtp_target(&self) -> Option<SocketAddr> {
        self.rtp.or(self.trial.map(|trial| trial.source)).or(self.expected.rtp)
    }

    /// The same without regard to trials: what a successor would send to.
    pub fn known_target(&self) -> Option<SocketAddr> {
        self.rtp.or(self.expected.rtp)
    }

    /// Where RTCP is to be sent. None for a peer behind NAT whose RTCP port is not known yet.
    pub fn rtcp_target(&self) -> Option<SocketAddr> {
        if self.expected.muxed {
            return self.rtp.or(self.expected.rtp);
        }
        let reachable = |signalled: &SocketAddr| self.rtp.is_none_or(|rtp| rtp.ip() == signalled.ip());
        self.rtcp.or(self.expected.rtcp.filter(reachable))
    }

    fn signalled_rtcp(&self) -> Option<SocketAddr> {
        if self.expected.muxed { self.expected.rtp } else { self.expected.rtcp }
    }

    /// RTCP on a port of its own, beside locked RTP. Without NAT it comes from where it was signalled, if that was said.
    fn rtcp_beside(&mut self, rtp: SocketAddr, source: SocketAddr) -> Result<Verdict, DropReason> {
        let nat = self.expected.learn_until.is_some() || self.expected.rtcp.is_none();
        if rtp.ip() != source.ip() || !(nat || self.expected.rtcp == Some(source)) {
            return Err(DropReason::ForeignSource);
        }
        self.rtcp = Some(source);
        self.rtcp_settled = !self.unsettled;
        Ok(if self.unsettled { Verdict::OnTrial { passes: true } } else { Verdict::Latched(source) })
    }

    fn learn(&mut self, now: Nanos, source: SocketAddr, ssrc: u32, sequence: u16) -> Result<Verdict, DropReason> {
        if self.expected.rtp == Some(source) {
            self.unsettled = self.expected.relatch_interval_ms > 0;
            return Ok(self.lock(now, source));
        }
        if !self.is_open_at(now) || !self.may_be(source) {
            return Err(DropReason::ForeignSource);
        }
        if self.trial.is_some_and(|trial| trial.source == source) {
            return self.last(now);
        }
        let vacant = self.trial.is_none_or(|trial| now.since(trial.heard_at) >= PAUSE_NANOS);
        if self.prove(now, source, ssrc, sequence) < LATCH_PACKETS || !vacant {
            return Err(DropReason::Learning);
        }
        self.begin_trial(now, source)
    }

    /// Another source than the locked one. While the window is open it may take its place, once that is silent; later only
    /// where the operator allows it, rarely, and from the same address.
    fn challenge(&mut self, now: Nanos, source: SocketAddr, ssrc: u32, sequence: u16) -> Result<Verdict, DropReason> {
        let Some(locked) = self.rtp.filter(|_| self.unsettled) else { return Err(DropReason::ForeignSource) };
        let (open, silent) = (self.is_open_at(now), now.since(self.heard_at));
        if open && self.expected.rtp == Some(source) {
            self.unsettled = self.expected.relatch_interval_ms > 0;
            return Ok(self.lock(now, source));
        }
        let rested = self.relatch_interval_nanos().is_some_and(|interval| now.since(self.latched_at) >= interval);
        let relatches = rested && silent >= RELATCH_SILENCE_MS * 1_000_000 && source.ip() == locked.ip();
        if !(relatches || open && self.may_be(source)) {
            return Err(DropReason::ForeignSource);
        }
        if self.prove(now, source, ssrc, sequence) < LATCH_PACKETS || silent < PAUSE_NANOS {
            return Err(DropReason::Learning);
        }
        if relatches {
            return Ok(self.lock(now, source));
        }
        (self.rtp, self.rtcp) = (None, None);
        self.begin_trial(now, source)
    }

    fn begin_trial(&mut self, now: Nanos, source: SocketAddr) -> Result<Verdict, DropReason> {
        self.trial = Some(Trial { source, since: now, heard_at: now });
        let passes = self.trial_in > 0;
        self.trial_in -= u8::from(passes);
        Ok(Verdict::OnTrial { passes })
    }

    /// The source on trial again: has it talked for long enough without a pause?
    fn last(&mut self, now: Nanos) -> Result<Verdict, DropReason> {
        let Some(trial) = &mut self.trial else { return Err(DropReason::Learning) };
        if now.since(trial.heard_at) >= PAUSE_NANOS {
            trial.since = now;
        }
        trial.heard_at = now;
        if now.since(trial.since) >= STEADY_NANOS {
            let source = trial.source;
            self.unsettled = true;
            return Ok(self.lock(now, source));
        }
        let passes = self.trial_in > 0;
        self.trial_in -= u8::from(passes);
        if passes { Ok(Verdict::Known) } else { Err(DropReason::Learning) }
    }

    /// The locked source again, while another may take its place.
    fn hear_again(&mut self, now: Nanos, locked: SocketAddr) -> Verdict {
        self.heard_at = now;
        if self.expected.relatch_interval_ms > 0 || self.is_open_at(now) {
            return Verdict::Known;
        }
        self.unsettled = false;
        Verdict::Settled(locked)
    }

    fn lock(&mut self, now: Nanos, source: SocketAddr) -> Verdict {
        (self.rtp, self.rtcp, self.trial) = (Some(source), None, None);
        (self.heard_at, self.latched_at) = (now, now);
        Verdict::Latched(source)
    }

    fn is_open_at(&self, now: Nanos) -> bool {
        self.expected.learn_until.is_some_and(|end| now <= end)
    }

    /// Whether a peer that is expected behind NAT may turn out to be there.
    fn may_be(&self, source: SocketAddr) -> bool {
        let signalled = self.expected.rtp.map(|rtp| rtp.ip());
        self.expected.learn_from.is_none_or(|from| from == source.ip()) || signalled == Some(source.ip())
    }

    fn relatch_interval_nanos(&self) -> Option<u64> {
        let ms = self.expected.relatch_interval_ms;
        (ms > 0).then(|| u64::from(ms) * 1_000_000)
    }

    /// Counts the packets that a source has sent in order.
    fn prove(&mut self, now: Nanos, source: SocketAddr, ssrc: u32, sequence: u16) -> u8 {
        let candidate = self.candidate(source);
        let in_order = candidate.source == Some(source)
            && candidate.ssrc == ssrc
            && candidate.next_sequence == sequence
            && candidate.proof > 0;
        let next_sequence = sequence.wrapping_add(1);
        if in_order && now.since(candidate.heard_at) < SPACING_NANOS {
            candidate.next_sequence = next_sequence;
            return candidate.proof.min(LATCH_PACKETS - 1);
        }
        let proof = if in_order { candidate.proof.saturating_add(1) } else { 1 };
        *candidate = Candidate { source: Some(source), ssrc, next_sequence, proof, heard_at: now };
        proof
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
}
