//! A dataplane without media: it keeps the stream table as told, answers commands, and does as the test says.

use nebula_ring::Sizes;
use nebula_ring::WorkerEnd;
use nebula_ring::attach::Server;
use nebula_ring::command::{Command, StreamId};
use nebula_ring::event::{Event, Reason};
use nebula_ring::table::{FLAG_OPEN, FLAG_TIMED_OUT, StreamRecord};
use nebula_ring::wakeup::wakeup;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::OwnedFd;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use tokio::sync::mpsc;

const STREAMS: usize = 16;
pub const SLOW: std::time::Duration = std::time::Duration::from_millis(300);

pub struct Fake {
    stop: OwnedFd,
    shared: Arc<Shared>,
    pub commands: mpsc::UnboundedReceiver<(usize, Command)>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    script: Mutex<Script>,
}

#[derive(Default)]
struct Script {
    refusals: VecDeque<Reason>,
    mute: bool,
    reports: VecDeque<Event>,
    packets_in: u64,
    silent: bool,
    slow: bool,
    nudges: Vec<OwnedFd>,
}

impl Fake {
    pub fn start(socket: &Path, workers: usize) -> Self {
        Self::start_refusing(socket, workers, [])
    }

    /// Its first stream commands fail so.
    pub fn start_refusing(socket: &Path, workers: usize, reasons: impl IntoIterator<Item = Reason>) -> Self {
        let sizes = Sizes { workers, command_slots: 64, event_slots: 64, streams: STREAMS };
        let (server, ends) = Server::bind(socket, sizes, 1).unwrap();
        let stop = wakeup().unwrap();
        let shared = Arc::new(Shared::default());
        shared.script.lock().unwrap().refusals.extend(reasons);
        let (sender, commands) = mpsc::unbounded_channel();
        let mut threads = Vec::new();
        for (worker, end) in ends.into_iter().enumerate() {
            let nudge = wakeup().unwrap();
            shared.script.lock().unwrap().nudges.push(nudge.try_clone().unwrap());
            let (shared, stop, sender) = (shared.clone(), stop.try_clone().unwrap(), sender.clone());
            threads.push(std::thread::spawn(move || run(worker, end, &nudge, &stop, &shared, &sender)));
        }
        let listener_stop = stop.try_clone().unwrap();
        threads.push(std::thread::spawn(move || {
            server.run(rustix::fd::AsFd::as_fd(&listener_stop), |_| {}).unwrap();
        }));
        Self { stop, shared, commands, threads }
    }

    /// The next stream commands fail so.
    pub fn refuse(&self, reasons: impl IntoIterator<Item = Reason>) {
        self.shared.script.lock().unwrap().refusals.extend(reasons);
    }

    /// Takes commands and says nothing.
    pub fn mute(&self) {
        self.shared.script.lock().unwrap().mute = true;
    }

    /// What every stream made from now on has received.
    pub fn packets_in(&self, packets: u64) {
        self.shared.script.lock().unwrap().packets_in = packets;
    }

    /// Every stream made from now on has timed out, and the event was lost.
    pub fn silent(&self) {
        self.shared.script.lock().unwrap().silent = true;
    }

    /// Every answer from now on takes `SLOW`.
    pub fn slow(&self) {
        self.shared.script.lock().unwrap().slow = true;
    }

    pub fn report(&self, event: Event) {
        let mut script = self.shared.script.lock().unwrap();
        script.reports.push_back(event);
        for nudge in &script.nudges {
            rustix::io::write(nudge, &1u64.to_ne_bytes()).unwrap();
        }
    }

    pub async fn command(&mut self) -> (usize, Command) {
        tokio::time::timeout(super::DEADLINE, self.commands.recv()).await.expect("a command in time").unwrap()
    }
}

impl Drop for Fake {
    /// As if it died: the connection ends and the socket is gone.
    fn drop(&mut self) {
        rustix::io::write(&self.stop, &1u64.to_ne_bytes()).unwrap();
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn run(
    worker: usize,
    mut end: WorkerEnd,
    nudge: &OwnedFd,
    stop: &OwnedFd,
    shared: &Shared,
    commands: &mpsc::UnboundedSender<(usize, Command)>,
) {
    let mut table = [StreamRecord::default(); STREAMS];
    loop {
        let stopped = {
            let commands_wait = end.command_wakeup();
            let mut polled = [stop, nudge].map(|fd| PollFd::new(fd, PollFlags::IN)).to_vec();
            polled.push(PollFd::from_borrowed_fd(commands_wait, PollFlags::IN));
            poll(&mut polled, None).unwrap();
            !polled[0].revents().is_empty()
        };
        if stopped {
            return;
        }
        nebula_ring::wakeup::lower(nudge);
        nebula_ring::wakeup::lower(end.command_wakeup());
        while let Some((correlation, command)) = end.next_command() {
            let command = command.expect("the agent sends what parses");
            let mut script = shared.script.lock().unwrap();
            let refusal = if script.mute { None } else { script.refusals.pop_front() };
            let answer = match refusal.map_or_else(|| apply(&mut table, &command, &script), Err) {
                Ok(()) => Event::Done { correlation },
                Err(reason) => Event::Failed { correlation, reason },
            };
            table.iter().enumerate().for_each(|(index, record)| end.publish(index, record));
            if script.slow {
                std::thread::sleep(SLOW);
            }
            commands.send((worker, command)).ok();
            if !script.mute {
                end.report(&answer);
            }
        }
        // Every worker reports; the agent must not mind hearing it from the wrong one.
        let reports =
            if worker == 0 { std::mem::take(&mut shared.script.lock().unwrap().reports) } else { VecDeque::new() };
        reports.iter().for_each(|event| end.report(event));
        end.publish_events();
    }
}

fn apply(table: &mut [StreamRecord], command: &Command, script: &Script) -> Result<(), Reason> {
    let is = |record: &StreamRecord, id: StreamId| record.is(FLAG_OPEN) && record.id == id.0;
    let at = |id: StreamId| table.iter().position(|record| is(record, id)).ok_or(Reason::UnknownStream);
    match command {
        Command::CreateStream { id, config } => {
            let free = table.iter().position(|record| !record.is(FLAG_OPEN)).ok_or(Reason::TableFull)?;
            table[free] = StreamRecord { id: id.0, packets_in: script.packets_in, ..StreamRecord::default() };
            table[free].set(FLAG_OPEN, true);
            table[free].set(FLAG_TIMED_OUT, script.silent);
            table[free].set_local(config.local_ip, config.rtp_port, config.rtcp_port);
            table[free].set_remote_rtp(config.remote_rtp);
        }
        Command::ResumeStream { id, config, record } => {
            let free = table.iter().position(|record| !record.is(FLAG_OPEN)).ok_or(Reason::TableFull)?;
            table[free] = StreamRecord { bridged_with: 0, ..*record };
            assert_eq!((record.id, record.local_rtp().port()), (id.0, config.rtp_port));
        }
        Command::UpdateStream { id, config } => {
            let index = at(*id)?;
            table[index].set_remote_rtp(config.remote_rtp);
        }
        Command::DestroyStream { id } => {
            let index = at(*id)?;
            // A last packet came before the end: the final record has it.
            table[index].packets_in += 1;
            table[index].set(FLAG_OPEN, false);
        }
        Command::CreateBridge { a, b } => {
            let (at_a, at_b) = (at(*a)?, at(*b)?);
            (table[at_a].bridged_with, table[at_b].bridged_with) = (b.0, a.0);
        }
        // Its workers share no table: it is made anew where it goes, by whoever needs it there.
        Command::MigrateStream { id, .. } => {
            let index = at(*id)?;
            table[index].set(FLAG_OPEN, false);
        }
        Command::DestroyBridge { a, b } => {
            for index in [at(*a)?, at(*b)?] {
                table[index].bridged_with = 0;
            }
        }
    }
    Ok(())
}
