//! RTP of many calls at once: a few threads with an epoll each speak every 20 ms and verify all that they hear.
//!
//! A [`Session`] is one end of one call. It is opened before its SDP is written, started when the peer's address is known
//! and stopped when the call ends; then it tells what it has heard.

mod payload;
mod thread;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::Instant;

use hdrhistogram::Histogram;
use tokio::sync::oneshot;

/// One-way delays up to a minute, in microseconds, to three digits.
pub fn delays() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are right")
}

/// The threads that carry all sessions.
pub struct Media {
    threads: Vec<Sender<thread::Order>>,
    next: AtomicUsize,
    bind_ip: IpAddr,
}

impl Media {
    /// Starts them.
    pub fn start(threads: usize, bind_ip: IpAddr) -> io::Result<Self> {
        let begun = Instant::now();
        let threads = (0..threads.max(1)).map(|_| thread::start(begun)).collect::<io::Result<_>>()?;
        Ok(Self { threads, next: AtomicUsize::new(0), bind_ip })
    }

    /// Opens one end of a call. `origin` names it in every packet that it sends.
    pub fn open(&self, origin: u32) -> io::Result<Session> {
        let socket = UdpSocket::bind((self.bind_ip, 0))?;
        socket.set_nonblocking(true)?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let thread = self.threads[turn % self.threads.len()].clone();
        Ok(Session { local: socket.local_addr()?, socket: Some(socket), origin, thread })
    }

    /// Ends the threads; all delays that were measured, in microseconds.
    pub fn finish(&self) -> Histogram<u64> {
        let mut all = delays();
        for thread in &self.threads {
            let (answer, measured) = channel();
            let asked = thread.send(thread::Order::Finish { answer });
            match asked.ok().and_then(|()| measured.recv().ok()) {
                // Both have the same bounds.
                Some(delays) => all.add(delays).unwrap_or_default(),
                None => eprintln!("nebula-load: a media thread has failed"),
            }
        }
        all
    }
}

/// One end of a call.
pub struct Session {
    /// Where it listens.
    pub local: SocketAddr,
    origin: u32,
    socket: Option<UdpSocket>,
    thread: Sender<thread::Order>,
}

/// What a session has sent and heard.
#[derive(Debug, Clone, Copy, Default)]
pub struct Heard {
    /// Packets sent.
    pub sent: u64,
    /// Packets that came, right in every byte, each counted once.
    pub received: u64,
    /// The number of the last one, counted from zero by their sender.
    pub last: Option<u64>,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets that are not what anybody sent, or from a second origin.
    pub wrong: u64,
    /// The origin of the right ones.
    pub origin: Option<u32>,
    /// Interarrival jitter (RFC 3550 A.8) at the end, microseconds.
    pub jitter_us: f64,
}

impl Session {
    /// Begins to speak to the peer.
    pub fn start(&mut self, remote: SocketAddr) -> io::Result<()> {
        if let Some(socket) = self.socket.take() {
            socket.connect(remote)?;
            self.order(thread::Order::Start { origin: self.origin, socket });
        }
        Ok(())
    }

    /// Goes on listening, but is silent from now on.
    pub fn hush(&self) {
        self.order(thread::Order::Hush { origin: self.origin });
    }

    /// Ends it.
    pub async fn stop(self) -> Heard {
        let (answer, heard) = oneshot::channel();
        self.order(thread::Order::Stop { origin: self.origin, answer });
        heard.await.unwrap_or_default()
    }

    fn order(&self, order: thread::Order) {
        // Fails only when the thread is gone, and then `stop` says that nothing was heard.
        self.thread.send(order).ok();
    }
}
