//! State that outlives its process: each instance keeps its calls, legs or streams as snapshots by key.
//!
//! [`Snapshots`] never makes its owner wait: it takes the newest value of each key and a task of its own hands them, in
//! groups, to the [`Keep`]. While that is away the values wait, and if it comes back empty all of them are written again.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
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

/// Changes wait so long for others to go with them. Somebody may wait for them: an answer leaves once its call is kept.
const GATHER: Duration = Duration::from_millis(1);
/// The first pause after a failed write; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause: what healing may take after the keep came back.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// With nothing to write, the keep is asked so often whether the name is still ours and nothing is lost.
const BEAT: Duration = Duration::from_secs(2);

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

    /// Moves what a dead instance kept to `heir`, whose fence this is, at once or not at all, and gives the heir a fence
    /// above both. None if the instance lives, has nothing or somebody was first, or if the heir is fenced itself.
    async fn take_over(
        &self,
        dead: &InstanceId,
        heir: &InstanceId,
        fence: u64,
    ) -> Result<Option<(u64, Kept)>, KeepError>;

    /// The instances that `heir` could take over: they kept something and are dead, as far as is known.
    async fn abandoned(&self, _heir: &InstanceId) -> Result<Vec<InstanceId>, KeepError> {
        Ok(Vec::new())
    }

    /// Returns when it was away and is back, perhaps with less than it had: everything is to be written again. Never
    /// for one that is never away.
    async fn returned(&self, _instance: &InstanceId) {
        std::future::pending().await
    }
}

/// The handle of an instance's snapshots; clones share it.
#[derive(Clone)]
pub struct Snapshots {
    shared: Arc<Shared>,
    /// Shared by all handles and nobody else.
    _handles: Arc<Handles>,
}

/// Tells the writer that the last handle was dropped.
struct Handles {
    changed: Arc<Notify>,
}

impl Drop for Handles {
    fn drop(&mut self) {
        self.changed.notify_one();
    }
}

struct Shared {
    keep: Arc<dyn Keep>,
    instance: InstanceId,
    fence: Fence,
    state: Mutex<State>,
    changed: Arc<Notify>,
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
        let changed = Arc::new(Notify::new());
        let shared = Arc::new(Shared {
            keep,
            instance,
            fence,
            state: Mutex::new(state),
            changed: changed.clone(),
            progress: watch::Sender::default(),
        });
        let handles = Arc::new(Handles { changed });
        tokio::spawn(write(shared.clone(), Arc::downgrade(&handles)));
        Self { shared, _handles: handles }
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
        let own = self.shared.fence.get();
        let taken = self.shared.keep.take_over(dead, &self.shared.instance, own).await?;
        let Some((fence, kept)) = taken else { return Ok(None) };
        self.shared.fence.raise(fence);
        let mut state = self.shared.state();
        for (key, value) in &kept {
            // What was changed since under the same key is newer.
            state.values.entry(key.clone()).or_insert_with(|| value.clone());
        }
        drop(state);
        Ok(Some(kept))
    }

    /// The instances of this role that kept something and are dead, as far as is known: those to [`Snapshots::take_over`].
    pub async fn abandoned(&self) -> Result<Vec<InstanceId>, KeepError> {
        self.shared.keep.abandoned(&self.shared.instance).await
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

/// The task that hands changes over. It ends when it is fenced, or with the last handle once all is written.
async fn write(shared: Arc<Shared>, handles: Weak<Handles>) {
    let mut pause = PAUSE_MIN;
    let mut returned = pin!(shared.keep.returned(&shared.instance));
    loop {
        let mut again = false;
        if shared.is_clean() {
            if handles.strong_count() == 0 {
                return;
            }
            tokio::select! {
                () = shared.changed.notified() => sleep(GATHER).await,
                () = &mut returned => again = true,
                () = sleep(BEAT) => {}
            }
        }
        if again {
            returned.set(shared.keep.returned(&shared.instance));
            shared.state().all_dirty = true;
        }
        match shared.hand_over().await {
            Ok(()) => pause = PAUSE_MIN,
            Err(KeepError::Fenced(_)) => return,
            Err(_) => {
                // It may be back before the pause is over.
                tokio::select! {
                    () = sleep(pause) => {}
                    () = &mut returned => {
                        returned.set(shared.keep.returned(&shared.instance));
                        shared.state().all_dirty = true;
                    }
                }
                pause = (pause * 2).min(PAUSE_MAX);
            }
        }
    }
}

impl Shared {
    fn is_clean(&self) -> bool {
        let state = self.state();
        state.dirty.is_empty() && !state.all_dirty
    }

    /// Hands over what there is. What fails stays to be handed over.
    async fn hand_over(&self) -> Result<(), KeepError> {
        let taken = self.progress.borrow().taken;
        let (all, changes) = self.batch();
        let error = match self.write(all, &changes).await {
            Ok(()) => {
                self.progress.send_if_modified(|progress| std::mem::replace(&mut progress.kept, taken) != taken);
                return Ok(());
            }
            Err(error) => error,
        };
        match &error {
            KeepError::Fenced(instance) => {
                tracing::error!(%instance, "another process has taken over this name");
                self.progress.send_modify(|progress| progress.fenced = true);
            }
            KeepError::Lost => tracing::warn!(instance = %self.instance, "{error}; writing everything again"),
            KeepError::Away(_) if changes.is_empty() => {}
            KeepError::Away(_) => {
                tracing::warn!(instance = %self.instance, %error, waiting = changes.len(), "snapshots wait");
            }
        }
        let mut state = self.state();
        state.all_dirty |= all || error == KeepError::Lost;
        state.dirty.extend(changes.into_iter().map(|(key, _)| key));
        Err(error)
    }
}
