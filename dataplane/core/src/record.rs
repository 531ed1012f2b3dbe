//! A stream's record in the shared table: written from its view, and read again when a stream goes on that another
//! dataplane had.

use crate::driver::{Component, Socket, StreamIndex};
use crate::source::Source;
use crate::stream::Stream;
use crate::time::Nanos;
use crate::view::{Hints, OwnSource, RtpPosition, StreamView};
use nebula_ring::command::Mode;
use nebula_ring::table::{
    FLAG_ECHO, FLAG_LATCHED, FLAG_OPEN, FLAG_RECEIVE, FLAG_RTCP_LATCHED, FLAG_SEND, FLAG_TIMED_OUT, StreamRecord,
};
use std::net::SocketAddr;

/// A stream as it stands in the shared table. Called for each stream that changed, once a turn; copies some 50 fields.
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
        own_ssrc: view.own.ssrc,
        own_sequence_last: view.own.sequence.into(),
        own_timestamp_last: view.own.timestamp,
        own_clock_rate_hz: view.own.clock_rate_hz,
        own_packets: view.own.packets,
        own_octets: view.own.payload_octets,
        own_sent_at_ms: view.own.sent_at.map_or(0, |at| at.as_millis()),
        payload_type_in: view.hints.payload_type,
        payload_type_refused: view.hints.payload_type_refused,
        clock_rate_in_hz: view.clock_rate_hz,
        unreachable: view.hints.unreachable,
        unreachable_at_ms: view.hints.unreachable_at.map_or(0, |at| at.as_millis()),
        ..StreamRecord::default()
    };
    record.set(FLAG_OPEN, view.open);
    record.set(FLAG_LATCHED, view.latched);
    record.set(FLAG_RTCP_LATCHED, view.rtcp_latched);
    record.set(FLAG_TIMED_OUT, view.timed_out);
    record.set(FLAG_ECHO, config.mode == Mode::Echo);
    record.set(FLAG_RECEIVE, config.receive);
    record.set(FLAG_SEND, config.send);
    record.set_local(config.local_ip, config.rtp_port, config.rtcp_port);
    record.set_remote_rtp(view.remote_rtp);
    record.set_remote_rtcp(view.remote_rtcp);
    record.set_refused_source(view.hints.refused_source);
    if let Some(keys) = view.keys {
        keys.show(&mut record);
    }
    record.set_drops(view.drops);
    record
}

/// Makes a new stream go on where the record's left off; the same clock is meant. Whatever the record says, the stream
/// stays sound: it may come from a dataplane that died over it.
pub(crate) fn resume(stream: &mut Stream, now: Nanos, record: &StreamRecord) {
    let past = |ms: u64| Nanos::from_millis(ms).min(now);
    stream.created_at = past(record.created_at_ms);
    stream.rtp_at = (record.rtp_in_at_ms > 0).then(|| past(record.rtp_in_at_ms));
    stream.timed_out = record.is(FLAG_TIMED_OUT);
    stream.latch.resume(
        now,
        record.remote_rtp().filter(|_| record.is(FLAG_LATCHED)),
        record.remote_rtcp().filter(|_| record.is(FLAG_RTCP_LATCHED)),
    );
    stream.aim();
    if record.ssrc_in != 0 || record.packets_in > 0 {
        let position = RtpPosition {
            ssrc: record.ssrc_in,
            sequence_extended: record.sequence_in_highest,
            timestamp: record.timestamp_in_last,
        };
        let jitter_ns_max = record.jitter_us_max.saturating_mul(1000);
        stream.source = Some(Source::resumed(position, record.lost, jitter_ns_max));
    }
    if record.packets_out > 0 {
        stream.sent = Some(RtpPosition {
            ssrc: record.ssrc_out,
            sequence_extended: record.sequence_out_last,
            timestamp: record.timestamp_out_last,
        });
    }
    let own = OwnSource {
        ssrc: record.own_ssrc,
        sequence: record.own_sequence_last as u16,
        timestamp: record.own_timestamp_last,
        clock_rate_hz: record.own_clock_rate_hz,
        sent_at: (record.own_packets > 0).then(|| past(record.own_sent_at_ms)),
        packets: record.own_packets,
        payload_octets: record.own_octets,
    };
    stream.echo.resume(&own, stream.created_at);
    let stats = &mut stream.stats;
    stats.packets_received = record.packets_in;
    stats.bytes_received = record.bytes_in;
    stats.packets_sent = record.packets_out;
    stats.bytes_sent = record.bytes_out;
    stats.packets_lost = record.lost;
    stats.packets_reordered = record.reordered;
    stats.packets_duplicated = record.duplicated;
    stats.jitter_ns_max = record.jitter_us_max.saturating_mul(1000);
    stats.source_changes = record.source_changes;
    stats.rtcp_received = record.rtcp_in;
    stats.rtcp_sent = record.rtcp_out;
    stream.drops = record.drops();
    stream.hints = Hints {
        payload_type: record.payload_type_in,
        payload_type_refused: record.payload_type_refused,
        refused_source: record.refused_source(),
        unreachable: record.unreachable,
        unreachable_at: (record.unreachable_at_ms > 0).then(|| past(record.unreachable_at_ms)),
    };
    // What was refused before was also handled before: the sum over this dataplane's own packets still holds.
    stats.handled = stream.drops.total();
}

/// The sockets of a resumed stream whose peers are known: connected at once.
pub(crate) fn known_peers(stream: &Stream, index: StreamIndex) -> [Option<(Socket, SocketAddr)>; 2] {
    let settled = stream.latch.is_settled();
    [
        stream.latch.locked().filter(|_| settled).map(|peer| (stream.socket(index, Component::Rtp), peer)),
        stream.latch.locked_rtcp().filter(|_| settled).map(|peer| (stream.socket(index, Component::Rtcp), peer)),
    ]
}
