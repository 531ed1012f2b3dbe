//! Calls under SRTP between phones that protect with another implementation than the system's: every suite, two suites in one
//! call, one phone that protects and one that does not, rollover counters, and new keys.

use nebula_tests::faults::hold::Hold;
use nebula_tests::load::load;
use nebula_tests::system::System;
use nebula_tests::wait_for;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::time::Duration;

/// Two calls with this `--srtp`, and more arguments of `nebula-load call`'s: all that was said must be heard.
fn calls(system: &System, srtp: &str, arguments: &str) -> Value {
    let report = load(system, &format!("--calls 2 --rate 20 --duration-s 1 --srtp {srtp} {arguments}"));
    assert_eq!(report["established"], 2, "{srtp} {arguments}: {report:#}");
    for key in ["packets_lost", "packets_wrong", "packets_unauthentic", "indices_reused", "crossed"] {
        assert_eq!(report[key], 0, "{srtp} {arguments}: {key}: {report:#}");
    }
    // Fifty packets a second.
    assert!(report["packets_received"].as_u64() >= Some(90), "{srtp} {arguments}: {report:#}");
    report
}

fn start(srtp: &str) -> System {
    System::start_with(&[("NEBULA__MEDIA__SRTP", srtp)])
}

#[test]
fn under_each_suite() {
    let system = start("required");
    for suite in [
        "AES_CM_128_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
        "AES_256_CM_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_32",
        "AEAD_AES_128_GCM",
        "AEAD_AES_256_GCM",
    ] {
        calls(&system, suite, "");
    }
}

#[test]
fn from_one_suite_to_another() {
    let system = start("accepted");
    calls(&system, "AEAD_AES_256_GCM,AES_CM_128_HMAC_SHA1_32", "");
    calls(&system, "AES_256_CM_HMAC_SHA1_80,AEAD_AES_128_GCM", "");
}

#[test]
fn from_srtp_to_rtp_and_from_rtp_to_srtp() {
    let system = start("offered");
    calls(&system, "AES_CM_128_HMAC_SHA1_80,off", "");
    calls(&system, "off,AEAD_AES_128_GCM", "");
}

#[test]
fn the_echo_service_under_srtp() {
    let system = start("accepted");
    calls(&system, "AES_CM_128_HMAC_SHA1_80", "--to *43");
    calls(&system, "AEAD_AES_128_GCM", "--to *43");
}

#[test]
fn over_a_rollover_of_sequence_numbers() {
    let system = start("required");
    // The system moves what begins just below the wrap; what begins lower wraps on the way to the other phone as well.
    for (first, heard) in [("65500", 0), ("62535", 4)] {
        let numbers = format!("--first-sequence {first} --sequence-leap 2945 --duration-s 2.5");
        for suites in ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"] {
            let report = calls(&system, suites, &numbers);
            assert_eq!(report["rollovers"], heard, "{first}: {report:#}");
        }
    }
    // Without protection at the caller, and at the other one.
    let system = start("offered");
    let numbers = "--first-sequence 62535 --sequence-leap 2945 --duration-s 2.5";
    for suites in ["AEAD_AES_128_GCM,off", "off,AES_CM_128_HMAC_SHA1_80"] {
        assert_eq!(calls(&system, suites, numbers)["rollovers"], 2, "{suites}");
    }
}

const DEADLINE: Duration = Duration::from_secs(40);

/// Three calls, each phone with a suite of its own.
fn talk(system: &System) -> Hold {
    let mut hold = Hold::start(&[system.sip()], &["--srtp", "AEAD_AES_128_GCM,AES_CM_128_HMAC_SHA1_80"]);
    assert_eq!(hold.run("place 3 20", DEADLINE)["answered"], 3);
    hold
}

/// All phones of an end take new keys, and then their six ends hear each other for half a second.
fn rekey(hold: &mut Hold, end: &str) {
    let done = hold.run(&format!("rekey all {end}"), DEADLINE);
    assert_eq!((&done["asked"], &done["good"]), (&3.into(), &3.into()), "{end}: {done}");
    hear_more(hold);
}

fn hear_more(hold: &mut Hold) {
    let received = |hold: &mut Hold| hold.run("sums", DEADLINE)["packets_received"].as_u64().expect("a count");
    let before = received(hold);
    wait_for("packets under these keys", DEADLINE, || (received(hold) >= before + 150).then_some(()));
}

fn are_zero(hold: &mut Hold, keys: &[&str]) {
    let sums = hold.run("sums", DEADLINE);
    for key in keys {
        assert_eq!(sums[key], 0, "{key}: {sums:#}");
    }
}

#[test]
fn with_new_keys_while_they_talk() {
    let system = start("required");
    let mut hold = talk(&system);
    for end in ["caller", "callee", "caller"] {
        rekey(&mut hold, end);
    }
    assert_eq!(hold.run("bye all caller", DEADLINE)["good"], 3);
    are_zero(&mut hold, &["packets_lost", "packets_wrong", "packets_unauthentic", "indices_reused", "crossed"]);
    // Only phones took new ones.
    are_zero(&mut hold, &["keys_changed", "media_moved"]);
}

#[test]
fn new_keys_outlive_the_dataplane() {
    let mut system = start("required");
    let mut hold = talk(&system);
    rekey(&mut hold, "caller");
    rekey(&mut hold, "callee");
    let dataplane = system.dataplane_pid();
    kill_process(Pid::from_raw(dataplane).expect("a pid"), Signal::KILL).expect("killed");
    wait_for("another dataplane", DEADLINE, || {
        system.refresh();
        system.dataplane().filter(|pid| *pid != dataplane)
    });
    hear_more(&mut hold);
    // From here on nothing is lost any more, at any end.
    hold.run("mark", DEADLINE);
    rekey(&mut hold, "caller");
    are_zero(
        &mut hold,
        &["packets_lost", "packets_wrong", "packets_unauthentic", "indices_reused", "crossed", "keys_changed"],
    );
    are_zero(&mut hold, &["ssrc_changes", "media_moved", "hung_up_by_system"]);
}

#[test]
fn protection_that_is_missing_or_forbidden_is_refused() {
    let refused = |srtp: &str, phones: &str| {
        let system = start(srtp);
        let report = load(&system, &format!("--calls 1 --duration-s 1 {phones}"));
        assert_eq!(report["established"], 0, "{srtp} {phones}: {report:#}");
        assert_eq!(report["failed"]["488"], 1, "{srtp} {phones}: {report:#}");
    };
    refused("off", "--srtp AEAD_AES_128_GCM");
    refused("required", "");
    // Who is called has no suite of ours.
    refused("required", "--srtp AEAD_AES_128_GCM,off");
}
