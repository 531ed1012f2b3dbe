//! Where transactions live: a slab with generations, so that an id that outlived its transaction finds nothing; and the
//! queue of their timers.
//!
//! Used by the layer alone. All operations are constant time but for the queue's O(log n); nothing here scans.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::time::Instant;

/// Names a transaction of one layer; never reused while anybody could still hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TransactionId {
    index: u32,
    generation: u32,
}

impl TransactionId {
    /// Below and above every id of a range scan.
    pub(super) const MIN: Self = Self { index: 0, generation: 0 };
    pub(super) const MAX: Self = Self { index: u32::MAX, generation: u32::MAX };
}

impl fmt::Display for TransactionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.index, self.generation)
    }
}

/// A bounded slab.
#[derive(Debug)]
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len_max: u32,
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

impl<T> Table<T> {
    pub(super) fn new(len_max: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len_max }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(super) fn is_full(&self) -> bool {
        self.len() >= self.len_max as usize
    }

    /// `None` when the table is full.
    pub(super) fn insert(&mut self, value: T) -> Option<TransactionId> {
        if self.is_full() {
            return None;
        }
        if let Some(index) = self.free.pop() {
            let slot = self.slots.get_mut(index as usize)?;
            slot.value = Some(value);
            return Some(TransactionId { index, generation: slot.generation });
        }
        let index = u32::try_from(self.slots.len()).ok()?;
        self.slots.push(Slot { generation: 0, value: Some(value) });
        Some(TransactionId { index, generation: 0 })
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (TransactionId, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let id = TransactionId { index: u32::try_from(index).ok()?, generation: slot.generation };
            Some((id, slot.value.as_ref()?))
        })
    }

    pub(super) fn get(&self, id: TransactionId) -> Option<&T> {
        self.slots.get(id.index as usize).filter(|slot| slot.generation == id.generation)?.value.as_ref()
    }

    pub(super) fn get_mut(&mut self, id: TransactionId) -> Option<&mut T> {
        self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?.value.as_mut()
    }

    pub(super) fn remove(&mut self, id: TransactionId) -> Option<T> {
        let slot = self.slots.get_mut(id.index as usize).filter(|slot| slot.generation == id.generation)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(id.index);
        Some(value)
    }
}

/// Wake-ups, earliest first. A transaction keeps one live entry, at or before its earliest timer; an entry that turns
/// out too early is put back, so stopping a timer costs nothing and the queue stays about as long as the table.
#[derive(Debug, Default)]
pub(super) struct Queue {
    heap: BinaryHeap<Reverse<(Instant, TransactionId)>>,
}

impl Queue {
    pub(super) fn push(&mut self, at: Instant, id: TransactionId) {
        self.heap.push(Reverse((at, id)));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    pub(super) fn pop_due(&mut self, now: Instant) -> Option<(Instant, TransactionId)> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry)
    }

    pub(super) fn len(&self) -> usize {
        self.heap.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_do_not_outlive_their_transaction_and_the_table_is_bounded() {
        let mut table = Table::new(2);
        let a = table.insert("a").unwrap();
        let b = table.insert("b").unwrap();
        assert_eq!(table.insert("c"), None);
        assert_eq!(table.remove(a), Some("a"));
        assert_eq!(table.remove(a), None);
        assert_eq!((table.get(a), table.len()), (None, 1));
        let c = table.insert("c").unwrap();
        assert_ne!(a, c);
        assert_eq!((table.get(a), table.get(b), table.get(c)), (None, Some(&"b"), Some(&"c")));
    }
}
