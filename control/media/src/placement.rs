//! Where a stream goes: its pair of ports and its worker. Pure; owned by `agent`.
//!
//! RTP takes an even port and RTCP the odd one above it (RFC 3550 section 11); with rtcp-mux the odd one rests unused.

use crate::error::Error;
use crate::ring_client::Error as RingError;
use nebula_bus::contract::CallId;
use std::collections::{HashMap, HashSet, VecDeque};

/// An even port; RTCP's is the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortPair(u16);

impl PortPair {
    /// The pair that a port belongs to.
    pub fn of(port: u16) -> Self {
        Self(port & !1)
    }

    /// The even port.
    pub fn rtp(self) -> u16 {
        self.0
    }

    /// The odd port.
    pub fn rtcp(self) -> u16 {
        self.0 + 1
    }
}

/// All pairs that lie wholly between two ports, both included.
pub fn pairs_between(min: u16, max: u16) -> impl Iterator<Item = PortPair> + Clone {
    (min..=max).filter(move |port| port % 2 == 0 && *port < max).map(PortPair)
}

/// The pairs nobody uses. Handed out first in, first out, so that a freed pair rests as long as possible: late packets of
/// a call that has ended must not reach the next one.
#[derive(Debug)]
pub struct Ports {
    free: VecDeque<PortPair>,
    taken: HashSet<PortPair>,
}

impl Ports {
    /// All pairs between two ports but those in use, starting anywhere: a restarted agent that began at the lower end
    /// would reuse the ports that its predecessor freed last.
    pub fn new(min: u16, max: u16, random: u64, in_use: impl IntoIterator<Item = PortPair>) -> Self {
        let taken: HashSet<PortPair> = in_use.into_iter().collect();
        let mut free: VecDeque<PortPair> = pairs_between(min, max).filter(|pair| !taken.contains(pair)).collect();
        let start = random.checked_rem(free.len() as u64).unwrap_or(0);
        free.rotate_left(start as usize);
        Self { free, taken }
    }

    /// A pair for a stream; none if all are in use.
    pub fn take(&mut self) -> Option<PortPair> {
        let pair = self.free.pop_front()?;
        self.taken.insert(pair);
        Some(pair)
    }

    /// Back to the end of the queue. A pair that was not taken stays where it is.
    pub fn release(&mut self, pair: PortPair) {
        if self.taken.remove(&pair) {
            self.free.push_back(pair);
        }
    }

    /// How many pairs are free.
    pub fn free_count(&self) -> usize {
        self.free.len()
    }
}

/// Which worker each call lives on. All streams of a call share one, so that bridging them needs no hand-over. A worker that
/// is overloaded gets no new call; the calls that it has may grow.
#[derive(Debug, Default)]
pub struct Workers {
    streams: Vec<u32>,
    overloaded: Vec<bool>,
    calls: HashMap<CallId, Seat>,
}

#[derive(Debug, Clone, Copy)]
struct Seat {
    worker: usize,
    streams: u32,
}

impl Workers {
    /// So many workers, with nothing on them.
    pub fn new(count: usize) -> Self {
        Self { streams: vec![0; count], overloaded: vec![false; count], calls: HashMap::new() }
    }

    /// A worker has more to do than it should, or no longer.
    pub fn overload(&mut self, worker: usize, on: bool) {
        if let Some(overloaded) = self.overloaded.get_mut(worker) {
            *overloaded = on;
        }
    }

    /// Whether one of them is not overloaded.
    pub fn take_calls(&self) -> bool {
        self.overloaded.is_empty() || self.overloaded.contains(&false)
    }

    /// Counts a stream in and says on which worker: its call's, else that with the fewest streams of those that are not
    /// overloaded.
    pub fn join(&mut self, call: &CallId) -> Result<usize, Error> {
        if let Some(seat) = self.calls.get_mut(call) {
            seat.streams += 1;
            self.streams[seat.worker] += 1;
            return Ok(seat.worker);
        }
        let workers = self.streams.len();
        if workers == 0 {
            return Err(RingError::Gone.into());
        }
        let free = (0..workers).filter(|&worker| !self.overloaded[worker]);
        let worker = free.min_by_key(|&worker| self.streams[worker]).ok_or(Error::Overloaded { workers })?;
        self.calls.insert(call.clone(), Seat { worker, streams: 1 });
        self.streams[worker] += 1;
        Ok(worker)
    }

    /// Counts in a stream that is there already.
    pub fn seat(&mut self, call: &CallId, worker: usize) {
        if let Some(load) = self.streams.get_mut(worker) {
            *load += 1;
            self.calls.entry(call.clone()).or_insert(Seat { worker, streams: 0 }).streams += 1;
        }
    }

    /// A stream of the call goes from one worker to another. Later ones of the call go where it went.
    pub fn shift(&mut self, call: &CallId, from: usize, to: usize) {
        if let (Some(seat), true) = (self.calls.get_mut(call), from.max(to) < self.streams.len()) {
            self.streams[from] = self.streams[from].saturating_sub(1);
            self.streams[to] += 1;
            seat.worker = to;
        }
    }

    /// Counts a stream out that was on this worker.
    pub fn leave(&mut self, call: &CallId, worker: usize) {
        let Some(seat) = self.calls.get_mut(call) else { return };
        if let Some(load) = self.streams.get_mut(worker) {
            *load = load.saturating_sub(1);
        }
        seat.streams -= 1;
        if seat.streams == 0 {
            self.calls.remove(call);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn pairs_lie_wholly_within_the_range() {
        let pairs = |min, max| pairs_between(min, max).map(PortPair::rtp).collect::<Vec<_>>();
        assert_eq!(pairs(10_000, 10_005), [10_000, 10_002, 10_004]);
        assert_eq!(pairs(10_001, 10_004), [10_002]);
        assert_eq!(pairs(65_532, 65_535), [65_532, 65_534]);
        assert_eq!(pairs(10, 9), [0u16; 0]);
    }

    #[test]
    fn a_freed_pair_rests_until_all_others_were_used() {
        let mut ports = Ports::new(10_000, 10_007, 2, []);
        let first = ports.take().unwrap();
        assert_eq!((first.rtp(), first.rtcp()), (10_004, 10_005), "begins anywhere");
        ports.release(first);
        let next: Vec<u16> = (0..4).map(|_| ports.take().unwrap().rtp()).collect();
        assert_eq!(next, [10_006, 10_000, 10_002, 10_004]);
        assert_eq!(ports.take(), None);
    }

    #[test]
    fn ports_of_living_streams_are_not_handed_out() {
        let mut ports = Ports::new(10_000, 10_005, 0, [PortPair::of(10_003), PortPair::of(9_000)]);
        assert_eq!((ports.take(), ports.take(), ports.take()), (Some(PortPair(10_000)), Some(PortPair(10_004)), None));
        ports.release(PortPair::of(10_002));
        assert_eq!(ports.take(), Some(PortPair(10_002)));
    }

    #[test]
    fn a_call_stays_on_one_worker_and_calls_spread() {
        let mut workers = Workers::new(2);
        let (a, b, c) = ("a".into(), "b".into(), "c".into());
        assert_eq!([workers.join(&a), workers.join(&b), workers.join(&a)], [Ok(0), Ok(1), Ok(0)]);
        assert_eq!(workers.join(&c), Ok(1), "the less loaded");
        workers.leave(&a, 0);
        workers.leave(&a, 0);
        workers.leave(&a, 0);
        assert_eq!(workers.join(&"d".into()), Ok(0));
        assert_eq!(Workers::new(0).join(&a), Err(RingError::Gone.into()));
    }

    #[test]
    fn a_stream_that_moves_takes_its_calls_later_ones_along() {
        let mut workers = Workers::new(2);
        let (a, b) = ("a".into(), "b".into());
        assert_eq!([workers.join(&a), workers.join(&b)], [Ok(0), Ok(1)]);
        workers.shift(&b, 1, 0);
        assert_eq!([workers.join(&b), workers.join(&"c".into())], [Ok(0), Ok(1)]);
        [0, 0].into_iter().for_each(|worker| workers.leave(&b, worker));
        assert_eq!(workers.join(&b), Ok(0), "both have one, and the call is forgotten");
    }

    #[test]
    fn who_is_overloaded_gets_no_new_calls_and_keeps_those_it_has() {
        let mut workers = Workers::new(2);
        let (a, b) = ("a".into(), "b".into());
        assert_eq!(workers.join(&a), Ok(0));
        workers.overload(0, true);
        workers.overload(7, true);
        assert_eq!([workers.join(&b), workers.join(&"c".into()), workers.join(&a)], [Ok(1), Ok(1), Ok(0)]);
        workers.overload(1, true);
        assert_eq!(workers.join(&"d".into()), Err(Error::Overloaded { workers: 2 }));
        assert_eq!(workers.join(&b), Ok(1), "a call that exists");
        workers.overload(0, false);
        assert_eq!(workers.join(&"d".into()), Ok(0));
    }

    proptest! {
        #[test]
        fn no_pair_is_held_twice(random: u64, steps in proptest::collection::vec(any::<Option<prop::sample::Index>>(), 0..200)) {
            let mut ports = Ports::new(20_000, 20_015, random, []);
            let mut held: Vec<PortPair> = Vec::new();
            for step in steps {
                match step {
                    Some(which) if !held.is_empty() => ports.release(held.remove(which.index(held.len()))),
                    _ => {
                        let taken = ports.take();
                        prop_assert_eq!(taken.is_none(), held.len() == 8);
                        prop_assert!(taken.is_none_or(|pair| !held.contains(&pair)));
                        held.extend(taken);
                    }
                }
                prop_assert_eq!(ports.free_count() + held.len(), 8);
            }
        }
    }
}
