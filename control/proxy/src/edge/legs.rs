//! Where legs live: a slab with generations, found by channel id (the bus) and by our tag (the peer), and the queue of
//! their clocks.
//!
//! Used by the actor alone. Our tags are unguessable and unique, so a tag finds the leg; the dialog then checks the rest.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::convert::Infallible;
use std::time::Instant;

use nebula_bus::contract::ChannelId;

use super::leg::Leg;

/// Names a leg; never reused while anybody could still hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegKey {
    index: u32,
    generation: u32,
}

struct Slot {
    generation: u32,
    leg: Option<Leg>,
    /// When its live queue entry wakes it.
    queued: Option<Instant>,
}

/// All legs.
#[derive(Default)]
pub struct Legs {
    slots: Vec<Slot>,
    free: Vec<u32>,
    by_channel: HashMap<ChannelId, LegKey>,
    by_tag: HashMap<String, LegKey>,
    clocks: BinaryHeap<Reverse<(Instant, LegKey)>>,
}

impl Legs {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Puts a leg in; `make` is told its key.
    pub fn insert(&mut self, make: impl FnOnce(LegKey) -> Leg) -> LegKey {
        let Ok(key) = self.try_insert(|key| Ok::<_, Infallible>(make(key)));
        key
    }

    /// The same, unless it cannot be made.
    pub fn try_insert<E>(&mut self, make: impl FnOnce(LegKey) -> Result<Leg, E>) -> Result<LegKey, E> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot { generation: 0, leg: None, queued: None });
            (self.slots.len() - 1) as u32
        });
        let slot = &mut self.slots[index as usize];
        let key = LegKey { index, generation: slot.generation };
        let leg = match make(key) {
            Ok(leg) => leg,
            Err(error) => {
                self.free.push(index);
                return Err(error);
            }
        };
        self.by_channel.insert(leg.channel.id.clone(), key);
        self.by_tag.insert(leg.local_tag.clone(), key);
        slot.leg = Some(leg);
        Ok(key)
    }

    /// The leg of this key.
    pub fn get_mut(&mut self, key: LegKey) -> Option<&mut Leg> {
        self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation)?.leg.as_mut()
    }

    /// The legs of which this holds.
    pub fn keys(&self, holds: impl Fn(&Leg) -> bool) -> Vec<LegKey> {
        self.slots.iter().filter_map(|slot| slot.leg.as_ref()).filter(|leg| holds(leg)).map(|leg| leg.key).collect()
    }

    /// The leg the bus means.
    pub fn by_channel(&self, id: &ChannelId) -> Option<LegKey> {
        self.by_channel.get(id).copied()
    }

    /// The leg the peer means.
    pub fn by_tag(&self, tag: &str) -> Option<LegKey> {
        self.by_tag.get(tag).copied()
    }

    /// After an input: drops the leg if it is done with, else plans its next waking. Says whether it was dropped.
    pub fn settle(&mut self, key: LegKey) -> bool {
        let Some(slot) = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation) else {
            return false;
        };
        let Some(leg) = &slot.leg else { return false };
        if leg.is_done() {
            self.by_channel.remove(&leg.channel.id);
            self.by_tag.remove(&leg.local_tag);
            (slot.leg, slot.queued) = (None, None);
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(key.index);
            return true;
        }
        if let Some(at) = leg.deadline()
            && slot.queued.is_none_or(|queued| at < queued)
        {
            slot.queued = Some(at);
            self.clocks.push(Reverse((at, key)));
        }
        false
    }

    /// When the next leg may have something due.
    pub fn next_clock(&self) -> Option<Instant> {
        self.clocks.peek().map(|Reverse((at, _))| *at)
    }

    /// A leg that may have something due. Wake it, then [`Legs::settle`] it.
    pub fn due(&mut self, now: Instant) -> Option<LegKey> {
        while self.next_clock()? <= now {
            let Reverse((at, key)) = self.clocks.pop()?;
            let slot = self.slots.get_mut(key.index as usize).filter(|slot| slot.generation == key.generation);
            if let Some(slot) = slot.filter(|slot| slot.queued == Some(at)) {
                slot.queued = None;
                return Some(key);
            }
        }
        None
    }
}
