//! Whether a role can do its work now, and if not, why: asked anew for each `/readyz`.

use nebula_bus::Bus;
use nebula_bus::contract::{InstanceId, Role};
use std::sync::Arc;

/// What a role's readiness depends on.
#[derive(Clone)]
pub struct Readiness {
    role: Role,
    instance: InstanceId,
    bus: Bus,
    /// What the role says of itself.
    own: Arc<dyn Fn() -> Result<(), &'static str> + Send + Sync>,
}

impl Readiness {
    /// Of an instance; `own` is what it says of itself.
    pub fn new(
        role: Role,
        instance: &InstanceId,
        bus: &Bus,
        own: impl Fn() -> Result<(), &'static str> + Send + Sync + 'static,
    ) -> Self {
        Self { role, instance: instance.clone(), bus: bus.clone(), own: Arc::new(own) }
    }

    /// What keeps it from working.
    pub async fn check(&self) -> Result<(), String> {
        (self.own)()?;
        let announced = self.bus.instances(self.role).into_iter().find(|a| a.instance == self.instance);
        match announced {
            None => Err(format!("{} is not announced", self.instance)),
            Some(announced) if announced.draining => Err("no new calls: draining, or not ready yet".to_owned()),
            Some(_) => Ok(()),
        }
    }
}
