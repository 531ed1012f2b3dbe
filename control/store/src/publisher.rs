//! Carries events from the outbox to whoever listens: at least once, and in order for each subject. It wakes after
//! commits and does not poll otherwise, except to try again what failed.
//!
//! A SQLite file has one publisher, in its one process. At a Postgres every process may run one, and one of them leads:
//! it has the publisher's lock, and reads and marks through the session that has it. When it dies another leads.
//! What it publishes while its session dies may come once more.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::calls;
use crate::database::Database;
use crate::error::Result;
use crate::outbox::{self, OutboxEvent};
use crate::postgres::Leader;
use crate::store::{Store, now_unix_ms};

/// Events taken at once.
const EVENTS_AT_ONCE: u64 = 256;

/// After a commit, how long to wait for company: so that a busy system publishes in groups. Listeners do not notice it;
/// every pass costs a query and a mark.
const GATHER: Duration = Duration::from_millis(20);

/// The pauses after a failure: the first, and the longest of the doubling ones.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a published event is kept, for a look back, and how often the older ones are removed.
const KEEP: Duration = Duration::from_secs(3600);
const PURGE_EVERY: Duration = Duration::from_secs(300);

/// How often one that does not lead tries to.
const LEAD_EVERY: Duration = Duration::from_secs(1);

/// How long an ended call's row is kept. Its record is in `cdrs`.
const KEEP_CALLS: Duration = Duration::from_secs(3600);

/// How long a leader believes that nothing came without being told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Runs until it is dropped. `publish` returns when the event is handed over for good; what it fails on stays, with all
/// that its subject has behind it, and is tried again with growing pauses. An event may be published again after a
/// crash; its sequence number tells.
pub async fn run<F, R, E>(store: Store, mut publish: F)
where
    F: FnMut(OutboxEvent) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    let Database::Postgres(server) = store.database().clone() else {
        // It waits in the writer's memory, not for a server: nothing ends it.
        let _ = keep_publishing(&store, &mut Events::Store(&store), &mut publish).await;
        return;
    };
    loop {
        match server.lead().await {
            Ok(Some(leader)) => {
                tracing::info!("this process publishes events");
                let ended = keep_publishing(&store, &mut Events::Leader(Box::new(leader)), &mut publish).await;
                tracing::warn!(error = ?ended.err(), "this process publishes no more events; one with a connection will");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the outbox cannot be reached"),
        }
        sleep(LEAD_EVERY).await;
    }
}

/// Goes once through all that is unpublished; how many events could not be published. For a process that is alone.
pub async fn pass<F, R, E>(store: &Store, publish: &mut F) -> Result<usize>
where
    F: FnMut(OutboxEvent) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    pass_over(&mut Events::Store(store), publish).await
}

/// Where events are read and marked.
enum Events<'a> {
    Store(&'a Store),
    Leader(Box<Leader>),
}

impl Events<'_> {
    async fn unpublished(&mut self, after: i64) -> Result<Vec<OutboxEvent>> {
        match self {
            Events::Store(store) => outbox::unpublished(store, after, EVENTS_AT_ONCE).await,
            Events::Leader(leader) => {
                let rows = leader.unpublished(after, EVENTS_AT_ONCE).await?;
                rows.into_iter().map(OutboxEvent::try_from).collect()
            }
        }
    }

    async fn mark(&mut self, sequences: Vec<i64>) -> Result<()> {
        match self {
            Events::Store(store) => outbox::mark_published(store, sequences, now_unix_ms()).await,
            Events::Leader(leader) => leader.mark_published(&sequences, now_unix_ms()).await,
        }
    }

    /// Returns when there may be something, and at times without.
    async fn filled(&mut self) -> Result<()> {
        match self {
            // Awake at times without events too, to purge.
            Events::Store(store) => drop(timeout(PURGE_EVERY, store.outbox_filled().notified()).await),
            Events::Leader(leader) => {
                if let Ok(told) = timeout(LOOK_EVERY, leader.filled()).await {
                    told?;
                }
            }
        }
        Ok(())
    }
}

/// Publishes until a leader's session ends.
async fn keep_publishing<F, R, E>(store: &Store, events: &mut Events<'_>, publish: &mut F) -> Result<()>
where
    F: FnMut(OutboxEvent) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut pause = PAUSE_MIN;
    let mut purged = Instant::now();
    loop {
        let failed = match pass_over(events, publish).await {
            Ok(failed) => failed > 0,
            Err(error) if matches!(events, Events::Leader(_)) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "the outbox cannot be read or marked; trying again");
                true
            }
        };
        if purged.elapsed() >= PURGE_EVERY {
            purged = Instant::now();
            purge(store).await;
        }
        if failed {
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        } else {
            pause = PAUSE_MIN;
            events.filled().await?;
            sleep(GATHER).await;
        }
    }
}

/// Removes what is over and told: events, and the rows of ended calls.
async fn purge(store: &Store) {
    let before = |keep: Duration| now_unix_ms() - i64::try_from(keep.as_millis()).unwrap_or(i64::MAX);
    let events = outbox::purge(store, before(KEEP)).await;
    let calls = calls::purge(store, before(KEEP_CALLS)).await;
    match (events, calls) {
        (Ok(events), Ok(calls)) => tracing::debug!(events, calls, "removed what is over"),
        (Err(error), _) | (_, Err(error)) => tracing::warn!(%error, "what is over cannot be removed; trying later"),
    }
}

async fn pass_over<F, R, E>(events: &mut Events<'_>, publish: &mut F) -> Result<usize>
where
    F: FnMut(OutboxEvent) -> R,
    R: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut stuck: HashSet<String> = HashSet::new();
    let mut failed = 0;
    let mut after = 0;
    loop {
        let found = events.unpublished(after).await?;
        let Some(last) = found.last() else { return Ok(failed) };
        after = last.sequence;
        let more = found.len() as u64 == EVENTS_AT_ONCE;
        let mut published = Vec::with_capacity(found.len());
        for event in found {
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
            events.mark(published).await?;
        }
        if !more {
            return Ok(failed);
        }
    }
}
