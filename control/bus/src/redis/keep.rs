//! Snapshots in Redis: a hash per instance, written by scripts that look at the fence first.
//!
//! Fences come from Redis' clock in microseconds, or one above the last: so they rise even if Redis loses the counter
//! with all else. Whoever comes back to an empty Redis writes its own fence again, and those of the instances that it
//! took over: what was fenced stays fenced.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use redis::{FromRedisValue, RedisError, ScriptInvocation, Value};

use super::core::text;
use super::keys::Place;
use super::link::Live;
use super::scripts::{ABANDONED, ENTER, REWRITE, TAKE_OVER, WRITE};
use super::{Redis, Tasks};
use crate::contract::{InstanceId, Role};
use crate::snapshots::{Change, Keep, KeepError, Kept};

/// See the module.
pub(super) struct Snapshots {
    tasks: Arc<Tasks>,
    own: Mutex<HashMap<InstanceId, Own>>,
}

/// What is known of an instance of this process.
#[derive(Default)]
struct Own {
    fence: u64,
    /// Whom it took over, each with the fence given then.
    heritage: Vec<(InstanceId, u64)>,
}

impl Redis {
    /// Where the instances of this process keep their snapshots.
    pub fn keep(&self) -> Arc<dyn Keep> {
        Arc::new(Snapshots { tasks: self.shared.clone(), own: Mutex::default() })
    }
}

/// The role in an instance's name decides where its snapshots are: heirs are of the same.
fn place(instance: &InstanceId) -> (Place, Option<Role>) {
    let role = instance.as_str().split_once('-').and_then(|(role, _)| Role::of_name(role));
    (role.map_or(Place::Shared, Place::Role), role)
}

impl Snapshots {
    async fn run<T: FromRedisValue>(&self, place: Place, script: &ScriptInvocation<'_>) -> Result<T, KeepError> {
        let link = &self.tasks.core.lanes.of(place).link;
        let live = link.live().map_err(|error| KeepError::Away(error.message))?;
        let mut connection = live.connection.clone();
        let failed = |error: RedisError| KeepError::Away(link.failed(live.generation, &error).message);
        script.invoke_async(&mut connection).await.map_err(failed)
    }

    /// Notes a fence of ours, and does something with what is known.
    fn own<T>(&self, instance: &InstanceId, fence: u64, look: impl FnOnce(&mut Own) -> T) -> T {
        let mut all = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.entry(instance.clone()).or_default();
        own.fence = own.fence.max(fence);
        look(own)
    }

    fn lease_ms(&self) -> u64 {
        u64::try_from(self.tasks.core.options.lease.as_millis()).unwrap_or(u64::MAX)
    }

    /// Whether our own look at the registry is old enough to call somebody dead.
    fn knows_the_dead(&self, live: &Live, role: Option<Role>, instance: &InstanceId) -> bool {
        let core = &self.tasks.core;
        live.since.elapsed() >= core.options.lease && !role.is_some_and(|role| core.view().knows(role, instance))
    }
}

#[async_trait]
impl Keep for Snapshots {
    async fn enter(&self, instance: &InstanceId) -> Result<(u64, Kept), KeepError> {
        let (place, role) = place(instance);
        let keys = &self.tasks.core.keys;
        let mut script = ENTER.prepare_invoke();
        script.key(keys.fences(place)).key(keys.kept(place, instance));
        script.key(keys.instance(role.unwrap_or(Role::Api), instance));
        script.arg(instance.as_str()).arg(self.lease_ms()).arg(0);
        let (fence, kept): (u64, Value) = self.run(place, &script).await?;
        self.own(instance, fence, |own| own.heritage.clear());
        Ok((fence, read(kept)))
    }

    async fn write(&self, instance: &InstanceId, fence: u64, changes: &[Change]) -> Result<(), KeepError> {
        let (place, _) = place(instance);
        let keys = &self.tasks.core.keys;
        let mut script = WRITE.prepare_invoke();
        script.key(keys.fences(place)).key(keys.kept(place, instance)).arg(instance.as_str()).arg(fence);
        script.arg(changes.iter().filter(|(_, value)| value.is_some()).count());
        for (key, value) in changes {
            if let Some(value) = value {
                script.arg(key).arg(&value[..]);
            }
        }
        for (key, _) in changes.iter().filter(|(_, value)| value.is_none()) {
            script.arg(key);
        }
        verdict(instance, &self.run::<String>(place, &script).await?)
    }

    async fn rewrite(&self, instance: &InstanceId, fence: u64, all: &[(String, Bytes)]) -> Result<(), KeepError> {
        let (place, _) = place(instance);
        let keys = &self.tasks.core.keys;
        let heritage = self.own(instance, fence, |own| own.heritage.clone());
        let mut script = REWRITE.prepare_invoke();
        script.key(keys.fences(place)).key(keys.kept(place, instance)).arg(instance.as_str()).arg(fence);
        script.arg(heritage.len());
        for (dead, fence) in &heritage {
            script.arg(dead.as_str()).arg(*fence);
        }
        for (key, value) in all {
            script.arg(key).arg(&value[..]);
        }
        verdict(instance, &self.run::<String>(place, &script).await?)
    }

    async fn take_over(
        &self,
        dead: &InstanceId,
        heir: &InstanceId,
        fence: u64,
    ) -> Result<Option<(u64, Kept)>, KeepError> {
        let ((place, role), keys) = (place(dead), &self.tasks.core.keys);
        if place != self::place(heir).0 || dead == heir {
            return Ok(None);
        }
        let live = self.tasks.core.lanes.of(place).link.live().map_err(|error| KeepError::Away(error.message))?;
        if !self.knows_the_dead(&live, role, dead) {
            return Ok(None);
        }
        let mut script = TAKE_OVER.prepare_invoke();
        script.key(keys.fences(place)).key(keys.kept(place, dead)).key(keys.kept(place, heir));
        script.key(keys.instance(role.unwrap_or(Role::Api), dead));
        script.arg(dead.as_str()).arg(heir.as_str());
        script.arg(fence);
        let taken: Option<(u64, Value)> = self.run(place, &script).await?;
        Ok(taken.map(|(fence, kept)| {
            self.own(heir, fence, |own| {
                own.heritage.retain(|(other, _)| other != dead);
                own.heritage.push((dead.clone(), fence));
            });
            (fence, read(kept))
        }))
    }

    async fn abandoned(&self, heir: &InstanceId) -> Result<Vec<InstanceId>, KeepError> {
        let ((place, role), keys) = (place(heir), &self.tasks.core.keys);
        let live = self.tasks.core.lanes.of(place).link.live().map_err(|error| KeepError::Away(error.message))?;
        let mut script = ABANDONED.prepare_invoke();
        script.key(keys.fences(place)).arg(keys.tag(place));
        let names: Vec<String> = self.run(place, &script).await?;
        let names = names.into_iter().map(InstanceId);
        Ok(names.filter(|name| name != heir && self.knows_the_dead(&live, role, name)).collect())
    }

    async fn returned(&self, instance: &InstanceId) {
        let link = &self.tasks.core.lanes.of(place(instance).0).link;
        if let Ok(live) = link.live() {
            link.gone(live.generation).await;
        }
        link.up().await;
    }
}

fn verdict(instance: &InstanceId, said: &str) -> Result<(), KeepError> {
    match said {
        "ok" => Ok(()),
        "fenced" => Err(KeepError::Fenced(instance.clone())),
        _ => Err(KeepError::Lost),
    }
}

/// Reads the answer to HGETALL; what is no text as a key is nothing of ours.
fn read(kept: Value) -> Kept {
    let Value::Array(flat) = kept else { return Kept::new() };
    let mut flat = flat.into_iter();
    let mut kept = Kept::new();
    while let (Some(key), Some(Value::BulkString(value))) = (flat.next(), flat.next()) {
        kept.extend(text(&key).map(|key| (key.to_owned(), Bytes::from(value))));
    }
    kept
}
