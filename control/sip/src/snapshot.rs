//! What of SIP outlives its process: how dialogs, transactions and their timers are written down and taken up again.
//!
//! What has no clock (dialogs, forks, messages) is `Serialize` and `Deserialize` itself. What has one is saved at an
//! instant, with the time that is [`Left`] of each timer, and taken up again with a [`Resume`]: the new process's clock,
//! and how long nobody ran it. Reading checks everything: a damaged snapshot is an error, never a panic, and never a
//! transaction without an end.

use std::time::{Duration, Instant};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// No timer of ours is longer; a snapshot that says so is damaged. Session timers count in days at most.
const LEFT_MS_MAX: u64 = 400 * 24 * 3600 * 1_000;

/// What is left of a timer, in ms, rounded up so that nothing fires early.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u64", into = "u64")]
pub struct Left(u64);

impl Left {
    /// Of a timer that fires at `at`.
    pub fn of(at: Instant, now: Instant) -> Self {
        let left = at.saturating_duration_since(now);
        Self(u64::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX).min(LEFT_MS_MAX))
    }

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl TryFrom<u64> for Left {
    type Error = SnapshotError;

    fn try_from(ms: u64) -> Result<Self, SnapshotError> {
        if ms > LEFT_MS_MAX { Err(SnapshotError::Damaged("a timer")) } else { Ok(Self(ms)) }
    }
}

impl From<Left> for u64 {
    fn from(left: Left) -> u64 {
        left.0
    }
}

/// The clock of the process that takes a snapshot up again.
#[derive(Debug, Clone, Copy)]
pub struct Resume {
    /// Its now.
    pub now: Instant,
    /// How long ago the snapshot was made; zero if nobody knows, so that timers run long rather than short.
    pub elapsed: Duration,
}

impl Resume {
    /// When a timer fires; what was due meanwhile is due now.
    pub fn at(&self, left: Left) -> Instant {
        self.now + left.duration().saturating_sub(self.elapsed)
    }
}

/// Why something saved cannot be taken up again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SnapshotError {
    /// It says something that was never written.
    #[error("damaged snapshot: {0}")]
    Damaged(&'static str),
    /// The same transaction is there already.
    #[error("the transaction is there already")]
    Duplicate,
    /// There is no room for it.
    #[error("{transactions_max} transactions are open")]
    Full {
        /// The cap.
        transactions_max: u32,
    },
}

/// Bytes of a message: as text if they are, which they nearly always are; else in base64.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Wire {
    Text(String),
    Base64 { base64: String },
}

/// For `#[serde(with)]`: the bytes of a message.
pub mod wire {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD_NO_PAD;
    use serde::de::Error as _;
    use serde::{Deserializer, Serializer};

    use super::*;
    use crate::message::limits::MESSAGE_BYTES_MAX;

    /// Writes them.
    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        match std::str::from_utf8(bytes) {
            Ok(text) => serializer.serialize_str(text),
            Err(_) => Wire::Base64 { base64: STANDARD_NO_PAD.encode(bytes) }.serialize(serializer),
        }
    }

    /// Reads them.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        let bytes: Bytes = match Wire::deserialize(deserializer)? {
            Wire::Text(text) => text.into(),
            Wire::Base64 { base64 } => STANDARD_NO_PAD.decode(base64).map_err(D::Error::custom)?.into(),
        };
        if bytes.len() > MESSAGE_BYTES_MAX {
            return Err(D::Error::custom(SnapshotError::Damaged("a message that is too long")));
        }
        Ok(bytes)
    }

    /// For `#[serde(with)]`: bytes that may be missing.
    pub mod maybe {
        use super::*;

        #[derive(Serialize, Deserialize)]
        struct Some_(#[serde(with = "super")] Bytes);

        /// Writes them.
        pub fn serialize<S: Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
            bytes.clone().map(Some_).serialize(serializer)
        }

        /// Reads them.
        pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bytes>, D::Error> {
            Ok(Option::<Some_>::deserialize(deserializer)?.map(|Some_(bytes)| bytes))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timers_go_on_where_they_were_and_never_early() {
        let then = Instant::now();
        let left = Left::of(then + Duration::from_micros(1_500), then);
        assert_eq!(left.duration(), Duration::from_millis(2));
        assert_eq!(Left::of(then, then + Duration::from_secs(1)).duration(), Duration::ZERO);
        let now = then + Duration::from_secs(99);
        let resume = Resume { now, elapsed: Duration::from_millis(1) };
        assert_eq!(resume.at(left), now + Duration::from_millis(1));
        assert_eq!(Resume { elapsed: Duration::from_secs(1), ..resume }.at(left), now, "what was missed is due now");
        let written = serde_json::to_string(&left).unwrap();
        assert_eq!((written.as_str(), serde_json::from_str::<Left>(&written).unwrap()), ("2", left));
        assert!(serde_json::from_str::<Left>(&u64::MAX.to_string()).is_err());
    }
}
