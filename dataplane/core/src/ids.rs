//! From stream id to index: open addressing with linear probing over a table twice as large as it can fill.

use crate::driver::StreamIndex;
use nebula_ring::command::StreamId;

/// The map. All memory is taken by `new`.
#[derive(Debug)]
pub(crate) struct Ids {
    /// Id zero is an empty place.
    places: Box<[(u64, u32)]>,
}

impl Ids {
    pub fn new(streams_max: u32) -> Self {
        let places = (streams_max as usize * 2).next_power_of_two();
        Self { places: vec![(0, 0); places].into() }
    }

    pub fn get(&self, id: StreamId) -> Option<StreamIndex> {
        let (found, index) = self.places[self.find(id)];
        (found == id.0 && id.0 != 0).then_some(StreamIndex(index))
    }

    /// Adds an id that is not there; the caller keeps to `streams_max`.
    pub fn insert(&mut self, id: StreamId, index: StreamIndex) {
        let at = self.find(id);
        self.places[at] = (id.0, index.0);
    }

    /// Removes an id and closes the gap, so that searches need no tombstones.
    pub fn remove(&mut self, id: StreamId) {
        let mut gap = self.find(id);
        let mask = self.places.len() - 1;
        let mut at = gap;
        loop {
            self.places[gap].0 = 0;
            loop {
                at = (at + 1) & mask;
                let found = self.places[at].0;
                if found == 0 {
                    return;
                }
                if at.wrapping_sub(self.home(found)) & mask >= at.wrapping_sub(gap) & mask {
                    break;
                }
            }
            self.places[gap] = self.places[at];
            gap = at;
        }
    }

    /// Where the id is, or the empty place where it would be.
    fn find(&self, id: StreamId) -> usize {
        let mut at = self.home(id.0);
        while self.places[at].0 != id.0 && self.places[at].0 != 0 {
            at = (at + 1) & (self.places.len() - 1);
        }
        at
    }

    /// Fibonacci hashing: ids may be counted or random.
    fn home(&self, id: u64) -> usize {
        (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & (self.places.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn agrees_with_a_map(steps in prop::collection::vec((1u64..40, any::<bool>()), 1..400)) {
            let (mut ids, mut map) = (Ids::new(40), BTreeMap::new());
            for (step, (id, insert)) in steps.into_iter().enumerate() {
                if map.remove(&id).is_some() {
                    ids.remove(StreamId(id));
                } else if insert {
                    map.insert(id, StreamIndex(step as u32));
                    ids.insert(StreamId(id), StreamIndex(step as u32));
                }
                for id in 0..40 {
                    prop_assert_eq!(ids.get(StreamId(id)), map.get(&id).copied());
                }
            }
        }
    }
}
