//! A user agent: a transaction layer, its calls, and a user who does things by chance. Asserts what must hold at each
//! step; everything it knows fits into its snapshot.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use nebula_sip::dialog::{Admission, Dialog, DialogId, Due, Forks, Heard, Renegotiation, Unacknowledged};
use nebula_sip::message::{Headers, Refresher};
use nebula_sip::reliable::{self, Sender, Verdict};
use nebula_sip::session_timer::{self, Offer, Policy, Watch};
use nebula_sip::snapshot::Resume;
use nebula_sip::timers::Base;
use nebula_sip::transaction::{Layer, Options, Output, Tokens, TransactionId};
use nebula_sip::{Flow, Message, Method, Name, NameAddr, Protocol, Request, Response, StatusCode};

use crate::call::{Call, Clocks, Outcome, Owner, Phase, Plan, SavedCall};
use crate::random::Random;
use crate::world::Coverage;

/// By which its transactions are found, over restarts.
const KEYS: [u8; 16] = [7; 16];
const POLICY: Policy = Policy { interval_s: 90, min_se_s: 90 };

/// Messages to send: where to, what, and for which transaction.
pub type Sends = Vec<(Flow, Bytes, Option<TransactionId>)>;

pub struct Agent {
    pub addr: SocketAddr,
    pub layer: Layer,
    pub calls: BTreeMap<u32, Call>,
    pub owners: BTreeMap<TransactionId, Owner>,
    pub sends: Sends,
    pub coverage: Coverage,
    start: Instant,
    tokens: Tokens,
    random: Random,
    fed: Fed,
}

/// What went into the layer and came out of it, to be held against its counters.
#[derive(Debug, Default)]
struct Fed {
    requests: u64,
    responses: u64,
    handed_over: u64,
    cancels: u64,
    timeouts: u64,
    failures: u64,
}

/// Making and restoring one.
impl Agent {
    pub fn new(addr: SocketAddr, start: Instant, random: &mut Random) -> Self {
        Self {
            addr,
            layer: Layer::with_keys(Options::default(), random.seed(), KEYS),
            calls: BTreeMap::new(),
            owners: BTreeMap::new(),
            sends: Vec::new(),
            coverage: Coverage::default(),
            start,
            tokens: Tokens::new(random.seed()),
            random: Random::new(random.next()),
            fed: Fed::default(),
        }
    }

    pub fn snapshot(&self, now: Instant) -> String {
        let saved: Vec<SavedCall> = self.calls.values().map(|call| self.save(call, now)).collect();
        serde_json::to_string(&saved).expect("JSON")
    }

    fn save(&self, call: &Call, now: Instant) -> SavedCall {
        let of_it = self.owners.iter().filter(|(_, owner)| owner.call == Some(call.key));
        let (ids, transactions): (Vec<_>, Vec<_>) =
            of_it.filter_map(|(id, owner)| Some((*id, (owner.clone(), self.layer.save(*id, now)?)))).unzip();
        let at = |id: TransactionId| ids.iter().position(|of| *of == id);
        let clocks = &call.clocks;
        let text = serde_json::to_string(call).expect("JSON");
        SavedCall {
            call: serde_json::from_str(&text).expect("what was written can be read"),
            transactions,
            open_at: clocks.open_id.and_then(at),
            invite_at: clocks.invite_id.and_then(at),
            unacknowledged: clocks
                .unacknowledged
                .as_ref()
                .and_then(|(id, it)| Some((at(*id).unwrap_or(usize::MAX), it.save(now)?))),
            sender: clocks.sender.as_ref().and_then(|(id, it)| Some((at(*id)?, it.save(now)))),
            watch: clocks.watch.as_ref().map(|it| it.save(now)),
        }
    }

    /// Takes up what another process left; calls in setup are refused, or go on.
    pub fn restore(mut self, snapshot: &str, resume: &Resume) -> Self {
        let saved: Vec<SavedCall> = serde_json::from_str(snapshot).expect("what was written can be read");
        for mut saved in saved {
            let mut ids = Vec::new();
            for (owner, transaction) in std::mem::take(&mut saved.transactions) {
                let id = self.layer.resume(transaction, resume).expect("undamaged, and there is room");
                self.owners.insert(id, owner);
                ids.push(Some(id));
                self.coverage.transactions_resumed += 1;
            }
            let lost_answer = saved.unacknowledged.as_ref().is_some_and(|(at, _)| *at >= ids.len());
            saved.call.clocks = saved.clocks(&ids, Base::default(), resume);
            let key = saved.call.key;
            let phase = saved.call.phase;
            self.coverage.calls_resumed += 1;
            self.calls.insert(key, saved.call);
            if lost_answer {
                self.hang_up(key, resume.now);
            }
            if phase == Phase::Setup && self.random.chance(500) {
                match self.calls[&key].is_uac {
                    true => self.give_up(key, resume.now),
                    false => self.respond(key, 503, resume.now),
                }
            }
            self.drain(resume.now);
            self.settle(key);
        }
        self
    }

    /// At the end of this process: what its layer counted is what happened.
    pub fn check_counters(&self) {
        let (counters, fed) = (self.layer.counters(), &self.fed);
        let told = counters.requests_received + counters.requests_repeated + counters.requests_merged;
        assert_eq!(told + counters.refused_full, fed.requests, "{counters:?} {fed:?}");
        assert_eq!(counters.requests_received, fed.handed_over, "each new request is handed over, once");
        assert_eq!(counters.responses_received + counters.responses_stray, fed.responses, "{counters:?} {fed:?}");
        assert_eq!(counters.cancels_received, fed.cancels);
        assert!(counters.timeouts >= fed.timeouts && counters.transport_failures >= fed.failures);
        assert_eq!(counters.refused_full, 0);
    }

    pub fn next_timeout(&self) -> Option<Instant> {
        self.calls.values().filter_map(|call| call.next_timeout(self.start)).chain(self.layer.next_timeout()).min()
    }
}

/// What comes in.
impl Agent {
    pub fn receive(&mut self, bytes: Bytes, flow: Flow, now: Instant) {
        let message = Message::parse(bytes).expect("what agents send can be read");
        match &message {
            Message::Request(request) if !matches!(request.method, Method::Ack | Method::Cancel) => {
                self.fed.requests += 1;
            }
            Message::Request(_) => {}
            Message::Response(_) => self.fed.responses += 1,
        }
        self.layer.receive(now, message, flow);
        self.drain(now);
    }

    pub fn connection_lost(&mut self, connection: u64, now: Instant) {
        self.layer.connection_lost(now, connection);
        self.drain(now);
    }

    pub fn transport_failed(&mut self, id: TransactionId, now: Instant) {
        self.layer.transport_failed(now, id);
        self.drain(now);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.layer.handle_timeout(now);
        self.drain(now);
        for key in self.calls.keys().copied().collect::<Vec<_>>() {
            self.clocks(key, now);
            self.drain(now);
            self.settle(key);
        }
    }

    fn clocks(&mut self, key: u32, now: Instant) {
        let now_ms = (now - self.start).as_millis() as u64;
        while let Some(call) = self.calls.get_mut(&key)
            && let Some(at) = call.plans.iter().position(|(ms, _)| *ms <= now_ms)
        {
            let (_, plan) = call.plans.remove(at);
            self.carry_out(key, plan, now);
        }
        let Some(call) = self.calls.get_mut(&key) else { return };
        if let Some((id, unacknowledged)) = &mut call.clocks.unacknowledged {
            match unacknowledged.handle_timeout(now) {
                // Its transaction may be over; the next ACK or the give-up ends this.
                Some(Due::Repeat(response)) => drop(self.layer.respond(now, *id, response)),
                Some(Due::GiveUp) => {
                    self.coverage.unacknowledged += 1;
                    call.clocks.unacknowledged = None;
                    self.hang_up(key, now);
                }
                None => {}
            }
        }
        let Some(call) = self.calls.get_mut(&key) else { return };
        if let Some((id, sender)) = &mut call.clocks.sender {
            match sender.handle_timeout(now) {
                Some(reliable::Due::Repeat(response)) => drop(self.layer.respond(now, *id, response)),
                Some(reliable::Due::GiveUp) => self.respond(key, 504, now),
                None => {}
            }
        }
        let Some(call) = self.calls.get_mut(&key) else { return };
        match call.clocks.watch.as_mut().and_then(|watch| watch.handle_timeout(now)) {
            Some(session_timer::Due::Refresh) => self.carry_out(key, Plan::Update, now),
            Some(session_timer::Due::Expire) => self.hang_up(key, now),
            None => {}
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(output) = self.layer.poll_output() {
            match output {
                Output::Transmit { flow, bytes, id } => self.sends.push((flow, bytes, id)),
                Output::Request { id, request, flow } => self.requested(id, *request, flow, now),
                Output::Ack { request, .. } => self.acknowledged(&request),
                Output::Cancel { id, .. } => self.cancelled(id, now),
                Output::Response { id, response, flow } => self.responded(id, &response, flow, now),
                Output::Timeout { id } => {
                    self.fed.timeouts += 1;
                    self.failed(id, now);
                }
                Output::TransportFailed { id } => {
                    self.fed.failures += 1;
                    self.failed(id, now);
                }
                Output::Terminated { id } => {
                    let owner = self.owners.remove(&id).expect("terminated once");
                    if let Some(key) = owner.call {
                        self.settle(key);
                    }
                }
            }
        }
    }

    /// A call that is over goes when its last transaction does.
    fn settle(&mut self, key: u32) {
        let is_over = self.calls.get(&key).is_some_and(|call| call.phase == Phase::Over);
        if is_over && !self.owners.values().any(|owner| owner.call == Some(key)) {
            let call = self.calls.remove(&key).expect("it is there");
            assert!(!call.is_uac || call.outcome.is_some(), "an INVITE without an outcome");
            assert!(call.open.is_none(), "an INVITE of the peer without an answer");
            self.coverage.calls_over += 1;
        }
    }
}

/// Messages of the peer.
impl Agent {
    fn requested(&mut self, id: TransactionId, request: Request, flow: Flow, now: Instant) {
        self.fed.handed_over += 1;
        let mut owner = Owner {
            call: None,
            ours: false,
            method: request.method.clone(),
            cseq: request.headers.cseq().expect("parsed").number,
            sip_call_id: request.headers.call_id().expect("parsed").to_owned(),
            first: false,
        };
        let dialog_id = DialogId::of_request(&request).expect("parsed");
        if let Some(dialog_id) = dialog_id {
            let call = self.calls.values_mut().find(|call| *call.local_tag == *dialog_id.local_tag);
            owner.call = call.as_ref().map(|call| call.key);
            self.owners.insert(id, owner);
            let dialog = call.and_then(|call| match (&mut call.dialog, &mut call.forks) {
                (Some(dialog), _) if dialog.id() == &dialog_id => Some((call.key, dialog)),
                (_, Some(forks)) => forks.early_mut(&dialog_id.remote_tag).map(|dialog| (call.key, dialog)),
                _ => None,
            });
            let Some((key, dialog)) = dialog else {
                return self.answer(id, &Response::to(&request, StatusCode::CALL_DOES_NOT_EXIST), now);
            };
            return match dialog.receive(&request) {
                Err(refusal) => self.answer(id, &refusal.response(&request), now),
                Ok(()) => self.requested_in_dialog(key, id, request, now),
            };
        }
        assert_eq!(request.method, Method::Invite, "only INVITE opens something here");
        self.coverage.invited += 1;
        let key = self.new_key();
        owner.call = Some(key);
        owner.first = true;
        self.owners.insert(id, owner);
        let local_tag = self.tokens.token();
        let dialog = Dialog::uas(&request, &local_tag, self.contact(flow)).expect("readable");
        let now_ms = (now - self.start).as_millis() as u64;
        let mut plans = Vec::new();
        let final_ms = self.random.below(20_000);
        if self.random.chance(500) {
            let is_reliable = request.headers.lists(Name::Supported, reliable::OPTION_TAG) && self.random.chance(500);
            let plan = if is_reliable { Plan::RespondReliably } else { Plan::Respond(180) };
            plans.push((now_ms + self.random.below(1_000), plan));
        }
        plans.push((now_ms + final_ms, Plan::Respond(self.random.one_of(&[200, 200, 200, 200, 404, 486, 603]))));
        let clocks = Clocks { open_id: Some(id), ..Clocks::default() };
        let (sip_call_id, open) = (dialog.id().call_id.to_string(), Some(request));
        let call = Call {
            key,
            is_uac: false,
            sip_call_id,
            local_tag,
            flow,
            dialog: Some(dialog),
            open,
            plans,
            clocks,
            ..blank()
        };
        self.calls.insert(key, call);
    }

    fn requested_in_dialog(&mut self, key: u32, id: TransactionId, request: Request, now: Instant) {
        let call = self.calls.get_mut(&key).expect("found above");
        let is_gone = matches!(call.phase, Phase::Ending | Phase::Over) && request.method != Method::Bye;
        let status = match request.method {
            _ if is_gone => 481,
            Method::Bye => 200,
            Method::Info => 200,
            Method::Prack => {
                let rack = request.headers.rack().expect("parsed").expect("a PRACK of an agent has one");
                let sender = call.clocks.sender.as_mut();
                let is_matched = sender.is_some_and(|(_, sender)| sender.acknowledge(&rack).is_ok());
                self.coverage.pracked += u64::from(is_matched);
                if is_matched { 200 } else { 481 }
            }
            // Our own INVITE is still open: a snapshot that was too old does not know that it was answered.
            Method::Invite | Method::Update if call.dialog.is_none() => 491,
            // The peer has not acknowledged our last answer yet, or has not answered.
            Method::Invite | Method::Update if call.open.is_some() || call.clocks.unacknowledged.is_some() => 500,
            Method::Invite | Method::Update => match call.renegotiation.admit(&mut self.tokens) {
                Admission::Admit if request.method == Method::Update => {
                    call.renegotiation.finish_theirs();
                    200
                }
                Admission::Admit => {
                    call.clocks.open_id = Some(id);
                    call.open = Some(request);
                    let at = (now - self.start).as_millis() as u64 + self.random.below(3_000);
                    call.plans.push((at, Plan::Respond(self.random.one_of(&[200, 200, 488]))));
                    return;
                }
                Admission::RequestPending => {
                    self.coverage.glares += 1;
                    491
                }
                Admission::Later { .. } => 500,
            },
            _ => 405,
        };
        let mut response = Response::to(&request, StatusCode::new(status).expect("a status"));
        if let Some(dialog) = &call.dialog {
            response = dialog.response(&request, response.status);
        }
        if request.method == Method::Update && status == 200 {
            self.agree(key, &request, &mut response, now);
        }
        self.answer(id, &response, now);
        if request.method == Method::Bye {
            self.ended(key, now);
        }
    }

    /// The peer hung up: what is open is refused.
    fn ended(&mut self, key: u32, now: Instant) {
        self.respond(key, 487, now);
        let call = self.calls.get_mut(&key).expect("it is there");
        self.coverage.byes_before_acks += u64::from(call.clocks.unacknowledged.is_some());
        // An early dialog's BYE ends that dialog only; our INVITE still has its outcome to come.
        if !call.is_uac || call.outcome.is_some() {
            call.over();
        }
    }

    fn acknowledged(&mut self, ack: &Request) {
        let Ok(Some(dialog_id)) = DialogId::of_request(ack) else { return };
        let Some(call) = self.calls.values_mut().find(|call| *call.local_tag == *dialog_id.local_tag) else { return };
        assert_eq!(call.sip_call_id, *dialog_id.call_id, "our tags are unique");
        if let Some((_, unacknowledged)) = &call.clocks.unacknowledged {
            if unacknowledged.is_acknowledged_by(ack) {
                call.clocks.unacknowledged = None;
                self.coverage.acknowledged += 1;
            } else {
                self.coverage.acks_of_another += 1;
            }
        }
    }

    fn cancelled(&mut self, id: TransactionId, now: Instant) {
        self.fed.cancels += 1;
        self.coverage.cancelled += 1;
        let owner = self.owners.get(&id).expect("an open INVITE");
        assert_eq!(owner.method, Method::Invite);
        let key = owner.call.expect("every INVITE has a call");
        let is_open = self.calls.get(&key).is_some_and(|call| call.clocks.open_id == Some(id));
        if is_open {
            self.respond(key, 487, now);
        }
    }

    fn responded(&mut self, id: TransactionId, response: &Response, flow: Flow, now: Instant) {
        let owner = self.owners.get(&id).expect("a response to a transaction that lives").clone();
        let cseq = response.headers.cseq().expect("parsed");
        assert!(owner.ours, "a response to a request of the peer");
        assert_eq!((&owner.method, owner.cseq), (&cseq.method, cseq.number), "a response to another request");
        assert_eq!(owner.sip_call_id, response.headers.call_id().expect("parsed"), "a response to another call");
        let Some(key) = owner.call else { return };
        let Some(call) = self.calls.get_mut(&key) else { panic!("a transaction outlived its call") };
        if owner.first {
            return self.invite_responded(key, response, flow, now);
        }
        if !response.status.is_final() {
            return;
        }
        let is_lost = matches!(response.status.get(), 408 | 481);
        match cseq.method {
            Method::Invite => {
                call.renegotiation.finish_ours();
                if response.status.is_success() {
                    if call.ack_cseq != cseq.number {
                        let dialog = call.dialog.as_mut().expect("a re-INVITE is within one");
                        dialog.receive_response(response).expect("readable");
                        let ack = dialog.ack(response).expect("readable");
                        (call.ack, call.ack_cseq) = (Some(self.layer.send_ack(ack, call.flow)), cseq.number);
                    } else if let Some(ack) = &call.ack {
                        self.sends.push((call.flow, ack.clone(), None));
                    }
                }
            }
            Method::Update => {
                call.renegotiation.finish_ours();
                if response.status.is_success() {
                    call.dialog.as_mut().expect("within one").receive_response(response).expect("readable");
                    let agreed = session_timer::settle(response.headers.session_expires().ok().flatten());
                    if call.phase == Phase::Talking {
                        call.clocks.watch = agreed.map(|agreed| Watch::new(now, agreed, Refresher::Uac));
                    }
                }
            }
            Method::Bye if call.phase == Phase::Ending => return call.over(),
            _ => {}
        }
        if is_lost && call.phase == Phase::Talking && cseq.method != Method::Prack {
            self.hang_up(key, now);
        }
    }

    fn invite_responded(&mut self, key: u32, response: &Response, flow: Flow, now: Instant) {
        let call = self.calls.get_mut(&key).expect("it is there");
        let forks = call.forks.as_mut().expect("an INVITE of ours");
        match forks.receive(response).expect("readable") {
            Heard::Trying | Heard::Ignored => {}
            Heard::Early { remote_tag, reliable } => {
                if reliable == Some(Verdict::Acknowledge) && call.phase == Phase::Setup {
                    let dialog = forks.early_mut(&remote_tag).expect("just heard");
                    let prack = dialog.prack(response).expect("readable").expect("reliable");
                    self.send(key, prack, now);
                }
            }
            Heard::Answered(dialog) => {
                assert_eq!(call.outcome.replace(Outcome::Answered), None, "one outcome");
                self.coverage.answered += 1;
                let was_cancelled = call.phase == Phase::Cancelling;
                call.phase = Phase::Talking;
                call.plans.clear();
                let to = dialog.target().host().and_then(|host| host.ip()).expect("agents have addresses");
                call.flow = Flow { remote: SocketAddr::new(to, 5060), connection: flow.connection, ..call.flow };
                let ack = self.layer.send_ack(dialog.ack(response).expect("readable"), call.flow);
                forks.acknowledged(&dialog.id().remote_tag, ack);
                call.dialog = Some(*dialog);
                let agreed = session_timer::settle(response.headers.session_expires().ok().flatten());
                call.clocks.watch = agreed.map(|agreed| Watch::new(now, agreed, Refresher::Uac));
                if was_cancelled { self.hang_up(key, now) } else { self.plan_talk(key, now) }
            }
            Heard::Surplus(mut dialog) => {
                self.coverage.surplus += 1;
                let to = dialog.target().host().and_then(|host| host.ip()).expect("agents have addresses");
                let flow = Flow { remote: SocketAddr::new(to, 5060), ..call.flow };
                let ack = self.layer.send_ack(dialog.ack(response).expect("readable"), flow);
                forks.acknowledged(&dialog.id().remote_tag, ack);
                let bye = dialog.request(Method::Bye);
                self.send_over(key, bye, flow, now);
            }
            Heard::Repeated { ack } => {
                if let Some(ack) = ack {
                    let to = response.headers.contact().ok().flatten().and_then(|contact| contact.uri.host()?.ip());
                    let flow = Flow { remote: SocketAddr::new(to.expect("an address"), 5060), ..call.flow };
                    self.sends.push((flow, ack, None));
                }
            }
            Heard::Refused => {
                assert_eq!(call.outcome.replace(Outcome::Refused), None, "one outcome");
                self.coverage.refused += 1;
                call.over();
            }
        }
    }

    /// No answer (client), no ACK to a refusal (server), or no way there.
    fn failed(&mut self, id: TransactionId, now: Instant) {
        let owner = self.owners.get(&id).expect("it lives until it is terminated").clone();
        let Some(call) = owner.call.filter(|_| owner.ours).and_then(|key| self.calls.get_mut(&key)) else { return };
        match owner.method {
            Method::Invite if owner.first && call.outcome.is_some() => {}
            Method::Invite if owner.first => {
                call.outcome = Some(Outcome::Failed);
                self.coverage.failed += 1;
                call.over();
            }
            Method::Bye if call.phase == Phase::Ending => call.over(),
            Method::Invite | Method::Update => {
                call.renegotiation.finish_ours();
                let key = call.key;
                self.hang_up(key, now);
            }
            _ => {}
        }
    }
}

/// What the user does.
impl Agent {
    pub fn call(&mut self, flow: Flow, now: Instant) {
        let key = self.new_key();
        let (local_tag, sip_call_id) = (self.tokens.token(), self.tokens.token());
        let mut invite = Request::new(Method::Invite, format!("sip:x@{}", flow.remote).parse().expect("a URI"))
            .with(Name::MaxForwards, "70")
            .with(Name::From, format!("<sip:{}>;tag={local_tag}", self.addr))
            .with(Name::To, format!("<sip:x@{}>", flow.remote))
            .with(Name::CallId, sip_call_id.as_str())
            .with(Name::CSeq, "1 INVITE")
            .with(Name::Contact, self.contact(flow).to_string())
            .with(Name::Supported, "timer, 100rel");
        session_timer::request(POLICY, None).put(&mut invite.headers);
        let id = self.layer.request(now, invite.clone(), flow).expect("there is room");
        let owner = Owner {
            call: Some(key),
            ours: true,
            method: Method::Invite,
            cseq: 1,
            sip_call_id: sip_call_id.clone(),
            first: true,
        };
        self.owners.insert(id, owner);
        let patience =
            (now - self.start).as_millis() as u64 + self.random.one_of(&[0, 300, 5_000, 60_000, 60_000, 60_000]);
        let forks = Some(Forks::new(invite));
        let clocks = Clocks { invite_id: Some(id), ..Clocks::default() };
        let plans = vec![(patience, Plan::GiveUp)];
        let call = Call { key, is_uac: true, sip_call_id, local_tag, flow, forks, plans, clocks, ..blank() };
        self.calls.insert(key, call);
        self.coverage.called += 1;
        self.drain(now);
    }

    fn carry_out(&mut self, key: u32, plan: Plan, now: Instant) {
        let Some(call) = self.calls.get_mut(&key) else { return };
        let may_change = call.phase == Phase::Talking && call.clocks.unacknowledged.is_none();
        match plan {
            Plan::GiveUp => self.give_up(key, now),
            Plan::RespondReliably => self.ring_reliably(key, now),
            Plan::Respond(200)
                if call.clocks.sender.as_ref().is_some_and(|(_, sender)| sender.holds_back_success()) =>
            {
                // The 183 with SDP waits for its PRACK, or for its end.
                let at = (now - self.start).as_millis() as u64 + 200;
                call.plans.push((at, plan));
            }
            Plan::Respond(status) => self.respond(key, status, now),
            Plan::HangUp if call.clocks.unacknowledged.is_some() => {
                // 15: not before the ACK, or its time is up.
                let at = (now - self.start).as_millis() as u64 + 1_000;
                call.plans.push((at, plan));
            }
            Plan::HangUp => self.hang_up(key, now),
            Plan::Reinvite | Plan::Update if may_change && call.open.is_none() && call.renegotiation.begin() => {
                let is_update = plan == Plan::Update;
                let method = if is_update { Method::Update } else { Method::Invite };
                let mut request = call.dialog.as_mut().expect("talking").request(method);
                if is_update {
                    request.headers.push(Name::Supported, "timer");
                    session_timer::request(POLICY, None).put(&mut request.headers);
                }
                self.coverage.changes += 1;
                self.send(key, request, now);
            }
            Plan::Info if may_change => {
                let info = call.dialog.as_mut().expect("talking").request(Method::Info);
                self.send(key, info, now);
            }
            Plan::Reinvite | Plan::Update | Plan::Info => {}
        }
    }

    fn plan_talk(&mut self, key: u32, now: Instant) {
        let now_ms = (now - self.start).as_millis() as u64;
        let length_ms = self.random.one_of(&[0, 2_000, 4_000, 20_000, 120_000]);
        let call = self.calls.get_mut(&key).expect("it is there");
        for plan in [Plan::Reinvite, Plan::Update, Plan::Info, Plan::Reinvite, Plan::Reinvite] {
            if self.random.chance(300) {
                call.plans.push((now_ms + self.random.below(length_ms + 1), plan));
            }
        }
        call.plans.push((now_ms + length_ms, Plan::HangUp));
    }

    fn ring_reliably(&mut self, key: u32, now: Instant) {
        let call = self.calls.get_mut(&key).expect("it is there");
        let (Some(open), Some(id), Some(dialog)) = (&call.open, call.clocks.open_id, &call.dialog) else { return };
        let cseq = open.headers.cseq().expect("parsed").number;
        let mut sender = Sender::new(Base::default(), cseq, self.tokens.below(reliable::RSEQ_FIRST_BOUND));
        let has_sdp = self.random.chance(500);
        let response = sender.send(now, has_sdp, |rseq| {
            dialog
                .response(open, StatusCode::new(183).expect("a status"))
                .with(Name::Require, reliable::OPTION_TAG)
                .with(Name::RSeq, rseq.to_string())
        });
        let response = response.expect("the first").clone();
        call.clocks.sender = Some((id, sender));
        self.answer(id, &response, now);
    }

    /// Answers what is open, if anything is.
    fn respond(&mut self, key: u32, status: u16, now: Instant) {
        let call = self.calls.get_mut(&key).expect("it is there");
        let (Some(open), Some(id)) = (call.open.take(), call.clocks.open_id) else { return };
        let status = StatusCode::new(status).expect("a status");
        let mut response = call.dialog.as_ref().expect("the peer's INVITE makes one").response(&open, status);
        if !status.is_final() {
            call.open = Some(open);
            return self.answer(id, &response, now);
        }
        let is_first = call.phase == Phase::Setup;
        call.clocks.open_id = None;
        call.plans.retain(|(_, plan)| !matches!(plan, Plan::Respond(_) | Plan::RespondReliably));
        call.renegotiation.finish_theirs();
        if let Some((_, sender)) = &mut call.clocks.sender {
            sender.finish();
        }
        if status.is_success() {
            let cseq = open.headers.cseq().expect("parsed").number;
            call.phase = Phase::Talking;
            call.dialog.as_mut().expect("as above").confirm();
            self.agree(key, &open, &mut response, now);
            let call = self.calls.get_mut(&key).expect("it is there");
            let unacknowledged = Unacknowledged::new(now, Base::default(), cseq, response.clone());
            assert!(call.clocks.unacknowledged.replace((id, unacknowledged)).is_none(), "one 2xx at a time");
            if is_first {
                self.coverage.picked_up += 1;
                self.plan_talk(key, now);
            }
        } else if is_first {
            call.over();
        }
        self.answer(id, &response, now);
    }

    fn agree(&mut self, key: u32, request: &Request, response: &mut Response, now: Instant) {
        let offer = Offer::of(&request.headers);
        let agreed = session_timer::answer(POLICY, &offer).expect("our own interval is long enough");
        if let Some(agreed) = agreed.filter(|_| offer != Offer::of(&Headers::default())) {
            agreed.put(&mut response.headers);
            let call = self.calls.get_mut(&key).expect("it is there");
            if call.phase == Phase::Talking {
                call.clocks.watch = Some(Watch::new(now, agreed, Refresher::Uas));
            }
        }
    }

    fn give_up(&mut self, key: u32, now: Instant) {
        let call = self.calls.get_mut(&key).expect("it is there");
        if call.phase == Phase::Setup && call.is_uac {
            call.phase = Phase::Cancelling;
            let id = call.clocks.invite_id.expect("it is open");
            self.layer.cancel(now, id, None).expect("an INVITE without an outcome can be taken back");
        }
    }

    fn hang_up(&mut self, key: u32, now: Instant) {
        self.respond(key, 487, now);
        let call = self.calls.get_mut(&key).expect("it is there");
        if call.phase != Phase::Talking {
            return;
        }
        let bye = call.dialog.as_mut().expect("talking").request(Method::Bye);
        call.over();
        call.phase = Phase::Ending;
        self.coverage.hung_up += 1;
        self.send(key, bye, now);
    }

    fn answer(&mut self, id: TransactionId, response: &Response, now: Instant) {
        // Refused only where the transaction is gone: the peer gave up, or its connection did.
        let refused = self.layer.respond(now, id, response);
        assert!(
            refused.is_ok() || !self.owners.contains_key(&id) || self.layer.save(id, now).is_none(),
            "{refused:?} {}",
            response.status
        );
    }

    fn send(&mut self, key: u32, request: Request, now: Instant) {
        let flow = self.calls[&key].flow;
        self.send_over(key, request, flow, now);
    }

    fn send_over(&mut self, key: u32, request: Request, flow: Flow, now: Instant) {
        let cseq = request.headers.cseq().expect("ours");
        let sip_call_id = self.calls[&key].sip_call_id.clone();
        let owner =
            Owner { call: Some(key), ours: true, method: cseq.method, cseq: cseq.number, sip_call_id, first: false };
        let id = self.layer.request(now, request, flow).expect("there is room");
        self.owners.insert(id, owner);
    }

    fn contact(&self, flow: Flow) -> NameAddr {
        let transport = if flow.protocol == Protocol::Tcp { ";transport=tcp" } else { "" };
        NameAddr::parse(&format!("<sip:{}{transport}>", self.addr)).expect("an address")
    }

    fn new_key(&mut self) -> u32 {
        (self.random.next() >> 32) as u32
    }
}

fn blank() -> Call {
    let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
    Call {
        key: 0,
        is_uac: false,
        sip_call_id: String::new(),
        local_tag: String::new(),
        flow: Flow { protocol: Protocol::Udp, local: nowhere, remote: nowhere, connection: 0 },
        phase: Phase::Setup,
        dialog: None,
        forks: None,
        renegotiation: Renegotiation::default(),
        open: None,
        ack: None,
        ack_cseq: 0,
        outcome: None,
        plans: Vec::new(),
        clocks: Clocks::default(),
    }
}

/// How long after the last plan everything must have ended: timers of 32 s in a row, or timer C.
pub const REST: Duration = Duration::from_secs(900);
