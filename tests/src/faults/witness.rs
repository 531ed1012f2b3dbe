//! A bystander that does next to nothing, as favoured as a dataplane: how long the host itself kept it waiting. What stalls
//! it stalls everybody, whatever Nebula does: a virtual machine that gives freed memory back to its host, for example, may
//! find its own pages gone for some 50 ms.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// It wakes as often as a turn of a busy dataplane.
const EVERY: Duration = Duration::from_millis(5);

/// As much memory as a dataplane touches for 500 calls.
const PAGES: usize = 1_000;
const PAGE_BYTES: usize = 4_096;

/// Runs until it is dropped.
pub struct Witness {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    worst_ns: AtomicU64,
    is_over: AtomicBool,
}

impl Witness {
    /// Starts one.
    pub fn start() -> Self {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        let thread = std::thread::spawn(move || watch(&theirs));
        Self { shared, thread: Some(thread) }
    }

    /// The longest that it had to wait since the last time it was asked, milliseconds.
    pub fn worst_ms(&self) -> f64 {
        self.shared.worst_ns.swap(0, Ordering::Relaxed) as f64 / 1e6
    }
}

fn watch(shared: &Shared) {
    crate::process::favour_thread(rustix::thread::gettid());
    let mut memory = vec![0_u8; PAGES * PAGE_BYTES];
    while !shared.is_over.load(Ordering::Relaxed) {
        let asleep = Instant::now();
        // Paced by the clock on purpose, as packets are.
        std::thread::sleep(EVERY);
        memory.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = byte.wrapping_add(1));
        std::hint::black_box(&mut memory);
        let late = asleep.elapsed().saturating_sub(EVERY);
        shared.worst_ns.fetch_max(late.as_nanos() as u64, Ordering::Relaxed);
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_question_begins_anew() {
        let witness = Witness::start();
        let deadline = Instant::now() + Duration::from_secs(10);
        while witness.shared.worst_ns.load(Ordering::Relaxed) == 0 {
            assert!(Instant::now() < deadline, "it never ran");
            std::thread::yield_now();
        }
        assert!(witness.worst_ms() > 0.0);
        drop(witness);
    }
}
