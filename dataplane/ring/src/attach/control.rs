//! Control's side: attach, send commands, receive events, read the table. Nothing here blocks after `attach`.

use super::{Error, FILES_MAX, Hello, Role, Welcome};
use crate::ABI_VERSION;
use crate::command::Command;
use crate::event::Event;
use crate::segment::Segment;
use crate::slot;
use crate::spsc::{Busy, Consumer, Producer};
use crate::table::Table;
use crate::wakeup::{lower, wake};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use rustix::io::{Errno, IoSliceMut};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::mem::MaybeUninit;
use std::path::Path;

/// How long the dataplane may take to answer the handshake, in seconds.
const HANDSHAKE_S_MAX: i64 = 5;

/// The dataplane, seen from control.
#[derive(Debug)]
pub enum Dataplane {}

/// An attachment: the connection and a handle per worker, to be taken apart and put where each is used.
#[derive(Debug)]
pub struct Attached {
    /// Ends when the dataplane dies or another control takes over.
    pub connection: Connection,
    /// A handle per worker, in the order of their cores.
    pub workers: Vec<WorkerHandle>,
}

/// Why the attachment is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// The dataplane has ended.
    Died,
    /// Another control process has attached.
    Superseded,
}

/// Why a command was not sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// The command ring is full: try again after the next events.
    #[error("the command ring is full")]
    Busy,
    /// Another control process owns the rings now.
    #[error("another control process has attached")]
    Superseded,
}

impl Dataplane {
    /// Attaches to the dataplane that listens at `path`, taking over from whoever was attached. Blocks for the handshake.
    ///
    /// Events that were meant for an earlier control are skipped: read the tables after this, they have it all.
    pub fn attach(path: &Path) -> Result<Attached, Error> {
        Self::attach_as(path, ABI_VERSION)
    }

    /// As a program of another ABI version would: for tests of the refusal.
    #[doc(hidden)]
    pub fn attach_as(path: &Path, abi_version: u32) -> Result<Attached, Error> {
        let (socket, welcome, files) =
            greet(path, Hello { abi_version, pid: std::process::id(), role: Role::Control })?;
        if welcome.epoch == 0 {
            return Err(Error::Version { ours: abi_version, theirs: welcome.abi_version });
        }
        rustix::io::ioctl_fionbio(&socket, true)?;
        attached(socket, welcome, files)
    }
}

/// Connects and does the handshake. Blocks for it.
pub(super) fn greet(path: &Path, hello: Hello) -> Result<(OwnedFd, Welcome, Vec<OwnedFd>), Error> {
    let unreachable = |errno| Error::Unreachable { path: path.into(), errno };
    let address = SocketAddrUnix::new(path).map_err(unreachable)?;
    let socket = net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    net::sockopt::set_socket_timeout(
        &socket,
        net::sockopt::Timeout::Recv,
        Some(std::time::Duration::from_secs(HANDSHAKE_S_MAX as u64)),
    )?;
    net::connect(&socket, &address).map_err(unreachable)?;
    net::send(&socket, &hello.encode(), SendFlags::NOSIGNAL)?;
    let (welcome, files) = receive_welcome(&socket)?;
    Ok((socket, welcome, files))
}

fn receive_welcome(socket: &OwnedFd) -> Result<(Welcome, Vec<OwnedFd>), Error> {
    let mut bytes = [0; Welcome::BYTES];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = net::RecvAncillaryBuffer::new(&mut space);
    let received = net::recvmsg(socket, &mut [IoSliceMut::new(&mut bytes)], &mut ancillary, RecvFlags::CMSG_CLOEXEC);
    let received = match received {
        Err(Errno::AGAIN | Errno::CONNRESET) => return Err(Error::NotADataplane),
        received => received?.bytes,
    };
    let files = ancillary
        .drain()
        .filter_map(|message| match message {
            net::RecvAncillaryMessage::ScmRights(files) => Some(files),
            _ => None,
        })
        .flatten()
        .collect();
    Ok((Welcome::decode(&bytes[..received.min(bytes.len())]).ok_or(Error::NotADataplane)?, files))
}

fn attached(socket: OwnedFd, welcome: Welcome, files: Vec<OwnedFd>) -> Result<Attached, Error> {
    let mut files = files.into_iter();
    let segment = Segment::open(files.next().ok_or(Error::NotADataplane)?)?;
    let workers = segment.sizes().workers;
    if workers != welcome.workers as usize || files.len() != 2 * workers {
        return Err(Error::NotADataplane);
    }
    let command_wakeups: Vec<OwnedFd> = files.by_ref().take(workers).collect();
    let epoch = welcome.epoch;
    let workers = command_wakeups
        .into_iter()
        .zip(files)
        .enumerate()
        .map(|(worker, (command_wakeup, event_wakeup))| WorkerHandle {
            commands: Producer::resume(segment.command_ring(worker)),
            events: Consumer::skip_to_end(segment.event_ring(worker)),
            segment: segment.clone(),
            worker,
            epoch,
            command_wakeup,
            event_wakeup,
            malformed: 0,
        })
        .collect();
    Ok(Attached { connection: Connection { socket, segment, epoch }, workers })
}

impl Attached {
    /// The handles, in the order of the workers.
    pub fn workers(&mut self) -> &mut [WorkerHandle] {
        &mut self.workers
    }

    /// The number of this attachment since the dataplane started.
    pub fn epoch(&self) -> u64 {
        self.connection.epoch
    }

    /// The segment: header fields, counters and tables of all workers.
    pub fn segment(&self) -> &Segment {
        &self.connection.segment
    }
}

/// The open connection. Readable (by `AsFd`) means that it is over: ask `lost`.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    segment: Segment,
    epoch: u64,
}

impl Connection {
    /// Whether the attachment is over, and why. Does not block.
    pub fn lost(&self) -> Option<Lost> {
        if self.segment.epoch() != self.epoch {
            return Some(Lost::Superseded);
        }
        match net::recv(&self.socket, &mut [0; 1], RecvFlags::DONTWAIT) {
            Err(Errno::AGAIN | Errno::INTR) => None,
            Ok((_, 1..)) => None,
            // The epoch is bumped before the connection is closed.
            _ if self.segment.epoch() != self.epoch => Some(Lost::Superseded),
            _ => Some(Lost::Died),
        }
    }

    /// The segment, which can still be read after the dataplane's death: final statistics for the CDRs.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl AsRawFd for Connection {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

/// One worker, as control commands it. Its `AsFd` is the event eventfd: readable when events wait; `receive` until none,
/// which lowers it again.
#[derive(Debug)]
pub struct WorkerHandle {
    segment: Segment,
    worker: usize,
    epoch: u64,
    commands: Producer,
    events: Consumer,
    command_wakeup: OwnedFd,
    event_wakeup: OwnedFd,
    malformed: u64,
}

impl WorkerHandle {
    /// Sends a command. Its answer will carry `correlation`; ids should differ between attachments (start at
    /// `epoch << 32`), because answers to an earlier control's last commands may still arrive.
    pub fn send(&mut self, correlation: u64, command: &Command) -> Result<(), SendError> {
        if self.segment.epoch() != self.epoch {
            return Err(SendError::Superseded);
        }
        let encoded = slot::encode_command(correlation, command);
        self.commands
            .push(self.segment.command_ring(self.worker), encoded.as_bytes())
            .map_err(|Busy| SendError::Busy)?;
        wake(&self.command_wakeup);
        Ok(())
    }

    /// The next event. None lowers the eventfd: wait for it to be readable again.
    pub fn receive(&mut self) -> Option<Event> {
        self.next_event().or_else(|| {
            lower(&self.event_wakeup);
            if self.commands.is_waited_for(self.segment.command_ring(self.worker)) {
                // The worker may hold them back until there is room for their answers, which there is now.
                wake(&self.command_wakeup);
            }
            // Once more: what was reported between the look and the lowering must not be slept over.
            self.next_event()
        })
    }

    /// The worker's streams.
    pub fn table(&self) -> Table<'_> {
        self.segment.table(self.worker)
    }

    /// Which worker this is.
    pub fn index(&self) -> usize {
        self.worker
    }

    /// Events that did not parse, and times that the event ring made no sense.
    pub fn malformed(&self) -> u64 {
        self.malformed + self.events.resyncs()
    }

    /// Ends after at most a ring full of malformed messages.
    fn next_event(&mut self) -> Option<Event> {
        if self.segment.epoch() != self.epoch {
            return None;
        }
        loop {
            let message = self.events.pop(self.segment.event_ring(self.worker))?;
            match slot::decode_event(message.as_bytes()) {
                Ok(event) => return Some(event),
                Err(slot::Malformed) => self.malformed += 1,
            }
        }
    }
}

impl AsFd for WorkerHandle {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.event_wakeup.as_fd()
    }
}

impl AsRawFd for WorkerHandle {
    fn as_raw_fd(&self) -> RawFd {
        self.event_wakeup.as_raw_fd()
    }
}
