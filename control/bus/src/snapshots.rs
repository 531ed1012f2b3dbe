//! State that outlives its process: each instance keeps its calls, legs or streams as snapshots by key.
//!
//! [`Snapshots`] never makes its owner wait: it takes the newest value of each key and a task of its own hands them, in
//! groups, to the [`Keep`]. While that is away the values wait, and if it comes back empty all of them are written again.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::contract::InstanceId;
use crate::membership::Fence;

mod format;
mod memory;

pub use format::{Moment, Unreadable, decode, encode};
pub use memory::Memory;

/// Changes wait so long for others to go with them.
const GATHER: Duration = Duration::from_millis(5);
/// The first pause after a failed write; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause: what healing may take after the keep came back.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Why a keep did not do as told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// It cannot be reached, or failed; try again.
    #[error("snapshots cannot be kept now: {0}")]
    Away(String),
    /// Another process has taken over this name; nothing of this one is kept any more.
    #[error("{0} was taken over by another process of that name")]
    Fenced(InstanceId),
    /// It is there, but has lost what it held of this instance: write everything again.
    #[error("what was kept is lost")]
    Lost,
}

/// A change of one key: its new value, or none.
pub type Change = (String, Option<Bytes>);

/// What was kept: values by key.
pub type Kept = Vec<(String, Bytes)>;

/// Where snapshots are kept. Names and fences after [`crate::membership`].
#[async_trait]
pub trait Keep: Send + Sync + 'static {
    /// Takes a name: gives the next fence, and what was kept under that name.
    async fn enter(&self, instance: &InstanceId) -> Result<(u64, Kept), KeepError>;

    /// Writes changes, all or none, unless a higher fence has been given for the name.
    async fn write(&self, instance: &InstanceId, fence: u64, changes: &[Change]) -> Result<(), KeepError>;

    /// Writes everything again after [`KeepError::Lost`], with the fence as it was; what is not named is gone.
    async fn rewrite(&self, instance: &InstanceId, fence: u64, all: &[(String, Bytes)]) -> Result<(), KeepError>;

    /// Moves what a dead instance kept to `heir`, at once or not at all, and gives the heir a fence above both. None
    /// if the instance lives, has nothing or somebody was first.
    async fn take_over(&self, dead: &InstanceId, heir: &InstanceId) -> Result<Option<(u64, Kept)>, KeepError>;
}

/// The handle of an instance's snapshots; clones share it.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
}

struct Shared {
    keep: Arc<dyn Keep>,
    instance: InstanceId,
    fence: Fence,
    state: Mutex<State>,
    changed: Notify,
    /// How many changes were taken and how many are kept.
    progress: watch::Sender<Progress>,
}

#[derive(Default)]
struct State {
    /// Everything there is now.
    values: HashMap<String, Bytes>,
    /// The keys that the keep does not have as they are.
    dirty: Vec<String>,
    /// The keep must be given everything.
    all_dirty: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    taken: u64,
    kept: u64,
    fenced: bool,
}

impl Snapshots {
    /// Begins to keep; `restored` is what the keep holds already. Must be called within a tokio runtime.
    pub(crate) fn start(
        keep: Arc<dyn Keep>,
        instance: InstanceId,
        fence: Fence,
        restored: impl IntoIterator<Item = (String, Bytes)>,
    ) -> Self {
        let state = State { values: restored.into_iter().collect(), ..State::default() };
        let shared = Arc::new(Shared {
            keep,
            instance,
            fence,
            state: Mutex::new(state),
            changed: Notify::new(),
            progress: watch::Sender::default(),
        });
        tokio::spawn(write(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// Keeps a value under a key, soon. Of several, the newest.
    pub fn put(&self, key: impl Into<String>, value: impl Into<Bytes>) {
        self.change(key.into(), Some(value.into()));
    }

    /// Forgets a key, soon.
    pub fn delete(&self, key: impl Into<String>) {
        self.change(key.into(), None);
    }

    fn change(&self, key: String, value: Option<Bytes>) {
        let mut state = self.shared.state();
        match value {
            Some(value) => drop(state.values.insert(key.clone(), value)),
            None => drop(state.values.remove(&key)),
        }
        state.dirty.push(key);
        drop(state);
        self.shared.progress.send_modify(|progress| progress.taken += 1);
        self.shared.changed.notify_one();
    }

    /// Returns when everything given before is kept, or somebody else has taken over.
    pub async fn flush(&self) {
        let mut progress = self.shared.progress.subscribe();
        let target = progress.borrow().taken;
        // The sender lives in `self`.
        let _ = progress.wait_for(|progress| progress.kept >= target || progress.fenced).await;
    }

    /// Changes that are not kept yet.
    pub fn pending(&self) -> u64 {
        let progress = *self.shared.progress.borrow();
        progress.taken - progress.kept
    }

    /// Returns when another process has taken over this name: the end of this one.
    pub async fn fenced(&self) {
        let mut progress = self.shared.progress.subscribe();
        // The sender lives in `self`.
        let _ = progress.wait_for(|progress| progress.fenced).await;
    }

    /// Takes over what a dead instance left; see [`Keep::take_over`]. It is this instance's from then on.
    pub async fn take_over(&self, dead: &InstanceId) -> Result<Option<Kept>, KeepError> {
        let Some((fence, kept)) = self.shared.keep.take_over(dead, &self.shared.instance).await? else {
            return Ok(None);
        };
        self.shared.fence.raise(fence);
        self.shared.state().values.extend(kept.iter().cloned());
        Ok(Some(kept))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to write: everything, or the changed keys once each.
    fn batch(&self) -> (bool, Vec<Change>) {
        let mut state = self.state();
        if std::mem::take(&mut state.all_dirty) {
            state.dirty.clear();
            return (true, state.values.iter().map(|(key, value)| (key.clone(), Some(value.clone()))).collect());
        }
        let mut keys = std::mem::take(&mut state.dirty);
        keys.sort_unstable();
        keys.dedup();
        (false, keys.into_iter().map(|key| (state.values.get(&key).cloned(), key)).map(|(v, k)| (k, v)).collect())
    }

    async fn write(&self, all: bool, changes: &[Change]) -> Result<(), KeepError> {
        let fence = self.fence.get();
        if all {
            let all: Vec<_> = changes.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?))).collect();
            return self.keep.rewrite(&self.instance, fence, &all).await;
        }
        self.keep.write(&self.instance, fence, changes).await
    }
}

/// The writer: ends with the last handle, or when it is fenced.
async fn write(shared: std::sync::Weak<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        // A strong handle is held while waiting: the owner's clones live as long as its role does.
        let Some(shared) = shared.upgrade() else { return };
        if shared.progress.borrow().taken == shared.progress.borrow().kept && !shared.state().all_dirty {
            shared.changed.notified().await;
        }
        sleep(GATHER).await;
        let taken = shared.progress.borrow().taken;
        let (all, changes) = shared.batch();
        match shared.write(all, &changes).await {
            Ok(()) => {
                pause = PAUSE_MIN;
                shared.progress.send_modify(|progress| progress.kept = taken);
                continue;
            }
            Err(KeepError::Fenced(instance)) => {
                tracing::error!(%instance, "another process has taken over this name");
                shared.progress.send_modify(|progress| progress.fenced = true);
                return;
            }
            Err(error) => {
                let lost = error == KeepError::Lost;
                tracing::warn!(instance = %shared.instance, %error, waiting = changes.len(), "snapshots wait");
                let mut state = shared.state();
                state.dirty.extend(changes.into_iter().map(|(key, _)| key));
                state.all_dirty |= all || lost;
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
