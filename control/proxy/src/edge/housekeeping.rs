//! What is done once a second, whatever else happens: the announcement, switchboards that died, registrations that ended.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use nebula_bus::Announcement;
use nebula_bus::contract::{CauseKind, InstanceId, Role};
use nebula_store::{locations, steady_unix_ms};

use super::{Edge, Input};
use crate::channel::cause;

/// How often.
pub const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often ended registrations are removed. Nobody is called by them in any case.
const SWEEP: Duration = Duration::from_secs(30);

/// What it remembers from one time to the next.
#[derive(Debug, Default)]
pub struct Housekeeping {
    /// What was announced last: load, and whether we drain.
    announced: Option<(usize, bool)>,
    swept: Option<Instant>,
    sweeping: bool,
}

impl Edge {
    /// Once a second.
    pub fn keep_house(&mut self, now: Instant) {
        self.announce();
        self.miss_switchboards(now);
        self.sweep(now);
        self.drain_outputs(now);
    }

    /// Tells the others how busy we are, if that changed.
    pub fn announce(&mut self) {
        let (load, draining) = (self.legs.len(), self.draining);
        if self.housekeeping.announced.replace((load, draining)) != Some((load, draining)) {
            let announcement = Announcement::new(Role::Proxy, self.core.instance.clone(), env!("CARGO_PKG_VERSION"));
            self.core.bus.announce(announcement.load(load as u64).draining(draining));
        }
    }

    /// A switchboard that is gone answers nobody: its calls in setup get 503, so that callers try again. Those that are up
    /// go on; people hear each other without it.
    fn miss_switchboards(&mut self, now: Instant) {
        let here: HashSet<InstanceId> =
            self.core.bus.instances(Role::Switchboard).into_iter().map(|there| there.instance).collect();
        let is_gone = |switchboard: Option<&InstanceId>| switchboard.is_some_and(|owner| !here.contains(owner));
        for key in self.legs.keys(|leg| leg.channel.state().is_setup() && is_gone(leg.outbox.switchboard())) {
            if let Some(leg) = self.legs.get_mut(key) {
                tracing::warn!(channel_id = %leg.channel.id, sip_call_id = %leg.sip_call_id, "its switchboard is gone");
                let cause = cause::own(503, CauseKind::Crash, "");
                leg.abandon(cause, None, &mut self.core, now);
            }
            self.legs.settle(key);
        }
    }

    fn sweep(&mut self, now: Instant) {
        let due = self.housekeeping.swept.is_none_or(|swept| now - swept >= SWEEP);
        if !due || self.housekeeping.sweeping {
            return;
        }
        self.housekeeping.swept = Some(now);
        self.housekeeping.sweeping = true;
        let (store, inputs) = (self.core.store.clone(), self.core.inputs.clone());
        tokio::spawn(async move {
            match locations::sweep(&store, steady_unix_ms()).await {
                Ok(0) => {}
                Ok(count) => tracing::debug!(count, "registrations ended"),
                Err(error) => tracing::warn!(%error, "ended registrations were not removed"),
            }
            // The actor may be gone, at shutdown; then nobody needs to know.
            let _ = inputs.send(Input::Swept);
        });
    }

    /// The sweep came back.
    pub fn swept(&mut self) {
        self.housekeeping.sweeping = false;
    }
}
