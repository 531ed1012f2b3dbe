//! How long a request and its answer take: `cargo run --release -p nebula-bus --example rpc_round_trip [redis://...]`.
//! In process and over Redis (its own on a free port unless one is named), one after the other, at a steady rate as calls
//! make it, and 64 at once. Caller and callee have a thread and a connection each, as two processes would.
#![allow(missing_docs)]

#[path = "../tests/servers/mod.rs"]
mod servers;

use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use nebula_bus::contract::to_proxy::{Answer, ChannelAnswer};
use nebula_bus::contract::{Accepted, Role};
use nebula_bus::redis::Options;
use nebula_bus::{Bus, Context, Inbox, Target, dispatch};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep};

/// Requests in each measurement.
const CALLS: u32 = 20_000;
/// Of a steady stream: 100 calls/s make about so many requests.
const RATE_PER_S: u32 = 1000;

fn main() {
    println!("{:<28} {:>9} {:>9} {:>9} {:>9} {:>11}", "", "p50 us", "p90 us", "p99 us", "max us", "requests/s");
    let local = Bus::local();
    let inbox = local.serve(Role::Proxy, "proxy".into());
    let callee = thread::spawn(move || runtime().block_on(answer(inbox)));
    runtime().block_on(measure("in process", &local));
    drop(local);
    // Its inbox lives as long as the process.
    drop(callee);

    let named = std::env::args().nth(1);
    let own = named.is_none().then(|| runtime().block_on(servers::Server::start()));
    let url = named.or_else(|| own.as_ref().map(servers::Server::url)).expect("a Redis");
    let options = Options::parse(&url).expect("a Redis URL").prefix("round-trip");
    let (stop, stopped) = oneshot::channel::<()>();
    let of_callee = options.clone();
    let callee = thread::spawn(move || {
        runtime().block_on(async {
            let bus = Bus::redis(of_callee).await.expect("Redis is there");
            let serving = answer(bus.serve(Role::Proxy, "proxy".into()));
            tokio::select! { () = serving => {}, _ = stopped => {} }
        });
    });
    runtime().block_on(async {
        let bus = Bus::redis(options).await.expect("Redis is there");
        while bus.instances(Role::Proxy).is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        measure("over Redis", &bus).await;
    });
    let _ = stop.send(());
    callee.join().expect("the callee");
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

async fn answer(mut inbox: Inbox) {
    while let Some(request) = inbox.recv().await {
        dispatch!(request; { ChannelAnswer => |_params, call| call.reply(Ok(Accepted {})) });
    }
}

async fn measure(name: &str, bus: &Bus) {
    for _ in 0..CALLS / 10 {
        call(bus).await;
    }
    let (begun, mut times) = (Instant::now(), histogram());
    for _ in 0..CALLS {
        record(&mut times, call(bus).await);
    }
    print(name, "one by one", &times, begun);

    let (begun, mut times) = (Instant::now(), histogram());
    let mut ticks = interval(Duration::from_secs(1) / RATE_PER_S);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut calls = Vec::new();
    for _ in 0..RATE_PER_S * 5 {
        ticks.tick().await;
        calls.push(tokio::spawn(call(bus)));
    }
    for call in calls {
        record(&mut times, call.await.expect("a call"));
    }
    print(name, &format!("{RATE_PER_S}/s"), &times, begun);

    let (begun, mut times) = (Instant::now(), histogram());
    for _ in 0..CALLS / 64 {
        let calls: Vec<_> = (0..64).map(|_| tokio::spawn(call(bus))).collect();
        for call in calls {
            record(&mut times, call.await.expect("a call"));
        }
    }
    print(name, "64 at once", &times, begun);
}

fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three digits")
}

fn record(times: &mut Histogram<u64>, time: Duration) {
    times.record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)).expect("it grows");
}

fn print(name: &str, how: &str, times: &Histogram<u64>, begun: Instant) {
    let us = |quantile: f64| times.value_at_quantile(quantile) as f64 / 1000.0;
    let rate = times.len() as f64 / begun.elapsed().as_secs_f64();
    let name = format!("{name}, {how}");
    println!("{name:<28} {:9.1} {:9.1} {:9.1} {:9.1} {rate:11.0}", us(0.5), us(0.9), us(0.99), us(1.0));
}

fn call(bus: &Bus) -> impl Future<Output = Duration> + Send + 'static + use<> {
    let params =
        Answer { channel_id: "01JD3000000000000000000000".into(), sdp: Some("a=rtpmap:0 PCMU/8000\r\n".repeat(20)) };
    let begun = Instant::now();
    let call =
        bus.call::<ChannelAnswer>(&Target::Instance("proxy".into()), params, &Context::new(Duration::from_secs(5)));
    async move {
        assert_eq!(call.await, Ok(Accepted {}));
        begun.elapsed()
    }
}
