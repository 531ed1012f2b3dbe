//! RTP load on a relay: calls of two phones each, 20 ms PCMU both ways, every packet checked and timed.
//!
//! One thread with one epoll. Senders are spread over the 20 ms in phases of one millisecond, as real calls are.

use anyhow::Result;
use hdrhistogram::Histogram;
use rustix::event::epoll;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// RTP header and 20 ms of PCMU.
pub const PACKET_BYTES: usize = 172;

/// Packets that one direction of a call has in a second.
pub const PACKETS_PER_SECOND: u64 = 50;

const PHASES: usize = 20;
const PHASE: Duration = Duration::from_millis(1);
/// After the last packet, how long its companions may still be under way.
const LINGER: Duration = Duration::from_millis(300);

/// One phone of a call.
struct Phone {
    socket: UdpSocket,
    ssrc: u32,
    /// The SSRC it must hear, and the next sequence number.
    hears: u32,
    sequence: u16,
}

/// Calls that are set up and ready to speak.
pub struct Load {
    phones: Vec<Phone>,
    epoll: OwnedFd,
    begun: Instant,
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Packets sent to the relay.
    pub sent: u64,
    /// Packets that came back right: from the other phone of the call, unharmed.
    pub received: u64,
    /// Packets that came to the wrong phone or were changed.
    pub wrong: u64,
    /// From a packet's sending to its reading, microseconds.
    pub latency_us: Histogram<u64>,
}

impl Load {
    /// Opens two phones a call, where phones stand, and lets `set_up` tell, for their two addresses, where each shall send to.
    pub fn new(
        calls: usize,
        phone_ip: IpAddr,
        mut set_up: impl FnMut(usize, SocketAddr, SocketAddr) -> Result<(SocketAddr, SocketAddr)>,
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut phones = Vec::with_capacity(2 * calls);
        for call in 0..calls {
            let open = || -> Result<UdpSocket> {
                let socket = UdpSocket::bind((phone_ip, 0))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let (a, b) = (open()?, open()?);
            let (to_a, to_b) = set_up(call, a.local_addr()?, b.local_addr()?)?;
            a.connect(to_a)?;
            b.connect(to_b)?;
            let (ssrc_a, ssrc_b) = (2 * call as u32 + 1, 2 * call as u32 + 2);
            for (socket, ssrc, hears) in [(a, ssrc_a, ssrc_b), (b, ssrc_b, ssrc_a)] {
                let data = epoll::EventData::new_u64(phones.len() as u64);
                epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
                phones.push(Phone { socket, ssrc, hears, sequence: 0 });
            }
        }
        Ok(Self { phones, epoll, begun: Instant::now() })
    }

    /// Speaks for a while and listens a little longer.
    pub fn run(&mut self, duration: Duration) -> Result<Outcome> {
        let mut outcome =
            Outcome { sent: 0, received: 0, wrong: 0, latency_us: Histogram::new_with_bounds(1, 60_000_000, 3)? };
        let mut events = Vec::with_capacity(1024);
        let phases = duration.as_micros().div_ceil(PHASE.as_micros()) as u32;
        let start = Instant::now();
        for phase in 0..phases {
            let due = start + PHASE * phase;
            self.listen_until(due, &mut events, &mut outcome)?;
            self.speak(phase as usize % PHASES, &mut outcome);
        }
        self.listen_until(Instant::now() + LINGER, &mut events, &mut outcome)?;
        Ok(outcome)
    }

    fn speak(&mut self, phase: usize, outcome: &mut Outcome) {
        let mut packet = [0xff_u8; PACKET_BYTES];
        for phone in self.phones.iter_mut().skip(phase).step_by(PHASES) {
            let timestamp = u32::from(phone.sequence).wrapping_mul(160);
            packet[..2].copy_from_slice(&[0x80, 0]);
            packet[2..4].copy_from_slice(&phone.sequence.to_be_bytes());
            packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
            packet[8..12].copy_from_slice(&phone.ssrc.to_be_bytes());
            let now_ns = self.begun.elapsed().as_nanos() as u64;
            packet[12..20].copy_from_slice(&now_ns.to_be_bytes());
            packet[20..28].copy_from_slice(&check(phone.ssrc, phone.sequence, now_ns).to_be_bytes());
            phone.sequence = phone.sequence.wrapping_add(1);
            // A refused send (a full queue) shows as loss.
            outcome.sent += u64::from(phone.socket.send(&packet).is_ok());
        }
    }

    fn listen_until(&self, due: Instant, events: &mut Vec<epoll::Event>, outcome: &mut Outcome) -> Result<()> {
        loop {
            let left = due.saturating_duration_since(Instant::now());
            let timeout =
                rustix::event::Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&timeout)) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            }
            if events.is_empty() {
                return Ok(());
            }
            for event in events.iter() {
                self.hear(event.data.u64() as usize, outcome);
            }
            if left.is_zero() {
                return Ok(());
            }
        }
    }

    fn hear(&self, index: usize, outcome: &mut Outcome) {
        let phone = &self.phones[index];
        let mut packet = [0; 2048];
        while let Ok(length) = phone.socket.recv(&mut packet) {
            let u64_at = |at: usize| u64::from_be_bytes(packet[at..at + 8].try_into().expect("eight bytes"));
            let ssrc = u32::from_be_bytes(packet[8..12].try_into().expect("four bytes"));
            let sequence = u16::from_be_bytes(packet[2..4].try_into().expect("two bytes"));
            let sent_ns = u64_at(12);
            if length != PACKET_BYTES || ssrc != phone.hears || u64_at(20) != check(ssrc, sequence, sent_ns) {
                outcome.wrong += 1;
                continue;
            }
            outcome.received += 1;
            let latency_ns = (self.begun.elapsed().as_nanos() as u64).saturating_sub(sent_ns);
            outcome.latency_us.saturating_record(latency_ns / 1000);
        }
    }
}

/// What a packet's payload must hold besides its time, so that a changed or misdirected packet is seen.
fn check(ssrc: u32, sequence: u16, time_ns: u64) -> u64 {
    (u64::from(ssrc) << 16 | u64::from(sequence)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ time_ns
}
