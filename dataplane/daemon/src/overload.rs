//! Whether a worker has more to do than it should: seen before it hurts, once a second, from what `figures` has published.
//!
//! Busy is who uses too much of its core, or who comes too late on average, which is what is left of the former on a host
//! where others take the core away. Calm must last before it is believed, so that calls do not come and go with it.

use crate::figures::WINDOW_NANOS;
use nebula_ring::segment::Counter;

/// Seconds, one after the other, in which a worker must be busy: a single one may be the host's.
const BUSY_WINDOWS: u32 = 2;
/// Seconds of calm, one after the other, after which a worker takes new calls again.
const CALM_WINDOWS: u32 = 3;
const _: () = assert!(WINDOW_NANOS == 1_000_000_000, "windows are seconds");

/// From where on a worker is overloaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// CPU time in thousandths of a second's.
    pub cpu_permille: u64,
    /// The mean lateness of a second's ticks.
    pub lateness_nanos: u64,
}

/// See the module.
#[derive(Debug)]
pub struct Overload {
    thresholds: Thresholds,
    cpu_permille: u64,
    lateness_nanos: u64,
    is_on: bool,
    busy: u32,
    calm: u32,
}

impl Overload {
    /// Begins calm.
    pub fn new(thresholds: Thresholds) -> Self {
        Self { thresholds, cpu_permille: 0, lateness_nanos: 0, is_on: false, busy: 0, calm: 0 }
    }

    /// Takes note of a figure of the second that has just ended.
    pub fn note(&mut self, counter: Counter, value: u64) {
        match counter {
            Counter::CpuPermille => self.cpu_permille = value,
            Counter::TickLatenessNanosMean => self.lateness_nanos = value,
            _ => {}
        }
    }

    /// After all figures of a second: the new state, if it has changed.
    pub fn judge(&mut self) -> Option<bool> {
        let Thresholds { cpu_permille, lateness_nanos } = self.thresholds;
        let busy = self.cpu_permille >= cpu_permille || self.lateness_nanos >= lateness_nanos;
        // A little below the threshold is no calm: the calls that were refused would bring it back at once.
        let calm = self.cpu_permille < cpu_permille * 7 / 8 && self.lateness_nanos < lateness_nanos;
        self.busy = if busy { self.busy + 1 } else { 0 };
        self.calm = if calm { self.calm + 1 } else { 0 };
        let is_on = if self.is_on { self.calm < CALM_WINDOWS } else { self.busy >= BUSY_WINDOWS };
        (std::mem::replace(&mut self.is_on, is_on) != is_on).then_some(is_on)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_with_two_busy_seconds_and_ends_with_three_calm_ones() {
        let mut overload = Overload::new(Thresholds { cpu_permille: 800, lateness_nanos: 5_000_000 });
        let mut second = |cpu_permille, lateness_nanos| {
            overload.note(Counter::CpuPermille, cpu_permille);
            overload.note(Counter::TickLatenessNanosMean, lateness_nanos);
            overload.note(Counter::Turns, 99_999);
            overload.judge()
        };
        assert_eq!([second(800, 0), second(799, 0), second(800, 0)], [None; 3]);
        assert_eq!([second(900, 0), second(900, 0)], [Some(true), None]);
        assert_eq!([second(100, 0), second(100, 0), second(750, 0)], [None; 3], "no calm yet");
        assert_eq!([second(100, 0), second(699, 0), second(0, 0)], [None, None, Some(false)]);
        assert_eq!([second(9, 5_000_000), second(9, 9_000_000)], [None, Some(true)], "late is busy, too");
    }
}
