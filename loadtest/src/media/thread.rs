//! One media thread: an epoll, and the sessions in phases of a millisecond, so that not all speak at once.

use super::ear::{Ear, Heard};
use super::numbers::Numbers;
use super::payload::{PACKET_BYTES_MAX, Packet, packet_bytes, source};
use super::{Terms, delays};
use crate::srtp::{Bad, Master, Secure};
use hdrhistogram::Histogram;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeValLike;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, SocketAddrV4, SocketAddrV6, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// There are as many as the packetization time has milliseconds.
const PHASE: Duration = Duration::from_millis(1);

/// How long the port of an ended session is kept from the next one: its peer, or the system under test, may still be
/// sending to it.
const REST: Duration = Duration::from_secs(2);

/// What a thread is asked.
pub(super) enum Order {
    /// Speak and listen on this connected socket.
    Start {
        /// The session.
        origin: u32,
        /// Its socket.
        socket: UdpSocket,
        /// The sequence numbers of its packets.
        numbers: Numbers,
        /// What protects them.
        secure: Option<Box<Secure>>,
    },
    /// Protect with another key.
    Rekey {
        /// The session.
        origin: u32,
        /// The key.
        key: Master,
    },
    /// Only listen.
    Hush {
        /// The session.
        origin: u32,
    },
    /// Tell what it has heard so far.
    Peek {
        /// The session.
        origin: u32,
        /// Who wants to know.
        answer: oneshot::Sender<Heard>,
    },
    /// Measure the largest gaps anew.
    Mark {
        /// The session.
        origin: u32,
    },
    /// Close it and tell what it has heard.
    Stop {
        /// The session.
        origin: u32,
        /// Who wants to know.
        answer: oneshot::Sender<Heard>,
    },
    /// End the thread and tell the delays of all packets.
    Finish {
        /// Who wants to know.
        answer: Sender<Histogram<u64>>,
    },
}

/// Starts one.
pub(super) fn start(terms: Terms) -> io::Result<Sender<Order>> {
    let (sender, orders) = channel();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (sessions, phases, resting) = (HashMap::new(), vec![Vec::new(); terms.ptime_ms], VecDeque::new());
    let thread = Thread { epoll, terms, sessions, phases, phase: 0, resting, delays: delays() };
    std::thread::Builder::new().name("media".to_owned()).spawn(move || thread.run(&orders))?;
    Ok(sender)
}

/// One end of a call that goes on.
struct Session {
    socket: UdpSocket,
    remote: SocketAddr,
    numbers: Numbers,
    secure: Option<Box<Secure>>,
    ear: Ear,
}

struct Thread {
    epoll: OwnedFd,
    terms: Terms,
    sessions: HashMap<u32, Session>,
    /// The sessions that speak in each phase.
    phases: Vec<Vec<u32>>,
    /// The phase that comes next.
    phase: usize,
    /// Sockets of ended sessions, and until when they are kept.
    resting: VecDeque<(Instant, UdpSocket)>,
    delays: Histogram<u64>,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Order>) {
        let start = Instant::now();
        let mut events = Vec::with_capacity(1024);
        for n in 0.. {
            let due = start + PHASE * n;
            self.phase = n as usize % self.phases.len();
            loop {
                match orders.try_recv() {
                    Ok(Order::Finish { answer }) => {
                        answer.send(self.delays).ok();
                        return;
                    }
                    Ok(order) => self.obey(order),
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            self.listen_until(due, &mut events);
            self.speak(self.phase);
            while self.resting.front().is_some_and(|(until, _)| *until <= Instant::now()) {
                self.resting.pop_front();
            }
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Start { origin, socket, numbers, secure } => {
                let data = epoll::EventData::new_u64(origin.into());
                if let Err(e) = epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN) {
                    eprintln!("nebula-load: cannot listen: {e}");
                }
                // Without stamps of the kernel our own late reading would count as the system's delay.
                if let Err(e) = setsockopt(&socket, sockopt::ReceiveTimestampns, &true) {
                    eprintln!("nebula-load: no time stamps: {e}");
                }
                // The phase that is just over: a first packet holds sound, which must have been spoken before.
                let phases = self.phases.len();
                self.phases[(self.phase + phases - 1) % phases].push(origin);
                // A connected socket has a peer; one that was closed meanwhile is nobody's.
                let Ok(remote) = socket.peer_addr() else { return };
                let ear = Ear::new(self.terms.ptime_ms, numbers);
                self.sessions.insert(origin, Session { socket, remote, numbers, secure, ear });
            }
            Order::Finish { .. } => {}
            Order::Hush { origin } => self.silence(origin),
            Order::Rekey { origin, key } => {
                let secure = self.sessions.get_mut(&origin).and_then(|session| session.secure.as_mut());
                if let Some(Err(e)) = secure.map(|secure| secure.renew(&key)) {
                    eprintln!("nebula-load: cannot take another key: {e}");
                }
            }
            Order::Peek { origin, answer } => {
                self.hear_all(origin);
                let now_ns = self.terms.begun.elapsed().as_nanos() as u64;
                if let Some(Session { ear, .. }) = self.sessions.get_mut(&origin) {
                    // Here and not where it is told: that may be long after.
                    ear.heard.silent_ns = now_ns.saturating_sub(ear.heard.last_ns);
                    answer.send(ear.heard).ok();
                }
            }
            Order::Mark { origin } => {
                if let Some(Session { ear, .. }) = self.sessions.get_mut(&origin) {
                    ear.mark();
                }
            }
            Order::Stop { origin, answer } => {
                self.silence(origin);
                // What came up to this moment counts.
                self.hear_all(origin);
                let Some(Session { socket, ear, .. }) = self.sessions.remove(&origin) else { return };
                answer.send(ear.heard).ok();
                // What still comes wakes nobody.
                epoll::delete(&self.epoll, &socket).ok();
                self.resting.push_back((Instant::now() + REST, socket));
            }
        }
    }

    fn silence(&mut self, origin: u32) {
        self.phases.iter_mut().for_each(|phase| phase.retain(|o| *o != origin));
    }

    fn speak(&mut self, phase: usize) {
        let mut datagram = [0; PACKET_BYTES_MAX];
        let datagram = &mut datagram[..packet_bytes(self.terms.ptime_ms)];
        for origin in &self.phases[phase] {
            let Some(Session { socket, numbers, secure, ear, .. }) = self.sessions.get_mut(origin) else { continue };
            let sent_ns = self.terms.begun.elapsed().as_nanos() as u64;
            let number = ear.heard.sent;
            Packet { origin: *origin, number, sent_ns }.write(datagram, numbers.sequence(number));
            let protected = secure.as_mut().and_then(|secure| secure.protect(datagram));
            let sent = match &protected {
                Some(protected) => protected.as_ref(),
                // Nothing leaves in the clear that was to be protected: it is lost, and seen as that.
                None if secure.is_some() => &[],
                None => &*datagram,
            };
            // One that the kernel refuses is a lost one: its number is used up. But not for the sake of an earlier one, of
            // which it was told that nobody listens.
            if socket.send(sent).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused) {
                socket.send(sent).ok();
            }
            ear.heard.sent += 1;
        }
    }

    fn listen_until(&mut self, due: Instant, events: &mut Vec<epoll::Event>) {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            events.clear();
            // An interrupted wait is a short one.
            epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)).ok();
            for event in events.iter() {
                self.hear(event.data.u64() as u32);
            }
            if left.is_zero() {
                return;
            }
        }
    }

    /// Reads what waits for a session.
    fn hear_all(&mut self, origin: u32) {
        while self.hear(origin) {}
    }

    /// Reads one packet; whether there was one.
    fn hear(&mut self, origin: u32) -> bool {
        let Some(Session { socket, remote, secure, ear, .. }) = self.sessions.get_mut(&origin) else { return false };
        let mut datagram = [0; 2048];
        let mut stamp = nix::cmsg_space!(nix::sys::time::TimeSpec);
        let mut buffer = [IoSliceMut::new(&mut datagram)];
        let came =
            match recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut buffer, Some(&mut stamp), MsgFlags::empty()) {
                Ok(came) => came,
                // The far end's port was closed for a moment: told once, and over.
                Err(e) => return e == nix::errno::Errno::ECONNREFUSED,
            };
        // The port may have been another call's before, whose peer has not heard of its end; and only from when it is
        // connected a socket keeps strangers out by itself.
        if came.address.and_then(|from| address(&from)).is_some_and(|from| from != *remote) {
            return true;
        }
        let stamped = came.cmsgs().ok().and_then(|mut all| {
            all.find_map(|c| match c {
                ControlMessageOwned::ScmTimestampns(at) => Some(at.num_nanoseconds() as u64),
                _ => None,
            })
        });
        let now_ns = match stamped {
            Some(unix_ns) => unix_ns.saturating_sub(self.terms.begun_unix_ns),
            None => self.terms.begun.elapsed().as_nanos() as u64,
        };
        let bytes = came.bytes;
        let datagram = &datagram[..bytes];
        // RTCP on the RTP port (RFC 5761) is none of ours.
        if datagram.get(1).is_some_and(|kind| (192..=223).contains(kind)) {
            return true;
        }
        let ptime_ms = self.terms.ptime_ms;
        let opened = secure.as_mut().map(|secure| {
            let opened = secure.open(datagram, packet_bytes(ptime_ms));
            ear.heard.rollovers = secure.rollovers();
            opened
        });
        let packet = match &opened {
            Some(Ok(plain)) => Packet::read(plain.as_ref(), ptime_ms),
            Some(Err(bad)) => {
                *match bad {
                    Bad::Unauthentic => &mut ear.heard.unauthentic,
                    Bad::Again => &mut ear.heard.duplicates,
                    Bad::IndexReused => &mut ear.heard.indices_reused,
                } += 1;
                return true;
            }
            None => Packet::read(datagram, ptime_ms),
        };
        match packet {
            Some(packet) => ear.take(packet, source(datagram), now_ns, &mut self.delays),
            None => ear.heard.wrong += 1,
        }
        true
    }
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = from.as_sockaddr_in().map(|v4| SocketAddr::V4(SocketAddrV4::from(*v4)));
    v4.or_else(|| from.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::from(*v6))))
}
