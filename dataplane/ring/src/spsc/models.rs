//! The rings under loom: every interleaving, and the death of either side between any two of its stores.
//!
//! A slot is two words here, so that a message of one word takes one slot and one of three takes two. Death is the end of a
//! side's stores: what it does after its last one, nobody sees. A side that is stopped rather than dead, and goes on after
//! another has taken its place, is modelled as two producers at once.

use super::tests::Heap;
use super::{Consumer, Producer};
use crate::word::Word;
use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use std::cell::Cell;
use std::sync::atomic::Ordering;

/// A word that its writer's death keeps as it is.
struct Mortal(AtomicU64);

loom::thread_local! {
    /// Stores that this thread still lives for.
    static LIFE: Cell<u32> = Cell::new(u32::MAX);
}

fn live_for(stores: u32) {
    LIFE.with(|life| life.set(stores));
}

fn is_dead() -> bool {
    LIFE.with(|life| life.get() == 0)
}

impl Word for Mortal {
    fn load(&self, ordering: Ordering) -> u64 {
        self.0.load(ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        let alive = LIFE.with(|life| {
            let left = life.get();
            life.set(left.saturating_sub(1));
            left > 0
        });
        if alive {
            self.0.store(value, ordering);
        }
    }

    fn fence(ordering: Ordering) {
        loom::sync::atomic::fence(ordering);
    }
}

type Small = Heap<Mortal, 2>;

fn small(slots: usize) -> Arc<Small> {
    Arc::new(Heap::new(slots, || Mortal(AtomicU64::new(0))))
}

/// A few preemptions find what many do, in seconds.
fn explore(preemptions_max: usize, model: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(preemptions_max);
    builder.check(model);
}

fn run(slots: usize, messages: &'static [&'static [u8]]) {
    loom::model(move || {
        let heap = small(slots);
        let theirs = heap.clone();
        let producer = loom::thread::spawn(move || {
            let mut producer = Producer::resume(theirs.ring());
            for message in messages {
                while producer.push(theirs.ring(), message).is_err() {
                    loom::thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::resume(heap.ring());
        for message in messages {
            let got = loop {
                match consumer.pop(heap.ring()) {
                    Some(got) => break got,
                    None => loom::thread::yield_now(),
                }
            };
            assert_eq!(got.as_bytes(), *message);
        }
        assert_eq!(consumer.resyncs(), 0);
        producer.join().unwrap();
    });
}

#[test]
fn loom_full_ring_waits_and_nothing_is_lost() {
    run(1, &[b"a", b"b"]);
}

#[test]
fn loom_wrap_reuses_slots_only_after_they_were_copied() {
    run(2, &[b"a", b"b", b"c"]);
}

#[test]
fn loom_long_messages_are_never_torn() {
    run(2, &[b"0123456789abcdef", b"fedcba9876543210"]);
}

/// Messages of one slot and of two; so many stores do they take: words, seal and index.
const SAID: [&[u8]; 2] = [b"a", b"0123456789abcdef"];
const STORES: u32 = 3 + 5;

/// What a consumer may find of `SAID`: the first so many, whole.
fn expect_prefix(found: &[Vec<u8>]) {
    assert!(found.iter().zip(SAID).all(|(found, said)| found == said), "{found:?}");
    assert!(found.len() <= SAID.len());
}

#[test]
fn loom_a_producer_dies_anywhere_and_its_successor_is_heard() {
    for life in 0..=STORES {
        explore(3, move || {
            let heap = small(4);
            let theirs = heap.clone();
            let producers = loom::thread::spawn(move || {
                live_for(life);
                let mut dying = Producer::resume(theirs.ring());
                for message in SAID {
                    let _ = dying.push(theirs.ring(), message);
                }
                live_for(u32::MAX);
                let mut successor = Producer::resume(theirs.ring());
                while successor.push(theirs.ring(), b"z").is_err() {
                    loom::thread::yield_now();
                }
            });
            let mut consumer = Consumer::resume(heap.ring());
            let mut found = Vec::new();
            loop {
                match consumer.pop(heap.ring()) {
                    Some(got) if got.as_bytes() == b"z" => break,
                    Some(got) => found.push(got.as_bytes().to_vec()),
                    None => loom::thread::yield_now(),
                }
            }
            expect_prefix(&found);
            assert_eq!(consumer.resyncs(), 0, "a death costs nothing that was published");
            producers.join().unwrap();
        });
    }
}

#[test]
fn loom_a_consumer_dies_anywhere_and_its_successor_goes_on() {
    for life in 0..=SAID.len() as u32 {
        explore(3, move || {
            let heap = small(4);
            let theirs = heap.clone();
            let consumers = loom::thread::spawn(move || {
                live_for(life);
                let mut dying = Consumer::resume(theirs.ring());
                let mut found = Vec::new();
                // The last one that it copied out, it did not live to give back.
                while found.len() < SAID.len() {
                    let dies_over_it = is_dead();
                    match dying.pop(theirs.ring()) {
                        Some(got) => found.push(got.as_bytes().to_vec()),
                        None => loom::thread::yield_now(),
                    }
                    if dies_over_it && !found.is_empty() {
                        break;
                    }
                }
                expect_prefix(&found);
                live_for(u32::MAX);
                // Control that attaches skips what was meant for the one before.
                Consumer::skip_to_end(theirs.ring())
            });
            let mut producer = Producer::resume(heap.ring());
            for message in SAID {
                while producer.push(heap.ring(), message).is_err() {
                    loom::thread::yield_now();
                }
            }
            let mut successor = consumers.join().unwrap();
            let mut found: Vec<Vec<u8>> = Vec::new();
            while let Some(got) = successor.pop(heap.ring()) {
                found.push(got.as_bytes().to_vec());
            }
            let said_last: Vec<Vec<u8>> = SAID[SAID.len() - found.len()..].iter().map(|said| said.to_vec()).collect();
            assert_eq!(found, said_last, "whole, and to the end");
            producer.push(heap.ring(), b"z").unwrap();
            assert_eq!(successor.pop(heap.ring()).unwrap().as_bytes(), b"z");
            assert_eq!(successor.resyncs(), 0);
        });
    }
}

/// The handshake as `attach` does it: the epoch is bumped, then the new control sends. The old one, stopped anywhere in the
/// middle of a send, goes on when it likes.
#[test]
fn loom_an_attach_takes_over_from_a_control_that_is_in_the_middle_of_a_send() {
    explore(3, || {
        let heap = small(2);
        let epoch = Arc::new(AtomicU64::new(1));
        let (theirs, their_epoch) = (heap.clone(), epoch.clone());
        let old = loom::thread::spawn(move || {
            let mut producer = Producer::resume(theirs.ring());
            let mut sent = 0;
            for message in [b"old one.", b"old two."] {
                // As `WorkerHandle::send`.
                if their_epoch.load(Ordering::Acquire) == 1 && producer.push(theirs.ring(), message).is_ok() {
                    sent += 1;
                }
            }
            sent
        });
        // As `Server::welcome`, and then `Dataplane::attach`.
        epoch.store(2, Ordering::Release);
        let mut new = Producer::resume(heap.ring());
        let _ = new.push(heap.ring(), b"new one.");
        let mut consumer = Consumer::resume(heap.ring());
        let mut whole = |got: &super::Message| {
            let known: [&[u8]; 4] = [b"old one.", b"old two.", b"new one.", b"again."];
            assert!(known.contains(&got.as_bytes()), "never of two halves: {:?}", got.as_bytes());
        };
        for _ in 0..2 {
            consumer.pop(heap.ring()).iter().for_each(&mut whole);
        }
        old.join().unwrap();
        // The old one is gone for good: the new one and the dataplane find each other, whatever was written over what.
        let mut attempts = 0;
        let found = loop {
            attempts += 1;
            assert!(attempts <= 6, "they do not find each other");
            let _ = new.push(heap.ring(), b"again.");
            let mut found = false;
            while let Some(got) = consumer.pop(heap.ring()) {
                whole(&got);
                found |= got.as_bytes() == b"again.";
            }
            if found {
                break attempts;
            }
        };
        assert!(found <= 6);
        // And from then on nothing is lost.
        let resyncs = consumer.resyncs();
        for _ in 0..3 {
            new.push(heap.ring(), b"again.").unwrap();
            assert_eq!(consumer.pop(heap.ring()).unwrap().as_bytes(), b"again.");
        }
        assert_eq!(consumer.resyncs(), resyncs);
    });
}
