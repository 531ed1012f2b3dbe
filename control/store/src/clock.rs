//! A wall clock that nobody sets.

use crate::store::now_unix_ms;
use std::sync::OnceLock;
use std::time::Instant;

/// The wall clock as this process found it at its first look, gone on with monotonic time since: what a binding's end is
/// reckoned by, so that none ends early or late because somebody sets the clock of a running system.
pub fn steady_unix_ms() -> i64 {
    static FIRST_LOOK: OnceLock<(Instant, i64)> = OnceLock::new();
    let (then, unix_ms) = FIRST_LOOK.get_or_init(|| (Instant::now(), now_unix_ms()));
    unix_ms.saturating_add(then.elapsed().as_millis().try_into().unwrap_or(i64::MAX))
}
