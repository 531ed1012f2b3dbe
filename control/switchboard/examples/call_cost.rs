//! What a call costs between the proxy and the media agent: switchboard, bus and store (a file), with doubles of the
//! other two, whose cost is included. `cargo run --release -p nebula-switchboard --example call_cost [calls] [at once]`
#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use common::{World, options};
use nebula_bus::contract::CauseKind;
use nebula_bus::contract::to_switchboard::*;
use nebula_store::Store;

#[tokio::main]
async fn main() {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse().expect("a number"));
    let (calls, at_once): (usize, usize) = (numbers.next().unwrap_or(5_000), numbers.next().unwrap_or(50));
    let folder = tempfile::tempdir().expect("a folder");
    let store = Store::open(&nebula_store::Options::file(folder.path().join("cost.db"))).await.expect("a store");
    let mut world = World::with(options(), store).await;
    world.register("1001", 1).await;
    let (cpu, begun) = (cpu_time(), Instant::now());
    let mut setups = Vec::with_capacity(calls);
    for round in 0..calls / at_once {
        let channels: Vec<String> = (0..at_once).map(|n| format!("{round}-{n}")).collect();
        for channel in &channels {
            let invited = Instant::now();
            let call_id = world.invite(channel, "1001").await.expect("taken in").call_id;
            let fork = format!("{call_id}-1");
            world.expect(&format!("dial {fork}")).await;
            let ringing = Provisional { channel_id: fork.as_str().into(), sip_code: 180, sdp: None };
            world.tell::<ChannelRinging>(ringing).await.expect("taken in");
            world.answer(&fork).await;
            world.expect(&format!("answer {channel} local answer")).await;
            setups.push(invited.elapsed());
        }
        for channel in &channels {
            world.hang_up(channel, 200, CauseKind::Normal).await.expect("taken in");
        }
        world.forget();
    }
    world.quiet_within(Duration::from_secs(60)).await;
    let calls = setups.len();
    let cpu_us = (cpu_time() - cpu).as_micros() as usize / calls;
    setups.sort();
    println!("{calls} calls in {:.1} s: {cpu_us} us of CPU each", begun.elapsed().as_secs_f64());
    println!("INVITE to 200: p50 {:?}, p99 {:?}", setups[calls / 2], setups[calls * 99 / 100]);
}

/// User and system time of this process, at the resolution of the kernel's clock tick (10 ms).
fn cpu_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("procfs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("a name in brackets").split_whitespace().collect();
    let ticks: u64 = fields[11..13].iter().map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 10)
}
