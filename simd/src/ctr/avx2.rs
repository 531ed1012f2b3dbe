//! Counter mode by AES-NI, up to eight blocks at once. `benches/srtp.rs` has what it saves.

use super::Job;
use crate::avx2::{Counter, apply_stream};

/// The packets one after another: the processor begins the next ones while the rounds of one wait for each other.
#[target_feature(enable = "avx2,aes")]
pub(super) fn apply_many(jobs: &mut [Job<'_>]) {
    for job in jobs {
        let counter = Counter::new(&job.iv);
        match job.schedule.rounds() {
            10 => apply_stream::<10>(job.schedule, counter, job.data),
            _ => apply_stream::<14>(job.schedule, counter, job.data),
        }
    }
}
