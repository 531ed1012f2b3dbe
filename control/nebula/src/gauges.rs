//! What bus and store count, as metrics: read when `/metrics` is asked for.

use metrics::{counter, describe_counter, describe_gauge, gauge};
use nebula_bus::Bus;
use nebula_store::Store;

const DATABASE_UP: &str = "nebula_database_up";
const OUTAGES: &str = "nebula_database_outages_total";
const SPOOLED: &str = "nebula_spool_changes";
const WAITING: &str = "nebula_spool_waiting_changes";
const SPOOLED_TOTAL: &str = "nebula_spool_written_total";
const REPLAYED_TOTAL: &str = "nebula_spool_replayed_total";
const REFUSED_TOTAL: &str = "nebula_spool_refused_total";
const COMMITS: &str = "nebula_database_commits_total";
const WRITES: &str = "nebula_database_writes_total";
const BUS: &str = "nebula_bus_events_total";

/// Says what they are, once.
pub fn describe() {
    describe_gauge!(DATABASE_UP, "whether the database answers and takes writes, as far as known: 1 or 0");
    describe_counter!(OUTAGES, "times that the database went away");
    describe_gauge!(SPOOLED, "changes on the disk that are not in the database yet");
    describe_gauge!(WAITING, "changes in memory for which the spool's disk has no room");
    describe_counter!(SPOOLED_TOTAL, "changes that went to the disk because the database was away");
    describe_counter!(REPLAYED_TOTAL, "changes that came from the spool into the database");
    describe_counter!(
        REFUSED_TOTAL,
        "changes that were refused: memory was full too, or the database refused for good"
    );
    describe_counter!(COMMITS, "committed groups of writes");
    describe_counter!(WRITES, "committed writes");
    describe_counter!(BUS, "requests sent on the bus, and what became of some of them");
}

/// Records what they count now.
pub fn record(bus: &Bus, store: &Store) {
    let status = store.spooling().borrow().clone();
    gauge!(DATABASE_UP).set(f64::from(u8::from(status.database_up)));
    counter!(OUTAGES).absolute(status.outages);
    gauge!(SPOOLED).set(status.spooled as f64);
    gauge!(WAITING).set(status.waiting as f64);
    counter!(SPOOLED_TOTAL).absolute(status.spooled_total);
    counter!(REPLAYED_TOTAL).absolute(status.replayed_total);
    counter!(REFUSED_TOTAL).absolute(status.refused_total);
    let writes = store.write_counts();
    counter!(COMMITS).absolute(writes.commits);
    counter!(WRITES).absolute(writes.writes);
    let counts = bus.counts();
    for (event, count) in [
        ("requests", counts.requests),
        ("busy", counts.busy),
        ("late", counts.late),
        ("retried", counts.retried),
        ("repeated", counts.repeated),
        ("malformed", counts.malformed),
        ("broken", counts.broken),
        ("claimed", counts.claimed),
        ("connections_lost", counts.lost),
    ] {
        counter!(BUS, "event" => event).absolute(count);
    }
}
