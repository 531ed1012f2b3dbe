//! One end of a held call: a dialog that lives until somebody hangs up, whatever happens to the system meanwhile.
//!
//! A task a leg. It serves what comes (re-INVITE, BYE, repeats) and carries out what the driver asks, one request after the
//! other.

use super::client::{Client, Outcome, Purpose, unix_ms};
use super::record::{Ended, Record, Shared, Stage, edit};
use crate::id::random_id;
use crate::media::Session;
use crate::sip::endpoint::Call;
use crate::sip::message::{
    Account, Side, authorization, contact, contact_uri, cseq, media_address, response, retry_after, session, to,
    uri_address,
};
use crate::sip::{Failure, T1, T2, TRANSACTION_TIMEOUT};
use crate::srtp::{Exchange, Step};
use rsip::{Header, Method, Request, Response, SipMessage};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until};

/// How long an ended leg still answers repeats: timer J of RFC 3261 is as long.
const LINGER: Duration = TRANSACTION_TIMEOUT;

/// Requests of the driver that wait for their turn on a leg.
pub const ORDERS_MAX: usize = 16;

/// What the driver asks of a leg, and who wants to know what came of it.
pub enum Order {
    /// A re-INVITE.
    Reinvite {
        /// With a new key for what we send.
        rekey: bool,
        /// Who asks.
        answer: oneshot::Sender<Outcome>,
    },
    /// A BYE.
    Bye(oneshot::Sender<Outcome>),
}

/// How a leg begins.
pub enum Begin {
    /// It calls.
    Call {
        /// With these credentials.
        account: Account,
        /// How long an INVITE may be in progress.
        patience: Duration,
        /// Told what came of it.
        answer: oneshot::Sender<Outcome>,
    },
    /// It takes this INVITE, which came from there, after ringing for a while.
    Take {
        /// The INVITE.
        invite: Box<Request>,
        /// Its source.
        from: SocketAddr,
        /// How long it rings.
        ring: Duration,
    },
}

/// Everything a leg is.
pub struct Leg {
    /// Its share of a socket.
    pub call: Call,
    /// Its dialog.
    pub side: Side,
    /// Its sound, until its end.
    pub session: Option<Session>,
    /// How its sound is protected.
    pub keys: Exchange,
    /// What the driver sees of it.
    pub record: Shared,
    /// The packetization time it offers.
    pub ptime_ms: usize,
    /// What the driver asks.
    pub orders: mpsc::Receiver<Order>,
}

/// A final response of ours, for repeats of its request; an INVITE's is repeated until its ACK.
struct Reply {
    cseq: Option<(u32, Method)>,
    message: SipMessage,
    to: SocketAddr,
    /// How long to wait, when it is due again, and when to give up.
    repeat: Option<(Duration, Instant, Instant)>,
}

/// A leg under way.
struct Running {
    leg: Leg,
    account: Option<Account>,
    client: Option<Client>,
    waiting: VecDeque<Order>,
    reply: Option<Reply>,
    /// The INVITE that we let ring, and until when.
    ringing: Option<(Request, SocketAddr, Instant)>,
    acknowledge: Option<Request>,
    tag: String,
    remote_media: Option<SocketAddr>,
    media: Option<Session>,
    version: u32,
    over: Option<Instant>,
    patience: Duration,
}

/// Runs one until some time after its end.
pub async fn run(mut leg: Leg, begin: Begin) {
    let record = leg.record.clone();
    let tag = random_id();
    let media = leg.session.take();
    let mut running = Running {
        leg,
        account: None,
        client: None,
        waiting: VecDeque::new(),
        reply: None,
        ringing: None,
        acknowledge: None,
        tag,
        remote_media: None,
        media,
        version: 1,
        over: None,
        patience: TRANSACTION_TIMEOUT,
    };
    let lived = async {
        running.begin(begin).await?;
        running.serve().await
    };
    if let Err(e) = lived.await {
        edit(&record, |record| record.fail(e.to_string()));
    }
}

impl Running {
    async fn begin(&mut self, begin: Begin) -> Result<(), Failure> {
        match begin {
            Begin::Call { account, patience, answer } => {
                (self.account, self.patience) = (Some(account), patience);
                let offer = self.description();
                self.request(Method::Invite, Purpose::Setup { challenged: false }, Some(answer), Vec::new(), &offer)
                    .await
            }
            Begin::Take { invite, from, ring } => {
                self.remote_media = Some(media_address(&invite.body)?);
                let agreed = self.leg.keys.hear(&invite.body, Step::Offer);
                self.leg.side.from = tagged(&header(&invite, "to")?, &self.tag);
                self.leg.side.to = header(&invite, "from")?;
                self.follow(contact_uri(&*invite)?);
                if let Err(e) = agreed {
                    self.reply(&invite, from, 488, "").await?;
                    return Err(e);
                }
                if ring.is_zero() {
                    return self.answer(&invite, from).await;
                }
                self.leg.call.send_to(self.respond(&invite, 180, "").into(), from).await?;
                self.ringing = Some((*invite, from, Instant::now() + ring));
                Ok(())
            }
        }
    }

    async fn serve(&mut self) -> Result<(), Failure> {
        let mut listening = true;
        while self.over.is_none_or(|at| Instant::now() < at) {
            if self.client.is_none()
                && let Some(order) = self.waiting.pop_front()
            {
                self.obey(order).await?;
            }
            let due = self.due();
            tokio::select! {
                message = self.leg.call.receive() => match message {
                    Some((SipMessage::Request(request), from)) => self.requested(request, from).await?,
                    Some((SipMessage::Response(response), _)) => self.responded(response).await?,
                    None => return Ok(()),
                },
                order = self.leg.orders.recv(), if listening => match order {
                    Some(order) => self.waiting.push_back(order),
                    None => listening = false,
                },
                () = sleep_until(due) => self.act().await?,
            }
        }
        Ok(())
    }

    fn due(&self) -> Instant {
        let clocks = [
            self.client.as_ref().map(Client::due),
            self.reply.as_ref().and_then(|reply| reply.repeat).map(|(_, next, _)| next),
            self.ringing.as_ref().map(|(.., until)| *until),
            self.over,
        ];
        clocks.into_iter().flatten().min().unwrap_or_else(|| Instant::now() + TRANSACTION_TIMEOUT)
    }

    /// What time brings.
    async fn act(&mut self) -> Result<(), Failure> {
        let now = Instant::now();
        if let Some((invite, from, _)) = self.ringing.take_if(|(.., until)| *until <= now) {
            self.answer(&invite, from).await?;
        }
        if let Some(reply) = &mut self.reply
            && let Some((wait, next, end)) = &mut reply.repeat
            && *next <= now
        {
            if now >= *end {
                reply.repeat = None;
                edit(&self.leg.record, |record| record.unacknowledged += 1);
                // RFC 3261 section 13.3.1.4: the session should be terminated.
                if self.client.is_none() && self.over.is_none() {
                    self.request(Method::Bye, Purpose::Bye, None, Vec::new(), "").await?;
                }
            } else {
                *wait = (*wait * 2).min(T2);
                *next = now + *wait;
                self.leg.call.send_to(reply.message.clone(), reply.to).await?;
            }
        }
        if self.client.as_ref().is_some_and(Client::is_over) {
            if let Some(client) = self.client.take() {
                self.completed(client, None).await?;
            }
        } else if let Some(client) = &mut self.client
            && client.due() <= now
        {
            client.again();
            self.leg.call.send(client.request.clone().into()).await?;
        }
        Ok(())
    }

    async fn obey(&mut self, order: Order) -> Result<(), Failure> {
        let stage = edit(&self.leg.record, |record| record.stage);
        match order {
            // Who asks is told by the answer that never comes.
            _ if stage != Stage::Up => Ok(()),
            Order::Reinvite { rekey, answer } => {
                self.version += 1;
                if rekey {
                    self.leg.keys.renew();
                }
                let offer = self.description();
                self.request(Method::Invite, Purpose::Reinvite, Some(answer), Vec::new(), &offer).await
            }
            Order::Bye(answer) => self.request(Method::Bye, Purpose::Bye, Some(answer), Vec::new(), "").await,
        }
    }

    async fn request(
        &mut self,
        method: Method,
        purpose: Purpose,
        answer: Option<oneshot::Sender<Outcome>>,
        more: Vec<Header>,
        body: &str,
    ) -> Result<(), Failure> {
        let branch = random_id();
        let request = self.leg.side.request(method, &branch, more, body)?;
        self.client = Some(Client::new(request.clone(), branch, purpose, answer, self.patience));
        self.leg.call.send(request.into()).await
    }

    async fn responded(&mut self, response: Response) -> Result<(), Failure> {
        let (its, code) = (cseq(&response), response.status_code.code());
        if let Some(client) = self.client.take_if(|client| client.is_answered_by(&its)) {
            if code < 200 {
                let mut client = client;
                client.proceeds();
                self.client = Some(client);
                return Ok(());
            }
            return self.completed(client, Some(response)).await;
        }
        // Our ACK was lost.
        if code >= 200
            && let Some(ack) = &self.acknowledge
            && its.map(|(number, _)| number) == cseq(ack).map(|(number, _)| number)
        {
            self.leg.call.send(ack.clone().into()).await?;
        }
        Ok(())
    }

    /// A final response, or none in time.
    async fn completed(&mut self, mut client: Client, response: Option<Response>) -> Result<(), Failure> {
        let code = response.as_ref().map_or(0, |r| r.status_code.code());
        let outcome = client.outcome(code, response.as_ref().and_then(retry_after));
        if let (true, Some(response)) = (client.is_invite(), &response) {
            let mut side = self.leg.side.clone();
            side.to = to(response)?;
            let branch = if code < 300 {
                self.leg.side.to = side.to.clone();
                self.follow(contact_uri(response)?);
                side.target = self.leg.side.target.clone();
                random_id()
            } else {
                client.branch.clone()
            };
            let ack = side.request(Method::Ack, &branch, Vec::new(), "")?;
            self.leg.call.send(ack.clone().into()).await?;
            self.acknowledge = Some(ack);
        }
        match (client.purpose, response) {
            (Purpose::Setup { challenged: false }, Some(refusal)) if code == 401 => {
                let account = self.account.as_ref().ok_or(Failure::Malformed("challenge"))?;
                let target = self.leg.side.target.clone();
                let more = vec![authorization(account, &refusal, &Method::Invite, &target, &random_id())?];
                let branch = random_id();
                let request = self.leg.side.request(Method::Invite, &branch, more, &self.description())?;
                self.leg.call.send(request.clone().into()).await?;
                self.client = Some(client.challenged(request, branch));
                return Ok(());
            }
            (Purpose::Setup { .. }, Some(answer)) if code < 300 => {
                let remote = media_address(&answer.body)?;
                self.leg.keys.hear(&answer.body, Step::Answer)?;
                self.talk(remote)?;
                edit(&self.leg.record, |record| (record.setup, record.stage) = (Some(outcome), Stage::Up));
            }
            (Purpose::Setup { .. }, answered) => {
                edit(&self.leg.record, |record| (record.setup, record.stage) = (Some(outcome), Stage::Refused));
                if answered.is_none() {
                    self.give_up(&client).await?;
                }
                self.end(None).await;
            }
            (Purpose::Reinvite, Some(answer)) if code < 300 => self.settled(&answer.body, Step::Answer)?,
            (Purpose::Reinvite, _) => self.leg.keys.keep(),
            (Purpose::Bye, _) => {
                let ended = Ended { by_us: true, unix_ms: outcome.sent_unix_ms, outcome: Some(outcome) };
                self.end(Some(ended)).await;
            }
        }
        if let Some(answer) = client.answer.take() {
            // Nobody may wait any more.
            answer.send(outcome).ok();
        }
        Ok(())
    }

    /// Nobody answered our INVITE: CANCEL, once.
    async fn give_up(&self, client: &Client) -> Result<(), Failure> {
        let mut side = self.leg.side.clone();
        let cancel = side.request(Method::Cancel, &client.branch, Vec::new(), "")?;
        self.leg.call.send(cancel.into()).await
    }

    async fn requested(&mut self, request: Request, from: SocketAddr) -> Result<(), Failure> {
        let its = cseq(&request);
        if request.method == Method::Ack {
            if let Some(reply) = &mut self.reply
                && reply.cseq.as_ref().map(|(n, _)| *n) == its.map(|(n, _)| n)
                && reply.repeat.take().is_some()
                && let Some(remote) = self.remote_media
            {
                self.talk(remote)?;
            }
            return Ok(());
        }
        if let Some(reply) = &self.reply
            && reply.cseq == its
        {
            return self.leg.call.send_to(reply.message.clone(), from).await;
        }
        match request.method {
            Method::Cancel => {
                self.leg.call.send_to(self.respond(&request, 200, "").into(), from).await?;
                if let Some((invite, at, _)) = self.ringing.take() {
                    self.leg.call.send_to(self.respond(&invite, 487, "").into(), at).await?;
                    edit(&self.leg.record, |record| record.stage = Stage::Cancelled);
                    self.end(None).await;
                }
                Ok(())
            }
            Method::Bye => {
                let ended = Ended { by_us: false, unix_ms: unix_ms(), outcome: None };
                self.end(Some(ended)).await;
                self.reply(&request, from, 200, "").await
            }
            Method::Invite if self.over.is_some() => self.reply(&request, from, 481, "").await,
            // Still being asked: a repeat of the INVITE.
            Method::Invite if self.ringing.is_some() => Ok(()),
            Method::Invite if self.client.as_ref().is_some_and(Client::is_invite) => {
                self.reply(&request, from, 491, "").await
            }
            Method::Invite => {
                if !request.body.is_empty() {
                    self.settled(&request.body, Step::Offer)?;
                }
                self.answer(&request, from).await
            }
            _ => self.reply(&request, from, 200, "").await,
        }
    }

    /// 200 with our description, repeated until its ACK.
    async fn answer(&mut self, invite: &Request, from: SocketAddr) -> Result<(), Failure> {
        let is_first = edit(&self.leg.record, |record| record.stage == Stage::Setup);
        let sent = unix_ms();
        let body = self.description();
        self.reply(invite, from, 200, &body).await?;
        let now = Instant::now();
        if let Some(reply) = &mut self.reply {
            reply.repeat = Some((T1, now + T1, now + TRANSACTION_TIMEOUT));
        }
        if is_first {
            let outcome = Outcome { code: 200, retry_after_s: None, sent_unix_ms: sent, final_unix_ms: sent, tries: 1 };
            edit(&self.leg.record, |record| (record.setup, record.stage) = (Some(outcome), Stage::Up));
        }
        Ok(())
    }

    async fn reply(&mut self, request: &Request, from: SocketAddr, code: u16, body: &str) -> Result<(), Failure> {
        let message = SipMessage::from(self.respond(request, code, body));
        self.reply = Some(Reply { cseq: cseq(request), message: message.clone(), to: from, repeat: None });
        self.leg.call.send_to(message, from).await
    }

    fn respond(&self, request: &Request, code: u16, body: &str) -> Response {
        let contact = contact(&self.leg.side.user, self.leg.side.local);
        response(request, code, &self.tag, Some(contact), body)
    }

    /// Speaks from now on, if it doesn't yet.
    fn talk(&mut self, remote: SocketAddr) -> Result<(), Failure> {
        self.remote_media = Some(remote);
        match &mut self.media {
            Some(media) => Ok(media.start(remote, self.leg.keys.secure()?)?),
            None => Ok(()),
        }
    }

    /// A change must leave the other side's address and key as they were: nothing here ever asks for others.
    fn settled(&mut self, sdp: &[u8], step: Step) -> Result<(), Failure> {
        if self.remote_media != Some(media_address(sdp)?) {
            edit(&self.leg.record, |record| record.media_moved += 1);
        }
        if self.leg.keys.hear(sdp, step)? {
            edit(&self.leg.record, |record| record.keys_changed += 1);
        }
        if let (Some(key), Some(media)) = (self.leg.keys.renewed(), &self.media) {
            media.rekey(key);
        }
        Ok(())
    }

    /// Requests go there from now on.
    fn follow(&mut self, target: String) {
        if let Some(address) = uri_address(&target) {
            self.leg.call.direct(address);
        }
        self.leg.side.target = target;
    }

    fn description(&self) -> String {
        self.media.as_ref().map_or_else(String::new, |media| {
            session(media.local, self.version, self.leg.ptime_ms, &self.leg.keys.terms())
        })
    }

    async fn end(&mut self, ended: Option<Ended>) {
        self.over = Some(Instant::now() + LINGER);
        let heard = match self.media.take() {
            Some(media) => Some(media.stop().await),
            None => None,
        };
        edit(&self.leg.record, |record: &mut Record| {
            record.heard = record.heard.or(heard);
            if ended.is_some() && record.ended.is_none() {
                (record.ended, record.stage) = (ended, Stage::Ended);
            }
        });
    }
}

/// The value of From or To.
fn header(request: &Request, name: &str) -> Result<String, Failure> {
    use rsip::headers::UntypedHeader;
    let found = request.headers.iter().find_map(|header| match (header, name) {
        (Header::To(to), "to") => Some(to.value().to_owned()),
        (Header::From(from), "from") => Some(from.value().to_owned()),
        _ => None,
    });
    found.ok_or(Failure::Malformed("no From or To"))
}

fn tagged(value: &str, tag: &str) -> String {
    format!("{value};tag={tag}")
}
