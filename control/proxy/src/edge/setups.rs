//! INVITEs that wait for their switchboard, and whether the wait says that we are behind.
//!
//! Owned by the actor. Measured from the socket to the reply of `channel.invite`, so queues before the actor count as
//! well. We are behind when one has waited longer than `setup_delay_ms_max` and none got through quickly for as long: one
//! slow switchboard among many is no overload, and one that is quick again ends it at once.

use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

use nebula_sip::transaction::TransactionId;

/// The INVITEs under way.
#[derive(Debug)]
pub struct Setups {
    delay_max: Duration,
    came_at: HashMap<TransactionId, Instant>,
    /// The oldest first.
    by_age: BTreeSet<(Instant, TransactionId)>,
    /// When one last got through in time.
    quick_at: Option<Instant>,
}

impl Setups {
    /// None under way.
    pub fn new(delay_max: Duration) -> Self {
        Self { delay_max, came_at: HashMap::new(), by_age: BTreeSet::new(), quick_at: None }
    }

    /// An INVITE was taken on that came to the socket at this time.
    pub fn begin(&mut self, id: TransactionId, came_at: Instant) {
        self.came_at.insert(id, came_at);
        self.by_age.insert((came_at, id));
    }

    /// A switchboard has taken it.
    pub fn taken(&mut self, id: TransactionId, now: Instant) {
        if let Some(came_at) = self.end(id)
            && now.saturating_duration_since(came_at) <= self.delay_max
        {
            self.quick_at = Some(now);
        }
    }

    /// It was refused or is gone; says when it came, if it was under way.
    pub fn end(&mut self, id: TransactionId) -> Option<Instant> {
        let came_at = self.came_at.remove(&id)?;
        self.by_age.remove(&(came_at, id));
        Some(came_at)
    }

    /// Whether one that comes now would wait too long.
    pub fn is_late(&self, now: Instant) -> bool {
        let is_old = |at: Instant| now.saturating_duration_since(at) > self.delay_max;
        self.by_age.first().is_some_and(|(came_at, _)| is_old(*came_at)) && self.quick_at.is_none_or(is_old)
    }
}

#[cfg(test)]
mod tests {
    use nebula_sip::transaction::{Layer, Options, Output};
    use nebula_sip::{Flow, Method, Name, Protocol, Request};

    use super::*;

    const DELAY: Duration = Duration::from_millis(300);

    /// Ids are given by a transaction layer only.
    fn ids<const N: usize>() -> [TransactionId; N] {
        let mut layer = Layer::new(Options::default(), [0; 16]);
        let peer = "192.0.2.1:5060".parse().expect("an address");
        let flow = Flow { protocol: Protocol::Udp, local: peer, remote: peer, connection: 0 };
        std::array::from_fn(|n| {
            let request = Request::new(Method::Options, "sip:a@192.0.2.1".parse().expect("a URI"))
                .with(Name::From, "<sip:a@h>;tag=a")
                .with(Name::To, "<sip:b@h>")
                .with(Name::CallId, format!("c{n}"))
                .with(Name::CSeq, "1 OPTIONS");
            let id = layer.request(Instant::now(), request, flow).expect("room");
            assert!(matches!(layer.poll_output(), Some(Output::Transmit { .. })));
            id
        })
    }

    #[test]
    fn behind_is_when_one_waits_and_none_gets_through() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let [a, b, c] = ids();
        let mut setups = Setups::new(DELAY);
        setups.begin(a, at(0));
        assert!(!setups.is_late(at(300)));
        assert!(setups.is_late(at(301)));
        // Another one is quick: the first has met a bad switchboard.
        setups.begin(b, at(290));
        setups.taken(b, at(310));
        assert!(!setups.is_late(at(311)));
        assert!(setups.is_late(at(611)), "nothing quick for long");
        // What got through late, or was refused, proves nothing.
        setups.begin(c, at(400));
        setups.taken(c, at(900));
        assert!(setups.is_late(at(901)));
        setups.end(a);
        assert!(!setups.is_late(at(901)));
        assert_eq!(setups.end(a), None);
    }
}
