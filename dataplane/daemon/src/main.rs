//! The dataplane's process: options, the attach socket on the main thread, one worker thread per core.
//!
//! It outlives whoever started it: no parent-death signal, no controlling pipe. SIGTERM or SIGINT end it.
#![forbid(unsafe_code)]

mod figures;
mod log;
mod migrate;
mod options;
mod overload;
mod worker;

use anyhow::Context;
use clap::Parser;
use nebula_io::xdp;
use nebula_ring::attach::{Change, Server};
use options::Options;
use rustix::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::time::{SystemTime, UNIX_EPOCH};

fn main() -> std::process::ExitCode {
    match run(&Options::parse()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            log::line("failed", &[("error", &format_args!("{error:#}"))]);
            std::process::ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> anyhow::Result<()> {
    let (ended, end) = UnixStream::pair().context("signal pipe")?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        signal_hook::low_level::pipe::register(signal, end.try_clone()?).context("signal handler")?;
    }
    raise_file_limit(options.streams_max)?;
    let started_at_unix_ms = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
    let (server, ends) = Server::bind(&options.socket, options.sizes(), started_at_unix_ms)?;
    let workers = Workers::start(options, ends, &end)?;
    log::line(
        "started",
        &[
            ("pid", &std::process::id()),
            ("socket", &options.socket.display()),
            ("workers", &options.workers()),
            ("streams_max", &options.streams_max),
            ("abi_version", &nebula_ring::ABI_VERSION),
        ],
    );
    let served = server.run(ended.as_fd(), log_change);
    workers.stop()?;
    served.context("attach socket")?;
    log::line("stopped", &[("pid", &std::process::id())]);
    Ok(())
}

/// The worker threads and how to end them.
struct Workers {
    stop: Arc<AtomicBool>,
    threads: Vec<(rustix::fd::OwnedFd, std::thread::JoinHandle<anyhow::Result<()>>)>,
}

impl Workers {
    /// Starts all and waits until each is ready or one has failed. One that ends later writes to `end`.
    fn start(options: &Options, ends: Vec<nebula_ring::WorkerEnd>, end: &UnixStream) -> anyhow::Result<Self> {
        let mut workers = Self { stop: Arc::default(), threads: Vec::new() };
        let (ready, ready_workers) = mpsc::channel();
        let wakeups = ends.iter().map(|end| nebula_io::uring::duplicate(end.command_wakeup()));
        let wakeups = wakeups.collect::<Result<Vec<_>, _>>().context("eventfd")?;
        let mut parts = set_up_xdp(options, &wakeups)?.into_iter();
        let copies =
            wakeups.iter().map(nebula_io::uring::duplicate).collect::<Result<Vec<_>, _>>().context("eventfd")?;
        let (post, mailboxes) = migrate::Post::new(copies);
        for (((index, worker_end), wakeup), mailbox) in ends.into_iter().enumerate().zip(wakeups).zip(mailboxes) {
            let mail = worker::Mail { index, post: post.clone(), mailbox };
            let part = parts.next();
            let (options, stop, ready) = (options.clone(), workers.stop.clone(), ready.clone());
            let end = EndsProcess(end.try_clone()?);
            let run = move || {
                let _end = end;
                let report = || ready.send(()).unwrap_or(()); // nobody waits if another worker has failed
                worker::run(&options, mail, worker_end, part, &stop, report).with_context(|| format!("worker {index}"))
            };
            let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
            workers.threads.push((wakeup, thread));
        }
        drop(ready);
        if ready_workers.iter().take(workers.threads.len()).count() < workers.threads.len() {
            workers.stop()?;
            anyhow::bail!("a worker ended at once");
        }
        Ok(workers)
    }

    /// Ends all; the first error of one, if any.
    fn stop(self) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut result = Ok(());
        for (wakeup, thread) in self.threads {
            let _ = rustix::io::write(&wakeup, &1u64.to_ne_bytes());
            let ended = thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a worker panicked")));
            result = result.and(ended);
        }
        result
    }
}

/// AF_XDP on the interfaces that were asked for, a part for each worker; none if no interface runs. One line each.
fn set_up_xdp(options: &Options, wakeups: &[rustix::fd::OwnedFd]) -> anyhow::Result<Vec<xdp::Part>> {
    if options.xdp.is_empty() {
        return Ok(Vec::new());
    }
    raise_memory_limit();
    let (parts, fates) = xdp::set_up(&options.xdp(), wakeups).context("AF_XDP")?;
    for xdp::Fate { interface, result } in &fates {
        match result {
            Ok(runs) => log::line(
                "xdp",
                &[
                    ("interface", interface),
                    ("program", &if runs.in_driver { "driver" } else { "generic" }),
                    ("frames", &if runs.zero_copy { "zero-copy" } else { "copied" }),
                    ("queues", &runs.queues),
                ],
            ),
            Err(error) => {
                log::line("xdp-off", &[("interface", interface), ("driver", &"io_uring"), ("because", error)]);
            }
        }
    }
    Ok(parts)
}

/// Ends the process when its worker does, in whichever way: a dataplane with a dead worker must not look alive.
struct EndsProcess(UnixStream);

impl Drop for EndsProcess {
    fn drop(&mut self) {
        // It fails only if the main thread has ended already.
        let _ = std::io::Write::write_all(&mut self.0, b"!");
    }
}

fn log_change(change: Change) {
    match change {
        Change::Attached { epoch, pid } => log::line("attached", &[("epoch", &epoch), ("pid", &pid)]),
        Change::Refused { abi_version, pid } => {
            log::line("refused", &[("abi_version", &abi_version), ("ours", &nebula_ring::ABI_VERSION), ("pid", &pid)]);
        }
        Change::Detached { epoch } => log::line("detached", &[("epoch", &epoch)]),
    }
}

/// The frames' memory is locked. Up to the hard limit we may help ourselves; beyond it the error says so.
fn raise_memory_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Memlock);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Memlock, limit);
}

/// Two sockets a stream need more descriptors than the usual soft limit; up to the hard limit we may help ourselves.
fn raise_file_limit(streams_max: u32) -> anyhow::Result<()> {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    let _ = setrlimit(Resource::Nofile, limit);
    let max = limit.maximum.unwrap_or(u64::MAX);
    anyhow::ensure!(
        u64::from(streams_max) * 2 <= max,
        "--streams-max {streams_max} needs {} open files, but the hard limit is {max}: raise it (ulimit -Hn, \
         LimitNOFILE=) or set at most {}",
        streams_max * 2,
        max / 2,
    );
    Ok(())
}
