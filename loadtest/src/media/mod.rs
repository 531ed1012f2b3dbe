//! RTP of many calls at once: a few threads with an epoll each speak once a packetization time and verify all that they
//! hear.
//!
//! A [`Session`] is one end of one call. It is opened before its SDP is written, started when the peer's address is known
//! and stopped when the call ends; then it tells what it has heard.

mod ear;
mod numbers;
mod payload;
mod thread;

pub use ear::Heard;
pub use numbers::Numbering;
pub use payload::{PTIME_MS_MAX, source};

use crate::srtp::{Master, Secure};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use hdrhistogram::Histogram;
use numbers::Numbers;
use tokio::sync::oneshot;

/// One-way delays up to a minute, in microseconds, to three digits.
pub fn delays() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 60_000_000, 3).expect("constant bounds are right")
}

/// What all threads share.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// Times are counted from here.
    begun: Instant,
    /// The same moment in Unix time, nanoseconds: the kernel stamps what comes with that.
    begun_unix_ns: u64,
    ptime_ms: usize,
}

/// Nanoseconds since 1970.
pub fn unix_ns() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64)
}

/// The threads that carry all sessions.
pub struct Media {
    threads: Vec<Sender<thread::Order>>,
    next: AtomicUsize,
    bind_ip: IpAddr,
    terms: Terms,
    numbering: Numbering,
}

impl Media {
    /// Starts them; each packet holds `ptime_ms` of sound.
    pub fn start(threads: usize, bind_ip: IpAddr, ptime_ms: usize, numbering: Numbering) -> io::Result<Self> {
        let terms = Terms { begun: Instant::now(), begun_unix_ns: unix_ns(), ptime_ms };
        let threads = (0..threads.max(1)).map(|_| thread::start(terms)).collect::<io::Result<_>>()?;
        Ok(Self { threads, next: AtomicUsize::new(0), bind_ip, terms, numbering })
    }

    /// Opens one end of a call. `origin` names it in every packet that it sends.
    pub fn open(&self, origin: u32) -> io::Result<Session> {
        let socket = UdpSocket::bind((self.bind_ip, 0))?;
        socket.set_nonblocking(true)?;
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let thread = self.threads[turn % self.threads.len()].clone();
        let local = socket.local_addr()?;
        let numbers = self.numbering.of(origin);
        Ok(Session { local, socket: Some(socket), numbers, probe: Probe { origin, thread } })
    }

    /// Now, as packets and gaps are timed.
    pub fn now_ns(&self) -> u64 {
        self.terms.begun.elapsed().as_nanos() as u64
    }

    /// Such a time in Unix time, milliseconds.
    pub fn unix_ms(&self, at_ns: u64) -> f64 {
        (self.terms.begun_unix_ns + at_ns) as f64 / 1e6
    }

    /// The packetization time.
    pub fn ptime_ms(&self) -> usize {
        self.terms.ptime_ms
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
    socket: Option<UdpSocket>,
    numbers: Numbers,
    probe: Probe,
}

/// Looks into a session while its call goes on.
#[derive(Clone)]
pub struct Probe {
    origin: u32,
    thread: Sender<thread::Order>,
}

impl Probe {
    /// What it has heard up to now; none before its start and after its end.
    pub async fn heard(&self) -> Option<Heard> {
        let (answer, heard) = oneshot::channel();
        self.order(thread::Order::Peek { origin: self.origin, answer });
        heard.await.ok()
    }

    /// From now on the longest gap is measured anew.
    pub fn mark(&self) {
        self.order(thread::Order::Mark { origin: self.origin });
    }

    /// Goes on listening, but is silent from now on.
    pub fn hush(&self) {
        self.order(thread::Order::Hush { origin: self.origin });
    }

    fn order(&self, order: thread::Order) {
        // Fails only when the thread is gone, and then the answer says that nothing was heard.
        self.thread.send(order).ok();
    }
}

impl Session {
    /// Begins to speak to the peer, protected if it is told how.
    pub fn start(&mut self, remote: SocketAddr, secure: Option<Box<Secure>>) -> io::Result<()> {
        if let Some(socket) = self.socket.take() {
            socket.connect(remote)?;
            let (origin, numbers) = (self.probe.origin, self.numbers);
            self.probe.order(thread::Order::Start { origin, socket, numbers, secure });
        }
        Ok(())
    }

    /// What it says from now on is protected with another key.
    pub fn rekey(&self, key: Master) {
        self.probe.order(thread::Order::Rekey { origin: self.probe.origin, key });
    }

    /// Looks into it from elsewhere.
    pub fn probe(&self) -> Probe {
        self.probe.clone()
    }

    /// Goes on listening, but is silent from now on.
    pub fn hush(&self) {
        self.probe.hush();
    }

    /// Ends it.
    pub async fn stop(self) -> Heard {
        let (answer, heard) = oneshot::channel();
        self.probe.order(thread::Order::Stop { origin: self.probe.origin, answer });
        heard.await.unwrap_or_default()
    }
}
