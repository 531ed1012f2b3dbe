//! Carries events from the outbox to whoever listens: at least once, and in order for each subject. One task per
//! database; it wakes after commits and does not poll otherwise, except to try again what failed.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::Result;
use crate::outbox::{self, OutboxEvent};
use crate::store::{Store, now_unix_ms};

/// Events taken at once.
const EVENTS_AT_ONCE: u64 = 256;

/// After a commit, how long to wait for company: so that a busy system publishes in groups. Listeners do not notice it;
/// every pass costs a query and a mark.
const GATHER: Duration = Duration::from_millis(50);

/// The pauses after a failure: the first, and the longest of the doubling ones.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a published event is kept, for a look back, and how often the older ones are removed.
const KEEP: Duration = Duration::from_secs(3600);
const PURGE_EVERY: Duration = Duration::from_secs(300);

/// Runs until it is dropped. `publish` returns when the event is handed over for good; what it fails on stays, with all
/// that its subject has behind it, and is tried again with growing pauses. An event may be published again after a
/// crash; its sequence number tells.
pub async fn run<F, R, E>(store: Store, mut publish: F)
where
    F: FnMut(OutboxEvent) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut pause = PAUSE_MIN;
    let mut purged = Instant::now();
    loop {
        let failed = match pass(&store, &mut publish).await {
            Ok(failed) => failed > 0,
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read or marked; trying again");
                true
            }
        };
        if purged.elapsed() >= PURGE_EVERY {
            purged = Instant::now();
            let before = now_unix_ms() - KEEP.as_millis() as i64;
            if let Err(error) = outbox::purge(&store, before).await {
                tracing::warn!(%error, "old events cannot be removed; trying again later");
            }
        }
        if failed {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = PAUSE_MIN;
            // Awake at times without events too, to purge.
            if timeout(PURGE_EVERY, store.outbox_filled().notified()).await.is_ok() {
                sleep(GATHER).await;
            }
        }
    }
}

/// Goes once through all that is unpublished; how many events could not be published.
pub async fn pass<F, R, E>(store: &Store, publish: &mut F) -> Result<usize>
where
    F: FnMut(OutboxEvent) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut stuck: HashSet<String> = HashSet::new();
    let mut failed = 0;
    let mut after = 0;
    loop {
        let events = outbox::unpublished(store, after, EVENTS_AT_ONCE).await?;
        let Some(last) = events.last() else { return Ok(failed) };
        after = last.sequence;
        let more = events.len() as u64 == EVENTS_AT_ONCE;
        let mut published = Vec::with_capacity(events.len());
        for event in events {
            let (sequence, subject) = (event.sequence, event.subject.clone());
            if stuck.contains(&subject) {
                failed += 1;
                continue;
            }
            match publish(event).await {
                Ok(()) => published.push(sequence),
                Err(error) => {
                    tracing::warn!(%error, sequence, subject, "an event cannot be published; trying again");
                    stuck.insert(subject);
                    failed += 1;
                }
            }
        }
        if !published.is_empty() {
            outbox::mark_published(store, published, now_unix_ms()).await?;
        }
        if !more {
            return Ok(failed);
        }
    }
}
