//! What an inbox remembers of requests with an idempotency key, so that one delivered twice acts once: the duplicate gets
//! the first one's outcome, or waits for it. Transient failures are not remembered, since retrying them is the point.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits::{RECENT_KEYS_MAX, RECENT_WAITERS_MAX};
use crate::wire::Outcome;

/// The memory of one inbox; `W` is a duplicate that waits.
pub(crate) struct Recent<W> {
    inner: Mutex<Inner<W>>,
}

struct Inner<W> {
    keys: HashMap<String, Entry<W>>,
    /// The answered keys, oldest first.
    answered: VecDeque<String>,
}

enum Entry<W> {
    Running(Vec<W>),
    Answered(Outcome),
}

/// What to do with a request that has a key.
pub(crate) enum Admission<W> {
    /// It is the first: act, then call [`Recent::settle`].
    First(W),
    /// It was answered before, like this.
    Answered(W, Outcome),
    /// It waits for the first.
    Waiting,
    /// A cap is reached.
    Full(W),
}

impl<W> Recent<W> {
    pub fn new() -> Self {
        Self { inner: Mutex::new(Inner { keys: HashMap::new(), answered: VecDeque::new() }) }
    }

    /// Looks a key up and notes it.
    pub fn admit(&self, key: &str, waiter: W) -> Admission<W> {
        let mut inner = self.lock();
        match inner.keys.get_mut(key) {
            Some(Entry::Answered(outcome)) => Admission::Answered(waiter, outcome.clone()),
            Some(Entry::Running(waiters)) if waiters.len() < RECENT_WAITERS_MAX => {
                waiters.push(waiter);
                Admission::Waiting
            }
            Some(Entry::Running(_)) => Admission::Full(waiter),
            None => {
                if inner.keys.len() >= RECENT_KEYS_MAX {
                    let Some(oldest) = inner.answered.pop_front() else { return Admission::Full(waiter) };
                    inner.keys.remove(&oldest);
                }
                inner.keys.insert(key.to_owned(), Entry::Running(Vec::new()));
                Admission::First(waiter)
            }
        }
    }

    /// Notes how the first came out and returns the duplicates that waited for it.
    pub fn settle(&self, key: &str, outcome: &Outcome) -> Vec<W> {
        let mut inner = self.lock();
        let waiters = match inner.keys.remove(key) {
            Some(Entry::Running(waiters)) => waiters,
            _ => Vec::new(),
        };
        if !matches!(outcome, Err(error) if error.is_transient()) {
            inner.keys.insert(key.to_owned(), Entry::Answered(outcome.clone()));
            inner.answered.push_back(key.to_owned());
        }
        waiters
    }

    // The map is whole at every point where a panic could strike.
    fn lock(&self) -> MutexGuard<'_, Inner<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Error;

    fn null() -> Outcome {
        Ok(serde_json::value::RawValue::NULL.to_owned())
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest_answer() {
        let recent = Recent::new();
        for n in 0..=RECENT_KEYS_MAX {
            assert!(matches!(recent.admit(&n.to_string(), ()), Admission::First(())), "{n}");
            recent.settle(&n.to_string(), &null());
        }
        assert_eq!(recent.lock().keys.len(), RECENT_KEYS_MAX);
        assert!(matches!(recent.admit("1", ()), Admission::Answered(..)));
        assert!(matches!(recent.admit("0", ()), Admission::First(())));
    }

    #[test]
    fn unanswered_keys_are_never_forgotten_but_capped() {
        let recent = Recent::new();
        for n in 0..RECENT_KEYS_MAX {
            assert!(matches!(recent.admit(&n.to_string(), n), Admission::First(_)));
        }
        assert!(matches!(recent.admit("one more", 0), Admission::Full(0)));
        for n in 0..RECENT_WAITERS_MAX {
            assert!(matches!(recent.admit("7", n), Admission::Waiting));
        }
        assert!(matches!(recent.admit("7", 99), Admission::Full(99)));
        assert_eq!(recent.settle("7", &null()).len(), RECENT_WAITERS_MAX);
    }

    #[test]
    fn a_transient_failure_may_be_tried_again() {
        let recent = Recent::new();
        assert!(matches!(recent.admit("k", ()), Admission::First(())));
        recent.settle("k", &Err(Error::transient("busy", "")));
        assert!(matches!(recent.admit("k", ()), Admission::First(())));
    }
}
