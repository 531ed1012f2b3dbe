//! The table of `peers`: what is measured where, and which figure of whom may be how much of whose.

use crate::relay::{Driver, Relay, Sample, spread};
use nebula_ring::srtp::Suite;
use serde::{Deserialize, Serialize};

/// Calls, a place and the relays that are measured there in turn.
pub struct Scene {
    pub name: &'static str,
    pub driver: Driver,
    pub calls: usize,
    pub suite: Option<Suite>,
    pub relays: &'static [Relay],
}

const SOCKETS: &[Relay] = &[Relay::Rtpengine, Relay::Bare, Relay::Nebula];
const XDP: &[Relay] = &[Relay::Rtpengine, Relay::NebulaXdp];
const SRTP: &[Relay] = &[Relay::Rtpengine, Relay::Nebula];

const SOCKETS_500: Scene =
    Scene { name: "sockets, 500 calls", driver: Driver::Sockets, calls: 500, suite: None, relays: SOCKETS };
const SOCKETS_1000: Scene = Scene { name: "sockets, 1,000 calls", calls: 1000, ..SOCKETS_500 };
const VETH_1000: Scene = Scene { name: "veth, 1,000 calls", driver: Driver::Xdp, relays: XDP, ..SOCKETS_1000 };
const APART_500: Scene =
    Scene { name: "veth, ends apart, 500 calls", driver: Driver::XdpApart, calls: 500, ..VETH_1000 };
const APART_1000: Scene = Scene { name: "veth, ends apart, 1,000 calls", calls: 1000, ..APART_500 };
const GCM_500: Scene =
    Scene { name: "SRTP by AES-GCM, 500 calls", suite: Some(Suite::AeadAes128Gcm), relays: SRTP, ..SOCKETS_500 };
const AES_CM_500: Scene =
    Scene { name: "SRTP by AES-CM, 500 calls", suite: Some(Suite::AesCm128HmacSha1_80), ..GCM_500 };

/// All of them.
pub const SCENES: [Scene; 7] = [SOCKETS_500, SOCKETS_1000, VETH_1000, APART_500, APART_1000, GCM_500, AES_CM_500];

/// How much of the peer's figure ours may be.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// So many times.
    AtMost(f64),
    /// Less than it.
    Lower,
}

impl Limit {
    pub fn holds(self, ratio: f64) -> bool {
        match self {
            Limit::AtMost(most) => ratio <= most,
            Limit::Lower => ratio < 1.0,
        }
    }

    /// The ratio at which it ends.
    pub fn ratio(self) -> f64 {
        match self {
            Limit::AtMost(most) => most,
            Limit::Lower => 1.0,
        }
    }
}

impl std::fmt::Display for Limit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Limit::AtMost(most) => write!(f, "{most}"),
            Limit::Lower => write!(f, "lower"),
        }
    }
}

/// A figure, and whose against whose.
struct Rule {
    what: &'static str,
    unit: &'static str,
    scene: &'static Scene,
    figure: fn(&Sample) -> f64,
    ours: Relay,
    peer: Relay,
    limit: Limit,
}

const CPU_500: Rule = Rule {
    what: "CPU per packet",
    unit: "us",
    scene: &SOCKETS_500,
    figure: |sample| sample.cpu_us_per_packet,
    ours: Relay::Nebula,
    peer: Relay::Rtpengine,
    limit: Limit::AtMost(0.45),
};
const CPU_500_BARE: Rule = Rule { peer: Relay::Bare, limit: Limit::AtMost(1.15), ..CPU_500 };
const CPU_1000: Rule = Rule { scene: &SOCKETS_1000, ..CPU_500 };
const CPU_1000_BARE: Rule = Rule { scene: &SOCKETS_1000, ..CPU_500_BARE };
const CPU_XDP: Rule = Rule { scene: &VETH_1000, ours: Relay::NebulaXdp, limit: Limit::AtMost(0.18), ..CPU_500 };
/// Without what the phones' end does with a packet, which on a network is another machine's work.
const CPU_APART_500: Rule = Rule { scene: &APART_500, ..CPU_XDP };
const CPU_APART_1000: Rule = Rule { scene: &APART_1000, ..CPU_XDP };
/// And with what this end does before the relay has it. It is much for frames, and not what a card's driver would do, so nothing
/// more is asked of it than to be less.
const RECEIVING_500: Rule = Rule {
    what: "CPU per packet with receiving",
    limit: Limit::Lower,
    figure: |sample| sample.cpu_us_per_packet + sample.receiving_us_per_packet,
    ..CPU_APART_500
};
const RECEIVING_1000: Rule = Rule { scene: &APART_1000, ..RECEIVING_500 };
const CPU_GCM: Rule = Rule { scene: &GCM_500, limit: Limit::AtMost(0.4), ..CPU_500 };
const CPU_AES_CM: Rule = Rule { scene: &AES_CM_500, ..CPU_GCM };
const MEMORY: Rule = Rule {
    what: "memory per call",
    unit: "KiB",
    scene: &SOCKETS_1000,
    figure: |sample| sample.memory_kib_per_call,
    limit: Limit::AtMost(0.6),
    ..CPU_500
};
/// Pools that were filled before the first call are not seen in what the calls add.
const MEMORY_WHOLE: Rule =
    Rule { what: "whole process per call", figure: |sample| sample.resident_kib_per_call, ..MEMORY };
const LATENCY_P50: Rule =
    Rule { what: "latency p50", figure: |sample| sample.latency_p50_us as f64, limit: Limit::Lower, ..CPU_500 };
const LATENCY_P99: Rule = Rule { what: "latency p99", figure: |sample| sample.latency_p99_us as f64, ..LATENCY_P50 };

const RULES: [Rule; 15] = [
    CPU_500,
    CPU_500_BARE,
    CPU_1000,
    CPU_1000_BARE,
    CPU_XDP,
    CPU_APART_500,
    RECEIVING_500,
    CPU_APART_1000,
    RECEIVING_1000,
    CPU_GCM,
    CPU_AES_CM,
    MEMORY,
    MEMORY_WHOLE,
    LATENCY_P50,
    LATENCY_P99,
];

/// What one relay did in one scene, a sample a round.
pub struct Measured {
    pub scene: &'static str,
    pub relay: Relay,
    pub samples: Vec<Sample>,
}

/// One relay's figures in a row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Series {
    pub relay: String,
    /// A value a round.
    pub values: Vec<f64>,
    /// Packets that did not come through, a hundredth being 0.01: the median.
    pub loss: f64,
    /// Packets that came through changed, of all rounds.
    pub wrong: u64,
}

/// A row of the table, as it is kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    pub what: String,
    pub scene: String,
    pub unit: String,
    pub ours: Series,
    pub peer: Series,
    /// Of the medians.
    pub ratio: f64,
    /// The least and the greatest of a round.
    pub ratio_range: (f64, f64),
    pub limit: Limit,
    pub holds: bool,
}

/// The rows for which both relays were measured.
pub fn rows(measured: &[Measured]) -> Vec<Row> {
    RULES.iter().filter_map(|rule| row(rule, measured)).collect()
}

fn row(rule: &Rule, measured: &[Measured]) -> Option<Row> {
    let series = |relay: Relay| -> Option<Series> {
        let of = |m: &&Measured| m.scene == rule.scene.name && m.relay == relay && !m.samples.is_empty();
        let samples = &measured.iter().find(of)?.samples;
        Some(Series {
            relay: relay.name().to_owned(),
            values: samples.iter().map(rule.figure).collect(),
            loss: spread(&samples.iter().map(|sample| sample.loss).collect::<Vec<_>>()).1,
            wrong: samples.iter().map(|sample| sample.wrong).sum(),
        })
    };
    let (ours, peer) = (series(rule.ours)?, series(rule.peer)?);
    let ratio = spread(&ours.values).1 / spread(&peer.values).1;
    let ratios: Vec<f64> = ours.values.iter().zip(&peer.values).map(|(ours, peer)| ours / peer).collect();
    let (least, _, greatest) = spread(&ratios);
    Some(Row {
        what: rule.what.to_owned(),
        scene: rule.scene.name.to_owned(),
        unit: rule.unit.to_owned(),
        // A relay that is cheap because it spoils packets has not won.
        holds: rule.limit.holds(ratio) && ours.wrong == 0,
        ours,
        peer,
        ratio,
        ratio_range: (least, greatest),
        limit: rule.limit,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(scene: &Scene, relay: Relay, cpu: [f64; 3], wrong: u64) -> Measured {
        let sample = |cpu_us_per_packet| Sample {
            cpu_us_per_packet,
            receiving_us_per_packet: 1.0,
            loss: 0.0,
            wrong,
            latency_p50_us: 100,
            latency_p99_us: 200,
            memory_kib_per_call: 10.0,
            resident_kib_per_call: 20.0,
            phones_cpu: 0.5,
        };
        Measured { scene: scene.name, relay, samples: cpu.map(sample).into() }
    }

    #[test]
    fn a_row_is_judged_by_the_medians_and_shows_the_ratios_of_the_rounds() {
        let all = [
            measured(&GCM_500, Relay::Rtpengine, [10.0, 20.0, 10.0], 0),
            measured(&GCM_500, Relay::Nebula, [5.0, 4.0, 3.0], 0),
        ];
        let rows = rows(&all);
        assert_eq!(rows.len(), 1, "no other row has both relays");
        assert_eq!((rows[0].ratio, rows[0].ratio_range), (0.4, (0.2, 0.5)));
        assert!(rows[0].holds);
    }

    #[test]
    fn what_receives_for_a_relay_counts_where_it_is_seen() {
        let all =
            [measured(&APART_500, Relay::Rtpengine, [9.0; 3], 0), measured(&APART_500, Relay::NebulaXdp, [1.0; 3], 0)];
        let ratios: Vec<(f64, bool)> = rows(&all).iter().map(|row| (row.ratio, row.holds)).collect();
        assert_eq!(ratios, [(1.0 / 9.0, true), (0.2, true)]);
    }

    #[test]
    fn changed_packets_and_equal_latency_lose() {
        let all = [
            measured(&SOCKETS_500, Relay::Rtpengine, [10.0; 3], 0),
            measured(&SOCKETS_500, Relay::Bare, [4.0; 3], 0),
            measured(&SOCKETS_500, Relay::Nebula, [4.6; 3], 0),
        ];
        let verdicts: Vec<(f64, bool)> = rows(&all).iter().map(|row| (row.limit.ratio(), row.holds)).collect();
        assert_eq!(verdicts, [(0.45, false), (1.15, true), (1.0, false), (1.0, false)]);
        let spoilt = [
            measured(&SOCKETS_500, Relay::Rtpengine, [10.0; 3], 0),
            measured(&SOCKETS_500, Relay::Nebula, [1.0; 3], 1),
        ];
        assert!(rows(&spoilt).iter().all(|row| !row.holds));
    }
}
