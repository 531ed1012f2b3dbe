//! A switchboard adopts streams: it hears of them from then on, and its predecessor commands them no more.

use super::*;
use nebula_bus::contract::to_media::{AdoptStreams, StreamAdopt, StreamDestroy, StreamUpdate};
use nebula_bus::contract::to_switchboard::{StreamTimeout, StreamUp};
use nebula_ring::event::Event;

fn adopt(switchboard: &str, fence: u64, streams: &[&StreamId]) -> AdoptStreams {
    AdoptStreams { switchboard: switchboard.into(), fence, streams: streams.iter().map(|&id| id.clone()).collect() }
}

fn with_fence(fence: u64) -> Context {
    Context::new(DEADLINE).fence(fence)
}

#[tokio::test]
async fn the_highest_fence_commands_and_lower_ones_are_refused() {
    let (stage, _fake) = Stage::with_workers(1).await;
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    let update = || Update { stream_id: a.clone(), step: Step::LocalAnswer { mirror: None } };
    stage.call_in::<StreamUpdate>(update(), &with_fence(5)).await.unwrap();
    let refused = stage.call_in::<StreamUpdate>(update(), &with_fence(4)).await.unwrap_err();
    assert!(refused.is("fenced") && !refused.is_transient(), "{refused}");
    let refused = stage.call::<StreamAdopt>(adopt("switchboard-0", 4, &[&a])).await.unwrap_err();
    assert!(refused.is("fenced"));
    let unknown = StreamId("00000000000000ff".into());
    let adopted = stage.call::<StreamAdopt>(adopt("switchboard-2", 6, &[&a, &unknown])).await.unwrap();
    assert_eq!(adopted.alive, std::slice::from_ref(&a));
    let refused = stage.call_in::<StreamDestroy>(stream(&a), &with_fence(5)).await.unwrap_err();
    assert!(refused.is("fenced"));
    stage.call_in::<StreamDestroy>(stream(&a), &with_fence(6)).await.unwrap();
}

#[tokio::test]
async fn what_the_dead_owner_did_not_hear_its_heir_does() {
    let (mut stage, fake) = Stage::with_workers(1).await;
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    let id = nebula_ring::StreamId(u64::from_str_radix(a.as_str(), 16).unwrap());
    // Its owner dies; what happens then waits.
    let heir = stage.bus.serve(Role::Switchboard, "switchboard-2".into());
    drop(std::mem::replace(&mut stage.switchboard, heir));
    let before = stage.bus.counts().requests;
    fake.report(Event::StreamUp { id, remote: "192.0.2.77:4444".parse().unwrap() });
    let tried = async {
        while stage.bus.counts().requests == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, tried).await.expect("it tries to tell");
    stage.call::<StreamAdopt>(adopt("switchboard-2", 2, &[&a])).await.unwrap();
    let up = stage.told::<StreamUp>().await;
    assert_eq!((up.stream_id, up.call_id.as_str(), up.remote.as_deref()), (a.clone(), "call", Some("192.0.2.77:4444")));
    fake.report(Event::RtpTimeout { id });
    assert_eq!(stage.told::<StreamTimeout>().await.stream_id, a);
}
