//! How busy a worker is: turn time, tick lateness and queue depth, gathered each turn and published once a second. It reads
//! no clock of its own and costs a turn some ten additions. Sums let a reader form means over its own interval; means and
//! maxima are those of the last second, for who looks once.

use nebula_core::time::Nanos;
use nebula_ring::segment::Counter;
use std::time::Duration;

/// How often figures are published, and the window of their means and maxima.
pub const WINDOW_NANOS: u64 = 1_000_000_000;

/// See the module.
#[derive(Debug)]
pub struct Figures {
    window_start: Nanos,
    /// When the turn at hand began; none while the worker sleeps, or before the first turn.
    awake_since: Option<Nanos>,
    turn: Measure,
    lateness: Measure,
    received_before: u64,
    depth_max: u64,
    cpu_before: Duration,
}

/// Something that is summed up for good, and whose mean and highest value count for a window.
#[derive(Debug, Default)]
struct Measure {
    sum: u64,
    count: u64,
    max: u64,
    sum_before: u64,
    count_before: u64,
}

impl Measure {
    fn add(&mut self, value: u64) {
        self.sum += value;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Mean and maximum of the window that ends, zero if nothing was in it.
    fn end_window(&mut self) -> (u64, u64) {
        let mean = (self.sum - self.sum_before).checked_div(self.count - self.count_before).unwrap_or(0);
        (self.sum_before, self.count_before) = (self.sum, self.count);
        (mean, std::mem::take(&mut self.max))
    }
}

impl Figures {
    /// Begins to count.
    pub fn new(now: Nanos) -> Self {
        Self {
            window_start: now,
            awake_since: None,
            turn: Measure::default(),
            lateness: Measure::default(),
            received_before: 0,
            depth_max: 0,
            cpu_before: Duration::ZERO,
        }
    }

    /// The worker goes to sleep.
    pub fn turn_ends(&mut self, now: Nanos) {
        if let Some(since) = self.awake_since.take() {
            self.turn.add(now.since(since));
        }
    }

    /// It woke up, and something was `due` before or after that.
    pub fn turn_begins(&mut self, now: Nanos, due: Nanos) {
        self.awake_since = Some(now);
        if due <= now {
            self.lateness.add(now.since(due));
        }
    }

    /// At the end of each turn, with all packets `received` so far: whether it is time to publish.
    pub fn second_ends(&mut self, now: Nanos, received: u64) -> bool {
        self.depth_max = self.depth_max.max(received - self.received_before);
        self.received_before = received;
        now.since(self.window_start) >= WINDOW_NANOS
    }

    /// Hands all figures out and begins another second. `cpu` is the thread's CPU time so far.
    pub fn publish(&mut self, now: Nanos, cpu: Duration, mut set: impl FnMut(Counter, u64)) {
        let elapsed = u128::from(now.since(self.window_start).max(1));
        let cpu_permille = (cpu.saturating_sub(self.cpu_before).as_nanos() * 1000 / elapsed) as u64;
        (self.window_start, self.cpu_before) = (now, cpu);
        let (turn_mean, turn_max) = self.turn.end_window();
        let (lateness_mean, lateness_max) = self.lateness.end_window();
        for (counter, value) in [
            (Counter::TurnNanos, self.turn.sum),
            (Counter::TurnNanosMean, turn_mean),
            (Counter::TurnNanosMax, turn_max),
            (Counter::Ticks, self.lateness.count),
            (Counter::TickLatenessNanos, self.lateness.sum),
            (Counter::TickLatenessNanosMean, lateness_mean),
            (Counter::TickLatenessNanosMax, lateness_max),
            (Counter::QueueDepthMax, std::mem::take(&mut self.depth_max)),
            (Counter::CpuNanos, cpu.as_nanos() as u64),
            (Counter::CpuPermille, cpu_permille),
        ] {
            set(counter, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn published(figures: &mut Figures, now: u64, cpu_ms: u64) -> HashMap<&'static str, u64> {
        let mut all = HashMap::new();
        figures.publish(Nanos(now), Duration::from_millis(cpu_ms), |counter, value| {
            all.insert(counter.name(), value);
        });
        all
    }

    #[test]
    fn sums_go_on_while_means_and_maxima_are_of_a_second() {
        let mut figures = Figures::new(Nanos(0));
        figures.turn_ends(Nanos(5)); // nothing had begun
        let mut received = 0;
        for (begins, due, ends, packets) in [(10, 20, 110, 3), (200, 150, 230, 40), (300, 300, 320, 1)] {
            figures.turn_begins(Nanos(begins), Nanos(due));
            received += packets;
            assert!(!figures.second_ends(Nanos(begins), received));
            figures.turn_ends(Nanos(ends));
        }
        figures.turn_begins(Nanos(1_000_000_000), Nanos(u64::MAX));
        assert!(figures.second_ends(Nanos(1_000_000_000), received));
        let first = published(&mut figures, 1_000_000_000, 250);
        let of = |all: &HashMap<&str, u64>, name: &str| {
            ["", "_mean", "_max"].map(|which| all[format!("{name}_nanoseconds{which}").as_str()])
        };
        assert_eq!(of(&first, "turn"), [150, 50, 100]);
        assert_eq!(of(&first, "tick_lateness"), [50, 25, 50]);
        assert_eq!((first["ticks"], first["queue_depth_max"]), (2, 40));
        assert_eq!((first["cpu_nanoseconds"], first["cpu_permille"]), (250_000_000, 250));

        figures.turn_ends(Nanos(1_000_000_020));
        assert!(
            !figures.second_ends(Nanos(1_900_000_000), received) && figures.second_ends(Nanos(3_000_000_000), received)
        );
        let second = published(&mut figures, 3_000_000_000, 350);
        assert_eq!(of(&second, "turn"), [170, 20, 20]);
        assert_eq!(of(&second, "tick_lateness"), [50, 0, 0]);
        assert_eq!((second["queue_depth_max"], second["cpu_permille"]), (0, 50));
    }
}
