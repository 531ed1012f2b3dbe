//! Roles as processes: each killed and started again, and a switchboard that stays away.

use super::super::fleet::Fleet;
use super::super::trial::{HEALED, Trial, unix_ms};
use super::super::{Form, Seen};
use super::{RECORDS_DEADLINE, tell_log};
use std::time::{Duration, Instant};

/// How long an instance counts as alive after its last sign of life, in these scenarios.
const LEASE_MS: &str = "3000";

/// After a lease has run out, calls of its owner work again within this.
const TAKE_OVER: Duration = Duration::from_secs(3);

/// `kill -9` of one role after the other, started again at once.
pub fn killed(form: &Form, seen: &mut Seen) {
    let mut fleet = Fleet::start(&["proxy", "switchboard", "media"], &[]);
    let mut trial = Trial::begin(form, &fleet.sip(), seen);
    // A short form has one of each.
    let rounds = if form.short { fleet.roles.len() } else { form.rounds };
    for round in 0..rounds {
        let victim = if form.short { round } else { trial.dice.below(fleet.roles.len()) };
        let name = fleet.roles[victim].role.to_owned();
        kill(&mut fleet, victim, &name, &mut trial);
    }
    trial.finish(|n| fleet.wait_for_records(n, RECORDS_DEADLINE));
    tell_log(seen, || fleet.logs());
}

/// A round: calls are up and others begin, one process is killed and started again at once.
fn kill(fleet: &mut Fleet, victim: usize, name: &str, trial: &mut Trial) {
    trial.mark();
    let trickle = trial.trickle(20, 40);
    std::thread::sleep(trial.dice.pause(400));
    let killed_at = unix_ms();
    fleet.kill(victim);
    fleet.launch(victim);
    trial.try_dialogs(killed_at, HEALED);
    fleet.ready(victim);
    let outcomes = trial.settle(trickle);
    trial.note_codes(&format!("when {name} was killed"), &outcomes);
    trial.judge(Some(trial.form.gap_ms_max()));
    trial.seen.rounds += 1;
    trial.place(trial.form.calls.saturating_sub(trial.live()));
}

/// Two of each role, with calls spread over both; one of them is killed at random and started again at once.
pub fn one_of_two_killed(form: &Form, seen: &mut Seen) {
    let mut fleet = Fleet::start(&["proxy", "proxy", "switchboard", "switchboard", "media", "media"], &[]);
    let mut trial = Trial::begin(form, &fleet.sip(), seen);
    for _ in 0..form.rounds {
        for media in fleet.all("media") {
            // Two streams a call; each has at least a tenth of them.
            let streams = fleet.metric_when(media, "nebula_media_streams", |streams| streams > 0.0);
            let all = 2.0 * trial.live() as f64;
            trial.seen.expect(streams >= all / 10.0, || format!("{streams} of {all} streams at one media agent"));
        }
        let victim = trial.dice.below(fleet.roles.len());
        let name = format!("{} {}", fleet.roles[victim].role, victim % 2 + 1);
        kill(&mut fleet, victim, &name, &mut trial);
    }
    trial.finish(|n| fleet.wait_for_records(n, RECORDS_DEADLINE));
    tell_log(seen, || fleet.logs());
}

/// One of two switchboards is killed and stays away: the other has its calls when its lease has run out.
pub fn gone_for_good(form: &Form, seen: &mut Seen) {
    let lease = Duration::from_millis(LEASE_MS.parse().expect("a number"));
    let environment = [("NEBULA__REDIS__LEASE_MS", LEASE_MS)];
    let mut fleet = Fleet::start(&["proxy", "switchboard", "switchboard", "media"], &environment);
    let mut trial = Trial::begin(form, &fleet.sip(), seen);
    for _ in 0..form.rounds {
        let switchboards = fleet.all("switchboard");
        let victim = trial.dice.pick(&switchboards);
        trial.mark();
        std::thread::sleep(trial.dice.pause(500));
        let killed = Instant::now();
        fleet.kill(victim);
        // Every call must have an owner again; those of the dead one are refused a change until then.
        let mut took = None;
        while took.is_none() && killed.elapsed() < lease + TAKE_OVER {
            took = trial.all_change().then(|| killed.elapsed());
        }
        let took = took.or_else(|| trial.all_change().then(|| killed.elapsed()));
        trial.seen.expect(took.is_some(), || format!("{:?} after it, some calls have no owner", killed.elapsed()));
        if let Some(took) = took {
            trial
                .seen
                .note(format!("all calls work again {:.1} s after the kill (lease {lease:?})", took.as_secs_f64()));
        }
        trial.try_dialogs(unix_ms(), HEALED);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.rounds += 1;
        let another = fleet.add("switchboard");
        fleet.launch(another);
        fleet.ready(another);
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| fleet.wait_for_records(n, RECORDS_DEADLINE));
    tell_log(seen, || fleet.logs());
}
