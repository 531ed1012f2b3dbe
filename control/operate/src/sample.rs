//! A look at the whole segment: header, workers, streams. It costs the dataplane nothing, since its memory is only read.

use nebula_ring::StreamRecord;
use nebula_ring::attach::{self, observe};
use nebula_ring::segment::{Counter, Observed, Waiting};
use std::path::{Path, PathBuf};

/// Why there is nothing to be seen.
#[derive(Debug, thiserror::Error)]
#[error("{why}{}", hint(why))]
pub struct Unobservable {
    /// Where the dataplane should be.
    pub socket: PathBuf,
    /// What happened instead.
    pub why: attach::Error,
}

fn hint(why: &attach::Error) -> &'static str {
    match why {
        attach::Error::Unreachable { .. } => {
            "; is it running? --state or --socket says where, and root or its own user may look"
        }
        attach::Error::Version { .. } => "; use the nebula that is installed beside it",
        _ => "",
    }
}

/// Opens a dataplane's segment for reading.
pub fn open(socket: &Path) -> Result<Observed, Unobservable> {
    observe(socket).map_err(|why| Unobservable { socket: socket.into(), why })
}

/// What was seen at one moment.
#[derive(Debug, Clone)]
pub struct Sample {
    /// CLOCK_MONOTONIC, as all times of the segment.
    pub at_ms: u64,
    /// The dataplane's process.
    pub pid: u32,
    /// When it started, Unix time.
    pub started_at_unix_ms: u64,
    /// How often control has attached.
    pub epoch: u64,
    /// By index.
    pub workers: Vec<Worker>,
    /// Streams alive, each with its worker.
    pub streams: Vec<(usize, StreamRecord)>,
}

/// A worker's figures.
#[derive(Debug, Clone, Copy)]
pub struct Worker {
    /// By `Counter as usize`.
    pub counters: [u64; Counter::ALL.len()],
    /// When it last finished a turn.
    pub heartbeat_ms: u64,
    /// What waits in its rings.
    pub waiting: Waiting,
}

impl Worker {
    /// One of its counters.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }
}

impl Sample {
    /// Looks.
    pub fn take(observed: &Observed) -> Self {
        let at_ms = now_ms();
        let workers = 0..observed.sizes().workers;
        let worker = |index: usize| Worker {
            counters: Counter::ALL.map(|counter| observed.counter(index, counter)),
            heartbeat_ms: observed.heartbeat_ms(index),
            waiting: observed.waiting(index),
        };
        Self {
            at_ms,
            pid: observed.pid(),
            started_at_unix_ms: observed.started_at_unix_ms(),
            epoch: observed.epoch(),
            workers: workers.clone().map(worker).collect(),
            streams: workers.flat_map(|index| observed.streams(index).map(move |record| (index, record))).collect(),
        }
    }
}

/// CLOCK_MONOTONIC in milliseconds.
pub fn now_ms() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1000 + time.tv_nsec as u64 / 1_000_000
}
