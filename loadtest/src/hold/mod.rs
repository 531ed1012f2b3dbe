//! `nebula-load hold`: calls that are held while somebody breaks the system, both their ends here.
//!
//! Driven by lines on standard input (see [`command`]); what happens is told as JSON lines on standard output: `ready` when
//! both extensions are registered, `call` for each call's outcome, `request` for each re-INVITE and BYE, and `done` with the
//! number of the line that is done. Lines are carried out side by side: wait for `done` where the order matters. The end of
//! standard input ends the program.

mod client;
mod command;
mod leg;
mod record;
mod report;

use crate::call::local_ip;
use crate::id::random_id;
use crate::media::{Media, Numbering, PTIME_MS_MAX};
use crate::sip::endpoint::Endpoint;
use crate::sip::message::{Account, Side, call_id, response};
use crate::sip::register::register;
use crate::srtp::{Choice, Exchange};
use anyhow::{Context, Result};
use client::Outcome;
use command::{Calls, Command, End};
use leg::{Begin, Leg, ORDERS_MAX, Order};
use record::{Entry, Handle, Record, Stage, edit};
use report::{Flags, Look};
use rsip::headers::UntypedHeader;
use rsip::prelude::HeadersExt;
use rsip::{Method, Request, SipMessage};
use serde_json::{Value, json};
use std::io::Write;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::{self, Receiver};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

/// How long the registrations last: longer than any run.
const REGISTRATION_S: u32 = 3600;

/// From the last packet of an end that hangs up to its BYE: what is under way arrives.
const HUSH: Duration = Duration::from_millis(150);

/// Lines that were read and not yet begun.
const LINES_MAX: usize = 64;

/// Our calls' display names begin with this, so that the called end knows which call it is in.
const NAME: &str = "hold-";

/// Numbers that no phone has to answer begin with this.
const SERVICE: char = '*';

/// The flags of `nebula-load hold`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The system under test; with several, calls take them in turn and the called extension registers at the first.
    #[arg(long, value_name = "IP:PORT", required = true)]
    server: Vec<SocketAddr>,
    /// The extension that calls.
    #[arg(long, default_value = "1000")]
    from: String,
    /// The extension that answers.
    #[arg(long, default_value = "1001")]
    to: String,
    /// The password of both.
    #[arg(long)]
    password: String,
    /// Packetization time, milliseconds.
    #[arg(long, default_value_t = 20)]
    ptime_ms: usize,
    /// How long the called phone rings before it answers, milliseconds.
    #[arg(long, default_value_t = 0)]
    ring_ms: u64,
    /// How long an INVITE may be without a final response before its call counts as hanging, seconds.
    #[arg(long, default_value_t = 60)]
    setup_timeout_s: u64,
    /// Threads for RTP.
    #[arg(long, default_value_t = 1)]
    media_threads: usize,
    /// Protect the media with SRTP: a suite of RFC 4568, 6188 or 7714 for both phones, or one for each; off is none.
    #[arg(long, value_name = "SUITE[,SUITE]")]
    srtp: Option<Choice>,
    /// The numbers of RTP.
    #[command(flatten)]
    numbering: Numbering,
}

/// All calls, by number.
#[derive(Default)]
pub struct Board {
    entries: Mutex<Vec<Entry>>,
}

/// The names of a call's two ends in RTP, the caller's first.
pub fn origins(n: usize) -> [u32; 2] {
    [2 * n as u32 + 1, 2 * n as u32 + 2]
}

impl Board {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.with(|entries| entries.len())
    }

    /// A call's both ends.
    pub fn handles(&self, n: usize) -> Option<(Flags, [Option<Handle>; 2])> {
        self.with(|entries| {
            let entry = entries.get(n)?;
            Some((Flags::from(entry), [entry.caller.clone(), entry.callee.clone()]))
        })
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<Entry>) -> T) -> T {
        change(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn end_of(&self, n: usize, end: End) -> Option<Handle> {
        let (_, [caller, callee]) = self.handles(n)?;
        if end == End::Caller { caller } else { callee }
    }

    /// Those that are up.
    fn up(&self) -> Vec<usize> {
        (0..self.len())
            .filter(|n| {
                self.end_of(*n, End::Caller).is_some_and(|h| edit(&h.record, |record| record.stage == Stage::Up))
            })
            .collect()
    }
}

/// What ends are asked for.
#[derive(Clone, Copy)]
enum Wish {
    /// A re-INVITE, with a new key or the one of before.
    Change { rekey: bool },
    /// A BYE.
    End,
}

/// What all tasks share.
struct Run {
    board: Board,
    media: Media,
    callers: Vec<(Arc<Endpoint>, SocketAddr)>,
    from: String,
    to: String,
    password: String,
    ring: Duration,
    patience: Duration,
    srtp: Choice,
}

/// One JSON line.
fn say(line: &Value) {
    let mut out = std::io::stdout().lock();
    // Nobody listens any more: then the end of standard input comes, too.
    writeln!(out, "{line}").and_then(|()| out.flush()).ok();
}

/// Runs until its input ends, or `end`.
pub async fn run(arguments: &Arguments) -> Result<()> {
    raise_open_files();
    let first = arguments.server[0];
    let ip = local_ip(first).context("no route to the server")?;
    anyhow::ensure!((10..=PTIME_MS_MAX).contains(&arguments.ptime_ms), "--ptime-ms is 10 to {PTIME_MS_MAX}");
    let mut callers = Vec::new();
    for server in &arguments.server {
        let (endpoint, incoming) = Endpoint::bind((ip, 0).into(), *server).await?;
        tokio::spawn(refuse_all(endpoint.clone(), incoming));
        callers.push((endpoint, *server));
    }
    let (callee, incoming) = Endpoint::bind((ip, 0).into(), first).await?;
    let account = |user: &str| Account { user: user.to_owned(), password: arguments.password.clone(), server: first };
    register(&callers[0].0, &account(&arguments.from), REGISTRATION_S).await.context("REGISTER of the caller")?;
    register(&callee, &account(&arguments.to), REGISTRATION_S).await.context("REGISTER of the called extension")?;
    let run = Arc::new(Run {
        board: Board::default(),
        media: Media::start(arguments.media_threads, ip, arguments.ptime_ms, arguments.numbering.clone())?,
        callers,
        from: arguments.from.clone(),
        to: arguments.to.clone(),
        password: arguments.password.clone(),
        ring: Duration::from_millis(arguments.ring_ms),
        patience: Duration::from_secs(arguments.setup_timeout_s),
        srtp: arguments.srtp.unwrap_or_default(),
    });
    tokio::spawn(take_all(run.clone(), callee.clone(), incoming));
    say(&json!({ "event": "ready", "caller": run.callers[0].0.local, "callee": callee.local }));

    let (lines, mut read) = mpsc::channel(LINES_MAX);
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|l| lines.blocking_send(l)));
    let mut number = 0;
    while let Some(line) = read.recv().await {
        number += 1;
        match Command::read(&line) {
            Ok(Command::End) => break,
            Ok(command) => {
                let run = run.clone();
                tokio::spawn(async move {
                    let mut done = run.perform(command).await;
                    (done["event"], done["of"]) = ("done".into(), number.into());
                    say(&done);
                });
            }
            Err(why) => say(&json!({ "event": "done", "of": number, "error": why })),
        }
    }
    Ok(())
}

/// Two sockets a call are more than the usual limit allows.
fn raise_open_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // If it may not be, calls fail with what is missing.
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).ok();
}

impl Run {
    async fn perform(self: &Arc<Self>, command: Command) -> Value {
        match command {
            Command::Place { calls, rate, number } => self.place_all(calls, rate, number, None).await,
            Command::Trickle { calls, rate, talk, number } => self.place_all(calls, rate, number, Some(talk)).await,
            Command::Reinvite { calls, end, rekey } => self.ask_all(calls, end, Wish::Change { rekey }, None).await,
            Command::Bye { calls, end, rate } => self.ask_all(calls, end, Wish::End, Some(rate)).await,
            Command::Mark => self.mark().await,
            Command::Report => report::report(&self.board, &self.media, true).await,
            Command::Sums => report::report(&self.board, &self.media, false).await,
            Command::End => Value::Null,
        }
    }

    async fn place_all(
        self: &Arc<Self>,
        calls: usize,
        rate: f64,
        number: Option<String>,
        talk: Option<Duration>,
    ) -> Value {
        let (start, pause) = (Instant::now(), Duration::from_secs_f64(1.0 / rate));
        let mut placing = JoinSet::new();
        for at in 0..calls {
            sleep_until(start + pause * at as u32).await;
            let (run, number) = (self.clone(), number.clone().unwrap_or_else(|| self.to.clone()));
            placing.spawn(async move { run.place(&number, talk).await });
        }
        let outcomes = placing.join_all().await;
        let answered = outcomes.iter().filter(|outcome| outcome.code == 200).count();
        json!({ "placed": calls, "answered": answered })
    }

    /// Places one, and ends it after a while if it is of a trickle.
    async fn place(self: &Arc<Self>, number: &str, talk: Option<Duration>) -> Outcome {
        let echoes = number.starts_with(SERVICE);
        let n = self.board.with(|entries| {
            entries.push(Entry { trickled: talk.is_some(), echoes, ..Entry::default() });
            entries.len() - 1
        });
        let (endpoint, server) = &self.callers[n % self.callers.len()];
        let account = Account { user: self.from.clone(), password: self.password.clone(), server: *server };
        let (target, sip_call_id) = (format!("sip:{number}@{server}"), random_id());
        let side = Side {
            local: endpoint.local,
            target: target.clone(),
            from: format!("\"{NAME}{n}\" <{}>;tag={}", account.address(), random_id()),
            to: format!("<{target}>"),
            call_id: sip_call_id,
            user: account.user.clone(),
            cseq: 0,
        };
        let (answer, answered) = oneshot::channel();
        let begin = Begin::Call { account, patience: self.patience, answer };
        let outcome = match self.start(n, End::Caller, endpoint, side, begin) {
            Ok(()) => answered.await.unwrap_or_else(|_| Outcome::none()),
            Err(e) => {
                eprintln!("nebula-load: call {n}: {e}");
                Outcome::none()
            }
        };
        say(&json!({ "event": "call", "n": n, "trickled": talk.is_some(), "outcome": outcome }));
        if let (Some(talk), 200) = (talk, outcome.code) {
            sleep(talk).await;
            self.ask(n, End::Caller, Wish::End).await;
        }
        outcome
    }

    /// Puts a leg on the board and lets it run.
    fn start(
        self: &Arc<Self>,
        n: usize,
        end: End,
        endpoint: &Arc<Endpoint>,
        side: Side,
        begin: Begin,
    ) -> std::io::Result<()> {
        let session = self.media.open(origins(n)[usize::from(end == End::Callee)])?;
        let record = Record::begin(side.call_id.clone());
        let (orders, receiver) = mpsc::channel(ORDERS_MAX);
        let handle = Handle::new(record.clone(), session.probe(), orders);
        self.board.with(|entries| {
            let entry = &mut entries[n];
            *if end == End::Caller { &mut entry.caller } else { &mut entry.callee } = Some(handle);
        });
        let call = endpoint.call(&side.call_id);
        let ptime_ms = self.media.ptime_ms();
        let keys = Exchange::new(if end == End::Caller { self.srtp.caller } else { self.srtp.callee });
        let leg = Leg { call, side, session: Some(session), keys, record, ptime_ms, orders: receiver };
        tokio::spawn(leg::run(leg, begin));
        Ok(())
    }

    /// Asks every one, at a rate or at once.
    async fn ask_all(self: &Arc<Self>, calls: Calls, end: End, wish: Wish, rate: Option<f64>) -> Value {
        let calls = match calls {
            Calls::All => self.board.up(),
            Calls::These(calls) => calls,
        };
        let pause = rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(1.0 / rate));
        let start = Instant::now();
        let mut asking = JoinSet::new();
        for (at, n) in calls.iter().copied().enumerate() {
            sleep_until(start + pause * at as u32).await;
            let run = self.clone();
            asking.spawn(async move { run.ask(n, end, wish).await });
        }
        let outcomes = asking.join_all().await;
        let good = outcomes.iter().filter(|outcome| outcome.code == 200).count();
        json!({ "asked": calls.len(), "good": good })
    }

    /// One re-INVITE or BYE.
    async fn ask(&self, n: usize, end: End, wish: Wish) -> Outcome {
        let is_bye = matches!(wish, Wish::End);
        let outcome = match self.board.end_of(n, end) {
            Some(handle) => {
                if is_bye {
                    handle.probe.hush();
                    sleep(HUSH).await;
                    self.seal(n).await;
                }
                let (answer, answered) = oneshot::channel();
                let order = match wish {
                    Wish::Change { rekey } => Order::Reinvite { rekey, answer },
                    Wish::End => Order::Bye(answer),
                };
                match handle.orders.send(order).await {
                    Ok(()) => answered.await.unwrap_or_else(|_| Outcome::none()),
                    Err(_) => Outcome::none(),
                }
            }
            None => Outcome::none(),
        };
        let method = if is_bye { "BYE" } else { "INVITE" };
        say(&json!({ "event": "request", "n": n, "end": end.word(), "method": method, "outcome": outcome }));
        outcome
    }

    /// What a call has lost up to now is what it has lost: it is about to be hung up.
    async fn seal(&self, n: usize) {
        let Some((flags, handles)) = self.board.handles(n) else { return };
        let look = Look::at([handles[0].as_ref(), handles[1].as_ref()]).await;
        self.board.with(|entries| {
            for (end, handle) in entries[n].ends() {
                handle.lost_at_end.get_or_insert(look.lost(end, flags.echoes));
            }
        });
    }

    async fn mark(&self) -> Value {
        let marked_ns = self.media.now_ns();
        for n in 0..self.board.len() {
            let Some((flags, handles)) = self.board.handles(n) else { continue };
            let look = Look::at([handles[0].as_ref(), handles[1].as_ref()]).await;
            handles.iter().flatten().for_each(|handle| handle.probe.mark());
            self.board.with(|entries| {
                for (end, handle) in entries[n].ends() {
                    handle.lost_before = handle.lost_at_end.unwrap_or_else(|| look.lost(end, flags.echoes));
                    handle.marked_ns = marked_ns;
                }
            });
        }
        json!({})
    }
}

/// Answers every call that comes; runs as long as the program.
async fn take_all(run: Arc<Run>, callee: Arc<Endpoint>, mut incoming: Receiver<(Request, SocketAddr)>) {
    while let Some((request, from)) = incoming.recv().await {
        let named = (request.method == Method::Invite).then(|| number_of(&request)).flatten();
        let known = named.filter(|n| *n < run.board.len());
        let Some(n) = known else {
            refuse(&callee, &request, from, 481).await;
            continue;
        };
        let Some(sip_call_id) = call_id(&request.clone().into()) else { continue };
        if let Some(handle) = run.board.end_of(n, End::Callee) {
            // Else it is a repeat that came before we had begun to listen to its call.
            if edit(&handle.record, |record| record.sip_call_id != sip_call_id) {
                run.board.with(|entries| entries[n].doubled += 1);
                refuse(&callee, &request, from, 486).await;
            }
            continue;
        }
        let side = Side {
            local: callee.local,
            target: String::new(),
            from: String::new(),
            to: String::new(),
            call_id: sip_call_id,
            user: run.to.clone(),
            cseq: 0,
        };
        let begin = Begin::Take { invite: Box::new(request), from, ring: run.ring };
        if let Err(e) = run.start(n, End::Callee, &callee, side, begin) {
            eprintln!("nebula-load: call {n}: {e}");
        }
    }
}

/// What belongs to no call of ours.
async fn refuse_all(endpoint: Arc<Endpoint>, mut incoming: Receiver<(Request, SocketAddr)>) {
    while let Some((request, from)) = incoming.recv().await {
        refuse(&endpoint, &request, from, 481).await;
    }
}

async fn refuse(endpoint: &Arc<Endpoint>, request: &Request, from: SocketAddr, code: u16) {
    let Some(call_id) = call_id(&request.clone().into()) else { return };
    if request.method != Method::Ack {
        let message = SipMessage::from(response(request, code, &random_id(), None, ""));
        // A repeat of the request gets it again.
        endpoint.call(&call_id).send_to(message, from).await.ok();
    }
}

/// Which call an INVITE is of.
fn number_of(invite: &Request) -> Option<usize> {
    let from = invite.from_header().ok()?.value().to_owned();
    let rest = from.split_once(NAME)?.1;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}
