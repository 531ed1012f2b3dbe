//! User agents made of the transaction layer and dialogs, over a network that loses, duplicates, reorders and delays, with
//! processes that stall, crash and are restored from snapshots at any moment, for thousands of seeds.
//!
//! `NEBULA_SEEDS=100000` runs more; `NEBULA_SEED=42` replays one that failed (it is printed on failure).

mod agent;
mod call;
mod random;
mod world;

use world::{Coverage, World};

const SEEDS: u64 = 10_000;

/// Prints the seed if its run fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed; replay with NEBULA_SEED={}", self.0);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}

#[test]
fn whatever_happens_every_call_ends_once_and_nothing_is_left() {
    let seeds = match number("NEBULA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("NEBULA_SEEDS").unwrap_or(SEEDS),
    };
    let mut coverage = Coverage::default();
    for seed in seeds.clone() {
        let _seed = Seed(seed);
        let mut world = World::new(seed);
        world.run();
        world.check(&mut coverage);
    }
    println!("{} seeds: {coverage:?}", seeds.end - seeds.start);
    if seeds.end - seeds.start >= 1_000 {
        coverage.check();
    }
}
