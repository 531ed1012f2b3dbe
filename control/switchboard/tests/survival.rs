//! Switchboards that die: their calls go on with the next one of the name, or with another that takes over.
#![allow(missing_docs)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::*;
use nebula_bus::contract::to_proxy::Phase;
use nebula_bus::contract::to_switchboard::*;
use nebula_bus::contract::{CauseKind, Role};
use nebula_bus::error::code;
use nebula_bus::snapshots::Memory;
use nebula_bus::{Error, Membership};
use nebula_store::{Store, calls};
use nebula_switchboard::Options;

async fn member(keep: &Memory, node: &str) -> Membership {
    Membership::enter(Arc::new(keep.clone()), Role::Switchboard, node).await.unwrap()
}

/// A world whose switchboard keeps its calls, and what tells that they are kept.
async fn kept() -> (World, Memory, nebula_bus::Snapshots) {
    let keep = Memory::default();
    let member = member(&keep, "a").await;
    let snapshots = member.snapshots.clone();
    let world = World::of(options(), Store::memory().await.unwrap(), member).await;
    world.register("1001", 1).await;
    (world, keep, snapshots)
}

impl World {
    /// Another process takes this name and finds what the first has kept. That one is fenced and ends without a word.
    async fn restart(&mut self, keep: &Memory, node: &str) {
        let member = member(keep, node).await;
        let next = nebula_switchboard::start(options(), self.bus.clone(), self.store.clone(), member).await.unwrap();
        self.switchboard = next;
    }
}

#[tokio::test]
async fn a_call_outlives_its_switchboard() {
    let (mut world, keep, snapshots) = kept().await;
    let call_id = world.talk("a").await;
    let before = world.tell::<CallGet>(GetCall { call_id: call_id.clone() }).await.unwrap();
    snapshots.flush().await;
    world.restart(&keep, "a").await;
    world.expect("adopt switchboard-a").await;
    let after = world.tell::<CallGet>(GetCall { call_id: call_id.clone() }).await.unwrap();
    assert_eq!(after, before);

    // Once more, and a change and a hang-up are as they ever were.
    world.restart(&keep, "a").await;
    world.expect("adopt switchboard-a").await;
    let reinvite = Reinvite { channel_id: "a".into(), sdp: Some("hold".into()) };
    world.tell::<ChannelReinvite>(reinvite).await.unwrap();
    world.expect(&format!("reinvite {call_id}-1 local offer")).await;
    world.answer(&format!("{call_id}-1")).await;
    world.expect("answer a local answer").await;
    world.hang_up("a", 200, CauseKind::Normal).await.unwrap();
    world.expect(&format!("hangup {call_id}-1 200")).await;
    let cdr = world.cdr(&call_id).await;
    assert_eq!((cdr.cause.as_str(), cdr.ended_by.as_str()), ("normal", "caller"));
    assert_eq!(cdr.answered_unix_ms, before.answered_unix_ms);
    assert!(cdr.legs.iter().all(|leg| leg.answered && !leg.stats.is_null()));
    world.quiet(1).await;
    let fences: Vec<u64> = world.script.lock().unwrap().fences.iter().flatten().copied().collect();
    assert!(fences.is_sorted() && fences.first() < fences.last(), "{fences:?}");
}

#[tokio::test]
async fn a_call_in_set_up_is_refused_by_the_next_switchboard() {
    let (mut world, keep, snapshots) = kept().await;
    let call_id = world.invite("a", "1001").await.unwrap().call_id;
    let fork = format!("{call_id}-1");
    world.expect(&format!("dial {fork}")).await;
    snapshots.flush().await;
    for leg in ["a", &fork] {
        world.script.lock().unwrap().phases.insert(leg.into(), Phase::Early);
    }
    world.restart(&keep, "a").await;
    world.expect("reject a 503").await;
    world.expect(&format!("hangup {fork} 503")).await;
    let cdr = world.cdr(&call_id).await;
    assert_eq!((cdr.cause.as_str(), cdr.answered_unix_ms), ("crash", None));
    world.quiet(1).await;
}

#[tokio::test]
async fn an_invite_that_is_delivered_to_the_next_process_is_the_same_call() {
    let (mut world, keep, snapshots) = kept().await;
    let call_id = world.invite("a", "1001").await.unwrap().call_id;
    world.expect(&format!("dial {call_id}-1")).await;
    snapshots.flush().await;
    world.restart(&keep, "a").await;
    assert_eq!(world.invite("a", "1001").await.unwrap().call_id, call_id);
    world.hang_up("a", 487, CauseKind::Cancelled).await.unwrap();
    world.cdr(&call_id).await;
    world.quiet(1).await;
}

#[tokio::test]
async fn an_invite_of_which_only_the_row_is_left_rings_nobody_twice() {
    let (mut world, _keep, _snapshots) = kept().await;
    let call_id = world.invite("a", "1001").await.unwrap().call_id;
    world.expect(&format!("dial {call_id}-1")).await;
    world.restart(&Memory::default(), "a").await;
    // Its successor is asked again at once: whether it closes the row before or after, the caller is told, and that is it.
    let again = world.invite("a", "1001").await.unwrap().call_id;
    assert_eq!(again, call_id);
    assert_ne!(world.cdr(&call_id).await.cause, "normal");
    world.quiet_within(Duration::from_secs(20)).await;
    assert!(!world.was_asked("dial"), "nobody is dialled again");
    assert_eq!(nebula_store::cdrs::list(&world.store, 9).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_call_whose_proxy_forgot_the_caller_ends_soon() {
    let mut world = World::new().await;
    world.register("1001", 1).await;
    // The proxy died before it kept the caller's leg, and is back before anybody missed it.
    let unknown = Error::business("unknown_channel", "no such leg");
    world.script.lock().unwrap().errors.insert("channel.ring", unknown);
    let call_id = world.invite("a", "1001").await.unwrap().call_id;
    let fork = format!("{call_id}-1");
    world.expect(&format!("dial {fork}")).await;
    world.ring(&fork).await;
    world.expect(&format!("hangup {fork} 500")).await;
    assert_eq!(world.cdr(&call_id).await.cause, "crash");
    world.quiet(1).await;
}

#[tokio::test]
async fn a_leg_that_went_while_nobody_listened_ends_its_call() {
    let (mut world, keep, snapshots) = kept().await;
    let call_id = world.talk("a").await;
    snapshots.flush().await;
    world.script.lock().unwrap().phases.insert("a".into(), Phase::Gone);
    world.restart(&keep, "a").await;
    world.expect(&format!("hangup {call_id}-1 500")).await;
    assert_eq!(world.cdr(&call_id).await.cause, "crash");
    world.quiet(1).await;
}

#[tokio::test]
async fn another_switchboard_takes_over_from_one_that_is_gone() {
    let (mut world, keep, snapshots) = kept().await;
    let call_id = world.talk("a").await;
    let answered = world.tell::<CallGet>(GetCall { call_id: call_id.clone() }).await.unwrap().answered_unix_ms;
    snapshots.flush().await;
    let gone = world.switchboard.instance().clone();
    world.restart(&keep, "b").await;
    // Its inbox goes, and with it the first one; nobody of its name is announced any more.
    drop(world.bus.serve(Role::Switchboard, gone.clone()));
    keep.bury(&gone);
    world.expect("adopt switchboard-b").await;
    while calls::get(&world.store, call_id.as_str()).await.unwrap().unwrap().switchboard != "switchboard-b" {
        tokio::task::yield_now().await;
    }
    world.hang_up(&format!("{call_id}-1"), 200, CauseKind::Normal).await.unwrap();
    world.expect("hangup a 200").await;
    let cdr = world.cdr(&call_id).await;
    assert_eq!((cdr.cause.as_str(), cdr.ended_by.as_str()), ("normal", "callee"));
    assert_eq!(cdr.answered_unix_ms, answered);
    world.quiet(1).await;
}

#[tokio::test]
async fn a_call_without_a_snapshot_is_closed_by_its_row() {
    let (mut world, _keep, _snapshots) = kept().await;
    let call_id = world.talk("a").await;
    // The next one finds nothing of it but the row.
    loop {
        let row = calls::get(&world.store, call_id.as_str()).await.unwrap().unwrap();
        if row.answered_unix_ms.is_some() {
            break;
        }
        tokio::task::yield_now().await;
    }
    world.restart(&Memory::default(), "a").await;
    world.expect("hangup a 500").await;
    assert_eq!(world.cdr(&call_id).await.cause, "crash");
    world.quiet(1).await;
}

#[tokio::test]
async fn what_was_fenced_is_dropped_without_a_record() {
    let mut world = World::new().await;
    world.register("1001", 1).await;
    let call_id = world.talk("a").await;
    world.script.lock().unwrap().errors.insert("channel.hangup", Error::permanent(code::FENCED, "another's"));
    world.script.lock().unwrap().silent.push("stream.destroy");
    world.tell::<CallHangup>(GetCall { call_id: call_id.clone() }).await.unwrap();
    world.quiet_within(Duration::from_secs(20)).await;
    assert!(nebula_store::cdrs::get(&world.store, call_id.as_str()).await.unwrap().is_none());
}

#[tokio::test]
async fn a_hang_up_reaches_a_proxy_that_was_away() {
    let mut world = World::with(Options { proxy_grace_s: 60, ..options() }, Store::memory().await.unwrap()).await;
    world.register("1001", 1).await;
    let call_id = world.talk("a").await;
    let away = Error::transient(code::UNKNOWN_INSTANCE, "away");
    world.script.lock().unwrap().errors.insert("channel.hangup", away);
    world.hang_up("a", 200, CauseKind::Normal).await.unwrap();
    // The record does not wait for it.
    assert_eq!(world.cdr(&call_id).await.cause, "normal");
    assert_eq!(world.switchboard.calls(), 1);
    world.script.lock().unwrap().errors.clear();
    world.expect(&format!("hangup {call_id}-1 200")).await;
    world.quiet(1).await;
}

#[tokio::test]
async fn a_proxy_that_does_not_come_back_ends_its_calls() {
    let mut world = World::new().await;
    world.register("1001", 1).await;
    let call_id = world.talk("a").await;
    drop(world.bus.serve(Role::Proxy, "proxy".into()));
    let cdr = world.cdr(&call_id).await;
    assert_eq!((cdr.cause.as_str(), cdr.ended_by.as_str(), cdr.sip_code), ("crash", "system", 503));
    world.quiet(1).await;
}

#[tokio::test]
async fn a_snapshot_of_another_version_is_refused_by_name() {
    let mut member = Membership::alone(Role::Switchboard);
    member.restored.push(("call/x".into(), r#"{"kind":"call","v":99,"d":{}}"#.into()));
    let store = Store::memory().await.unwrap();
    let started = nebula_switchboard::start(options(), nebula_bus::Bus::local(), store, member).await;
    let error = started.expect_err("another version").to_string();
    assert!(error.contains("version 99") && error.contains("[1]"), "{error}");
}
