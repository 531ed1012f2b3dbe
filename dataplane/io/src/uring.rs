//! The io_uring driver: one ring per worker, on the worker's thread alone.
//!
//! Receiving: each socket has a multishot RecvMsg into one ring of provided buffers shared by all. Sending: a received
//! buffer is sent as it lies, and everything queued in a turn goes to the kernel with the one system call in which the
//! worker also waits for more. Sends carry MSG_DONTWAIT, so that the kernel does them during that call or not at all: when it
//! returns, the buffers are free again, and a send that went well needs no completion.
//!
//! Sockets are always received from with the source address, connected or not: what was queued before a connect is thus
//! never taken for the peer's.

mod buffers;
mod outbox;
mod sockets;

use buffers::Pool;
use io_uring::types::{Fd, Fixed, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use nebula_core::batch::BATCH_MAX;
use nebula_core::driver::{Driver, Forward, Incoming, OpenError, Socket};
use outbox::Outbox;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use sockets::{Operation, Sockets, Token};
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Entries of the submission queue. A turn that queues more pays one more system call.
const SUBMISSIONS: u32 = 1024;
/// Completions looked at in one turn; the rest wait for the next.
const COMPLETIONS_PER_TURN_MAX: usize = 1024;
/// Peers that are told of as unreachable in one turn; more are left out, which costs an operator a hint.
const UNREACHABLE_PER_TURN_MAX: usize = 64;
/// The one group of provided buffers.
const BUFFER_GROUP: u16 = 0;
/// How long a receive rests that ended for a reason that may last.
const REARM_PAUSE: Duration = Duration::from_millis(10);
/// Other files that a wait can look at, too.
pub const POLLS_MAX: usize = 64;
/// IORING_ENTER_GETEVENTS.
const ENTER_GETEVENTS: u32 = 1;

/// How the driver is sized.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Streams, each with up to two sockets.
    pub streams_max: u32,
    /// Receive buffers, a power of two up to 32,768, of 1,536 bytes.
    pub buffers: u16,
    /// SO_RCVBUF of each socket in bytes; none leaves the system's default.
    pub socket_buffer_bytes: Option<usize>,
}

/// What a wait gathers before it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gather {
    /// How long, from the wait's begin. If nothing has come by then, the first that comes ends it.
    pub time: Duration,
    /// How many completions end it sooner.
    pub enough: u32,
}

/// What the driver counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Waits, that is turns: a system call each.
    pub turns: u64,
    /// System calls beside those: submissions that could not wait for the end of their turn, because the queue was full, a
    /// socket was closed, or a receive had ended for want of the buffers that are being sent.
    pub flushes: u64,
    /// Packets received.
    pub received: u64,
    /// Packets queued to send.
    pub sent: u64,
    /// Of these, refused by the kernel.
    pub send_failed: u64,
    /// Packets dropped before the kernel, because the kernel took no more.
    pub send_overflow: u64,
    /// Receives that stopped for want of a buffer.
    pub buffers_exhausted: u64,
    /// Receives armed anew.
    pub rearmed: u64,
    /// Completions for closed sockets.
    pub stale: u64,
}

/// Why the driver cannot run here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no io_uring, an older one, or forbids it (sysctl kernel.io_uring_disabled, seccomp).
    #[error("io_uring is not available: {0} (needs Linux 6.0 and kernel.io_uring_disabled = 0)")]
    Unavailable(io::Error),
    /// A resource could not be registered.
    #[error("io_uring: cannot register {what}: {source}")]
    Register {
        /// Which.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
}

/// See the module.
pub struct Uring {
    ring: IoUring,
    pool: Rc<Pool>,
    sockets: Sockets,
    outbox: Outbox,
    /// Receives that have ended and must be armed anew, unless their socket was closed since.
    rearm: Vec<Token>,
    /// Those that ended for a reason that may well last (no memory): they are armed anew after `REARM_PAUSE`, or this would
    /// be a loop.
    rearm_later: Vec<Token>,
    rearm_later_at: Option<Instant>,
    /// Sockets whose peers the network called unreachable, until they are taken; the newest are left out when it is full.
    unreachable: Vec<Socket>,
    completions: Vec<cqueue::Entry>,
    /// Tells the kernel how much room each buffer has for the source address.
    receive_header: Box<libc::msghdr>,
    wakeup: OwnedFd,
    /// Which of the other files are being polled, a bit each.
    polls: u64,
    min_wait: bool,
    counters: Counters,
}

impl Uring {
    /// Sets up everything, on the thread that will use it. `wakeup` is an eventfd that ends a wait.
    pub fn new(options: Options, wakeup: OwnedFd) -> Result<Self, Error> {
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_coop_taskrun()
            .setup_submit_all()
            .setup_cqsize(2 * (u32::from(options.buffers) + SUBMISSIONS))
            .setup_clamp()
            .build(SUBMISSIONS)
            .map_err(Error::Unavailable)?;
        let register = |what| move |source| Error::Register { what, source };
        let sockets = Sockets::new(options.streams_max, options.socket_buffer_bytes);
        ring.submitter()
            .register_files_sparse(sockets.slots())
            .map_err(register("the file table (two files per stream must be within the limit of open files)"))?;
        let pool = Pool::new(options.buffers).map_err(|errno| register("buffers")(errno.into()))?;
        pool.register(&ring.submitter(), BUFFER_GROUP).map_err(register("buffers"))?;
        let min_wait = ring.params().is_feature_min_timeout();
        let mut uring = Self {
            outbox: Outbox::new(SUBMISSIONS as usize, options.buffers),
            rearm: Vec::with_capacity(sockets.slots() as usize),
            rearm_later: Vec::with_capacity(sockets.slots() as usize),
            rearm_later_at: None,
            unreachable: Vec::with_capacity(UNREACHABLE_PER_TURN_MAX),
            completions: Vec::with_capacity(COMPLETIONS_PER_TURN_MAX),
            receive_header: Box::new(buffers::receive_header()),
            ring,
            pool: Rc::new(pool),
            sockets,
            wakeup,
            polls: 0,
            min_wait,
            counters: Counters::default(),
        };
        uring.arm_wakeup();
        Ok(uring)
    }

    /// Sends what is queued and sleeps until a packet comes, the eventfd is raised or `timeout` is over. With `gather` it sleeps
    /// on until enough has come, or that time is over: fewer turns, a little latency. Kernels before 6.12 cannot.
    pub fn wait(&mut self, timeout: Option<Duration>, gather: Option<Gather>) -> io::Result<()> {
        self.counters.turns += 1;
        let timeout = self.end_rest(timeout);
        self.arm_ended_receives();
        let timeout = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timeout) = &timeout {
            args = args.timespec(timeout);
        }
        let mut want = 1;
        if let Some(Gather { time, enough }) = gather.filter(|_| self.min_wait) {
            args = args.min_wait_usec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX));
            want = (enough as usize).clamp(1, COMPLETIONS_PER_TURN_MAX);
        }
        let result = self.ring.submitter().submit_with_args(want, &args);
        self.recycle_sent();
        match result.map_err(|error| error.raw_os_error().unwrap_or(0)) {
            // EBUSY and EAGAIN: completions must be taken first. What was not submitted stays queued.
            Ok(_) | Err(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            Err(errno) => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    /// Hands the packets that have come to `handle`, up to `BATCH_MAX` at once, which may call the driver meanwhile. What it
    /// says of each in `Incoming::forward` is queued then.
    pub fn receive(&mut self, mut handle: impl FnMut(&mut Self, &mut [Incoming<'_>])) {
        let mut completions = std::mem::take(&mut self.completions);
        completions.extend(self.ring.completion().take(COMPLETIONS_PER_TURN_MAX));
        // Packets lie in the pool while they are handled; this keeps it whatever the handler does with `self`.
        let pool = Rc::clone(&self.pool);
        let mut batch = Batch::default();
        for completion in completions.drain(..) {
            let token = Token::from(completion.user_data());
            match token.operation {
                Operation::Receive => {
                    if self.received(&pool, token, &completion, &mut batch) {
                        self.hand_in(&pool, &mut batch, &mut handle);
                    }
                }
                Operation::Send => {
                    self.counters.send_failed += u64::from(completion.result() < 0);
                    self.note_unreachable(completion.result(), self.sockets.socket_at(token.slot));
                }
                Operation::Wakeup if !cqueue::more(completion.flags()) => self.arm_wakeup(),
                Operation::Poll => self.polls &= !(1 << token.slot),
                Operation::Wakeup | Operation::Cancel | Operation::Kick => {}
            }
        }
        self.hand_in(&pool, &mut batch, &mut handle);
        pool.provide();
        self.completions = completions;
    }

    /// Has the next wait end, too, when the `index`th other file can be read; false if an earlier wait does that still. Being
    /// polled, an AF_XDP socket sends what is queued on it.
    pub fn poll(&mut self, index: u32, fd: BorrowedFd<'_>) -> bool {
        debug_assert!((index as usize) < POLLS_MAX);
        if self.polls & 1 << index != 0 {
            return false;
        }
        let poll = opcode::PollAdd::new(Fd(fd.as_raw_fd()), libc::POLLIN as u32).build();
        let is_armed = self.push(&poll.user_data(Token::new(Operation::Poll, index, 0).into()));
        self.polls |= u64::from(is_armed) << index;
        is_armed
    }

    /// Has the next wait send what is queued on an AF_XDP socket.
    pub fn kick(&mut self, fd: BorrowedFd<'_>) {
        let send = opcode::Send::new(Fd(fd.as_raw_fd()), std::ptr::null(), 0).flags(libc::MSG_DONTWAIT).build();
        let send = send.flags(squeue::Flags::SKIP_SUCCESS);
        self.push(&send.user_data(Token::new(Operation::Kick, 0, 0).into()));
    }

    /// A socket whose peer the network has called unreachable since the last turn.
    pub fn take_unreachable(&mut self) -> Option<Socket> {
        self.unreachable.pop()
    }

    fn note_unreachable(&mut self, result: i32, socket: Option<Socket>) {
        let said_by_icmp = matches!(-result, libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH);
        if said_by_icmp && self.unreachable.len() < UNREACHABLE_PER_TURN_MAX {
            self.unreachable.extend(socket);
        }
    }

    /// Ends the receive of a socket that is to go elsewhere. What it has taken is handed in by the next `receive`; what
    /// comes later stays in the socket.
    pub fn rest(&mut self, socket: Socket) {
        let Some(token) = self.sockets.token_of(socket) else { return };
        let cancel = opcode::AsyncCancel::new(token.into()).build();
        self.push(&cancel.user_data(Token::new(Operation::Cancel, token.slot, 0).into()));
        self.flush();
    }

    /// A second descriptor of a socket, to be handed to another worker.
    pub fn share(&self, socket: Socket) -> Option<OwnedFd> {
        self.sockets.share(socket)
    }

    /// Sockets of another worker: the next opens of their addresses take them. Those that were not taken are closed by the
    /// next call.
    pub fn adopt(&mut self, sockets: [Option<(SocketAddr, OwnedFd)>; 2]) {
        self.sockets.adopt(sockets);
    }

    /// Bytes of the receive buffers, and whether they are in huge pages.
    pub fn memory(&self) -> (usize, bool) {
        self.pool.memory()
    }

    /// What was counted so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Puts what has come into the batch; true if that is full now.
    fn received<'p>(
        &mut self,
        pool: &'p Pool,
        token: Token,
        completion: &cqueue::Entry,
        batch: &mut Batch<'p>,
    ) -> bool {
        let socket = self.sockets.socket_of(token);
        if !cqueue::more(completion.flags()) && socket.is_some() {
            if may_last(completion.result()) {
                self.rearm_later.push(token);
                self.rearm_later_at.get_or_insert_with(|| Instant::now() + REARM_PAUSE);
            } else {
                self.rearm.push(token);
            }
        }
        self.counters.buffers_exhausted += u64::from(completion.result() == -libc::ENOBUFS);
        self.note_unreachable(completion.result(), socket);
        let Some(buffer) = cqueue::buffer_select(completion.flags()) else { return false };
        let Some(socket) = socket else {
            self.counters.stale += 1;
            pool.release(buffer);
            return false;
        };
        // SAFETY: the kernel gave this buffer to us with this completion, and it is given back or sent only by `hand_in`,
        // which forgets the packet first.
        let packet = unsafe { pool.packet(buffer, completion.result()) };
        let Some((source, packet)) = packet else {
            pool.release(buffer);
            return false;
        };
        self.counters.received += 1;
        batch.packets[batch.len] = Incoming::new(socket, source, packet);
        batch.buffers[batch.len] = buffer;
        batch.len += 1;
        batch.len == BATCH_MAX
    }

    /// Has a batch handled, queues what is to be forwarded of it, and gives the other buffers back.
    fn hand_in(&mut self, pool: &Pool, batch: &mut Batch<'_>, handle: &mut impl FnMut(&mut Self, &mut [Incoming<'_>])) {
        let len = std::mem::take(&mut batch.len);
        if len == 0 {
            return;
        }
        handle(self, &mut batch.packets[..len]);
        for (incoming, &buffer) in batch.packets[..len].iter_mut().zip(&batch.buffers) {
            let Incoming { packet, forward, .. } = std::mem::take(incoming);
            let (start, len) = (packet.as_ref().as_ptr(), packet.len());
            match forward {
                Some(Forward { from, to }) if self.make_room(0) && self.queue(from, to, start, len) => {
                    self.outbox.buffer_in_flight(buffer)
                }
                _ => pool.release(buffer),
            }
        }
    }

    /// Queues a send, for which `make_room` has made room; false if the socket is gone. The bytes must stay as they are
    /// until the outbox is submitted.
    fn queue(&mut self, from: Socket, to: SocketAddr, start: *const u8, len: usize) -> bool {
        let Some((slot, peer)) = self.sockets.route(from) else { return false };
        let mut send = opcode::Send::new(Fixed(slot), start, len as u32).flags(libc::MSG_DONTWAIT);
        if peer != Some(to) {
            let (address, address_len) = self.outbox.address(to);
            send = send.dest_addr(address).dest_addr_len(address_len);
        }
        let send = send.build().flags(squeue::Flags::SKIP_SUCCESS);
        self.counters.sent += 1;
        self.push(&send.user_data(Token::new(Operation::Send, slot, 0).into()))
    }

    /// Sees to it that one more send fits, with a copy of so many bytes. Submitting is what makes room, and it also lets go
    /// of what is kept for earlier sends: so this comes before anything is kept for the next.
    fn make_room(&mut self, copy_bytes: usize) -> bool {
        let full = self.ring.submission().is_full();
        let room = (!full && self.outbox.has_room_for(copy_bytes)) || self.flush();
        self.counters.send_overflow += u64::from(!room);
        room
    }

    /// Puts an entry on the submission queue, making room if need be.
    fn push(&mut self, entry: &squeue::Entry) -> bool {
        if self.ring.submission().is_full() && !self.flush() {
            return false;
        }
        // SAFETY: whatever the entry points at outlives its submission: buffers in flight and the outbox are reused only
        // after it, the receive header lives as long as the ring.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Submits everything queued without waiting; true if the kernel took all.
    fn flush(&mut self) -> bool {
        for _ in 0..SUBMISSIONS {
            let len = self.ring.submission().len();
            if len == 0 {
                break;
            }
            self.counters.flushes += 1;
            // SAFETY: no argument is passed, and the entries are as `push` demands.
            let result = unsafe { self.ring.submitter().enter::<()>(len as u32, 0, ENTER_GETEVENTS, None) };
            match result.map_err(|error| error.raw_os_error()) {
                Ok(_) | Err(Some(libc::EINTR)) => {}
                Err(_) => break,
            }
        }
        self.recycle_sent();
        self.ring.submission().is_empty()
    }

    /// After a submission: what the kernel has taken, it has also sent or refused.
    fn recycle_sent(&mut self) {
        if self.ring.submission().is_empty() {
            self.outbox.submitted(|buffer| self.pool.release(buffer));
            self.pool.provide();
        }
    }

    /// Lets receives that have rested be armed; returns how long to wait so that others are not late. Costs nothing while
    /// none rests.
    fn end_rest(&mut self, timeout: Option<Duration>) -> Option<Duration> {
        let Some(at) = self.rearm_later_at else { return timeout };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            self.rearm.append(&mut self.rearm_later);
            self.rearm_later_at = None;
            return timeout;
        }
        Some(timeout.map_or(left, |timeout| timeout.min(left)))
    }

    fn arm_ended_receives(&mut self) {
        if !self.rearm.is_empty() && self.outbox.holds_buffers() {
            // The receive may have ended for want of just these buffers.
            self.flush();
        }
        while let Some(token) = self.rearm.pop() {
            if self.sockets.socket_of(token).is_some() {
                if !self.arm(token) {
                    return self.rearm.push(token);
                }
                self.counters.rearmed += 1;
            }
        }
    }

    fn arm(&mut self, token: Token) -> bool {
        let receive = opcode::RecvMsgMulti::new(Fixed(token.slot), &*self.receive_header, BUFFER_GROUP).build();
        self.push(&receive.user_data(token.into()))
    }

    fn arm_wakeup(&mut self) {
        let poll = opcode::PollAdd::new(Fd(self.wakeup.as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        // A full queue that cannot be emptied is a broken ring: the next wait reports it.
        self.push(&poll.user_data(Token::new(Operation::Wakeup, 0, 0).into()));
    }
}

impl Driver for Uring {
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError> {
        let (token, fd) = self.sockets.open(socket, local)?;
        let registered = self.ring.submitter().register_files_update(token.slot, &[fd.as_raw_fd()]);
        if let Err(error) = registered {
            self.sockets.close(socket);
            return Err(sockets::open_error(&error));
        }
        if !self.arm(token) {
            self.rearm.push(token);
        }
        Ok(())
    }

    fn close(&mut self, socket: Socket) {
        let Some((token, fd)) = self.sockets.close(socket) else { return };
        // The receive holds the socket, so it must be gone before the port is free. What was queued to send goes first.
        let cancel = opcode::AsyncCancel::new(token.into()).build();
        self.push(&cancel.user_data(Token::new(Operation::Cancel, token.slot, 0).into()));
        self.flush();
        let _ = self.ring.submitter().register_files_update(token.slot, &[-1]);
        drop(fd);
    }

    fn connect(&mut self, socket: Socket, remote: SocketAddr) {
        self.sockets.connect(socket, remote);
    }

    fn disconnect(&mut self, socket: Socket) {
        self.sockets.disconnect(socket);
    }

    fn send(&mut self, from: Socket, to: SocketAddr, packet: &[u8]) {
        if self.make_room(packet.len())
            && let Some(start) = self.outbox.copy(packet)
        {
            self.queue(from, to, start, packet.len());
        }
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring").field("counters", &self.counters).finish_non_exhaustive()
    }
}

/// Packets that are handed in together, and the buffers that they lie in.
#[derive(Default)]
struct Batch<'p> {
    packets: [Incoming<'p>; BATCH_MAX],
    buffers: [u16; BATCH_MAX],
    len: usize,
}

/// Whether a receive that ended so would probably end so again at once. Want of buffers, and what an ICMP message said of an
/// earlier send, pass by themselves.
fn may_last(result: i32) -> bool {
    let passing =
        [libc::ENOBUFS, libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EMSGSIZE, libc::EINTR];
    result < 0 && !passing.contains(&-result)
}

/// Duplicates an eventfd for `Uring::new`.
pub fn duplicate(fd: impl AsFd) -> io::Result<OwnedFd> {
    Ok(rustix::io::fcntl_dupfd_cloexec(fd, 0)?)
}
