//! Another agent takes the dataplane over: streams flow on, can be ended by their names, and keep their ports.

use super::*;
use nebula_bus::contract::to_media::{StreamDestroy, StreamGet};
use nebula_ring::command::Command;

#[tokio::test]
async fn streams_of_the_agent_before_are_found_and_can_be_ended() {
    let (mut stage, mut fake) = Stage::with_workers(2).await;
    fake.packets_in(7);
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    let (worker, Command::CreateStream { config: taken, .. }) = fake.command().await else { panic!("created first") };
    let before = std::mem::replace(&mut stage.agent, agent(stage.folder.path().join("socket"), &stage.bus).await);
    before.stop().await;
    until_ready(&stage.agent).await;

    assert_eq!(stage.call::<StreamGet>(stream(&a)).await.unwrap().packets_received, 7);
    for _ in 0..3 {
        stage.create("other", offer("0")).await.unwrap();
        let (_, Command::CreateStream { config, .. }) = fake.command().await else { panic!("created") };
        assert_ne!(config.rtp_port, taken.rtp_port);
    }
    assert!(stage.create("other", offer("0")).await.unwrap_err().is("no_ports"), "three of four pairs were free");

    let stats = stage.call::<StreamDestroy>(stream(&a)).await.unwrap();
    assert_eq!((stats.packets_received, stats.remote.as_deref()), (8, Some("192.0.2.10:4000")));
    let (same_worker, Command::DestroyStream { .. }) = fake.command().await else { panic!("destroyed") };
    assert_eq!(same_worker, worker);
    stage.create("other", offer("0")).await.expect("its ports are free again");
    assert!(stage.call::<StreamDestroy>(stream(&a)).await.unwrap_err().is("unknown_stream"));
}

#[tokio::test]
async fn an_agent_that_was_taken_over_does_not_fight() {
    let (mut stage, _fake) = Stage::with_workers(1).await;
    let first = std::mem::replace(&mut stage.agent, agent(stage.folder.path().join("socket"), &stage.bus).await);
    until_ready(&stage.agent).await;
    let gives_way = async {
        while first.ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, gives_way).await.expect("the first agent gives way");
    assert!(stage.agent.ready());
    stage.create("call", offer("0")).await.unwrap();
}
