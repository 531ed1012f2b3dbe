//! Whether a role can do its work now, and if not, why: asked anew for each `/readyz`.

use crate::backbone::Backbone;
use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::{Bus, redis};
use nebula_store::{Status, Store};
use std::sync::Arc;

/// What a role's readiness depends on.
#[derive(Clone)]
pub struct Readiness {
    role: Role,
    instance: InstanceId,
    bus: Bus,
    redis: Option<redis::Cache>,
    store: Store,
    /// What the role says of itself.
    own: Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>,
}

impl Readiness {
    /// Of an instance; `own` is what it says of itself.
    pub fn new(
        role: Role,
        instance: &InstanceId,
        backbone: &Backbone,
        own: impl Fn() -> Result<(), &'static str> + Send + Sync + 'static,
    ) -> Self {
        Self {
            role,
            instance: instance.clone(),
            bus: backbone.bus.clone(),
            redis: backbone.probe(),
            store: backbone.store.clone(),
            own: Arc::new(own),
        }
    }

    /// What keeps it from working.
    pub async fn check(&self) -> Result<(), String> {
        if let Some(redis) = &self.redis {
            redis.get("").await.map_err(|e| format!("Redis: {}", e.message))?;
        }
        takes_changes(&self.store.spooling().borrow())?;
        (self.own)()?;
        let announced = self.bus.instances(self.role).into_iter().find(|a| a.instance == self.instance);
        match announced {
            None => Err(format!("{} is not announced", self.instance)),
            Some(announced) if announced.draining => Err("no new calls: draining, or not ready yet".to_owned()),
            Some(_) => Ok(()),
        }
    }
}

/// A database that is away is borne as long as the spool takes what calls leave.
fn takes_changes(status: &Status) -> Result<(), String> {
    match status.waiting {
        0 => Ok(()),
        waiting => Err(format!("the database is away and the spool is full: {waiting} changes wait in memory")),
    }
}
