//! Keeps one `nebula-dataplane` alive, without ever owning its life: it outlives us, and the next start adopts it.
//!
//! One task. A dataplane that already answers on the socket is adopted (its pid comes from the kernel, SO_PEERCRED);
//! else one is started in a process group of its own, so that Ctrl-C in our terminal doesn't reach it. Death is seen through
//! a pidfd, at no cost while nothing happens. A dataplane that another supervisor keeps is only [`observe`]d.

use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

/// A dataplane that dies this soon after its start may be broken rather than unlucky: the next start waits.
const SOON: Duration = Duration::from_secs(2);

/// The first such pause; it doubles.
const RESTART_PAUSE_MIN: Duration = Duration::from_millis(100);
/// The longest one.
const RESTART_PAUSE_MAX: Duration = Duration::from_secs(2);

/// How long a fresh dataplane may take until its socket answers.
const START_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a starting dataplane is asked for.
const START_POLL: Duration = Duration::from_millis(2);

/// How often a dataplane of somebody else is looked for while there is none.
const OBSERVE_POLL: Duration = Duration::from_millis(100);

const RESTARTS: &str = "nebula_dataplane_restarts_total";

/// What to start and where it shall listen.
#[derive(Debug, Clone)]
pub struct Options {
    /// The binary.
    pub program: PathBuf,
    /// Its Unix socket.
    pub socket: PathBuf,
    /// The rest of its command line.
    pub arguments: Vec<String>,
    /// Where its messages go, appended.
    pub log: PathBuf,
}

/// Why there is no dataplane.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started at all.
    #[error("cannot start the dataplane {}: {source}; build it, or name it with --dataplane", program.display())]
    Spawn {
        /// The binary.
        program: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It started, and ended or kept silent.
    #[error("the dataplane did not come up on {}: {why}; its messages are in {}", socket.display(), log.display())]
    NotUp {
        /// Its Unix socket.
        socket: PathBuf,
        /// How it ended.
        why: String,
        /// Its messages.
        log: PathBuf,
    },
}

/// A running supervisor. Dropped, it goes on.
pub struct Handle {
    pids: watch::Receiver<Option<i32>>,
    orders: watch::Sender<Order>,
    task: tokio::task::JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    GoOn,
    /// End the dataplane, and the supervision.
    Stop,
    /// End the supervision.
    Leave,
}

impl Handle {
    /// The pid of the living dataplane, as it changes; none while there is none.
    pub fn pids(&self) -> watch::Receiver<Option<i32>> {
        self.pids.clone()
    }

    /// Ends the dataplane (SIGTERM), unless it is somebody else's, and the supervision of it.
    pub async fn stop(self) {
        self.end(Order::Stop).await;
    }

    /// Ends the supervision. The dataplane flows on, and the next start adopts it.
    pub async fn leave(self) {
        self.end(Order::Leave).await;
    }

    async fn end(self, order: Order) {
        self.orders.send_replace(order);
        if let Err(e) = self.task.await {
            tracing::error!(error = %e, "the supervisor of the dataplane failed");
        }
    }
}

/// Adopts or starts a dataplane, and keeps one alive from then on.
pub async fn start(options: Options) -> Result<Handle, Error> {
    metrics::describe_counter!(RESTARTS, "times that the dataplane had to be started again");
    metrics::counter!(RESTARTS).increment(0);
    let first = bring_up(&options).await?;
    let (pid, pids) = watch::channel(Some(first.pid));
    let (orders, told) = watch::channel(Order::GoOn);
    let task = tokio::spawn(supervise(options, first, pid, told));
    Ok(Handle { pids, orders, task })
}

/// Only looks after the pid of a dataplane that somebody else starts and stops.
pub fn observe(socket: PathBuf) -> Handle {
    let (pid, pids) = watch::channel(None);
    let (orders, mut told) = watch::channel(Order::GoOn);
    let look = async move {
        loop {
            match find(&socket).await {
                Some(mut process) => {
                    tracing::info!(pid = process.pid, "found the dataplane");
                    pid.send_replace(Some(process.pid));
                    process.ended().await;
                    tracing::error!(pid = process.pid, "the dataplane has ended; its supervisor should start another");
                    pid.send_replace(None);
                }
                None => tokio::time::sleep(OBSERVE_POLL).await,
            }
        }
    };
    let task = tokio::spawn(async move {
        tokio::select! {
            () = look => {}
            _ = ordered(&mut told) => {}
        }
    });
    Handle { pids, orders, task }
}

async fn supervise(
    options: Options,
    first: Process,
    pid: watch::Sender<Option<i32>>,
    mut told: watch::Receiver<Order>,
) {
    let mut process = first;
    let mut pause = Duration::ZERO;
    loop {
        let since = tokio::time::Instant::now();
        tokio::select! {
            () = process.ended() => {}
            order = ordered(&mut told) => {
                if order == Order::Stop {
                    process.terminate();
                    process.ended().await;
                }
                return;
            }
        }
        pid.send_replace(None);
        metrics::counter!(RESTARTS).increment(1);
        tracing::error!(pid = process.pid, "the dataplane has ended; starting another");
        let soon = since.elapsed() < SOON;
        pause = if soon { (pause * 2).clamp(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX) } else { Duration::ZERO };
        tokio::select! {
            again = bring_up_again(&options, pause) => process = again,
            _ = ordered(&mut told) => return,
        }
        pid.send_replace(Some(process.pid));
    }
}

/// After a pause, until it succeeds.
async fn bring_up_again(options: &Options, mut pause: Duration) -> Process {
    loop {
        tokio::time::sleep(pause).await;
        match bring_up(options).await {
            Ok(process) => return process,
            Err(e) => tracing::error!(error = %e, "no dataplane"),
        }
        pause = (pause * 2).clamp(RESTART_PAUSE_MIN, RESTART_PAUSE_MAX);
    }
}

/// Waits for an order; for ever if there is nobody to give one any more.
async fn ordered(told: &mut watch::Receiver<Order>) -> Order {
    match told.wait_for(|order| *order != Order::GoOn).await.map(|order| *order) {
        Ok(order) => order,
        Err(_) => std::future::pending().await,
    }
}

/// A dataplane's process, ours or adopted.
struct Process {
    pid: i32,
    alive: AsyncFd<OwnedFd>,
    /// Reaps it, if it is our child.
    child: Option<tokio::process::Child>,
}

impl Process {
    fn adopt(pid: i32, child: Option<tokio::process::Child>) -> io::Result<Self> {
        let pid_typed = rustix::process::Pid::from_raw(pid).ok_or_else(|| io::Error::other("pid 0"))?;
        let fd = rustix::process::pidfd_open(pid_typed, rustix::process::PidfdFlags::NONBLOCK)?;
        // The safe constructor is deprecated for types whose descriptor may change under it; an OwnedFd's never does, and the
        // other constructor is unsafe.
        #[expect(deprecated)]
        let alive = AsyncFd::new(fd)?;
        Ok(Self { pid, alive, child })
    }

    async fn ended(&mut self) {
        // A pidfd turns readable when its process has ended; an error here means that we can't watch it any more.
        if self.alive.readable().await.is_ok()
            && let Some(child) = &mut self.child
            && let Ok(status) = child.wait().await
        {
            tracing::info!(pid = self.pid, %status, "dataplane ended");
        }
    }

    fn terminate(&self) {
        let signal = rustix::process::Signal::TERM;
        if let Err(e) = rustix::process::pidfd_send_signal(self.alive.get_ref(), signal) {
            tracing::warn!(pid = self.pid, error = %e, "cannot end the dataplane");
        }
    }
}

async fn bring_up(options: &Options) -> Result<Process, Error> {
    if let Some(process) = find(&options.socket).await {
        tracing::info!(pid = process.pid, "adopted the dataplane that was running");
        return Ok(process);
    }
    let log_bytes_before = std::fs::metadata(&options.log).map_or(0, |log| log.len());
    let mut child = spawn(options)?;
    let not_up = |why: String| Error::NotUp { socket: options.socket.clone(), why, log: options.log.clone() };
    let started = tokio::time::Instant::now();
    let pid = loop {
        if let Some(status) = child.try_wait().map_err(|e| not_up(e.to_string()))? {
            let last = last_line(&options.log, log_bytes_before);
            return Err(not_up(format!("it ended with {status}{}", last.map_or(String::new(), |l| format!(" ({l})")))));
        }
        if let Some(pid) = listening_pid(&options.socket).await {
            break pid;
        }
        if started.elapsed() > START_TIMEOUT {
            return Err(not_up(format!("no answer within {} s", START_TIMEOUT.as_secs())));
        }
        tokio::time::sleep(START_POLL).await;
    };
    tracing::info!(pid, "started the dataplane");
    Process::adopt(pid, Some(child)).map_err(|e| not_up(e.to_string()))
}

/// The one that runs already.
async fn find(socket: &Path) -> Option<Process> {
    Process::adopt(listening_pid(socket).await?, None).ok()
}

fn spawn(options: &Options) -> Result<tokio::process::Child, Error> {
    let failed = |source| Error::Spawn { program: options.program.clone(), source };
    let log = std::fs::File::options().create(true).append(true).open(&options.log).map_err(failed)?;
    let mut command = tokio::process::Command::new(&options.program);
    command.arg("--socket").arg(&options.socket).args(&options.arguments);
    command.stdin(Stdio::null()).stdout(log.try_clone().map_err(failed)?).stderr(log).process_group(0);
    command.spawn().map_err(failed)
}

/// The pid of whoever listens on the socket.
async fn listening_pid(socket: &Path) -> Option<i32> {
    let socket = socket.to_owned();
    // The socket is SOCK_SEQPACKET, which tokio has no type for; connecting to a local listener does not block.
    tokio::task::spawn_blocking(move || {
        use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with, sockopt};
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).ok()?;
        connect(&fd, &SocketAddrUnix::new(&socket).ok()?).ok()?;
        Some(sockopt::socket_peercred(&fd).ok()?.pid.as_raw_nonzero().get())
    })
    .await
    .ok()
    .flatten()
}

/// The last thing that was written behind the first `bytes_before`.
fn last_line(log: &Path, bytes_before: u64) -> Option<String> {
    let mut file = std::fs::File::open(log).ok()?;
    file.seek(io::SeekFrom::Start(bytes_before)).ok()?;
    let mut text = String::new();
    file.read_to_string(&mut text).ok()?;
    text.lines().rev().find(|line| !line.trim().is_empty()).map(|line| line.trim().to_owned())
}
