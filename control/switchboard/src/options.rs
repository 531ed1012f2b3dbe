//! What an operator can set, with defaults and ranges.

use serde::{Deserialize, Serialize};

use crate::call::Timing;

/// The switchboard's options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long a phone rings before the call counts as not answered.
    pub no_answer_timeout_s: u32,
    /// How long a call may last after its answer: ends what nobody will ever hang up.
    pub call_duration_s_max: u32,
    /// How many calls at once; the next one gets business error `overloaded`.
    pub calls_max: u32,
    /// How long a proxy, a media agent or the store may take to answer.
    pub rpc_timeout_ms: u32,
    /// How long a call waits for its lost dataplane to come back with its streams.
    pub dataplane_grace_ms: u32,
    /// How long a proxy may be away before the legs that it owns count as lost, and how long it is told of a hang-up.
    pub proxy_grace_s: u32,
    /// The same for a media agent and its streams.
    pub media_grace_s: u32,
    /// How long a switchboard may be away before those of its calls that left nothing but their row are closed. What it
    /// kept is taken over as soon as it is known to be gone.
    pub switchboard_grace_s: u32,
    /// How long a stop waits for the last hang-ups and records.
    pub stop_timeout_ms: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            no_answer_timeout_s: 60,
            call_duration_s_max: 86_400,
            calls_max: 10_000,
            rpc_timeout_ms: 5_000,
            // Its successor has the streams within a second; on a loaded host later.
            dataplane_grace_ms: 10_000,
            // Longer than an outage of Redis is allowed to be.
            proxy_grace_s: 120,
            media_grace_s: 120,
            switchboard_grace_s: 30,
            stop_timeout_ms: 10_000,
        }
    }
}

/// Why the switchboard did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A call that was kept cannot be read by this version.
    #[error("a call that was up cannot be taken up: {0}")]
    Snapshot(#[from] nebula_bus::snapshots::Unreadable),
    /// An option is out of its range.
    #[error("calls.{key} = {value} is out of range: {min} to {max}")]
    OutOfRange {
        /// The option.
        key: &'static str,
        /// As it was set.
        value: u32,
        /// The least.
        min: u32,
        /// The most.
        max: u32,
    },
}

impl Options {
    /// Refuses values out of range.
    pub fn check(&self) -> Result<(), Error> {
        for (key, value, min, max) in [
            ("no_answer_timeout_s", self.no_answer_timeout_s, 1, 3_600),
            ("call_duration_s_max", self.call_duration_s_max, 1, 604_800),
            ("calls_max", self.calls_max, 1, 1_000_000),
            ("rpc_timeout_ms", self.rpc_timeout_ms, 10, 60_000),
            ("dataplane_grace_ms", self.dataplane_grace_ms, 0, 60_000),
            ("proxy_grace_s", self.proxy_grace_s, 1, 3_600),
            ("media_grace_s", self.media_grace_s, 1, 3_600),
            ("switchboard_grace_s", self.switchboard_grace_s, 1, 3_600),
            ("stop_timeout_ms", self.stop_timeout_ms, 0, 600_000),
        ] {
            if !(min..=max).contains(&value) {
                return Err(Error::OutOfRange { key, value, min, max });
            }
        }
        Ok(())
    }

    pub(crate) fn timing(&self) -> Timing {
        Timing {
            no_answer_ms: u64::from(self.no_answer_timeout_s) * 1_000,
            duration_ms_max: u64::from(self.call_duration_s_max) * 1_000,
            dataplane_grace_ms: self.dataplane_grace_ms.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_in_range_and_ranges_are_checked() {
        assert_eq!(Options::default().check(), Ok(()));
        let wrong = Options { calls_max: 0, ..Options::default() };
        assert_eq!(wrong.check().unwrap_err().to_string(), "calls.calls_max = 0 is out of range: 1 to 1000000");
    }
}
