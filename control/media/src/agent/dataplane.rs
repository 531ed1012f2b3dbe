//! The dataplane comes and goes: what its tables say becomes what the agent believes, and streams that went with one
//! dataplane are made again in the next.

use super::stream::{Base, Place};
use super::{Agent, BySwitchboard, Errand, Waif};
use crate::placement::{PortPair, Ports, Workers};
use crate::reconcile::{self, Found, Unclaimed};
use nebula_ring::command::{Command, StreamConfig, StreamId};
use nebula_ring::event::Reason;
use nebula_ring::table::{FLAG_LATCHED, FLAG_RTCP_LATCHED, StreamRecord};
use std::collections::{HashMap, HashSet};

/// Packets a second that a source of our own may at most have said since a record that is not its last was read.
const OWN_PACKETS_PER_S_MAX: u64 = 100;

/// Streams that may wait to be closed; of more, the unclaimed rule takes care.
const ENDED_MAX: usize = 65_536;

/// What is to be done after an attachment.
#[derive(Debug, Default)]
pub struct Arrival {
    /// Streams that are alive but not as they should be: in this order.
    pub repairs: Vec<Errand>,
    /// Streams that this dataplane has not got: each to be asked for by `resumption`.
    pub returning: Vec<Resumption>,
    /// Which attachment it is.
    pub attachment: u64,
}

/// A stream that is to be made again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resumption {
    /// Its name.
    pub id: StreamId,
    /// To which attachment it belongs.
    attachment: u64,
}

impl Agent {
    /// Attached: takes stock of what lives there.
    pub fn attached(&mut self, workers: usize, found: &[Found], random: u64, now_ms: u64) -> Arrival {
        self.attachment += 1;
        let reconciled = reconcile::reconcile(self.streams.keys().copied(), found);
        let by_id: HashMap<StreamId, &Found> = found.iter().map(|it| (StreamId(it.record.id), it)).collect();
        let failed: HashSet<StreamId> =
            self.streams.iter().filter(|(_, stream)| stream.has_failed()).map(|(id, _)| *id).collect();
        let returning: Vec<StreamId> = reconciled.vanished.into_iter().filter(|id| !failed.contains(id)).collect();
        let in_use = found.iter().map(|it| it.record.rtp_port);
        let wanted = returning.iter().filter_map(|id| self.streams.get(id)).map(|stream| stream.config.rtp_port);
        let in_use: Vec<PortPair> = in_use.chain(wanted).map(PortPair::of).collect();
        self.ports = Ports::new(self.options.rtp_port_min, self.options.rtp_port_max, random, in_use);
        self.workers = Workers::new(workers);
        self.rename = rename_of(random, now_ms);
        for id in &reconciled.alive {
            if let (Some(it), Some(stream)) = (by_id.get(id), self.streams.get_mut(id)) {
                self.workers.seat(&stream.owner.call_id, it.worker);
                stream.place = Place::Alive { worker: it.worker, ports: PortPair::of(it.record.rtp_port) };
            }
        }
        for id in &returning {
            if let Some(stream) = self.streams.get_mut(id)
                && let Ok(worker) = self.workers.join(&stream.owner.call_id)
            {
                stream.place = Place::Returning { worker, ports: PortPair::of(stream.config.rtp_port) };
            }
        }
        let ended = std::mem::take(&mut self.ended);
        let (ended, unclaimed): (Vec<&Unclaimed>, Vec<&Unclaimed>) =
            reconciled.unclaimed.iter().partition(|it| ended.contains(&it.id));
        let waif =
            |it: &Unclaimed| (it.id, Waif { worker: it.worker, ports: PortPair::of(it.rtp_port), found_at_ms: now_ms });
        self.unclaimed = unclaimed.into_iter().map(waif).collect();
        // Behind all others: by their turn the streams are closed.
        ended.iter().for_each(|it| self.ports.release(PortPair::of(it.rtp_port)));
        let ended = ended.into_iter().map(|it| (it.worker, Command::DestroyStream { id: it.id }));
        let repairs = reconciled.alive.iter().filter_map(|id| by_id.get(id)).flat_map(|it| self.repair(it));
        let repairs = ended.chain(repairs).collect();
        let attachment = self.attachment;
        let returning = returning.into_iter().map(|id| Resumption { id, attachment }).collect();
        Arrival { repairs, returning, attachment }
    }

    /// Whether it is still that attachment.
    pub fn is_attached_as(&self, attachment: u64) -> bool {
        self.attachment == attachment
    }

    /// What makes a stream that is alive as it should be.
    fn repair(&mut self, found: &Found) -> Vec<Errand> {
        let (id, is) = (StreamId(found.record.id), StreamId(found.record.bridged_with));
        let partner = self.streams.get(&id).and_then(|stream| stream.partner);
        let is_alive = |it: &StreamId| self.streams.get(it).is_some_and(|stream| stream.worker().is_some());
        let bridge = match partner {
            // Each bridge once.
            Some(partner) if partner != is && id < partner && is_alive(&partner) => {
                Some(Command::CreateBridge { a: id, b: partner })
            }
            None if is.0 != 0 && !self.unclaimed.contains_key(&is) => Some(Command::DestroyBridge { a: id, b: is }),
            _ => None,
        };
        let in_doubt = self.streams.get(&id).is_some_and(|stream| stream.in_doubt);
        let update = if in_doubt { self.configure(id) } else { None };
        update.into_iter().chain(bridge.map(|bridge| (found.worker, bridge))).collect()
    }

    /// The dataplane is gone, and all streams with it; `remains` is what its tables still show. Returns, for each
    /// switchboard, what it has lost for now.
    pub fn lost(&mut self, remains: &[Found], now_ms: u64) -> BySwitchboard {
        let mut lost = self.alive_by_switchboard();
        lost.retain(|_, streams| !streams.is_empty());
        self.attachment += 1;
        for Found { record, .. } in remains {
            if let Some(stream) = self.streams.get_mut(&StreamId(record.id))
                // Half of another's record: its writer died over it.
                && record.rtp_port == stream.config.rtp_port
            {
                stream.seen(record, None);
                self.changed.insert(StreamId(record.id));
            }
        }
        self.streams.values_mut().for_each(|stream| stream.lose(now_ms));
        self.workers = Workers::default();
        self.ports = Ports::new(0, 0, 0, []);
        self.unclaimed.clear();
        lost
    }

    /// A stream was to be closed when the dataplane could not be reached: it is closed if it is still there.
    pub fn owe_end(&mut self, id: StreamId) {
        if self.ended.len() < ENDED_MAX {
            self.ended.insert(id);
        }
    }

    /// The command that makes a stream again; none if it is not wanted any more.
    pub fn resumption(&mut self, it: Resumption, now_ms: u64) -> Option<Errand> {
        let stream = self.streams.get(&it.id).filter(|_| it.attachment == self.attachment)?;
        let Place::Returning { worker, .. } = stream.place else { return None };
        let partner = stream.partner.and_then(|partner| self.streams.get(&partner));
        let reachable = !self.hears_itself(it.id);
        let config = stream.wanted_config(&self.options, partner.map(|partner| &partner.exchange), reachable);
        let stream = self.streams.get_mut(&it.id)?;
        let told = stream.base.as_ref().and_then(|base| base.record.remote_rtp());
        let moved = stream.in_doubt && told != config.remote_rtp;
        stream.config = config.clone();
        let protects = config.srtp.as_ref().is_some_and(|srtp| srtp.send.is_some());
        let record = match &stream.base {
            Some(base) => Some(aged(base, moved, self.rename, now_ms)),
            None if protects => Some(unknown(it.id, &config, self.rename, now_ms)),
            None => None,
        };
        let command = match record {
            Some(record) => Command::ResumeStream { id: it.id, config, record },
            None => Command::CreateStream { id: it.id, config },
        };
        Some((worker, command))
    }

    /// It is there again. Returns what it needs to be whole.
    pub fn resumed(&mut self, it: Resumption) -> Vec<Errand> {
        if it.attachment != self.attachment {
            return Vec::new();
        }
        let Some(stream) = self.streams.get_mut(&it.id) else { return Vec::new() };
        let Place::Returning { worker, ports } = stream.place else { return Vec::new() };
        stream.place = Place::Alive { worker, ports };
        stream.in_doubt = false;
        let partner = stream
            .partner
            .filter(|partner| self.streams.get(partner).is_some_and(|partner| partner.worker() == Some(worker)));
        partner.map(|partner| (worker, Command::CreateBridge { a: it.id, b: partner })).into_iter().collect()
    }

    /// It cannot be made again: somebody else has its port, or the dataplane has no room.
    pub fn fail(&mut self, it: Resumption, reason: Reason, now_ms: u64) {
        let Some(stream) = self.streams.get_mut(&it.id).filter(|_| it.attachment == self.attachment) else { return };
        if let Place::Returning { worker, ports } = stream.place {
            stream.place = Place::Failed { since_ms: now_ms };
            self.ports.release(ports);
            self.workers.leave(&stream.owner.call_id, worker);
            let id = super::name(it.id);
            tracing::error!(%id, call_id = %stream.owner.call_id, port = ports.rtp(), ?reason, "a stream was lost");
        }
    }

    /// A look at the tables: streams that nobody claims and that have been silent for long are to be closed, and lost
    /// ones that nobody came for are forgotten.
    pub fn sweep(&mut self, found: &[Found], now_ms: u64) -> Vec<Errand> {
        let silence_ms_max = u64::from(self.options.unclaimed_silence_s) * 1000;
        let forgotten: Vec<StreamId> = self
            .streams
            .iter()
            .filter(|(_, stream)| match stream.place {
                Place::Failed { since_ms } | Place::Waiting { since_ms } => {
                    now_ms.saturating_sub(since_ms) >= silence_ms_max
                }
                Place::Alive { .. } | Place::Returning { .. } => false,
            })
            .map(|(id, _)| *id)
            .collect();
        for id in forgotten {
            self.streams.remove(&id);
            self.changed.insert(id);
        }
        let before = std::mem::take(&mut self.unclaimed);
        let mut errands = Vec::new();
        for it in found {
            let id = StreamId(it.record.id);
            if let Some(stream) = self.streams.get_mut(&id) {
                if stream.base.as_ref().is_none_or(|base| base.is_stale(&it.record, now_ms)) {
                    stream.seen(&it.record, Some(now_ms));
                    self.changed.insert(id);
                }
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

    /// A stream has shown who its peer is: worth to be kept.
    pub fn seen(&mut self, record: &StreamRecord, now_ms: u64) {
        if let Some(stream) = self.streams.get_mut(&StreamId(record.id)) {
            stream.seen(record, Some(now_ms));
            self.changed.insert(StreamId(record.id));
        }
    }
}

/// How old a kept record may grow while its stream flows.
const BASE_AGE_MS_MAX: u64 = 30_000;

impl Base {
    fn is_stale(&self, record: &StreamRecord, now_ms: u64) -> bool {
        let grown = (record.packets_in, record.packets_out) != (self.record.packets_in, self.record.packets_out);
        grown && self.read_at_ms.is_none_or(|read| now_ms.saturating_sub(read) >= BASE_AGE_MS_MAX)
    }
}

/// A record to go on from. Of an old one our own source must leap as far as it may have spoken since; what it protected since,
/// nobody knows, so all sources go on under other SSRCs; and one of before the peer `moved`, or may have, must not hold on to where
/// it was.
fn aged(base: &Base, moved: bool, rename: u32, now_ms: u64) -> StreamRecord {
    let mut record = base.record;
    if moved {
        record.set(FLAG_LATCHED | FLAG_RTCP_LATCHED, false);
    }
    let said = base.read_at_ms.map_or(0, |read| now_ms.saturating_sub(read)) * OWN_PACKETS_PER_S_MAX / 1000;
    record.own_sequence_last = record.own_sequence_last.wrapping_add(said as u32);
    if base.read_at_ms.is_some() {
        record.srtp_ssrc_out = Default::default();
        record.srtp_used_out = Default::default();
        record.srtp_rename_out = rename;
    }
    record
}

/// Of a stream whose keys are known, but nothing of what was protected with them.
fn unknown(id: StreamId, config: &StreamConfig, rename: u32, now_ms: u64) -> StreamRecord {
    let mut record =
        StreamRecord { id: id.0, created_at_ms: now_ms, srtp_rename_out: rename, ..StreamRecord::default() };
    record.set_local(config.local_ip, config.rtp_port, config.rtcp_port);
    record
}

/// What SSRCs are put under after this attachment, if they have to be: another one than after any other. Without a random number
/// the clock has to do.
fn rename_of(random: u64, now_ms: u64) -> u32 {
    let mixed = random ^ now_ms.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((mixed >> 32) as u32 ^ mixed as u32).max(1)
}
