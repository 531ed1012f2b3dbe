//! One process for all of control: killed, killed twice, frozen, started without its memory; and its dataplane killed.

use super::super::trial::{Continuity, HEALED, Trial, unix_ms};
use super::super::{Form, Seen, dice};
use super::{RECORDS_DEADLINE, tell_log};
use crate::process::favour;
use crate::system::System;
use crate::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use std::time::Duration;

/// Media of a dataplane that was killed flows again within this, and packets of the usual distance.
const DATAPLANE_BACK_MS: f64 = 1_000.0;

/// `kill -9` of `nebula up`, started again at once; and once more as soon as it is up.
pub fn killed(form: &Form, seen: &mut Seen) {
    let mut system = System::start();
    favour(system.dataplane_pid());
    let sip = system.sip();
    let mut trial = Trial::begin(form, &[sip], seen);
    for round in 0..form.rounds {
        trial.mark();
        let trickle = trial.trickle(20, 40);
        std::thread::sleep(trial.dice.pause(400));
        let mut up_after_ms = Vec::new();
        for twice in [false, true] {
            std::thread::scope(|scope| {
                let mut killed_at = unix_ms();
                system.kill();
                if twice {
                    system.restart(&[]);
                    killed_at = unix_ms();
                    system.kill();
                }
                let system = &mut system;
                let supervisor = scope.spawn(move || {
                    system.restart(&[]);
                    unix_ms()
                });
                trial.try_dialogs(killed_at, HEALED);
                up_after_ms.push(supervisor.join().expect("the supervisor") - killed_at);
            });
        }
        let outcomes = trial.settle(trickle);
        trial.note_codes("around the kill", &outcomes);
        trial.judge(Some(form.gap_ms_max()));
        trial.seen.expect(system.sip() == sip, || format!("the port moved to {}", system.sip()));
        trial.seen.note(format!("round {round}: up again after {:.0} and {:.0} ms", up_after_ms[0], up_after_ms[1]));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
}

/// `kill -9` of the dataplane: the supervisor starts another, and streams go on in it.
pub fn dataplane_killed(form: &Form, seen: &mut Seen) {
    dataplanes_killed(form, &[], &[], seen);
}

/// What the phones may protect with: one for all callers, and one for all that are called.
const SUITES: [&str; 6] = [
    "AES_CM_128_HMAC_SHA1_80",
    "AES_CM_128_HMAC_SHA1_32",
    "AES_256_CM_HMAC_SHA1_80",
    "AES_256_CM_HMAC_SHA1_32",
    "AEAD_AES_128_GCM",
    "AEAD_AES_256_GCM",
];

/// Numbers with which rollover counters go on in the moments around a first kill: that of what the phones send, and, where the first
/// number is low enough for the system to pass it on as it is (RFC 3550 A.1's 3,000 below the wrap), of what they hear.
const AROUND_THE_WRAP: [&str; 4] = ["--first-sequence", "65480,62535,65430,62480", "--sequence-leap", "2940"];

/// The same with protected media: keys, rollover counters and indices outlive the dataplane, too. No packet may come that the
/// key doesn't authenticate, or under an index that another one had: that would be a nonce that was used twice.
pub fn dataplane_killed_under_srtp(form: &Form, seen: &mut Seen) {
    let mut dice = dice(form);
    let srtp = format!("{},{}", dice.pick(&SUITES), dice.pick(&SUITES));
    let phones = [&["--srtp", &srtp][..], &AROUND_THE_WRAP].concat();
    let rollovers = dataplanes_killed(form, &[("NEBULA__MEDIA__SRTP", "required")], &phones, seen);
    seen.expect(rollovers > 0, || "no rollover counter went on".to_owned());
    seen.note(format!("suites {srtp}, {rollovers} rollover counters went on"));
}

/// Either, with a system and phones that were told so; how often phones heard a rollover counter go on.
fn dataplanes_killed(form: &Form, environment: &[(&str, &str)], phones: &[&str], seen: &mut Seen) -> u64 {
    let mut system = System::start_with(environment);
    let mut trial = Trial::begin_with(form, &[system.sip()], phones, seen);
    let echoes = trial.form.calls.div_ceil(10);
    trial.place_at(echoes, "*43");
    let before = system.metric("nebula_dataplane_restarts_total");
    for round in 0..form.rounds {
        trial.mark();
        std::thread::sleep(trial.dice.pause(500));
        let killed_at = unix_ms();
        let dataplane = system.dataplane_pid();
        kill_process(Pid::from_raw(dataplane).expect("a pid"), Signal::KILL).expect("killed");
        wait_for("another dataplane", Duration::from_secs(5), || {
            system.refresh();
            system.dataplane().filter(|pid| *pid != dataplane)
        });
        favour(system.dataplane_pid());
        trial.try_dialogs(killed_at, HEALED);
        let (lost, gap_ms) = trial.interrupted();
        trial.seen.expect(gap_ms <= DATAPLANE_BACK_MS + form.ptime_ms as f64, || {
            format!("media was back after {gap_ms:.0} ms, at most {DATAPLANE_BACK_MS:.0}")
        });
        trial.seen.note(format!("round {round}: {lost} packets lost, the longest gap {gap_ms:.0} ms"));
        let metric = system.metric("nebula_dataplane_restarts_total") - before;
        trial.seen.expect(metric as usize == round + 1, || format!("the metric of restarts says {metric}"));
        trial.seen.rounds += 1;
        let missing = (form.calls + echoes).saturating_sub(trial.live());
        trial.place(missing);
    }
    let continuity = trial.continuity();
    trial.seen.expect(continuity.ssrc_changes == 0, || format!("{} SSRCs changed", continuity.ssrc_changes));
    trial.seen.expect(continuity.went_back == 0, || format!("{} sequence numbers went back", continuity.went_back));
    trial.seen.note(format!("sequence numbers went ahead by at most {} more than was lost", continuity.ahead_max));
    let log = system.log();
    for event in ["dataplane.lost", "dataplane.back"] {
        trial.seen.expect(log.contains(event), || format!("no event {event} was told"));
    }
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
    continuity.rollovers
}

/// Control and dataplane at once: streams are made again from what was kept of them some time ago. Nobody knows how many indices
/// were used since, so their sources go on under other names; no index may come twice, and nothing that phones cannot read.
pub fn both_killed_under_srtp(form: &Form, seen: &mut Seen) {
    let mut dice = dice(form);
    let srtp = format!("{},{}", dice.pick(&SUITES), dice.pick(&SUITES));
    let phones = [&["--srtp", &srtp][..], &AROUND_THE_WRAP].concat();
    let environment = [("NEBULA__MEDIA__SRTP", "required")];
    let mut system = System::start_with(&environment);
    favour(system.dataplane_pid());
    let mut trial = Trial::begin_with(form, &[system.sip()], &phones, seen);
    for round in 0..form.rounds {
        trial.mark();
        std::thread::sleep(trial.dice.pause(500));
        let killed_at = unix_ms();
        // In this order: control would read what a dead dataplane leaves.
        let dataplane = Pid::from_raw(system.dataplane_pid()).expect("a pid");
        system.kill();
        kill_process(dataplane, Signal::KILL).expect("killed");
        std::thread::scope(|scope| {
            let system = &mut system;
            scope.spawn(move || system.restart(&environment));
            trial.try_dialogs(killed_at, HEALED);
        });
        favour(system.dataplane_pid());
        let (lost, gap_ms) = trial.interrupted();
        trial.seen.note(format!("round {round}: {lost} packets lost, the longest gap {gap_ms:.0} ms"));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    let Continuity { ssrc_changes, .. } = trial.continuity();
    trial.seen.expect(ssrc_changes > 0, || "all sources kept their names".to_owned());
    trial.seen.note(format!("suites {srtp}, {ssrc_changes} times a phone heard another name"));
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
}

/// Control frozen: the dataplane hears nothing of it, and it nothing of the dataplane.
pub fn cut_off(form: &Form, seen: &mut Seen) {
    let system = System::start();
    favour(system.dataplane_pid());
    let mut trial = Trial::begin(form, &[system.sip()], seen);
    for _ in 0..form.rounds {
        trial.mark();
        let trickle = trial.trickle(10, 20);
        std::thread::sleep(trial.dice.pause(400));
        system.signal(Signal::STOP);
        std::thread::sleep(form.outage(30, 6));
        system.signal(Signal::CONT);
        let back_at = unix_ms();
        trial.try_dialogs(back_at, HEALED);
        let outcomes = trial.settle(trickle);
        trial.note_codes("around the freeze", &outcomes);
        trial.judge(Some(form.gap_ms_max()));
        one_owner_each(&mut trial, || system.metric("nebula_media_streams"));
        trial.seen.rounds += 1;
        trial.place(form.calls.saturating_sub(trial.live()));
    }
    trial.finish(|n| system.wait_for_cdrs(n, RECORDS_DEADLINE));
    tell_log(seen, || system.log());
}

/// How often the media agent counts them.
const SWEEP: Duration = Duration::from_secs(5);

/// Two streams a call, no more: none is owned twice, none is forgotten.
fn one_owner_each(trial: &mut Trial<'_>, streams: impl Fn() -> f64) {
    let wanted = 2.0 * trial.live() as f64;
    let end = std::time::Instant::now() + 2 * SWEEP;
    while streams() != wanted && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let there = streams();
    trial.seen.expect(there == wanted, || format!("{there} streams, {wanted} are in use"));
}

/// Started again without its snapshots: streams that nobody claims flow as long as the phones talk, and are closed after
/// their grace time.
pub fn unclaimed(form: &Form, seen: &mut Seen) {
    let environment = [("NEBULA__MEDIA__UNCLAIMED_SILENCE_S", "2")];
    let mut system = System::start_with(&environment);
    favour(system.dataplane_pid());
    let mut trial = Trial::begin(form, &[system.sip()], seen);
    trial.mark();
    system.kill();
    for file in ["snapshots.db", "snapshots.db-wal", "snapshots.db-shm"] {
        // Those that are there.
        std::fs::remove_file(system.state().join(file)).ok();
    }
    system.restart(&environment);
    // The calls are closed for good, in the records; what the phones send flows on all the same.
    let calls = trial.live();
    let cdrs = system.wait_for_cdrs(calls, RECORDS_DEADLINE);
    trial.judge(Some(form.gap_ms_max()));
    one_owner_each(&mut trial, || system.metric("nebula_media_streams"));
    drop(trial);
    // The phones are gone, and with them their packets.
    let end = std::time::Instant::now() + Duration::from_secs(15);
    while system.metric("nebula_media_streams") > 0.0 && std::time::Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    let left = system.metric("nebula_media_streams");
    seen.expect(left == 0.0, || format!("{left} streams are left"));
    let ids: std::collections::HashSet<&str> = cdrs.iter().filter_map(|cdr| cdr["call_id"].as_str()).collect();
    seen.records = (ids.len(), calls);
    seen.expect((cdrs.len(), ids.len()) == (calls, calls), || format!("{} records of {calls} calls", cdrs.len()));
    let crashed = cdrs.iter().filter(|cdr| cdr["cause"] == "crash").count();
    seen.expect(crashed == calls, || format!("{crashed} of {calls} records say that the call crashed"));
    seen.rounds += 1;
    tell_log(seen, || system.log());
}
