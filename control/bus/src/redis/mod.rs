//! The bus over Redis: roles as processes, any number of each.
//!
//! **Requests.** Each instance has a stream, its inbox, with a consumer group of its service. A caller writes into the
//! inbox of the instance it means; for a service it chooses the least loaded willing one by the registry. The answer
//! comes on the stream of the caller's process. An entry stays in the inbox until it is answered: a process that is
//! started again under the same name first takes up what the last one had not answered, and of one that does not come
//! back, another instance takes up what any may answer.
//!
//! **Redis away.** Then everything fails at once as transient `unavailable`. When it is back, empty or not, groups are made again,
//! instances announce themselves and answers that waited are sent.
//!
//! Tasks: one per connection that writes (`writer`) and one that keeps it (`link`), one that reads what is for everybody
//! (`shared`), one per served inbox (`inbox`), and those of the registry.

mod breaker;
mod cache;
mod core;
mod entry;
mod inbox;
mod keep;
mod keys;
mod link;
mod options;
mod pending;
mod registry;
mod resolve;
mod scripts;
mod shared;
mod view;
mod writer;

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use tokio::task::JoinHandle;
use tokio::time::Instant;

pub use self::cache::Cache;
pub use self::link::LinkError;
pub use self::options::{LEASE, Options, UrlError};

use self::core::{Core, Serving};
use self::keys::{Place, ROLES};
use crate::backend::{Backend, Delivery, Outgoing, ReplyTo};
use crate::contract::{InstanceId, Role};
use crate::error::code;
use crate::limits::MESSAGE_BYTES_MAX;
use crate::registry::Announcement;
use crate::rpc::{Counters, Target};
use crate::{Bus, Error};

/// A Redis that this process is connected to: its bus, its keep, its cache.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Tasks>,
}

/// The backend of the bus; its tasks end with it.
struct Tasks {
    core: Arc<Core>,
    runtime: tokio::runtime::Handle,
    tasks: Vec<JoinHandle<()>>,
}

impl Redis {
    /// Connects. Fails if Redis cannot be reached now; later it may come and go.
    pub async fn connect(options: Options) -> Result<Self, LinkError> {
        let core = Core::connect(options, Arc::new(Counters::default())).await?;
        let live = core.lanes.of(Place::Shared).link.up().await;
        let failed = |error| LinkError::Redis { node: live.node.to_string(), error };
        shared::prepare(&core, &live).await.map_err(failed)?;
        let places = shared::Places::now(&core, &live).await.map_err(failed)?;
        for role in ROLES {
            let live = core.lanes.of(Place::Role(role)).link.up().await;
            registry::read(&core, &live, role).await.map_err(failed)?;
        }
        let mut tasks = vec![
            tokio::spawn(shared::run(core.clone(), places)),
            tokio::spawn(registry::announce(core.clone())),
            tokio::spawn(registry::watch(core.clone())),
            tokio::spawn(registry::sweep(core.clone())),
        ];
        tasks.extend(
            core.lanes.all().iter().map(|lane| tokio::spawn(registry::follow(core.clone(), lane.link.clone()))),
        );
        let runtime = tokio::runtime::Handle::current();
        Ok(Self { shared: Arc::new(Tasks { core, runtime, tasks }) })
    }

    /// The bus.
    pub fn bus(&self) -> Bus {
        Bus { backend: self.shared.clone(), counters: self.shared.core.counters.clone() }
    }
}

impl Bus {
    /// A bus over Redis; see [`Redis::connect`].
    pub async fn redis(options: Options) -> Result<Self, LinkError> {
        Ok(Redis::connect(options).await?.bus())
    }
}

impl Drop for Tasks {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.core.serving().values().for_each(|serving| serving.reader.abort());
    }
}

impl Tasks {
    /// Whom a target means; the error says why there is nobody.
    fn callee(&self, role: Role, target: &Target, key: Option<&str>) -> Result<InstanceId, Error> {
        let now = Instant::now();
        let mut view = self.core.view();
        let callee = match target {
            Target::Instance(id) if view.knows(role, id) => id.clone(),
            Target::Instance(id) => {
                return Err(Error::transient(code::UNKNOWN_INSTANCE, format!("no {} instance {id}", role.name())));
            }
            Target::Service => {
                let chosen = self.core.pending.breakers(|breakers| view.choose(role, key, breakers, now));
                chosen.ok_or_else(|| {
                    Error::transient(code::NO_INSTANCE, format!("no {} takes requests now", role.name()))
                })?
            }
        };
        drop(view);
        if self.core.pending.breakers(|breakers| breakers.passes(&callee, now)) {
            return Ok(callee);
        }
        self.core.counters.broken();
        let message = format!("{callee} has not answered for a while; it is tried again every second");
        Err(Error::transient(code::UNAVAILABLE, message))
    }
}

#[async_trait]
impl Backend for Tasks {
    fn send(&self, role: Role, target: &Target, request: Outgoing<'_>, reply: ReplyTo) {
        let core = &self.core;
        let lane = core.lanes.of(Place::Role(role));
        // Without either connection there is no way to it, or none back.
        let up = lane.link.live().and(core.lanes.of(Place::Shared).link.live());
        let callee = up.and_then(|_| self.callee(role, target, request.key));
        let callee = match callee {
            Ok(_) if request.body.len() > MESSAGE_BYTES_MAX => {
                let message = format!("a request of {} bytes; {MESSAGE_BYTES_MAX} are the most", request.body.len());
                return drop(reply.send(Err(Error::permanent(code::INVALID_REQUEST, message))));
            }
            Ok(callee) => callee,
            Err(error) => return drop(reply.send(Err(error))),
        };
        let inbox = core.keys.inbox(role, &callee);
        let number = core.pending.note(callee.clone(), request.deadline, reply);
        let command = entry::request(&inbox, &request.body, &core.process, number, *target == Target::Service);
        let waiting = self.core.clone();
        lane.writer.push(command, move |outcome| match outcome {
            // No stream: it was announced, but is not there (any more, or yet again).
            Ok(redis::Value::Nil) => {
                let message = format!("{callee} has no inbox now");
                waiting.pending.refused(number, Error::transient(code::UNKNOWN_INSTANCE, message));
            }
            Ok(_) => {}
            Err(error) => waiting.pending.refused(number, error),
        });
    }

    fn serve(&self, role: Role, instance: &InstanceId, requests_max: usize) -> mpsc::Receiver<Delivery> {
        let core = &self.core;
        let (inbox, requests) = mpsc::channel(requests_max);
        let announcement = Announcement::new(role, instance.clone(), "");
        let mut serving = core.serving();
        let key = (role, instance.clone());
        let before = serving.remove(&key);
        if let Some(before) = &before {
            before.reader.abort();
        }
        // An inbox that replaces another of this process knows what that one is still answering.
        let taken = before.map_or_else(|| Arc::new(Mutex::new(HashSet::new())), |before| before.taken);
        let reader = inbox::Reader {
            core: core.clone(),
            role,
            instance: instance.clone(),
            inbox: inbox.clone(),
            taken: taken.clone(),
        };
        let reader = self.runtime.spawn(reader.run()).abort_handle();
        serving.insert(key, Serving { announcement, inbox, taken, number: 0, fresh: true, reader });
        drop(serving);
        core.announce.notify_one();
        requests
    }

    fn announce(&self, announcement: Announcement) {
        let mut serving = self.core.serving();
        if let Some(serving) = serving.get_mut(&(announcement.role, announcement.instance.clone()))
            && serving.announcement != announcement
        {
            serving.announcement = announcement;
            serving.fresh = true;
            self.core.announce.notify_one();
        }
    }

    fn withdraw(&self, role: Role, instance: &InstanceId) {
        let mut serving = self.core.serving();
        let key = (role, instance.clone());
        if serving.get(&key).is_some_and(|serving| serving.inbox.is_closed())
            && let Some(left) = serving.remove(&key)
        {
            left.reader.abort();
            self.runtime.spawn(registry::leave(self.core.clone(), role, instance.clone(), left));
        }
    }

    fn instances(&self, role: Role) -> Vec<Announcement> {
        self.core.view().announcements(role)
    }

    async fn publish(&self, event: Bytes) -> Result<(), Error> {
        if event.len() > MESSAGE_BYTES_MAX {
            let message = format!("an event of {} bytes; {MESSAGE_BYTES_MAX} are the most", event.len());
            return Err(Error::permanent(code::INVALID_PARAMS, message));
        }
        let link = &self.core.lanes.of(Place::Shared).link;
        link.ask(&entry::event(&self.core.keys.events(), &event)).await.map(drop)
    }

    fn subscribe(&self) -> broadcast::Receiver<Bytes> {
        self.core.events.subscribe()
    }
}
