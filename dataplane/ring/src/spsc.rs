//! A single-producer, single-consumer ring of 256-byte slots. Never blocks, never allocates; a push or pop of a one-slot
//! message costs two atomics on the indices and 32 relaxed words.
//!
//! A message takes consecutive slots: a head word (length and seal), then its bytes. Indices run freely and are taken
//! modulo the ring's size. Each side keeps its own index privately and only publishes it: what the partner writes there is
//! checked against that (`head <= tail <= head + slots`), so a partner that crashed or lies costs messages, never memory,
//! and both find each other again.
//!
//! `models` runs this code under loom (full, wrap, torn, death and takeover): `cargo nextest run -p nebula-ring loom`.

use crate::word::Word;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// Words of a slot: 256 bytes.
pub const SLOT_WORDS: usize = 32;
const _: () = assert!(SLOT_WORDS * size_of::<u64>() == 256);

/// The most slots that one message may take.
pub const MESSAGE_SLOTS_MAX: usize = 5;

/// The most bytes that one message may have.
pub const MESSAGE_BYTES_MAX: usize = MESSAGE_SLOTS_MAX * SLOT_WORDS * 8 - 8;

/// The seal's seed. The seal covers a message's position, length and every word, so that neither a slot left over from an
/// earlier lap nor one that two producers wrote into (an old one that was stopped in the middle of a push, and its
/// successor) is taken for a message.
const SEED: u64 = 0x4e42_0002_9e37_79b9;

/// A ring where it lies. Both sides make one of these for each access.
#[derive(Debug)]
pub struct Ring<'a, W, const SLOT: usize = SLOT_WORDS> {
    /// The index of the oldest slot not yet taken: written by the consumer.
    pub head: &'a W,
    /// The index after the newest slot: written by the producer.
    pub tail: &'a W,
    /// The slots, a power of two of them.
    pub slots: &'a [[W; SLOT]],
}

impl<W, const SLOT: usize> Clone for Ring<'_, W, SLOT> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<W, const SLOT: usize> Copy for Ring<'_, W, SLOT> {}

/// The ring has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the ring is full")]
pub struct Busy;

/// The producer's side: its private index.
#[derive(Debug)]
pub struct Producer {
    tail: u64,
    /// The partner's head when last looked at, so that most pushes need not read its cache line.
    head_seen: u64,
    /// Times that the partner's index made no sense.
    resyncs: u64,
}

/// The consumer's side: its private index.
#[derive(Debug)]
pub struct Consumer {
    head: u64,
    /// Times that the producer's index or a head word made no sense and the ring was emptied.
    resyncs: u64,
}

/// A message copied out of the ring, not yet validated.
#[derive(Debug, Clone, Copy)]
pub struct Message {
    bytes: [u8; MESSAGE_BYTES_MAX],
    len: usize,
}

impl Message {
    /// Its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Producer {
    /// Takes over where an earlier producer stopped (a new ring: at zero).
    pub fn resume<W: Word, const SLOT: usize>(ring: Ring<'_, W, SLOT>) -> Self {
        // Relaxed: the earlier producer is gone, and only the consumer's answer to later stores matters.
        let tail = ring.tail.load(Relaxed);
        Self { tail, head_seen: tail.wrapping_sub(ring.slots.len() as u64), resyncs: 0 }
    }

    /// Whether a message of `len` bytes would fit now.
    pub fn has_room<W: Word, const SLOT: usize>(&mut self, ring: Ring<'_, W, SLOT>, len: usize) -> bool {
        let slots = slots_of::<SLOT>(len) as u64;
        if self.free(ring) < slots {
            // Acquire: pairs with the Release in `pop`; the consumer has copied those slots out.
            self.head_seen = ring.head.load(Acquire);
            if self.tail.wrapping_sub(self.head_seen) > ring.slots.len() as u64 {
                // Somebody scribbled on an index. The consumer knows what it took: go on from there.
                self.tail = self.head_seen;
                self.resyncs += 1;
            }
        }
        len <= MESSAGE_BYTES_MAX && self.free(ring) >= slots
    }

    /// Appends a message, or refuses at once.
    pub fn push<W: Word, const SLOT: usize>(&mut self, ring: Ring<'_, W, SLOT>, bytes: &[u8]) -> Result<(), Busy> {
        self.stage(ring, bytes)?;
        self.publish(ring);
        Ok(())
    }

    /// Writes a message that the consumer sees only after `publish`.
    pub fn stage<W: Word, const SLOT: usize>(&mut self, ring: Ring<'_, W, SLOT>, bytes: &[u8]) -> Result<(), Busy> {
        if !self.has_room(ring, bytes.len()) {
            return Err(Busy);
        }
        let mut words = Words::new(ring, self.tail);
        let mut seal = Seal::new(self.tail, bytes.len());
        let head = words.next();
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            words.store(seal.over(u64::from_le_bytes(word)));
        }
        head.store(seal.head_word(bytes.len()), Relaxed);
        self.tail = self.tail.wrapping_add(slots_of::<SLOT>(bytes.len()) as u64);
        Ok(())
    }

    /// Shows the consumer all that was staged.
    pub fn publish<W: Word, const SLOT: usize>(&self, ring: Ring<'_, W, SLOT>) {
        // Release: pairs with the Acquire in `pop`; the staged words are visible before the index.
        ring.tail.store(self.tail, Release);
    }

    /// Whether the consumer has not taken all yet.
    pub fn is_waited_for<W: Word, const SLOT: usize>(&self, ring: Ring<'_, W, SLOT>) -> bool {
        // Relaxed: only a hint.
        ring.head.load(Relaxed) != self.tail
    }

    /// How often the consumer's index made no sense.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// Free slots as far as known.
    fn free<W, const SLOT: usize>(&self, ring: Ring<'_, W, SLOT>) -> u64 {
        (ring.slots.len() as u64).saturating_sub(self.tail.wrapping_sub(self.head_seen))
    }
}

impl Consumer {
    /// Takes over where an earlier consumer stopped (a new ring: at zero).
    pub fn resume<W: Word, const SLOT: usize>(ring: Ring<'_, W, SLOT>) -> Self {
        Self { head: ring.head.load(Relaxed), resyncs: 0 }
    }

    /// Takes over and forgets whatever waits there, which was meant for somebody else.
    pub fn skip_to_end<W: Word, const SLOT: usize>(ring: Ring<'_, W, SLOT>) -> Self {
        // Acquire and Release as in `pop`.
        let head = ring.tail.load(Acquire);
        ring.head.store(head, Release);
        Self { head, resyncs: 0 }
    }

    /// Takes the oldest message, if there is one. Nonsense empties the ring and is counted.
    pub fn pop<W: Word, const SLOT: usize>(&mut self, ring: Ring<'_, W, SLOT>) -> Option<Message> {
        // Acquire: pairs with the Release in `push`; the words are visible if the index is.
        let tail = ring.tail.load(Acquire);
        let waiting = tail.wrapping_sub(self.head);
        if waiting == 0 {
            if ring.head.load(Relaxed) != self.head {
                // Somebody scribbled on our index, and the producer waits for it.
                self.advance_to(ring, self.head);
                self.resyncs += 1;
            }
            return None;
        }
        let message = self.read(ring, waiting);
        if let Some(message) = &message {
            self.advance_to(ring, self.head.wrapping_add(slots_of::<SLOT>(message.len) as u64));
        } else {
            self.resyncs += 1;
            self.advance_to(ring, tail);
        }
        message
    }

    /// Copies the oldest message out, if it is one.
    fn read<W: Word, const SLOT: usize>(&self, ring: Ring<'_, W, SLOT>, waiting: u64) -> Option<Message> {
        let mut words = Words::new(ring, self.head);
        let head_word = words.load();
        let len = head_word as u32 as usize;
        if waiting > ring.slots.len() as u64 || len > MESSAGE_BYTES_MAX || slots_of::<SLOT>(len) as u64 > waiting {
            return None;
        }
        let mut message = Message { bytes: [0; MESSAGE_BYTES_MAX], len };
        let mut seal = Seal::new(self.head, len);
        for chunk in message.bytes[..len].chunks_mut(8) {
            let word = seal.over(words.load());
            chunk.copy_from_slice(&word.to_le_bytes()[..chunk.len()]);
        }
        (head_word == seal.head_word(len)).then_some(message)
    }

    /// How often the ring had to be emptied because its content made no sense.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    fn advance_to<W: Word, const SLOT: usize>(&mut self, ring: Ring<'_, W, SLOT>, head: u64) {
        self.head = head;
        // Release: pairs with the Acquire in `has_room`; the copies above are finished before the slots are given back.
        ring.head.store(head, Release);
    }
}

/// Runs over a message's words from a position on, slot after slot, round the end.
struct Words<'a, W, const SLOT: usize> {
    slots: &'a [[W; SLOT]],
    position: u64,
    word: usize,
}

impl<'a, W: Word, const SLOT: usize> Words<'a, W, SLOT> {
    fn new(ring: Ring<'a, W, SLOT>, position: u64) -> Self {
        Self { slots: ring.slots, position, word: 0 }
    }

    fn load(&mut self) -> u64 {
        self.next().load(Relaxed)
    }

    fn store(&mut self, value: u64) {
        self.next().store(value, Relaxed);
    }

    fn next(&mut self) -> &'a W {
        let slot = (self.position as usize) & (self.slots.len() - 1);
        let word = &self.slots[slot][self.word];
        self.word += 1;
        if self.word == SLOT {
            (self.word, self.position) = (0, self.position.wrapping_add(1));
        }
        word
    }
}

/// Slots that a message of `len` bytes takes, its head word included.
fn slots_of<const SLOT: usize>(len: usize) -> usize {
    (1 + len.div_ceil(8)).div_ceil(SLOT)
}

/// A digest of a message: against accidents, not against malice.
#[derive(Clone, Copy)]
struct Seal(u64);

impl Seal {
    fn new(position: u64, len: usize) -> Self {
        let mut seal = Self(SEED);
        seal.over(position);
        seal.over(len as u64);
        seal
    }

    /// Takes in a word, and gives it back.
    #[inline]
    fn over(&mut self, word: u64) -> u64 {
        self.0 = (self.0 ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        word
    }

    /// The seal in the upper half, the length in the lower.
    fn head_word(self, len: usize) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15) & !0xffff_ffff | len as u64
    }
}

#[cfg(test)]
mod models;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::AtomicU64;

    pub(super) struct Heap<W, const SLOT: usize> {
        pub(super) head: W,
        pub(super) tail: W,
        pub(super) slots: Vec<[W; SLOT]>,
    }

    impl<W, const SLOT: usize> Heap<W, SLOT> {
        pub(super) fn new(slots: usize, zero: impl Fn() -> W) -> Self {
            let slots = (0..slots).map(|_| std::array::from_fn(|_| zero())).collect();
            Self { head: zero(), tail: zero(), slots }
        }

        pub(super) fn ring(&self) -> Ring<'_, W, SLOT> {
            Ring { head: &self.head, tail: &self.tail, slots: &self.slots }
        }
    }

    fn std_ring(slots: usize) -> Heap<AtomicU64, SLOT_WORDS> {
        Heap::new(slots, || AtomicU64::new(0))
    }

    #[test]
    fn messages_come_out_in_order_over_many_laps_and_full_is_busy() {
        let heap = std_ring(8);
        let (mut producer, mut consumer) = (Producer::resume(heap.ring()), Consumer::resume(heap.ring()));
        let message = |n: usize| vec![n as u8; n * 97 % (MESSAGE_BYTES_MAX + 1)];
        let (mut pushed, mut popped, mut busy) = (0, 0, 0);
        while popped < 1000 {
            while pushed < 1000 && producer.push(heap.ring(), &message(pushed)).is_ok() {
                pushed += 1;
            }
            busy += 1;
            while let Some(got) = consumer.pop(heap.ring()) {
                assert_eq!(got.as_bytes(), message(popped));
                popped += 1;
            }
        }
        assert!(busy > 100, "the ring was full often");
        assert_eq!(consumer.resyncs(), 0);
    }

    #[test]
    fn a_message_that_never_fits_is_refused() {
        let heap = std_ring(8);
        let mut producer = Producer::resume(heap.ring());
        assert_eq!(producer.push(heap.ring(), &[0; MESSAGE_BYTES_MAX + 1]), Err(Busy));
        assert_eq!(producer.push(heap.ring(), &[0; MESSAGE_BYTES_MAX]), Ok(()));
    }

    #[test]
    fn a_new_consumer_may_skip_what_was_meant_for_the_old_one() {
        let heap = std_ring(8);
        let mut producer = Producer::resume(heap.ring());
        producer.push(heap.ring(), b"old").unwrap();
        let mut consumer = Consumer::skip_to_end(heap.ring());
        producer.push(heap.ring(), b"new").unwrap();
        assert_eq!(consumer.pop(heap.ring()).unwrap().as_bytes(), b"new");
        assert!(consumer.pop(heap.ring()).is_none());
    }

    proptest! {
        /// Whatever stands in indices and slots: no panic, no endless loop, and the ring works again afterwards.
        #[test]
        fn garbage_is_survived(head: u64, tail: u64, near in 0u64..20, use_near: bool, fill: u64, stamp: bool) {
            let heap = std_ring(8);
            let (mut producer, mut consumer) = (Producer::resume(heap.ring()), Consumer::resume(heap.ring()));
            heap.head.store(head, Relaxed);
            heap.tail.store(if use_near { near } else { tail }, Relaxed);
            heap.slots.iter().flatten().for_each(|word| word.store(fill, Relaxed));
            if stamp {
                heap.slots[0][0].store(Seal::new(0, fill as u32 as usize).head_word(fill as u32 as usize), Relaxed);
            }
            for _ in 0..16 {
                let _ = producer.push(heap.ring(), b"into garbage");
                let _ = consumer.pop(heap.ring());
            }
            // Both have found each other again.
            while consumer.pop(heap.ring()).is_some() {}
            producer.push(heap.ring(), b"sane").unwrap();
            let message = consumer.pop(heap.ring()).unwrap();
            prop_assert_eq!(message.as_bytes(), b"sane");
        }
    }
}
