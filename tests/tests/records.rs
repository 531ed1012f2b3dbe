//! Every call leaves exactly one record, whatever becomes of it, and the record tells what the phones saw.

use nebula_tests::load::{Load, load};
use nebula_tests::sipp::{Sipp, Transport};
use nebula_tests::system::System;
use serde_json::Value;
use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

const RECORD_DEADLINE: Duration = Duration::from_secs(10);

fn number(value: &Value, key: &str) -> i64 {
    value[key].as_i64().unwrap_or_else(|| panic!("{key} of {value:#}"))
}

/// What must hold of any record.
#[track_caller]
fn sound(cdr: &Value) {
    let (start, end) = (number(cdr, "started_unix_ms"), number(cdr, "ended_unix_ms"));
    let answer = cdr["answered_unix_ms"].as_i64();
    assert!(start <= answer.unwrap_or(start) && answer.unwrap_or(start) <= end, "{cdr:#}");
    assert_eq!(number(cdr, "duration_ms"), end - start, "{cdr:#}");
    assert_eq!(number(cdr, "billed_ms"), answer.map_or(0, |answer| end - answer), "{cdr:#}");
}

#[test]
fn two_hundred_calls_of_many_outcomes_leave_two_hundred_records() {
    let system = System::start();
    let busy = Sipp::callee(&system, "callee_busy", "1003", 10, Transport::Udp);
    let rings = Sipp::callee(&system, "callee_rings", "1004", 10, Transport::Udp);
    let talk = Load::start(&system, "--to 1001 --calls 100 --rate 50 --duration-s 0.5");
    let echo = Load::start_with(
        &system,
        "1002",
        nebula_tests::system::PASSWORD,
        "--to *43 --calls 80 --rate 50 --duration-s 0.5",
    );
    let cancelled = Sipp::caller(&system, "caller_cancel", "1005", "1004", 10, Transport::Udp);
    let refused: Vec<Sipp> = (0..10).map(|_| Sipp::refused(&system, "1006", "1003", 486)).collect();
    for sipp in refused.into_iter().chain([cancelled, busy, rings]) {
        sipp.succeeds();
    }
    for (report, calls) in [(talk.report(), 100), (echo.report(), 80)] {
        assert_eq!(report["established"], calls, "{report:#}");
    }

    let cdrs = system.wait_for_cdrs(200, RECORD_DEADLINE);
    assert_eq!(cdrs.len(), 200);
    let ids: HashSet<&str> = cdrs.iter().filter_map(|cdr| cdr["call_id"].as_str()).collect();
    assert_eq!(ids.len(), 200, "one record each");
    let mut causes = BTreeMap::new();
    for cdr in &cdrs {
        sound(cdr);
        *causes.entry(cdr["cause"].as_str().expect("a cause")).or_insert(0) += 1;
    }
    assert_eq!(causes, BTreeMap::from([("busy", 10), ("cancelled", 10), ("normal", 180)]));
}

#[test]
fn the_legs_of_the_records_add_up_to_what_the_phones_sent_and_got() {
    let system = System::start();
    let report = load(&system, "--to 1001 --calls 10 --rate 50 --duration-s 1");
    assert_eq!((&report["established"], &report["packets_lost"]), (&10.into(), &0.into()), "{report:#}");
    let cdrs = system.wait_for_cdrs(10, RECORD_DEADLINE);
    let legs: Vec<&Value> = cdrs.iter().flat_map(|cdr| cdr["legs"].as_array().expect("legs")).collect();
    assert_eq!(legs.len(), 20, "{:#}", cdrs[0]);
    let sum = |key: &str| legs.iter().map(|leg| number(&leg["stats"], key)).sum::<i64>();
    let sent = number(&report, "packets_sent");
    // What the called end sent while the BYE travelled may not have come any more.
    let cut_off_max = 10 * 15;
    assert!((sent - cut_off_max..=sent).contains(&sum("packets_received")), "{} of {sent}", sum("packets_received"));
    assert!(sum("packets_sent") >= number(&report, "packets_received"), "{report:#}");
    assert_eq!(sum("packets_sent"), sum("packets_received"), "a relay sends what it gets");
    assert_eq!(sum("bytes_received"), sum("packets_received") * 172, "PCMU of 20 ms");
    assert_eq!((sum("packets_lost"), sum("packets_duplicated"), sum("packets_reordered")), (0, 0, 0));
}
