//! Counter mode by VAES, up to sixteen blocks at once. `benches/srtp.rs` has what it saves.

use super::Job;
use crate::avx512::{Counter, apply_stream};

/// The packets one after another: the processor begins the next ones while the rounds of one wait for each other.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,vaes")]
pub(super) fn apply_many(jobs: &mut [Job<'_>]) {
    for job in jobs {
        let counter = Counter::new(&job.iv);
        match job.schedule.rounds() {
            10 => apply_stream::<10>(job.schedule, counter, job.data),
            _ => apply_stream::<14>(job.schedule, counter, job.data),
        }
    }
}
