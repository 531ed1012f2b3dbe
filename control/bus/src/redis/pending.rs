//! The requests that wait for an answer, by number, and what their outcomes say about the callees.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::time::Instant;

use super::breaker::Breakers;
use crate::Error;
use crate::backend::ReplyTo;
use crate::contract::InstanceId;
use crate::error::code;

/// See the module. Their count is bounded by deadlines: each goes with its own.
#[derive(Default)]
pub(super) struct Pending {
    last: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    waiting: HashMap<u64, Waiting>,
    breakers: Breakers,
}

struct Waiting {
    reply: ReplyTo,
    deadline: Instant,
    callee: InstanceId,
}

impl Pending {
    /// Notes a request before it is sent.
    pub fn note(&self, callee: InstanceId, deadline: Instant, reply: ReplyTo) -> u64 {
        // Relaxed: numbers need only differ.
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.lock().waiting.insert(number, Waiting { reply, deadline, callee });
        number
    }

    /// The callee's answer.
    pub fn answered(&self, number: u64, outcome: Result<Bytes, Error>) {
        let mut inner = self.lock();
        let Some(waiting) = inner.waiting.remove(&number) else { return };
        inner.breakers.answered(&waiting.callee);
        drop(inner);
        // Whoever does not wait any more has had its deadline.
        let _ = waiting.reply.send(outcome);
    }

    /// The request did not get to the callee.
    pub fn refused(&self, number: u64, error: Error) {
        let waiting = self.lock().waiting.remove(&number);
        if let Some(waiting) = waiting {
            let _ = waiting.reply.send(Err(error));
        }
    }

    /// No answer can come now.
    pub fn refuse_all(&self, error: &Error) {
        let waiting = std::mem::take(&mut self.lock().waiting);
        for waiting in waiting.into_values() {
            let _ = waiting.reply.send(Err(error.clone()));
        }
    }

    /// Gives up what is past its deadline; returns the callees that are left alone from now on.
    pub fn sweep(&self, now: Instant) -> Vec<InstanceId> {
        let mut shut = Vec::new();
        let mut inner = self.lock();
        let Inner { waiting, breakers } = &mut *inner;
        for (_, late) in waiting.extract_if(|_, waiting| waiting.deadline <= now) {
            if breakers.failed(&late.callee, now) {
                shut.push(late.callee.clone());
            }
            // As a rule its caller has seen that by itself.
            let message = format!("no answer from {} before the deadline", late.callee);
            let _ = late.reply.send(Err(Error::transient(code::DEADLINE_EXCEEDED, message)));
        }
        shut
    }

    /// The breakers.
    pub fn breakers<T>(&self, look: impl FnOnce(&mut Breakers) -> T) -> T {
        look(&mut self.lock().breakers)
    }

    // The maps are whole at every point where a panic could strike.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
