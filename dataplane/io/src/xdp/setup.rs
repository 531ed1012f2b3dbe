//! Everything of AF_XDP that is set up before the workers start, on the main thread: programs, sockets, and what the workers
//! share. An interface either works for all of them or is left to io_uring.

use super::group::Group;
use super::handover::Shared;
use super::interface::Interface;
use super::program::Program;
use super::{Error, INTERFACES_MAX, Options, QUEUES_MAX};
use rustix::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// What one worker takes along.
pub struct Part {
    pub(super) worker: usize,
    pub(super) groups: Vec<Group>,
    pub(super) shared: Arc<Shared>,
    /// The last worker to end takes the programs off.
    pub(super) _programs: Arc<Vec<Program>>,
}

/// What became of an interface.
#[derive(Debug)]
pub struct Fate {
    /// Its name, as it was given.
    pub interface: String,
    /// How it runs, or why it does not.
    pub result: Result<Runs, Error>,
}

/// How an interface runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Runs {
    /// The driver runs the program, not the kernel behind it.
    pub in_driver: bool,
    /// Frames are not copied.
    pub zero_copy: bool,
    /// Queues, each served by a worker.
    pub queues: u32,
}

/// Sets all interfaces up for workers with these eventfds. No parts if none of them runs.
pub fn set_up(options: &Options, wakeups: &[OwnedFd]) -> Result<(Vec<Part>, Vec<Fate>), Error> {
    let workers = wakeups.len();
    let mut programs = Vec::new();
    let mut groups: Vec<Vec<Group>> = (0..workers).map(|_| Vec::new()).collect();
    let mut fates = Vec::new();
    for name in &options.interfaces {
        let result = set_up_one(name, options, workers, programs.len()).map(|(program, of_workers, runs)| {
            programs.push(program);
            groups.iter_mut().zip(of_workers).for_each(|(groups, group)| groups.push(group));
            runs
        });
        fates.push(Fate { interface: name.clone(), result });
    }
    if programs.is_empty() {
        return Ok((Vec::new(), fates));
    }
    let clones = wakeups.iter().map(|fd| fd.as_fd().try_clone_to_owned()).collect::<Result<_, _>>();
    let clones = clones.map_err(|source| Error::Socket { what: "an eventfd", source })?;
    let (shared, programs) = (Arc::new(Shared::new(clones)), Arc::new(programs));
    let part = |(worker, groups)| Part { worker, groups, shared: shared.clone(), _programs: programs.clone() };
    Ok((groups.into_iter().enumerate().map(part).collect(), fates))
}

/// One interface: queue q is worker q's, modulo their number.
fn set_up_one(
    name: &str,
    options: &Options,
    workers: usize,
    before: usize,
) -> Result<(Program, Vec<Group>, Runs), Error> {
    if before == INTERFACES_MAX {
        return Err(Error::TooMany { interfaces_max: INTERFACES_MAX });
    }
    let interface = Interface::find(name)?;
    if interface.queues as usize > QUEUES_MAX * workers {
        return Err(Error::TooManyQueues { queues: interface.queues, most: QUEUES_MAX * workers });
    }
    let sockets = 2 * options.streams_max * workers as u32;
    let mut program = Program::attach(&interface, options.tuning.mode, sockets)?;
    let mut groups = Vec::with_capacity(workers);
    let mut runs = Runs { in_driver: program.in_driver, zero_copy: true, queues: interface.queues };
    for worker in 0..workers {
        let queues: Vec<u32> = (0..interface.queues).filter(|queue| *queue as usize % workers == worker).collect();
        let group = Group::new(interface.clone(), program.open_ports()?, &queues, &options.tuning)?;
        for (queue, socket) in queues.into_iter().zip(&group.queues) {
            program.serve(queue, socket)?;
            runs.zero_copy &= socket.zero_copy;
        }
        groups.push(group);
    }
    Ok((program, groups, runs))
}
