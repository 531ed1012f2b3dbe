//! Another agent takes the dataplane over: streams flow on and keep their ports; with what the one before had kept they are
//! its own, without it they can be ended by their names.

use super::*;
use nebula_bus::contract::to_media::{StreamDestroy, StreamGet};
use nebula_bus::contract::to_switchboard::DataplaneBack;
use nebula_bus::snapshots::{Keep, Memory};
use nebula_ring::command::Command;
use std::sync::Arc;

impl Stage {
    /// The next agent of the same name.
    async fn restarted(&mut self, keep: &Arc<Memory>) {
        let keep: Arc<dyn Keep> = keep.clone();
        let member = Membership::enter(keep, Role::Media, "here").await.unwrap();
        self.agent = agent_of(self.socket(), &self.bus, member).await;
        until_ready(&self.agent).await;
    }
}

/// With an agent whose streams are kept.
async fn kept_stage(keep: &Arc<Memory>) -> (Stage, Fake) {
    let (mut stage, fake) = Stage::with_workers(2).await;
    stage.restarted(keep).await;
    (stage, fake)
}

#[tokio::test]
async fn streams_that_were_kept_are_owned_again_as_they_were() {
    let keep = Arc::new(Memory::default());
    let (mut stage, mut fake) = kept_stage(&keep).await;
    fake.packets_in(7);
    let (a, b) = stage.bridged(&mut fake).await;
    let first = stage.update(&a, Step::LocalOffer { mirror: None }).await.unwrap().sdp.unwrap();
    stage.agent.kept().await;
    let (_, kept) = keep.enter(stage.agent.instance()).await.unwrap();
    assert!(kept.len() == 2 && kept.iter().all(|(_, bytes)| bytes.len() < 2_500), "small: {kept:?}");
    stage.restarted(&keep).await;
    assert_eq!(sorted(stage.told::<DataplaneBack>().await.streams), sorted(vec![a.clone(), b.clone()]));
    for _ in 0..2 {
        let (_, told) = fake.command().await;
        assert!(matches!(told, Command::UpdateStream { .. }), "told all again, and still bridged: {told:?}");
    }

    // The exchange goes on where it was: the offer is open, and its answer is taken.
    stage.update(&a, answer("0")).await.unwrap();
    assert!(matches!(fake.command().await.1, Command::UpdateStream { .. }));
    let second = stage.update(&a, Step::LocalOffer { mirror: Some(b.clone()) }).await.unwrap().sdp.unwrap();
    let origin = |sdp: &str| sdp.lines().find(|line| line.starts_with("o=")).unwrap().to_owned();
    let version = |sdp: &str| origin(sdp).split(' ').nth(2).unwrap().parse::<u64>().unwrap();
    assert!(version(&second) > version(&first), "{} after {}", origin(&second), origin(&first));
    for id in [&a, &b] {
        assert_eq!(stage.call::<StreamDestroy>(stream(id)).await.unwrap().packets_received, 8);
    }
    stage.agent.kept().await;
    let (_, kept) = keep.enter(stage.agent.instance()).await.unwrap();
    assert!(kept.is_empty(), "what has ended is not kept: {kept:?}");
}

#[tokio::test]
async fn a_stream_that_is_asked_for_again_of_the_next_agent_is_the_same() {
    let keep = Arc::new(Memory::default());
    let (mut stage, fake) = kept_stage(&keep).await;
    let mirrored = Step::LocalOffer { mirror: None };
    let made = stage.create("call-1", mirrored.clone()).await.unwrap();
    stage.agent.kept().await;
    stage.restarted(&keep).await;
    assert_eq!(stage.create("call-1", mirrored.clone()).await.unwrap(), made);
    let other = stage.create("call-2", mirrored.clone()).await.unwrap();
    assert_ne!(other.stream_id, made.stream_id);
    // What has ended is made anew.
    stage.call::<StreamDestroy>(stream(&made.stream_id)).await.unwrap();
    assert_ne!(stage.create("call-1", mirrored).await.unwrap().stream_id, made.stream_id);
    drop(fake);
}

#[tokio::test]
async fn agent_and_dataplane_both_die_and_the_calls_do_not() {
    let keep = Arc::new(Memory::default());
    let (mut stage, mut fake) = kept_stage(&keep).await;
    let (a, b) = stage.bridged(&mut fake).await;
    stage.agent.kept().await;
    drop(fake);
    let mut fake = Fake::start(&stage.socket(), 2);
    stage.restarted(&keep).await;
    let mut ports = Vec::new();
    let bridged = loop {
        match fake.command().await.1 {
            Command::CreateStream { config, .. } | Command::ResumeStream { config, .. } => {
                assert!(config.send && config.receive && config.ssrc != 0);
                assert_eq!(config.payload_types.as_slice().len(), 2);
                ports.push(config.rtp_port);
            }
            Command::CreateBridge { a, b } => break [a, b],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ports.len(), 2);
    let name = |id: nebula_ring::StreamId| StreamId(format!("{:016x}", id.0));
    assert!(bridged.map(name).iter().all(|id| [&a, &b].contains(&id)));
    let stats = stage.call::<StreamGet>(stream(&a)).await.unwrap();
    assert!(ports.iter().any(|port| stats.local == Some(format!("127.0.0.1:{port}"))));
}

#[tokio::test]
async fn a_stream_that_no_switchboard_knows_any_more_is_closed() {
    let keep = Arc::new(Memory::default());
    let (mut stage, mut fake) = kept_stage(&keep).await;
    let (a, b) = stage.bridged(&mut fake).await;
    stage.agent.kept().await;
    let member = Membership::enter(keep.clone(), Role::Media, "here").await.unwrap();
    let options = Options { dataplane_socket: stage.socket(), unclaimed_silence_s: 1, ..Options::default() };
    stage.agent = nebula_media::start(options, stage.bus.clone(), member).await.unwrap();
    until_ready(&stage.agent).await;
    stage.told::<DataplaneBack>().await;
    stage.call::<StreamGet>(stream(&a)).await.unwrap();
    // It asks about both; the call knows one of them.
    for _ in 0..2 {
        let request = tokio::time::timeout(DEADLINE, stage.switchboard.recv()).await.expect("asked").unwrap();
        let (_, call) = request.open::<nebula_bus::contract::to_switchboard::CallGet>().unwrap();
        call.reply(Ok(nebula_bus::contract::to_switchboard::CallView {
            call_id: "call".into(),
            state: "talking".into(),
            from: nebula_bus::contract::Party::default(),
            to: "1001".into(),
            started_unix_ms: 0,
            answered_unix_ms: None,
            channels: Vec::new(),
            streams: vec![a.clone()],
        }));
    }
    let closed = async { while !matches!(fake.command().await.1, Command::DestroyStream { .. }) {} };
    tokio::time::timeout(DEADLINE, closed).await.unwrap();
    assert!(stage.call::<StreamDestroy>(stream(&b)).await.unwrap_err().is("unknown_stream"));
    stage.call::<StreamDestroy>(stream(&a)).await.unwrap();
}

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
