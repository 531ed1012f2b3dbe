//! Calls through the shell: what the proxy and the media agent are asked, and what is left in the store.
#![allow(missing_docs)]

mod common;

use common::*;
use nebula_bus::Error;
use nebula_bus::contract::to_switchboard::*;
use nebula_bus::contract::{CallId, CauseKind};
use nebula_store::{Store, calls, outbox};
use nebula_switchboard::Options;

#[tokio::test]
async fn a_call_leaves_its_row_its_events_and_one_record() {
    let mut world = World::new().await;
    world.register("1001", 2).await;
    let invited = world.invite("a", "1001").await.unwrap();
    assert_eq!(invited.switchboard, *world.switchboard.instance());
    assert_eq!(world.invite("a", "1001").await.unwrap(), invited, "the same INVITE again is the same call");
    let (b, c) = (format!("{}-1", invited.call_id), format!("{}-2", invited.call_id));
    world.expect(&format!("dial {b}")).await;
    world.expect(&format!("dial {c}")).await;
    let row =
        calls::get(&world.store, invited.call_id.as_str()).await.unwrap().expect("a row before anybody is dialled");
    assert_eq!((row.from_user.as_str(), row.to_user.as_str()), ("1000", "1001"));
    let ringing = Provisional { channel_id: b.as_str().into(), sip_code: 180, sdp: None };
    world.tell::<ChannelRinging>(ringing).await.unwrap();
    world.expect("ring a").await;
    world.answer(&c).await;
    world.expect(&format!("hangup {b} 200")).await;
    world.expect("answer a local answer").await;
    let view = world.tell::<CallGet>(GetCall { call_id: invited.call_id.clone() }).await.unwrap();
    assert_eq!((view.state.as_str(), view.channels.len()), ("answered", 3));
    let key = Dtmf { channel_id: "a".into(), digit: '5', duration_ms: 100 };
    world.tell::<ChannelDtmf>(key).await.unwrap();
    world.expect(&format!("dtmf {c} 5")).await;
    world.hang_up("a", 200, CauseKind::Normal).await.unwrap();
    world.expect(&format!("hangup {c} 200")).await;
    let cdr = world.cdr(&invited.call_id).await;
    assert_eq!((cdr.cause.as_str(), cdr.ended_by.as_str(), cdr.sip_code), ("normal", "caller", 200));
    assert_eq!(cdr.legs.iter().map(|leg| leg.answered).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(cdr.legs[2].stats["packets_received"], 50);
    assert_eq!(cdr.legs[0].sip_call_id.as_deref(), Some("a@phone"));
    assert!(cdr.answered_unix_ms.is_some());
    world.quiet(1).await;
    let events = outbox::unpublished(&world.store, 0, 100).await.unwrap();
    let of_call = events.iter().filter(|event| event.subject == invited.call_id.0);
    let kinds: Vec<_> = of_call.map(|event| event.kind.as_str()).collect();
    assert_eq!(kinds, ["call.started", "call.answered", "call.ended"]);
}

#[tokio::test]
async fn echo_and_an_extension_without_a_phone() {
    let mut world = World::new().await;
    let echo = world.invite("a", "*43").await.unwrap().call_id;
    world.expect("answer a local answer").await;
    world.hang_up("a", 200, CauseKind::Normal).await.unwrap();
    assert_eq!(world.cdr(&echo).await.cause, "normal");
    let nobody = world.invite("b", "1001").await.unwrap().call_id;
    world.expect("reject b 480").await;
    assert_eq!(world.cdr(&nobody).await.cause, "unreachable");
    world.quiet(2).await;
}

#[tokio::test]
async fn what_is_not_here_is_a_business_error() {
    let world = World::new().await;
    let unknown = |result: Result<_, Error>| result.unwrap_err().code.into_owned();
    assert_eq!(unknown(world.hang_up("nobody", 200, CauseKind::Normal).await), "unknown_channel");
    let event = StreamEvent {
        stream_id: "0000000000000001".into(),
        call_id: "none".into(),
        channel_id: "nobody".into(),
        remote: None,
    };
    assert_eq!(unknown(world.tell::<StreamTimeout>(event).await), "unknown_call");
    let get = GetCall { call_id: CallId::from("none") };
    assert_eq!(world.tell::<CallGet>(get).await.unwrap_err().code, "unknown_call");
}

#[tokio::test]
async fn a_call_more_than_the_most_is_overload() {
    let mut world = World::with(Options { calls_max: 1, ..options() }, Store::memory().await.unwrap()).await;
    world.invite("a", "*43").await.unwrap();
    let error = world.invite("b", "*43").await.unwrap_err();
    assert_eq!((error.code.as_ref(), error.retry_after_s), ("overloaded", Some(5)));
    world.expect("answer a local answer").await;
    let listed = world.tell::<CallList>(ListCalls::default()).await.unwrap();
    assert_eq!(listed.len(), 1);
    world.tell::<CallHangup>(GetCall { call_id: listed[0].call_id.clone() }).await.unwrap();
    world.expect("hangup a 200").await;
    assert_eq!(world.cdr(&listed[0].call_id).await.cause, "administrative");
    world.quiet(1).await;
}

#[tokio::test]
async fn a_drain_takes_no_new_calls_and_ends_with_the_last() {
    let mut world = World::new().await;
    world.invite("a", "*43").await.unwrap();
    world.expect("answer a local answer").await;
    world.switchboard.drain();
    let error = world.invite_until_refused().await;
    assert!(["draining", "no_instance"].contains(&error.code.as_ref()), "{error}");
    world.hang_up_addressed("a").await;
    tokio::time::timeout(std::time::Duration::from_secs(20), world.switchboard.drained()).await.expect("drained");
    assert_eq!(world.switchboard.calls(), 0);
}

#[tokio::test]
async fn a_stop_hangs_up_and_records_what_is_left() {
    let mut world = World::new().await;
    world.register("1001", 1).await;
    let talking = world.talk("a").await;
    let ringing = world.invite("b", "1001").await.unwrap().call_id;
    world.expect(&format!("dial {ringing}-1")).await;
    let store = world.store.clone();
    let World { switchboard, .. } = world;
    switchboard.stop().await;
    for call_id in [talking, ringing] {
        let cdr = nebula_store::cdrs::get(&store, call_id.as_str()).await.unwrap().expect("a record");
        assert_eq!((cdr.cause.as_str(), cdr.ended_by.as_str()), ("administrative", "system"));
    }
}
