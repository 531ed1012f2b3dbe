//! Leaves a callee alone that does not answer: after some failures in a row requests to it fail at once, and every now
//! and then one is let through to try it.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::contract::InstanceId;
use crate::limits::{BREAKER_FAILURES_MAX, BREAKER_OPEN_MS};

/// The breakers of all callees; who answered last has none.
#[derive(Default)]
pub(super) struct Breakers {
    failing: HashMap<InstanceId, Failing>,
}

struct Failing {
    in_a_row: u32,
    /// Until when nothing is sent to it, once there are too many.
    shut_until: Option<Instant>,
}

impl Breakers {
    /// Whether requests may be sent to it now. Once the pause is over, yes: the first to ask tries it for all.
    pub fn passes(&mut self, callee: &InstanceId, now: Instant) -> bool {
        let Some(failing) = self.failing.get_mut(callee) else { return true };
        match failing.shut_until {
            Some(until) if now < until => false,
            Some(_) => {
                failing.shut_until = Some(now + Duration::from_millis(BREAKER_OPEN_MS));
                true
            }
            None => true,
        }
    }

    /// As [`Breakers::passes`], without trying it.
    pub fn is_shut(&self, callee: &InstanceId, now: Instant) -> bool {
        self.failing.get(callee).and_then(|failing| failing.shut_until).is_some_and(|until| now < until)
    }

    /// It gave an answer, whichever.
    pub fn answered(&mut self, callee: &InstanceId) {
        self.failing.remove(callee);
    }

    /// It gave none before the deadline. True if that shut its breaker.
    pub fn failed(&mut self, callee: &InstanceId, now: Instant) -> bool {
        let failing = self.failing.entry(callee.clone()).or_insert(Failing { in_a_row: 0, shut_until: None });
        failing.in_a_row = failing.in_a_row.saturating_add(1);
        if failing.in_a_row < BREAKER_FAILURES_MAX {
            return false;
        }
        failing.shut_until = Some(now + Duration::from_millis(BREAKER_OPEN_MS));
        failing.in_a_row == BREAKER_FAILURES_MAX
    }

    /// It has left, or is another process by now.
    pub fn forget(&mut self, callee: &InstanceId) {
        self.failing.remove(callee);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_shuts_after_failures_in_a_row_and_tries_again_later() {
        let (a, b) = (InstanceId::from("a"), InstanceId::from("b"));
        let mut breakers = Breakers::default();
        let now = Instant::now();
        for n in 1..BREAKER_FAILURES_MAX {
            assert!(!breakers.failed(&a, now), "{n}");
        }
        breakers.answered(&a);
        for n in 1..=BREAKER_FAILURES_MAX {
            assert!(breakers.passes(&a, now), "{n}");
            assert_eq!(breakers.failed(&a, now), n == BREAKER_FAILURES_MAX);
        }
        assert!(!breakers.passes(&a, now) && breakers.is_shut(&a, now) && breakers.passes(&b, now));
        // One tries it for all; the others still wait.
        let later = now + Duration::from_millis(BREAKER_OPEN_MS);
        assert!(!breakers.is_shut(&a, later));
        assert!(breakers.passes(&a, later) && !breakers.passes(&a, later));
        breakers.failed(&a, later);
        assert!(!breakers.passes(&a, later));
        breakers.answered(&a);
        assert!(breakers.passes(&a, later));
    }
}
