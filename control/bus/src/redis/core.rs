//! What all tasks of the Redis backend share: the connections, the requests that wait, the view of who is there.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, Value};
use tokio::sync::{Notify, broadcast, mpsc};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::entry::{EntryId, RequestEntry, reply};
use super::keys::{Keys, Place, ROLES, slot};
use super::link::{Link, LinkError};
use super::options::{Kind, Options};
use super::pending::Pending;
use super::view::View;
use super::writer::Writer;
use crate::Error;
use crate::backend::Delivery;
use crate::contract::{InstanceId, Role};
use crate::limits::{ANSWERS_WAITING_MAX, EVENTS_BEHIND_MAX};
use crate::registry::Announcement;
use crate::rpc::Counters;

/// The consumer group of each inbox; its consumers are the processes that have, or had, the instance's name.
pub(super) const GROUP: &str = "service";

/// See the module.
pub(super) struct Core {
    pub options: Arc<Options>,
    pub keys: Keys,
    pub counters: Arc<Counters>,
    /// Names this process: its stream of replies.
    pub process: String,
    pub lanes: Lanes,
    pub pending: Pending,
    pub view: Mutex<View>,
    pub serving: Mutex<HashMap<(Role, InstanceId), Serving>>,
    /// Something is to be announced.
    pub announce: Notify,
    pub events: broadcast::Sender<Bytes>,
    pub clock: Clock,
    again: Mutex<VecDeque<Again>>,
}

/// An instance of this process.
pub(super) struct Serving {
    pub announcement: Announcement,
    pub inbox: mpsc::Sender<Delivery>,
    pub taken: Arc<Taken>,
    /// 0 until Redis gave one.
    pub number: u64,
    /// It has something to tell.
    pub fresh: bool,
    pub reader: AbortHandle,
}

/// The requests of an inbox that were taken and whose end Redis has not confirmed: such an entry may come again.
pub(super) type Taken = Mutex<HashSet<EntryId>>;

/// A command that Redis did not take, and what it was about.
struct Again {
    place: Place,
    command: Cmd,
    entry: Option<(Arc<Taken>, EntryId)>,
}

impl Core {
    pub async fn connect(options: Options, counters: Arc<Counters>) -> Result<Arc<Self>, LinkError> {
        let options = Arc::new(options);
        let keys = Keys::new(&options.prefix);
        let lanes = Lanes::connect(&options, &keys).await?;
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        Ok(Arc::new(Self {
            view: Mutex::new(View::new(options.lease)),
            options,
            keys,
            counters,
            process: ulid::Ulid::new().to_string(),
            lanes,
            pending: Pending::default(),
            serving: Mutex::default(),
            announce: Notify::new(),
            events,
            clock: Clock::default(),
            again: Mutex::default(),
        }))
    }

    // The maps behind these are whole at every point where a panic could strike.
    pub fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn serving(&self) -> MutexGuard<'_, HashMap<(Role, InstanceId), Serving>> {
        self.serving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn again(&self) -> MutexGuard<'_, VecDeque<Again>> {
        self.again.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request of an inbox and takes it out of its stream.
    pub fn answer(
        self: &Arc<Self>,
        inbox: &Place,
        key: &str,
        id: EntryId,
        taken: &Arc<Taken>,
        from: Option<&(String, u64)>,
        outcome: &Result<Bytes, Error>,
    ) {
        if let Some((process, number)) = from {
            self.until_taken(Place::Shared, reply(&self.keys.replies(process), *number, outcome), None);
        }
        self.finish(*inbox, key, id, taken);
    }

    /// Takes an entry out of an inbox's stream.
    pub fn finish(self: &Arc<Self>, inbox: Place, key: &str, id: EntryId, taken: &Arc<Taken>) {
        let mut acknowledge = redis::cmd("XACK");
        acknowledge.arg(key).arg(GROUP).arg(id.to_string());
        self.until_taken(inbox, acknowledge, None);
        let mut delete = redis::cmd("XDEL");
        delete.arg(key).arg(id.to_string());
        self.until_taken(inbox, delete, Some((taken.clone(), id)));
    }

    /// Sends a command; if Redis is away, again when it is back.
    fn until_taken(self: &Arc<Self>, place: Place, command: Cmd, entry: Option<(Arc<Taken>, EntryId)>) {
        let core = self.clone();
        let copy = command.clone();
        self.lanes.of(place).writer.push(command, move |outcome| match outcome {
            Ok(_) => {
                if let Some((taken, id)) = entry {
                    lock(&taken).remove(&id);
                }
            }
            Err(_) => {
                let mut again = core.again();
                if again.len() >= ANSWERS_WAITING_MAX
                    && let Some(Again { entry: Some((taken, id)), .. }) = again.pop_front()
                {
                    lock(&taken).remove(&id);
                }
                again.push_back(Again { place, command: copy, entry });
            }
        });
    }

    /// Sends what Redis did not take before.
    pub fn send_again(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *self.again());
        for Again { place, command, entry } in waiting {
            self.until_taken(place, command, entry);
        }
    }

    /// When a request was sent, on this process's clock: by the sender's own if that runs on this host, else by Redis'.
    pub fn sent_at(&self, request: &RequestEntry) -> Instant {
        let by_host = request.sent.as_ref().and_then(|sent| sent.elapsed());
        let age = by_host.or_else(|| self.clock.age(request.taken_ms)).unwrap_or_default();
        let now = Instant::now();
        now.checked_sub(age).unwrap_or(now)
    }
}

pub(super) fn lock(taken: &Taken) -> MutexGuard<'_, HashSet<EntryId>> {
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A connection and its writer.
pub(super) struct Lane {
    pub link: Arc<Link>,
    pub writer: Writer,
}

/// The connections by place: one for all, or in a cluster one for each, since they may be on different nodes.
pub(super) struct Lanes {
    by_place: Vec<(Place, Arc<Lane>)>,
}

impl Lanes {
    async fn connect(options: &Arc<Options>, keys: &Keys) -> Result<Self, LinkError> {
        let mut by_place: Vec<(Place, Arc<Lane>)> = Vec::new();
        for place in [Place::Shared].into_iter().chain(ROLES.map(Place::Role)) {
            let lane = match by_place.first() {
                Some((_, lane)) if options.kind != Kind::Cluster => lane.clone(),
                _ => {
                    let link = Arc::new(Link::connect(options.clone(), slot(&keys.tag(place))).await?);
                    Arc::new(Lane { writer: Writer::start(link.clone()), link })
                }
            };
            by_place.push((place, lane));
        }
        Ok(Self { by_place })
    }

    pub fn of(&self, place: Place) -> &Arc<Lane> {
        // `connect` has put every place in; the first is there in any case.
        let found = self.by_place.iter().find(|(of, _)| *of == place);
        &found.unwrap_or(&self.by_place[0]).1
    }

    /// Every connection once.
    pub fn all(&self) -> Vec<Arc<Lane>> {
        let mut all: Vec<Arc<Lane>> = Vec::new();
        for (_, lane) in &self.by_place {
            if !all.iter().any(|other| Arc::ptr_eq(other, lane)) {
                all.push(lane.clone());
            }
        }
        all
    }
}

/// Redis' clock as seen from here, for requests from other hosts.
#[derive(Default)]
pub(super) struct Clock {
    /// A moment here and what Redis' clock said then, in ms.
    read: RwLock<Option<(Instant, u64)>>,
}

impl Clock {
    pub fn set(&self, redis_ms: u64) {
        *self.read.write().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), redis_ms));
    }

    /// How long ago that was; nothing if it is unknown or still to come (its clock was set back).
    fn age(&self, redis_ms: u64) -> Option<Duration> {
        let (at, then) = (*self.read.read().unwrap_or_else(PoisonError::into_inner))?;
        let now = then + u64::try_from(at.elapsed().as_millis()).unwrap_or(0);
        now.checked_sub(redis_ms).map(Duration::from_millis)
    }
}

/// A bulk or simple string as text; nothing for all else.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}
