//! A stream as the engine shows it, turned into its record in the shared table. Called for each stream that changed, once a
//! turn; copies some 50 fields.

use nebula_core::view::StreamView;
use nebula_ring::command::Mode;
use nebula_ring::table::{FLAG_ECHO, FLAG_LATCHED, FLAG_OPEN, FLAG_TIMED_OUT, StreamRecord};

/// See the module.
pub fn record(view: &StreamView<'_>) -> StreamRecord {
    let (config, stats) = (view.config, &view.stats);
    let mut record = StreamRecord {
        id: view.id.0,
        bridged_with: view.bridged_with.map_or(0, |id| id.0),
        ssrc_in: view.source.map_or(0, |at| at.ssrc),
        ssrc_out: view.sent.map_or(0, |at| at.ssrc),
        sequence_in_highest: view.source.map_or(0, |at| at.sequence_extended),
        sequence_out_last: view.sent.map_or(0, |at| at.sequence_extended),
        timestamp_in_last: view.source.map_or(0, |at| at.timestamp),
        timestamp_out_last: view.sent.map_or(0, |at| at.timestamp),
        jitter_us: u32::try_from(stats.jitter_ns / 1000).unwrap_or(u32::MAX),
        packets_in: stats.packets_received,
        bytes_in: stats.bytes_received,
        packets_out: stats.packets_sent,
        bytes_out: stats.bytes_sent,
        lost: stats.packets_lost,
        reordered: stats.packets_reordered,
        duplicated: stats.packets_duplicated,
        jitter_us_max: stats.jitter_ns_max / 1000,
        rtcp_in: stats.rtcp_received,
        rtcp_out: stats.rtcp_sent,
        created_at_ms: view.created_at.as_millis(),
        rtp_in_at_ms: view.rtp_at.map_or(0, |at| at.as_millis()),
        source_changes: stats.source_changes,
        ..StreamRecord::default()
    };
    record.set(FLAG_OPEN, view.open);
    record.set(FLAG_LATCHED, view.latched);
    record.set(FLAG_TIMED_OUT, view.timed_out);
    record.set(FLAG_ECHO, config.mode == Mode::Echo);
    record.set_local(config.local_ip, config.rtp_port, config.rtcp_port);
    record.set_remote_rtp(view.remote_rtp);
    record.set_remote_rtcp(view.remote_rtcp);
    record.set_drops(view.drops);
    record
}
