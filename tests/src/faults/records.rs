//! Call records held against what the phones saw.
//!
//! A phone cannot see the moment at which the system takes a call for answered or ended; it sees what comes before and
//! after it. An answer lies between the called phone's 200 and its arrival at the caller; an end between a phone's BYE and
//! its answer. A record is right if it lies between, give or take `TOLERANCE_MS`.

use super::Seen;
use serde_json::Value;
use std::collections::HashMap;

/// Records are whole milliseconds of two clocks, which are read some moments apart on a loaded host.
const TOLERANCE_MS: f64 = 10.0;

/// Compares the report of `nebula-load hold` with the records.
pub fn compare(report: &Value, cdrs: &[Value], seen: &mut Seen) {
    each(report, cdrs, seen, |call, cdr, seen| {
        lies_between(seen, "answered", &cdr["answered_unix_ms"], answer(call), cdr);
        lies_between(seen, "ended", &cdr["ended_unix_ms"], end(call), cdr);
    });
}

/// The same, but only how long each call was billed: the two sides' wall clocks differ.
pub fn compare_durations(report: &Value, cdrs: &[Value], seen: &mut Seen) {
    each(report, cdrs, seen, |call, cdr, seen| {
        let (answer, end) = (answer(call), end(call));
        let shortest = end.0.zip(answer.1).map(|(end, answer)| end - answer);
        let longest = end.1.zip(answer.0).map(|(end, answer)| end - answer);
        lies_between(seen, "billed", &cdr["billed_ms"], (shortest, longest), cdr);
    });
}

/// Finds each answered call's one record.
fn each(report: &Value, cdrs: &[Value], seen: &mut Seen, mut hold: impl FnMut(&Value, &Value, &mut Seen)) {
    let mut by_call: HashMap<&str, Vec<&Value>> = HashMap::new();
    for cdr in cdrs {
        let legs = cdr["legs"].as_array().map_or(&[][..], Vec::as_slice);
        let caller = legs.first().and_then(|leg| leg["sip_call_id"].as_str());
        by_call.entry(caller.unwrap_or_default()).or_default().push(cdr);
    }
    for call in report["calls"].as_array().map_or(&[][..], Vec::as_slice) {
        let id = call["caller"]["sip_call_id"].as_str().unwrap_or("none");
        let found = by_call.get(id).map_or(&[][..], Vec::as_slice);
        if call["caller"]["setup"]["code"] != 200 {
            seen.expect_of_setup(found.len() <= 1, || {
                format!("{} records of a call that was not answered, {id}", found.len())
            });
            continue;
        }
        seen.records.1 += 1;
        let [cdr] = found else {
            let told = format!("{} records of call {} ({id})", found.len(), call["n"]);
            // A repeat of an INVITE that nobody remembers is another call to the system.
            let came_twice = call["trickled"] == true && found.len() == 2;
            if came_twice {
                seen.expect_of_setup(false, || told)
            } else {
                seen.fail(told)
            }
            seen.records.0 += usize::from(came_twice);
            continue;
        };
        seen.records.0 += 1;
        if call["trickled"] == true && cdr["cause"] == "crash" {
            seen.note(format!("call {} was answered in the moment of the kill, and is recorded as crashed", call["n"]));
            continue;
        }
        hold(call, cdr, seen);
        let billed = cdr["ended_unix_ms"].as_i64().zip(cdr["answered_unix_ms"].as_i64()).map(|(end, at)| end - at);
        seen.expect(cdr["billed_ms"].as_i64() == billed, || format!("billed_ms is not its difference: {cdr}"));
        seen.expect(cdr["cause"] == "normal", || format!("cause {} of call {} ({id})", cdr["cause"], call["n"]));
    }
}

/// From the called phone's 200 to its arrival at the caller.
fn answer(call: &Value) -> (Option<f64>, Option<f64>) {
    let callee = call["callee"]["setup"]["sent_unix_ms"].as_f64();
    let first = callee.or(call["caller"]["setup"]["sent_unix_ms"].as_f64());
    (first, call["caller"]["setup"]["final_unix_ms"].as_f64())
}

/// From the first BYE to its answer.
fn end(call: &Value) -> (Option<f64>, Option<f64>) {
    let byes = ["caller", "callee"].map(|end| &call[end]["ended"]);
    let ours = byes.iter().find(|bye| bye["by_us"] == true);
    match ours {
        Some(bye) => (bye["unix_ms"].as_f64(), bye["outcome"]["final_unix_ms"].as_f64()),
        None => (None, byes[0]["unix_ms"].as_f64()),
    }
}

fn lies_between(seen: &mut Seen, what: &str, told: &Value, saw: (Option<f64>, Option<f64>), cdr: &Value) {
    let (Some(told), (Some(from), Some(to))) = (told.as_i64(), saw) else {
        seen.fail(format!("{what}: the record says {told}, the phones saw {saw:?}: {}", cdr["call_id"]));
        return;
    };
    // The whole millisecond that a record names lasts until the next.
    let beside = (from.floor() - told as f64).max(told as f64 - to).max(0.0);
    seen.record_off_ms = seen.record_off_ms.max(beside);
    seen.expect(beside <= TOLERANCE_MS, || {
        format!("{what}: the record says {told}, the phones saw {from:.1} to {to:.1}: {}", cdr["call_id"])
    });
}
