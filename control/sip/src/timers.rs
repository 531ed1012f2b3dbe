//! The timers of SIP: three base values and everything derived from them (RFC 3261 17.1.1.1, 17.1.2.1, table 4 of
//! appendix A; L and M from RFC 6026 section 8.11).
//!
//! Called by the transaction layer and by the dialog's own retransmissions. Pure arithmetic; nothing here runs a clock.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::snapshot::{Left, Resume, SnapshotError};

/// An estimate of the round trip, 500 ms (RFC 3261 17.1.1.1).
pub const T1: Duration = Duration::from_millis(500);
/// The longest gap between retransmissions of a non-INVITE request or an INVITE response, 4 s (17.1.2.2).
pub const T2: Duration = Duration::from_secs(4);
/// How long a message may linger in the network, 5 s (17.1.2.2).
pub const T4: Duration = Duration::from_secs(5);
/// Timer D over unreliable transports, at least 32 s (17.1.1.2), whatever T1 is.
pub const D_MIN: Duration = Duration::from_secs(32);
/// Timer C, more than 3 min (16.6): an INVITE that rings longer than this has been forgotten. The user's own limit is meant
/// to come first.
pub const C: Duration = Duration::from_secs(600);
/// A server INVITE transaction says 100 unless its user answers within 200 ms (17.2.1).
pub const TRYING_AFTER: Duration = Duration::from_millis(200);
/// A transaction is given up after this many T1 (timers B, F, H, J, L and M).
pub const T1_PER_LIFETIME: u32 = 64;
/// Doubling stops here, so that the shift below cannot overflow: T1 << 16 is more than nine hours.
const DOUBLINGS_MAX: u32 = 16;

/// A transaction's timer, by its letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Timer {
    /// INVITE request retransmission.
    A,
    /// INVITE client transaction timeout.
    B,
    /// An INVITE that got a provisional response and nothing since (16.6).
    C,
    /// Wait for retransmitted final refusals of an INVITE.
    D,
    /// Non-INVITE request retransmission.
    E,
    /// Non-INVITE client transaction timeout.
    F,
    /// INVITE refusal retransmission.
    G,
    /// Wait for ACK.
    H,
    /// Wait for retransmitted ACKs.
    I,
    /// Wait for retransmitted non-INVITE requests.
    J,
    /// Wait for retransmitted non-INVITE responses.
    K,
    /// Wait for retransmitted INVITEs after a 2xx (RFC 6026).
    L,
    /// Wait for retransmitted and forked 2xx (RFC 6026).
    M,
    /// The 200 ms after which 100 Trying is due (17.2.1); it has no letter.
    Trying,
    /// 64*T1 after a CANCEL, when the INVITE counts as ended though nothing final came (9.1); it has no letter.
    Abandon,
}

impl Timer {
    /// Whether it paces sending, rather than bounds a state. A transaction has at most one of each kind at a time.
    pub const fn repeats(self) -> bool {
        matches!(self, Timer::A | Timer::E | Timer::G | Timer::Trying)
    }
}

/// How long the next run of a repeating timer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Its first interval.
    First,
    /// Its next interval, twice the last one (A without bound, E and G up to T2).
    Doubled,
    /// T2 at once: timer E in Proceeding.
    Slowest,
}

/// The base values in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Base {
    /// Round trip estimate.
    pub t1: Duration,
    /// Longest retransmission gap.
    pub t2: Duration,
    /// Longest life of a message in the network.
    pub t4: Duration,
    /// When 100 Trying is due; `None` leaves it to the transaction user.
    pub trying_after: Option<Duration>,
}

impl Default for Base {
    fn default() -> Self {
        Self { t1: T1, t2: T2, t4: T4, trying_after: Some(TRYING_AFTER) }
    }
}

impl Base {
    /// 64*T1: how long a request, a refusal or a 2xx is repeated before it is given up.
    pub fn lifetime(&self) -> Duration {
        self.t1 * T1_PER_LIFETIME
    }

    /// T1 doubled `n` times, at most T2: timers E and G, and a 2xx repeated by the UAS core (13.3.1.4).
    pub fn backoff(&self, n: u32) -> Duration {
        self.doubled(n).min(self.t2)
    }

    /// T1 doubled `n` times without a bound: timer A, and reliable provisional responses (RFC 3262 section 3).
    pub fn doubled(&self, n: u32) -> Duration {
        self.t1 * (1 << n.min(DOUBLINGS_MAX))
    }

    /// How long `timer` runs after `doublings` earlier runs; `None` if it does not run at all on such a transport.
    ///
    /// A reliable transport retransmits nothing (A, E, G) and has nothing to wait for (D, I, J, K are zero).
    pub fn duration(&self, timer: Timer, pace: Pace, doublings: u32, reliable: bool) -> Option<Duration> {
        let zero_if_reliable = |d: Duration| Some(if reliable { Duration::ZERO } else { d });
        let only_unreliable = |d: Duration| (!reliable).then_some(d);
        match timer {
            Timer::A => only_unreliable(self.doubled(doublings)),
            Timer::E if pace == Pace::Slowest => only_unreliable(self.t2),
            Timer::E | Timer::G => only_unreliable(self.backoff(doublings)),
            Timer::B | Timer::F | Timer::H | Timer::L | Timer::M | Timer::Abandon => Some(self.lifetime()),
            Timer::C => Some(C),
            Timer::D => zero_if_reliable(D_MIN.max(self.lifetime())),
            Timer::I | Timer::K => zero_if_reliable(self.t4),
            Timer::J => zero_if_reliable(self.lifetime()),
            Timer::Trying => self.trying_after,
        }
    }
}

/// What a repetition asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Send it again.
    Again,
    /// 64*T1 have passed; said once.
    GiveUp,
}

/// A message that a user agent core repeats itself until it is acknowledged: first after T1, then at doubled gaps, for
/// 64*T1 (a 2xx to INVITE, 13.3.1.4; a reliable provisional response, RFC 3262 section 3).
#[derive(Debug, Clone, Copy)]
pub struct Repetition {
    base: Base,
    gap_max: Option<Duration>,
    repeats: u32,
    next: Instant,
    give_up: Instant,
    over: bool,
}

/// A [`Repetition`] in a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedRepetition {
    next: Left,
    give_up: Left,
    repeats: u32,
    /// Whether the gaps stop growing at T2.
    #[serde(default)]
    bounded: bool,
}

impl Repetition {
    /// Starts with the first sending, now. `gap_max` bounds the gaps (T2 for a 2xx).
    pub fn new(now: Instant, base: Base, gap_max: Option<Duration>) -> Self {
        Self { base, gap_max, repeats: 0, next: now + base.t1, give_up: now + base.lifetime(), over: false }
    }

    /// What is left of it; `None` once given up.
    pub fn save(&self, now: Instant) -> Option<SavedRepetition> {
        (!self.over).then(|| SavedRepetition {
            next: Left::of(self.next, now),
            give_up: Left::of(self.give_up, now),
            repeats: self.repeats,
            bounded: self.gap_max.is_some(),
        })
    }

    /// Goes on where it was.
    pub fn resume(saved: SavedRepetition, base: Base, resume: &Resume) -> Result<Self, SnapshotError> {
        if saved.repeats > T1_PER_LIFETIME || saved.give_up.duration() > base.lifetime() {
            return Err(SnapshotError::Damaged("a repetition"));
        }
        Ok(Self {
            base,
            gap_max: saved.bounded.then_some(base.t2),
            repeats: saved.repeats,
            next: resume.at(saved.next),
            give_up: resume.at(saved.give_up),
            over: false,
        })
    }

    /// When to call `handle_timeout`; `None` once given up.
    pub fn next_timeout(&self) -> Option<Instant> {
        (!self.over).then(|| self.next.min(self.give_up))
    }

    /// What is due now. Late calls get one repeat, not one for each gap that was missed.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Repeat> {
        if self.over || now < self.next.min(self.give_up) {
            return None;
        }
        if now >= self.give_up {
            self.over = true;
            return Some(Repeat::GiveUp);
        }
        self.repeats += 1;
        let gap = self.base.doubled(self.repeats);
        self.next = now + self.gap_max.map_or(gap, |max| gap.min(max));
        Some(Repeat::Again)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Table 4 of RFC 3261 and the additions of RFC 6026, row by row: (timer, unreliable, reliable) in ms.
    #[test]
    fn table_4() {
        let base = Base::default();
        let rows = [
            (Timer::A, Some(500), None),
            (Timer::B, Some(32_000), Some(32_000)),
            (Timer::D, Some(32_000), Some(0)),
            (Timer::E, Some(500), None),
            (Timer::F, Some(32_000), Some(32_000)),
            (Timer::G, Some(500), None),
            (Timer::H, Some(32_000), Some(32_000)),
            (Timer::I, Some(5_000), Some(0)),
            (Timer::J, Some(32_000), Some(0)),
            (Timer::K, Some(5_000), Some(0)),
            (Timer::L, Some(32_000), Some(32_000)),
            (Timer::M, Some(32_000), Some(32_000)),
        ];
        for (timer, unreliable, reliable) in rows {
            let ms = |reliable| base.duration(timer, Pace::First, 0, reliable).map(|d| d.as_millis());
            assert_eq!((ms(false), ms(true)), (unreliable, reliable), "{timer:?}");
        }
    }

    #[test]
    fn a_doubles_without_bound_and_e_and_g_up_to_t2() {
        let base = Base::default();
        let runs = |timer| {
            (0..7).map(|n| base.duration(timer, Pace::Doubled, n, false).unwrap().as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(runs(Timer::A), [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000]);
        assert_eq!(runs(Timer::E), [500, 1_000, 2_000, 4_000, 4_000, 4_000, 4_000]);
        assert_eq!(runs(Timer::G), runs(Timer::E));
        assert_eq!(base.duration(Timer::E, Pace::Slowest, 0, false), Some(T2));
        assert!(base.doubled(u32::MAX) > T2, "the shift is bounded");
    }

    #[test]
    fn d_stays_at_32_s_when_t1_is_short() {
        let base = Base { t1: Duration::from_millis(100), ..Base::default() };
        assert_eq!(base.duration(Timer::D, Pace::First, 0, false), Some(D_MIN));
        assert_eq!(base.lifetime(), Duration::from_millis(6_400));
    }

    fn instants_ms(mut repetition: Repetition, start: Instant) -> Vec<(u128, Repeat)> {
        let mut seen = Vec::new();
        while let Some(at) = repetition.next_timeout() {
            assert_eq!(repetition.handle_timeout(at - Duration::from_millis(1)), None);
            seen.push(((at - start).as_millis(), repetition.handle_timeout(at).expect("due")));
        }
        seen
    }

    #[test]
    fn a_2xx_repeats_at_t1_doubling_to_t2_for_64_t1() {
        let start = Instant::now();
        let seen = instants_ms(Repetition::new(start, Base::default(), Some(T2)), start);
        let again = [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
        let mut expected: Vec<_> = again.into_iter().map(|ms| (ms, Repeat::Again)).collect();
        expected.push((32_000, Repeat::GiveUp));
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_reliable_provisional_repeats_at_t1_doubling_for_64_t1() {
        let start = Instant::now();
        let seen = instants_ms(Repetition::new(start, Base::default(), None), start);
        let again = [500, 1_500, 3_500, 7_500, 15_500, 31_500];
        let mut expected: Vec<_> = again.into_iter().map(|ms| (ms, Repeat::Again)).collect();
        expected.push((32_000, Repeat::GiveUp));
        assert_eq!(seen, expected);
    }
}
