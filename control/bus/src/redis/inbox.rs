//! Reads the inbox of an instance: first what it had taken and not answered, then what comes.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::sleep;

use super::core::{Core, GROUP, Taken, lock};
use super::entry::{Entry, EntryId, RequestEntry, read_request, streams};
use super::keys::Place;
use crate::Error;
use crate::backend::Delivery;
use crate::contract::{InstanceId, Role};
use crate::error::code;
use crate::limits::READ_ENTRIES_MAX;

/// A pause after an error that is not the connection's.
const PAUSE: Duration = Duration::from_millis(50);

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
        let mut after = EntryId::default();
        loop {
            let own = self.command(key, &after.to_string(), false);
            let entries = ask(connection, &own).await?;
            let Some(last) = entries.last().map(|entry| entry.id) else { break };
            after = last;
            self.take_all(key, entries);
        }
        let new = self.command(key, ">", true);
        loop {
            let entries = ask(connection, &new).await?;
            self.take_all(key, entries);
        }
    }

    fn command(&self, key: &str, after: &str, waits: bool) -> Cmd {
        let mut command = redis::cmd("XREADGROUP");
        command.arg("GROUP").arg(GROUP).arg(self.instance.as_str()).arg("COUNT").arg(READ_ENTRIES_MAX);
        if waits {
            command.arg("BLOCK").arg(0);
        }
        command.arg("STREAMS").arg(key).arg(after);
        command
    }

    fn take_all(&self, key: &str, entries: Vec<Entry>) {
        for entry in entries {
            let id = entry.id;
            // Still being answered, or answered while Redis was away.
            if !lock(&self.taken).insert(id) {
                self.core.counters.repeated();
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

async fn ask(connection: &mut MultiplexedConnection, command: &Cmd) -> Result<Vec<Entry>, RedisError> {
    let answer: Value = connection.send_packed_command(command).await?.extract_error()?;
    Ok(streams(answer).into_iter().flat_map(|(_, entries)| entries).collect())
}
