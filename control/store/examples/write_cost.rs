//! What the life of a call costs in the store: `cargo run --release -p nebula-store --example write_cost -- [CALLS_PER_S]`.
//! Each call is started, answered and ended, in a real file; the publisher runs beside. At a rate: CPU per call and how
//! long each write took; without one: as many as go, 256 at once. With
//! `NO_PUBLISHER` set: the writes alone. `DATABASE_URL` names another database, for example a Postgres.
#![allow(missing_docs)]

use std::time::{Duration, Instant};

use nebula_store::calls::NewCall;
use nebula_store::cdrs::{Cdr, Leg};
use nebula_store::{Options, Store, calls, now_unix_ms, publisher};

#[tokio::main(worker_threads = 2)]
async fn main() {
    let rate: Option<u32> = std::env::args().nth(1).map(|rate| rate.parse().expect("calls per second"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = || Options::file(folder.path().join("nebula.db"));
    let store =
        Store::open(&std::env::var("DATABASE_URL").map_or_else(|_| file(), Options::url)).await.expect("a store");
    let publishing = std::env::var_os("NO_PUBLISHER").is_none();
    let publishing = publishing
        .then(|| tokio::spawn(publisher::run(store.clone(), |_event| async { Ok::<_, std::convert::Infallible>(()) })));

    let calls = rate.map_or(20_000, |rate| rate * 10);
    let (wall, cpu) = (Instant::now(), cpu_time());
    let mut lives = tokio::task::JoinSet::new();
    let mut waits: [Vec<Duration>; 3] = Default::default();
    let mut note = |life: [Duration; 3]| waits.iter_mut().zip(life).for_each(|(waits, wait)| waits.push(wait));
    let mut tick = rate.map(|rate| tokio::time::interval(Duration::from_secs(1) / rate));
    for n in 0..calls {
        match &mut tick {
            Some(tick) => drop(tick.tick().await),
            None if lives.len() == 256 => note(lives.join_next().await.expect("a call").expect("no panic")),
            None => {}
        }
        lives.spawn(life(store.clone(), n));
    }
    while let Some(life) = lives.join_next().await {
        note(life.expect("no panic"));
    }
    let (wall, cpu, counts) = (wall.elapsed(), cpu_time() - cpu, store.write_counts());
    println!(
        "{calls} calls in {:.2} s: {:.0} calls/s, {:.0} writes/s, {:.1} writes a commit, {:.0} us CPU a call",
        wall.as_secs_f64(),
        f64::from(calls) / wall.as_secs_f64(),
        counts.writes as f64 / wall.as_secs_f64(),
        counts.writes as f64 / counts.commits as f64,
        cpu.as_secs_f64() * 1e6 / f64::from(calls),
    );
    for (name, waits) in ["start", "answered", "end"].iter().zip(&mut waits) {
        waits.sort();
        println!("{name:9} p50 {:?}, p99 {:?}", waits[waits.len() / 2], waits[waits.len() * 99 / 100]);
    }
    if let Some(publishing) = publishing {
        publishing.abort();
    }
    store.close().await;
}

/// One call; how long each of its writes took.
async fn life(store: Store, n: u32) -> [Duration; 3] {
    let id = format!("01JD30{:012}{n:08}", std::process::id());
    let now = now_unix_ms();
    let timed = Instant::now();
    let call = NewCall {
        id: id.clone(),
        customer_id: "demo".into(),
        state: "dialling".into(),
        from_user: "1000".into(),
        from_display: Some("Alice".into()),
        to_user: "1001".into(),
        started_unix_ms: now,
        switchboard: "switchboard-01JD3000".into(),
        snapshot: None,
    };
    calls::start(&store, call).await.expect("a start");
    let started = timed.elapsed();
    calls::answered(&store, &id, "up", now + 1, None).await.expect("an answer");
    let answered = timed.elapsed();
    let stats = serde_json::json!({ "packets_received": 100, "bytes_received": 17200, "packets_sent": 100, "jitter_us": 40,
        "codec": "PCMU/8000", "local": "192.0.2.1:20000", "remote": "192.0.2.7:4000", "drops": {} });
    let leg = |channel: &str| Leg {
        channel_id: channel.into(),
        sip_call_id: Some(format!("{id}@phone")),
        stats: stats.clone(),
        ..Leg::default()
    };
    let cdr = Cdr {
        call_id: id.clone(),
        customer_id: "demo".into(),
        from_user: "1000".into(),
        from_display: Some("Alice".into()),
        to_user: "1001".into(),
        started_unix_ms: now,
        answered_unix_ms: Some(now + 1),
        ended_unix_ms: now + 1000,
        ended_by: "caller".into(),
        sip_code: 200,
        cause: "normal".into(),
        cause_text: String::new(),
        legs: vec![leg("a"), leg("b")],
    };
    assert!(calls::end(&store, cdr).await.expect("an end"));
    [started, answered - started, timed.elapsed() - answered]
}

/// User and system time of this process, from `/proc/self/stat` in ticks of 10 ms.
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit_once(") ").expect("a process name").1;
    let ticks: u64 = after_name.split(' ').skip(11).take(2).map(|field| field.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
