//! What the switchboard counts. Handles are resolved once, so that counting is an atomic addition.

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};

const DESCRIPTIONS: [(&str, &str); 10] = [
    ("nebula_switchboard_calls_total", "calls that ended, by cause"),
    ("nebula_switchboard_calls_answered_total", "calls that were answered"),
    ("nebula_switchboard_calls_refused_total", "INVITEs refused, by reason"),
    ("nebula_switchboard_unknown_subjects_total", "requests about channels, streams and calls that are not here"),
    ("nebula_switchboard_record_retries_total", "writes to the store that had to be tried again"),
    ("nebula_switchboard_calls_crashed_total", "calls of dead switchboards that were closed here"),
    (
        "nebula_switchboard_calls_resumed_total",
        "calls taken up from snapshots: own ones, and those of dead switchboards",
    ),
    ("nebula_switchboard_calls_disowned_total", "calls dropped because another switchboard owns them"),
    ("nebula_switchboard_request_retries_total", "requests to proxies and media agents that were tried again"),
    ("nebula_switchboard_dataplane_reports_total", "dataplanes reported lost and back"),
];

/// The metrics of one switchboard.
pub(crate) struct Metrics {
    /// Calls that live, and those whose record is being written.
    pub calls: Gauge,
    /// Calls that were answered.
    pub answered: Counter,
    /// INVITEs refused because the switchboard drains.
    pub refused_draining: Counter,
    /// INVITEs refused because `calls_max` is reached.
    pub refused_overloaded: Counter,
    /// From `channel.invite` to the first `channel.dial`.
    pub dial_seconds: Histogram,
    /// From the callee's 2xx to the caller's.
    pub answer_seconds: Histogram,
    /// Requests about channels, streams and calls that are not here.
    pub unknown: Counter,
    /// Writes to the store that had to be tried again.
    pub record_retries: Counter,
    /// Calls of dead switchboards that were closed here.
    pub crashed: Counter,
    /// Calls taken up from snapshots.
    pub resumed: Counter,
    /// Calls dropped because another switchboard owns them.
    pub disowned: Counter,
    /// Requests that were tried again.
    pub request_retries: Counter,
    /// Dataplanes reported lost.
    pub dataplanes_lost: Counter,
    /// Dataplanes reported back.
    pub dataplanes_back: Counter,
}

impl Metrics {
    pub fn new() -> Self {
        DESCRIPTIONS.into_iter().for_each(|(name, text)| describe_counter!(name, text));
        describe_gauge!("nebula_switchboard_calls", "calls that live, and those whose record is being written");
        let seconds = [
            ("nebula_switchboard_dial_seconds", "from the caller's INVITE to the callee's"),
            ("nebula_switchboard_answer_seconds", "from the callee's 2xx to the caller's"),
        ];
        seconds.into_iter().for_each(|(name, text)| describe_histogram!(name, Unit::Seconds, text));
        let refused = |reason| counter!("nebula_switchboard_calls_refused_total", "reason" => reason);
        Self {
            calls: gauge!("nebula_switchboard_calls"),
            answered: counter!("nebula_switchboard_calls_answered_total"),
            refused_draining: refused("draining"),
            refused_overloaded: refused("overloaded"),
            dial_seconds: histogram!("nebula_switchboard_dial_seconds"),
            answer_seconds: histogram!("nebula_switchboard_answer_seconds"),
            unknown: counter!("nebula_switchboard_unknown_subjects_total"),
            record_retries: counter!("nebula_switchboard_record_retries_total"),
            crashed: counter!("nebula_switchboard_calls_crashed_total"),
            resumed: counter!("nebula_switchboard_calls_resumed_total"),
            disowned: counter!("nebula_switchboard_calls_disowned_total"),
            request_retries: counter!("nebula_switchboard_request_retries_total"),
            dataplanes_lost: counter!("nebula_switchboard_dataplane_reports_total", "state" => "lost"),
            dataplanes_back: counter!("nebula_switchboard_dataplane_reports_total", "state" => "back"),
        }
    }

    /// A call ended; by its cause.
    pub fn ended(&self, cause: String) {
        counter!("nebula_switchboard_calls_total", "outcome" => cause).increment(1);
    }
}
