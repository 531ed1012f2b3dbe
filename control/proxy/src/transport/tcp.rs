//! TCP connections: accepted ones and those we make, told apart by nothing once they stand.
//!
//! One task each: it reads and frames, and writes from a queue that is bounded in messages and bytes. Whoever reads slower
//! than we write is closed when the queue is full. The table is behind one lock, which is never held over an await. RFC 3261 section 18, RFC 5626
//! section 3.5.1 (CRLF keepalive).

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nebula_sip::message::stream::{Frame, Framer};
use nebula_sip::{Flow, Protocol};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::counters::Counters;
use super::descriptors::Descriptors;
use super::local::Routes;
use super::{Closed, Event, Inbound, Options, SendError, event_of};

/// Messages that wait to be written to one connection; one more and it is closed.
const WRITE_QUEUE_MAX: usize = 128;
/// How long one write may take before its connection counts as dead.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection that sent something unframeable stays open for the refusal to be written.
const REFUSAL_TIME: Duration = Duration::from_millis(500);
/// Bytes asked for per read.
const READ_BYTES: usize = 8 * 1024;
/// The first rest after a connection could not be accepted; it doubles up to [`ACCEPT_REST_MAX`].
const ACCEPT_REST_MIN: Duration = Duration::from_millis(50);
/// The longest rest: what may pass before it is seen that there are descriptors again.
const ACCEPT_REST_MAX: Duration = Duration::from_secs(1);

/// All connections.
pub struct Connections {
    open: Mutex<Open>,
    next_id: AtomicU64,
    connections_max: usize,
    idle_timeout: Duration,
    first_message_timeout: Duration,
    message_timeout: Duration,
    connect_timeout: Duration,
    write_buffer_bytes: usize,
    routes: Arc<Routes>,
    counters: Arc<Counters>,
    descriptors: Arc<Descriptors>,
    inbound: mpsc::Sender<Inbound>,
}

#[derive(Default)]
struct Open {
    by_id: HashMap<u64, Connection>,
    /// The newest connection to each peer, for those who ask for a destination instead of a connection.
    by_remote: HashMap<SocketAddr, u64>,
}

struct Connection {
    flow: Flow,
    queue: mpsc::Sender<Bytes>,
    /// Bytes in the queue, with the message that is being written. Relaxed: a count of its own.
    queued_bytes: Arc<AtomicUsize>,
    /// Tells its tasks to stop, and why.
    close: watch::Sender<Option<Closed>>,
}

/// The ends that a connection's tasks hold.
struct Ends {
    flow: Flow,
    /// Whether the peer made it, and has yet to say something.
    is_theirs: bool,
    queue: mpsc::Receiver<Bytes>,
    queued_bytes: Arc<AtomicUsize>,
    close: watch::Receiver<Option<Closed>>,
}

impl Connections {
    pub fn new(
        options: &Options,
        routes: Arc<Routes>,
        counters: Arc<Counters>,
        descriptors: Arc<Descriptors>,
        inbound: mpsc::Sender<Inbound>,
    ) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            next_id: AtomicU64::new(1),
            connections_max: options.tcp_connections_max,
            idle_timeout: options.tcp_idle_timeout,
            first_message_timeout: options.tcp_first_message_timeout,
            message_timeout: options.tcp_message_timeout,
            connect_timeout: options.tcp_connect_timeout,
            write_buffer_bytes: options.tcp_write_buffer_bytes,
            routes,
            counters,
            descriptors,
            inbound,
        })
    }

    /// Accepts until aborted.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        let mut rest = ACCEPT_REST_MIN;
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    rest = ACCEPT_REST_MIN;
                    let Ok(local) = stream.local_addr() else { continue };
                    match self.register(local, remote, true) {
                        Some(ends) => drop(tokio::spawn(self.clone().run(stream, ends))),
                        None => self.counters.connections_refused.increment(1),
                    }
                }
                Err(error) => {
                    self.counters.accept_failed.increment(1);
                    // If merely the peer gave up, the next one need not wait.
                    if error.kind() != io::ErrorKind::ConnectionAborted {
                        self.descriptors.note(&error);
                        tokio::time::sleep(rest).await;
                        rest = (rest * 2).min(ACCEPT_REST_MAX);
                    }
                }
            }
        }
    }

    /// Queues a message on the flow's connection, or on one to its remote address.
    pub fn send(self: &Arc<Self>, flow: &Flow, message: Bytes) -> Result<Flow, SendError> {
        let id =
            if flow.connection != 0 { Some(flow.connection) } else { self.lock().by_remote.get(&flow.remote).copied() };
        match id {
            Some(id) => self.enqueue(id, message),
            None => self.enqueue(self.connect(flow)?.connection, message),
        }
    }

    /// Closes every connection.
    pub fn close_all(&self) {
        let mut open = self.lock();
        open.by_remote.clear();
        // Dropping a connection's `close` and `queue` stops its tasks.
        open.by_id.clear();
        self.counters.connections.set(0.0);
    }

    fn enqueue(&self, id: u64, message: Bytes) -> Result<Flow, SendError> {
        let open = self.lock();
        let connection = open.by_id.get(&id).ok_or(SendError::ConnectionGone)?;
        let len = message.len();
        let waiting = connection.queued_bytes.load(Ordering::Relaxed);
        // A single message may be longer than the buffer, if nothing else waits.
        let has_room = waiting == 0 || waiting + len <= self.write_buffer_bytes;
        match connection.queue.try_reserve() {
            Ok(slot) if has_room => {
                connection.queued_bytes.fetch_add(len, Ordering::Relaxed);
                slot.send(message);
                Ok(connection.flow)
            }
            Err(mpsc::error::TrySendError::Closed(())) => Err(SendError::ConnectionGone),
            Ok(_) | Err(mpsc::error::TrySendError::Full(())) => {
                connection.close.send_replace(Some(Closed::SlowReader));
                Err(SendError::SlowReader)
            }
        }
    }

    /// The newest connection to this address, if there is one.
    pub fn known(&self, remote: SocketAddr) -> Option<Flow> {
        let open = self.lock();
        open.by_remote.get(&remote).and_then(|id| open.by_id.get(id)).map(|connection| connection.flow)
    }

    /// The open connection to the flow's remote address, or one that begins to be made.
    pub fn open(self: &Arc<Self>, flow: &Flow) -> Result<Flow, SendError> {
        self.known(flow.remote).map_or_else(|| self.connect(flow), Ok)
    }

    fn connect(self: &Arc<Self>, flow: &Flow) -> Result<Flow, SendError> {
        let local = self.routes.concrete(flow.local, flow.remote);
        let ends = self.register(local, flow.remote, false).ok_or(SendError::TooManyConnections)?;
        let made = ends.flow;
        let connections = self.clone();
        tokio::spawn(async move {
            match timeout(connections.connect_timeout, TcpStream::connect(made.remote)).await {
                Ok(Ok(stream)) => connections.run(stream, ends).await,
                Ok(Err(error)) => {
                    connections.descriptors.note(&error);
                    connections.end(made, Closed::Unreachable).await;
                }
                Err(_) => connections.end(made, Closed::Unreachable).await,
            }
        });
        Ok(made)
    }

    fn register(&self, local: SocketAddr, remote: SocketAddr, is_theirs: bool) -> Option<Ends> {
        let mut open = self.lock();
        if open.by_id.len() >= self.connections_max {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flow = Flow { protocol: Protocol::Tcp, local, remote, connection: id };
        let (queue, queued) = mpsc::channel(WRITE_QUEUE_MAX);
        let (close, closing) = watch::channel(None);
        let queued_bytes = Arc::<AtomicUsize>::default();
        open.by_id.insert(id, Connection { flow, queue, queued_bytes: queued_bytes.clone(), close });
        open.by_remote.insert(remote, id);
        self.counters.connections.set(open.by_id.len() as f64);
        Some(Ends { flow, is_theirs, queue: queued, queued_bytes, close: closing })
    }

    /// A connection's life: reads and writes until one of them ends it.
    async fn run(self: Arc<Self>, stream: TcpStream, ends: Ends) {
        let Ends { flow, is_theirs, queue, queued_bytes, mut close } = ends;
        // Messages are written whole; waiting for more to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        // Else the kernel would take megabytes for a peer that reads nothing.
        let _ = SockRef::from(&stream).set_send_buffer_size(self.write_buffer_bytes);
        let (reader, writer) = stream.into_split();
        let why = tokio::select! {
            why = self.read(reader, flow, is_theirs) => why,
            why = self.write(writer, queue, &queued_bytes) => why,
            told = close.wait_for(Option::is_some) => told.ok().and_then(|why| *why).unwrap_or(Closed::Peer),
        };
        self.end(flow, why).await;
    }

    async fn read(&self, mut reader: OwnedReadHalf, flow: Flow, is_theirs: bool) -> Closed {
        let mut framer = Framer::default();
        let mut first_end = is_theirs.then(|| Instant::now() + self.first_message_timeout);
        let mut message_began: Option<Instant> = None;
        loop {
            let idle_end = Instant::now() + self.idle_timeout;
            let message_end = message_began.map(|began| began + self.message_timeout);
            let deadline = [first_end, message_end].into_iter().flatten().fold(idle_end, Instant::min);
            framer.buffer().reserve(READ_BYTES);
            match timeout_at(deadline, reader.read_buf(framer.buffer())).await {
                Err(_) => return Closed::Timeout,
                Ok(Err(_) | Ok(0)) => return Closed::Peer,
                Ok(Ok(_)) => {}
            }
            let mut completed = false;
            while let Some(frame) = framer.next_frame() {
                completed = true;
                if matches!(frame, Frame::Message(_)) {
                    first_end = None;
                }
                if let Err(why) = self.take(frame, flow).await {
                    return why;
                }
            }
            message_began = match message_began.filter(|_| !completed) {
                _ if !framer.is_partial() => None,
                None => Some(Instant::now()),
                began => began,
            };
        }
    }

    async fn take(&self, frame: Frame, flow: Flow) -> Result<(), Closed> {
        let (parsed, is_fatal) = match frame {
            Frame::Message(parsed) => (parsed, false),
            Frame::Fatal(malformed) => (Err(malformed), true),
            Frame::Ping => {
                self.counters.keepalives.increment(1);
                return self
                    .enqueue(flow.connection, Bytes::from_static(b"\r\n"))
                    .map(drop)
                    .map_err(|_| Closed::SlowReader);
            }
            Frame::Pong => return Ok(()),
        };
        self.counters.received(Protocol::Tcp);
        if let Some(event) = event_of(parsed, flow.protocol, flow.remote, &self.counters) {
            // Waiting here is the backpressure that TCP hands on to the peer.
            self.inbound
                .send(Inbound { flow, at: Instant::now().into_std(), event })
                .await
                .map_err(|_| Closed::Peer)?;
        }
        if is_fatal {
            // The edge's refusal should still go out.
            tokio::time::sleep(REFUSAL_TIME).await;
            return Err(Closed::Unframeable);
        }
        Ok(())
    }

    async fn write(
        &self,
        mut writer: OwnedWriteHalf,
        mut queue: mpsc::Receiver<Bytes>,
        queued_bytes: &AtomicUsize,
    ) -> Closed {
        while let Some(message) = queue.recv().await {
            match timeout(WRITE_TIMEOUT, writer.write_all(&message)).await {
                Ok(Ok(())) => {
                    queued_bytes.fetch_sub(message.len(), Ordering::Relaxed);
                    self.counters.sent(Protocol::Tcp);
                }
                Ok(Err(_)) => return Closed::Peer,
                Err(_) => return Closed::SlowReader,
            }
        }
        Closed::Peer
    }

    /// Takes a connection out of the table and tells the edge.
    async fn end(&self, flow: Flow, why: Closed) {
        {
            let mut open = self.lock();
            open.by_id.remove(&flow.connection);
            if open.by_remote.get(&flow.remote) == Some(&flow.connection) {
                open.by_remote.remove(&flow.remote);
            }
            self.counters.connections.set(open.by_id.len() as f64);
        }
        self.counters.closed(why.name());
        // The edge may be gone, at shutdown; then nobody needs to know.
        let _ = self.inbound.send(Inbound { flow, at: Instant::now().into_std(), event: Event::Closed(why) }).await;
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Closed {
    /// A word for metric labels.
    pub const fn name(self) -> &'static str {
        match self {
            Closed::Peer => "peer",
            Closed::Unreachable => "unreachable",
            Closed::Timeout => "timeout",
            Closed::SlowReader => "slow_reader",
            Closed::Unframeable => "unframeable",
        }
    }
}
