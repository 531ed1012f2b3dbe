//! What a snapshot looks like: JSON with its kind and version, so that another version reads it or refuses it by name.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A snapshot that this binary cannot read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Of a version that this binary does not know.
    #[error(
        "a snapshot of kind {kind:?} has version {found}; this binary reads {readable:?}: run a binary that reads it, or let its calls end first"
    )]
    Version {
        /// What it is of.
        kind: String,
        /// As found.
        found: u32,
        /// What can be read.
        readable: Vec<u32>,
    },
    /// Of another kind than was asked for.
    #[error("a snapshot of kind {found:?} is where one of {expected:?} was expected")]
    Kind {
        /// As asked for.
        expected: &'static str,
        /// As found.
        found: String,
    },
    /// No snapshot at all, or damaged.
    #[error("a snapshot of kind {kind:?} is damaged: {error}")]
    Damaged {
        /// As asked for.
        kind: &'static str,
        /// What the reader says.
        error: String,
    },
}

#[derive(Serialize)]
struct Out<'a, T> {
    kind: &'static str,
    v: u32,
    d: &'a T,
}

#[derive(Deserialize)]
struct In<'a> {
    kind: String,
    v: u32,
    #[serde(borrow)]
    d: &'a RawValue,
}

/// Writes a snapshot. `None` only for values that JSON cannot hold (maps with keys that are no text): a bug.
pub fn encode<T: Serialize>(kind: &'static str, version: u32, value: &T) -> Option<Vec<u8>> {
    serde_json::to_vec(&Out { kind, v: version, d: value }).ok()
}

/// Reads a snapshot of this kind and one of these versions; tells which version it was by handing it to `T`'s reader
/// only if it is readable.
pub fn decode<T: DeserializeOwned>(kind: &'static str, readable: &[u32], bytes: &[u8]) -> Result<T, Unreadable> {
    let damaged = |error: serde_json::Error| Unreadable::Damaged { kind, error: error.to_string() };
    let read: In<'_> = serde_json::from_slice(bytes).map_err(damaged)?;
    if read.kind != kind {
        return Err(Unreadable::Kind { expected: kind, found: read.kind });
    }
    if !readable.contains(&read.v) {
        return Err(Unreadable::Version { kind: read.kind, found: read.v, readable: readable.to_vec() });
    }
    serde_json::from_str(read.d.get()).map_err(damaged)
}

/// When a snapshot was taken, on the clock of the host that never jumps (CLOCK_BOOTTIME): its timers are kept as times
/// left, and go on where they were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    boot: String,
    ms: u64,
}

impl Moment {
    /// Now.
    pub fn now() -> Self {
        let at = clock_gettime(ClockId::Boottime);
        let ms = u64::try_from(at.tv_sec).unwrap_or(0) * 1_000 + u64::try_from(at.tv_nsec).unwrap_or(0) / 1_000_000;
        Self { boot: boot_id(), ms }
    }

    /// How long ago it was; unknown on another host, or after a boot.
    pub fn elapsed(&self) -> Option<Duration> {
        let now = Self::now();
        (now.boot == self.boot).then(|| Duration::from_millis(now.ms.saturating_sub(self.ms)))
    }
}

/// As text without blanks, for where JSON is too much.
impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.ms, self.boot)
    }
}

impl Moment {
    /// Reads that text.
    pub fn parse(text: &str) -> Option<Self> {
        let (ms, boot) = text.split_once('/')?;
        Some(Self { boot: boot.to_owned(), ms: ms.parse().ok()? })
    }
}

/// The kernel's name of this boot; empty where it has none, which compares equal only on this host's kind.
fn boot_id() -> String {
    static ID: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    let read = || std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned();
    ID.get_or_init(read).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_version_is_refused_by_name() {
        let bytes = encode("leg", 2, &vec![1, 2, 3]).expect("json");
        assert_eq!(decode::<Vec<u8>>("leg", &[1, 2], &bytes), Ok(vec![1, 2, 3]));
        let error = decode::<Vec<u8>>("leg", &[3], &bytes).expect_err("not readable");
        assert_eq!(error, Unreadable::Version { kind: "leg".into(), found: 2, readable: vec![3] });
        assert!(matches!(decode::<Vec<u8>>("call", &[2], &bytes), Err(Unreadable::Kind { .. })));
        assert!(matches!(decode::<Vec<u8>>("leg", &[2], b"{\"kind\""), Err(Unreadable::Damaged { .. })));
    }

    #[test]
    fn a_moment_is_measured_on_one_clock() {
        let moment = Moment::now();
        assert!(moment.elapsed().is_some_and(|elapsed| elapsed < Duration::from_secs(60)));
        assert_eq!(Moment::parse(&moment.to_string()), Some(moment.clone()));
        assert_eq!(Moment::parse("soon"), None);
        let elsewhere = Moment { boot: "another".into(), ..moment };
        assert_eq!(elsewhere.elapsed(), None);
    }
}
