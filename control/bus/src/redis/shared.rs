//! Reads what is for everybody, and the replies to this process: events, news, replies, in one blocking read.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::time::{Instant, sleep};

use super::core::Core;
use super::entry::{Entry, EntryId, read_event, read_news, read_reply, streams};
use super::keys::Place;
use super::link::Live;
use super::registry;
use super::scripts::{KEEP_STREAM, LAST_IDS};
use crate::limits::READ_ENTRIES_MAX;

/// How long a stream of replies outlives its process. Longer than any jump of a clock that is set.
pub(super) const REPLIES_LIVE_MS: u64 = 2 * 3600 * 1000;

/// A pause after an error that is not the connection's.
const PAUSE: Duration = Duration::from_millis(50);

/// So many replies are read before the stream is trimmed.
const TRIM_EVERY: usize = 64;

/// Where the reading stands.
#[derive(Clone, Copy)]
pub(super) struct Places {
    events: EntryId,
    news: EntryId,
}

impl Places {
    /// The ends of both streams: from now on.
    pub async fn now(core: &Core, live: &Live) -> Result<Self, RedisError> {
        let mut connection = live.connection.clone();
        let ends: (String, String) =
            LAST_IDS.key(core.keys.events()).key(core.keys.news()).invoke_async(&mut connection).await?;
        let read = |text: &str| EntryId::parse(text.as_bytes()).unwrap_or_default();
        Ok(Self { events: read(&ends.0), news: read(&ends.1) })
    }

    /// After a new connection: where it stood; from the start where Redis has begun anew, since all of it is unseen.
    fn after(self, ends: Self) -> Self {
        let go_on = |stood: EntryId, end: EntryId| if end < stood { EntryId::default() } else { stood };
        Self { events: go_on(self.events, ends.events), news: go_on(self.news, ends.news) }
    }
}

/// Makes sure that replies can come.
pub(super) async fn prepare(core: &Core, live: &Live) -> Result<(), RedisError> {
    let mut connection = live.connection.clone();
    let key = core.keys.replies(&core.process);
    KEEP_STREAM.key(key).arg(REPLIES_LIVE_MS).invoke_async::<()>(&mut connection).await
}

/// Reads for as long as the bus lives.
pub(super) async fn run(core: Arc<Core>, mut places: Places) {
    let link = core.lanes.of(Place::Shared).link.clone();
    loop {
        let live = link.up().await;
        let reading = async {
            prepare(&core, &live).await.map_err(|error| error.to_string())?;
            let ends = Places::now(&core, &live).await.map_err(|error| error.to_string())?;
            places = places.after(ends);
            let mut connection = link.open(&live).await.map_err(|error| error.to_string())?;
            read(&core, &mut connection, &mut places).await.map_err(|error| error.to_string())
        };
        let outcome: Result<(), String> = tokio::select! {
            outcome = reading => outcome,
            () = link.gone(live.generation) => continue,
        };
        if let Err(error) = outcome {
            tracing::debug!(error, "reading events and replies again");
            sleep(PAUSE).await;
        }
    }
}

async fn read(core: &Arc<Core>, connection: &mut MultiplexedConnection, places: &mut Places) -> Result<(), RedisError> {
    let (events, news, replies) = (core.keys.events(), core.keys.news(), core.keys.replies(&core.process));
    // From the start each time: a reply that was read before finds nobody who waits for it.
    let mut replied = EntryId::default();
    let mut untrimmed = 0;
    loop {
        let mut command = redis::cmd("XREAD");
        command.arg("COUNT").arg(READ_ENTRIES_MAX).arg("BLOCK").arg(0).arg("STREAMS");
        command.arg(&replies).arg(&news).arg(&events);
        command.arg(replied.to_string()).arg(places.news.to_string()).arg(places.events.to_string());
        let answer: Value = connection.send_packed_command(&command).await?.extract_error()?;
        for (key, entries) in streams(answer) {
            let Some(last) = entries.last().map(|entry| entry.id) else { continue };
            if key == replies.as_bytes() {
                replied = last;
                untrimmed += entries.len();
                entries.into_iter().for_each(|entry| reply(core, entry));
            } else if key == news.as_bytes() {
                places.news = last;
                entries.into_iter().for_each(|entry| told(core, entry));
            } else {
                places.events = last;
                entries.into_iter().for_each(|entry| event(core, entry));
            }
        }
        if untrimmed >= TRIM_EVERY {
            untrimmed = 0;
            core.lanes.of(Place::Shared).writer.push(trim(&replies, replied.next()), drop);
        }
    }
}

fn trim(replies: &str, from: EntryId) -> Cmd {
    let mut command = redis::cmd("XTRIM");
    command.arg(replies).arg("MINID").arg("~").arg(from.to_string());
    command
}

fn reply(core: &Core, entry: Entry) {
    match read_reply(entry) {
        Some((number, outcome)) => core.pending.answered(number, outcome),
        None => core.counters.malformed(),
    }
}

fn event(core: &Core, entry: Entry) {
    match read_event(entry) {
        // No subscriber is no failure.
        Some(event) => drop(core.events.send(event)),
        None => core.counters.malformed(),
    }
}

fn told(core: &Arc<Core>, entry: Entry) {
    let Some(news) = read_news(entry) else { return core.counters.malformed() };
    registry::replaced_by(core, &news);
    let instance = news.instance.clone();
    if core.view().hear(news, Instant::now()) {
        core.pending.breakers(|breakers| breakers.forget(&instance));
    }
}
