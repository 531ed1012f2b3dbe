//! The scenarios, by what they break.

pub mod control;
pub mod host;
pub mod roles;
pub mod servers_away;
pub mod slow;

use super::Seen;
use std::time::Duration;

/// How long records may take to be written when all calls have ended.
const RECORDS_DEADLINE: Duration = Duration::from_secs(20);

/// Where something failed, what the system said about it.
fn tell_log(seen: &Seen, log: impl FnOnce() -> String) {
    if !seen.failures.is_empty() {
        let log = log();
        let whole = std::env::temp_dir().join(format!("nebula-fault-{}-{}.log", std::process::id(), log.len()));
        match std::fs::write(&whole, &log) {
            Ok(()) => eprintln!("--- all that the system said: {}", whole.display()),
            Err(e) => eprintln!("--- {}: {e}", whole.display()),
        }
        let from = log.len().saturating_sub(LOG_BYTES_MAX);
        let from = (from..log.len()).find(|at| log.is_char_boundary(*at)).unwrap_or(0);
        eprintln!("--- {:#?}\n--- what the system said\n{}", seen.failures, &log[from..]);
    }
}

/// The last of it is enough.
const LOG_BYTES_MAX: usize = 16_384;
