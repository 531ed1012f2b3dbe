//! What an instance keeps over its restarts beside its legs: the secrets by which it knows nonces and transactions of its
//! own, and a clock for nonces that no change of the wall clock moves.
//!
//! Made at the first start, read at each later one. The clock begins with the wall clock and goes on with the host's
//! monotonic one, over restarts; only a boot, or another host, asks the wall clock again.

use std::time::Instant;

use bytes::Bytes;
use nebula_bus::snapshots::{self, Moment, Unreadable};
use nebula_sip::digest::SavedNonces;
use serde::{Deserialize, Serialize};

/// Where the secrets are kept.
pub const KEY: &str = "secrets";
/// Where the nonces in use are kept.
pub const NONCES_KEY: &str = "nonces";
const VERSION: u32 = 1;

/// Secrets of 16 bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Secrets {
    /// By which transactions are found.
    pub transactions: [u8; 16],
    /// By which nonces are proved.
    pub nonces: [u8; 16],
}

/// Seconds of Unix time that run on by themselves.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    began: Instant,
    unix_s: u64,
}

#[derive(Serialize, Deserialize)]
struct Saved {
    transactions: String,
    nonces: String,
    unix_s: u64,
    at: Moment,
}

impl Clock {
    /// From this time on.
    pub fn new(unix_s: u64, now: Instant) -> Self {
        Self { began: now, unix_s }
    }

    /// The time, seconds.
    pub fn unix_s(&self, now: Instant) -> u64 {
        self.unix_s + now.saturating_duration_since(self.began).as_secs()
    }
}

/// For the snapshots.
pub fn encode(secrets: &Secrets, clock: &Clock, now: Instant) -> Option<Bytes> {
    let saved = Saved {
        transactions: hex::encode(secrets.transactions),
        nonces: hex::encode(secrets.nonces),
        unix_s: clock.unix_s(now),
        at: Moment::now(),
    };
    snapshots::encode(KEY, VERSION, &saved).map(Bytes::from)
}

/// Reads them; `wall_unix_s` is the wall clock, for the case that nobody knows how long it was.
pub fn decode(bytes: &[u8], wall_unix_s: u64, now: Instant) -> Result<(Secrets, Clock), Unreadable> {
    let saved: Saved = snapshots::decode(KEY, &[VERSION], bytes)?;
    let secret = |text: &str| {
        let mut secret = [0; 16];
        let read = hex::decode_to_slice(text, &mut secret).map(|()| secret);
        read.map_err(|error| Unreadable::Damaged { kind: KEY, error: error.to_string() })
    };
    let secrets = Secrets { transactions: secret(&saved.transactions)?, nonces: secret(&saved.nonces)? };
    let unix_s = match saved.at.elapsed() {
        Some(elapsed) => saved.unix_s + elapsed.as_secs(),
        None => wall_unix_s.max(saved.unix_s),
    };
    Ok((secrets, Clock::new(unix_s, now)))
}

/// For the snapshots.
pub fn encode_nonces(nonces: &SavedNonces) -> Option<Bytes> {
    snapshots::encode(NONCES_KEY, VERSION, nonces).map(Bytes::from)
}

/// Reads them.
pub fn decode_nonces(bytes: &[u8]) -> Result<SavedNonces, Unreadable> {
    snapshots::decode(NONCES_KEY, &[VERSION], bytes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_clock_goes_on_over_a_restart_whatever_the_wall_clock_says() {
        let now = Instant::now();
        let secrets = Secrets { transactions: [1; 16], nonces: [2; 16] };
        let clock = Clock::new(1_000_000, now);
        let later = now + Duration::from_secs(50);
        let bytes = encode(&secrets, &clock, later).expect("json");
        for wall_unix_s in [0, 1_000_050 + 3_600, 1_000_050 - 3_600] {
            let (read, clock) = decode(&bytes, wall_unix_s, later).expect("readable");
            assert_eq!(read, secrets);
            let unix_s = clock.unix_s(later + Duration::from_secs(7));
            assert!((1_000_057..1_000_060).contains(&unix_s), "{unix_s}");
        }
        assert!(matches!(decode(b"{}", 0, now), Err(Unreadable::Damaged { .. })));
    }
}
