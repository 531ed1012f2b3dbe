//! Whether the process has file descriptors left. Told by whoever failed to get one, and looked for once a second.
//!
//! While there are none, connections wait in the kernel's backlog and new calls are refused; what is open works on.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use rustix::io::Errno;

/// What is known of them; shared by all transports.
pub struct Descriptors {
    /// Relaxed everywhere: a hint, nothing is published through it.
    short: AtomicBool,
    missed: Counter,
    gauge: Gauge,
}

impl Descriptors {
    pub fn new() -> Self {
        describe_counter!("nebula_proxy_descriptors_missed_total", "file descriptors that could not be had");
        describe_gauge!("nebula_proxy_descriptors_short", "whether the process has no file descriptor left (0 or 1)");
        let short = AtomicBool::new(false);
        let missed = counter!("nebula_proxy_descriptors_missed_total");
        Self { short, missed, gauge: gauge!("nebula_proxy_descriptors_short") }
    }

    /// Whether there were none when they were last looked for.
    pub fn is_short(&self) -> bool {
        self.short.load(Ordering::Relaxed)
    }

    /// Looks whether one can be had.
    pub fn look(&self) {
        match File::open("/dev/null") {
            Ok(_) => self.set(false),
            Err(error) => drop(self.note(&error)),
        }
    }

    /// Says whether this error is for lack of descriptors, and notes it.
    pub fn note(&self, error: &io::Error) -> bool {
        let is_lack = matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE));
        if is_lack {
            self.missed.increment(1);
            self.set(true);
        }
        is_lack
    }

    /// One line when it begins and one when it ends.
    fn set(&self, short: bool) {
        if self.short.swap(short, Ordering::Relaxed) == short {
            return;
        }
        self.gauge.set(f64::from(u8::from(short)));
        if short {
            tracing::error!("no file descriptor left; new calls get 503 (raise LimitNOFILE, see `ulimit -n`)");
        } else {
            tracing::info!("file descriptors are there again");
        }
    }
}
