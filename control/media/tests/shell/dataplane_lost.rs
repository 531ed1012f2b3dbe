//! The dataplane dies and comes back: the switchboards hear of it, and calls that were lost can still be billed.

use super::*;
use nebula_bus::contract::to_media::{BridgeCreate, StreamDestroy};
use nebula_bus::contract::to_switchboard::{DataplaneBack, DataplaneLost};

#[tokio::test]
async fn streams_are_reported_lost_and_keep_their_last_statistics() {
    let (mut stage, fake) = Stage::with_workers(1).await;
    fake.packets_in(1000);
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    stage.update(&a, Step::LocalAnswer { mirror: None }).await.unwrap();
    drop(fake);
    let lost = stage.told::<DataplaneLost>().await;
    assert_eq!((&lost.streams, &lost.media), (&vec![a.clone()], stage.agent.instance()));
    assert!(!stage.agent.ready());
    let refused = stage.create("other", offer("0")).await.unwrap_err();
    assert!(refused.is("no_dataplane") && refused.is_transient());
    assert!(stage.update(&a, offer("0")).await.unwrap_err().is("stream_lost"));

    let mut fake = Fake::start(&stage.socket(), 1);
    let back = stage.told::<DataplaneBack>().await;
    assert!(back.streams.is_empty(), "a new dataplane has none of the old one's streams");
    until_ready(&stage.agent).await;
    let stats = stage.call::<StreamDestroy>(stream(&a)).await.unwrap();
    assert_eq!((stats.packets_received, stats.codec.as_deref()), (1000, Some("PCMU/8000")));
    assert!(stage.call::<StreamDestroy>(stream(&a)).await.unwrap_err().is("unknown_stream"));
    let c = stage.create("other", offer("0")).await.unwrap().stream_id;
    let d = stage.create("other", offer("0")).await.unwrap().stream_id;
    stage.call::<BridgeCreate>(bridge(&c, &d)).await.unwrap();
    assert!(matches!(fake.command().await.1, nebula_ring::Command::CreateStream { .. }));
}

#[tokio::test]
async fn they_tell_before_the_dataplane_is_back_too() {
    let (mut stage, fake) = Stage::with_workers(1).await;
    fake.packets_in(1000);
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    drop(fake);
    stage.told::<DataplaneLost>().await;
    assert_eq!(stage.call::<StreamDestroy>(stream(&a)).await.unwrap().packets_received, 1000);
}
