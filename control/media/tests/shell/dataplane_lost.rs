//! The dataplane dies and comes back: its streams are made again in the next one, the switchboards hear of it, and what
//! could not be made again can still be billed.

use super::*;
use nebula_bus::contract::to_media::StreamDestroy;
use nebula_bus::contract::to_switchboard::{DataplaneBack, DataplaneLost};
use nebula_ring::command::{Command, StreamConfig};
use nebula_ring::event::Reason;
use nebula_ring::table::StreamRecord;

pub(crate) async fn resumed(fake: &mut Fake) -> (StreamConfig, StreamRecord) {
    match fake.command().await.1 {
        Command::ResumeStream { config, record, .. } => (config, record),
        other => panic!("{other:?} makes no stream again"),
    }
}

#[tokio::test]
async fn streams_are_made_again_and_count_on() {
    let (mut stage, mut fake) = Stage::with_workers(2).await;
    fake.packets_in(1000);
    let (a, b) = stage.bridged(&mut fake).await;
    drop(fake);
    let both = sorted(vec![a.clone(), b.clone()]);
    assert_eq!(sorted(stage.told::<DataplaneLost>().await.streams), both);
    assert!(!stage.agent.ready());
    let refused = stage.create("other", offer("0")).await.unwrap_err();
    assert!(refused.is("no_dataplane") && refused.is_transient());
    let refused = stage.update(&a, offer("0")).await.unwrap_err();
    assert!(refused.is("stream_returning") && refused.is_transient());

    let mut fake = Fake::start(&stage.socket(), 2);
    for _ in 0..2 {
        let (config, record) = resumed(&mut fake).await;
        assert_eq!((config.rtp_port, config.remote_rtp), (record.rtp_port, record.remote_rtp()));
        assert_eq!((record.packets_in, config.receive, config.payload_types.as_slice().len()), (1000, true, 2));
    }
    let bridged = fake.command().await.1;
    assert!(matches!(bridged, Command::CreateBridge { .. }), "{bridged:?}");
    assert_eq!(sorted(stage.told::<DataplaneBack>().await.streams), both);
    until_ready(&stage.agent).await;
    stage.update(&a, offer("8")).await.unwrap();
    let stats = stage.call::<StreamDestroy>(stream(&a)).await.unwrap();
    assert_eq!(stats.packets_received, 1001, "with the very last packet");
    assert!(stage.call::<StreamDestroy>(stream(&a)).await.unwrap_err().is("unknown_stream"));
}

#[tokio::test]
async fn a_stream_that_cannot_be_made_again_is_named_and_can_be_billed() {
    let (mut stage, mut fake) = Stage::with_workers(1).await;
    fake.packets_in(1000);
    let (a, b) = stage.bridged(&mut fake).await;
    drop(fake);
    stage.told::<DataplaneLost>().await;
    let fake = Fake::start_refusing(&stage.socket(), 1, [Reason::TableFull]);
    let back = stage.told::<DataplaneBack>().await.streams;
    let gone = if back == [a.clone()] { b } else { a };
    assert!(back.len() == 1 && back[0] != gone);
    assert!(stage.update(&gone, offer("0")).await.unwrap_err().is("stream_lost"));
    let stats = stage.call::<StreamDestroy>(stream(&gone)).await.unwrap();
    assert_eq!((stats.packets_received, stats.codec.as_deref()), (1000, Some("PCMU/8000")));
    drop(fake);
}

#[tokio::test]
async fn the_ports_of_the_dead_are_waited_for() {
    let (mut stage, mut fake) = Stage::with_workers(1).await;
    let (a, b) = stage.bridged(&mut fake).await;
    drop(fake);
    stage.told::<DataplaneLost>().await;
    let _fake = Fake::start_refusing(&stage.socket(), 1, [Reason::PortInUse; 5]);
    assert_eq!(sorted(stage.told::<DataplaneBack>().await.streams), sorted(vec![a, b]));
}

#[tokio::test]
async fn what_ends_meanwhile_is_billed_and_not_made_again() {
    let (mut stage, mut fake) = Stage::with_workers(1).await;
    fake.packets_in(1000);
    let (a, b) = stage.bridged(&mut fake).await;
    drop(fake);
    stage.told::<DataplaneLost>().await;
    assert_eq!(stage.call::<StreamDestroy>(stream(&a)).await.unwrap().packets_received, 1000);
    let mut fake = Fake::start(&stage.socket(), 1);
    resumed(&mut fake).await;
    assert_eq!(stage.told::<DataplaneBack>().await.streams, [b]);
    stage.create("other", offer("0")).await.unwrap();
    assert!(matches!(fake.command().await.1, Command::CreateStream { .. }), "neither the other leg nor a bridge to it");
}
