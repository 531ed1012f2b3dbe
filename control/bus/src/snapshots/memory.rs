//! A keep in memory: for tests, and for what need not outlive its process.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Change, Keep, KeepError, Kept};
use crate::contract::InstanceId;

/// The keep; clones share it, so that a test can restart its owner.
#[derive(Clone, Default)]
pub struct Memory {
    shelves: Arc<Mutex<Shelves>>,
}

#[derive(Default)]
struct Shelves {
    last_fence: u64,
    by_instance: HashMap<InstanceId, Shelf>,
}

#[derive(Default)]
struct Shelf {
    fence: u64,
    dead: bool,
    values: BTreeMap<String, Bytes>,
}

impl Memory {
    /// Declares an instance dead, so that another may take over.
    pub fn bury(&self, instance: &InstanceId) {
        self.lock().by_instance.entry(instance.clone()).or_default().dead = true;
    }

    /// Gives an instance a fence of the caller's choice.
    pub(crate) fn admit(&self, instance: &InstanceId, fence: u64) {
        let mut shelves = self.lock();
        shelves.last_fence = shelves.last_fence.max(fence);
        shelves.by_instance.entry(instance.clone()).or_default().fence = fence;
    }

    fn lock(&self) -> MutexGuard<'_, Shelves> {
        self.shelves.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shelves {
    fn next_fence(&mut self) -> u64 {
        self.last_fence += 1;
        self.last_fence
    }

    fn own(&mut self, instance: &InstanceId, fence: u64) -> Result<&mut Shelf, KeepError> {
        match self.by_instance.get_mut(instance) {
            Some(shelf) if shelf.fence <= fence => Ok(shelf),
            _ => Err(KeepError::Fenced(instance.clone())),
        }
    }
}

#[async_trait]
impl Keep for Memory {
    async fn enter(&self, instance: &InstanceId) -> Result<(u64, Kept), KeepError> {
        let mut shelves = self.lock();
        let fence = shelves.next_fence();
        let shelf = shelves.by_instance.entry(instance.clone()).or_default();
        (shelf.fence, shelf.dead) = (fence, false);
        Ok((fence, shelf.values.clone().into_iter().collect()))
    }

    async fn write(&self, instance: &InstanceId, fence: u64, changes: &[Change]) -> Result<(), KeepError> {
        let mut shelves = self.lock();
        let shelf = shelves.own(instance, fence)?;
        for (key, value) in changes {
            match value {
                Some(value) => drop(shelf.values.insert(key.clone(), value.clone())),
                None => drop(shelf.values.remove(key)),
            }
        }
        Ok(())
    }

    async fn rewrite(&self, instance: &InstanceId, fence: u64, all: &[(String, Bytes)]) -> Result<(), KeepError> {
        let mut shelves = self.lock();
        let shelf = shelves.own(instance, fence)?;
        shelf.values = all.iter().cloned().collect();
        Ok(())
    }

    async fn take_over(
        &self,
        dead: &InstanceId,
        heir: &InstanceId,
        fence: u64,
    ) -> Result<Option<(u64, Kept)>, KeepError> {
        let mut shelves = self.lock();
        if shelves.own(heir, fence).is_err() {
            return Ok(None);
        }
        let values = match shelves.by_instance.get_mut(dead) {
            Some(shelf) if shelf.dead && !shelf.values.is_empty() => std::mem::take(&mut shelf.values),
            _ => return Ok(None),
        };
        let fence = shelves.next_fence();
        shelves.by_instance.entry(dead.clone()).or_default().fence = fence;
        // The heir's own fence stays until it writes with the new one: a write of its own may be under way.
        shelves.by_instance.entry(heir.clone()).or_default().values.extend(values.clone());
        Ok(Some((fence, values.into_iter().collect())))
    }
}
