//! A worker: one thread that owns its driver, its engine and its ends of the rings. The loop, in the fixed order of a turn:
//! completions -> commands -> timers -> table and events -> one system call that sends all and waits for more.

use crate::figures::Figures;
use crate::log;
use crate::migrate::{Migrant, Post};
use crate::options::Options;
use crate::overload::Overload;
use nebula_core::driver::StreamIndex;
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::record::record;
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_io::PacketDriver;
use nebula_io::uring::{self, Gather, Uring};
use nebula_io::xdp::{self, Xdp};
use nebula_ring::event::{Event, Reason};
use nebula_ring::segment::Counter;
use nebula_ring::{Command, StreamId, StreamRecord, WorkerEnd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// Commands carried out in one turn; the rest wait in the ring for the next, which then follows at once.
const COMMANDS_PER_TURN_MAX: usize = 64;

/// The longest sleep, so that the heartbeat means something, and the table's longest lag behind what no packet caused.
const HEARTBEAT_NANOS: u64 = 1_000_000_000;

/// How far the stream table may lag behind packets. Whatever commands and events did is published in their own turn: who
/// sees an answer sees what it did. A record is 504 bytes, so publishing each packet by itself cost 7% of the relay.
const PUBLISH_INTERVAL_NANOS: u64 = 100_000_000;

/// A gather ends sooner when so many times the packets have come that its time brings on average. So steady traffic is gathered
/// for that time, and a burst is handled while it still arrives.
const BURST_FACTOR: u64 = 2;
/// How long packets are counted for that average.
const LOAD_WINDOW_NANOS: u64 = 10_000_000;

/// Runs until `stop`; `ready` is called once everything is set up.
pub fn run(
    options: &Options,
    mail: Mail,
    end: WorkerEnd,
    xdp: Option<xdp::Part>,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let index = mail.index;
    if let Some(&core) = options.cores.get(index) {
        pin(core)?;
    }
    let driver_options = uring::Options {
        streams_max: options.streams_max,
        buffers: options.buffers,
        socket_buffer_bytes: options.socket_buffer_bytes,
    };
    let wakeup = uring::duplicate(end.command_wakeup())?;
    match xdp {
        Some(part) => {
            drive(Xdp::new(driver_options, wakeup, part, &options.xdp().tuning)?, options, mail, end, stop, ready)
        }
        None => {
            let driver = Uring::new(driver_options, wakeup)?;
            let (bytes, huge_pages) = driver.memory();
            log::line("buffers", &[("worker", &index), ("bytes", &bytes), ("huge_pages", &huge_pages)]);
            drive(driver, options, mail, end, stop, ready)
        }
    }
}

fn drive(
    driver: impl PacketDriver,
    options: &Options,
    mail: Mail,
    end: WorkerEnd,
    stop: &AtomicBool,
    ready: impl FnOnce(),
) -> anyhow::Result<()> {
    let mut worker = Worker {
        driver,
        engine: Engine::new(Limits { streams_max: options.streams_max }),
        mail,
        end,
        load: Load::new(options.batch()),
        figures: Figures::new(now()),
        overload: Overload::new(options.overload()),
        commands_wait: false,
        published_at: Nanos(0),
        published_received: 0,
    };
    ready();
    while !stop.load(Ordering::Relaxed) {
        worker.turn()?;
    }
    Ok(())
}

/// How streams come from other workers, and go to them.
#[derive(Debug)]
pub struct Mail {
    /// Which worker this is.
    pub index: usize,
    /// To the others.
    pub post: Post,
    /// From them.
    pub mailbox: Receiver<Migrant>,
}

struct Worker<D> {
    driver: D,
    engine: Engine,
    mail: Mail,
    end: WorkerEnd,
    load: Load,
    figures: Figures,
    overload: Overload,
    /// The last turn left commands in the ring.
    commands_wait: bool,
    published_at: Nanos,
    /// Packets received when the table was last brought up to date.
    published_received: u64,
}

impl<D: PacketDriver> Worker<D> {
    fn turn(&mut self) -> std::io::Result<()> {
        let (asleep_at, due) = (now(), self.due());
        self.figures.turn_ends(asleep_at);
        self.driver.wait(Some(self.timeout(asleep_at, due)), self.load.gather())?;
        let now = now();
        self.figures.turn_begins(now, due);
        self.receive(now);
        while let Some(socket) = self.driver.take_unreachable() {
            self.engine.unreachable(now, socket);
        }
        self.commands_wait = self.carry_out_commands(now);
        self.engine.tick(now, &mut self.driver, &mut Events(&mut self.end));
        if self.end.has_reported() || self.publish_due() <= now {
            self.publish(now);
        }
        self.count(now);
        Ok(())
    }

    fn receive(&mut self, now: Nanos) {
        let (engine, events) = (&mut self.engine, &mut Events(&mut self.end));
        self.driver.receive(|driver, packets| engine.receive_many(now, packets, driver, events));
    }

    fn publish(&mut self, now: Nanos) {
        self.engine.for_each_dirty(|index, view| self.end.publish(index.0 as usize, &record(view)));
        self.end.publish_events();
        (self.published_at, self.published_received) = (now, self.driver.counters().received);
    }

    /// When the table must be brought up to date, at the latest.
    fn publish_due(&self) -> Nanos {
        let lags = self.driver.counters().received > self.published_received;
        self.published_at.plus_nanos(if lags { PUBLISH_INTERVAL_NANOS } else { HEARTBEAT_NANOS })
    }

    /// True if more commands wait.
    fn carry_out_commands(&mut self, now: Nanos) -> bool {
        self.take_migrants(now);
        for _ in 0..COMMANDS_PER_TURN_MAX {
            let Some((correlation, command)) = self.end.next_command() else { return false };
            // Who was sent before this command was is here before it is carried out.
            self.take_migrants(now);
            self.carry_out(now, correlation, command.ok().as_ref());
        }
        true
    }

    /// Goes on with streams of other workers. One that there is no room for is lost, and control is told like of a silence.
    fn take_migrants(&mut self, now: Nanos) {
        while let Ok(migrant) = self.mail.mailbox.try_recv() {
            let id = migrant.id;
            if self.adopt(now, migrant).is_err() {
                self.end.report(&Event::RtpTimeout { id });
            }
        }
    }

    fn adopt(&mut self, now: Nanos, migrant: Migrant) -> Result<(), Reason> {
        let Migrant { id, config, record, keys, sockets } = migrant;
        self.driver.adopt(sockets);
        let mut answer = Answer { end: &mut self.end, result: Ok(()) };
        let command = Command::ResumeStream { id, config, record };
        self.engine.apply(now, 0, &command, &mut self.driver, &mut answer);
        // Sockets that nobody took are closed.
        self.driver.adopt([None, None]);
        answer.result?;
        keys.map_or(Ok(()), |keys| self.engine.entrust(id, *keys, &mut self.driver, &mut Events(&mut self.end)))
    }

    /// Hands a stream to another worker.
    fn migrate(&mut self, now: Nanos, id: StreamId, worker: usize) -> Result<(), Reason> {
        if !self.mail.post.reaches(worker) {
            return Err(Reason::Invalid);
        }
        let sockets = self.engine.sockets(id).ok_or(Reason::UnknownStream)?;
        if worker == self.mail.index {
            return Ok(());
        }
        sockets.iter().flatten().for_each(|(socket, _)| self.driver.rest(*socket));
        self.receive(now);
        let (index, view) = self.engine.find(id).ok_or(Reason::UnknownStream)?;
        let (config, record) = (view.config.clone(), record(&view));
        let shared = sockets.map(|it| it.and_then(|(socket, local)| Some((local, self.driver.share(socket)?))));
        if shared.iter().flatten().count() != sockets.iter().flatten().count() {
            // It stays: its receives are armed again by themselves.
            return Err(Reason::NoFileDescriptor);
        }
        let keys = self.engine.hand_over(now, id, &mut self.driver, &mut Events(&mut self.end))?.map(Box::new);
        // Its record goes with it: should it come back, there must not be two of its name.
        self.publish(now);
        self.end.publish(index.0 as usize, &StreamRecord::default());
        let migrant = Migrant { id, config, record, keys, sockets: shared };
        match self.mail.post.send(worker, migrant) {
            Ok(()) => Ok(()),
            Err(migrant) => self.adopt(now, migrant).and(Err(Reason::TableFull)),
        }
    }

    fn carry_out(&mut self, now: Nanos, correlation: u64, command: Option<&Command>) {
        match command {
            Some(Command::MigrateStream { id, worker }) => {
                let event = match self.migrate(now, *id, *worker as usize) {
                    Ok(()) => Event::Done { correlation },
                    Err(reason) => Event::Failed { correlation, reason },
                };
                self.end.report(&event);
            }
            Some(command) => self.engine.apply(now, correlation, command, &mut self.driver, &mut Events(&mut self.end)),
            None => self.end.report(&Event::Failed { correlation, reason: Reason::Invalid }),
        }
    }

    /// What the clock asks for next.
    fn due(&self) -> Nanos {
        self.publish_due().min(self.engine.next_timeout().unwrap_or(Nanos(u64::MAX)))
    }

    fn timeout(&self, now: Nanos, due: Nanos) -> Duration {
        Duration::from_nanos(if self.commands_wait { 0 } else { due.since(now) })
    }

    fn count(&mut self, now: Nanos) {
        let (counters, frames) = (self.driver.counters(), self.driver.frame_counters());
        self.load.update(now, counters.received);
        for (counter, value) in [
            (Counter::Turns, counters.turns),
            (Counter::PacketsReceived, counters.received),
            (Counter::PacketsSent, counters.sent - counters.send_failed),
            (Counter::SendFailed, counters.send_failed),
            (Counter::SendOverflow, counters.send_overflow),
            (Counter::BuffersExhausted, counters.buffers_exhausted),
            (Counter::Rearmed, counters.rearmed),
            (Counter::Stale, counters.stale),
            (Counter::FramesReceived, frames.received),
            (Counter::FramesSent, frames.sent),
            (Counter::FramesRefused, frames.refused),
            (Counter::FramesLeftToKernel, frames.sent_by_kernel),
            (Counter::FramesHandedOver, frames.handed),
            (Counter::FramesHandedOverDropped, frames.handed_dropped),
        ] {
            self.end.set(counter, value);
        }
        if self.figures.second_ends(now, counters.received) {
            let (end, overload) = (&mut self.end, &mut self.overload);
            self.figures.publish(now, thread_cpu(), |counter, value| {
                end.set(counter, value);
                overload.note(counter, value);
            });
            if let Some(on) = overload.judge() {
                end.set(Counter::Overloaded, on.into());
                end.report(&Event::Overload { on });
                end.publish_events();
            }
            self.end.set(Counter::TicksCutShort, self.engine.totals().ticks_cut_short);
        }
        self.end.beat(now.as_millis());
    }
}

/// The answer to a command that control has not given; nothing else comes of those.
struct Answer<'a> {
    end: &'a mut WorkerEnd,
    result: Result<(), Reason>,
}

impl EventSink for Answer<'_> {
    fn push(&mut self, event: Event) {
        if let Event::Failed { reason, .. } = event {
            self.result = Err(reason);
        }
    }

    fn show(&mut self, index: StreamIndex, view: &StreamView<'_>) {
        self.end.publish(index.0 as usize, &record(view));
    }
}

/// The engine's events go straight onto the ring, and what must be shown at once into the table.
struct Events<'a>(&'a mut WorkerEnd);

impl EventSink for Events<'_> {
    fn push(&mut self, event: Event) {
        self.0.report(&event);
    }

    fn show(&mut self, index: StreamIndex, view: &StreamView<'_>) {
        self.0.publish(index.0 as usize, &record(view));
    }
}

/// How many packets come, and so whether and how to gather them.
#[derive(Debug, Default)]
struct Load {
    /// How long to gather; zero never does.
    time: Duration,
    window_start: Nanos,
    received_before: u64,
    /// A burst's worth, by the average of the last window.
    burst: u64,
    /// What the last turn brought, and all that had come by its end.
    last_turn: u64,
    received: u64,
}

impl Load {
    fn new(time: Option<Duration>) -> Self {
        Self { time: time.unwrap_or_default(), ..Self::default() }
    }

    /// None where a burst is one packet: system calls are cheap then, and each packet is handled at once. What is enough bounds, too,
    /// how much the kernel hands over at once, to twice that or 40: a worker that has just been given so much is behind, and takes all.
    fn gather(&self) -> Option<Gather> {
        let is_behind = self.last_turn >= 2 * self.burst;
        let enough = if is_behind { u32::MAX } else { u32::try_from(self.burst).unwrap_or(u32::MAX) };
        (self.burst > 1).then_some(Gather { time: self.time, enough })
    }

    fn update(&mut self, now: Nanos, received: u64) {
        self.last_turn = received - self.received;
        self.received = received;
        let elapsed = now.since(self.window_start);
        if elapsed < LOAD_WINDOW_NANOS {
            return;
        }
        // A window that was slept over brings the average down: a burst after silence is gathered one window later.
        self.burst = (received - self.received_before) * BURST_FACTOR * self.time.as_nanos() as u64 / elapsed;
        (self.window_start, self.received_before) = (now, received);
    }
}

/// CLOCK_MONOTONIC, which control can compare with.
fn now() -> Nanos {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// CPU time of this thread. A system call, for once a second.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn pin(core: u16) -> anyhow::Result<()> {
    let mut cores = rustix::thread::CpuSet::new();
    cores.set(core.into());
    rustix::thread::sched_setaffinity(None, &cores)
        .map_err(|errno| anyhow::anyhow!("cannot pin to core {core}: {errno} (--cores names cores of this host)"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_gathered_from_the_rate_on_at_which_a_burst_is_more_than_one() {
        let mut load = Load::new(Some(Duration::from_micros(200)));
        let enough = |load: &Load| load.gather().map(|gather| gather.enough);
        load.update(Nanos(1_000_000_000), 1);
        assert_eq!(enough(&load), None);
        load.update(Nanos(1_005_000_000), 101);
        assert_eq!(enough(&load), None, "the window is not over");
        load.update(Nanos(1_009_000_000), 490);
        load.update(Nanos(1_010_000_000), 501);
        assert_eq!(enough(&load), Some(20), "50,000 a second: 10 in the time, twice");
        load.update(Nanos(1_011_000_000), 541);
        assert_eq!(enough(&load), Some(u32::MAX), "behind: 40 in one turn");
        load.update(Nanos(1_012_000_000), 580);
        assert_eq!(enough(&load), Some(20), "and no longer");
        load.update(Nanos(1_030_000_000), 600);
        assert_eq!(enough(&load), None, "99 packets in 20 ms");
        load.update(Nanos(1_040_000_000), 650);
        load.update(Nanos(1_041_000_000), 651);
        assert_eq!(enough(&load), Some(2));
        let mut never = Load::new(None);
        never.update(Nanos(1_000_000_000), 1_000_000);
        assert_eq!(never.gather(), None);
    }
}
