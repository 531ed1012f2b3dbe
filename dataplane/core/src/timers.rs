//! One timer per stream on a wheel of 1 ms slots: set, cancel and expire are O(1), a tick costs what is due.
//!
//! A timer beyond one revolution sits in the farthest slot and comes up early; the engine then finds nothing due and
//! sets it again, which for each stream is once in four seconds. So is a timer whose event moved away meanwhile (RTP
//! came): packets never touch the wheel. Streams that were made at different times expire in different slots.

use crate::driver::StreamIndex;
use crate::limits::WHEEL_SLOTS;
use crate::time::Nanos;

const NONE: u32 = u32::MAX;

/// The wheel. All memory is taken by `new`.
#[derive(Debug)]
pub struct Wheel {
    /// The next millisecond to serve; slots are `ms % WHEEL_SLOTS`.
    cursor_ms: u64,
    armed: usize,
    heads: Box<[u32]>,
    /// A bit per slot that is not empty, for `next_due`.
    occupied: [u64; WHEEL_SLOTS / 64],
    nodes: Box<[Node]>,
}

#[derive(Debug, Clone, Copy)]
struct Node {
    next: u32,
    previous: u32,
    /// `NONE` while not armed.
    slot: u32,
}

impl Wheel {
    /// A wheel for streams 0 to `streams_max` - 1.
    pub fn new(streams_max: u32) -> Self {
        Self {
            cursor_ms: 0,
            armed: 0,
            heads: vec![NONE; WHEEL_SLOTS].into(),
            occupied: [0; WHEEL_SLOTS / 64],
            nodes: vec![Node { next: NONE, previous: NONE, slot: NONE }; streams_max as usize].into(),
        }
    }

    /// Arms a stream's timer, or moves it. It expires no earlier than `due`, unless that is over a revolution away, and
    /// never in the millisecond that is being served.
    pub fn set(&mut self, now: Nanos, stream: StreamIndex, due: Nanos) {
        self.cancel(stream);
        if self.armed == 0 {
            self.cursor_ms = self.cursor_ms.max(now.as_millis());
        }
        let earliest_ms = now.as_millis() + 1;
        let at_ms = due.0.div_ceil(1_000_000).max(earliest_ms).min(self.cursor_ms + WHEEL_SLOTS as u64 - 1);
        let slot = slot_of(at_ms);
        let next = std::mem::replace(&mut self.heads[slot], stream.0);
        if next != NONE {
            self.nodes[next as usize].previous = stream.0;
        }
        self.nodes[stream.0 as usize] = Node { next, previous: NONE, slot: slot as u32 };
        self.occupied[slot / 64] |= 1 << (slot % 64);
        self.armed += 1;
    }

    /// Disarms a stream's timer, if it is armed.
    pub fn cancel(&mut self, stream: StreamIndex) {
        let Node { next, previous, slot } = self.nodes[stream.0 as usize];
        if slot == NONE {
            return;
        }
        if next != NONE {
            self.nodes[next as usize].previous = previous;
        }
        if previous != NONE {
            self.nodes[previous as usize].next = next;
        } else {
            self.heads[slot as usize] = next;
            if next == NONE {
                self.occupied[slot as usize / 64] &= !(1 << (slot % 64));
            }
        }
        self.nodes[stream.0 as usize].slot = NONE;
        self.armed -= 1;
    }

    /// Takes one stream whose slot has come. A clock that jumped over more than a revolution costs one revolution.
    pub fn pop(&mut self, now: Nanos) -> Option<StreamIndex> {
        let now_ms = now.as_millis();
        if now_ms - now_ms.min(self.cursor_ms) >= WHEEL_SLOTS as u64 {
            self.cursor_ms = now_ms - (WHEEL_SLOTS as u64 - 1);
        }
        while self.armed > 0 && self.cursor_ms <= now_ms {
            let head = self.heads[slot_of(self.cursor_ms)];
            if head != NONE {
                self.cancel(StreamIndex(head));
                return Some(StreamIndex(head));
            }
            self.cursor_ms += 1;
        }
        None
    }

    /// When the first slot that is not empty comes up.
    pub fn next_due(&self) -> Option<Nanos> {
        if self.armed == 0 {
            return None;
        }
        let first = slot_of(self.cursor_ms);
        let words = self.occupied.len();
        let ahead = (0..=words).find_map(|i| {
            let word = (first / 64 + i) % words;
            let mask = match i {
                0 => !0u64 << (first % 64),
                _ if i == words => !(!0u64 << (first % 64)),
                _ => !0,
            };
            let bits = self.occupied[word] & mask;
            (bits != 0).then(|| word * 64 + bits.trailing_zeros() as usize)
        })?;
        let distance = (ahead + WHEEL_SLOTS - first) % WHEEL_SLOTS;
        Some(Nanos::from_millis(self.cursor_ms + distance as u64))
    }
}

fn slot_of(ms: u64) -> usize {
    (ms % WHEEL_SLOTS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn expired(wheel: &mut Wheel, now: Nanos) -> Vec<u32> {
        std::iter::from_fn(|| wheel.pop(now)).map(|s| s.0).collect()
    }

    #[test]
    fn timers_expire_in_their_slot_and_not_before() {
        let mut wheel = Wheel::new(4);
        let at = Nanos::from_millis;
        wheel.set(at(100), StreamIndex(0), at(120));
        wheel.set(at(100), StreamIndex(1), at(110).plus_nanos(1));
        wheel.set(at(100), StreamIndex(2), at(110));
        wheel.cancel(StreamIndex(2));
        assert_eq!(wheel.next_due(), Some(at(111)));
        assert_eq!(expired(&mut wheel, at(110)), [] as [u32; 0]);
        assert_eq!(expired(&mut wheel, at(111)), [1]);
        assert_eq!(wheel.next_due(), Some(at(120)));
        assert_eq!(expired(&mut wheel, at(500)), [0]);
        assert_eq!(wheel.next_due(), None);
    }

    #[test]
    fn a_jump_of_years_serves_each_timer_once() {
        let mut wheel = Wheel::new(3);
        for stream in 0..3 {
            wheel.set(Nanos(0), StreamIndex(stream), Nanos::from_millis(u64::from(stream) * 3000 + 1));
        }
        assert_eq!(expired(&mut wheel, Nanos(u64::MAX)).len(), 3);
        assert_eq!(expired(&mut wheel, Nanos(u64::MAX)).len(), 0);
    }

    proptest! {
        /// Against a plain list: whoever expires is due (or a revolution away), whoever is due expires, `next_due` is
        /// never late.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0u32..20, 0u64..9000, 0u64..50), 1..200)) {
            let mut wheel = Wheel::new(20);
            let mut list = [None; 20];
            let mut now_ms = 0;
            for (stream, distance, pass) in steps {
                let due_ms = now_ms + distance;
                wheel.set(Nanos::from_millis(now_ms), StreamIndex(stream), Nanos::from_millis(due_ms));
                list[stream as usize] = Some((due_ms, now_ms));
                let first = list.iter().flatten().map(|&(due, _)| due).min().unwrap();
                prop_assert!(wheel.next_due().unwrap() <= Nanos::from_millis(first.max(now_ms) + 1));
                now_ms += pass;
                for s in expired(&mut wheel, Nanos::from_millis(now_ms)) {
                    let (due, set_at) = list[s as usize].take().expect("armed");
                    prop_assert!(due <= now_ms || now_ms - set_at >= WHEEL_SLOTS as u64 - 51);
                }
                prop_assert!(list.iter().flatten().all(|&(due, _)| due >= now_ms));
            }
        }
    }
}
