//! The simulated system: time, network, two switchboards with their keep, the store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashSet};
use std::sync::Arc;

use nebula_bus::contract::{
    CallId, CauseKind, ChannelId, Destination, Party, StreamId, to_proxy::Phase, to_switchboard::Invite,
};
use nebula_store::cdrs::Cdr;

use super::super::{random::Dice, rig::cause};
use super::edge::Edge;
use crate::call::*;

/// Phones act and faults happen until then; afterwards everything has to come to rest by itself.
const ACTIVE_MS: u64 = 40_000;
/// By then nothing may be left.
const QUIET_MS: u64 = 600_000;
/// The write-behind of snapshots loses at most so much.
const LAG_MS: u64 = 12;
const RPC_TIMEOUT_MS: u64 = 5_000;
const GRACE_MS: u64 = 30_000;
const RETRY_MS: u64 = 300;
/// An INVITE that nobody answers is given up by its proxy.
const INVITE_MS: u64 = 100_000;
/// Rows that nobody has are looked for again.
const SWEEP_MS: u64 = 300_000;
/// Moments begin here.
const BEGIN_MS: u64 = 1_000_000;

/// Who speaks: a switchboard, and which of its lives.
type From = (usize, u32);

#[derive(Debug)]
enum Happens {
    Invite(usize),
    Phone,
    Ask { from: From, call: CallId, id: RpcId, request: Request, fence: u64, until_ms: u64 },
    Reply { from: From, call: CallId, id: RpcId, result: Result<Reply, Failure> },
    Located { from: From, call: CallId },
    Write { from: From, call: CallId, record: Record },
    Adopt { from: From, call: CallId, fence: u64 },
    Report(String),
    StreamCheck(String),
    InviteCheck(String),
    Crash(usize),
    Start(usize),
    TakeOver { heir: usize, dead: usize },
    Fenced(From),
    ProxyRestart,
    ProxyBack,
    BusAway(u64),
    DataplaneLost,
    DataplaneBack,
    ClockJump,
    Sweep,
}

struct Queued(u64, u64, Happens);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

#[derive(Default)]
struct Board {
    up: bool,
    life: u32,
    fence: u64,
    calls: BTreeMap<CallId, Slot>,
    /// What it kept: per call the versions, each with its moment; and the lowest fence that may still write.
    shelf: BTreeMap<CallId, Vec<(u64, Option<Vec<u8>>)>>,
    shelf_fence: u64,
}

struct Slot {
    call: Call,
    recorded: bool,
    /// Writes are in order.
    write_ms: u64,
}

/// A call's row in the store.
struct Row {
    owner: usize,
    channels: Vec<ChannelId>,
    ended: bool,
}

pub struct World {
    dice: Dice,
    seed: u64,
    loud: bool,
    now_ms: u64,
    wall_jump_ms: i64,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    /// The bus keeps the order of one switchboard's requests.
    sent_ms: [u64; 2],
    boards: [Board; 2],
    fence: u64,
    edge: Edge,
    proxy_up: bool,
    bus_back_ms: u64,
    rows: BTreeMap<CallId, Row>,
    cdrs: BTreeMap<CallId, Cdr>,
    swept: HashSet<CallId>,
    started: BTreeMap<CallId, Now>,
    answers: BTreeMap<CallId, BTreeSet<u64>>,
    /// When each call was answered, and when its switchboard knew.
    kept_answers: BTreeMap<CallId, (u64, u64)>,
    ends: BTreeMap<CallId, BTreeSet<u64>>,
    /// When legs left.
    left: BTreeSet<u64>,
    resumed_talking: HashSet<CallId>,
    /// Deaths still to come in the middle of something.
    strikes: usize,
    losses: Vec<u64>,
    pub seen: BTreeMap<&'static str, u64>,
}

impl World {
    pub fn new(seed: u64, loud: bool) -> World {
        let mut world = World {
            dice: Dice::new(seed.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15)),
            seed,
            loud,
            now_ms: BEGIN_MS,
            wall_jump_ms: 0,
            queue: BinaryHeap::new(),
            order: 0,
            sent_ms: [0; 2],
            boards: Default::default(),
            fence: 2,
            edge: Edge::default(),
            proxy_up: true,
            bus_back_ms: 0,
            rows: BTreeMap::new(),
            cdrs: BTreeMap::new(),
            swept: HashSet::new(),
            started: BTreeMap::new(),
            answers: BTreeMap::new(),
            kept_answers: BTreeMap::new(),
            ends: BTreeMap::new(),
            left: BTreeSet::new(),
            resumed_talking: HashSet::new(),
            strikes: 0,
            losses: Vec::new(),
            seen: BTreeMap::new(),
        };
        for (board, fence) in world.boards.iter_mut().zip(1..) {
            (board.up, board.fence, board.shelf_fence) = (true, fence, fence);
        }
        for n in 0..1 + world.dice.roll(4) {
            let at = world.dice.roll(10_000) as u64;
            world.after(at, Happens::Invite(n));
        }
        world.after(0, Happens::Phone);
        world.after(SWEEP_MS, Happens::Sweep);
        world.strikes = world.dice.roll(3);
        // Most runs have one or two faults, so that their calls get somewhere.
        for _ in 0..world.dice.roll(4) {
            let at = world.dice.roll(15_000) as u64;
            let which = world.dice.roll(2);
            let fault = match world.dice.roll(12) {
                0..=4 => Happens::Crash(which),
                5 | 6 => Happens::TakeOver { heir: which, dead: 1 - which },
                7 => Happens::ProxyRestart,
                8 => Happens::BusAway(500 + world.dice.roll(12_000) as u64),
                9 => Happens::DataplaneLost,
                _ => Happens::ClockJump,
            };
            world.after(at, fault);
        }
        world
    }

    /// Until nothing moves any more.
    pub fn run(&mut self) {
        loop {
            let deadline = self.boards.iter().enumerate().filter(|(_, board)| board.up).flat_map(|(n, board)| {
                board.calls.iter().filter_map(move |(id, slot)| Some((slot.call.deadline_ms()?, n, id)))
            });
            let deadline = deadline.min().map(|(at, board, id)| (at, board, id.clone()));
            let event_ms = self.queue.peek().map(|Reverse(queued)| queued.0);
            match (deadline, event_ms) {
                (Some((at, board, call)), event) if event.is_none_or(|event| at < event) => {
                    self.now_ms = self.now_ms.max(at);
                    self.drive(board, &call, Input::Timeout);
                }
                (_, Some(_)) => {
                    let Some(Reverse(Queued(at, _, happens))) = self.queue.pop() else { return };
                    self.now_ms = self.now_ms.max(at);
                    if self.loud {
                        println!("{:>7} {happens:?}", self.now_ms - BEGIN_MS);
                    }
                    self.happen(happens);
                }
                _ => return,
            }
            assert!(
                self.now_ms < BEGIN_MS + QUIET_MS,
                "seed {}: not quiet: {:?}",
                self.seed,
                self.queue.peek().map(|q| &q.0.2)
            );
        }
    }

    /// What must hold when everything is over.
    pub fn check(&mut self) {
        let seed = self.seed;
        for (n, board) in self.boards.iter().enumerate() {
            let left: Vec<_> = board.calls.values().map(|slot| (slot.call.id(), slot.call.state())).collect();
            assert!(left.is_empty(), "seed {seed}: switchboard {n} still has {left:?}");
        }
        for (name, leg) in &self.edge.channels {
            assert!(leg.phase == Phase::Gone, "seed {seed}: leg {name} is left: {leg:?}");
        }
        for (name, stream) in &self.edge.streams {
            assert!(!stream.alive, "seed {seed}: stream {name} is left: {stream:?}");
        }
        for call in self.rows.keys() {
            assert!(self.cdrs.contains_key(call), "seed {seed}: {call} has no record");
        }
        for (call, cdr) in &self.cdrs {
            let started = self.started[call];
            assert_eq!(cdr.started_unix_ms, started.unix_ms);
            if self.swept.contains(call) {
                continue;
            }
            let is_one = |at_unix_ms: i64, of: Option<&BTreeSet<u64>>| {
                let at_ms = started.monotonic_ms as i64 + at_unix_ms - started.unix_ms;
                of.is_some_and(|times| times.contains(&(at_ms as u64)))
            };
            assert!(is_one(cdr.ended_unix_ms, self.ends.get(call)), "seed {seed}: {cdr:?} {:?}", self.ends.get(call));
            // However late it was told; a report may die with whoever heard it, though, and the leg be found gone.
            let is_told = cdr.cause == "normal" && self.losses.is_empty();
            let left = !is_told || is_one(cdr.ended_unix_ms, Some(&self.left));
            assert!(left, "seed {seed}: nobody left then: {cdr:?} {:?}", self.left);
            if let Some(at) = cdr.answered_unix_ms {
                let answers = self.answers.get(call);
                assert!(is_one(at, answers), "seed {seed}: {cdr:?} {answers:?}");
            }
            // An answer that was kept stays what it was.
            if let Some((first, known)) = self.kept_answers.get(call) {
                let unkept = self.losses.iter().any(|loss| (*known..=known + LAG_MS).contains(loss));
                let answered = cdr.answered_unix_ms.map(|at| at - started.unix_ms);
                let truth = Some((first - started.monotonic_ms) as i64);
                assert!(unkept || answered == truth, "seed {seed}: answered at {truth:?}, recorded {answered:?}");
            }
            if cdr.cause == "normal" && self.resumed_talking.contains(call) {
                *self.seen.entry("lived on to a normal end").or_default() += 1;
            }
        }
        let answered = self.cdrs.values().filter(|cdr| cdr.answered_unix_ms.is_some()).count();
        for (what, count) in [
            ("calls", self.started.len()),
            ("answered", answered),
            ("fenced", self.edge.fenced),
            ("swept", self.swept.len()),
        ] {
            *self.seen.entry(what).or_default() += count as u64;
        }
    }

    fn see(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn after(&mut self, ms: u64, happens: Happens) {
        self.order += 1;
        self.queue.push(Reverse(Queued(self.now_ms + ms, self.order, happens)));
    }

    fn now(&self) -> Now {
        Now { monotonic_ms: self.now_ms, unix_ms: 1_700_000_000_000 + self.now_ms as i64 + self.wall_jump_ms }
    }

    fn is_active(&self) -> bool {
        self.now_ms < BEGIN_MS + ACTIVE_MS
    }

    /// A message gets lost: seldom, and always while the bus is away.
    fn is_lost(&mut self) -> bool {
        let lost = self.now_ms < self.bus_back_ms || (self.is_active() && self.dice.roll(60) == 0);
        if lost {
            self.see("lost in flight");
        }
        lost
    }

    fn delay(&mut self) -> u64 {
        match self.dice.roll(40) {
            0 => self.dice.roll(800) as u64,
            _ => 1 + self.dice.roll(4) as u64,
        }
    }

    fn lives(&self, (board, life): From) -> bool {
        self.boards[board].up && self.boards[board].life == life
    }

    fn from(&self, board: usize) -> From {
        (board, self.boards[board].life)
    }

    fn happen(&mut self, happens: Happens) {
        match happens {
            Happens::Invite(n) => self.invite(n),
            Happens::Phone => self.phone(),
            Happens::Ask { from, call, id, request, fence, until_ms } => {
                self.ask(from, call, id, request, fence, until_ms);
            }
            Happens::Reply { from, call, id, result } => {
                if self.lives(from) {
                    self.drive(from.0, &call, Input::Reply { id, result });
                }
            }
            Happens::Located { from, call } if self.lives(from) => {
                let destination = |n: usize| Destination {
                    uri: format!("sip:1001@192.0.2.{n}"),
                    transport: "udp".into(),
                    address: String::new(),
                    path: Vec::new(),
                };
                let forks = self.dice.roll(4).max(1);
                let routes = (0..forks).map(|n| Route { proxy: "proxy".into(), destination: destination(n) }).collect();
                self.drive(from.0, &call, Input::Located(Ok(routes)));
            }
            Happens::Located { .. } => {}
            Happens::Write { from, call, record } => self.write(from, call, record),
            Happens::Adopt { from, call, fence } => self.adopt(from, call, fence),
            Happens::Report(channel) => self.report(channel),
            Happens::StreamCheck(stream) => self.stream_check(stream),
            Happens::InviteCheck(channel) => {
                if self.edge.channels.get(&channel).is_some_and(|leg| leg.phase == Phase::Early) {
                    self.leave(&channel, 408, CauseKind::NoAnswer);
                }
            }
            Happens::Crash(board) => self.crash(board),
            Happens::Start(board) => self.start(board),
            Happens::TakeOver { heir, dead } => self.take_over(heir, dead),
            Happens::Fenced(from) => {
                if self.lives(from) {
                    // Nothing is its own any more; its supervisor starts it anew.
                    self.boards[from.0].calls.clear();
                    self.boards[from.0].up = false;
                    self.after(500, Happens::Start(from.0));
                }
            }
            Happens::ProxyRestart => self.proxy_restart(),
            Happens::ProxyBack => self.proxy_up = true,
            Happens::BusAway(ms) => {
                self.see("bus outages");
                self.bus_back_ms = self.now_ms + ms;
            }
            Happens::DataplaneLost => {
                self.see("dataplanes lost");
                self.tell_all(|| Input::DataplaneLost { media: "media".into() });
                let back = self.dice.roll(3_000) as u64;
                self.after(back, Happens::DataplaneBack);
            }
            Happens::DataplaneBack => {
                if self.dice.roll(4) == 0 {
                    let names: Vec<String> = self.edge.streams.keys().cloned().collect();
                    if let Some(lost) = names.get(self.dice.roll(names.len().max(1))) {
                        self.edge.streams.entry(lost.clone()).and_modify(|stream| stream.alive = false);
                    }
                }
                let alive = self.edge.streams.iter().filter(|(_, stream)| stream.alive);
                let alive: Arc<HashSet<StreamId>> = Arc::new(alive.map(|(name, _)| StreamId(name.clone())).collect());
                self.tell_all(|| Input::DataplaneBack { media: "media".into(), alive: alive.clone() });
            }
            Happens::Sweep => (0..2).for_each(|board| self.sweep(board, board)),
            Happens::ClockJump => self.wall_jump_ms = self.dice.pick(&[-3_600_000, 0, 3_600_000]),
        }
    }

    fn tell_all(&mut self, input: impl Fn() -> Input) {
        for board in 0..2 {
            let calls: Vec<CallId> = self.boards[board].calls.keys().cloned().collect();
            calls.iter().for_each(|call| self.drive(board, call, input()));
        }
    }

    fn invite(&mut self, n: usize) {
        let board = self.dice.roll(2);
        if !self.boards[board].up || !self.proxy_up {
            return;
        }
        let (channel, call) = (format!("caller-{n}"), CallId(format!("call{n}")));
        let offer = self.dice.pick(&[Some("offer"), Some("offer"), Some("offer"), None]);
        let invite = Invite {
            channel_id: channel.as_str().into(),
            proxy: "proxy".into(),
            sip_call_id: "sip".into(),
            customer_id: "customer".into(),
            from: Party { user: "1000".into(), display: None },
            to: self.dice.pick(&["1001", "1001", "1001", "*43"]).into(),
            source: "192.0.2.1:5060".into(),
            sdp: offer.map(str::to_owned),
            max_forwards: 69,
            from_srtp: None,
            to_srtp: None,
        };
        let (now, mut out) = (self.now(), Vec::new());
        self.edge.caller(&channel, board, self.boards[board].fence, offer.is_none(), self.now_ms);
        self.after(INVITE_MS, Happens::InviteCheck(channel));
        self.started.insert(call.clone(), now);
        let name = format!("switchboard-{board}").as_str().into();
        let begun = Call::start(call.clone(), name, timing(), invite, now, &mut out);
        self.boards[board].calls.insert(call.clone(), Slot { call: begun, recorded: false, write_ms: 0 });
        self.carry_out(board, &call, out);
    }

    fn drive(&mut self, board: usize, call: &CallId, input: Input) {
        let (now, mut out) = (self.now(), Vec::new());
        let Some(slot) = self.boards[board].calls.get_mut(call) else { return };
        slot.call.handle(now, input, &mut out);
        self.carry_out(board, call, out);
    }

    fn carry_out(&mut self, board: usize, call: &CallId, out: Vec<Effect>) {
        let (from, fence) = (self.from(board), self.boards[board].fence);
        if self.strikes > 0 && !out.is_empty() && self.is_active() && self.dice.roll(15) == 0 {
            self.strikes -= 1;
            let at = self.dice.roll(LAG_MS as usize + 4) as u64;
            let strike = match self.dice.roll(3) {
                0 => Happens::TakeOver { heir: 1 - board, dead: board },
                _ => Happens::Crash(board),
            };
            self.after(at, strike);
        }
        for effect in out {
            match effect {
                Effect::Rpc { id, request, .. } => {
                    let patience = match request.patience() {
                        Patience::None => 0,
                        Patience::Short => RPC_TIMEOUT_MS,
                        Patience::Grace => GRACE_MS,
                    };
                    let at = (self.now_ms + self.delay()).max(self.sent_ms[board]);
                    self.sent_ms[board] = at;
                    let until_ms = self.now_ms + patience;
                    let ask = Happens::Ask { from, call: call.clone(), id, request, fence, until_ms };
                    self.after(at - self.now_ms, ask);
                }
                Effect::Locate => {
                    let at = self.delay();
                    self.after(at, Happens::Located { from, call: call.clone() });
                }
                Effect::Record(record) => {
                    let (at, slow) = (self.now_ms + self.delay(), self.dice.roll(20) == 0);
                    let Some(slot) = self.boards[board].calls.get_mut(call) else { continue };
                    slot.write_ms = (slot.write_ms + 1).max(at + if slow { 700 } else { 0 });
                    let at = slot.write_ms - self.now_ms;
                    self.after(at, Happens::Write { from, call: call.clone(), record });
                }
            }
        }
        self.keep(board, call);
    }

    /// Snapshots, as the shell writes them; and what the run must remember of the call.
    fn keep(&mut self, board: usize, id: &CallId) {
        let (now, at_ms) = (self.now(), self.now_ms);
        let Board { calls, shelf, shelf_fence, fence, .. } = &mut self.boards[board];
        let Some(slot) = calls.get_mut(id) else { return };
        let may_write = fence >= shelf_fence;
        if slot.call.snapshot_due() && may_write {
            shelf.entry(id.clone()).or_default().push((at_ms, slot.call.snapshot(now)));
        }
        let (answered, ended) = (slot.call.answered_ms(), slot.call.ended().map(|end| end.at_ms));
        let (disowned, over) = (slot.call.is_disowned(), slot.call.state() == State::Ended && slot.recorded);
        self.answers.entry(id.clone()).or_default().extend(answered);
        if let Some(at_ms) = answered.filter(|_| may_write) {
            self.kept_answers.entry(id.clone()).or_insert((at_ms, self.now_ms));
        }
        self.ends.entry(id.clone()).or_default().extend(ended);
        if disowned {
            calls.remove(id);
            self.see("disowned");
        } else if over {
            if may_write {
                shelf.entry(id.clone()).or_default().push((at_ms, None));
            }
            calls.remove(id);
        }
    }

    fn ask(&mut self, from: From, call: CallId, id: RpcId, request: Request, fence: u64, until_ms: u64) {
        if !self.lives(from) {
            // It was sent before its sender died, or with it.
            if self.dice.roll(2) == 0 {
                return;
            }
        }
        let away = self.is_lost() || (!request.is_for_media() && !self.proxy_up);
        let mut result = Err(Failure::Unavailable);
        if !away {
            // Each attempt of a request that is tried again carries the same key.
            let key = format!("{call}/{fence}/{}", id.0);
            result = match self.dice.roll(150) {
                0 if self.is_active() => {
                    Err(self.dice.pick(&[Failure::Busy, Failure::Internal, Failure::Incompatible]))
                }
                _ => self.edge.take(from.0, fence, key, &request, self.now_ms),
            };
            if let Ok(Reply::Created(created)) = &result {
                self.after(30_000, Happens::StreamCheck(created.stream_id.0.clone()));
            }
            if let Request::Dial(dial) = &request {
                self.after(INVITE_MS, Happens::InviteCheck(dial.channel_id.0.clone()));
            }
            if self.is_lost() {
                result = Err(Failure::Unavailable);
            }
        }
        match result {
            Err(failure) if failure.is_transient() && self.now_ms + RETRY_MS < until_ms => {
                self.after(RETRY_MS, Happens::Ask { from, call, id, request, fence, until_ms });
            }
            Err(Failure::Unavailable) if until_ms <= self.now_ms => {
                self.after(RPC_TIMEOUT_MS, Happens::Reply { from, call, id, result });
            }
            result => {
                let at = self.delay();
                self.after(at, Happens::Reply { from, call, id, result });
            }
        }
    }

    fn write(&mut self, from: From, call: CallId, record: Record) {
        let reaches = self.lives(from) || self.dice.roll(2) == 0;
        if !reaches {
            return;
        }
        match &record {
            Record::Started => {
                let channels = vec![ChannelId(call.0.replace("call", "caller-"))];
                self.rows.insert(call.clone(), Row { owner: from.0, channels, ended: self.cdrs.contains_key(&call) });
            }
            Record::Answered { .. } => {
                let held = self.boards[from.0].calls.get(&call);
                if let (Some(row), Some(slot)) = (self.rows.get_mut(&call), held) {
                    row.channels = slot.call.legs().iter().map(|leg| leg.channel_id.clone()).collect();
                }
            }
            Record::Ended(cdr) => {
                self.cdrs.entry(call.clone()).or_insert_with(|| (**cdr).clone());
                self.rows.entry(call.clone()).and_modify(|row| row.ended = true);
            }
        }
        if !self.lives(from) {
            return;
        }
        match record {
            Record::Started => self.drive(from.0, &call, Input::Recorded(Ok(()))),
            Record::Answered { .. } => {}
            Record::Ended(_) => {
                if let Some(slot) = self.boards[from.0].calls.get_mut(&call) {
                    slot.recorded = true;
                }
                self.keep(from.0, &call);
            }
        }
    }

    /// A proxy and an agent are told who owns a call now.
    fn adopt(&mut self, from: From, call: CallId, fence: u64) {
        if !self.lives(from) {
            return;
        }
        if !self.proxy_up || self.is_lost() {
            return self.after(RETRY_MS, Happens::Adopt { from, call, fence });
        }
        let Some(slot) = self.boards[from.0].calls.get(&call) else { return };
        let legs = slot.call.legs();
        let channels = legs.iter().map(|leg| {
            let phase = self.edge.adopt_channel(from.0, fence, leg.channel_id.as_str())?;
            Ok((leg.channel_id.clone(), phase))
        });
        let channels: Result<Vec<_>, Failure> = channels.collect();
        let streams = legs.iter().filter(|leg| leg.agent().is_some()).filter_map(Leg::stream_id);
        let mut alive = HashSet::new();
        for stream in streams {
            match self.edge.adopt_stream(from.0, fence, stream.as_str()) {
                Ok(true) => _ = alive.insert(stream.clone()),
                Ok(false) => {}
                Err(_) => return self.drive(from.0, &call, Input::Disowned),
            }
        }
        self.drive(from.0, &call, Input::StreamsAdopted { media: "media".into(), alive: Arc::new(alive) });
        let before = self.boards[from.0].calls.get(&call).map(|slot| slot.call.state());
        match channels {
            Ok(channels) => self.drive(from.0, &call, Input::Adopted { channels }),
            Err(_) => self.drive(from.0, &call, Input::Disowned),
        }
        let after = self.boards[from.0].calls.get(&call).map(|slot| slot.call.state());
        if after == Some(State::Answered) && before != after {
            self.see("answered by its legs");
        }
    }

    fn report(&mut self, channel: String) {
        let Some(leg) = self.edge.channels.get(&channel) else { return };
        let (owner, Some((happened_ms, event))) = (leg.owner, leg.outbox.front().cloned()) else {
            self.edge.channels.entry(channel).and_modify(|leg| leg.sending = false);
            return;
        };
        if !self.proxy_up || !self.boards[owner].up || self.is_lost() {
            return self.after(RETRY_MS, Happens::Report(channel));
        }
        let of_it = |slot: &&Slot| slot.call.legs().iter().any(|leg| leg.channel_id.as_str() == channel);
        let call = self.boards[owner].calls.values().find(of_it).map(|slot| slot.call.id().clone());
        if let Some(call) = &call {
            let age_ms = self.now_ms - happened_ms;
            self.drive(owner, call, Input::Channel { channel_id: channel.as_str().into(), age_ms, event });
        }
        if self.is_lost() {
            // It was heard; its sender does not know.
            return self.after(RETRY_MS, Happens::Report(channel));
        }
        let Some(leg) = self.edge.channels.get_mut(&channel) else { return };
        leg.outbox.pop_front();
        if call.is_none() {
            // Nobody knows this leg.
            leg.phase = Phase::Gone;
            leg.outbox.clear();
        }
        let at = self.delay();
        self.after(at, Happens::Report(channel));
    }

    fn tell(&mut self, channel: &str, event: ChannelEvent) {
        let Some(leg) = self.edge.channels.get_mut(channel) else { return };
        if matches!(event, ChannelEvent::Hangup { .. }) {
            self.left.insert(self.now_ms);
        }
        leg.outbox.push_back((self.now_ms, event));
        if !std::mem::replace(&mut leg.sending, true) {
            let at = self.delay();
            self.after(at, Happens::Report(channel.to_owned()));
        }
    }

    fn leave(&mut self, channel: &str, sip_code: u16, kind: CauseKind) {
        self.edge.channels.entry(channel.to_owned()).and_modify(|leg| leg.phase = Phase::Gone);
        self.tell(channel, ChannelEvent::Hangup { cause: cause(sip_code, kind) });
    }

    /// The agent's rule for streams without a peer: their owner is told, and if nobody knows them they are closed.
    fn stream_check(&mut self, name: String) {
        let Some(stream) = self.edge.streams.get(&name).filter(|stream| stream.alive) else { return };
        let leg = self.edge.channels.get(&stream.channel);
        let (owner, call) = (stream.owner, CallId(stream.call.clone()));
        if leg.is_none_or(|leg| leg.phase == Phase::Gone) && self.boards[owner].up {
            let stream_id = StreamId(name.clone());
            let known = self.boards[owner].calls.get(&call).is_some_and(|slot| slot.call.may_own(&stream_id));
            if known {
                self.drive(owner, &call, Input::StreamTimeout { stream_id });
            } else {
                self.edge.streams.entry(name.clone()).and_modify(|stream| stream.alive = false);
            }
        }
        self.after(30_000, Happens::StreamCheck(name));
    }

    fn proxy_restart(&mut self) {
        self.see("proxy restarts");
        self.proxy_up = false;
        self.edge.answered.clear();
        let early = self.edge.channels.iter().filter(|(_, leg)| leg.phase == Phase::Early);
        let early: Vec<String> = early.map(|(name, _)| name.clone()).collect();
        early.iter().for_each(|name| self.leave(name, 503, CauseKind::Crash));
        self.edge.channels.values_mut().for_each(|leg| leg.asking = false);
        let back = 200 + self.dice.roll(4_000) as u64;
        self.after(back, Happens::ProxyBack);
    }

    fn crash(&mut self, board: usize) {
        if !self.boards[board].up {
            return;
        }
        self.see("crashes");
        self.lose(board);
        self.boards[board].up = false;
        self.boards[board].calls.clear();
        // It comes back by itself, or the other takes over first.
        let gone = self.dice.roll(3) == 0;
        let back = if gone { 20_000 } else { 50 + self.dice.roll(1_500) as u64 };
        self.after(back, Happens::Start(board));
        if gone {
            self.after(3_000, Happens::TakeOver { heir: 1 - board, dead: board });
        }
    }

    /// The last milliseconds of what was written do not reach the keep.
    fn lose(&mut self, board: usize) {
        let lag = self.dice.roll(LAG_MS as usize + 1) as u64;
        let kept_until = self.now_ms - lag;
        self.losses.push(self.now_ms);
        for versions in self.boards[board].shelf.values_mut() {
            versions.retain(|(at, _)| *at <= kept_until);
        }
    }

    fn unshelve(&mut self, board: usize) -> Vec<(CallId, Vec<u8>)> {
        let shelf = std::mem::take(&mut self.boards[board].shelf);
        shelf.into_iter().filter_map(|(call, mut versions)| Some((call, versions.pop()?.1?))).collect()
    }

    fn start(&mut self, board: usize) {
        if self.boards[board].up {
            return;
        }
        self.fence += 1;
        let fence = self.fence;
        let it = &mut self.boards[board];
        (it.up, it.life, it.fence, it.shelf_fence) = (true, it.life + 1, fence, fence);
        let kept = self.unshelve(board);
        self.take_up(board, kept);
        self.sweep(board, board);
    }

    fn take_over(&mut self, heir: usize, dead: usize) {
        let it = &self.boards[heir];
        // Who was taken over cannot inherit.
        if !it.up || it.fence < it.shelf_fence {
            return;
        }
        self.see("takeovers");
        if self.boards[dead].up {
            self.see("takeovers of the living");
            self.lose(dead);
            let (from, notices) = (self.from(dead), 1 + self.dice.roll(3_000) as u64);
            self.after(notices, Happens::Fenced(from));
        }
        self.fence += 1;
        // Whoever was asked by the heir has heard a lower fence of it; its own shelf takes what it writes from now on.
        self.boards[dead].shelf_fence = self.fence;
        (self.boards[heir].fence, self.boards[heir].shelf_fence) = (self.fence, self.fence);
        let kept = self.unshelve(dead);
        self.take_up(heir, kept);
        self.sweep(heir, dead);
    }

    fn take_up(&mut self, board: usize, kept: Vec<(CallId, Vec<u8>)>) {
        let (from, fence, now) = (self.from(board), self.boards[board].fence, self.now());
        for (id, bytes) in kept {
            if self.boards[board].calls.contains_key(&id) {
                continue;
            }
            let mut out = Vec::new();
            let name = format!("switchboard-{board}").as_str().into();
            let call = Call::restore(&bytes, name, timing(), now, &mut out).expect("a snapshot of this version");
            self.see(match call.state() {
                State::Answered => "resumed talking",
                State::Ending | State::Ended => "resumed ending",
                _ => "resumed in set-up",
            });
            if call.state() == State::Answered {
                self.resumed_talking.insert(id.clone());
            }
            // The heir has it on its own shelf from here on.
            self.boards[board].shelf.entry(id.clone()).or_default().push((0, Some(bytes)));
            self.boards[board].calls.insert(id.clone(), Slot { call, recorded: false, write_ms: 0 });
            let at = self.delay();
            self.after(at, Happens::Adopt { from, call: id.clone(), fence });
            self.carry_out(board, &id, out);
        }
    }

    /// The last net: rows of which nobody has more than the row.
    fn sweep(&mut self, by: usize, owner: usize) {
        let held = |call: &CallId| self.boards.iter().any(|board| board.up && board.calls.contains_key(call));
        let left = self.rows.iter().filter(|(call, row)| row.owner == owner && !row.ended && !held(call));
        let left: Vec<(CallId, Vec<ChannelId>)> =
            left.map(|(call, row)| (call.clone(), row.channels.clone())).collect();
        for (call, channels) in left {
            let fence = self.boards[by].fence;
            for channel in channels {
                if self.edge.adopt_channel(by, fence, channel.as_str()).is_ok() {
                    self.edge.channels.entry(channel.0).and_modify(|leg| {
                        leg.phase = Phase::Gone;
                        leg.outbox.clear();
                    });
                }
            }
            self.rows.entry(call.clone()).and_modify(|row| row.ended = true);
            if !self.cdrs.contains_key(&call) {
                let started_unix_ms = self.started[&call].unix_ms;
                let record = serde_json::json!({
                    "call_id": call, "customer_id": "", "from_user": "", "from_display": null, "to_user": "",
                    "started_unix_ms": started_unix_ms, "answered_unix_ms": null, "ended_unix_ms": started_unix_ms,
                    "ended_by": "system", "sip_code": 500, "cause": "crash", "cause_text": "", "legs": [],
                });
                self.cdrs.insert(call.clone(), serde_json::from_value(record).expect("a record"));
                self.swept.insert(call);
            }
        }
    }

    /// One phone does one thing that it may do now.
    fn phone(&mut self) {
        if !self.is_active() {
            return;
        }
        let pause = 20 + self.dice.roll(500) as u64;
        self.after(pause, Happens::Phone);
        let living = self.edge.channels.iter().filter(|(_, leg)| leg.phase != Phase::Gone);
        let names: Vec<String> = living.map(|(name, _)| name.clone()).collect();
        if names.is_empty() || !self.proxy_up {
            return;
        }
        let name = names[self.dice.roll(names.len())].clone();
        let sdp = self.dice.pick(&[Some("sdp"), Some("sdp"), Some("hold"), None]).map(str::to_owned);
        let roll = self.dice.roll(14);
        let Some(leg) = self.edge.channels.get_mut(&name) else { return };
        // Nobody picks up within what the write-behind may lose.
        let rings = leg.phase == Phase::Early && !leg.is_caller && self.now_ms > leg.since_ms + 30;
        match roll {
            0 if leg.phase == Phase::Answered => self.leave(&name, 200, CauseKind::Normal),
            0 if leg.is_caller => self.leave(&name, 487, CauseKind::Cancelled),
            0 if rings => self.leave(&name, 486, CauseKind::Busy),
            1..=3 if rings => self.tell(&name, ChannelEvent::Provisional { sip_code: 180, sdp: None }),
            4 | 5 if rings => self.tell(&name, ChannelEvent::Provisional { sip_code: 183, sdp: Some("early".into()) }),
            6..=13 if rings => {
                leg.phase = Phase::Answered;
                self.tell(&name, ChannelEvent::Answered { sdp: sdp.or(Some("sdp".into())) });
            }
            1..=4 if std::mem::take(&mut leg.ack_due) => self.tell(&name, ChannelEvent::Acked { sdp }),
            5..=9 if std::mem::take(&mut leg.asking) => match sdp {
                Some(sdp) => self.tell(&name, ChannelEvent::Answered { sdp: Some(sdp) }),
                None => self.tell(&name, ChannelEvent::Refused { cause: cause(491, CauseKind::Rejected) }),
            },
            10 | 11 if leg.phase == Phase::Answered && !leg.asked && !leg.ack_due => {
                leg.asked = true;
                self.tell(&name, ChannelEvent::Reinvite { sdp });
            }
            12 if leg.phase == Phase::Answered => {
                self.tell(&name, ChannelEvent::Dtmf { digit: '7', duration_ms: 100 });
            }
            _ => {}
        }
    }
}

fn timing() -> Timing {
    Timing { no_answer_ms: 60_000, duration_ms_max: 120_000, dataplane_grace_ms: 2_000 }
}
