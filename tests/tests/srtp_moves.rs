//! Streams of protected calls that move between workers while their phones talk: an operator bridges legs of two calls, which live
//! with different workers, and brings them home again.

use nebula_tests::faults::hold::Hold;
use nebula_tests::system::System;
use nebula_tests::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(40);
/// How often the legs go there and back.
const ROUNDS: usize = 5;

/// The streams of a call: its caller's and its callee's.
type Legs = [String; 2];

fn legs(system: &System) -> Vec<Legs> {
    let calls = system.rpc("switchboard", "call.list", json!({ "limit": 0 }));
    let stream = |id: &Value| id.as_str().expect("an id").to_owned();
    let streams = |call: &Value| call["streams"].as_array().expect("streams").iter().map(stream).collect::<Vec<_>>();
    calls.as_array().expect("calls").iter().map(|call| streams(call).try_into().expect("two legs")).collect()
}

/// The second moves to the worker of the first, and they hear each other.
fn bridge(system: &System, a: &str, b: &str) {
    system.rpc("media", "bridge.create", json!({ "a": a, "b": b }));
}

/// Half a second of packets at all four ends.
fn hear_more(hold: &mut Hold) {
    let received = |hold: &mut Hold| hold.run("sums", DEADLINE)["packets_received"].as_u64().expect("a count");
    let before = received(hold);
    wait_for("packets under the same keys", DEADLINE, || (received(hold) >= before + 100).then_some(()));
}

fn are_zero(sums: &Value, keys: &[&str]) {
    for key in keys {
        assert_eq!(sums[key], 0, "{key}: {sums:#}");
    }
}

#[test]
fn legs_of_two_calls_that_meet_and_part_keep_keys_and_numbers() {
    let system = System::start_with(&[("NEBULA__MEDIA__SRTP", "required"), ("NEBULA__TUNING__CORES", "[0, 0]")]);
    // Rollover counters go on as well, where the numbers are low enough to be passed on as they are.
    let numbers = ["--first-sequence", "62480,62535", "--sequence-leap", "2940"];
    let phones = [&["--srtp", "AEAD_AES_128_GCM,AES_CM_128_HMAC_SHA1_80"][..], &numbers].concat();
    let mut hold = Hold::start(&[system.sip()], &phones);
    assert_eq!(hold.run("place 2 20", DEADLINE)["answered"], 2);
    // A phone takes whom it hears first for its peer.
    wait_for("packets at each end", DEADLINE, || {
        let report = hold.run("report", DEADLINE);
        let mut ends = report["calls"].as_array()?.iter().flat_map(|call| [&call["caller"], &call["callee"]]);
        ends.all(|end| end["received"].as_u64() > Some(0)).then_some(())
    });
    let calls = legs(&system);
    let [one, two] = &calls[..] else { panic!("{calls:?}") };
    for _ in 0..ROUNDS {
        bridge(&system, &one[0], &two[0]);
        // The parted legs hear nothing meanwhile, and the others a stranger.
        bridge(&system, &two[1], &two[0]);
        bridge(&system, &one[0], &one[1]);
        hear_more(&mut hold);
    }
    let sums = hold.run("sums", DEADLINE);
    are_zero(&sums, &["packets_unauthentic", "indices_reused", "ssrc_changes", "keys_changed", "media_moved"]);
    // Home again, nothing of it is left.
    hold.run("mark", DEADLINE);
    hear_more(&mut hold);
    assert_eq!(hold.run("bye all caller", DEADLINE)["good"], 2);
    let sums = hold.run("sums", DEADLINE);
    are_zero(&sums, &["packets_lost", "packets_unauthentic", "indices_reused", "keys_changed", "hung_up_by_system"]);
    assert!(sums["rollovers"].as_u64() > Some(0), "a rollover counter went on: {sums:#}");
}
