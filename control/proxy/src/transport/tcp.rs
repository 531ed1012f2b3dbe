//! TCP connections: accepted ones and those we make, told apart by nothing once they stand.
//!
//! Two tasks each: one reads and frames, one writes from a bounded queue. Whoever reads slower than we write is closed when
//! the queue is full. The table is behind one lock, which is never held over an await. RFC 3261 section 18, RFC 5626
//! section 3.5.1 (CRLF keepalive).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nebula_sip::message::stream::{Frame, Framer};
use nebula_sip::{Flow, Protocol};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::counters::Counters;
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
/// How long to rest when the kernel has no file descriptor for us.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// All connections.
pub struct Connections {
    open: Mutex<Open>,
    next_id: AtomicU64,
    connections_max: usize,
    idle_timeout: Duration,
    message_timeout: Duration,
    connect_timeout: Duration,
    routes: Arc<Routes>,
    counters: Arc<Counters>,
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
    /// Tells its tasks to stop, and why.
    close: watch::Sender<Option<Closed>>,
}

/// The ends that a connection's tasks hold.
struct Ends {
    flow: Flow,
    queue: mpsc::Receiver<Bytes>,
    close: watch::Receiver<Option<Closed>>,
}

impl Connections {
    pub fn new(
        options: &Options,
        routes: Arc<Routes>,
        counters: Arc<Counters>,
        inbound: mpsc::Sender<Inbound>,
    ) -> Arc<Self> {
        Arc::new(Self {
            open: Mutex::default(),
            next_id: AtomicU64::new(1),
            connections_max: options.tcp_connections_max,
            idle_timeout: options.tcp_idle_timeout,
            message_timeout: options.tcp_message_timeout,
            connect_timeout: options.tcp_connect_timeout,
            routes,
            counters,
            inbound,
        })
    }

    /// Accepts until aborted.
    pub async fn accept(self: Arc<Self>, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((stream, remote)) => {
                    let Ok(local) = stream.local_addr() else { continue };
                    match self.register(local, remote) {
                        Some(ends) => drop(tokio::spawn(self.clone().run(stream, ends))),
                        None => self.counters.connections_refused.increment(1),
                    }
                }
                // The peer gave up, or descriptors are short; either passes.
                Err(_) => tokio::time::sleep(ACCEPT_RETRY).await,
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
        match connection.queue.try_send(message) {
            Ok(()) => Ok(connection.flow),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SendError::ConnectionGone),
            Err(mpsc::error::TrySendError::Full(_)) => {
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
        let ends = self.register(local, flow.remote).ok_or(SendError::TooManyConnections)?;
        let made = ends.flow;
        let connections = self.clone();
        tokio::spawn(async move {
            match timeout(connections.connect_timeout, TcpStream::connect(made.remote)).await {
                Ok(Ok(stream)) => connections.run(stream, ends).await,
                Ok(Err(_)) | Err(_) => connections.end(made, Closed::Unreachable).await,
            }
        });
        Ok(made)
    }

    fn register(&self, local: SocketAddr, remote: SocketAddr) -> Option<Ends> {
        let mut open = self.lock();
        if open.by_id.len() >= self.connections_max {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let flow = Flow { protocol: Protocol::Tcp, local, remote, connection: id };
        let (queue, queued) = mpsc::channel(WRITE_QUEUE_MAX);
        let (close, closing) = watch::channel(None);
        open.by_id.insert(id, Connection { flow, queue, close });
        open.by_remote.insert(remote, id);
        self.counters.connections.set(open.by_id.len() as f64);
        Some(Ends { flow, queue: queued, close: closing })
    }

    /// A connection's life: reads and writes until one of them ends it.
    async fn run(self: Arc<Self>, stream: TcpStream, ends: Ends) {
        let Ends { flow, queue, mut close } = ends;
        // Messages are written whole; waiting for more to fill a segment only delays them.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let why = tokio::select! {
            why = self.read(reader, flow) => why,
            why = self.write(writer, queue) => why,
            told = close.wait_for(Option::is_some) => told.ok().and_then(|why| *why).unwrap_or(Closed::Peer),
        };
        self.end(flow, why).await;
    }

    async fn read(&self, mut reader: OwnedReadHalf, flow: Flow) -> Closed {
        let mut framer = Framer::default();
        let mut message_began: Option<Instant> = None;
        loop {
            let idle_end = Instant::now() + self.idle_timeout;
            let deadline = message_began.map_or(idle_end, |began| idle_end.min(began + self.message_timeout));
            framer.buffer().reserve(READ_BYTES);
            match timeout_at(deadline, reader.read_buf(framer.buffer())).await {
                Err(_) => return Closed::Timeout,
                Ok(Err(_) | Ok(0)) => return Closed::Peer,
                Ok(Ok(_)) => {}
            }
            let mut completed = false;
            while let Some(frame) = framer.next_frame() {
                completed = true;
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
        if let Some(event) = event_of(parsed, flow.remote, &self.counters) {
            // Waiting here is the backpressure that TCP hands on to the peer.
            self.inbound.send(Inbound { flow, event }).await.map_err(|_| Closed::Peer)?;
        }
        if is_fatal {
            // The edge's refusal should still go out.
            tokio::time::sleep(REFUSAL_TIME).await;
            return Err(Closed::Unframeable);
        }
        Ok(())
    }

    async fn write(&self, mut writer: OwnedWriteHalf, mut queue: mpsc::Receiver<Bytes>) -> Closed {
        while let Some(message) = queue.recv().await {
            match timeout(WRITE_TIMEOUT, writer.write_all(&message)).await {
                Ok(Ok(())) => self.counters.sent(Protocol::Tcp),
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
        let _ = self.inbound.send(Inbound { flow, event: Event::Closed(why) }).await;
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
