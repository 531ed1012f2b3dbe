//! Roles that die, are silent or fail: every call still leaves exactly one record.
#![allow(missing_docs)]

mod common;

use common::*;
use nebula_bus::Error;
use nebula_bus::contract::CauseKind;
use nebula_bus::contract::to_switchboard::*;
use nebula_store::calls::{self, NewCall};
use nebula_store::{Store, cdrs, outbox};

#[tokio::test]
async fn a_record_does_not_wait_for_a_dead_media_agent() {
    let mut world = World::new().await;
    world.register("1001", 1).await;
    let call_id = world.talk("a").await;
    world.script.lock().unwrap().silent.push("stream.destroy");
    world.hang_up("a", 200, CauseKind::Normal).await.unwrap();
    let cdr = world.cdr(&call_id).await;
    assert!(cdr.legs.iter().all(|leg| leg.stats.is_null()));
    world.script.lock().unwrap().streams_open.clear();
    world.quiet(1).await;
}

#[tokio::test]
async fn refusals_of_the_media_agent_become_sip_codes() {
    for (error, code, cause) in [
        (Error::business("incompatible", "no codec"), 488, "incompatible"),
        (Error::transient("no_ports", "full"), 503, "internal"),
    ] {
        let mut world = World::new().await;
        world.register("1001", 1).await;
        world.script.lock().unwrap().errors.insert("stream.create", error);
        let call_id = world.invite("a", "1001").await.unwrap().call_id;
        world.expect(&format!("reject a {code}")).await;
        assert_eq!(world.cdr(&call_id).await.cause, cause);
        world.quiet(1).await;
    }
}

#[tokio::test]
async fn a_proxy_that_does_not_dial_is_told_to_hang_up() {
    let mut world = World::new().await;
    world.register("1001", 1).await;
    world.script.lock().unwrap().silent.push("channel.dial");
    let call_id = world.invite("a", "1001").await.unwrap().call_id;
    world.expect(&format!("hangup {call_id}-1 503")).await;
    world.expect("reject a 503").await;
    world.cdr(&call_id).await;
    world.quiet(1).await;
}

#[tokio::test]
async fn no_store_no_call() {
    let mut world = World::new().await;
    world.store.clone().close().await;
    world.invite("a", "*43").await.unwrap();
    world.expect("reject a 503").await;
}

#[tokio::test]
async fn a_lost_dataplane_ends_its_calls_unless_it_comes_back_with_them() {
    let mut world = World::new().await;
    let kept = world.invite("a", "*43").await.unwrap().call_id;
    world.expect("answer a local answer").await;
    let lost = world.invite("b", "*43").await.unwrap().call_id;
    world.expect("answer b local answer").await;
    let streams = world.tell::<CallGet>(GetCall { call_id: kept.clone() }).await.unwrap().streams;
    let state = |streams| DataplaneState { media: "media".into(), streams };
    world.tell::<DataplaneLost>(state(Vec::new())).await.unwrap();
    world.tell::<DataplaneBack>(state(streams)).await.unwrap();
    world.expect("hangup b 500").await;
    assert_eq!(world.cdr(&lost).await.cause, "crash");
    assert_eq!(world.tell::<CallGet>(GetCall { call_id: kept }).await.unwrap().state, "answered");
    world.hang_up("a", 200, CauseKind::Normal).await.unwrap();
    world.quiet(2).await;
    let events = outbox::unpublished(&world.store, 0, 100).await.unwrap();
    let told: Vec<_> = events.iter().filter(|event| event.subject == "media").map(|event| &*event.kind).collect();
    assert_eq!(told, ["dataplane.lost", "dataplane.back"]);
}

#[tokio::test]
async fn calls_of_a_dead_switchboard_are_closed_once() {
    let store = Store::memory().await.unwrap();
    let row = |id: &str| NewCall {
        id: id.into(),
        customer_id: "demo".into(),
        state: "routing".into(),
        from_user: "1000".into(),
        from_display: None,
        to_user: "1001".into(),
        started_unix_ms: 1_000,
        switchboard: "switchboard-dead".into(),
        snapshot: None,
    };
    // What a switchboard keeps with the answer, written by one that lives.
    let mut world = World::with(options(), store.clone()).await;
    world.register("1001", 1).await;
    let living = world.talk("a").await;
    let snapshot = loop {
        let row = calls::get(&store, living.as_str()).await.unwrap().unwrap();
        if row.answered_unix_ms.is_some() {
            break row.snapshot.expect("a snapshot");
        }
        tokio::task::yield_now().await;
    };
    calls::start(&store, row("ringing")).await.unwrap();
    calls::start(&store, row("talking")).await.unwrap();
    calls::answered(&store, "talking", "answered", 3_000, Some(snapshot)).await.unwrap();

    // Another switchboard starts: the first is living, the dead one's calls are closed.
    let second = nebula_switchboard::start(
        options(),
        world.bus.clone(),
        store.clone(),
        nebula_bus::Membership::alone(nebula_bus::contract::Role::Switchboard),
    )
    .await
    .unwrap();
    world.expect("hangup a 500").await;
    world.expect(&format!("hangup {living}-1 500")).await;
    for (id, answered) in [("ringing", None), ("talking", Some(3_000))] {
        let cdr = world.cdr(&id.into()).await;
        assert_eq!((cdr.cause.as_str(), cdr.ended_by.as_str(), cdr.answered_unix_ms), ("crash", "system", answered));
    }
    second.stop().await;
    assert_eq!(world.script.lock().unwrap().destroyed.len(), 2);
    assert!(cdrs::get(&store, living.as_str()).await.unwrap().is_none(), "a living switchboard's call was closed");

    let third = nebula_switchboard::start(
        options(),
        world.bus.clone(),
        store.clone(),
        nebula_bus::Membership::alone(nebula_bus::contract::Role::Switchboard),
    )
    .await
    .unwrap();
    third.stop().await;
    world.tell::<CallHangup>(GetCall { call_id: living.clone() }).await.unwrap();
    world.cdr(&living).await;
    world.quiet(3).await;
    let events = outbox::unpublished(&store, 0, 100).await.unwrap();
    assert_eq!(events.iter().filter(|event| event.kind == "call.ended").count(), 3);
}
