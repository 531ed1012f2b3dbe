//! The clocks of a leg: a handful of deadlines, no wheel. Used by the channel machine only.
//!
//! The repetition of a 2xx or a reliable provisional response and the session timer are those of the SIP crate.

use std::time::{Duration, Instant};

use nebula_sip::session_timer::{Agreed, Due, Refresher, Watch};
use nebula_sip::timers::{Base, Repeat, Repetition};

/// How long a leg waits for what.
#[derive(Debug, Clone, Copy)]
pub struct Timing {
    /// T1, T2 and what follows from them.
    pub base: Base,
    /// From INVITE to its final response; the switchboard's own limit is meant to come first (timer C).
    pub setup: Duration,
    /// From the peer's re-INVITE or UPDATE to the switchboard's answer.
    pub change: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { base: Base::default(), setup: Duration::from_secs(190), change: Duration::from_secs(10) }
    }
}

/// One clock of a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The INVITE has no final response.
    Setup,
    /// The switchboard has not answered the peer's re-INVITE or UPDATE.
    Guard,
    /// A session refresh that could not go out is tried again.
    Refresh,
}

pub(super) const TIMERS: [Timer; 3] = [Timer::Setup, Timer::Guard, Timer::Refresh];

/// Something is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// One of the leg's own clocks.
    Timer(Timer),
    /// What waits for ACK or PRACK.
    Repeat(Repeat),
    /// The session timer.
    Session(Due),
}

/// The deadlines of a leg.
#[derive(Debug, Clone)]
pub(super) struct Timers {
    pub(super) timing: Timing,
    pub(super) at: [Option<Instant>; TIMERS.len()],
    pub(super) repetition: Option<Repetition>,
    pub(super) session: Option<Watch>,
}

impl Timers {
    pub fn new(timing: Timing) -> Self {
        Self { timing, at: [None; TIMERS.len()], repetition: None, session: None }
    }

    pub fn clear(&mut self, timer: Timer) {
        self.at[timer as usize] = None;
    }

    pub fn clear_all(&mut self) {
        *self = Self::new(self.timing);
    }

    pub fn next(&self) -> Option<Instant> {
        let repetition = self.repetition.as_ref().and_then(Repetition::next_timeout);
        let session = self.session.as_ref().and_then(Watch::next_timeout);
        self.at.into_iter().chain([repetition, session]).flatten().min()
    }

    /// Takes something that is due.
    pub fn due(&mut self, now: Instant) -> Option<Wake> {
        if let Some(timer) = TIMERS.into_iter().find(|timer| self.at[*timer as usize].is_some_and(|at| at <= now)) {
            self.clear(timer);
            return Some(Wake::Timer(timer));
        }
        if let Some(repeat) = self.repetition.as_mut().and_then(|repetition| repetition.handle_timeout(now)) {
            return Some(Wake::Repeat(repeat));
        }
        self.session.as_mut().and_then(|watch| watch.handle_timeout(now)).map(Wake::Session)
    }

    /// Starts the clock of the open INVITE.
    pub fn setup(&mut self, now: Instant) {
        self.at[Timer::Setup as usize] = Some(now + self.timing.setup);
    }

    /// Waits for the switchboard's word on a change of the session, or for the answer of an ACK.
    pub fn guard(&mut self, now: Instant) {
        self.at[Timer::Guard as usize] = Some(now + self.timing.change);
    }

    /// Plans the next try of a session refresh.
    pub fn refresh_again(&mut self, at: Instant) {
        self.at[Timer::Refresh as usize] = Some(at);
    }

    /// Repeats a 2xx until its ACK (RFC 3261 13.3.1.4).
    pub fn repeat_answer(&mut self, now: Instant) {
        self.repetition = Some(Repetition::new(now, self.timing.base, Some(self.timing.base.t2)));
    }

    /// The ACK came.
    pub fn repeat_no_more(&mut self) {
        self.repetition = None;
    }

    /// Starts the session timer anew.
    pub fn session(&mut self, agreed: Option<Agreed>, we_are: Refresher, now: Instant) {
        self.clear(Timer::Refresh);
        self.session = agreed.map(|agreed| Watch::new(now, agreed, we_are));
    }
}
