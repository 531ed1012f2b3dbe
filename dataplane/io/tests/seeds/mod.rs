//! What all simulations have in common: their seeds by the environment, and the one that failed.

/// Prints the seed if its run fails.
pub struct Seed(pub u64);

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

/// The one that is to be replayed, or as many as the environment asks for, or `usual` ones.
pub fn seeds(usual: u64) -> std::ops::Range<u64> {
    match number("NEBULA_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("NEBULA_SEEDS").unwrap_or(usual),
    }
}
