//! After an attachment: streams that went with the dataplane before are made again, as fast as its rings take it and no
//! faster. Then the switchboards hear which ones are alive.

use super::{Service, lock, now_ms};
use crate::agent::{Arrival, Errand, Resumption};
use crate::ring_client::Error;
use crate::service::reports::Kind;
use nebula_ring::event::Reason;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Commands that wait for their answers at once. A resumption takes three slots of a ring of 1,024.
const WINDOW: usize = 256;
/// How long the ports of the dead are waited for: the kernel closes their sockets a moment after them.
const PORT_PATIENCE: Duration = Duration::from_millis(1_500);
/// The pause before refused ports, or a busy ring, are tried again.
const PAUSE: Duration = Duration::from_millis(5);

pub(super) const LOST: &str = "nebula_media_dataplane_lost_total";
const RESUMED: &str = "nebula_media_streams_resumed_total";
const FAILED: &str = "nebula_media_streams_lost_total";
const SECONDS: &str = "nebula_media_dataplane_recovery_seconds";

pub(super) fn describe() {
    metrics::describe_counter!(LOST, "times that the dataplane went away");
    metrics::describe_counter!(RESUMED, "streams that were made again in another dataplane");
    metrics::describe_counter!(FAILED, "streams that could not be made again in another dataplane");
    metrics::describe_histogram!(
        SECONDS,
        metrics::Unit::Seconds,
        "from the loss of the dataplane until all its streams were there again"
    );
    // A rate needs a first value.
    for name in [LOST, RESUMED, FAILED] {
        metrics::counter!(name).increment(0);
    }
}

/// One thing to do.
enum Work {
    Resume(Resumption),
    Do(Box<Errand>),
}

impl Work {
    fn of(errand: Errand) -> Self {
        Work::Do(Box::new(errand))
    }
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// What came of it.
#[derive(Debug, Default)]
struct Tally {
    resumed: u64,
    failed: u64,
}

impl Service {
    /// Does what is to be done after an attachment, in a task of its own.
    pub(super) fn recover(self: &Arc<Self>, arrival: Arrival) {
        let service = self.clone();
        let attachment = arrival.attachment;
        self.tasks.spawn(async move {
            let returning = arrival.returning.into_iter().map(Work::Resume);
            let work = arrival.repairs.into_iter().map(Work::of).chain(returning).collect();
            tokio::select! {
                () = service.stop.cancelled() => {}
                tally = service.work_off(work) => if let Some(tally) = tally {
                    service.recovered(&tally, attachment);
                },
            }
        });
    }

    /// None if the dataplane went away meanwhile: then the next attachment begins anew.
    async fn work_off(self: &Arc<Self>, mut work: VecDeque<Work>) -> Option<Tally> {
        let started = Instant::now();
        let mut tally = Tally::default();
        let mut again: VecDeque<Work> = VecDeque::new();
        let mut waiting: VecDeque<(Work, Errand, Answer)> = VecDeque::new();
        loop {
            while waiting.len() < WINDOW
                && let Some(next) = work.pop_front()
            {
                waiting.extend(self.begin(next));
            }
            let Some((done, errand, answer)) = waiting.pop_front() else {
                if again.is_empty() {
                    return Some(tally);
                }
                tokio::time::sleep(PAUSE).await;
                work.append(&mut again);
                continue;
            };
            match (answer.await, done) {
                (Err(Error::Gone), _) => return None,
                (Err(Error::Busy | Error::TimedOut), done) => again.push_back(done),
                (Err(Error::Refused(Reason::PortInUse)), done) if started.elapsed() < PORT_PATIENCE => {
                    again.push_back(done);
                }
                (Ok(()) | Err(Error::Refused(Reason::StreamExists)), Work::Resume(it)) => {
                    tally.resumed += 1;
                    work.extend(lock(&self.agent).resumed(it).into_iter().map(Work::of));
                }
                (Err(Error::Refused(reason)), Work::Resume(it)) => {
                    tally.failed += 1;
                    lock(&self.agent).fail(it, reason, now_ms());
                }
                (answer, Work::Do(_)) => {
                    lock(&self.agent).settle_errand(&errand, answer.is_ok());
                    if let Err(error) = answer {
                        tracing::warn!(%error, ?errand, "a stream could not be repaired");
                    }
                }
            }
        }
    }

    /// Submitted under the agent's lock, so that nothing decided later overtakes it.
    fn begin(&self, work: Work) -> Option<(Work, Errand, Answer)> {
        let mut agent = lock(&self.agent);
        let errand = match &work {
            Work::Resume(it) => agent.resumption(*it, now_ms())?,
            Work::Do(errand) => Errand::clone(errand),
        };
        let answer = self.ring.submit(errand.0, &errand.1);
        Some((work, errand, Box::pin(answer)))
    }

    fn recovered(self: &Arc<Self>, tally: &Tally, attachment: u64) {
        if !lock(&self.agent).is_attached_as(attachment) {
            // Lost again, right at the end: whoever comes after the next attachment has the last word.
            return;
        }
        metrics::counter!(RESUMED).increment(tally.resumed);
        metrics::counter!(FAILED).increment(tally.failed);
        let Tally { resumed, failed } = tally;
        if let Some(lost_at) = lock(&self.lost_at).take() {
            let gap = lost_at.elapsed();
            metrics::histogram!(SECONDS).record(gap.as_secs_f64());
            tracing::warn!(resumed, failed, gap_ms = gap.as_millis() as u64, "the dataplane is back");
        } else if resumed + failed > 0 {
            tracing::warn!(resumed, failed, "streams of the process before were made again");
        }
        let mut agent = lock(&self.agent);
        self.keep(&mut agent);
        let switchboards = agent.alive_by_switchboard();
        drop(agent);
        for switchboard in switchboards.into_keys() {
            self.report_to(switchboard, Kind::DataplaneBack);
        }
    }
}
