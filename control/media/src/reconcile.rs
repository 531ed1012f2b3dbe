//! What the agent believes against what the dataplane's stream tables say. Pure; called after every attach, and by the
//! sweep for streams that nobody claims.
//!
//! Media outlives control: a stream that a dead agent left behind keeps flowing. It is closed by its switchboard
//! (`stream.destroy` finds it by its id), or when it has been silent for long and nobody has asked for it.

use nebula_ring::command::StreamId;
use nebula_ring::table::StreamRecord;
use std::collections::HashMap;

/// A stream found in a worker's table.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// Whose table.
    pub worker: usize,
    /// What it says.
    pub record: StreamRecord,
}

/// The comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Ours, and alive.
    pub alive: Vec<StreamId>,
    /// Ours, and gone.
    pub vanished: Vec<StreamId>,
    /// Alive, and not ours.
    pub unclaimed: Vec<Unclaimed>,
}

/// A stream that an earlier agent made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unclaimed {
    /// Its name.
    pub id: StreamId,
    /// Where it lives.
    pub worker: usize,
    /// Its RTP port.
    pub rtp_port: u16,
}

/// Compares. Both sides may be in any order.
pub fn reconcile(believed: impl IntoIterator<Item = StreamId>, found: &[Found]) -> Reconciled {
    let mut unseen: HashMap<StreamId, &Found> = found.iter().map(|it| (StreamId(it.record.id), it)).collect();
    let mut result = Reconciled::default();
    for id in believed {
        match unseen.remove(&id) {
            Some(_) => result.alive.push(id),
            None => result.vanished.push(id),
        }
    }
    result.unclaimed =
        unseen.into_iter().map(|(id, it)| Unclaimed { id, worker: it.worker, rtp_port: it.record.rtp_port }).collect();
    result.alive.sort_unstable();
    result.vanished.sort_unstable();
    result.unclaimed.sort_unstable_by_key(|it| it.id);
    result
}

/// Whether an unclaimed stream may be closed: no RTP for so long, counted from when it was made or found. Times are
/// CLOCK_MONOTONIC, as in the table.
pub fn is_abandoned(record: &StreamRecord, found_at_ms: u64, now_ms: u64, silence_ms_max: u64) -> bool {
    let last_sign = record.rtp_in_at_ms.max(record.created_at_ms).max(found_at_ms);
    now_ms.saturating_sub(last_sign) >= silence_ms_max
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: u64, worker: usize) -> Found {
        Found { worker, record: StreamRecord { id, rtp_port: 10_000 + 2 * id as u16, ..StreamRecord::default() } }
    }

    #[test]
    fn each_stream_is_alive_vanished_or_unclaimed() {
        let result = reconcile([StreamId(2), StreamId(1), StreamId(9)], &[found(1, 0), found(7, 1), found(2, 0)]);
        assert_eq!(result.alive, [StreamId(1), StreamId(2)]);
        assert_eq!(result.vanished, [StreamId(9)]);
        assert_eq!(result.unclaimed, [Unclaimed { id: StreamId(7), worker: 1, rtp_port: 10_014 }]);
    }

    #[test]
    fn silence_counts_from_the_last_sign_of_life() {
        let record = StreamRecord { id: 1, rtp_in_at_ms: 500, created_at_ms: 100, ..StreamRecord::default() };
        assert!(!is_abandoned(&record, 0, 1_499, 1_000));
        assert!(is_abandoned(&record, 0, 1_500, 1_000));
        assert!(!is_abandoned(&record, 900, 1_500, 1_000), "it gets its time from when it was found");
        assert!(!is_abandoned(&record, 900, 0, 1_000), "a clock that is behind harms nothing");
    }
}
