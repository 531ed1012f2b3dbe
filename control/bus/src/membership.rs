//! Who a role is: a name that outlives its process, a fence that tells its processes apart, and what it had kept.
//!
//! An instance is named `{role}-{node}` and keeps the name over restarts. Each start gets a **fence**: a number from one
//! rising counter of the whole system. Whoever writes with a lower fence than the last one given for that name is refused
//! and knows that another process took over. A switchboard stamps its fence on all it asks about a call, so that two
//! never command one call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::contract::{InstanceId, Role};
use crate::snapshots::{Keep, KeepError, Memory, Snapshots};

/// The fence of this process; it rises when the process takes over what another has left.
#[derive(Debug, Clone)]
pub struct Fence(Arc<AtomicU64>);

impl Fence {
    pub(crate) fn new(value: u64) -> Self {
        Self(Arc::new(AtomicU64::new(value)))
    }

    /// The number as of now.
    pub fn get(&self) -> u64 {
        // Relaxed: a number of its own, nothing is published through it.
        self.0.load(Ordering::Relaxed)
    }

    /// It never falls.
    pub(crate) fn raise(&self, value: u64) {
        self.0.fetch_max(value, Ordering::Relaxed);
    }
}

/// What a role is started with.
pub struct Membership {
    /// The name on the bus.
    pub instance: InstanceId,
    /// The fence.
    pub fence: Fence,
    /// Where its state is kept.
    pub snapshots: Snapshots,
    /// What its predecessor of the same name had kept, by key.
    pub restored: Vec<(String, Bytes)>,
}

impl Membership {
    /// Takes the name for this process, and up what the last process of that name left.
    pub async fn enter(keep: Arc<dyn Keep>, role: Role, node: &str) -> Result<Self, KeepError> {
        let instance = InstanceId(format!("{}-{node}", role.name()));
        let (fence, restored) = keep.enter(&instance).await?;
        let fence = Fence::new(fence);
        let snapshots = Snapshots::start(keep, instance.clone(), fence.clone(), restored.iter().cloned());
        Ok(Self { instance, fence, snapshots, restored })
    }

    /// A member that nobody knew before and whose state dies with it, for tests. Must be called within a tokio runtime.
    pub fn alone(role: Role) -> Self {
        let instance = InstanceId(format!("{}-{}", role.name(), ulid::Ulid::new()));
        let fence = Fence::new(1);
        let keep = Memory::default();
        keep.admit(&instance, fence.get());
        let snapshots = Snapshots::start(Arc::new(keep), instance.clone(), fence.clone(), []);
        Self { instance, fence, snapshots, restored: Vec::new() }
    }
}
