//! What is done once a second, whatever else happens: the announcement, switchboards that died, registrations that ended.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use nebula_bus::Announcement;
use nebula_bus::contract::{CauseKind, InstanceId, Role};
use nebula_store::{locations, steady_unix_ms};

use super::leg::Leg;
use super::secrets;
use super::{Edge, Input};
use crate::channel::cause;

/// How often.
pub const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// How often ended registrations are removed. Nobody is called by them in any case.
const SWEEP: Duration = Duration::from_secs(30);

/// How long the owner of a leg may say nothing of it, and how often it is asked then.
const ASK_AFTER_EVERY: Duration = Duration::from_secs(5);
/// How many legs it is asked after at once.
const ASKED_AT_ONCE: usize = 500;
/// How often the nonces in use are kept.
const NONCES_KEPT_EVERY: Duration = Duration::from_secs(5);
/// How many of them, the newest. Phones with an older one are challenged once more after a restart.
pub const NONCES_KEPT_MAX: usize = 1024;

/// What it remembers from one time to the next.
#[derive(Debug, Default)]
pub struct Housekeeping {
    /// What was announced last: load, and whether we drain.
    announced: Option<(usize, bool)>,
    swept: Option<Instant>,
    sweeping: bool,
    /// When the nonces in use were kept last, and how many had been spent by then.
    nonces_kept: Option<(Instant, u64)>,
    /// When owners are asked after their calls next.
    ask_after_at: Option<Instant>,
    /// Switchboards that own legs here and are not in the registry, since when.
    missed: HashMap<InstanceId, Instant>,
}

impl Edge {
    /// Once a second.
    pub fn keep_house(&mut self, now: Instant) {
        self.core.came_at = now;
        self.announce();
        self.core.transports.look_for_descriptors();
        self.miss_switchboards(now);
        self.sweep(now);
        self.ask_after(now);
        self.keep_unsaved(now);
        self.keep_nonces(now);
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
    /// go on, for people hear each other without it and another may take them over; if none does for long, they end.
    fn miss_switchboards(&mut self, now: Instant) {
        let here: HashSet<InstanceId> =
            self.core.bus.instances(Role::Switchboard).into_iter().map(|there| there.instance).collect();
        let is_gone = |leg: &Leg| leg.outbox.switchboard().is_some_and(|owner| !here.contains(owner));
        let keys = self.legs.keys(is_gone);
        let missed = &mut self.housekeeping.missed;
        missed.retain(|owner, _| !here.contains(owner));
        let patience = Duration::from_secs(self.core.options.orphan_timeout_s.into());
        for key in keys {
            let Some(leg) = self.legs.get_mut(key) else { continue };
            let Some(owner) = leg.outbox.switchboard() else { continue };
            let since = *self.housekeeping.missed.entry(owner.clone()).or_insert(now);
            if leg.channel.state().is_setup() {
                tracing::warn!(channel_id = %leg.channel.id, sip_call_id = %leg.sip_call_id, "its switchboard is gone");
                leg.abandon(cause::own(503, CauseKind::Crash, ""), None, &mut self.core, now);
            } else if now.saturating_duration_since(since) >= patience {
                tracing::warn!(channel_id = %leg.channel.id, sip_call_id = %leg.sip_call_id, switchboard = %owner,
                    "its switchboard is gone and no other has taken it over; the leg ends");
                self.core.metrics.legs_orphaned.increment(1);
                leg.outbox.give_up();
                leg.abandon(cause::own(503, CauseKind::Crash, ""), None, &mut self.core, now);
            }
            self.settle(key, now);
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

    /// Legs of which their owner has said nothing, since they began or were taken up: does it have their calls still? One that
    /// died in the moment after it had accepted a call left nothing of it to its successor.
    fn ask_after(&mut self, now: Instant) {
        let due = *self.housekeeping.ask_after_at.get_or_insert(now + ASK_AFTER_EVERY);
        if now < due {
            return;
        }
        self.housekeeping.ask_after_at = Some(now + ASK_AFTER_EVERY);
        let keys = self.legs.keys(|leg| !leg.is_claimed && !leg.channel.is_over());
        for key in keys.into_iter().take(ASKED_AT_ONCE) {
            if let Some(leg) = self.legs.get_mut(key) {
                leg.outbox.ask_after(key, &self.core);
            }
        }
    }

    /// Snapshots that could wait.
    pub fn keep_unsaved(&mut self, now: Instant) {
        for key in std::mem::take(&mut self.unsaved) {
            if let Some(leg) = self.legs.get_mut(key) {
                leg.keep(&self.core, now);
            }
        }
    }

    /// The nonces in use, so that what was played is known after a restart.
    fn keep_nonces(&mut self, now: Instant) {
        let spent = self.core.admission.spent();
        let (kept_at, kept) = self.housekeeping.nonces_kept.unwrap_or((now, 0));
        if spent != kept && now.saturating_duration_since(kept_at) >= NONCES_KEPT_EVERY {
            self.housekeeping.nonces_kept = Some((now, spent));
            if let Some(bytes) = secrets::encode_nonces(&self.core.admission.nonces().save(NONCES_KEPT_MAX)) {
                self.core.snapshots.put(secrets::NONCES_KEY, bytes);
            }
        } else {
            self.housekeeping.nonces_kept = Some((kept_at, kept));
        }
    }

    /// The sweep came back.
    pub fn swept(&mut self) {
        self.housekeeping.sweeping = false;
    }
}
