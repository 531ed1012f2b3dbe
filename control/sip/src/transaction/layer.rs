//! The transaction layer: matches messages to transactions (RFC 3261 17.1.3, 17.2.3), carries out what their machines
//! ask for, runs their timers and hands the rest to the transaction user.
//!
//! One per edge worker, single-threaded, sans-IO: messages, requests, responses and the time go in; [`Output`]s are
//! drained with [`Layer::poll_output`] until it is empty. A message costs one or two keyed digests and one or two hash
//! look-ups; a timer O(log n). Over its cap it refuses: 503 without state to a request, an error to the user.
//!
//! The layer itself answers CANCEL (200 or 481), a merged request (482) and overload (503), without state of their own:
//! the same request gets the same answer. The user answers every [`Output::Request`], and refuses a cancelled INVITE
//! with 487. A 2xx to INVITE is repeated and acknowledged by the user (13.2.2.4, 13.3.1.4), see [`crate::dialog`].

mod snapshot;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::entry::{AnyMachine, Cancel, Cargo, Transaction};
use super::key::{Key, Keys};
use super::machine::{Action, Event, Step, response_event};
use super::table::{Queue, Table, TransactionId};
use super::token::Tokens;
use super::types::{CancelError, Counters, Options, Output, RequestError, RespondError};
use super::{invite_client, invite_server, wire};
use crate::flow::Flow;
use crate::message::{Message, Method, Request, Response, StatusCode};
use crate::timers::{Pace, Timer};

pub use snapshot::SavedTransaction;

/// The transactions of one edge worker.
#[derive(Debug)]
pub struct Layer {
    options: Options,
    keys: Keys,
    tokens: Tokens,
    table: Table<Transaction>,
    by_key: HashMap<Key, TransactionId>,
    by_merge_key: HashMap<Key, TransactionId>,
    by_connection: BTreeSet<(u64, TransactionId)>,
    queue: Queue,
    outputs: VecDeque<Output>,
    counters: Counters,
}

impl Layer {
    /// `seed` makes branches unguessable and keys collision-free: random in the shell, any in a test.
    pub fn new(options: Options, seed: [u8; 16]) -> Self {
        Self::with_keys(options, seed, seed)
    }

    /// For a layer that takes up transactions of an earlier one: `keys` is the secret by which transactions are found,
    /// the same over restarts; `seed` makes branches and must be another at each start, or branches would repeat.
    pub fn with_keys(options: Options, seed: [u8; 16], keys: [u8; 16]) -> Self {
        Self {
            options,
            keys: Keys::new(keys),
            tokens: Tokens::new(seed),
            table: Table::new(options.transactions_max),
            by_key: HashMap::new(),
            by_merge_key: HashMap::new(),
            by_connection: BTreeSet::new(),
            queue: Queue::default(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
        }
    }

    /// A message came in. Outputs of the one before it must have been drained.
    pub fn receive(&mut self, now: Instant, message: Message, flow: Flow) {
        debug_assert!(self.outputs.is_empty(), "drain the outputs before the next message");
        match message {
            Message::Request(request) => self.receive_request(now, request, flow),
            Message::Response(response) => self.receive_response(now, response, flow),
        }
    }

    /// Sends a request in a client transaction of its own. The layer puts its Via on top. Not for ACK and CANCEL.
    pub fn request(&mut self, now: Instant, mut request: Request, flow: Flow) -> Result<TransactionId, RequestError> {
        if matches!(request.method, Method::Ack | Method::Cancel) {
            return Err(RequestError::NoTransactionOfItsOwn(request.method));
        }
        if self.table.is_full() {
            self.counters.refused_full += 1;
            return Err(RequestError::Full { transactions_max: self.options.transactions_max });
        }
        let branch = self.tokens.branch();
        wire::push_via(&mut request, flow, self.options.sent_by, &branch);
        let key = self.keys.client(&branch, &request.method);
        let started = AnyMachine::start_client(&request.method);
        let bytes = request.to_bytes();
        self.start(now, started, key, None, flow, false, Cargo::Bytes(bytes))
            .ok_or(RequestError::Full { transactions_max: self.options.transactions_max })
    }

    /// Sends a request that has no transaction: the ACK of a 2xx. Its bytes are returned for sending them again.
    pub fn send_ack(&mut self, mut ack: Request, flow: Flow) -> Bytes {
        let branch = self.tokens.branch();
        wire::push_via(&mut ack, flow, self.options.sent_by, &branch);
        let bytes = ack.to_bytes();
        self.outputs.push_back(Output::Transmit { flow, bytes: bytes.clone(), id: None });
        bytes
    }

    /// Answers a request. A 2xx to INVITE may be given again until its ACK came; nothing else twice.
    pub fn respond(&mut self, now: Instant, id: TransactionId, response: &Response) -> Result<(), RespondError> {
        let machine = self.table.get(id).ok_or(RespondError::Unknown(id))?.machine;
        let event = response_event(response.status.get());
        if !matches!(machine, AnyMachine::InviteServer(_) | AnyMachine::Server(_))
            || !machine.step(event).1.contains(&Action::Transmit)
        {
            return Err(RespondError::NotNow { id, status: response.status });
        }
        self.dispatch(now, id, event, Cargo::Bytes(response.to_bytes()));
        Ok(())
    }

    /// Takes an INVITE back: CANCEL goes out at once, or as soon as a provisional response came (9.1). The INVITE still
    /// ends by a response (487, or a 2xx that was faster) or by `Timeout`. `reason` is a Reason header (RFC 3326).
    pub fn cancel(&mut self, now: Instant, id: TransactionId, reason: Option<&str>) -> Result<(), CancelError> {
        let transaction = self.table.get_mut(id).ok_or(CancelError::Unknown(id))?;
        match transaction.machine {
            AnyMachine::InviteClient(invite_client::State::Calling | invite_client::State::Proceeding) => {}
            AnyMachine::InviteClient(_) => return Err(CancelError::TooLate(id)),
            _ => return Err(CancelError::NoInvite(id)),
        }
        if transaction.cancel == Cancel::None {
            transaction.cancel = Cancel::Wanted(reason.map(Into::into));
            self.send_wanted_cancel(now, id);
        }
        Ok(())
    }

    /// What an [`Output::Transmit`] with this id asked for could not be sent.
    pub fn transport_failed(&mut self, now: Instant, id: TransactionId) {
        self.dispatch(now, id, Event::TransportError, Cargo::None);
    }

    /// A connection is gone: every transaction on it hears of a transport error.
    pub fn connection_lost(&mut self, now: Instant, connection: u64) {
        let of_it = (connection, TransactionId::MIN)..=(connection, TransactionId::MAX);
        let ids: Vec<_> = self.by_connection.range(of_it).map(|(_, id)| *id).collect();
        for id in ids {
            self.transport_failed(now, id);
        }
    }

    /// When to call [`Layer::handle_timeout`]; it may turn out that nothing is due then.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.queue.next()
    }

    /// Runs the timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, id)) = self.queue.pop_due(now) {
            let Some(transaction) = self.table.get_mut(id).filter(|transaction| transaction.queued == Some(at)) else {
                continue;
            };
            transaction.queued = None;
            let due = |slot: &mut Option<(Timer, Instant)>| slot.take_if(|(_, at)| *at <= now).map(|(timer, _)| timer);
            match due(&mut transaction.deadline).or_else(|| due(&mut transaction.repeat)) {
                Some(timer) => self.dispatch(now, id, Event::Fired(timer), Cargo::None),
                None => self.wake_in_time(id),
            }
        }
    }

    /// The next thing to send or to act on; `None` when all is drained.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// What happened so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How many transactions live.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none lives.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wake-ups are queued, stale ones included.
    pub fn queue_len(&self) -> usize {
        self.queue.len()
    }

    fn receive_request(&mut self, now: Instant, mut request: Request, flow: Flow) {
        let reply_flow = wire::stamp(&mut request, flow);
        let key = self.keys.server(&request, &request.method);
        let known = self.by_key.get(&key).copied();
        match (&request.method, known) {
            (Method::Ack, Some(id)) => self.dispatch(now, id, Event::Ack, Cargo::Request(Box::new(request), flow)),
            (Method::Ack, None) => self.outputs.push_back(Output::Ack { request: Box::new(request), flow }),
            (Method::Cancel, _) => self.receive_cancel(request, reply_flow),
            (_, Some(id)) => {
                self.counters.requests_repeated += 1;
                self.dispatch(now, id, Event::Request, Cargo::None);
            }
            (_, None) => self.receive_new_request(now, key, request, flow, reply_flow),
        }
    }

    fn receive_new_request(&mut self, now: Instant, key: Key, request: Request, flow: Flow, reply_flow: Flow) {
        let merge_key = self.keys.merge(&request);
        if merge_key.is_some_and(|key| self.by_merge_key.contains_key(&key)) {
            self.counters.requests_merged += 1;
            return self.reply_without_state(&request, StatusCode::LOOP_DETECTED, reply_flow);
        }
        if self.table.is_full() {
            self.counters.refused_full += 1;
            return self.reply_without_state(&request, StatusCode::SERVICE_UNAVAILABLE, reply_flow);
        }
        self.counters.requests_received += 1;
        let started = AnyMachine::start_server(&request.method);
        self.start(now, started, key, merge_key, reply_flow, false, Cargo::Request(Box::new(request), flow));
    }

    /// 9.2: 200 if its INVITE is there, whatever state it is in; the user hears of it once, if it can still refuse.
    fn receive_cancel(&mut self, request: Request, reply_flow: Flow) {
        let invite_key = self.keys.server(&request, &Method::Invite);
        let Some((id, invite)) =
            self.by_key.get(&invite_key).copied().and_then(|id| Some((id, self.table.get_mut(id)?)))
        else {
            self.counters.cancels_unmatched += 1;
            return self.reply_without_state(&request, StatusCode::CALL_DOES_NOT_EXIST, reply_flow);
        };
        let is_open = invite.machine == AnyMachine::InviteServer(invite_server::State::Proceeding);
        let is_news = is_open && std::mem::replace(&mut invite.cancel, Cancel::Done) == Cancel::None;
        let to_tag = wire::to_tag_of(&invite.kept).unwrap_or_else(|| self.keys.tag(&request));
        let response = wire::reply(&request, StatusCode::OK, Some(&to_tag));
        self.outputs.push_back(Output::Transmit { flow: reply_flow, bytes: response.to_bytes(), id: None });
        if is_news {
            self.counters.cancels_received += 1;
            self.outputs.push_back(Output::Cancel { id, request: Box::new(request) });
        }
    }

    fn receive_response(&mut self, now: Instant, response: Response, flow: Flow) {
        let id = self.keys.client_of_response(&response).and_then(|key| self.by_key.get(&key).copied());
        let Some(id) = id else {
            self.counters.responses_stray += 1;
            return;
        };
        self.counters.responses_received += 1;
        self.adopt_connection(id, flow);
        let event = response_event(response.status.get());
        self.dispatch(now, id, event, Cargo::Response(Box::new(response), flow));
        if event == Event::Provisional {
            self.send_wanted_cancel(now, id);
        }
    }

    /// A request may go out before its connection is open; the first response tells which it was.
    fn adopt_connection(&mut self, id: TransactionId, flow: Flow) {
        if let Some(transaction) = self.table.get_mut(id)
            && transaction.flow.connection == 0
            && flow.connection != 0
            && transaction.flow.protocol == flow.protocol
        {
            transaction.flow = flow;
            self.by_connection.insert((flow.connection, id));
        }
    }

    fn reply_without_state(&mut self, request: &Request, status: StatusCode, flow: Flow) {
        let mut response = wire::reply(request, status, Some(&self.keys.tag(request)));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            wire::set_retry_after(&mut response, self.options.retry_after_s);
        }
        self.outputs.push_back(Output::Transmit { flow, bytes: response.to_bytes(), id: None });
    }

    fn send_wanted_cancel(&mut self, now: Instant, id: TransactionId) {
        let Some(invite) = self.table.get_mut(id) else { return };
        if invite.machine != AnyMachine::InviteClient(invite_client::State::Proceeding) {
            return;
        }
        let Cancel::Wanted(reason) = &invite.cancel else { return };
        let Some((branch, bytes)) = wire::cancel(&invite.kept, reason.as_deref()) else { return };
        invite.cancel = Cancel::Done;
        let flow = invite.flow;
        // One that was taken up from a snapshot keeps the time it had left.
        if !matches!(invite.deadline, Some((Timer::Abandon, _))) {
            invite.deadline = Some((Timer::Abandon, now + self.options.timers.lifetime()));
        }
        self.wake_in_time(id);
        let key = self.keys.client(&branch, &Method::Cancel);
        let started = AnyMachine::start_client(&Method::Cancel);
        if self.start(now, started, key, None, flow, true, Cargo::Bytes(bytes.clone())).is_none() {
            // No room to repeat it; once is better than never.
            self.counters.refused_full += 1;
            self.outputs.push_back(Output::Transmit { flow, bytes, id: None });
        }
    }

    #[allow(clippy::too_many_arguments, reason = "the one place where a transaction is made")]
    fn start(
        &mut self,
        now: Instant,
        (machine, actions): Step<AnyMachine>,
        key: Key,
        merge_key: Option<Key>,
        flow: Flow,
        is_own: bool,
        cargo: Cargo,
    ) -> Option<TransactionId> {
        let kept = match &cargo {
            // What timer Trying sends.
            Cargo::Request(request, _)
                if request.method == Method::Invite && self.options.timers.trying_after.is_some() =>
            {
                wire::reply(request, StatusCode::TRYING, None).to_bytes()
            }
            _ => Bytes::new(),
        };
        let id = self.table.insert(Transaction {
            machine,
            flow,
            key,
            merge_key,
            kept,
            repeat: None,
            deadline: None,
            doublings: 0,
            queued: None,
            cancel: Cancel::None,
            is_own,
        })?;
        self.by_key.insert(key, id);
        if let Some(merge_key) = merge_key {
            self.by_merge_key.insert(merge_key, id);
        }
        if flow.connection != 0 {
            self.by_connection.insert((flow.connection, id));
        }
        self.carry_out(now, id, actions, cargo);
        Some(id)
    }

    fn dispatch(&mut self, now: Instant, id: TransactionId, event: Event, cargo: Cargo) {
        let Some(transaction) = self.table.get_mut(id) else { return };
        let (machine, actions) = transaction.machine.step(event);
        transaction.machine = machine;
        self.carry_out(now, id, actions, cargo);
    }

    fn carry_out(&mut self, now: Instant, id: TransactionId, actions: &[Action], mut cargo: Cargo) {
        let mut due_at_once = None;
        for &action in actions {
            let Some(transaction) = self.table.get_mut(id) else { return };
            match action {
                Action::Transmit => {
                    if let Cargo::Bytes(bytes) = std::mem::replace(&mut cargo, Cargo::None) {
                        transaction.kept = bytes;
                        self.outputs.extend(transaction.transmit(id));
                    }
                }
                Action::Retransmit => {
                    let again = transaction.transmit(id);
                    self.counters.retransmissions += u64::from(again.is_some());
                    self.outputs.extend(again);
                }
                Action::Ack => {
                    if let Cargo::Response(response, _) = &cargo
                        && let Some(bytes) = wire::ack(&transaction.kept, response)
                    {
                        self.outputs.push_back(Output::Transmit { flow: transaction.flow, bytes, id: Some(id) });
                    }
                }
                Action::Deliver => {
                    let is_own = transaction.is_own;
                    let output = std::mem::replace(&mut cargo, Cargo::None).deliver(id);
                    self.outputs.extend(output.filter(|_| !is_own));
                }
                Action::Timeout => {
                    self.counters.timeouts += 1;
                    let is_own = transaction.is_own;
                    self.outputs.extend((!is_own).then_some(Output::Timeout { id }));
                }
                Action::TransportFailed => {
                    self.counters.transport_failures += 1;
                    let is_own = transaction.is_own;
                    self.outputs.extend((!is_own).then_some(Output::TransportFailed { id }));
                }
                Action::Stop(timer) => *transaction.slot(timer) = None,
                Action::Start(timer, pace) => {
                    transaction.doublings =
                        if pace == Pace::Doubled { transaction.doublings.saturating_add(1) } else { 0 };
                    let reliable = transaction.flow.protocol.is_reliable();
                    let runs = self.options.timers.duration(timer, pace, transaction.doublings.into(), reliable);
                    *transaction.slot(timer) = runs.filter(|runs| !runs.is_zero()).map(|runs| (timer, now + runs));
                    if runs == Some(Duration::ZERO) {
                        due_at_once = Some(timer);
                    }
                }
            }
        }
        if self.table.get(id).is_some_and(|transaction| transaction.machine.is_terminated()) {
            return self.destroy(id);
        }
        match due_at_once {
            // At most once more: no zero timer leads to a state that starts another.
            Some(timer) => self.dispatch(now, id, Event::Fired(timer), Cargo::None),
            None => self.wake_in_time(id),
        }
    }

    fn wake_in_time(&mut self, id: TransactionId) {
        let Some(transaction) = self.table.get_mut(id) else { return };
        let timers = [transaction.repeat, transaction.deadline];
        let Some(earliest) = timers.into_iter().flatten().map(|(_, at)| at).min() else { return };
        if transaction.queued.is_none_or(|queued| earliest < queued) {
            transaction.queued = Some(earliest);
            self.queue.push(earliest, id);
        }
    }

    fn destroy(&mut self, id: TransactionId) {
        let Some(transaction) = self.table.remove(id) else { return };
        self.by_key.remove(&transaction.key);
        if let Some(merge_key) = transaction.merge_key {
            self.by_merge_key.remove(&merge_key);
        }
        if transaction.flow.connection != 0 {
            self.by_connection.remove(&(transaction.flow.connection, id));
        }
        if !transaction.is_own {
            self.outputs.push_back(Output::Terminated { id });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Protocol;
    use crate::message::Name;

    fn request(method: &str, branch: &str) -> Request {
        let text = format!(
            "{method} sip:b@192.0.2.2 SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1;branch={branch}\r\nMax-Forwards: 70\r\n\
             From: <sip:a@h>;tag=a\r\nTo: <sip:b@h>\r\nCall-ID: c\r\nCSeq: 1 {method}\r\nContent-Length: 0\r\n\r\n"
        );
        match Message::parse(Bytes::from(text)) {
            Ok(Message::Request(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn no_index_outlives_its_transactions() {
        let now = Instant::now();
        let peer = "192.0.2.1:5060".parse().expect("an address");
        let flow = Flow { protocol: Protocol::Tcp, local: peer, remote: peer, connection: 3 };
        let mut layer = Layer::new(Options::default(), [0; 16]);
        layer.receive(now, request("INVITE", "z9hG4bKa").into(), flow);
        let Some(Output::Request { id, request: invite, .. }) = layer.poll_output() else { panic!("no request") };
        let mut ours = request("OPTIONS", "z9hG4bKb");
        ours.headers.remove(Name::Via);
        layer.request(now, ours, Flow { connection: 0, ..flow }).expect("room");
        let Some(Output::Transmit { bytes, .. }) = layer.poll_output() else { panic!("not sent") };
        let Ok(Message::Request(sent)) = Message::parse(bytes) else { panic!("unreadable") };
        layer.receive(now, Response::to(&sent, StatusCode::TRYING).into(), flow);
        assert_eq!((layer.by_key.len(), layer.by_merge_key.len(), layer.by_connection.len()), (2, 1, 2));
        while layer.poll_output().is_some() {}
        layer.receive(now, Response::to(&sent, StatusCode::OK).into(), flow);
        layer.respond(now, id, &Response::to(&invite, StatusCode::OK)).expect("an open INVITE");
        while let Some(at) = layer.next_timeout() {
            layer.handle_timeout(at);
        }
        assert_eq!((layer.by_key.len(), layer.by_merge_key.len(), layer.by_connection.len()), (0, 0, 0));
        assert_eq!((layer.table.len(), layer.queue.len()), (0, 0));
    }
}
