//! Between workers. The card chooses a frame's queue by its addresses, and so its worker; the stream may live with another
//! one. That one is handed a copy: through a bounded lock-free queue, in boxes that all exist from the start.

use super::umem::CHUNK_BYTES;
use crossbeam::queue::ArrayQueue;
use nebula_ring::segment::WORKERS_MAX;
use rustix::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};

/// Frames that can wait for a worker: some milliseconds of a full core. One more is dropped and counted.
pub const HANDED_MAX: usize = 512;

const _: () = assert!(WORKERS_MAX <= 64, "a bit each");

/// A frame on its way.
pub struct Handed {
    /// The interface it came in by.
    pub interface: u8,
    len: u16,
    bytes: [u8; CHUNK_BYTES],
}

impl Handed {
    /// The frame, and how much of the buffer it takes.
    #[inline]
    pub fn buffer(&mut self) -> (&mut [u8], usize) {
        (&mut self.bytes, self.len.into())
    }
}

/// What all workers share.
pub struct Shared {
    /// For each port, the workers that have it open, on whatever address.
    owners: Box<[AtomicU64]>,
    inboxes: Vec<Inbox>,
}

struct Inbox {
    empty: ArrayQueue<Box<Handed>>,
    full: ArrayQueue<Box<Handed>>,
    asleep: AtomicBool,
    wakeup: OwnedFd,
}

impl Shared {
    /// `wakeups` are the eventfds of all workers, each ending its worker's wait.
    pub fn new(wakeups: Vec<OwnedFd>) -> Self {
        let inboxes = wakeups.into_iter().map(Inbox::new).collect();
        Self { owners: (0..1 << 16).map(|_| AtomicU64::new(0)).collect(), inboxes }
    }

    /// Notes that a worker has a port open, or has not.
    pub fn own(&self, worker: usize, port: u16, owns: bool) {
        let (owners, bit) = (&self.owners[usize::from(port)], 1 << worker);
        // Relaxed: who reads the old value hands a frame to nobody, or to one that drops it, as if it had come a moment
        // earlier or later.
        if owns {
            owners.fetch_or(bit, Ordering::Relaxed)
        } else {
            owners.fetch_and(!bit, Ordering::Relaxed)
        };
    }

    /// Hands a frame to the other workers that have the port open (one, unless two streams have it on two addresses: the
    /// wrong one then drops it). The number of copies that fitted, and of those that did not.
    pub fn hand_over(&self, from: usize, port: u16, interface: u8, frame: &[u8]) -> (u64, u64) {
        let mut others = self.owners[usize::from(port)].load(Ordering::Relaxed) & !(1 << from);
        let (mut handed, mut dropped) = (0, 0);
        while others != 0 {
            let fits = self.inboxes.get(others.trailing_zeros() as usize).is_some_and(|it| it.put(interface, frame));
            handed += u64::from(fits);
            dropped += u64::from(!fits);
            others &= others - 1;
        }
        (handed, dropped)
    }

    /// The next frame for a worker; it goes back by `empty`.
    #[inline]
    pub fn take(&self, worker: usize) -> Option<Box<Handed>> {
        self.inboxes[worker].full.pop()
    }

    /// Gives a box back.
    pub fn empty(&self, worker: usize, handed: Box<Handed>) {
        // There are no more boxes than places.
        let _ = self.inboxes[worker].empty.push(handed);
    }

    /// Before a worker waits: whether it may sleep. From then until `awake`, whoever hands it something wakes it up.
    pub fn asleep(&self, worker: usize) -> bool {
        let inbox = &self.inboxes[worker];
        inbox.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `put`: either this side sees the frame, or that side sees the sleeper.
        fence(Ordering::SeqCst);
        inbox.full.is_empty()
    }

    /// After it.
    pub fn awake(&self, worker: usize) {
        self.inboxes[worker].asleep.store(false, Ordering::Relaxed);
    }
}

impl Inbox {
    fn new(wakeup: OwnedFd) -> Self {
        let empty = ArrayQueue::new(HANDED_MAX);
        for _ in 0..HANDED_MAX {
            let _ = empty.push(Box::new(Handed { interface: 0, len: 0, bytes: [0; CHUNK_BYTES] }));
        }
        Self { empty, full: ArrayQueue::new(HANDED_MAX), asleep: AtomicBool::new(false), wakeup }
    }

    fn put(&self, interface: u8, frame: &[u8]) -> bool {
        let Some(mut handed) = self.empty.pop() else { return false };
        let len = frame.len().min(CHUNK_BYTES);
        handed.bytes[..len].copy_from_slice(&frame[..len]);
        (handed.interface, handed.len) = (interface, len as u16);
        if self.full.push(handed).is_err() {
            return false;
        }
        // Pairs with the fence in `asleep`.
        fence(Ordering::SeqCst);
        if self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed) {
            // Fails only if it was raised 2^64 times without being read.
            let _ = rustix::io::write(&self.wakeup, &1u64.to_ne_bytes());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shared(workers: usize) -> Shared {
        let wakeup = || rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Shared::new((0..workers).map(|_| wakeup()).collect())
    }

    fn raised(shared: &Shared, worker: usize) -> bool {
        rustix::io::read(&shared.inboxes[worker].wakeup, &mut [0; 8]).is_ok()
    }

    #[test]
    fn a_frame_goes_to_whoever_else_has_the_port() {
        let shared = shared(3);
        assert_eq!(shared.hand_over(0, 4000, 1, b"frame"), (0, 0));
        for worker in 0..3 {
            shared.own(worker, 4000, true);
        }
        shared.own(1, 4000, false);
        assert_eq!(shared.hand_over(0, 4000, 1, b"frame"), (1, 0));
        assert!(shared.take(0).is_none() && shared.take(1).is_none());
        let mut handed = shared.take(2).unwrap();
        assert_eq!(handed.interface, 1);
        let (buffer, len) = handed.buffer();
        assert_eq!(&buffer[..len], b"frame");
    }

    #[test]
    fn more_than_fit_are_counted_and_boxes_are_used_again() {
        let shared = shared(2);
        shared.own(1, 4000, true);
        for _ in 0..3 {
            for _ in 0..HANDED_MAX {
                assert_eq!(shared.hand_over(0, 4000, 0, &[7; 3000]), (1, 0));
            }
            assert_eq!(shared.hand_over(0, 4000, 0, b"too many"), (0, 1));
            while let Some(mut handed) = shared.take(1) {
                assert_eq!(handed.buffer().1, CHUNK_BYTES);
                shared.empty(1, handed);
            }
        }
    }

    #[test]
    fn only_a_sleeper_is_woken_and_once() {
        let shared = shared(2);
        shared.own(1, 4000, true);
        shared.hand_over(0, 4000, 0, b"1");
        assert!(!raised(&shared, 1) && !shared.asleep(1), "there is something for it");
        shared.awake(1);
        shared.take(1).unwrap();
        assert!(shared.asleep(1));
        shared.hand_over(0, 4000, 0, b"2");
        assert!(raised(&shared, 1));
        shared.hand_over(0, 4000, 0, b"3");
        assert!(!raised(&shared, 1));
    }

    #[test]
    fn nothing_is_lost_between_two_threads() {
        let shared = shared(2);
        shared.own(1, 4000, true);
        const FRAMES: u32 = 20_000;
        std::thread::scope(|threads| {
            threads.spawn(|| {
                for n in 0..FRAMES {
                    while shared.hand_over(0, 4000, 0, &n.to_be_bytes()).0 == 0 {
                        std::thread::yield_now();
                    }
                }
            });
            for n in 0..FRAMES {
                let mut handed = loop {
                    match shared.take(1) {
                        Some(handed) => break handed,
                        // As the driver does: asleep until somebody raises the eventfd.
                        None if shared.asleep(1) => {
                            let wakeup = &shared.inboxes[1].wakeup;
                            let mut ready = [rustix::event::PollFd::new(wakeup, rustix::event::PollFlags::IN)];
                            let second = rustix::event::Timespec { tv_sec: 10, tv_nsec: 0 };
                            assert_eq!(rustix::event::poll(&mut ready, Some(&second)), Ok(1), "woken for frame {n}");
                            raised(&shared, 1);
                        }
                        None => {}
                    }
                };
                shared.awake(1);
                let (buffer, len) = handed.buffer();
                assert_eq!(buffer[..len], n.to_be_bytes());
                shared.empty(1, handed);
            }
        });
    }
}
