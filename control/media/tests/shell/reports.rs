//! What the dataplane reports reaches the switchboard that owns the stream.

use super::*;
use nebula_bus::contract::to_switchboard::{StreamTimeout, StreamUp};
use nebula_ring::event::Event;

#[tokio::test]
async fn a_latch_and_a_silence_are_told_to_the_owner() {
    let (mut stage, fake) = Stage::with_workers(1).await;
    let created = stage.create("call", offer("0")).await.unwrap();
    let id = nebula_ring::StreamId(u64::from_str_radix(created.stream_id.as_str(), 16).unwrap());
    fake.report(Event::StreamUp { id, remote: "192.0.2.77:4444".parse().unwrap() });
    let up = stage.told::<StreamUp>().await;
    assert_eq!((up.stream_id, up.call_id.as_str(), up.channel_id.as_str()), (created.stream_id, "call", "call-leg"));
    assert_eq!(up.remote.as_deref(), Some("192.0.2.77:4444"));
    fake.report(Event::RtpTimeout { id: nebula_ring::StreamId(1) });
    fake.report(Event::RtpTimeout { id });
    assert_eq!(stage.told::<StreamTimeout>().await.channel_id.as_str(), "call-leg", "and nothing of a stream not ours");
}

#[tokio::test]
async fn a_dataplane_whose_workers_are_overloaded_gets_no_new_calls_but_keeps_those_it_has() {
    let (stage, fake) = Stage::with_workers(1).await;
    let created = stage.create("call", offer("0")).await.unwrap();
    fake.report(Event::Overload { on: true });
    // The event travels by itself.
    let refused = async {
        loop {
            match stage.create("new", offer("0")).await {
                Ok(too_soon) => {
                    drop(stage.call::<nebula_bus::contract::to_media::StreamDestroy>(stream(&too_soon.stream_id)).await)
                }
                Err(refused) => break refused,
            }
        }
    };
    let refused = tokio::time::timeout(DEADLINE, refused).await.unwrap();
    assert!(refused.is("overloaded") && refused.is_transient() && refused.retry_after_s.is_some(), "{refused:?}");
    let load = || stage.bus.instances(nebula_bus::contract::Role::Media)[0].load;
    assert!(load() >= 1 << 32, "others are asked before it");
    stage.create("call", Step::LocalOffer { mirror: Some(created.stream_id) }).await.expect("its other leg");
    fake.report(Event::Overload { on: false });
    let taken = async { while stage.create("new", offer("0")).await.is_err() {} };
    tokio::time::timeout(DEADLINE, taken).await.expect("new calls are taken again");
    assert!(load() < 1 << 32);
}

#[tokio::test]
async fn a_silence_whose_report_was_lost_is_found_in_the_table() {
    let (mut stage, fake) = Stage::with_workers(1).await;
    fake.silent();
    let created = stage.create("call", offer("0")).await.unwrap();
    assert_eq!(stage.told::<StreamTimeout>().await.stream_id, created.stream_id);
    assert_eq!(stage.told::<StreamTimeout>().await.stream_id, created.stream_id, "until the switchboard acts on it");
}

#[tokio::test]
async fn a_drain_ends_when_the_last_stream_has_ended() {
    let (stage, _fake) = Stage::with_workers(1).await;
    let created = stage.create("call", offer("0")).await.unwrap();
    stage.agent.drain();
    assert!(!stage.agent.ready());
    let other = stage.create("call", Step::LocalOffer { mirror: Some(created.stream_id.clone()) }).await.unwrap();
    let refused = stage
        .bus
        .call::<nebula_bus::contract::to_media::StreamCreate>(
            &Target::Service,
            create("new", offer("0")),
            &Context::new(DEADLINE),
        )
        .await;
    assert!(refused.unwrap_err().is("no_instance"));
    for stream_id in [created.stream_id, other.stream_id] {
        let destroy = stage.call::<nebula_bus::contract::to_media::StreamDestroy>(stream(&stream_id));
        let (drained, destroyed) = (tokio::time::timeout(Duration::ZERO, stage.agent.drained()).await, destroy.await);
        assert!(drained.is_err() && destroyed.is_ok());
    }
    tokio::time::timeout(DEADLINE, stage.agent.drained()).await.unwrap();
    stage.agent.stop().await;
}

#[tokio::test]
async fn a_switchboard_that_is_gone_does_not_hold_up_the_stop() {
    let (stage, fake) = Stage::with_workers(1).await;
    let created = stage.create("call", offer("0")).await.unwrap();
    let Stage { agent, switchboard, bus, .. } = stage;
    drop(switchboard);
    let id = nebula_ring::StreamId(u64::from_str_radix(created.stream_id.as_str(), 16).unwrap());
    let before = bus.counts().requests;
    fake.report(Event::RtpTimeout { id });
    let tried = async {
        while bus.counts().requests == before {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, tried).await.expect("it tries to tell");
    tokio::time::timeout(Duration::from_secs(5), agent.stop()).await.expect("less than it would try on");
}
