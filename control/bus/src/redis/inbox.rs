//! Reads the inbox of an instance: first what it had taken and not answered, then what comes.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::{Instant, sleep};

use super::core::{Core, GROUP, Taken, lock, text};
use super::entry::{Entry, EntryId, RequestEntry, entries, read_request, streams};
use super::keys::Place;
use super::scripts::FORGET_CONSUMERS;
use crate::Error;
use crate::backend::Delivery;
use crate::contract::{InstanceId, Role};
use crate::error::code;
use crate::limits::READ_ENTRIES_MAX;

/// A pause after an error that is not the connection's.
const PAUSE: Duration = Duration::from_millis(50);

/// What was given to others of this name is looked for so often in a lease.
const CLAIMS_PER_LEASE: u32 = 5;

/// One instance's inbox.
pub(super) struct Reader {
    pub core: Arc<Core>,
    pub role: Role,
    pub instance: InstanceId,
    pub inbox: mpsc::Sender<Delivery>,
    pub taken: Arc<Taken>,
}

impl Reader {
    /// Reads for as long as somebody takes what comes.
    pub async fn run(self) {
        let core = self.core.clone();
        let place = Place::Role(self.role);
        let key = core.keys.inbox(self.role, &self.instance);
        let link = &core.lanes.of(place).link;
        while !self.inbox.is_closed() {
            let live = link.up().await;
            let reading = async {
                let mut connection = link.open(&live).await.map_err(|error| error.to_string())?;
                self.read(&mut connection, &key).await.map_err(|error| error.to_string())
            };
            let outcome = tokio::select! {
                outcome = reading => outcome,
                () = link.gone(live.generation) => continue,
                () = self.inbox.closed() => return,
            };
            if let Err(error) = outcome {
                tracing::debug!(instance = %self.instance, error, "reading the inbox again");
                sleep(PAUSE).await;
            }
        }
    }

    async fn read(&self, connection: &mut MultiplexedConnection, key: &str) -> Result<(), RedisError> {
        let mut create = redis::cmd("XGROUP");
        create.arg("CREATE").arg(key).arg(GROUP).arg("0").arg("MKSTREAM");
        match connection.send_packed_command(&create).await?.extract_error() {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(error),
            _ => {}
        }
        self.claim(connection, key, Duration::ZERO).await?;
        let rest = FORGET_CONSUMERS.key(key).arg(GROUP).arg(&self.core.process).invoke_async::<()>(connection).await;
        rest?;
        let every = self.core.options.lease / CLAIMS_PER_LEASE;
        let mut claimed = Instant::now();
        let mut new = redis::cmd("XREADGROUP");
        new.arg("GROUP").arg(GROUP).arg(&self.core.process).arg("COUNT").arg(READ_ENTRIES_MAX);
        new.arg("BLOCK").arg(ms(every)).arg("STREAMS").arg(key).arg(">");
        loop {
            let answer: Value = connection.send_packed_command(&new).await?.extract_error()?;
            self.take_all(key, streams(answer).into_iter().flat_map(|(_, entries)| entries).collect());
            if claimed.elapsed() >= every {
                // One that had the name before may have been given a request while it was losing it.
                self.claim(connection, key, every).await?;
                claimed = Instant::now();
            }
        }
    }

    /// Takes what other processes of this name, and other connections of ours, were given and have not answered.
    async fn claim(&self, connection: &mut MultiplexedConnection, key: &str, idle: Duration) -> Result<(), RedisError> {
        let mut from = "0-0".to_owned();
        loop {
            let mut command = redis::cmd("XAUTOCLAIM");
            command.arg(key).arg(GROUP).arg(&self.core.process).arg(ms(idle)).arg(&from);
            command.arg("COUNT").arg(READ_ENTRIES_MAX);
            let answer: Value = connection.send_packed_command(&command).await?.extract_error()?;
            let Value::Array(parts) = answer else { return Ok(()) };
            let mut parts = parts.into_iter();
            let (Some(next), Some(given)) = (parts.next(), parts.next()) else { return Ok(()) };
            self.take_all(key, entries(given));
            match text(&next) {
                Some("0-0") | None => return Ok(()),
                Some(next) => from = next.to_owned(),
            }
        }
    }

    fn take_all(&self, key: &str, entries: Vec<Entry>) {
        for entry in entries {
            let id = entry.id;
            // Still being answered, or answered while Redis was away.
            if !lock(&self.taken).insert(id) {
                continue;
            }
            match read_request(entry) {
                Some(request) => self.deliver(key, id, request),
                None => {
                    self.core.counters.malformed();
                    self.core.finish(Place::Role(self.role), key, id, &self.taken);
                }
            }
        }
    }

    fn deliver(&self, key: &str, id: EntryId, request: RequestEntry) {
        let sent = self.core.sent_at(&request);
        let (core, place, key, taken) = (self.core.clone(), Place::Role(self.role), key.to_owned(), self.taken.clone());
        let from = request.from;
        let answer = move |outcome| core.answer(&place, &key, id, &taken, from.as_ref(), &outcome);
        match self.inbox.try_reserve() {
            Ok(slot) => slot.send(Delivery::new(request.body, sent, answer)),
            Err(TrySendError::Full(())) => {
                let message = format!("the inbox of {} is full", self.role.name());
                answer(Err(Error::transient(code::BUSY, message)));
            }
            Err(TrySendError::Closed(())) => {
                answer(Err(Error::transient(code::UNAVAILABLE, "the instance has just gone")));
            }
        }
    }
}

fn ms(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
