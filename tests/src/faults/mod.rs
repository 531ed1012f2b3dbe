//! The fault table: what dies, what is taken away, and what must be seen while calls are up with RTP both ways.
//!
//! A row is a scenario that takes a [`Form`] and tells what was [`Seen`]. The tests run each in a short form, `nebula-soak` in
//! the full one. A scenario doesn't panic at what the system does wrong: it goes on and tells all of it, so that a table can be
//! printed. It panics when it can't go on.

pub mod dice;
pub mod fleet;
pub mod hold;
pub mod records;
pub mod rows;
pub mod servers;
pub mod trial;
mod witness;

use dice::Dice;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// How a scenario is run.
#[derive(Debug, Clone)]
pub struct Form {
    /// Calls that are held.
    pub calls: usize,
    /// How often it happens.
    pub rounds: usize,
    /// What is thrown with.
    pub seed: u64,
    /// Packetization time of all calls.
    pub ptime_ms: u64,
    /// How long servers and the like are away, where it isn't the row's own.
    pub outage: Option<Duration>,
    /// Whether it is for `make test`.
    pub short: bool,
}

impl Form {
    /// For `make test`: 50 calls, one round.
    pub fn short() -> Self {
        let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let seed = seed.map_or(0, |since| since.as_nanos() as u64);
        Self { calls: 50, rounds: 1, seed, ptime_ms: 20, outage: None, short: true }
    }

    /// How long something is away: as demanded in full, shorter in a test.
    pub fn outage(&self, full_s: u64, short_s: u64) -> Duration {
        self.outage.unwrap_or(Duration::from_secs(if self.short { short_s } else { full_s }))
    }

    /// The longest gap between packets that is no harm: 60 ms with packets of 20 ms.
    pub fn gap_ms_max(&self) -> f64 {
        self.ptime_ms as f64 + 40.0
    }
}

/// What was seen of a row.
#[derive(Debug, Default)]
pub struct Seen {
    /// How often it happened.
    pub rounds: usize,
    /// Of calls held all the time, at both far ends.
    pub packets_lost: u64,
    /// The longest that any of them was without a packet.
    pub gap_ms: f64,
    /// The longest that the host kept a bystander waiting meanwhile.
    pub host_stall_ms: f64,
    /// The worst time from the fault (or from its end, see the row) to the first BYE or re-INVITE that was answered.
    pub first_answer_ms: Option<f64>,
    /// Records found once, of calls that were answered.
    pub records: (usize, usize),
    /// How far a record's time is from what the phones saw, at the worst.
    pub record_off_ms: f64,
    /// Calls that were in set-up when something was killed, and came twice or were ended by the system: told in a test's short
    /// form, a failure in the full one.
    pub setup_is_told: bool,
    /// What else is worth telling.
    pub notes: Vec<String>,
    /// What is not as demanded.
    pub failures: Vec<String>,
}

impl Seen {
    /// Something must be so.
    pub fn expect(&mut self, is_so: bool, else_it_is: impl FnOnce() -> String) {
        if !is_so {
            self.fail(else_it_is());
        }
    }

    /// Something must be so of calls that were in set-up when something was killed.
    pub fn expect_of_setup(&mut self, is_so: bool, else_it_is: impl FnOnce() -> String) {
        match (is_so, self.setup_is_told) {
            (true, _) => {}
            (false, true) => self.note(else_it_is()),
            (false, false) => self.fail(else_it_is()),
        }
    }

    /// Something isn't as demanded.
    pub fn fail(&mut self, why: String) {
        self.failures.push(why);
    }

    /// Worth telling.
    pub fn note(&mut self, what: impl Into<String>) {
        self.notes.push(what.into());
    }

    /// The first answer after a fault.
    pub fn answered_after(&mut self, ms: f64) {
        self.first_answer_ms = Some(self.first_answer_ms.map_or(ms, |worst| worst.max(ms)));
    }
}

/// A row of the table.
pub struct Row {
    /// Its short name, for `--row`.
    pub name: &'static str,
    /// As the table says it.
    pub fault: &'static str,
    /// The scenario.
    pub run: fn(&Form, &mut Seen),
}

/// All rows, in the order of the table.
pub const ROWS: &[Row] = &[
    Row { name: "control", fault: "kill -9 of nebula up, restarted by its supervisor", run: rows::control::killed },
    Row { name: "role", fault: "kill -9 of each single role", run: rows::roles::killed },
    Row { name: "pair", fault: "kill -9 of one of two of each role", run: rows::roles::one_of_two_killed },
    Row { name: "takeover", fault: "a switchboard gone for good, another one up", run: rows::roles::gone_for_good },
    Row { name: "dataplane", fault: "kill -9 of the dataplane", run: rows::control::dataplane_killed },
    Row {
        name: "srtp",
        fault: "kill -9 of the dataplane, all calls under SRTP",
        run: rows::control::dataplane_killed_under_srtp,
    },
    Row {
        name: "both",
        fault: "kill -9 of nebula up and the dataplane at once, all calls under SRTP",
        run: rows::control::both_killed_under_srtp,
    },
    Row { name: "redis", fault: "Redis gone", run: rows::servers_away::redis },
    Row { name: "postgres", fault: "Postgres gone", run: rows::servers_away::postgres },
    Row { name: "cut", fault: "control and dataplane cut off from each other", run: rows::control::cut_off },
    Row { name: "unclaimed", fault: "streams that nobody claims after a restart", run: rows::control::unclaimed },
    Row { name: "disk", fault: "disk full", run: rows::host::disk_full },
    Row { name: "clock", fault: "clock set 1 h forward or back", run: rows::host::clock_set },
    Row { name: "files", fault: "file descriptors exhausted", run: rows::host::descriptors_exhausted },
    Row { name: "slow", fault: "one client that reads its TCP slowly", run: rows::slow::reader },
];

/// Runs a row; a panic is one more failure.
pub fn run(row: &Row, form: &Form) -> Seen {
    let mut seen = Seen::default();
    let ran = catch_unwind(AssertUnwindSafe(|| (row.run)(form, &mut seen)));
    if let Err(panic) = ran {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        seen.fail(format!("gave up: {}", text.unwrap_or_else(|| "a panic".to_owned())));
    }
    seen
}

/// Runs a row in its short form, as a test.
#[track_caller]
pub fn test(name: &str) {
    let row = ROWS.iter().find(|row| row.name == name).expect("a row");
    let form = Form::short();
    eprintln!("{}: seed {}", row.fault, form.seed);
    let seen = run(row, &form);
    eprintln!("{seen:#?}");
    assert!(seen.failures.is_empty(), "{}: {:#?}", row.fault, seen.failures);
    assert!(seen.rounds > 0, "nothing happened");
}

/// A scenario's own chance.
fn dice(form: &Form) -> Dice {
    Dice::new(form.seed)
}
