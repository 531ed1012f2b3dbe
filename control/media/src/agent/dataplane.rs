//! The dataplane comes and goes: what its tables say becomes what the agent believes.

use super::{Agent, BySwitchboard, Errand, Place, Stream, Waif, name};
use crate::placement::{PortPair, Ports, Workers};
use crate::reconcile::{self, Found, Unclaimed};
use nebula_ring::command::{Command, StreamId};
use std::collections::HashMap;

impl Agent {
    /// Attached: takes stock of what lives there. Returns, for each switchboard that has streams here, those alive.
    pub fn attached(&mut self, workers: usize, found: &[Found], random: u64, now_ms: u64) -> BySwitchboard {
        let reconciled = reconcile::reconcile(self.streams.keys().copied(), found);
        let by_id: HashMap<StreamId, &Found> = found.iter().map(|it| (StreamId(it.record.id), it)).collect();
        self.ports = Ports::new(
            self.options.rtp_port_min,
            self.options.rtp_port_max,
            random,
            found.iter().map(|it| PortPair::of(it.record.rtp_port)),
        );
        self.workers = Workers::new(workers);
        for (id, stream) in &mut self.streams {
            match by_id.get(id) {
                Some(it) => {
                    self.workers.seat(&stream.owner.call_id, it.worker);
                    stream.place = Place::Alive { worker: it.worker, ports: PortPair::of(it.record.rtp_port) };
                }
                None => stream.place.lose(now_ms),
            }
        }
        let waif =
            |it: &Unclaimed| (it.id, Waif { worker: it.worker, ports: PortPair::of(it.rtp_port), found_at_ms: now_ms });
        self.unclaimed = reconciled.unclaimed.iter().map(waif).collect();
        self.by_switchboard(|stream| stream.worker().is_some())
    }

    /// The dataplane is gone, and all streams with it. Returns, for each switchboard, what it has lost.
    pub fn lost(&mut self, now_ms: u64) -> BySwitchboard {
        let lost = self.by_switchboard(|stream| stream.worker().is_some());
        self.streams.values_mut().for_each(|stream| stream.place.lose(now_ms));
        self.workers = Workers::default();
        self.ports = Ports::new(0, 0, 0, []);
        self.unclaimed.clear();
        lost
    }

    /// A look at the tables: streams that nobody claims and that have been silent for long are to be closed, and lost
    /// ones that nobody came for are forgotten.
    pub fn sweep(&mut self, found: &[Found], now_ms: u64) -> Vec<Errand> {
        let silence_ms_max = u64::from(self.options.unclaimed_silence_s) * 1000;
        self.streams.retain(|_, stream| match stream.place {
            Place::Lost { since_ms } => now_ms.saturating_sub(since_ms) < silence_ms_max,
            Place::Alive { .. } => true,
        });
        let before = std::mem::take(&mut self.unclaimed);
        let mut errands = Vec::new();
        for it in found {
            let id = StreamId(it.record.id);
            if self.streams.contains_key(&id) {
                continue;
            }
            let fresh = Waif { worker: it.worker, ports: PortPair::of(it.record.rtp_port), found_at_ms: now_ms };
            let waif = before.get(&id).copied().unwrap_or(fresh);
            if reconcile::is_abandoned(&it.record, waif.found_at_ms, now_ms, silence_ms_max) {
                self.ports.release(waif.ports);
                errands.push((it.worker, Command::DestroyStream { id }));
            } else {
                self.unclaimed.insert(id, waif);
            }
        }
        errands
    }

    fn by_switchboard(&self, listed: impl Fn(&Stream) -> bool) -> BySwitchboard {
        let mut all = BySwitchboard::new();
        for (id, stream) in &self.streams {
            let streams = all.entry(stream.owner.switchboard.clone()).or_default();
            if listed(stream) {
                streams.push(name(*id));
            }
        }
        all
    }
}
