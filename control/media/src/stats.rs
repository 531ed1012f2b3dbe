//! A stream's statistics: from its record in the dataplane's table to what the contract says. Pure.

use crate::reconcile::Found;
use nebula_bus::contract::StreamStats;
use nebula_ring::segment::Segment;
use nebula_ring::table::StreamRecord;

/// The statistics in a record; the codec is what the agent negotiated, if it did.
pub fn of(record: &StreamRecord, codec: Option<String>) -> StreamStats {
    StreamStats {
        packets_received: record.packets_in,
        bytes_received: record.bytes_in,
        packets_sent: record.packets_out,
        bytes_sent: record.bytes_out,
        packets_lost: record.lost,
        packets_reordered: record.reordered,
        packets_duplicated: record.duplicated,
        jitter_us: record.jitter_us.into(),
        jitter_us_max: record.jitter_us_max,
        rtcp_received: record.rtcp_in,
        rtcp_sent: record.rtcp_out,
        drops: record.drops().named().map(|(name, count)| (name.to_owned(), count)).collect(),
        codec,
        local: Some(record.local_rtp().to_string()),
        remote: record.remote_rtp().map(|remote| remote.to_string()),
    }
}

/// All streams of all workers.
pub fn read_all(segment: &Segment) -> Vec<Found> {
    let worker_s = |worker| segment.table(worker).iter().map(|record| Found { worker, record }).collect::<Vec<_>>();
    (0..segment.sizes().workers).flat_map(worker_s).collect()
}

/// All streams that a dead dataplane has left in its tables.
pub fn read_remains(segment: &Segment) -> Vec<Found> {
    let worker_s = |worker| segment.table(worker).remains().map(|record| Found { worker, record }).collect::<Vec<_>>();
    (0..segment.sizes().workers).flat_map(worker_s).collect()
}
