//! One RTP leg: everything a worker knows of it, the fields of the packet path first.

use crate::driver::{Component, Generation, Socket, StreamIndex};
use crate::egress::echo::Echo;
use crate::egress::report::Reporter;
use crate::ingress::latch::{Expectation, Latch};
use crate::source::{Arrival, Source};
use crate::srtp::{Keys, Safe};
use crate::stats::StreamStats;
use crate::time::Nanos;
use crate::view::{Hints, RtpPosition, StreamView};
use crate::wire::rtp::Packet;
use nebula_ring::command::{Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::drops::{DropCounters, DropReason};
use std::net::SocketAddr;

/// A stream in its place of the table.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Stream {
    pub generation: Generation,
    pub open: bool,
    pub dirty: bool,
    pub timed_out: bool,
    /// `rtp_to` is not sure to be the peer: `latch.spend` before each packet to it.
    pub on_trial: bool,
    /// Where its keys are, if it is protected.
    pub safe: Option<Safe>,
    /// The other leg of its bridge.
    pub peer: Option<StreamIndex>,
    /// Where RTP to the peer goes: follows the latch.
    pub rtp_to: Option<SocketAddr>,
    /// Where silence is counted from: the last RTP, or what made it expected.
    pub silent_since: Nanos,
    pub rtp_at: Option<Nanos>,
    pub source: Option<Source>,
    pub sent: Option<RtpPosition>,
    pub stats: StreamStats,
    pub latch: Latch,
    pub config: StreamConfig,
    pub drops: DropCounters,
    pub hints: Hints,
    pub echo: Echo,
    /// Where RTCP to the peer goes: follows the latch.
    pub rtcp_to: Option<SocketAddr>,
    /// While the stream terminates.
    pub reporter: Option<Reporter>,
    pub peer_id: Option<StreamId>,
    pub id: StreamId,
    pub created_at: Nanos,
}

/// A call's two streams stay far below the budget of 24 KiB.
const _: () = assert!(size_of::<Stream>() <= 2048);

impl Stream {
    pub fn new(now: Nanos, generation: Generation, id: StreamId, config: &StreamConfig) -> Self {
        let latch = Latch::new(expectation(now, config));
        Self {
            generation,
            open: true,
            dirty: false,
            timed_out: false,
            safe: None,
            on_trial: false,
            peer: None,
            rtp_to: latch.rtp_target(),
            rtcp_to: latch.rtcp_target(),
            silent_since: now,
            rtp_at: None,
            source: None,
            sent: None,
            stats: StreamStats::default(),
            latch,
            config: config.clone(),
            drops: DropCounters::default(),
            hints: Hints::default(),
            echo: Echo::new(config.ssrc),
            reporter: None,
            peer_id: None,
            id,
            created_at: now,
        }
    }

    #[inline]
    pub fn muxed(&self) -> bool {
        self.config.rtcp_port == self.config.rtp_port
    }

    #[inline]
    pub fn socket(&self, index: StreamIndex, component: Component) -> Socket {
        Socket { stream: index, generation: self.generation, component }
    }

    /// The socket that RTCP goes through.
    pub fn rtcp_socket(&self, index: StreamIndex) -> Socket {
        self.socket(index, if self.muxed() { Component::Rtp } else { Component::Rtcp })
    }

    /// What the peer means by a payload type, if it was negotiated. The preferred ones are found first.
    #[inline]
    pub fn payload_type(&self, number: u8) -> Option<PayloadType> {
        self.config.payload_types.as_slice().iter().find(|p| p.number == number).copied()
    }

    /// Whether we are an RTP endpoint here, with an SSRC and reports of our own.
    pub fn terminates(&self) -> bool {
        self.open && self.peer.is_none() && self.config.mode == Mode::Echo
    }

    /// Control waits for the peer from now on: a new learning window, unless it was heard already, and a new silence.
    pub fn expect_anew(&mut self, now: Nanos) {
        self.latch.expect(expectation(now, &self.config));
        self.silent_since = now;
        self.timed_out = false;
    }

    /// Takes new addresses from the latch.
    pub fn aim(&mut self) {
        self.rtp_to = self.latch.rtp_target();
        self.rtcp_to = self.latch.rtcp_target();
        self.on_trial = self.latch.is_on_trial();
    }

    /// Counts an accepted RTP packet.
    #[inline]
    pub fn hear<T: AsRef<[u8]>>(&mut self, now: Nanos, packet: &Packet<T>, clock_rate_hz: u32) {
        let (ssrc, sequence) = (packet.ssrc(), packet.sequence());
        let source = match &mut self.source {
            Some(source) if source.ssrc == ssrc => source,
            Some(before) => {
                self.stats.source_changes += 1;
                *before = before.succeeded_by(ssrc, sequence);
                before
            }
            none => none.insert(Source::new(ssrc, sequence)),
        };
        let arrival = source.hear(sequence);
        match arrival {
            Arrival::InOrder | Arrival::Jump => {}
            Arrival::Reordered => self.stats.packets_reordered += 1,
            Arrival::Duplicate => self.stats.packets_duplicated += 1,
            Arrival::Restart => self.stats.source_changes += 1,
        }
        // Who jumps may begin anew, with another timestamp: no measure of the network.
        if arrival != Arrival::Jump {
            source.time(now, packet.timestamp(), clock_rate_hz);
        }
        self.hints.payload_type = packet.payload_type();
        self.stats.packets_received += 1;
        self.stats.bytes_received += packet.len_bytes() as u64;
        self.silent_since = now;
        self.rtp_at = Some(now);
    }

    /// Counts a refused packet, and notes what an operator will ask about it.
    pub fn refuse(&mut self, reason: DropReason, source: Option<SocketAddr>, packet: &[u8]) {
        self.drops.count(reason);
        match (reason, packet) {
            (DropReason::ForeignSource | DropReason::Learning, _) => self.hints.refused_source = source,
            (DropReason::UnknownPayloadType, [_, second, ..]) => self.hints.payload_type_refused = second & 0x7f,
            _ => {}
        }
    }

    /// Counts an RTP packet that goes to the peer, as it now stands.
    #[inline]
    pub fn speak<T: AsRef<[u8]>>(&mut self, packet: &Packet<T>) {
        self.stats.packets_sent += 1;
        self.stats.bytes_sent += packet.len_bytes() as u64;
        self.sent = Some(RtpPosition::follow(self.sent, packet.ssrc(), packet.sequence(), packet.timestamp()));
    }

    /// When silence becomes `Event::RtpTimeout`.
    pub fn silence_due(&self) -> Option<Nanos> {
        let counts = self.config.rtp_timeout_ms > 0 && self.config.receive && !self.timed_out;
        counts.then(|| self.silent_since.plus_millis(self.config.rtp_timeout_ms.into()))
    }

    /// When the stream's timer is needed next.
    pub fn next_due(&self) -> Option<Nanos> {
        let report = self.reporter.as_ref().map(Reporter::next_at);
        self.silence_due().into_iter().chain(report).min()
    }

    /// The stream for the table writer.
    pub fn view<'a>(&'a self, keys: Option<&'a Keys>) -> StreamView<'a> {
        let mut stats = self.stats;
        if let Some(source) = &self.source {
            stats.packets_lost = source.lost_total();
            (stats.jitter_ns, stats.jitter_ns_max) = source.jitter_ns();
        }
        StreamView {
            id: self.id,
            generation: self.generation,
            open: self.open,
            config: &self.config,
            created_at: self.created_at,
            rtp_at: self.rtp_at,
            timed_out: self.timed_out,
            latched: self.latch.locked().is_some(),
            rtcp_latched: self.latch.locked_rtcp().is_some(),
            remote_rtp: self.latch.known_target(),
            remote_rtcp: self.rtcp_to,
            bridged_with: self.peer_id,
            source: self.source.as_ref().map(|s| RtpPosition {
                ssrc: s.ssrc,
                sequence_extended: s.sequence_extended(),
                timestamp: s.timestamp,
            }),
            sent: self.sent,
            own: self.echo.own(),
            keys,
            stats,
            clock_rate_hz: self.source.as_ref().map_or(0, |s| s.clock_rate_hz),
            drops: &self.drops,
            hints: &self.hints,
        }
    }
}

/// What the latch is told of a configuration. An address that nobody can be at (unspecified, port 0: the old way to
/// hold) is none.
pub(crate) fn expectation(now: Nanos, config: &StreamConfig) -> Expectation {
    let reachable = |a: &SocketAddr| !a.ip().is_unspecified() && a.port() != 0;
    let muxed = config.rtcp_port == config.rtp_port;
    Expectation {
        rtp: config.remote_rtp.filter(reachable),
        rtcp: config.remote_rtcp.filter(reachable).filter(|_| !muxed),
        muxed,
        learn_until: config.nat_expected.then(|| now.plus_millis(config.learning_window_ms.into())),
        learn_from: config.learn_from,
        relatch_interval_ms: config.relatch_interval_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Nanos;
    use nebula_ring::command::PayloadTypes;

    #[test]
    fn a_source_that_begins_anew_is_no_jitter() {
        let config = StreamConfig {
            local_ip: [127, 0, 0, 1].into(),
            rtp_port: 4000,
            rtcp_port: 4001,
            remote_rtp: None,
            remote_rtcp: None,
            nat_expected: false,
            learning_window_ms: 0,
            learn_from: None,
            relatch_interval_ms: 0,
            receive: true,
            send: true,
            mode: Mode::Bridge,
            rtp_timeout_ms: 0,
            ssrc: 1,
            srtp: None,
            payload_types: PayloadTypes::default(),
        };
        let mut stream = Stream::new(Nanos(0), Generation(1), StreamId(1), &config);
        let heard = [(1, 160), (2, 320), (30_000, 3_000_000_000), (30_001, 3_000_000_160), (30_002, 3_000_000_320)];
        for (ms, (sequence, timestamp)) in (0..).step_by(20).zip(heard) {
            let mut bytes = [0u8; 172];
            bytes[0] = 0x80;
            let mut packet = Packet::new_checked(&mut bytes[..]).unwrap();
            packet.set_sequence(sequence);
            packet.set_timestamp(timestamp);
            stream.hear(Nanos::from_millis(ms), &packet, 8000);
        }
        let stats = stream.view(None).stats;
        assert_eq!((stats.source_changes, stats.packets_received), (1, 5));
        assert_eq!(stats.jitter_ns_max, 0);
    }
}
