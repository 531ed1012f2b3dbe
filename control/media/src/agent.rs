//! The agent's mind: every stream it owns, where it lives, what it has negotiated, what the dataplane was last told of it.
//!
//! Sans-IO and behind one lock in `service`, which submits the commands it returns before it lets go, so that the
//! dataplane carries them out in the order in which they were decided. Microseconds a request.

mod dataplane;
mod kept;
mod look;
mod loops;
mod owner;
mod stream;

pub use dataplane::{Arrival, Resumption};
pub use owner::Owner;

use crate::error::Error;
use crate::nat;
use crate::offer_answer::crypto::{Policy, Seed};
use crate::offer_answer::sdp::Terms;
use crate::offer_answer::{Endpoint, Error as StepError, Exchange, Incompatible, Turn};
use crate::options::Options;
use crate::placement::{PortPair, Ports, Workers};
use nebula_bus::contract::to_media::{self, Create, Negotiated, Step};
use nebula_bus::contract::{self, ChannelId, InstanceId};
use nebula_ring::command::{Command, Mode, PayloadTypes, StreamConfig, StreamId};
use nebula_ring::table::StreamRecord;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use stream::{Place, Stream};

/// All streams of this agent.
#[derive(Debug)]
pub struct Agent {
    options: Options,
    ports: Ports,
    workers: Workers,
    streams: HashMap<StreamId, Stream>,
    /// The last stream at each pair of ports; it may be gone.
    by_ports: HashMap<PortPair, StreamId>,
    unclaimed: HashMap<StreamId, Waif>,
    /// Streams whose snapshots are out of date.
    changed: BTreeSet<StreamId>,
    /// The streams that an agent before this one made, by their legs.
    made_before: HashMap<ChannelId, StreamId>,
    /// Streams that were closed while the dataplane could not be told.
    ended: HashSet<StreamId>,
    /// When streams of an earlier agent were taken up, CLOCK_MONOTONIC.
    restored_at_ms: u64,
    /// Counts attachments: what belongs to an earlier one is void.
    attachment: u64,
    /// What is put over the SSRCs of streams that are made again under SRTP with nobody knowing how far they were.
    rename: u32,
}

/// A stream that an earlier agent left behind.
#[derive(Debug, Clone, Copy)]
struct Waif {
    worker: usize,
    ports: PortPair,
    found_at_ms: u64,
}

/// What a new stream takes from the system.
#[derive(Debug, Clone, Copy)]
pub struct Random {
    /// Its name; not zero.
    pub id: u64,
    /// Our SSRC; not zero.
    pub ssrc: u32,
    /// What our SRTP keys are made of.
    pub seed: [u8; 32],
}

/// A stream on its way: ports and worker are reserved, the dataplane is yet to be asked.
#[derive(Debug)]
pub struct Draft {
    id: StreamId,
    stream: Stream,
    worker: usize,
    makes_sdp: bool,
    attachment: u64,
}

/// A stream that goes to another worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    id: StreamId,
    from: usize,
    to: usize,
    attachment: u64,
}

impl Move {
    /// What to ask of the dataplane.
    pub fn errand(&self) -> Errand {
        (self.from, Command::MigrateStream { id: self.id, worker: self.to as u32 })
    }
}

/// A command and the worker it is for.
pub type Errand = (usize, Command);

/// Where to find what is left of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Farewell {
    /// Its worker, unless it is lost already.
    pub worker: Option<usize>,
    /// What it had last shown, if its dataplane is gone.
    pub base: Option<Box<StreamRecord>>,
    /// What was negotiated.
    pub codec: Option<String>,
    /// Our address.
    pub local: Option<SocketAddr>,
    /// The peer's, as signalled.
    pub remote: Option<SocketAddr>,
}

/// Streams by the switchboard to tell about them.
pub type BySwitchboard = BTreeMap<InstanceId, Vec<contract::StreamId>>;

impl Agent {
    /// Without a dataplane yet.
    pub fn new(options: Options) -> Self {
        let ports = Ports::new(0, 0, 0, []);
        Self {
            options,
            ports,
            workers: Workers::default(),
            streams: HashMap::new(),
            by_ports: HashMap::new(),
            unclaimed: HashMap::new(),
            changed: BTreeSet::new(),
            made_before: HashMap::new(),
            ended: HashSet::new(),
            restored_at_ms: 0,
            attachment: 0,
            rename: 1,
        }
    }

    /// Takes the first step of a new stream and finds a place for it. `route` tells the local address towards a peer.
    pub fn draft(
        &mut self,
        create: &Create,
        random: Random,
        fence: Option<u64>,
        route: impl Fn(IpAddr) -> Option<IpAddr>,
    ) -> Result<Draft, Error> {
        let mut exchange = Exchange::new(self.srtp_policy(create)?, &self.options.suites(), Seed::new(random.seed));
        let makes_sdp = exchange.take(turn(&create.step, self.mirrored_terms(&create.step)?.as_ref()))?;
        let source = create.source.as_deref().and_then(parse_source);
        let local_ip = self.local_ip(&exchange, source, route)?;
        let is_elsewhere = !is_here(local_ip, source);
        if is_elsewhere && exchange.remote().is_some_and(|remote| remote.transport.is_loopback()) {
            return Err(StepError::Loopback.into());
        }
        let worker = self.workers.join(&create.call_id)?;
        let Some(ports) = self.ports.take() else {
            self.workers.leave(&create.call_id, worker);
            return Err(Error::NoPorts);
        };
        let owner = Owner {
            call_id: create.call_id.clone(),
            channel_id: create.channel_id.clone(),
            switchboard: create.switchboard.clone(),
        };
        let config = StreamConfig {
            local_ip,
            rtp_port: 0,
            rtcp_port: 0,
            remote_rtp: None,
            remote_rtcp: None,
            nat_expected: false,
            learning_window_ms: self.options.learning_window_ms,
            learn_from: None,
            relatch_interval_ms: self.options.relatch_interval_ms,
            receive: false,
            send: false,
            mode: match create.mode {
                to_media::Mode::Bridge => Mode::Bridge,
                to_media::Mode::Echo => Mode::Echo,
            },
            rtp_timeout_ms: 0,
            ssrc: random.ssrc,
            srtp: None,
            payload_types: PayloadTypes::default(),
        };
        let place = Place::Alive { worker, ports };
        let stream = Stream {
            owner,
            place,
            exchange,
            source,
            partner: None,
            config,
            in_doubt: false,
            unanswered: 0,
            fence: fence.unwrap_or(0),
            claimed: true,
            base: None,
        };
        let attachment = self.attachment;
        let mut draft = Draft { id: StreamId(random.id), stream, worker, makes_sdp, attachment };
        self.settle(&mut draft, ports);
        Ok(draft)
    }

    /// A worker has more to do than it should, or no longer.
    pub fn overload(&mut self, worker: usize, on: bool) {
        self.workers.overload(worker, on);
    }

    /// Another pair of ports: the first one is somebody else's. The refused pair rests like a freed one.
    pub fn move_ports(&mut self, draft: &mut Draft) -> Result<(), Error> {
        let Place::Alive { worker, ports: refused } = draft.stream.place else { return Err(Error::StreamLost) };
        let ports = self.ports.take().ok_or(Error::NoPorts)?;
        self.ports.release(refused);
        draft.stream.place = Place::Alive { worker, ports };
        self.settle(draft, ports);
        Ok(())
    }

    /// The dataplane has it: from now on it is one of ours. Returns its name and the description for its peer. None if that
    /// dataplane is gone meanwhile.
    pub fn admit(&mut self, mut draft: Draft) -> Option<(contract::StreamId, Option<String>)> {
        if draft.attachment != self.attachment {
            return None;
        }
        let sdp = if draft.makes_sdp { draft.stream.exchange.render() } else { None };
        self.unclaimed.remove(&draft.id);
        self.by_ports.insert(PortPair::of(draft.stream.config.rtp_port), draft.id);
        self.streams.insert(draft.id, draft.stream);
        self.changed.insert(draft.id);
        Some((name(draft.id), sdp))
    }

    /// It came to nothing.
    pub fn abandon(&mut self, draft: Draft) {
        if draft.attachment == self.attachment {
            self.free(&draft.stream);
        }
    }

    /// Takes a step of a stream. Its configuration, and its bridge partner's, follow what is agreed.
    pub fn step(&mut self, id: &contract::StreamId, step: &Step) -> Result<(Negotiated, Vec<Errand>), Error> {
        let (id, _) = self.alive(id)?;
        let mirrored = self.mirrored_terms(step)?;
        let stream = self.streams.get_mut(&id).ok_or(Error::UnknownStream)?;
        self.changed.insert(id);
        let makes_sdp = stream.exchange.take(turn(step, mirrored.as_ref()))?;
        let sdp = if makes_sdp { stream.exchange.render() } else { None };
        let (held, partner) = (stream.exchange.is_held(), stream.partner);
        let errands = [Some(id), partner].into_iter().flatten().filter_map(|id| self.configure(id)).collect();
        Ok((Negotiated { sdp, held }, errands))
    }

    /// What comes before two streams are bridged that live apart (of two calls, which meet now): the second moves to the first.
    pub fn meeting(&self, a: &contract::StreamId, b: &contract::StreamId) -> Result<Option<Move>, Error> {
        let ((a, to), (b, from)) = (self.alive(a)?, self.alive(b)?);
        Ok((a != b && to != from).then_some(Move { id: b, from, to, attachment: self.attachment }))
    }

    /// It has moved. Should it have been ended meanwhile, then where it was: it is to be ended where it is.
    pub fn moved(&mut self, it: Move) -> Option<Errand> {
        if it.attachment != self.attachment {
            return None;
        }
        let Some(stream) = self.streams.get_mut(&it.id) else {
            return Some((it.to, Command::DestroyStream { id: it.id }));
        };
        if let Place::Alive { worker, .. } = &mut stream.place {
            *worker = it.to;
            // What it was told on its way has reached nobody.
            stream.in_doubt = true;
            self.workers.shift(&stream.owner.call_id, it.from, it.to);
        }
        if let Some(partner) = stream.partner.take() {
            self.widow(partner, it.id);
        }
        self.changed.insert(it.id);
        None
    }

    /// Bridges two streams; earlier partners of either are left alone.
    pub fn bridge(&mut self, a: &contract::StreamId, b: &contract::StreamId) -> Result<Vec<Errand>, Error> {
        let ((a, worker), (b, worker_of_b)) = (self.alive(a)?, self.alive(b)?);
        if a == b {
            return Err(Error::SameStream);
        }
        if worker != worker_of_b {
            return Err(Error::DifferentWorkers { a: worker, b: worker_of_b });
        }
        let mut errands: Vec<Errand> = Vec::new();
        errands.extend(self.pair(a, Some(b)));
        errands.extend(self.pair(b, Some(a)));
        errands.extend([a, b].into_iter().filter_map(|id| self.configure(id)));
        errands.push((worker, Command::CreateBridge { a, b }));
        self.changed.extend([a, b]);
        Ok(errands)
    }

    /// An errand was answered; or it may not have been carried out: the next step of its stream brings it up to date.
    pub fn settle_errand(&mut self, errand: &Errand, done: bool) {
        if let Command::UpdateStream { id, .. } = &errand.1
            && let Some(stream) = self.streams.get_mut(id)
        {
            stream.unanswered = stream.unanswered.saturating_sub(1);
            stream.in_doubt |= !done;
        }
    }

    /// Takes two streams apart, if they are bridged with each other.
    pub fn unbridge(&mut self, a: &contract::StreamId, b: &contract::StreamId) -> Result<Vec<Errand>, Error> {
        let ((a, worker), (b, _)) = (self.alive(a)?, self.alive(b)?);
        if self.streams.get(&a).and_then(|stream| stream.partner) != Some(b) {
            return Ok(Vec::new());
        }
        let mut errands = vec![(worker, Command::DestroyBridge { a, b })];
        errands.extend(self.widow(b, a));
        errands.extend(self.widow(a, b));
        Ok(errands)
    }

    /// Forgets a stream; the caller reads its last statistics and then sends the errands.
    pub fn destroy(&mut self, id: &contract::StreamId) -> Result<(StreamId, Farewell, Vec<Errand>), Error> {
        let (id, farewell) = self.farewell(id)?;
        let mut errands: Vec<Errand> = Vec::new();
        errands.extend(farewell.worker.map(|worker| (worker, Command::DestroyStream { id })));
        if let Some(stream) = self.streams.remove(&id) {
            self.changed.insert(id);
            self.free(&stream);
            if stream.seat().is_none() && !stream.has_failed() {
                self.owe_end(id);
            }
            errands.extend(stream.partner.and_then(|partner| self.widow(partner, id)));
        }
        if let Some(waif) = self.unclaimed.remove(&id) {
            self.ports.release(waif.ports);
        }
        Ok((id, farewell, errands))
    }

    /// Where a stream is, ours or an earlier agent's.
    pub fn farewell(&self, id: &contract::StreamId) -> Result<(StreamId, Farewell), Error> {
        let id = parse_name(id)?;
        if let Some(stream) = self.streams.get(&id) {
            let farewell = Farewell {
                worker: stream.seat().map(|(worker, _)| worker),
                base: stream.base.as_ref().filter(|_| stream.worker().is_none()).map(|base| Box::new(base.record)),
                codec: stream.exchange.codec(),
                local: Some(SocketAddr::new(stream.config.local_ip, stream.config.rtp_port)),
                remote: stream.config.remote_rtp,
            };
            return Ok((id, farewell));
        }
        let waif = self.unclaimed.get(&id).ok_or(Error::UnknownStream)?;
        Ok((id, Farewell { worker: Some(waif.worker), base: None, codec: None, local: None, remote: None }))
    }

    /// How many streams it owns.
    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// How many pairs of ports are free.
    pub fn free_ports(&self) -> usize {
        self.ports.free_count()
    }
}

/// Steps and configurations.
impl Agent {
    /// What the step mirrors: the latest words of the peer on the other leg.
    fn mirrored_terms(&self, step: &Step) -> Result<Option<Terms>, Error> {
        let Some(mirror) = mirror(step) else { return Ok(None) };
        let stream = self.streams.get(&parse_name(mirror)?).ok_or(Error::UnknownStream)?;
        let nothing_to_mirror = StepError::WrongStep { step: "mirror", state: "idle" };
        Ok(Some(stream.exchange.remote().ok_or(nothing_to_mirror)?.terms.clone()))
    }

    /// Whether a new leg is protected: as its extension has it, else as the configuration says. Where nothing is said of those that
    /// we call, they are offered what their caller offers.
    fn srtp_policy(&self, create: &Create) -> Result<Policy, Error> {
        match create.srtp {
            Some(contract::Srtp::Off) => return Ok(Policy::Off),
            Some(contract::Srtp::Optional) => return Ok(Policy::Offered),
            Some(contract::Srtp::Required) => return Ok(Policy::Required),
            None => {}
        }
        let Some(mirror) = mirror(&create.step).filter(|_| self.options.srtp == Policy::Accepted) else {
            return Ok(self.options.srtp);
        };
        let caller = self.streams.get(&parse_name(mirror)?).ok_or(Error::UnknownStream)?;
        Ok(if caller.exchange.wants_protection() { Policy::Offered } else { Policy::Accepted })
    }

    /// The configured address if it is of the peer's family, else the one that the peer is reached from.
    fn local_ip(
        &self,
        exchange: &Exchange,
        source: Option<IpAddr>,
        route: impl Fn(IpAddr) -> Option<IpAddr>,
    ) -> Result<IpAddr, Error> {
        let remote = exchange.remote().map(|remote| &remote.transport);
        let ipv6 = match (remote, source) {
            (Some(transport), _) => transport.ipv6,
            (None, Some(source)) => source.is_ipv6(),
            (None, None) => self.options.local_ip.is_some_and(|ip| ip.is_ipv6()),
        };
        let configured = self.options.local_ip.filter(|ip| ip.is_ipv6() == ipv6 && !ip.is_unspecified());
        let signalled = remote.and_then(|transport| transport.rtp).map(|rtp| rtp.ip());
        let peer = source.filter(|ip| ip.is_ipv6() == ipv6).or(signalled).unwrap_or(ANYWHERE);
        let local = configured.or_else(|| route(peer)).filter(|ip| ip.is_ipv6() == ipv6);
        match local {
            Some(local) => Ok(local),
            None if ipv6 => Err(StepError::from(Incompatible::AddressFamily).into()),
            None => Ok(Ipv4Addr::LOCALHOST.into()),
        }
    }

    /// Gives a draft its ports.
    fn settle(&self, draft: &mut Draft, ports: PortPair) {
        let stream = &mut draft.stream;
        stream.config.rtp_port = ports.rtp();
        stream.exchange.place(Endpoint {
            ip: nat::advertised(&self.options, stream.config.local_ip),
            rtp_port: stream.config.rtp_port,
            // RFC 3264 section 5: it must fit a signed 64-bit integer.
            session_id: draft.id.0 >> 2,
            loopback: is_here(stream.config.local_ip, stream.source),
        });
        stream.config = stream.wanted_config(&self.options, None, true);
    }

    /// The command that brings the dataplane up to date about a stream, if it is not.
    fn configure(&mut self, id: StreamId) -> Option<Errand> {
        let stream = self.streams.get(&id)?;
        let partner = stream.partner.and_then(|partner| self.streams.get(&partner));
        let reachable = !self.hears_itself(id);
        let config = stream.wanted_config(&self.options, partner.map(|partner| &partner.exchange), reachable);
        let stream = self.streams.get_mut(&id)?;
        let worker = stream.worker()?;
        if stream.config == config && !stream.in_doubt {
            return None;
        }
        stream.config = config.clone();
        stream.in_doubt = false;
        stream.unanswered += 1;
        Some((worker, Command::UpdateStream { id, config }))
    }

    /// Ends whatever partnership a stream is in and begins another.
    fn pair(&mut self, id: StreamId, next: Option<StreamId>) -> Option<Errand> {
        let before = std::mem::replace(&mut self.streams.get_mut(&id)?.partner, next)?;
        if Some(before) == next { None } else { self.widow(before, id) }
    }

    /// A stream has lost its partner. One that echoes again speaks to itself; another sends nowhere, so that its map can
    /// wait for its next bridge.
    fn widow(&mut self, id: StreamId, partner: StreamId) -> Option<Errand> {
        let stream = self.streams.get_mut(&id).filter(|stream| stream.partner == Some(partner))?;
        stream.partner = None;
        self.changed.insert(id);
        if stream.config.mode == Mode::Echo { self.configure(id) } else { None }
    }

    fn alive(&self, id: &contract::StreamId) -> Result<(StreamId, usize), Error> {
        let id = parse_name(id)?;
        let stream = self.streams.get(&id).ok_or(Error::UnknownStream)?;
        match stream.place {
            Place::Alive { worker, .. } => Ok((id, worker)),
            Place::Returning { .. } | Place::Waiting { .. } => Err(Error::StreamReturning),
            Place::Failed { .. } => Err(Error::StreamLost),
        }
    }

    fn free(&mut self, stream: &Stream) {
        if let Some((worker, ports)) = stream.seat() {
            self.ports.release(ports);
            self.workers.leave(&stream.owner.call_id, worker);
        }
    }
}

impl Draft {
    /// What to ask of the dataplane.
    pub fn errand(&self) -> Errand {
        (self.worker, Command::CreateStream { id: self.id, config: self.stream.config.clone() })
    }

    /// What takes that back.
    pub fn undoing(&self) -> Errand {
        (self.worker, Command::DestroyStream { id: self.id })
    }
}

/// Whether a peer is on this host: reached from loopback, or its SIP came from there.
fn is_here(local_ip: IpAddr, source: Option<IpAddr>) -> bool {
    local_ip.is_loopback() || source.is_some_and(|source| source.is_loopback())
}

/// TEST-NET-1 (RFC 5737): routed like any foreign address. For a peer of whom nothing is known.
const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn turn<'a>(step: &'a Step, mirrored: Option<&'a Terms>) -> Turn<'a> {
    match step {
        Step::RemoteOffer { sdp } => Turn::RemoteOffer(sdp),
        Step::LocalOffer { .. } => Turn::LocalOffer(mirrored),
        Step::RemoteAnswer { sdp } => Turn::RemoteAnswer(sdp),
        Step::LocalAnswer { .. } => Turn::LocalAnswer(mirrored),
        Step::Rollback => Turn::Rollback,
    }
}

fn mirror(step: &Step) -> Option<&contract::StreamId> {
    match step {
        Step::LocalOffer { mirror } | Step::LocalAnswer { mirror } => mirror.as_ref(),
        Step::RemoteOffer { .. } | Step::RemoteAnswer { .. } | Step::Rollback => None,
    }
}

/// A stream's name on the bus: sixteen hexadecimal digits.
pub fn name(id: StreamId) -> contract::StreamId {
    contract::StreamId(format!("{:016x}", id.0))
}

fn parse_name(id: &contract::StreamId) -> Result<StreamId, Error> {
    let text = id.as_str();
    let id = if text.len() == 16 { u64::from_str_radix(text, 16).unwrap_or(0) } else { 0 };
    if id == 0 { Err(Error::UnknownStream) } else { Ok(StreamId(id)) }
}

/// `ip:port`, or an address alone.
fn parse_source(text: &str) -> Option<IpAddr> {
    let ip = text.parse::<SocketAddr>().map(|source| source.ip()).or_else(|_| text.parse::<IpAddr>());
    ip.ok().map(|ip| ip.to_canonical())
}
