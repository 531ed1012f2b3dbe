//! Reliable provisional responses (RFC 3262): `Require: 100rel`, RSeq, RAck and PRACK.
//!
//! `Sender` is the UAS's side of one INVITE, `Receiver` the UAC's side of one early dialog. Both are pure; the owner of
//! the dialog sends what they ask for. We do it when the peer requires it; when it only supports it we need not.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use thiserror::Error;

pub use crate::message::RAck;
use crate::message::{CSeq, Method};
use crate::snapshot::{Resume, SnapshotError};
use crate::timers::{Base, Repeat, Repetition, SavedRepetition};

/// The option tag in Supported and Require.
pub const OPTION_TAG: &str = "100rel";
/// The first RSeq is drawn below this (section 3), so that it cannot wrap within a call.
pub const RSEQ_FIRST_BOUND: u32 = (1 << 31) - 1;

/// Why a reliable provisional response was not taken or not matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Error {
    /// An earlier one is still unacknowledged; wait for its PRACK.
    #[error("reliable response {rseq} is not acknowledged yet")]
    Unacknowledged {
        /// Its RSeq.
        rseq: u32,
    },
    /// A PRACK that acknowledges nothing of ours: answer 481.
    #[error("PRACK matches no reliable response")]
    NoMatch,
}

/// What is due on the UAS's side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due<'a, M> {
    /// Send this again.
    Repeat(&'a M),
    /// No PRACK came in 64*T1: refuse the INVITE with 5xx (section 3).
    GiveUp,
}

/// The reliable provisional responses of one INVITE, one at a time. `M` is what its owner sends.
#[derive(Debug, Clone)]
pub struct Sender<M> {
    base: Base,
    cseq: CSeq,
    rseq_next: u32,
    pending: Option<Pending<M>>,
}

#[derive(Debug, Clone)]
struct Pending<M> {
    rseq: u32,
    message: M,
    has_sdp: bool,
    repetition: Option<Repetition>,
}

/// A [`Sender`] in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedSender<M> {
    cseq: u32,
    rseq_next: u32,
    pending: Option<SavedPending<M>>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedPending<M> {
    rseq: u32,
    message: M,
    has_sdp: bool,
    repetition: Option<SavedRepetition>,
}

impl<M> Sender<M> {
    /// What is left of it.
    pub fn save(&self, now: Instant) -> SavedSender<M>
    where
        M: Clone,
    {
        let pending = self.pending.as_ref().map(|pending| SavedPending {
            rseq: pending.rseq,
            message: pending.message.clone(),
            has_sdp: pending.has_sdp,
            repetition: pending.repetition.and_then(|repetition| repetition.save(now)),
        });
        SavedSender { cseq: self.cseq.number, rseq_next: self.rseq_next, pending }
    }

    /// Goes on where it was.
    pub fn resume(saved: SavedSender<M>, base: Base, resume: &Resume) -> Result<Self, SnapshotError> {
        // From below 2^31 it cannot be counted up to its end within a call.
        if saved.rseq_next > u32::MAX / 4 * 3 {
            return Err(SnapshotError::Damaged("an RSeq"));
        }
        let pending = saved.pending.map(|SavedPending { rseq, message, has_sdp, repetition }| {
            let repetition = repetition.map(|saved| Repetition::resume(saved, base, resume)).transpose()?;
            Ok(Pending { rseq, message, has_sdp, repetition })
        });
        let cseq = CSeq { number: saved.cseq, method: Method::Invite };
        Ok(Self { base, cseq, rseq_next: saved.rseq_next, pending: pending.transpose()? })
    }

    /// For the INVITE with this CSeq number; `draw` is random, below [`RSEQ_FIRST_BOUND`].
    pub fn new(base: Base, cseq: u32, draw: u32) -> Self {
        let cseq = CSeq { number: cseq, method: Method::Invite };
        Self { base, cseq, rseq_next: draw % RSEQ_FIRST_BOUND + 1, pending: None }
    }

    /// Makes the next response with its RSeq and keeps it for repetition.
    pub fn send(&mut self, now: Instant, has_sdp: bool, make: impl FnOnce(u32) -> M) -> Result<&M, Error> {
        if let Some(pending) = &self.pending {
            return Err(Error::Unacknowledged { rseq: pending.rseq });
        }
        let rseq = self.rseq_next;
        self.rseq_next += 1;
        let repetition = Some(Repetition::new(now, self.base, None));
        Ok(&self.pending.insert(Pending { rseq, message: make(rseq), has_sdp, repetition }).message)
    }

    /// A PRACK came: Ok is 200 and no more repetition, an error is 481.
    pub fn acknowledge(&mut self, rack: &RAck) -> Result<(), Error> {
        let matches = |pending: &Pending<M>| pending.rseq == rack.rseq && self.cseq == rack.cseq;
        if !self.pending.as_ref().is_some_and(matches) {
            return Err(Error::NoMatch);
        }
        self.pending = None;
        Ok(())
    }

    /// Whether one is unacknowledged, so that `send` would fail.
    pub fn is_waiting(&self) -> bool {
        self.pending.is_some()
    }

    /// Whether a 2xx must wait for PRACK: the unacknowledged response carried SDP (section 3).
    pub fn holds_back_success(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.has_sdp)
    }

    /// A final response went out: no more repetition, though a late PRACK is still matched.
    pub fn finish(&mut self) {
        if let Some(pending) = &mut self.pending {
            pending.repetition = None;
        }
    }

    /// When to call `handle_timeout`.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.pending.as_ref()?.repetition?.next_timeout()
    }

    /// What is due now.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Due<'_, M>> {
        let pending = self.pending.as_mut()?;
        match pending.repetition.as_mut()?.handle_timeout(now)? {
            Repeat::Again => Some(Due::Repeat(&pending.message)),
            Repeat::GiveUp => Some(Due::GiveUp),
        }
    }
}

/// What to do with a reliable provisional response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// New and in order: act on it and send PRACK.
    Acknowledge,
    /// Seen already; its PRACK is on the way.
    Repeated,
    /// One before it is missing: neither act nor acknowledge (section 4).
    OutOfOrder,
}

/// The UAC's view of one early dialog's reliable responses.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Receiver {
    rseq_last: Option<u32>,
}

impl Receiver {
    /// A provisional response with `Require: 100rel` and this RSeq came.
    pub fn receive(&mut self, rseq: u32) -> Verdict {
        match self.rseq_last {
            Some(last) if rseq <= last => Verdict::Repeated,
            Some(last) if rseq - last > 1 => Verdict::OutOfOrder,
            _ => {
                self.rseq_last = Some(rseq);
                Verdict::Acknowledge
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn rack(rseq: u32, cseq: u32, method: Method) -> RAck {
        RAck { rseq, cseq: CSeq { number: cseq, method } }
    }

    #[test]
    fn repeats_at_t1_doubling_until_prack() {
        let start = Instant::now();
        let ms = |ms| start + Duration::from_millis(ms);
        let mut sender = Sender::new(Base::default(), 7, 99);
        assert_eq!(sender.send(start, true, |rseq| rseq), Ok(&100));
        assert_eq!(sender.send(start, true, |rseq| rseq), Err(Error::Unacknowledged { rseq: 100 }));
        assert!(sender.holds_back_success());
        for at in [500, 1_500, 3_500] {
            assert_eq!(sender.next_timeout(), Some(ms(at)));
            assert_eq!(sender.handle_timeout(ms(at)), Some(Due::Repeat(&100)));
        }
        for wrong in [rack(101, 7, Method::Invite), rack(100, 8, Method::Invite), rack(100, 7, Method::Update)] {
            assert_eq!(sender.acknowledge(&wrong), Err(Error::NoMatch));
        }
        assert_eq!(sender.acknowledge(&rack(100, 7, Method::Invite)), Ok(()));
        assert_eq!(sender.acknowledge(&rack(100, 7, Method::Invite)), Err(Error::NoMatch));
        assert_eq!((sender.next_timeout(), sender.holds_back_success()), (None, false));
        assert_eq!(sender.send(ms(4_000), false, |rseq| rseq), Ok(&101));
        assert!(!sender.holds_back_success());
    }

    #[test]
    fn gives_up_after_64_t1_and_stops_at_a_final_response() {
        let start = Instant::now();
        let mut sender = Sender::new(Base::default(), 1, RSEQ_FIRST_BOUND - 1);
        sender.send(start, false, |rseq| rseq).unwrap();
        let mut finished = sender.clone();
        let mut last = None;
        while let Some(at) = sender.next_timeout() {
            last = sender.handle_timeout(at).map(|due| (at - start, due == Due::GiveUp));
        }
        assert_eq!(last, Some((Duration::from_secs(32), true)));
        finished.finish();
        assert_eq!(finished.next_timeout(), None);
        assert_eq!(finished.acknowledge(&rack(RSEQ_FIRST_BOUND, 1, Method::Invite)), Ok(()));
    }

    #[test]
    fn the_receiver_takes_them_once_and_in_order() {
        let mut receiver = Receiver::default();
        let verdicts = [5, 5, 7, 6, 6, 7, 4].map(|rseq| receiver.receive(rseq));
        use Verdict::*;
        assert_eq!(verdicts, [Acknowledge, Repeated, OutOfOrder, Acknowledge, Repeated, Acknowledge, Repeated]);
    }
}
