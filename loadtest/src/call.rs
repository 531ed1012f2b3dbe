//! `nebula-load call`: both ends of many calls, at a rate and a concurrency.

use crate::media::{Media, Numbering};
use crate::report::{Report, Thresholds};
use crate::sip::Failure;
use crate::sip::callee::{Taken, take};
use crate::sip::caller::{Placed, place};
use crate::sip::endpoint::Endpoint;
use crate::sip::message::Account;
use crate::sip::register::register;
use crate::srtp::Choice;
use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rsip::{Method, Request};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

/// The usual packetization time (RFC 3551 section 4.2), milliseconds.
const PTIME_MS: usize = 20;

/// How long the registrations of a run last: longer than any run.
const REGISTRATION_S: u32 = 3600;

/// After the last call has ended at the caller, how long the callee may take to see its end.
const LAST_BYE: Duration = Duration::from_secs(5);

/// Numbers that no phone has to answer begin with this.
const SERVICE: char = '*';

/// The flags of `nebula-load call`.
#[derive(Debug, clap::Args)]
#[command(args_override_self = true)]
pub struct Arguments {
    /// The system under test.
    #[arg(long, value_name = "IP:PORT")]
    server: SocketAddr,
    /// The extension that calls.
    #[arg(long, default_value = "1000")]
    from: String,
    /// The extension that is called and answers here, or a service such as *43, which answers by itself.
    #[arg(long, default_value = "1001")]
    to: String,
    /// The password of both extensions.
    #[arg(long)]
    password: String,
    /// How many calls.
    #[arg(long, default_value_t = 50)]
    calls: u32,
    /// New calls a second.
    #[arg(long, default_value_t = 10.0)]
    rate: f64,
    /// Calls at once, at the most; the rate gives way.
    #[arg(long, default_value_t = 4000)]
    concurrency: usize,
    /// How long the two talk, seconds.
    #[arg(long, default_value_t = 5.0)]
    duration_s: f64,
    /// How long the called phone rings before it answers, milliseconds.
    #[arg(long, default_value_t = 0)]
    ring_ms: u64,
    /// Threads for RTP.
    #[arg(long, default_value_t = 1)]
    media_threads: usize,
    /// Protect the media with SRTP: a suite of RFC 4568, 6188 or 7714 for both phones, or one for each; off is none.
    #[arg(long, value_name = "SUITE[,SUITE]")]
    srtp: Option<Choice>,
    /// The numbers of RTP.
    #[command(flatten)]
    numbering: Numbering,
    /// Print JSON instead of a table.
    #[arg(long)]
    pub json: bool,
    /// What must be met for exit code 0.
    #[command(flatten)]
    pub thresholds: Thresholds,
}

/// What every call needs.
struct Run {
    caller: Arc<Endpoint>,
    account: Account,
    number: String,
    media: Media,
    talk: Duration,
    srtp: Choice,
}

/// Makes the calls; the report says what came of them.
pub async fn run(arguments: &Arguments) -> Result<Report> {
    let ip = local_ip(arguments.server).context("no route to the server")?;
    let account =
        |user: &str| Account { user: user.to_owned(), password: arguments.password.clone(), server: arguments.server };
    let (caller, _) = Endpoint::bind((ip, 0).into(), arguments.server).await?;
    let (callee, incoming) = Endpoint::bind((ip, 0).into(), arguments.server).await?;
    let answers = !arguments.to.starts_with(SERVICE);
    register(&caller, &account(&arguments.from), REGISTRATION_S).await.context("REGISTER of the caller")?;
    if answers {
        register(&callee, &account(&arguments.to), REGISTRATION_S).await.context("REGISTER of the called extension")?;
    }
    let run = Arc::new(Run {
        caller,
        account: account(&arguments.from),
        number: arguments.to.clone(),
        media: Media::start(arguments.media_threads, ip, PTIME_MS, arguments.numbering.clone())?,
        talk: Duration::from_secs_f64(arguments.duration_s),
        srtp: arguments.srtp.unwrap_or_default(),
    });
    let (ended, ends) = mpsc::channel(arguments.calls as usize + 1);
    let ring = Duration::from_millis(arguments.ring_ms);
    let taking = tokio::spawn(take_all(run.clone(), callee, incoming, ring, ended));

    let begun = Instant::now();
    let placed = place_all(&run, arguments).await;
    let took = begun.elapsed();
    // The far ends: all calls that came about must be seen to end there, too.
    let established = placed.iter().filter(|p| p.is_ok()).count();
    let taken = if answers { collect(ends, established).await } else { Vec::new() };
    taking.abort();
    let delays = run.media.finish();
    let report = Report::new(&placed, &taken, answers, delays, took);
    Ok(report.protected(arguments.srtp))
}

async fn place_all(run: &Arc<Run>, arguments: &Arguments) -> Vec<Result<Placed, Failure>> {
    let bar = progress_bar(arguments);
    let room = Arc::new(Semaphore::new(arguments.concurrency.max(1)));
    let pause = Duration::from_secs_f64(1.0 / arguments.rate.max(0.001));
    let (mut calls, start) = (JoinSet::new(), Instant::now());
    for n in 0..arguments.calls {
        sleep_until(start + pause * n).await;
        let Ok(permit) = room.clone().acquire_owned().await else { break };
        let (run, bar) = (run.clone(), bar.clone());
        calls.spawn(async move {
            let suite = run.srtp.caller;
            let placed = place(&run.caller, &run.media, &run.account, suite, &run.number, 2 * n + 1, run.talk).await;
            drop(permit);
            bar.inc(1);
            placed
        });
    }
    let failed = |e: tokio::task::JoinError| Err(Failure::Local(e.to_string()));
    let mut placed = Vec::new();
    while let Some(call) = calls.join_next().await {
        placed.push(call.unwrap_or_else(failed));
    }
    bar.finish_and_clear();
    placed
}

/// Takes every call that comes and reports each one's end; runs until it is aborted.
async fn take_all(
    run: Arc<Run>,
    callee: Arc<Endpoint>,
    mut incoming: Receiver<(Request, SocketAddr)>,
    ring: Duration,
    ended: Sender<Result<Taken, Failure>>,
) {
    // Odd origins call, even ones answer.
    let mut origin = 0;
    while let Some((request, _)) = incoming.recv().await {
        // What belongs to a call that is over already: a late retransmission.
        if request.method != Method::Invite {
            continue;
        }
        origin += 2;
        let (run, callee, ended) = (run.clone(), callee.clone(), ended.clone());
        tokio::spawn(async move {
            let taken = take(&callee, &run.media, request, run.srtp.callee, origin, ring).await;
            // Fails only when nobody counts any more.
            ended.send(taken).await.ok();
        });
    }
}

/// The ends of as many calls as came about, or of those that ended in time.
async fn collect(mut ends: Receiver<Result<Taken, Failure>>, established: usize) -> Vec<Result<Taken, Failure>> {
    let (mut taken, mut right) = (Vec::new(), 0);
    let until = Instant::now() + LAST_BYE;
    while right < established
        && let Ok(Some(end)) = timeout_at(until, ends.recv()).await
    {
        right += usize::from(end.is_ok());
        taken.push(end);
    }
    taken
}

fn progress_bar(arguments: &Arguments) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(arguments.calls.into()), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} calls ended, {elapsed} (about {eta} left)");
    if let Ok(style) = style {
        bar.set_style(style);
    }
    bar
}

/// The address that the server sees us by.
pub fn local_ip(server: SocketAddr) -> std::io::Result<IpAddr> {
    let any: SocketAddr =
        if server.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }.parse().map_err(std::io::Error::other)?;
    let socket = UdpSocket::bind(any)?;
    socket.connect(server)?;
    Ok(socket.local_addr()?.ip())
}
