//! The clocks of the shell. What is measured and waited for is monotonic and the host's own, so that it goes on for a call
//! that another process takes up; the wall clock is only written into records.

use std::time::Duration;

use nebula_store::now_unix_ms;
use rustix::time::{ClockId, clock_gettime};
use tokio::time::Instant;

use crate::call::Now;

/// Our monotonic clock begins here (35 years), so that moments of a call that began before this host did have a number.
const EPOCH_MS: u64 = 1 << 40;

/// Now, on both clocks.
pub(super) fn now() -> Now {
    Now { monotonic_ms: monotonic_ms(), unix_ms: now_unix_ms() }
}

/// Since the host booted, suspended times included.
pub(super) fn monotonic_ms() -> u64 {
    let at = clock_gettime(ClockId::Boottime);
    let since_boot = u64::try_from(at.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000_000;
    EPOCH_MS + since_boot
}

/// When a monotonic moment is, for the runtime's timers. Rounded up: a timer that fires a moment early fires again.
pub(super) fn instant(at_ms: u64) -> Instant {
    Instant::now() + Duration::from_millis((at_ms + 1).saturating_sub(monotonic_ms()))
}
