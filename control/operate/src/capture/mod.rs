//! `nebula capture STREAM --pcap FILE`: a stream's packets, both ways, as they are on the wire. The dataplane takes no part:
//! the kernel copies the packets of the stream's ports to us by a packet socket with a filter (packet(7)). While one is open,
//! each packet of the host runs through that filter, some tens of nanoseconds.
//!
//! What is protected (SRTP) stays protected in the file, unless `--decrypt` asks the media agent for the keys, which has them
//! for few. Packets that an interface hands to the
//! dataplane by AF_XDP pass the kernel by and are not seen: the end of a capture compares with the dataplane's own counts
//! and says so.

mod decrypt;
mod filter;
pub mod keys;
mod pcap;
mod tap;

use crate::stream;
use crate::{sample, view};
use anyhow::Context;
use decrypt::{Fate, Leg};
use filter::Endpoint;
use nebula_ring::segment::Observed;
use nebula_ring::{StreamId, StreamRecord};
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tap::Tap;

/// How often the stream and the signals are looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// A packet counts in the table up to so long after it was on the wire.
const TABLE_LAG: Duration = Duration::from_millis(200);
/// Of what the dataplane has counted, how much may be missing before it is said: packets at the edges of a capture.
const MISSING_MAX: u64 = 20;

/// What to capture.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The stream's id, or the end of it
    pub stream: String,
    /// The file to write, in pcap format with nanoseconds; it must not exist
    #[arg(long, value_name = "FILE")]
    pub pcap: PathBuf,
    /// End after so many seconds [default: with the stream, or at Ctrl-C]
    #[arg(long)]
    pub seconds: Option<u64>,
    /// End after so many packets: twenty minutes of one stream, both ways
    #[arg(long, default_value_t = 120_000)]
    pub packets_max: u64,
    /// The other leg of its call as well
    #[arg(long)]
    pub both_legs: bool,
    /// Write SRTP decrypted; for root and the user that the media agent runs as. The agent logs who did it
    #[arg(long)]
    pub decrypt: bool,
}

/// How often at most the media agent is asked in a second because a packet cannot be read: at once for a new key, and not for each
/// packet of a stranger.
const ASKS_PER_S_MAX: u32 = 20;

/// Captures from the dataplane at `socket` until an end comes. The keys are had at `agent`, if they are asked for.
pub fn run(socket: &Path, agent: Option<&Path>, options: &Options) -> anyhow::Result<()> {
    // First, so that who may not is told that and nothing else.
    let agent = agent.map(keys::Agent::open).transpose()?;
    let observed = sample::open(socket)?;
    let all = sample::Sample::take(&observed).streams;
    let found = stream::find(&all, &options.stream)?;
    let (_, record) =
        found.with_context(|| format!("no stream {:?}; `nebula top --once` lists them", options.stream))?;
    let mut captured = vec![record];
    if options.both_legs && record.bridged_with != 0 {
        captured.extend(observed.find(StreamId(record.bridged_with)).map(|(_, partner)| partner));
    }
    let endpoints: Vec<Endpoint> = captured.iter().map(Endpoint::of).collect();
    // Before the first packet: how far the streams are, from which on rollover counters go on.
    let mut clear = agent.map(|agent| Clear::begin(agent, &observed, &captured)).transpose()?;
    let tap = Tap::open(&endpoints)?;
    let file = File::options().write(true).create_new(true).open(&options.pcap);
    let file = file.with_context(|| format!("{}: cannot be made", options.pcap.display()))?;
    let writer = pcap::Writer::new(BufWriter::new(file))?;
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    eprintln!("nebula: capturing stream {} at {}; Ctrl-C ends it", view::id(record.id), record.local_rtp());
    let until = options.seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let ended = |packets: u64| {
        stop.load(Ordering::Relaxed)
            || packets >= options.packets_max
            || until.is_some_and(|until| Instant::now() >= until)
            || observed.find(StreamId(record.id)).is_none_or(|(_, record)| !record.is_open())
    };
    let before = counted(&observed, &captured);
    let (packets, refused) = copy(tap, &endpoints, writer, clear.as_mut(), ended)?;
    std::thread::sleep(TABLE_LAG);
    let counted = counted(&observed, &captured).saturating_sub(before);
    let decrypted = clear.map(|clear| clear.told()).unwrap_or_default();
    let missing = shortfall(packets, counted, refused);
    eprintln!("nebula: {packets} packets in {}{decrypted}{missing}", options.pcap.display());
    Ok(())
}

/// What makes packets plain.
struct Clear<'a> {
    agent: keys::Agent,
    observed: &'a Observed,
    legs: Vec<(u64, Leg)>,
    /// When the second began that the next counts the asking of.
    second: Instant,
    asks: u32,
    packet: Vec<u8>,
    decrypted: u64,
    closed: u64,
}

impl<'a> Clear<'a> {
    fn begin(agent: keys::Agent, observed: &'a Observed, captured: &[StreamRecord]) -> anyhow::Result<Self> {
        let legs = captured.iter().map(|record| (record.id, Leg::new(Endpoint::of(record)))).collect();
        let (packet, second) = (Vec::with_capacity(pcap::PACKET_BYTES_MAX), Instant::now());
        let mut clear = Self { agent, observed, legs, second, asks: 0, packet, decrypted: 0, closed: 0 };
        clear.ask()?;
        Ok(clear)
    }

    /// The keys of all legs as they are now, and how far the streams are with them.
    fn ask(&mut self) -> Result<(), keys::Error> {
        for (id, leg) in &mut self.legs {
            // The table first: what it says of a key that we do not know yet is passed over.
            if let Some((_, record)) = self.observed.find(StreamId(*id)) {
                leg.learn(&self.agent.keys(*id)?, &record);
            }
        }
        Ok(())
    }

    /// Whether it is not too often.
    fn may_ask(&mut self) -> bool {
        if self.second.elapsed() >= Duration::from_secs(1) {
            (self.second, self.asks) = (Instant::now(), 0);
        }
        self.asks += 1;
        self.asks <= ASKS_PER_S_MAX
    }

    /// The packet as it is to be written.
    fn packet(&mut self, packet: &[u8], is_outgoing: bool) -> &[u8] {
        self.packet.clear();
        self.packet.extend_from_slice(packet);
        let mut fate = self.open(is_outgoing);
        // A new key, perhaps. An agent that has gone meanwhile ends no capture.
        if fate == Fate::Closed && self.may_ask() && self.ask().is_ok() {
            fate = self.open(is_outgoing);
        }
        match fate {
            Fate::Plain => {}
            Fate::Decrypted => self.decrypted += 1,
            Fate::Closed => self.closed += 1,
        }
        &self.packet
    }

    fn open(&mut self, is_outgoing: bool) -> Fate {
        let packet = &mut self.packet;
        let mut legs = self.legs.iter_mut().map(|(_, leg)| leg);
        legs.find(|leg| leg.concerns(packet, is_outgoing)).map_or(Fate::Plain, |leg| leg.open(packet, is_outgoing))
    }

    fn told(&self) -> String {
        let closed = match self.closed {
            0 => String::new(),
            closed => format!(", {closed} stay as they were: no key of the stream opens them"),
        };
        format!("; {} decrypted{closed}", self.decrypted)
    }
}

/// Until the end; packets written, and packets that the kernel had no room for.
fn copy(
    mut tap: Tap,
    endpoints: &[Endpoint],
    mut writer: pcap::Writer<impl std::io::Write>,
    mut clear: Option<&mut Clear<'_>>,
    mut ended: impl FnMut(u64) -> bool,
) -> anyhow::Result<(u64, u64)> {
    let (mut packets, mut next_look) = (0, Instant::now());
    loop {
        if Instant::now() >= next_look {
            if ended(packets) {
                break;
            }
            next_look = Instant::now() + LOOK_EVERY;
        }
        let Some(seen) = tap.next(LOOK_EVERY)? else { continue };
        // What came before the filter was in place.
        if endpoints.iter().any(|it| it.concerns(seen.packet, seen.is_outgoing)) {
            let packet = match &mut clear {
                Some(clear) => clear.packet(seen.packet, seen.is_outgoing),
                None => seen.packet,
            };
            writer.write(seen.at, packet).context("the file")?;
            packets += 1;
        }
    }
    writer.finish().context("the file")?;
    Ok((packets, tap.refused()))
}

/// Packets of these streams that the dataplane has counted, of all kinds, both ways.
fn counted(observed: &Observed, streams: &[StreamRecord]) -> u64 {
    let now = streams.iter().filter_map(|record| observed.find(StreamId(record.id)));
    now.map(|(_, it)| it.packets_in + it.packets_out + it.rtcp_in + it.rtcp_out).sum()
}

/// What is to be said if fewer packets were seen than there were.
fn shortfall(packets: u64, counted: u64, refused: u64) -> String {
    let missing = counted.saturating_sub(packets);
    if missing <= MISSING_MAX.max(counted / 20) {
        return String::new();
    }
    let why = if refused > 0 {
        format!("the kernel had no room for {refused}")
    } else {
        "those that an interface hands over by AF_XDP are not seen here".to_owned()
    };
    format!("; the dataplane has counted {counted}: {why}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::time::UNIX_EPOCH;

    /// A packet socket needs a right that not everybody has.
    fn may_capture() -> bool {
        let may = !matches!(Tap::open(&[]), Err(tap::Error::NotAllowed));
        if !may {
            eprintln!("left out: capturing needs CAP_NET_RAW");
        }
        may
    }

    fn pair(ip: &str) -> (UdpSocket, UdpSocket) {
        let ours = UdpSocket::bind((ip, 0)).unwrap();
        let phone = UdpSocket::bind((ip, 0)).unwrap();
        (ours, phone)
    }

    fn captured_over(ip: &str) {
        let (ours, phone) = pair(ip);
        let mut record = StreamRecord { id: 1, ..Default::default() };
        let port = ours.local_addr().unwrap().port();
        record.set_local(ip.parse().unwrap(), port, port);
        let endpoints = [Endpoint::of(&record)];
        let tap = Tap::open(&endpoints).unwrap();
        let stranger = UdpSocket::bind((ip, 0)).unwrap();
        for number in 0..3u8 {
            phone.send_to(&[number; 172], ours.local_addr().unwrap()).unwrap();
            ours.send_to(&[100 + number; 60], phone.local_addr().unwrap()).unwrap();
            stranger.send_to(&[9; 20], phone.local_addr().unwrap()).unwrap();
        }
        let mut bytes = Vec::new();
        let writer = pcap::Writer::new(&mut bytes).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let (packets, refused) =
            copy(tap, &endpoints, writer, None, |packets| packets >= 6 || Instant::now() > deadline).unwrap();
        assert_eq!((packets, refused), (6, 0), "each once, the stranger's none");
        let read = pcap::tests::read(&bytes);
        let header = if ip.contains(':') { 48 } else { 28 };
        let payloads: Vec<(u8, usize)> =
            read.iter().map(|(_, packet)| (packet[header], packet.len() - header)).collect();
        assert_eq!(payloads, [(0, 172), (100, 60), (1, 172), (101, 60), (2, 172), (102, 60)]);
        let now = std::time::SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(read.iter().all(|(at, _)| now.abs_diff(*at) < Duration::from_secs(60)), "the kernel's time");
        assert!(read.windows(2).all(|two| two[0].0 <= two[1].0));
    }

    #[test]
    fn both_ways_are_in_the_file_once_and_nothing_else() {
        if may_capture() {
            captured_over("127.0.0.1");
            captured_over("::1");
        }
    }

    #[test]
    fn a_shortfall_is_told_with_its_reason() {
        assert_eq!((shortfall(990, 1_000, 0), shortfall(2_000, 1_000, 0)), (String::new(), String::new()));
        assert!(shortfall(0, 1_000, 0).contains("AF_XDP"));
        assert!(shortfall(500, 1_000, 480).contains("no room for 480"));
    }
}
