//! RTP or SRTP load on a relay: calls of two phones each, 20 ms PCMU both ways, every packet checked and timed.
//!
//! One thread with one epoll. Senders are spread over the 20 ms in phases of one millisecond, as real calls are.

use crate::srtp::{ADDED_BYTES_MAX, Keys, Session};
use anyhow::Result;
use hdrhistogram::Histogram;
use nebula_simd::Kernels;
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
/// After the last packet, how long its companions may still be under way, and how often it is seen whether all are there.
const LINGER_MAX: Duration = Duration::from_secs(2);
const LINGER_STEP: Duration = Duration::from_millis(10);

/// What a phone is told when its call is set up.
#[derive(Debug, Clone)]
pub struct Leg {
    /// Where it shall send to.
    pub to: SocketAddr,
    /// Its keys; without any it speaks in the clear.
    pub keys: Option<Keys>,
}

/// One phone of a call; the other one is its neighbour (`index ^ 1`).
struct Phone {
    socket: UdpSocket,
    ssrc: u32,
    /// The SSRC it must hear.
    hears: u32,
    /// The next packet's number, of which the sequence number is the lower half.
    index: u64,
    /// For what it sends and for what it hears.
    sessions: Option<(Session, Session)>,
}

/// Calls that are set up and ready to speak.
pub struct Load {
    phones: Vec<Phone>,
    epoll: OwnedFd,
    begun: Instant,
    /// When the present run began, after `begun`: what was sent before it is not of it.
    run_begun_ns: u64,
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
    /// Opens two phones a call, where phones stand, and lets `set_up` tell each, for their two addresses, what it must know.
    pub fn new(
        calls: usize,
        phone_ip: IpAddr,
        mut set_up: impl FnMut(usize, SocketAddr, SocketAddr) -> Result<[Leg; 2]>,
    ) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut phones = Vec::with_capacity(2 * calls);
        let kernels = Kernels::detect();
        for call in 0..calls {
            let open = || -> Result<UdpSocket> {
                let socket = UdpSocket::bind((phone_ip, 0))?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            let (a, b) = (open()?, open()?);
            let legs = set_up(call, a.local_addr()?, b.local_addr()?)?;
            let (ssrc_a, ssrc_b) = (2 * call as u32 + 1, 2 * call as u32 + 2);
            for ((socket, ssrc, hears), leg) in [(a, ssrc_a, ssrc_b), (b, ssrc_b, ssrc_a)].into_iter().zip(legs) {
                socket.connect(leg.to)?;
                let sessions = match &leg.keys {
                    Some(keys) => Some((Session::new(kernels, &keys.sends)?, Session::new(kernels, &keys.hears)?)),
                    None => None,
                };
                let data = epoll::EventData::new_u64(phones.len() as u64);
                epoll::add(&epoll, &socket, data, epoll::EventFlags::IN)?;
                phones.push(Phone { socket, ssrc, hears, index: 0, sessions });
            }
        }
        Ok(Self { phones, epoll, begun: Instant::now(), run_begun_ns: 0 })
    }

    /// Speaks for a while and listens until all is there, or a little longer.
    pub fn run(&mut self, duration: Duration) -> Result<Outcome> {
        let mut outcome =
            Outcome { sent: 0, received: 0, wrong: 0, latency_us: Histogram::new_with_bounds(1, 60_000_000, 3)? };
        let mut events = Vec::with_capacity(1024);
        let phases = duration.as_micros().div_ceil(PHASE.as_micros()) as u32;
        let start = Instant::now();
        self.run_begun_ns = self.begun.elapsed().as_nanos() as u64;
        for phase in 0..phases {
            let due = start + PHASE * phase;
            self.listen_until(due, &mut events, &mut outcome)?;
            self.speak(phase as usize % PHASES, &mut outcome);
        }
        let end = Instant::now() + LINGER_MAX;
        while outcome.received + outcome.wrong < outcome.sent && Instant::now() < end {
            self.listen_until(Instant::now() + LINGER_STEP, &mut events, &mut outcome)?;
        }
        Ok(outcome)
    }

    fn speak(&mut self, phase: usize, outcome: &mut Outcome) {
        for phone in self.phones.iter_mut().skip(phase).step_by(PHASES) {
            let mut packet = [0xff_u8; PACKET_BYTES + ADDED_BYTES_MAX];
            let sequence = phone.index as u16;
            let timestamp = (phone.index as u32).wrapping_mul(160);
            packet[..2].copy_from_slice(&[0x80, 0]);
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            packet[4..8].copy_from_slice(&timestamp.to_be_bytes());
            packet[8..12].copy_from_slice(&phone.ssrc.to_be_bytes());
            let now_ns = self.begun.elapsed().as_nanos() as u64;
            packet[12..20].copy_from_slice(&now_ns.to_be_bytes());
            packet[20..28].copy_from_slice(&check(phone.ssrc, sequence, now_ns).to_be_bytes());
            let length = match &phone.sessions {
                Some((sends, _)) => sends.protect(&mut packet, PACKET_BYTES, phone.index),
                None => PACKET_BYTES,
            };
            phone.index += 1;
            // A refused send (a full queue) shows as loss.
            outcome.sent += u64::from(phone.socket.send(&packet[..length]).is_ok());
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
        let mut packet = [0; 2048];
        while let Ok(length) = self.phones[index].socket.recv(&mut packet) {
            match self.sent_ns(index, &mut packet[..length]) {
                Some(sent_ns) if sent_ns < self.run_begun_ns => {}
                Some(sent_ns) => {
                    outcome.received += 1;
                    let latency_ns = (self.begun.elapsed().as_nanos() as u64).saturating_sub(sent_ns);
                    outcome.latency_us.saturating_record(latency_ns / 1000);
                }
                None => outcome.wrong += 1,
            }
        }
    }

    /// When a packet that phone `index` hears was sent; nothing if it is not whole, authentic, and the other phone's.
    fn sent_ns(&self, index: usize, packet: &mut [u8]) -> Option<u64> {
        let (phone, other) = (&self.phones[index], &self.phones[index ^ 1]);
        let sequence = u16::from_be_bytes(*packet.get(2..)?.first_chunk()?);
        let length = match &phone.sessions {
            Some((_, hears)) => {
                // The youngest of that sequence number: nothing is older than 65,536 packets.
                let age = (other.index as u16).wrapping_sub(sequence);
                hears.unprotect(packet, other.index.checked_sub(age.into())?)?
            }
            None => packet.len(),
        };
        let u64_at = |at: usize| Some(u64::from_be_bytes(*packet.get(at..)?.first_chunk()?));
        let ssrc = u32::from_be_bytes(*packet.get(8..)?.first_chunk()?);
        let sent_ns = u64_at(12)?;
        let right = length == PACKET_BYTES && ssrc == phone.hears && u64_at(20)? == check(ssrc, sequence, sent_ns);
        right.then_some(sent_ns)
    }
}

/// What a packet's payload must hold besides its time, so that a changed or misdirected packet is seen.
fn check(ssrc: u32, sequence: u16, time_ns: u64) -> u64 {
    (u64::from(ssrc) << 16 | u64::from(sequence)).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ time_ns
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::srtp::master;
    use nebula_ring::srtp::Suite;

    /// Phones that talk to each other without a relay; `spoil` may change what they are told.
    fn run(suite: Option<Suite>, spoil: impl Fn(&mut [Leg; 2])) -> Outcome {
        let set_up = |call: usize, a, b| {
            let mut legs = [(b, 0), (a, 1)].map(|(to, leg)| {
                let key = |leg| master(suite.unwrap(), [call as u32, leg, 0]).unwrap();
                Leg { to, keys: suite.map(|_| Keys { sends: key(leg), hears: key(1 - leg) }) }
            });
            spoil(&mut legs);
            Ok(legs)
        };
        let mut load = Load::new(5, std::net::Ipv4Addr::LOCALHOST.into(), set_up).unwrap();
        load.run(Duration::from_millis(100)).unwrap()
    }

    #[test]
    fn all_that_is_sent_is_heard_in_the_clear_and_protected() {
        for suite in [None, Some(Suite::AeadAes128Gcm), Some(Suite::AesCm128HmacSha1_80)] {
            let Outcome { sent, received, wrong, .. } = run(suite, |_| {});
            assert!(sent > 0);
            assert_eq!((received, wrong), (sent, 0), "{suite:?}");
        }
    }

    #[test]
    fn another_key_is_not_heard() {
        let outcome = run(Some(Suite::AeadAes128Gcm), |legs| {
            legs[0].keys.as_mut().unwrap().hears = master(Suite::AeadAes128Gcm, [9, 9, 9]).unwrap();
        });
        assert_eq!(outcome.received, outcome.wrong);
        assert!(outcome.wrong > 0);
    }
}
