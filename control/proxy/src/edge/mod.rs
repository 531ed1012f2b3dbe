//! The actor: one task that owns the transaction layer, the legs and their clocks, and is the only one to touch them.
//!
//! Inputs: what the transports bring (in batches), the bus inbox, results of spawned work, the clock. It never waits for
//! the store or the switchboard: those run in tasks of their own, bounded, and come back as inputs. A request goes
//! transport -> transaction layer -> [`gate`] (validate, authenticate, look up, route) or its leg ([`dialogs`]) ->
//! outbox -> switchboard, and back by [`commands`].

mod accounts;
mod calls;
mod commands;
mod core;
mod dialogs;
mod gate;
mod held;
mod housekeeping;
mod leg;
mod legs;
mod outbox;
mod restore;
mod secrets;
mod setups;
pub mod snapshot;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nebula_bus::contract::{ChannelId, InstanceId, Role, to_proxy::Dial};
use nebula_bus::{Bus, Call, Inbox, Snapshots};
use nebula_sip::digest::Nonces;
use nebula_sip::transaction::{self, Layer, Output, Tokens, TransactionId};
use nebula_sip::{Flow, Protocol, Response, StatusCode};
use nebula_store::Store;
use nebula_store::extensions::Extension;
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use self::core::Core;
use accounts::Accounts;
use gate::Parked;
use held::{HOLD_MAX, Held};
use housekeeping::{HOUSEKEEPING, Housekeeping};
use legs::{LegKey, Legs};
use outbox::Told;
use setups::Setups;

pub use restore::Left;
pub use secrets::Secrets;

use crate::admission::Admission;
use crate::channel::Weight;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::transport::{Closed, Event, Inbound, Transports};

/// Messages handled before the clock is looked at again.
const BATCH_MAX: usize = 64;

/// What comes back into the actor.
pub enum Input {
    /// A request to the switchboard was answered.
    Told(Told),
    /// An extension was looked up.
    Account {
        /// Its user part.
        user: String,
        /// It, or nothing, or why that is not known.
        found: Result<Option<Arc<Extension>>, String>,
    },
    /// A REGISTER was carried out.
    Registered {
        /// Its transaction.
        id: TransactionId,
        /// The answer.
        response: Box<Response>,
    },
    /// The host of a phone's URI was resolved.
    Resolved {
        /// What is to be dialled.
        dial: Box<Dial>,
        /// By which transport.
        protocol: Protocol,
        /// The address, if it has one.
        address: Option<SocketAddr>,
        /// To answer the switchboard.
        call: Call<nebula_bus::contract::to_proxy::ChannelDial>,
    },
    /// A switchboard was asked whether it still has the call of a leg.
    AskedAfter {
        /// The leg.
        leg: LegKey,
        /// A business error if it has not.
        result: Result<(), nebula_bus::Error>,
    },
    /// Registrations that had ended were removed.
    Swept,
    /// The snapshots that held messages wait for are written, for those before this one.
    Kept(u64),
    /// Take no new calls.
    Drain,
    /// End now.
    Stop,
}

/// What others may see of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// It takes no new calls.
    pub draining: bool,
    /// SIP legs.
    pub channels: usize,
}

/// The actor.
pub struct Edge {
    core: Core,
    legs: Legs,
    accounts: Accounts,
    /// Requests that wait for a look-up; at most `lookups_max`.
    parked: HashMap<TransactionId, Parked>,
    /// Registrations under way; at most `lookups_max`.
    registering: u32,
    housekeeping: Housekeeping,
    draining: bool,
    inbound: mpsc::Receiver<Inbound>,
    inbox: Inbox,
    inputs: mpsc::UnboundedReceiver<Input>,
    /// Legs whose snapshots can wait until the next second.
    unsaved: HashSet<LegKey>,
    /// The legs that were taken up from the last process, ended or not; no more than that had.
    taken_up: HashSet<ChannelId>,
    status: watch::Sender<Status>,
}

/// What an edge is made of.
pub struct Parts {
    pub options: Options,
    pub instance: InstanceId,
    pub bus: Bus,
    pub store: Store,
    pub transports: Transports,
    pub inbound: mpsc::Receiver<Inbound>,
    /// Random: for branches and tags.
    pub seeds: [[u8; 16]; 2],
    pub snapshots: Snapshots,
    pub left: Left,
    pub status: watch::Sender<Status>,
}

impl Edge {
    /// Opens the inbox and takes up what the last process left; requests are answered once [`Edge::run`] runs.
    pub fn new(parts: Parts) -> (Self, mpsc::UnboundedSender<Input>) {
        let Parts { options, instance, bus, store, transports, inbound, seeds, snapshots, left, status } = parts;
        let inbox = bus.serve(Role::Proxy, instance.clone());
        let (sender, inputs) = mpsc::unbounded_channel();
        let layer_options = transaction::Options {
            timers: options.base(),
            transactions_max: options.transactions_max,
            retry_after_s: options.retry_after_s,
            sent_by: options.advertised_address.map(|ip| SocketAddr::new(ip, transports.port())),
        };
        let nonces = match &left.nonces {
            Some(saved) => Nonces::resume(left.secrets.nonces, options.nonce_lifetime_s, saved),
            None => Nonces::new(left.secrets.nonces, options.nonce_lifetime_s),
        };
        let core = Core {
            metrics: Metrics::new(&options.product),
            instance,
            bus,
            store,
            transports,
            admission: Admission::new(&options.realm, options.algorithms(), nonces),
            layer: Layer::with_keys(layer_options, seeds[0], left.secrets.transactions),
            snapshots,
            clock: left.clock,
            held: Held::default(),
            came_at: Instant::now(),
            tokens: Tokens::new(seeds[1]),
            owners: HashMap::new(),
            inputs: sender.clone(),
            setups: Setups::new(Duration::from_millis(options.setup_delay_ms_max.into())),
            options: Arc::new(options),
        };
        core.keep_secrets(&left.secrets, Instant::now());
        let accounts = Accounts::new(&core.options);
        let mut edge = Self {
            core,
            legs: Legs::default(),
            accounts,
            parked: HashMap::new(),
            registering: 0,
            housekeeping: Housekeeping::default(),
            draining: false,
            inbound,
            inbox,
            inputs,
            unsaved: HashSet::new(),
            taken_up: HashSet::new(),
            status,
        };
        edge.restore(left.legs, Instant::now());
        edge.tell_status();
        (edge, sender)
    }

    /// Runs until it is told to stop.
    pub async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH_MAX);
        let clock = tokio::time::sleep_until(far_away().into());
        tokio::pin!(clock);
        let snapshots = self.core.snapshots.clone();
        let fenced = snapshots.fenced();
        tokio::pin!(fenced);
        let mut housekeeping = tokio::time::interval(HOUSEKEEPING);
        housekeeping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Some(at) = self.next_clock()
                && clock.deadline().into_std() != at
            {
                clock.as_mut().reset(at.into());
            }
            tokio::select! {
                count = self.inbound.recv_many(&mut batch, BATCH_MAX) => {
                    if count == 0 {
                        return;
                    }
                    for inbound in batch.drain(..) {
                        self.receive(inbound, Instant::now());
                    }
                }
                input = self.inputs.recv() => match input {
                    None | Some(Input::Stop) => {
                        self.core.release(u64::MAX, Instant::now());
                        return self.keep_unsaved(Instant::now());
                    }
                    Some(input) => self.input(input, Instant::now()),
                },
                request = self.inbox.recv() => match request {
                    None => return,
                    Some(request) => self.asked(request, Instant::now()),
                },
                () = &mut clock => {
                    self.clocks(Instant::now());
                    clock.as_mut().reset(self.next_clock().unwrap_or_else(far_away).into());
                }
                _ = housekeeping.tick() => self.keep_house(Instant::now()),
                () = &mut fenced => {
                    tracing::error!(instance = %self.core.instance, "fenced: another process has this name; the edge ends");
                    return;
                }
            }
            self.release_when_kept();
            self.tell_status();
        }
    }

    /// Legs were put to the snapshots in this turn: what they sent leaves when these are written.
    fn release_when_kept(&mut self) {
        let Some(end) = self.core.held.uncovered() else { return };
        let (snapshots, inputs) = (self.core.snapshots.clone(), self.core.inputs.clone());
        tokio::spawn(async move {
            // Late is better than never.
            let _ = tokio::time::timeout(HOLD_MAX, snapshots.flush()).await;
            // An edge that has ended released all.
            let _ = inputs.send(Input::Kept(end));
        });
    }

    /// After an input to a leg: keeps or forgets its snapshot, plans its next waking, drops it if it is done with.
    fn settle(&mut self, key: LegKey, now: Instant) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        if leg.is_done() {
            if leg.is_saved {
                self.core.snapshots.delete(snapshot::key(&leg.channel.id));
            }
        } else {
            match leg.touched {
                Weight::Nothing => {}
                Weight::Soon => drop(self.unsaved.insert(key)),
                Weight::Now => leg.keep(&self.core, now),
            }
        }
        self.legs.settle(key);
    }

    fn next_clock(&self) -> Option<Instant> {
        self.core.layer.next_timeout().into_iter().chain(self.legs.next_clock()).min()
    }

    fn clocks(&mut self, now: Instant) {
        self.core.came_at = now;
        self.core.layer.handle_timeout(now);
        self.drain_outputs(now);
        while let Some(key) = self.legs.due(now) {
            if let Some(leg) = self.legs.get_mut(key) {
                leg.wake(&mut self.core, now);
            }
            self.settle(key, now);
            self.drain_outputs(now);
        }
    }

    fn receive(&mut self, Inbound { flow, at, event }: Inbound, now: Instant) {
        self.core.came_at = at;
        match event {
            Event::Message(message) => {
                if let nebula_sip::Message::Request(request) = &message {
                    self.core.metrics.requested(&request.method);
                }
                self.core.layer.receive(now, message, flow);
            }
            Event::Malformed(malformed) => self.refuse_malformed(&malformed, flow, now),
            Event::Closed(why) => self.closed(flow, why, now),
        }
        self.drain_outputs(now);
    }

    fn closed(&mut self, flow: Flow, why: Closed, now: Instant) {
        tracing::debug!(%flow, why = why.name(), "connection ended");
        self.core.layer.connection_lost(now, flow.connection);
    }

    fn input(&mut self, input: Input, now: Instant) {
        self.core.came_at = now;
        match input {
            Input::Told(told) => self.told(told, now),
            Input::Account { user, found } => self.account_found(user, found, now),
            Input::Registered { id, response } => self.registered(id, *response, now),
            Input::Resolved { dial, protocol, address, call } => self.resolved(*dial, protocol, address, call, now),
            Input::AskedAfter { leg, result } => self.asked_after(leg, result, now),
            Input::Swept => self.swept(),
            Input::Kept(end) => self.core.release(end, now),
            Input::Drain => {
                self.draining = true;
                self.announce();
            }
            // Handled by the loop.
            Input::Stop => {}
        }
        self.drain_outputs(now);
    }

    fn asked(&mut self, request: nebula_bus::Request, now: Instant) {
        self.core.came_at = now;
        self.command(request, now);
        self.drain_outputs(now);
    }

    /// Handles all that the transaction layer has to say.
    fn drain_outputs(&mut self, now: Instant) {
        while let Some(output) = self.core.next_output(now) {
            match output {
                Output::Request { id, request, flow } => self.requested(id, request, flow, now),
                Output::Ack { request, flow } => self.acknowledged(&request, flow, now),
                Output::Cancel { id, request } => self.cancelled(id, &request, now),
                Output::Response { id, response, flow } => self.responded(id, response, flow, now),
                Output::Timeout { id } => {
                    self.failed(id, crate::channel::Failure::Timeout, StatusCode::REQUEST_TIMEOUT, now);
                }
                Output::TransportFailed { id } => {
                    self.failed(id, crate::channel::Failure::Transport, StatusCode::SERVICE_UNAVAILABLE, now);
                }
                // Carried out by `next_output`.
                Output::Transmit { .. } | Output::Terminated { .. } => {}
            }
        }
    }

    /// Tells whoever watches, if anything changed.
    fn tell_status(&mut self) {
        let status = Status { draining: self.draining, channels: self.legs.len() };
        if *self.status.borrow() != status {
            self.core.metrics.channels.set(status.channels as f64);
            self.status.send_replace(status);
        }
    }
}

/// A clock that has nothing to do still needs a time.
fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}
