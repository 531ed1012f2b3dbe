//! What came of a run: counts, times, and whether it was good enough.

use crate::media::Heard;
use crate::sip::Failure;
use crate::sip::callee::Taken;
use crate::sip::caller::Placed;
use crate::srtp::Choice;
use comfy_table::{Table, presets};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The last packets of the called end that may be cut off by the caller's BYE: what it sends while the caller lingers
/// and while the BYE travels.
const CUT_OFF_PACKETS_MAX: u64 = 15;

/// What must be met.
#[derive(Debug, Clone, clap::Args)]
pub struct Thresholds {
    /// The most packets that may be lost, in percent.
    #[arg(long, value_name = "PERCENT")]
    max_loss: Option<f64>,
    /// The least calls that must be established.
    #[arg(long, value_name = "CALLS")]
    min_established: Option<u64>,
    /// The most that the 99th percentile of call set-up may take, milliseconds.
    #[arg(long, value_name = "MS")]
    max_setup_p99_ms: Option<f64>,
    /// The most that the 99th percentile of the one-way delay may be, milliseconds.
    #[arg(long, value_name = "MS")]
    max_latency_p99_ms: Option<f64>,
}

/// A distribution.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Percentiles {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

/// The whole outcome.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    calls: u64,
    established: u64,
    /// Why and how many, of both ends.
    failed: BTreeMap<String, u64>,
    seconds: f64,
    calls_per_second: f64,
    setup_ms: Percentiles,
    packets_sent: u64,
    packets_received: u64,
    packets_lost: u64,
    packets_duplicated: u64,
    /// Changed on the way, or of another call.
    packets_wrong: u64,
    /// The suites of caller and called end, if they were told to protect.
    srtp: Option<String>,
    /// Not made with the peer's key.
    packets_unauthentic: u64,
    /// Under an index that another packet had.
    indices_reused: u64,
    /// How often ends heard a rollover counter go on.
    rollovers: u64,
    /// Calls whose ends heard somebody else than each other.
    crossed: u64,
    loss_percent: f64,
    latency_ms: Percentiles,
    jitter_ms: Percentiles,
}

impl Report {
    /// Of all calls, as both ends saw them. Without `answers` each caller must hear itself.
    pub fn new(
        placed: &[Result<Placed, Failure>],
        taken: &[Result<Taken, Failure>],
        answers: bool,
        delays_us: Histogram<u64>,
        took: Duration,
    ) -> Self {
        let callers: Vec<&Placed> = placed.iter().filter_map(|p| p.as_ref().ok()).collect();
        let callees: HashMap<u32, &Taken> =
            taken.iter().filter_map(|t| t.as_ref().ok()).map(|t| (t.origin, t)).collect();
        let mut failed = BTreeMap::new();
        let failures = placed.iter().filter_map(|p| p.as_ref().err()).map(|f| f.to_string());
        let far = taken.iter().filter_map(|t| t.as_ref().err()).map(|f| format!("called end: {f}"));
        failures.chain(far).for_each(|f| *failed.entry(f).or_default() += 1);

        let mut sum = Sum::default();
        for caller in &callers {
            if !answers {
                sum.end(&caller.heard, caller.heard.sent, 0);
                sum.crossed += u64::from(caller.heard.origin != Some(caller.origin));
                continue;
            }
            // The two ends find each other by what they heard, and must have heard each other.
            let callee = caller.heard.origin.and_then(|origin| callees.get(&origin));
            match callee {
                Some(callee) if callee.heard.origin == Some(caller.origin) => {
                    sum.end(&caller.heard, callee.heard.sent, CUT_OFF_PACKETS_MAX);
                    sum.end(&callee.heard, caller.heard.sent, 0);
                }
                _ => {
                    sum.crossed += 1;
                    sum.end(&caller.heard, caller.heard.sent, 0);
                }
            }
        }
        let mut setup_us = crate::media::delays();
        callers.iter().for_each(|c| setup_us.saturating_record(c.setup.as_micros() as u64));
        let expected = sum.received + sum.lost;
        Self {
            calls: placed.len() as u64,
            established: callers.len() as u64,
            failed,
            seconds: took.as_secs_f64(),
            calls_per_second: placed.len() as f64 / took.as_secs_f64(),
            setup_ms: percentiles_ms(&setup_us),
            packets_sent: sum.sent,
            packets_received: sum.received,
            packets_lost: sum.lost,
            packets_duplicated: sum.duplicated,
            packets_wrong: sum.wrong,
            srtp: None,
            packets_unauthentic: sum.unauthentic,
            indices_reused: sum.indices_reused,
            rollovers: sum.rollovers,
            crossed: sum.crossed,
            loss_percent: if expected == 0 { 0.0 } else { sum.lost as f64 * 100.0 / expected as f64 },
            latency_ms: percentiles_ms(&delays_us),
            jitter_ms: percentiles_ms(&sum.jitter_us.unwrap_or_else(crate::media::delays)),
        }
    }

    /// The same, of phones that were told to protect.
    pub fn protected(self, srtp: Option<Choice>) -> Self {
        Self { srtp: srtp.map(|srtp| srtp.to_string()), ..self }
    }

    /// For machines.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_else(|e| format!("{{\"error\": \"{e}\"}}"))
    }

    /// For people.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_preset(presets::UTF8_BORDERS_ONLY);
        let times = |p: &Percentiles| format!("p50 {:.2}  p95 {:.2}  p99 {:.2}  max {:.2}", p.p50, p.p95, p.p99, p.max);
        let failed = if self.failed.is_empty() {
            "none".to_owned()
        } else {
            self.failed.iter().map(|(why, n)| format!("{n} x {why}")).collect::<Vec<_>>().join(", ")
        };
        let rows = [
            ("calls", format!("{} in {:.1} s ({:.1} a second)", self.calls, self.seconds, self.calls_per_second)),
            ("established", self.established.to_string()),
            ("failed", failed),
            ("set-up, ms", times(&self.setup_ms)),
            ("packets", format!("{} sent, {} received and verified", self.packets_sent, self.packets_received)),
            (
                "loss",
                format!(
                    "{} lost ({:.4} %), {} twice, {} wrong, {} calls crossed",
                    self.packets_lost, self.loss_percent, self.packets_duplicated, self.packets_wrong, self.crossed
                ),
            ),
            ("latency, ms", times(&self.latency_ms)),
            ("jitter, ms", times(&self.jitter_ms)),
        ];
        table.add_rows(rows.map(|(name, value)| [name.to_owned(), value]));
        if let Some(srtp) = &self.srtp {
            let told = format!(
                "{srtp}: {} unauthentic, {} indices used twice, {} rollovers",
                self.packets_unauthentic, self.indices_reused, self.rollovers
            );
            table.add_row(["SRTP".to_owned(), told]);
        }
        table
    }

    /// What was not met, a line each. Wrong packets, crossed calls and nonces that come twice are never good enough.
    pub fn missed(&self, thresholds: &Thresholds) -> Vec<String> {
        let at_most = |name: &str, value: f64, most: Option<f64>| {
            most.filter(|most| value > *most).map(|most| format!("{name} is {value:.4}, at most {most} was asked for"))
        };
        let too_few = thresholds.min_established.filter(|least| self.established < *least);
        [
            at_most("loss in percent", self.loss_percent, thresholds.max_loss),
            too_few
                .map(|least| format!("{} calls were established, at least {least} were asked for", self.established)),
            at_most("p99 of set-up in ms", self.setup_ms.p99, thresholds.max_setup_p99_ms),
            at_most("p99 of latency in ms", self.latency_ms.p99, thresholds.max_latency_p99_ms),
            at_most("number of wrong packets", self.packets_wrong as f64, Some(0.0)),
            at_most("number of unauthentic packets", self.packets_unauthentic as f64, Some(0.0)),
            at_most("number of indices used twice", self.indices_reused as f64, Some(0.0)),
            at_most("number of crossed calls", self.crossed as f64, Some(0.0)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

#[derive(Default)]
struct Sum {
    sent: u64,
    received: u64,
    lost: u64,
    duplicated: u64,
    wrong: u64,
    unauthentic: u64,
    indices_reused: u64,
    rollovers: u64,
    crossed: u64,
    jitter_us: Option<Histogram<u64>>,
}

impl Sum {
    /// Adds what one end heard of a peer that sent `peer_sent` packets, of which the last few may have been cut off.
    fn end(&mut self, heard: &Heard, peer_sent: u64, cut_off_max: u64) {
        self.sent += heard.sent;
        self.received += heard.received;
        self.duplicated += heard.duplicates;
        self.wrong += heard.wrong;
        self.unauthentic += heard.unauthentic;
        self.indices_reused += heard.indices_reused;
        self.rollovers += heard.rollovers;
        let reached = heard.last.map_or(0, |last| last + 1);
        let expected = reached.max(peer_sent.saturating_sub(cut_off_max));
        self.lost += expected.saturating_sub(heard.received);
        self.jitter_us.get_or_insert_with(crate::media::delays).saturating_record(heard.jitter_us as u64);
    }
}

fn percentiles_ms(us: &Histogram<u64>) -> Percentiles {
    let at = |quantile| us.value_at_quantile(quantile) as f64 / 1000.0;
    let max = if us.is_empty() { 0.0 } else { us.max() as f64 / 1000.0 };
    Percentiles { p50: at(0.5), p95: at(0.95), p99: at(0.99), max }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(origin: u32, sent: u64, received: u64, last: u64) -> Heard {
        Heard { sent, received, last: Some(last), origin: Some(origin), ..Heard::default() }
    }

    fn placed(origin: u32, heard: Heard) -> Result<Placed, Failure> {
        Ok(Placed { setup: Duration::from_millis(2), origin, heard })
    }

    fn report(placed: &[Result<Placed, Failure>], taken: &[Result<Taken, Failure>], answers: bool) -> Report {
        Report::new(placed, taken, answers, crate::media::delays(), Duration::from_secs(1))
    }

    fn thresholds(max_loss: Option<f64>, min_established: Option<u64>) -> Thresholds {
        Thresholds { max_loss, min_established, max_setup_p99_ms: None, max_latency_p99_ms: None }
    }

    #[test]
    fn gaps_and_missing_ends_are_losses() {
        // The caller heard 100 of 0..=101 of 110 sent, of which the last 8 were cut off; the callee heard all but two.
        let callee = Taken { origin: 2, heard: heard(1, 110, 98, 97) };
        let r = report(&[placed(1, heard(2, 100, 100, 101))], &[Ok(callee)], true);
        assert_eq!((r.packets_lost, r.crossed, r.established), (2 + 2, 0, 1));
        assert_eq!(r.missed(&thresholds(Some(0.0), Some(2))).len(), 2);
        assert!(r.missed(&thresholds(Some(5.0), Some(1))).is_empty());
    }

    #[test]
    fn ends_that_heard_others_are_crossed() {
        let callees = [(2, 3), (4, 1)].map(|(origin, hears)| Ok(Taken { origin, heard: heard(hears, 10, 10, 9) }));
        let callers = [placed(1, heard(2, 10, 10, 9)), placed(3, heard(4, 10, 10, 9))];
        let r = report(&callers, &callees, true);
        assert_eq!(r.crossed, 2);
        assert_eq!(r.missed(&thresholds(None, None)).len(), 1);
    }

    #[test]
    fn an_echo_is_ones_own_voice() {
        let r = report(&[placed(1, heard(1, 10, 9, 9)), placed(3, heard(1, 10, 10, 9))], &[], false);
        assert_eq!((r.packets_lost, r.crossed), (1, 1));
    }

    #[test]
    fn failures_are_counted_by_reason() {
        let r = report(&[Err(Failure::Refused(486)), Err(Failure::Refused(486)), Err(Failure::Timeout)], &[], true);
        assert_eq!(r.failed, BTreeMap::from([("486".to_owned(), 2), ("timeout".to_owned(), 1)]));
        assert_eq!(r.established, 0);
    }
}
