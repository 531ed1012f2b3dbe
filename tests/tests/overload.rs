//! A whole system whose workers have too much to do: new calls are refused with 503 and Retry-After, those that are up lose nothing,
//! and as soon as one worker is calm again new calls go there and nowhere else.
//!
//! The threshold is so low that sixteen calls with short packets are too much for a worker, and none is not.

use nebula_tests::faults::hold::Hold;
use nebula_tests::process::{binary, favour};
use nebula_tests::system::{System, run};
use nebula_tests::wait_for;
use serde_json::Value;
use std::collections::BTreeMap;
use std::process::Command;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(40);
const CALLS: usize = 32;

/// What `nebula top` sees: whether each worker is overloaded, and the streams of each by their ids.
fn look(system: &System) -> (Vec<bool>, Vec<Vec<String>>) {
    let mut command = Command::new(binary("nebula"));
    command.args(["top", "--json", "--interval-ms", "100", "--state"]).arg(system.state());
    let (status, out, err) = run(command);
    assert!(status.success(), "{err}");
    let view: Value = serde_json::from_str(&out).expect("JSON");
    let workers = view["workers"].as_array().expect("workers");
    let overloaded: Vec<bool> = workers.iter().map(|worker| worker["overloaded"] == true).collect();
    let mut streams = vec![Vec::new(); overloaded.len()];
    for stream in view["streams"].as_array().expect("streams") {
        let worker = stream["worker"].as_u64().expect("a worker") as usize;
        streams[worker].push(stream["id"].as_str().expect("an id").to_owned());
    }
    streams.iter_mut().for_each(|streams| streams.sort());
    (overloaded, streams)
}

/// Two cores that we may use, or the only one twice.
fn cores() -> String {
    let status = std::fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).expect("a line");
    let numbers: Vec<&str> = line.trim().split([',', '-']).collect();
    format!("[{}, {}]", numbers[0], numbers[numbers.len() - 1])
}

/// Places one call: its code, and how long its caller was told to wait.
fn place_one(phones: &mut Hold) -> (u64, Option<u64>) {
    let before = phones.events("call").len();
    phones.run("place 1 50", DEADLINE);
    let outcome = phones.events("call")[before]["outcome"].clone();
    (outcome["code"].as_u64().expect("a code"), outcome["retry_after_s"].as_u64())
}

#[test]
fn overloaded_workers_get_no_new_calls_and_lose_nothing_of_those_they_have() {
    let system = System::start_with(&[
        ("NEBULA__TUNING__CORES", &cores()),
        ("NEBULA__TUNING__STREAMS_MAX", "512"),
        ("NEBULA__TUNING__OVERLOAD_CPU_PERMILLE", "4"),
        // A host that is busy with other tests is none of this.
        ("NEBULA__TUNING__OVERLOAD_LATENESS_US", "10000000"),
    ]);
    favour(system.dataplane_pid());
    let mut phones = Hold::start(&[system.sip()], &["--ptime-ms", "10"]);
    let placed = phones.run(&format!("place {CALLS} 200"), DEADLINE);
    assert!(placed["answered"].as_u64() >= Some(CALLS as u64 * 3 / 4), "{placed}");
    let both = |wanted: [bool; 2]| {
        wait_for(&format!("overload {wanted:?}"), DEADLINE, || {
            let (overloaded, streams) = look(&system);
            (overloaded == wanted).then_some(streams)
        })
    };
    let streams = both([true, true]);
    assert!(streams.iter().all(|streams| streams.len() >= CALLS / 2), "spread over both: {streams:?}");

    phones.run("mark", DEADLINE);
    // The agent hears of it a moment after the table shows it.
    let retry_after_s = wait_for("a refusal", DEADLINE, || match place_one(&mut phones) {
        (503, retry_after_s) => Some(retry_after_s),
        (code, _) => {
            assert_eq!(code, 200);
            None
        }
    });
    assert!(retry_after_s >= Some(1), "Retry-After: {retry_after_s:?}");

    // All calls of one worker end: the other has as much to do as before.
    let calls: Vec<Value> = system.get("/v1.0/calls?limit=1000").as_array().expect("calls").clone();
    let of_second = |call: &&Value| {
        let ids = call["streams"].as_array().expect("streams");
        ids.iter().any(|id| streams[1].iter().any(|stream| id == stream.as_str()))
    };
    let ended: BTreeMap<&str, ()> =
        calls.iter().filter(of_second).map(|call| (call["call_id"].as_str().expect("an id"), ())).collect();
    assert!(ended.len() >= CALLS / 4, "{ended:?}");
    for id in ended.keys() {
        ureq::delete(format!("http://{}/v1.0/calls/{id}", system.address("http"))).call().expect("ended");
    }
    let before = both([true, false]);
    let (code, _) = wait_for("a call", DEADLINE, || Some(place_one(&mut phones)).filter(|(code, _)| *code != 503));
    assert_eq!(code, 200);
    let after = wait_for("its streams", DEADLINE, || {
        let (_, streams) = look(&system);
        (streams[1].len() == before[1].len() + 2).then_some(streams)
    });
    assert_eq!(after[0], before[0], "nothing new where there is too much to do");

    let sums = phones.run("sums", DEADLINE);
    for key in ["packets_lost", "packets_wrong", "crossed", "ssrc_changes", "sequence_breaks"] {
        assert_eq!(sums[key], 0, "{key}: {sums:#}");
    }
    assert!(sums["up"].as_u64() >= Some(CALLS as u64 / 4), "{sums:#}");
}
