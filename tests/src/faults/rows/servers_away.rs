//! Redis and Postgres taken away from a fleet for a while.

use super::super::fleet::Fleet;
use super::super::servers::Away;
use super::super::trial::{HEALED, Trial, unix_ms};
use super::super::{Form, Seen};
use super::{RECORDS_DEADLINE, tell_log};
use serde_json::Value;
use std::time::{Duration, Instant};

/// After a server's return everything works again within this.
const BACK: Duration = Duration::from_secs(5);

/// A new call is refused within this when it can't be served.
const REFUSED_MS: f64 = 1_000.0;

/// So long after a registration it is surely in the cache: a place that was written to takes no reader's value for 2 s.
const CACHED: Duration = Duration::from_secs(4);

/// The rest of a time.
fn rest(since: Instant, whole: Duration) {
    std::thread::sleep(whole.saturating_sub(since.elapsed()));
}

/// The bus is gone, by turns frozen and killed with all that it held.
pub fn redis(form: &Form, seen: &mut Seen) {
    let mut fleet = Fleet::start(&["proxy", "switchboard", "media"], &[]);
    let mut trial = Trial::begin(form, &fleet.sip(), seen);
    let outage = form.outage(60, 8);
    for round in 0..form.rounds.max(2) {
        let how = [Away::Killed, Away::Frozen][round % 2];
        trial.mark();
        std::thread::sleep(trial.dice.pause(500));
        let left = Instant::now();
        fleet.redis.leave(how);
        let trickle = trial.trickle(10, 4);
        trial.hang_up(2);
        rest(left, outage);
        fleet.redis.come_back(how);
        let back_at = unix_ms();
        let outcomes = trial.settle(trickle);
        trial.note_codes(&format!("while Redis was {how:?}").to_lowercase(), &outcomes);
        for (code, outcome) in &outcomes {
            refused_at_once(trial.seen, *code, outcome);
        }
        trial.first_new_call(back_at, BACK);
        trial.try_dialogs(unix_ms(), HEALED);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    // A phone's BYE is answered meanwhile, and its switchboard told afterwards how long ago it was.
    trial.finish(|n| fleet.wait_for_records(n, RECORDS_DEADLINE));
    tell_log(seen, || fleet.logs());
}

/// Answered in the end, or told to come again, soon.
fn refused_at_once(seen: &mut Seen, code: u64, outcome: &Value) {
    let after_ms = outcome["final_unix_ms"].as_f64().unwrap_or(0.0) - outcome["sent_unix_ms"].as_f64().unwrap_or(0.0);
    let right = code == 200 || (code == 503 && !outcome["retry_after_s"].is_null() && after_ms <= REFUSED_MS);
    seen.expect(right, || format!("a new call meanwhile got {outcome} after {after_ms:.0} ms"));
}

/// The store is gone: calls to extensions that are known still work, and records wait.
pub fn postgres(form: &Form, seen: &mut Seen) {
    let mut fleet = Fleet::start(&["proxy", "switchboard", "media"], &[]);
    let mut trial = Trial::begin(form, &fleet.sip(), seen);
    let outage = form.outage(60, 8);
    // What was just written is not cached yet, by design; the extensions shall be known.
    std::thread::sleep(CACHED);
    for round in 0..form.rounds.max(2) {
        let how = [Away::Killed, Away::Frozen][round % 2];
        trial.mark();
        std::thread::sleep(trial.dice.pause(500));
        let left = Instant::now();
        fleet.postgres.leave(how);
        let trickle = trial.trickle(10, 4);
        trial.hang_up(5);
        trial.try_dialogs(unix_ms(), HEALED);
        let outcomes = trial.settle(trickle);
        trial.note_codes(&format!("while Postgres was {how:?}").to_lowercase(), &outcomes);
        let answered = outcomes.iter().filter(|(code, _)| *code == 200).count();
        trial.seen.expect(answered == outcomes.len(), || format!("{answered} of {} new calls worked", outcomes.len()));
        rest(left, outage);
        fleet.postgres.come_back(how);
        trial.try_dialogs(unix_ms(), HEALED);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| fleet.wait_for_records(n, RECORDS_DEADLINE));
    tell_log(seen, || fleet.logs());
}
