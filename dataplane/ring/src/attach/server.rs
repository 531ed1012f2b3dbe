//! The dataplane's side: a thread of its own that listens, hands out the segment and watches the newest connection.

use super::{FILES_MAX, Hello, Role, Welcome};
use crate::ABI_VERSION;
use crate::segment::{self, Segment, Sizes};
use crate::wakeup::wakeup;
use crate::worker_end::WorkerEnd;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::io::{Errno, IoSlice};
use rustix::net::{self, AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType};
use std::mem::MaybeUninit;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a client may take to say hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(1);
/// Connections that may wait for the one being served.
const BACKLOG: i32 = 16;

/// Why the dataplane cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody answers there.
    #[error("a dataplane is already running at {}", .0.display())]
    InUse(PathBuf),
    /// The path is something else than a socket.
    #[error("{} exists and is no socket", .0.display())]
    NotASocket(PathBuf),
    /// The system refused.
    #[error("cannot listen at {}: {errno}", path.display())]
    System {
        /// Where.
        path: PathBuf,
        /// Why.
        errno: Errno,
    },
    /// The segment could not be made.
    #[error(transparent)]
    Segment(#[from] segment::Error),
}

/// What happened at the socket, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Control attached and owns the rings.
    Attached {
        /// Its epoch.
        epoch: u64,
        /// Its process.
        pid: u32,
    },
    /// Control of another ABI version was turned away.
    Refused {
        /// Its version.
        abi_version: u32,
        /// Its process.
        pid: u32,
    },
    /// The attached control closed its connection, or died.
    Detached {
        /// Its epoch.
        epoch: u64,
    },
}

/// The listening socket and what it hands out. The socket file is removed on drop.
#[derive(Debug)]
pub struct Server {
    listener: OwnedFd,
    path: PathBuf,
    segment: Segment,
    /// Segment, command eventfds, event eventfds: in this order.
    files: Vec<OwnedFd>,
    /// The segment once more, open for reading only.
    read_only: OwnedFd,
}

impl Server {
    /// Makes a segment and listens at `path`, replacing the socket of a dead predecessor; returns each worker's end too.
    pub fn bind(path: &Path, sizes: Sizes, started_at_unix_ms: u64) -> Result<(Self, Vec<WorkerEnd>), BindError> {
        let (file, segment) = Segment::create(sizes, std::process::id(), started_at_unix_ms)?;
        let listener = listen(path)?;
        let system = |errno| BindError::System { path: path.into(), errno };
        let wakeups = || (0..sizes.workers).map(|_| wakeup()).collect::<Result<Vec<_>, _>>();
        let (commands, events) = (wakeups().map_err(system)?, wakeups().map_err(system)?);
        let read_only = reopen_read_only(&file).map_err(system)?;
        let mut files = vec![file];
        for wakeup in commands.iter().chain(&events) {
            files.push(rustix::io::fcntl_dupfd_cloexec(wakeup, 0).map_err(system)?);
        }
        let ends = commands.into_iter().zip(events).enumerate();
        let ends = ends.map(|(n, (command, event))| WorkerEnd::new(segment.clone(), n, command, event)).collect();
        Ok((Self { listener, path: path.into(), segment, files, read_only }, ends))
    }

    /// The segment that is handed out.
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Serves until `stop` is readable. What clients do wrong costs only them.
    pub fn run(&self, stop: BorrowedFd<'_>, mut on_change: impl FnMut(Change)) -> rustix::io::Result<()> {
        let mut current: Option<(u64, OwnedFd)> = None;
        loop {
            let mut polled = vec![PollFd::new(&stop, PollFlags::IN), PollFd::new(&self.listener, PollFlags::IN)];
            polled.extend(current.iter().map(|(_, connection)| PollFd::new(connection, PollFlags::IN)));
            match poll(&mut polled, None) {
                Err(Errno::INTR) => continue,
                polled => polled?,
            };
            let ready: Vec<bool> = polled.iter().map(|it| !it.revents().is_empty()).collect();
            if ready[0] {
                return Ok(());
            }
            if let Some((epoch, _)) = current.take_if(|(_, connection)| ready[2..] == [true] && ended(connection)) {
                on_change(Change::Detached { epoch });
            }
            if ready[1] {
                match self.welcome() {
                    Ok(Some(Accepted::Attached { epoch, pid, connection })) => {
                        // Dropping the earlier connection tells its control that it was taken over.
                        current = Some((epoch, connection));
                        on_change(Change::Attached { epoch, pid });
                    }
                    Ok(Some(Accepted::Refused { abi_version, pid })) => on_change(Change::Refused { abi_version, pid }),
                    Ok(None) => {}
                    // Out of descriptors or memory: the client will try again, and polling must not spin.
                    Err(_) => std::thread::sleep(Duration::from_millis(100)),
                }
            }
        }
    }

    /// Accepts one connection and does the handshake. None: the client went away or spoke something else.
    fn welcome(&self) -> rustix::io::Result<Option<Accepted>> {
        let connection = match net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            connection => connection?,
        };
        net::sockopt::set_socket_timeout(&connection, net::sockopt::Timeout::Recv, Some(HELLO_TIMEOUT))?;
        let mut bytes = [0; 64];
        let received = net::recv(&connection, &mut bytes[..], RecvFlags::empty()).map_or(0, |(received, _)| received);
        let Some(hello) = Hello::decode(&bytes[..received]) else { return Ok(None) };
        let workers = self.segment.sizes().workers as u32;
        if hello.abi_version != ABI_VERSION {
            let refusal = Welcome { abi_version: ABI_VERSION, workers, epoch: 0 };
            let _ = net::send(&connection, &refusal.encode(), SendFlags::NOSIGNAL);
            return Ok(Some(Accepted::Refused { abi_version: hello.abi_version, pid: hello.pid }));
        }
        if hello.role == Role::Observer {
            let welcome = Welcome { abi_version: ABI_VERSION, workers, epoch: self.segment.epoch() };
            // One that died meanwhile is nobody's concern; the connection ends here in either case.
            let _ = hand_over(&connection, &welcome.encode(), &[self.read_only.as_fd()]);
            return Ok(None);
        }
        let epoch = self.segment.bump_epoch();
        let welcome = Welcome { abi_version: ABI_VERSION, workers, epoch };
        let files: Vec<BorrowedFd<'_>> = self.files.iter().map(AsFd::as_fd).collect();
        match hand_over(&connection, &welcome.encode(), &files) {
            // It died while it attached; the epoch is spent all the same.
            Err(Errno::PIPE | Errno::CONNRESET) => Ok(None),
            sent => sent.map(|()| Some(Accepted::Attached { epoch, pid: hello.pid, connection })),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

enum Accepted {
    Attached { epoch: u64, pid: u32, connection: OwnedFd },
    Refused { abi_version: u32, pid: u32 },
}

fn hand_over(connection: &OwnedFd, welcome: &[u8], files: &[BorrowedFd<'_>]) -> rustix::io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FILES_MAX))];
    let mut ancillary = net::SendAncillaryBuffer::new(&mut space);
    if !ancillary.push(net::SendAncillaryMessage::ScmRights(files)) {
        return Err(Errno::MSGSIZE);
    }
    net::sendmsg(connection, &[IoSlice::new(welcome)], &mut ancillary, SendFlags::NOSIGNAL).map(|_| ())
}

/// A second description of the file, which cannot be written through. It guards against mistakes: who may connect is of our
/// own user or root, and such a one needs no segment to do harm.
fn reopen_read_only(file: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    use rustix::fd::AsRawFd;
    use rustix::fs::{Mode, OFlags};
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
}

/// Whether the other end is gone. Anything it sends instead is ignored: the connection carries nothing.
fn ended(connection: &OwnedFd) -> bool {
    !matches!(
        net::recv(connection, &mut [0; 64][..], RecvFlags::DONTWAIT),
        Ok((1.., _)) | Err(Errno::AGAIN | Errno::INTR)
    )
}

/// Listens at `path`, for the owner only. A socket that nobody answers at is removed first.
fn listen(path: &Path) -> Result<OwnedFd, BindError> {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let system = |errno| BindError::System { path: path.into(), errno };
    let address = SocketAddrUnix::new(path).map_err(system)?;
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(BindError::NotASocket(path.into()));
        }
        if net::connect(&unix_socket().map_err(system)?, &address).is_ok() {
            return Err(BindError::InUse(path.into()));
        }
        rustix::fs::unlink(path).map_err(system)?;
    }
    let listener = unix_socket().map_err(system)?;
    net::bind(&listener, &address).map_err(|errno| match errno {
        Errno::ADDRINUSE => BindError::InUse(path.into()),
        errno => system(errno),
    })?;
    // Before `listen`, so that nobody can connect in between.
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .map_err(|error| system(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    net::listen(&listener, BACKLOG).map_err(system)?;
    Ok(listener)
}

fn unix_socket() -> rustix::io::Result<OwnedFd> {
    net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
}
