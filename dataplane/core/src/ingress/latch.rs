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
mod tests;
