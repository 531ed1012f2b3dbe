//! One media thread: an epoll, and the sessions in twenty phases of a millisecond, so that not all speak at once.

use super::payload::{PACKET_BYTES, Packet};
use super::{Heard, delays};
use hdrhistogram::Histogram;
use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::net::UdpSocket;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

const PHASES: usize = 20;
const PHASE: Duration = Duration::from_millis(1);

/// How many numbers back a duplicate is still told from a late packet.
const WINDOW: u64 = 64;

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
    },
    /// Only listen.
    Hush {
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

/// Starts one; times are counted from `begun`.
pub(super) fn start(begun: Instant) -> io::Result<Sender<Order>> {
    let (sender, orders) = channel();
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let (sessions, phases, resting) = (HashMap::new(), Default::default(), VecDeque::new());
    let thread = Thread { epoll, begun, sessions, phases, phase: 0, resting, delays: delays() };
    std::thread::Builder::new().name("media".to_owned()).spawn(move || thread.run(&orders))?;
    Ok(sender)
}

struct Thread {
    epoll: OwnedFd,
    begun: Instant,
    sessions: HashMap<u32, Ear>,
    /// The sessions that speak in each phase.
    phases: [Vec<u32>; PHASES],
    /// The phase that comes next.
    phase: usize,
    /// Sockets of ended sessions, and until when they are kept.
    resting: VecDeque<(Instant, UdpSocket)>,
    delays: Histogram<u64>,
}

/// A session here.
struct Ear {
    socket: UdpSocket,
    heard: Heard,
    /// Which of the last numbers have been heard; bit 0 is `heard.last`.
    window: u64,
    transit_us: Option<f64>,
}

impl Thread {
    fn run(mut self, orders: &Receiver<Order>) {
        let start = Instant::now();
        let mut events = Vec::with_capacity(1024);
        for n in 0.. {
            let due = start + PHASE * n;
            self.phase = n as usize % PHASES;
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
            Order::Start { origin, socket } => {
                let data = epoll::EventData::new_u64(origin.into());
                if let Err(e) = epoll::add(&self.epoll, &socket, data, epoll::EventFlags::IN) {
                    eprintln!("nebula-load: cannot listen: {e}");
                }
                // The phase that is just over: a first packet holds 20 ms of sound, which must have been spoken before.
                self.phases[(self.phase + PHASES - 1) % PHASES].push(origin);
                self.sessions.insert(origin, Ear { socket, heard: Heard::default(), window: 0, transit_us: None });
            }
            Order::Finish { .. } => {}
            Order::Hush { origin } => self.silence(origin),
            Order::Stop { origin, answer } => {
                self.silence(origin);
                // What came up to this moment counts.
                self.hear(origin);
                let Some(ear) = self.sessions.remove(&origin) else { return };
                answer.send(ear.heard).ok();
                // What still comes wakes nobody.
                epoll::delete(&self.epoll, &ear.socket).ok();
                self.resting.push_back((Instant::now() + REST, ear.socket));
            }
        }
    }

    fn silence(&mut self, origin: u32) {
        self.phases.iter_mut().for_each(|phase| phase.retain(|o| *o != origin));
    }

    fn speak(&mut self, phase: usize) {
        let mut datagram = [0; PACKET_BYTES];
        for origin in &self.phases[phase] {
            let Some(ear) = self.sessions.get_mut(origin) else { continue };
            let sent_ns = self.begun.elapsed().as_nanos() as u64;
            Packet { origin: *origin, number: ear.heard.sent, sent_ns }.write(&mut datagram);
            // One that the kernel refuses is a lost one: its number is used up.
            ear.socket.send(&datagram).ok();
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

    fn hear(&mut self, origin: u32) {
        let Some(ear) = self.sessions.get_mut(&origin) else { return };
        let mut datagram = [0; 2048];
        while let Ok(length) = ear.socket.recv(&mut datagram) {
            match Packet::read(&datagram[..length]) {
                Some(packet) => ear.take(packet, self.begun.elapsed().as_nanos() as u64, &mut self.delays),
                // RTCP on the RTP port (RFC 5761) is none of ours.
                None if (192..=223).contains(&datagram[1]) => {}
                None => ear.heard.wrong += 1,
            }
        }
    }
}

impl Ear {
    fn take(&mut self, packet: Packet, now_ns: u64, delays: &mut Histogram<u64>) {
        if *self.heard.origin.get_or_insert(packet.origin) != packet.origin {
            self.heard.wrong += 1;
            return;
        }
        let last = self.heard.last.unwrap_or(packet.number);
        if packet.number > last || self.heard.last.is_none() {
            let ahead = packet.number - last;
            self.window = if ahead >= WINDOW { 1 } else { self.window << ahead | 1 };
            self.heard.last = Some(packet.number);
        } else {
            let bit = 1_u64.checked_shl((last - packet.number) as u32).unwrap_or(0);
            if bit == 0 || self.window & bit != 0 {
                self.heard.duplicates += 1;
                return;
            }
            self.window |= bit;
        }
        self.heard.received += 1;
        let delay_us = now_ns.saturating_sub(packet.sent_ns) as f64 / 1000.0;
        delays.saturating_record(delay_us as u64);
        // Sender and receiver share a clock, so that transit is the delay itself (RFC 3550 A.8).
        if let Some(before) = self.transit_us.replace(delay_us) {
            self.heard.jitter_us += ((delay_us - before).abs() - self.heard.jitter_us) / 16.0;
        }
    }
}
