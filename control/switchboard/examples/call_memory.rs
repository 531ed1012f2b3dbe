//! What a live call takes: resident memory of switchboard, bus and store in memory, with the snapshots that are kept for it
//! and with small doubles of proxy and media agent. `cargo run --release -p nebula-switchboard --example call_memory [calls]`
#![allow(missing_docs)]

#[path = "../tests/common/mod.rs"]
mod common;

use common::{World, options};
use nebula_bus::Membership;
use nebula_bus::contract::Role;
use nebula_store::Store;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let calls: usize = std::env::args().nth(1).map_or(5_000, |word| word.parse().expect("a number"));
    let member = Membership::alone(Role::Switchboard);
    let snapshots = member.snapshots.clone();
    let mut world = World::of(options(), Store::memory().await.expect("a store"), member).await;
    world.register("1001", 1).await;
    for n in 0..200 {
        world.talk(&format!("warm-{n}")).await;
    }
    world.forget();
    let before = resident_kib();
    for n in 0..calls {
        world.talk(&format!("caller-{n}")).await;
        world.forget();
    }
    snapshots.flush().await;
    let grown = resident_kib() - before;
    println!("{calls} calls: {grown} KiB, {:.2} KiB each", grown as f64 / calls as f64);
}

/// Resident memory of this process.
fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a size");
    line.split_whitespace().nth(1).expect("a number").parse().expect("KiB")
}
