//! The in-process backend: a bounded channel per instance, a broadcast channel for events. The embedded default, and
//! what every test runs on. A request costs a read lock, a map look-up and a channel push.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{broadcast, mpsc};
use tokio::time::Instant;

use crate::Error;
use crate::backend::{Backend, Delivery, Outgoing, ReplyTo};
use crate::contract::{InstanceId, Role};
use crate::error::code;
use crate::limits::EVENTS_BEHIND_MAX;
use crate::registry::{Announcement, pick};
use crate::rpc::Target;

/// All of it; shared by every clone of the bus.
pub(crate) struct Local {
    roles: RwLock<HashMap<Role, HashMap<InstanceId, Instance>>>,
    turn: AtomicUsize,
    events: broadcast::Sender<Bytes>,
}

struct Instance {
    announcement: Announcement,
    inbox: mpsc::Sender<Delivery>,
}

impl Local {
    pub fn new() -> Self {
        let (events, _) = broadcast::channel(EVENTS_BEHIND_MAX);
        Self { roles: RwLock::default(), turn: AtomicUsize::new(0), events }
    }

    /// The inbox a target means; the error says why there is none.
    fn inbox(&self, role: Role, target: &Target) -> Result<mpsc::Sender<Delivery>, Error> {
        let roles = self.read();
        let instances = roles.get(&role);
        match target {
            Target::Instance(id) => {
                let instance = instances.and_then(|instances| instances.get(id));
                instance.map(|instance| instance.inbox.clone()).ok_or_else(|| {
                    Error::transient(code::UNKNOWN_INSTANCE, format!("no {} instance {id}", role.name()))
                })
            }
            Target::Service => {
                let turn = self.turn.fetch_add(1, Ordering::Relaxed);
                let entries = instances.into_iter().flatten().map(|(_, entry)| (&entry.announcement, &entry.inbox));
                pick(entries, turn).cloned().ok_or_else(|| {
                    Error::transient(code::NO_INSTANCE, format!("no {} takes requests now", role.name()))
                })
            }
        }
    }

    // A poisoned lock means a panic inside one of these few lines; the maps are whole at every point of them.
    fn read(&self) -> RwLockReadGuard<'_, HashMap<Role, HashMap<InstanceId, Instance>>> {
        self.roles.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Role, HashMap<InstanceId, Instance>>> {
        self.roles.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Backend for Local {
    fn send(&self, role: Role, target: &Target, request: Outgoing<'_>, reply: ReplyTo) {
        let inbox = match self.inbox(role, target) {
            Ok(inbox) => inbox,
            Err(error) => return drop(reply.send(Err(error))),
        };
        // Reserved first, so that a refused request still has its `reply`.
        match inbox.try_reserve() {
            Ok(slot) => slot.send(Delivery::new(request.body, Instant::now(), |response| drop(reply.send(response)))),
            Err(TrySendError::Full(())) => {
                let message = format!("the inbox of {} is full", role.name());
                drop(reply.send(Err(Error::transient(code::BUSY, message))));
            }
            Err(TrySendError::Closed(())) => {
                drop(reply.send(Err(Error::transient(code::UNAVAILABLE, "the instance has just gone"))));
            }
        }
    }

    fn serve(&self, role: Role, instance: &InstanceId, requests_max: usize) -> mpsc::Receiver<Delivery> {
        let (inbox, requests) = mpsc::channel(requests_max);
        let announcement = Announcement::new(role, instance.clone(), "");
        self.write().entry(role).or_default().insert(instance.clone(), Instance { announcement, inbox });
        requests
    }

    fn announce(&self, announcement: Announcement) {
        if let Some(entry) =
            self.write().get_mut(&announcement.role).and_then(|role| role.get_mut(&announcement.instance))
        {
            entry.announcement = announcement;
        }
    }

    fn withdraw(&self, role: Role, instance: &InstanceId) {
        if let Some(instances) = self.write().get_mut(&role)
            && instances.get(instance).is_some_and(|entry| entry.inbox.is_closed())
        {
            instances.remove(instance);
        }
    }

    fn instances(&self, role: Role) -> Vec<Announcement> {
        let roles = self.read();
        roles.get(&role).into_iter().flatten().map(|(_, entry)| entry.announcement.clone()).collect()
    }

    async fn publish(&self, event: Bytes) -> Result<(), Error> {
        // No subscriber is no failure.
        let _ = self.events.send(event);
        Ok(())
    }

    fn subscribe(&self) -> broadcast::Receiver<Bytes> {
        self.events.subscribe()
    }
}
