//! The dataplane's end of one worker's rings and table. On the worker's thread alone; nothing here blocks.

use crate::event::Event;
use crate::segment::{Counter, Segment};
use crate::slot::{self, Malformed};
use crate::spsc::{Busy, Consumer, Producer};
use crate::table::StreamRecord;
use crate::wakeup::wake;
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};

/// The dataplane's end of one worker's part: it consumes commands, produces events and writes the table.
#[derive(Debug)]
pub struct WorkerEnd {
    segment: Segment,
    worker: usize,
    commands: Consumer,
    events: Producer,
    command_wakeup: OwnedFd,
    event_wakeup: OwnedFd,
    /// Events since the last `publish_events`.
    reported: bool,
}

impl WorkerEnd {
    /// For one worker; the eventfds are the ones that control is given.
    pub fn new(segment: Segment, worker: usize, command_wakeup: OwnedFd, event_wakeup: OwnedFd) -> Self {
        let commands = Consumer::resume(segment.command_ring(worker));
        let events = Producer::resume(segment.event_ring(worker));
        Self { segment, worker, commands, events, command_wakeup, event_wakeup, reported: false }
    }

    /// The next command, with its correlation id. Waits in the ring while there is no room for its answer.
    pub fn next_command(&mut self) -> Option<(u64, Result<crate::Command, Malformed>)> {
        loop {
            let room = self.events.has_room(self.segment.event_ring(self.worker), slot::EVENT_BYTES_MAX);
            let message = if room { self.commands.pop(self.segment.command_ring(self.worker)) } else { None };
            let (correlation, command) = slot::decode_command(message?.as_bytes());
            if command.is_err() {
                self.count(Counter::CommandsMalformed, 1);
            }
            if let Some(correlation) = correlation {
                return Some((correlation, command));
            }
        }
    }

    /// Puts an event on the ring, to be seen after `publish_events`; a full ring drops and counts it (the table still
    /// shows what it was about).
    pub fn report(&mut self, event: &Event) {
        let encoded = slot::encode_event(event);
        let staged = self.events.stage(self.segment.event_ring(self.worker), encoded.as_bytes());
        self.count(Counter::EventsDropped, u64::from(staged == Err(Busy)));
        // A dropped one counts too: the table must still show what it was about.
        self.reported = true;
    }

    /// Shows control what was reported and wakes it: once a turn, after the table is up to date, so that who sees an answer
    /// also sees what it did.
    pub fn publish_events(&mut self) {
        if std::mem::take(&mut self.reported) {
            self.events.publish(self.segment.event_ring(self.worker));
            wake(&self.event_wakeup);
        }
    }

    /// Whether anything was reported since the last `publish_events`.
    pub fn has_reported(&self) -> bool {
        self.reported
    }

    /// Publishes a stream's record.
    pub fn publish(&self, index: usize, record: &StreamRecord) {
        self.segment.table(self.worker).write(index, record);
    }

    /// Says that the worker is alive: once a turn.
    pub fn beat(&self, now_ms: u64) {
        self.segment.beat(self.worker, now_ms);
        self.set(Counter::CommandResyncs, self.commands.resyncs());
    }

    /// Adds to a counter.
    pub fn count(&self, counter: Counter, more: u64) {
        // No read-modify-write: only this worker writes it.
        self.set(counter, self.segment.counter(self.worker, counter) + more);
    }

    /// Sets a counter that is kept elsewhere.
    pub fn set(&self, counter: Counter, value: u64) {
        self.segment.set_counter(self.worker, counter, value);
    }

    /// Readable when commands wait. The driver polls and drains it.
    pub fn command_wakeup(&self) -> BorrowedFd<'_> {
        self.command_wakeup.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::{Command, StreamId};
    use crate::segment::Sizes;
    use crate::wakeup::wakeup;

    const SIZES: Sizes = Sizes { workers: 1, command_slots: 16, event_slots: 32, streams: 1 };

    #[test]
    fn a_command_waits_while_its_answer_has_no_room() {
        let (_file, segment) = Segment::create(SIZES, 1, 1).unwrap();
        let mut end = WorkerEnd::new(segment.clone(), 0, wakeup().unwrap(), wakeup().unwrap());
        let mut control = Producer::resume(segment.command_ring(0));
        let command = Command::DestroyStream { id: StreamId(5) };
        control.push(segment.command_ring(0), slot::encode_command(9, &command).as_bytes()).unwrap();
        for _ in 0..40 {
            end.report(&Event::RtpTimeout { id: StreamId(1) });
        }
        end.publish_events();
        assert_eq!(segment.counter(0, Counter::EventsDropped), 8);
        assert!(end.next_command().is_none());
        let mut events = Consumer::resume(segment.event_ring(0));
        assert!(events.pop(segment.event_ring(0)).is_some());
        assert_eq!(end.next_command(), Some((9, Ok(command))));
    }
}
