//! Making, changing, bridging and ending streams: what the dataplane is told and what the switchboard is answered.

use super::*;
use nebula_bus::Category;
use nebula_bus::contract::to_media::{BridgeCreate, BridgeDestroy, StreamDestroy, StreamGet};
use nebula_ring::command::{Command, StreamConfig};
use nebula_ring::event::Reason;

fn config(command: (usize, Command)) -> StreamConfig {
    match command.1 {
        Command::CreateStream { config, .. } | Command::UpdateStream { config, .. } => config,
        other => panic!("{other:?} has no configuration"),
    }
}

fn map(config: &StreamConfig) -> Vec<(u8, u8)> {
    config.payload_types.as_slice().iter().map(|row| (row.number, row.forward_as)).collect()
}

#[tokio::test]
async fn a_call_from_offer_to_final_statistics() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    fake.packets_in(42);
    let a = stage.create("call", offer("0 8")).await.unwrap();
    assert_eq!((a.sdp, a.stream_id.as_str().len()), (None, 16));
    let first = config(fake.command().await);
    assert_eq!(first.remote_rtp, Some("192.0.2.10:4000".parse().unwrap()));
    assert_eq!(first.rtcp_port, first.rtp_port + 1);
    assert!(!first.receive && !first.send && !first.nat_expected && first.ssrc != 0);

    let b = stage.create("call", Step::LocalOffer { mirror: Some(a.stream_id.clone()) }).await.unwrap();
    let to_b = b.sdp.unwrap();
    let second = config(fake.command().await);
    assert!(to_b.contains(&format!("m=audio {} RTP/AVP 0 8\r\n", second.rtp_port)), "{to_b}");
    assert_ne!(first.rtp_port, second.rtp_port);

    let negotiated = stage.update(&b.stream_id, answer("8")).await.unwrap();
    assert_eq!((negotiated.sdp, negotiated.held), (None, false));
    let answered = config(fake.command().await);
    assert_eq!(answered.remote_rtp, Some("192.0.2.10:5000".parse().unwrap()));
    assert!(answered.receive && answered.send);

    let to_a = stage.update(&a.stream_id, Step::LocalAnswer { mirror: Some(b.stream_id.clone()) }).await.unwrap();
    assert!(to_a.sdp.unwrap().contains(&format!("m=audio {} RTP/AVP 8\r\n", first.rtp_port)));
    assert_eq!(map(&config(fake.command().await)), [(8, 8)]);

    stage.call::<BridgeCreate>(bridge(&a.stream_id, &b.stream_id)).await.unwrap();
    assert!(matches!(fake.command().await.1, Command::CreateBridge { .. }), "numbers agree, so nothing else is told");

    let stats = stage.call::<StreamDestroy>(stream(&a.stream_id)).await.unwrap();
    assert_eq!((stats.packets_received, stats.codec.as_deref()), (43, Some("PCMA/8000")), "with the very last packet");
    assert_eq!(stats.local, Some(format!("127.0.0.1:{}", first.rtp_port)));
    assert_eq!(stats.remote.as_deref(), Some("192.0.2.10:4000"));
    assert!(matches!(fake.command().await.1, Command::DestroyStream { .. }));
    let again = stage.call::<StreamDestroy>(stream(&a.stream_id)).await.unwrap_err();
    assert!(again.is("unknown_stream") && again.category == Category::Business);
    assert_eq!(stage.call::<StreamGet>(stream(&b.stream_id)).await.unwrap().packets_received, 42);
}

#[tokio::test]
async fn a_bridge_maps_the_numbers_of_its_legs() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    let opus = |number: u8| format!("{number}\r\na=rtpmap:{number} opus/48000/2");
    let a = stage.create("call", offer(&opus(96))).await.unwrap().stream_id;
    let b = stage.create("call", Step::LocalOffer { mirror: Some(a.clone()) }).await.unwrap().stream_id;
    stage.update(&b, answer(&opus(120))).await.unwrap();
    stage.update(&a, Step::LocalAnswer { mirror: Some(b.clone()) }).await.unwrap();
    for _ in 0..4 {
        fake.command().await;
    }
    stage.call::<BridgeCreate>(bridge(&a, &b)).await.unwrap();
    assert_eq!(map(&config(fake.command().await)), [(96, 120)]);
    assert_eq!(map(&config(fake.command().await)), [(96, 96)]);
    assert!(matches!(fake.command().await.1, Command::CreateBridge { .. }), "only after both are up to date");
    stage.call::<BridgeDestroy>(bridge(&b, &a)).await.unwrap();
    assert!(matches!(fake.command().await.1, Command::DestroyBridge { .. }));
    stage.call::<BridgeDestroy>(bridge(&a, &b)).await.unwrap();
    let same = stage.call::<BridgeCreate>(bridge(&a, &a)).await.unwrap_err();
    assert!(same.is("same_stream"));
}

#[tokio::test]
async fn a_leg_that_meets_one_of_another_worker_moves_there_first() {
    let (stage, mut fake) = Stage::with_workers(2).await;
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    let b = stage.create("other", offer("0")).await.unwrap().stream_id;
    let (first, second) = (fake.command().await.0, fake.command().await.0);
    assert_ne!(first, second, "two calls live apart");
    // The fake's workers share no table, so what follows the move fails there; what counts is who is asked what.
    let _ = stage.call::<BridgeCreate>(bridge(&a, &b)).await;
    let (worker, command) = fake.command().await;
    assert_eq!(worker, second);
    assert!(matches!(command, Command::MigrateStream { worker, .. } if worker as usize == first), "{command:?}");
    loop {
        let (worker, command) = fake.command().await;
        assert_eq!(worker, first, "{command:?}");
        if matches!(command, Command::CreateBridge { .. }) {
            break;
        }
    }
}

#[tokio::test]
async fn a_port_that_somebody_holds_is_passed_over() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    fake.refuse([Reason::PortInUse, Reason::PortInUse]);
    let created = stage.create("call", Step::LocalOffer { mirror: None }).await.unwrap();
    let ports = [config(fake.command().await), config(fake.command().await), config(fake.command().await)];
    assert_ne!(ports[0].rtp_port, ports[1].rtp_port);
    assert!(created.sdp.unwrap().contains(&format!("m=audio {} ", ports[2].rtp_port)));
}

#[tokio::test]
async fn refusals_have_their_categories_and_leave_nothing_behind() {
    let (stage, fake) = Stage::with_workers(1).await;
    for _ in 0..10 {
        let refused = stage.create("call", offer("18\r\na=sendrecv\r\nm=broken")).await.unwrap_err();
        assert!(refused.is("bad_sdp") && refused.category == Category::Business, "{refused:?}");
        let refused = stage.create("call", Step::RemoteOffer { sdp: sdp(4000, "99") }).await.unwrap_err();
        assert!(refused.is("incompatible"), "{refused:?}");
        fake.refuse([Reason::TableFull]);
        let refused = stage.create("call", offer("0")).await.unwrap_err();
        assert!(refused.is("dataplane_full") && refused.is_transient(), "{refused:?}");
    }
    let refused = stage.create("call", Step::LocalAnswer { mirror: None }).await.unwrap_err();
    assert!(refused.is("wrong_step"));
    let refused = stage.create("call", Step::LocalOffer { mirror: Some("0000000000000001".into()) }).await.unwrap_err();
    assert!(refused.is("unknown_stream"));
    let all = [
        stage.create("a", offer("0")),
        stage.create("b", offer("0")),
        stage.create("c", offer("0")),
        stage.create("d", offer("0")),
    ];
    for created in all {
        created.await.unwrap();
    }
    let full = stage.create("e", offer("0")).await.unwrap_err();
    assert!(full.is("no_ports") && full.is_transient());
}

#[tokio::test]
async fn the_streams_of_a_call_share_a_worker_and_calls_spread() {
    let (stage, mut fake) = Stage::with_workers(2).await;
    for call in ["x", "y", "x", "y"] {
        stage.create(call, offer("0")).await.unwrap();
    }
    let workers = [fake.command().await.0, fake.command().await.0, fake.command().await.0, fake.command().await.0];
    assert_eq!([workers[0], workers[1]], [workers[2], workers[3]]);
    assert_ne!(workers[0], workers[1]);
}

#[tokio::test]
async fn a_dataplane_that_says_nothing_is_not_waited_for_for_ever() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    fake.mute();
    let refused = stage.create("call", offer("0")).await.unwrap_err();
    assert!(refused.is("no_dataplane") && refused.is_transient(), "{refused:?}");
    let Command::CreateStream { id, .. } = fake.command().await.1 else { panic!("it was asked for") };
    assert_eq!(fake.command().await.1, Command::DestroyStream { id }, "it may have been made all the same");
}

#[tokio::test]
async fn a_stream_that_came_too_late_for_its_caller_is_closed() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    fake.slow();
    let target = Target::Instance(stage.agent.instance().clone());
    let call = stage.bus.call::<nebula_bus::contract::to_media::StreamCreate>(
        &target,
        create("call", offer("0")),
        &Context::new(fake::SLOW / 3),
    );
    assert!(call.await.unwrap_err().is("deadline_exceeded"));
    let Command::CreateStream { id, .. } = fake.command().await.1 else { panic!("it was asked for") };
    assert_eq!(fake.command().await.1, Command::DestroyStream { id });
}

#[tokio::test]
async fn what_the_dataplane_did_not_take_it_is_told_again() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    fake.command().await;
    fake.refuse([Reason::System { errno: 12 }]);
    stage.update(&a, Step::LocalAnswer { mirror: None }).await.unwrap_err();
    let refused = config(fake.command().await);
    stage.update(&a, Step::LocalAnswer { mirror: None }).await.unwrap();
    assert_eq!(config(fake.command().await), refused);
    stage.update(&a, Step::LocalAnswer { mirror: None }).await.unwrap();
    stage.call::<StreamDestroy>(stream(&a)).await.unwrap();
    assert!(matches!(fake.command().await.1, Command::DestroyStream { .. }), "it was told all");
}

#[tokio::test]
async fn silence_is_not_counted_while_a_peer_holds() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    let a = stage.create("call", offer("0")).await.unwrap().stream_id;
    stage.update(&a, Step::LocalAnswer { mirror: None }).await.unwrap();
    fake.command().await;
    assert_eq!(config(fake.command().await).rtp_timeout_ms, 60_000);
    for (direction, timeout_ms) in [("sendonly", 0), ("sendrecv", 60_000), ("inactive", 0)] {
        stage.update(&a, offer(&format!("0\r\na={direction}"))).await.unwrap();
        stage.update(&a, Step::LocalAnswer { mirror: None }).await.unwrap();
        let mut told = config(fake.command().await);
        while let Ok((_, Command::UpdateStream { config, .. })) = fake.commands.try_recv() {
            told = config;
        }
        assert_eq!(told.rtp_timeout_ms, timeout_ms, "{direction}");
    }
}

#[tokio::test]
async fn streams_that_were_told_each_others_ports_hear_nobody() {
    let (stage, mut fake) = Stage::with_workers(1).await;
    let at = |port: u16, rtcp: u16| {
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=rtcp:{rtcp}\r\n"
        )
    };
    let a = stage.create("call", Step::RemoteOffer { sdp: at(4000, 4001) }).await.unwrap().stream_id;
    let b = stage.create("call", Step::LocalOffer { mirror: Some(a.clone()) }).await.unwrap().stream_id;
    let [port_a, port_b] = [config(fake.command().await).rtp_port, config(fake.command().await).rtp_port];
    stage.update(&b, Step::RemoteAnswer { sdp: at(port_a, port_a + 1) }).await.unwrap();
    stage.update(&a, Step::LocalAnswer { mirror: Some(b.clone()) }).await.unwrap();
    stage.call::<BridgeCreate>(bridge(&a, &b)).await.unwrap();
    let told_b = std::iter::from_fn(|| fake.commands.try_recv().ok()).filter_map(|(_, command)| match command {
        Command::UpdateStream { config, .. } if config.rtp_port == port_b => Some(config.remote_rtp),
        _ => None,
    });
    assert_eq!(told_b.last(), Some(None), "it would send to the stream whose packets it sends on");
    let free = Some("127.0.0.1:4002".parse().unwrap());
    let rows =
        [(at(port_b, port_b + 1), None), (at(4002, 4003), free), (at(4004, port_b + 1), None), (at(4002, 4003), free)];
    for (remote, expected) in rows {
        stage.update(&a, Step::RemoteOffer { sdp: remote }).await.unwrap();
        stage.update(&a, Step::LocalAnswer { mirror: Some(b.clone()) }).await.unwrap();
        let mut told = std::collections::HashMap::new();
        while let Ok((_, command)) = fake.commands.try_recv() {
            if let Command::UpdateStream { config, .. } = command {
                told.insert(config.rtp_port, config.remote_rtp);
            }
        }
        assert_eq!(told.get(&port_a), Some(&expected), "{told:?}");
    }
}

#[tokio::test]
async fn a_phone_elsewhere_cannot_have_media_sent_to_our_own_loopback() {
    let folder = tempfile::tempdir().unwrap();
    let bus = Bus::local();
    let _switchboard = bus.serve(Role::Switchboard, "switchboard-1".into());
    let socket = folder.path().join("socket");
    let _fake = Fake::start(&socket, 1);
    let options = Options { dataplane_socket: socket, local_ip: Some([192, 0, 2, 1].into()), ..Options::default() };
    let agent = nebula_media::start(options, bus.clone(), Membership::alone(Role::Media)).await.unwrap();
    until_ready(&agent).await;
    let offered = |ip: &str, source: &str| {
        let Step::RemoteOffer { sdp } = offer("0") else { unreachable!("an offer") };
        let sdp = sdp.replace("c=IN IP4 192.0.2.10", &format!("c=IN IP4 {ip}"));
        Create { source: Some(source.into()), ..create("call", Step::RemoteOffer { sdp }) }
    };
    let call = async |create| {
        let target = Target::Instance(agent.instance().clone());
        bus.call::<nebula_bus::contract::to_media::StreamCreate>(&target, create, &Context::new(DEADLINE)).await
    };
    assert!(call(offered("127.0.0.1", "192.0.2.10:5060")).await.unwrap_err().is("bad_sdp"));
    call(offered("127.0.0.1", "127.0.0.1:5060")).await.expect("a phone on this host");
    let stream_id = call(offered("192.0.2.10", "192.0.2.10:5060")).await.unwrap().stream_id;
    let Step::RemoteOffer { sdp } = offer("0") else { unreachable!("an offer") };
    let step = Step::RemoteOffer { sdp: sdp.replace("c=IN IP4 192.0.2.10", "c=IN IP4 127.0.0.9") };
    let target = Target::Instance(agent.instance().clone());
    let moved = bus.call::<nebula_bus::contract::to_media::StreamUpdate>(
        &target,
        Update { stream_id, step },
        &Context::new(DEADLINE),
    );
    assert!(moved.await.unwrap_err().is("bad_sdp"));
}
