//! The record of a call in the store: its row, its answer, its CDR, in this order within a call and side by side between
//! calls, so that the store's group commit has groups. The store writes each one's event in the same transaction and
//! publishes it after the commit: database first, event third; there is no cache of calls to invalidate.
//!
//! No row, no call: the row is tried for `rpc_timeout_ms`, then the caller gets 503. Answer and CDR are tried until they
//! are written; each retry is counted and logged, and the call keeps its place among `calls_max` meanwhile.

use std::future::Future;
use std::time::Duration;

use metrics::Counter;
use nebula_store::cdrs::Cdr;
use nebula_store::{Error, Store, calls};
use tokio::time::{Instant, sleep};

use super::{Done, Key, Shell, Slot, crash};
use crate::call::{Failure, Now, Record, State};

/// The first pause between attempts; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(5);

impl Shell {
    /// Queues a write of a call.
    pub(super) fn record(&mut self, key: Key, record: Record, now: Now) {
        let Some(slot) = self.calls.get_mut(&key) else { return };
        match &record {
            Record::Started => {}
            Record::Answered { .. } => self.metrics.answered.increment(1),
            Record::Ended(cdr) => {
                self.metrics.ended(cdr.cause.clone());
                let duration_ms = now.monotonic_ms - slot.call.started().monotonic_ms;
                tracing::info!(call_id = %cdr.call_id, from = cdr.from_user, to = cdr.to_user, cause = cdr.cause,
                    ended_by = cdr.ended_by, sip_code = cdr.sip_code, duration_ms, billed_ms = cdr.billed_ms(),
                    "call ended");
            }
        }
        slot.records.push_back(record);
        if slot.records.len() == 1 {
            self.write_next(key);
        }
    }

    /// Begins the first write that waits.
    pub(super) fn write_next(&mut self, key: Key) {
        let Some(slot) = self.calls.get(&key) else { return };
        let Some(record) = slot.records.front() else { return };
        let (store, retries) = (self.store.clone(), self.metrics.record_retries.clone());
        match record {
            Record::Started => {
                let (row, patience) = (slot.row(self.instance.as_str()), Some(self.rpc_timeout()));
                self.work.push(Box::pin(async move {
                    let write = || calls::start(&store, row.clone());
                    let result = insist(&row.id, "call.started", patience, &retries, write).await;
                    Done::Written { key, started: Some(result.map_err(|_| Failure::Unavailable)) }
                }));
            }
            Record::Answered { at_unix_ms } => {
                let (id, at, legs) = (slot.call.id().0.clone(), *at_unix_ms, crash::snapshot(&slot.call));
                self.work.push(Box::pin(async move {
                    let write = || calls::answered(&store, &id, State::Answered.name(), at, legs.clone());
                    // What fails for good has been logged; the CDR has the answer as well.
                    let _ = insist(&id, "call.answered", None, &retries, write).await;
                    Done::Written { key, started: None }
                }));
            }
            Record::Ended(cdr) => {
                let cdr: Cdr = (**cdr).clone();
                self.work.push(Box::pin(async move {
                    end(&store, &cdr, &retries).await;
                    Done::Written { key, started: None }
                }));
            }
        }
    }
}

/// Writes a CDR. True if it is the call's first and only one.
pub(super) async fn end(store: &Store, cdr: &Cdr, retries: &Counter) -> bool {
    let write = || calls::end(store, cdr.clone());
    match insist(&cdr.call_id, "call.ended", None, retries, write).await {
        Ok(first) => first,
        Err(_) => {
            report_loss(cdr);
            false
        }
    }
}

impl Slot {
    fn row(&self, switchboard: &str) -> calls::NewCall {
        let invite = self.call.invite();
        calls::NewCall {
            id: self.call.id().0.clone(),
            customer_id: invite.customer_id.clone(),
            state: self.call.state().name().to_owned(),
            from_user: invite.from.user.clone(),
            from_display: invite.from.display.clone(),
            to_user: invite.to.clone(),
            started_unix_ms: self.call.started().unix_ms,
            switchboard: switchboard.to_owned(),
            snapshot: crash::snapshot(&self.call),
        }
    }

    /// The process ends before the record is written: the log is the last place for it. The row in `calls`, if it came
    /// to one, makes the next start close the call as crashed.
    pub(super) fn report_loss(&self) {
        for record in &self.records {
            if let Record::Ended(cdr) = record {
                report_loss(cdr);
            }
        }
    }
}

fn report_loss(cdr: &Cdr) {
    tracing::error!(call_id = %cdr.call_id, cdr = %cdr.to_json(), "this record could not be written");
}

/// Tries a write until it succeeds, its time is up or it can never succeed.
async fn insist<T, W: Future<Output = nebula_store::Result<T>>>(
    call_id: &str,
    what: &str,
    patience: Option<Duration>,
    retries: &Counter,
    mut write: impl FnMut() -> W,
) -> nebula_store::Result<T> {
    let by = patience.map(|patience| Instant::now() + patience);
    let mut pause = PAUSE_MIN;
    loop {
        let error = match write().await {
            Ok(done) => return Ok(done),
            Err(error) => error,
        };
        let hopeless = matches!(error, Error::Closed | Error::Duplicate);
        if hopeless || by.is_some_and(|by| Instant::now() + pause >= by) {
            tracing::error!(%call_id, what, %error, "not written");
            return Err(error);
        }
        tracing::warn!(%call_id, what, %error, pause_ms = pause.as_millis() as u64, "not written yet");
        retries.increment(1);
        sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_write_is_tried_again_until_its_time_is_up() {
        let retries = Counter::noop();
        let mut failures = 7;
        let write = || {
            failures -= 1;
            let result = if failures > 0 { Err(Error::Busy(1)) } else { Ok(failures) };
            std::future::ready(result)
        };
        assert_eq!(insist("c", "x", None, &retries, write).await.unwrap(), 0);

        let begun = Instant::now();
        let busy = || std::future::ready(Err::<(), _>(Error::Busy(1)));
        assert!(insist("c", "x", Some(Duration::from_secs(1)), &retries, busy).await.is_err());
        assert!(begun.elapsed() > Duration::from_millis(300) && begun.elapsed() <= Duration::from_secs(1));

        let closed = || std::future::ready(Err::<(), _>(Error::Closed));
        assert!(insist("c", "x", None, &retries, closed).await.is_err(), "a closed store stays closed");
    }
}
