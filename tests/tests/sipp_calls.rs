//! SIPp as caller and as callee, through the whole system; every call leaves exactly one record that says what it was.

use nebula_tests::sipp::{Sipp, Transport};
use nebula_tests::system::System;
use serde_json::Value;
use std::time::Duration;

const RECORD_DEADLINE: Duration = Duration::from_secs(10);

/// The one record there is.
fn only_cdr(system: &System) -> Value {
    let cdrs = system.wait_for_cdrs(1, RECORD_DEADLINE);
    assert_eq!(cdrs.len(), 1, "one call, one record: {cdrs:#?}");
    cdrs.into_iter().next().expect("one")
}

fn millis(cdr: &Value, key: &str) -> i64 {
    cdr[key].as_i64().unwrap_or_else(|| panic!("{key} of {cdr:#}"))
}

#[track_caller]
fn ended(cdr: &Value, sip_code: i64, cause: &str, by: &str) {
    assert_eq!(cdr["sip_code"], sip_code, "{cdr:#}");
    assert_eq!(cdr["cause"], cause, "{cdr:#}");
    assert_eq!(cdr["ended_by"], by, "{cdr:#}");
}

fn basic_call(transport: Transport) {
    let system = System::start();
    let callee = Sipp::callee(&system, "callee", "1001", 1, transport);
    Sipp::caller(&system, "caller", "1000", "1001", 1, transport).succeeds();
    callee.succeeds();

    let cdr = only_cdr(&system);
    ended(&cdr, 200, "normal", "caller");
    assert_eq!((&cdr["from_user"], &cdr["to_user"]), (&Value::from("1000"), &Value::from("1001")));
    let (start, answer, end) =
        (millis(&cdr, "started_unix_ms"), millis(&cdr, "answered_unix_ms"), millis(&cdr, "ended_unix_ms"));
    assert!(start < answer && answer < end, "{cdr:#}");
    // The callee rings 100 ms, the caller talks 500 ms.
    assert!((100..2000).contains(&(answer - start)), "{cdr:#}");
    assert!((500..2500).contains(&millis(&cdr, "billed_ms")), "{cdr:#}");
}

#[test]
fn a_basic_call_over_udp() {
    basic_call(Transport::Udp);
}

#[test]
fn a_basic_call_over_tcp() {
    basic_call(Transport::Tcp);
}

#[test]
fn many_calls_to_one_extension_at_once() {
    let system = System::start();
    let callee = Sipp::callee(&system, "callee", "1001", 20, Transport::Udp);
    Sipp::caller(&system, "caller", "1000", "1001", 20, Transport::Udp).succeeds();
    callee.succeeds();
    let cdrs = system.wait_for_cdrs(20, RECORD_DEADLINE);
    assert_eq!(cdrs.len(), 20);
    cdrs.iter().for_each(|cdr| ended(cdr, 200, "normal", "caller"));
}

#[test]
fn the_caller_gives_up_while_the_phone_rings() {
    let system = System::start();
    let callee = Sipp::callee(&system, "callee_rings", "1001", 1, Transport::Udp);
    Sipp::caller(&system, "caller_cancel", "1000", "1001", 1, Transport::Udp).succeeds();
    callee.succeeds();
    let cdr = only_cdr(&system);
    ended(&cdr, 487, "cancelled", "caller");
    assert_eq!(cdr["answered_unix_ms"], Value::Null, "{cdr:#}");
    assert_eq!(millis(&cdr, "billed_ms"), 0);
}

#[test]
fn busy_and_decline_reach_the_caller() {
    for (scenario, code, cause) in [("callee_busy", 486, "busy"), ("callee_decline", 603, "rejected")] {
        let system = System::start();
        let callee = Sipp::callee(&system, scenario, "1001", 1, Transport::Udp);
        Sipp::refused(&system, "1000", "1001", code).succeeds();
        callee.succeeds();
        ended(&only_cdr(&system), code.into(), cause, "callee");
    }
}

#[test]
fn nobody_answers_in_the_configured_time() {
    let system = System::start_with(&[("NEBULA__CALLS__NO_ANSWER_TIMEOUT_S", "2")]);
    let callee = Sipp::callee(&system, "callee_rings", "1001", 1, Transport::Udp);
    Sipp::refused(&system, "1000", "1001", 480).succeeds();
    callee.succeeds();
    let cdr = only_cdr(&system);
    ended(&cdr, 480, "no_answer", "system");
    let rang = millis(&cdr, "ended_unix_ms") - millis(&cdr, "started_unix_ms");
    assert!((2000..4000).contains(&rang), "{cdr:#}");
}

#[test]
fn unknown_and_unregistered_numbers_are_refused() {
    let system = System::start();
    Sipp::refused(&system, "1000", "4711", 404).succeeds();
    Sipp::refused(&system, "1000", "*99", 404).succeeds();
    Sipp::refused(&system, "1000", "1005", 480).succeeds();
    // The first two were refused at the edge and are no calls; the third is one, and has its record.
    ended(&only_cdr(&system), 480, "unreachable", "system");
}

#[test]
fn hold_and_resume_pass_through() {
    let system = System::start();
    let callee = Sipp::callee(&system, "callee_held", "1001", 1, Transport::Udp);
    Sipp::caller(&system, "caller_hold", "1000", "1001", 1, Transport::Udp).succeeds();
    callee.succeeds();
    ended(&only_cdr(&system), 200, "normal", "caller");
}

#[test]
fn the_echo_service_answers() {
    let system = System::start();
    Sipp::caller(&system, "caller", "1000", "*43", 3, Transport::Udp).succeeds();
    let cdrs = system.wait_for_cdrs(3, RECORD_DEADLINE);
    assert_eq!(cdrs.len(), 3);
    cdrs.iter().for_each(|cdr| ended(cdr, 200, "normal", "caller"));
}
