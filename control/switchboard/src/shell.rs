//! The actor around the call machine: one task that owns every call of this instance.
//!
//! It reads the inbox, the ends of what is under way (RPCs, look-ups, writes, all futures of this one task, so nothing is
//! spawned per call), the next deadline and its handle's orders. Each becomes an input of one call, whose effects are
//! carried out at once. Requests leave in the order of the effects, and the bus keeps that order per instance.
//!
//! A call stays until its record is written, so `calls_max` also bounds the records that wait for a slow database.

mod clock;
mod crash;
mod presence;
mod record;
mod resume;
mod rpc;
mod serve;

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use nebula_bus::contract::{CallId, Cause, CauseKind, ChannelId, InstanceId, Role};
use nebula_bus::membership::Fence;
use nebula_bus::snapshots::Unreadable;
use nebula_bus::{Announcement, Bus, Context, Inbox, Membership, Snapshots};
use nebula_store::Store;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::call::{Call, Effect, Failure, Input, Now, Record, Reply, Request, Route, RpcId, State};
use crate::metrics::Metrics;
use crate::options::Options;
use presence::Presence;

/// How often it is looked who is there.
const LOOK_AROUND: Duration = Duration::from_secs(1);

/// What the handle wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// No new calls.
    Drain,
    /// End.
    Stop,
}

/// What the handle can see.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Status {
    pub draining: bool,
    pub calls: usize,
}

/// A call's number in this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
struct Key(u64);

/// The end of something under way.
enum Done {
    Rpc { key: Key, id: RpcId, result: Result<Reply, Failure> },
    Located { key: Key, result: Result<Vec<Route>, Failure> },
    Written { key: Key, started: Option<Result<(), Failure>> },
    Resume(resume::Done),
    Noted,
}

type Work = Pin<Box<dyn Future<Output = Done> + Send>>;

/// A call and what the shell knows of it.
struct Slot {
    call: Call,
    /// Names the chain of requests that the INVITE began.
    context: Context,
    /// Its legs that can be found by their channel; one more than forks.
    legs_indexed: usize,
    deadline_ms: Option<u64>,
    /// The callee's 2xx came, monotonic ms.
    callee_answered_ms: Option<u64>,
    dialled: bool,
    /// Writes in order: the first is under way.
    records: VecDeque<Record>,
}

/// The actor.
pub(crate) struct Shell {
    options: Options,
    instance: InstanceId,
    fence: Fence,
    snapshots: Snapshots,
    bus: Bus,
    store: Store,
    metrics: Metrics,
    presence: Presence,
    /// Switchboards that are being taken over, or swept up after.
    succession: HashSet<InstanceId>,
    /// When rows without an end are looked for.
    sweep_at: Instant,
    calls: HashMap<Key, Slot>,
    by_id: HashMap<CallId, Key>,
    by_channel: HashMap<ChannelId, Key>,
    deadlines: BTreeSet<(u64, Key)>,
    key_last: u64,
    work: FuturesUnordered<Work>,
    /// Kept for its allocation.
    effects: Vec<Effect>,
    orders: mpsc::UnboundedReceiver<Order>,
    draining: bool,
    status: watch::Sender<Status>,
}

impl Shell {
    pub fn new(
        options: Options,
        bus: Bus,
        store: Store,
        member: Membership,
    ) -> Result<(Shell, mpsc::UnboundedSender<Order>, watch::Receiver<Status>), Unreadable> {
        let (sender, orders) = mpsc::unbounded_channel();
        let (status, watcher) = watch::channel(Status::default());
        let Membership { instance, fence, snapshots, restored } = member;
        let mut shell = Shell {
            options,
            instance,
            fence,
            snapshots,
            bus,
            store,
            metrics: Metrics::new(),
            presence: Presence::default(),
            succession: HashSet::new(),
            sweep_at: Instant::now(),
            calls: HashMap::new(),
            by_id: HashMap::new(),
            by_channel: HashMap::new(),
            deadlines: BTreeSet::new(),
            key_last: 0,
            work: FuturesUnordered::new(),
            effects: Vec::new(),
            orders,
            draining: false,
            status,
        };
        shell.take_up(restored)?;
        Ok((shell, sender, watcher))
    }

    /// Runs until it is stopped, or until another inbox takes its name.
    pub async fn run(mut self, mut inbox: Inbox) {
        let (mut stop_by, mut armed) = (None, None);
        let mut rounds = interval(LOOK_AROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let snapshots = self.snapshots.clone();
        tokio::pin! {
            let sleep = sleep_until(Instant::now());
            let fenced = snapshots.fenced();
        }
        loop {
            let deadline_ms = self.deadlines.first().map(|(at_ms, _)| *at_ms);
            let wake_ms = [deadline_ms, stop_by].into_iter().flatten().min();
            // Setting a timer costs more than all else in a turn, and the earliest deadline seldom moves.
            if let Some(at_ms) = wake_ms.filter(|_| wake_ms != armed) {
                sleep.as_mut().reset(clock::instant(at_ms));
                armed = wake_ms;
            }
            tokio::select! {
                request = inbox.recv() => match request {
                    Some(request) => self.serve(request),
                    None => break,
                },
                Some(done) = self.work.next(), if !self.work.is_empty() => self.done(done),
                () = &mut sleep, if wake_ms.is_some() => {
                    armed = None;
                    self.expire();
                }
                _ = rounds.tick() => self.look_around(),
                () = &mut fenced => {
                    self.end_fenced();
                    return;
                }
                Some(order) = self.orders.recv() => {
                    self.draining = true;
                    self.tell_status();
                    if order == Order::Stop {
                        self.hang_up_all();
                        stop_by = Some(clock::monotonic_ms() + u64::from(self.options.stop_timeout_ms));
                    }
                }
            }
            if stop_by.is_some_and(|by| self.calls.is_empty() || by <= clock::monotonic_ms()) {
                break;
            }
        }
        for slot in self.calls.values() {
            slot.report_loss();
        }
        tracing::info!(instance = %self.instance, calls_left = self.calls.len(), "switchboard ends");
    }

    fn now(&self) -> Now {
        clock::now()
    }

    /// Takes a new call in.
    fn insert(&mut self, id: CallId, call: Call, context: Context) -> Key {
        self.key_last += 1;
        let key = Key(self.key_last);
        self.by_id.insert(id, key);
        let slot = Slot {
            call,
            context,
            legs_indexed: 0,
            deadline_ms: None,
            callee_answered_ms: None,
            dialled: false,
            records: VecDeque::new(),
        };
        self.calls.insert(key, slot);
        self.tell_status();
        key
    }

    /// Hands an input to a call and carries out what follows.
    fn drive(&mut self, key: Key, input: Input) {
        let now = self.now();
        let mut effects = std::mem::take(&mut self.effects);
        if let Some(slot) = self.calls.get_mut(&key) {
            slot.call.handle(now, input, &mut effects);
            if slot.call.state() == State::Answering {
                slot.callee_answered_ms.get_or_insert(now.monotonic_ms);
            }
            self.carry_out(key, &mut effects, now);
        }
        self.effects = effects;
    }

    fn carry_out(&mut self, key: Key, effects: &mut Vec<Effect>, now: Now) {
        for effect in effects.drain(..) {
            match effect {
                Effect::Rpc { id, to, request, .. } => self.ask(key, id, to, request, now),
                Effect::Locate => self.locate(key),
                Effect::Record(record) => self.record(key, record, now),
            }
        }
        self.keep(key, now);
        self.index(key);
    }

    /// Writes the call's snapshot if a successor needs a new one.
    fn keep(&mut self, key: Key, now: Now) {
        let Some(slot) = self.calls.get_mut(&key) else { return };
        if slot.call.snapshot_due()
            && let Some(bytes) = slot.call.snapshot(now)
        {
            self.snapshots.put(resume::name(slot.call.id()), bytes);
        }
    }

    /// Brings the indices up to what the call has become.
    fn index(&mut self, key: Key) {
        let Some(slot) = self.calls.get_mut(&key) else { return };
        for leg in &slot.call.legs()[slot.legs_indexed..] {
            self.by_channel.insert(leg.channel_id.clone(), key);
        }
        slot.legs_indexed = slot.call.legs().len();
        let deadline_ms = slot.call.deadline_ms();
        if deadline_ms != slot.deadline_ms {
            if let Some(at_ms) = std::mem::replace(&mut slot.deadline_ms, deadline_ms) {
                self.deadlines.remove(&(at_ms, key));
            }
            self.deadlines.extend(deadline_ms.map(|at_ms| (at_ms, key)));
        }
        if slot.call.is_disowned() {
            tracing::warn!(call_id = %slot.call.id(), "another switchboard owns this call now");
            self.metrics.disowned.increment(1);
            self.remove(key);
        } else if slot.call.state() == State::Ended && slot.records.is_empty() {
            self.snapshots.delete(resume::name(slot.call.id()));
            self.remove(key);
        }
    }

    /// The call is over and its record is in the database, or it is another's.
    fn remove(&mut self, key: Key) {
        let Some(slot) = self.calls.remove(&key) else { return };
        if let Some(at_ms) = slot.deadline_ms {
            self.deadlines.remove(&(at_ms, key));
        }
        self.by_id.remove(slot.call.id());
        for leg in slot.call.legs() {
            self.by_channel.remove(&leg.channel_id);
        }
        self.tell_status();
    }

    fn done(&mut self, done: Done) {
        match done {
            Done::Rpc { key, id, result } => self.drive(key, Input::Reply { id, result }),
            Done::Located { key, result } => self.drive(key, Input::Located(result)),
            Done::Written { key, started } => {
                if let Some(slot) = self.calls.get_mut(&key) {
                    slot.records.pop_front();
                    self.write_next(key);
                }
                match started {
                    Some(result) => self.drive(key, Input::Recorded(result)),
                    None => self.index(key),
                }
            }
            Done::Resume(done) => self.resume_done(done),
            Done::Noted => {}
        }
    }

    fn expire(&mut self) {
        let now_ms = self.now().monotonic_ms;
        while let Some((at_ms, key)) = self.deadlines.first().copied().filter(|(at_ms, _)| *at_ms <= now_ms) {
            self.drive(key, Input::Timeout);
            debug_assert!(self.deadlines.first() != Some(&(at_ms, key)), "a deadline that is over must move");
            self.deadlines.remove(&(at_ms, key));
        }
    }

    fn hang_up_all(&mut self) {
        let keys: Vec<Key> = self.calls.keys().copied().collect();
        for key in keys {
            let text = "the switchboard stops".to_owned();
            let cause = Cause { sip_code: 503, kind: CauseKind::Administrative, text };
            self.drive(key, Input::Hangup { cause });
        }
    }

    /// After every change of the number of calls: for the handle, for the metrics, for the others' routing.
    fn tell_status(&mut self) {
        let calls = self.calls.len();
        self.status.send_replace(Status { draining: self.draining, calls });
        self.metrics.calls.set(calls as f64);
        let announcement = Announcement::new(Role::Switchboard, self.instance.clone(), env!("CARGO_PKG_VERSION"));
        self.bus.announce(announcement.load(calls as u64).draining(self.draining));
    }

    /// The last word to the handle: nothing is left. The registry belongs to the successor.
    fn tell_gone(&mut self) {
        self.status.send_replace(Status { draining: true, calls: 0 });
        self.metrics.calls.set(0.0);
    }

    fn measure(&mut self, key: Key, request: &Request, now: Now) {
        let Some(slot) = self.calls.get_mut(&key) else { return };
        let since = |at_ms: u64| (now.monotonic_ms - at_ms) as f64 / 1_000.0;
        match request {
            Request::Dial(_) if !std::mem::replace(&mut slot.dialled, true) => {
                self.metrics.dial_seconds.record(since(slot.call.started().monotonic_ms));
            }
            Request::Answer(_) => {
                if let Some(at_ms) = slot.callee_answered_ms.take() {
                    self.metrics.answer_seconds.record(since(at_ms));
                }
            }
            _ => {}
        }
    }
}
