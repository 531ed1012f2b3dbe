//! Every method of the contract survives the wire: parameters and reply come out as they went in.
#![allow(missing_docs)]

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::time::Duration;

use nebula_bus::contract::*;
use nebula_bus::{Bus, Context, Target};

struct Checked {
    bus: Bus,
    names: Vec<(Role, &'static str)>,
}

impl Checked {
    async fn round_trip<M: Method>(&mut self, params: M::Params, reply: M::Reply)
    where
        M::Params: Clone + Debug + PartialEq,
        M::Reply: Clone + Debug + PartialEq,
    {
        let mut inbox = self.bus.serve(M::CALLEE, "it".into());
        let context = Context::new(Duration::from_secs(10));
        let call = self.bus.call::<M>(&Target::Service, params.clone(), &context);
        let request = inbox.recv().await.expect("the request");
        assert_eq!(request.method(), M::NAME);
        assert_eq!(request.parse::<M>(), Ok(params));
        request.reply::<M>(Ok(reply.clone()));
        assert_eq!(call.await, Ok(reply), "{}", M::NAME);
        self.names.push((M::CALLEE, M::NAME));
    }
}

fn sdp() -> Option<String> {
    Some("v=0\r\no=- 1 1 IN IP6 ::1\r\ns=\u{e9}\"\\\r\n".into())
}

fn party() -> Party {
    Party { user: "1000".into(), display: Some("Zo\u{eb} \"Z\"".into()) }
}

#[tokio::test]
async fn every_method_survives_the_wire() {
    let mut checked = Checked { bus: Bus::local(), names: vec![] };
    to_the_switchboard(&mut checked).await;
    to_the_proxy(&mut checked).await;
    to_the_media_agent(&mut checked).await;

    let by_table: BTreeSet<(&str, &str)> =
        [(Role::Switchboard, to_switchboard::NAMES), (Role::Proxy, to_proxy::NAMES), (Role::Media, to_media::NAMES)]
            .into_iter()
            .flat_map(|(role, names)| names.iter().map(move |name| (role.name(), *name)))
            .collect();
    let by_test: BTreeSet<(&str, &str)> = checked.names.iter().map(|(role, name)| (role.name(), *name)).collect();
    assert_eq!(by_test, by_table, "a method has no round trip in this test");
}

#[test]
fn names_are_unique_per_role() {
    for names in [to_switchboard::NAMES, to_proxy::NAMES, to_media::NAMES] {
        let unique: BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len(), "{names:?}");
        assert!(names.iter().all(|name| name.split_once('.').is_some()), "{names:?}");
    }
}

async fn to_the_switchboard(checked: &mut Checked) {
    use to_switchboard::*;

    let invite = Invite {
        channel_id: "a".into(),
        proxy: "p".into(),
        sip_call_id: "x@y".into(),
        customer_id: "demo".into(),
        from: party(),
        to: "1001".into(),
        source: "[2001:db8::1]:5060".into(),
        sdp: sdp(),
        max_forwards: 69,
        from_srtp: Some(Srtp::Required),
        to_srtp: None,
    };
    let provisional = |sdp| Provisional { channel_id: "a".into(), sip_code: 183, sdp };
    let with_sdp = |sdp| Sdp { channel_id: "a".into(), sdp };
    let ended = |kind| Ended { channel_id: "a".into(), cause: Cause { sip_code: 486, kind, text: "Busy".into() } };
    let stream = StreamEvent {
        stream_id: "00000000000000ff".into(),
        call_id: "c".into(),
        channel_id: "a".into(),
        remote: Some("192.0.2.1:4000".into()),
    };
    let dataplane = DataplaneState { media: "m".into(), streams: vec!["1".into(), "2".into()] };
    let get = GetCall { call_id: "c".into() };
    let view = CallView {
        call_id: "c".into(),
        state: "up".into(),
        from: party(),
        to: "1001".into(),
        started_unix_ms: i64::MAX,
        answered_unix_ms: Some(-1),
        channels: vec!["a".into()],
        streams: vec!["1".into()],
    };
    checked.round_trip::<ChannelInvite>(invite, Invited { call_id: "c".into(), switchboard: "s".into() }).await;
    checked.round_trip::<ChannelRinging>(provisional(None), Accepted {}).await;
    checked.round_trip::<ChannelProgress>(provisional(sdp()), Accepted {}).await;
    let answered = Answered { channel_id: "a".into(), sdp: sdp(), age_ms: 7 };
    checked.round_trip::<ChannelAnswered>(answered, Accepted {}).await;
    checked.round_trip::<ChannelRefused>(ended(CauseKind::Busy), Accepted {}).await;
    checked.round_trip::<ChannelReinvite>(Reinvite { channel_id: "a".into(), sdp: sdp() }, Accepted {}).await;
    checked.round_trip::<ChannelAcked>(with_sdp(None), Accepted {}).await;
    checked.round_trip::<ChannelDtmf>(Dtmf { channel_id: "a".into(), digit: '#', duration_ms: 160 }, Accepted {}).await;
    for kind in [
        CauseKind::Normal,
        CauseKind::Cancelled,
        CauseKind::Rejected,
        CauseKind::NoAnswer,
        CauseKind::Unreachable,
        CauseKind::Incompatible,
        CauseKind::RtpTimeout,
        CauseKind::SessionTimer,
        CauseKind::Administrative,
        CauseKind::Network,
        CauseKind::Crash,
        CauseKind::Internal,
    ] {
        let Ended { channel_id, cause } = ended(kind);
        checked.round_trip::<ChannelHangup>(HungUp { channel_id, cause, age_ms: u64::MAX }, Accepted {}).await;
    }
    checked.round_trip::<StreamUp>(stream.clone(), Accepted {}).await;
    checked.round_trip::<StreamTimeout>(StreamEvent { remote: None, ..stream }, Accepted {}).await;
    checked.round_trip::<DataplaneLost>(dataplane.clone(), Accepted {}).await;
    checked.round_trip::<DataplaneBack>(dataplane, Accepted {}).await;
    checked.round_trip::<CallList>(ListCalls { limit: 3 }, vec![view.clone(), view.clone()]).await;
    checked.round_trip::<CallGet>(get.clone(), view).await;
    checked.round_trip::<CallHangup>(get, Accepted {}).await;
}

async fn to_the_proxy(checked: &mut Checked) {
    use to_proxy::*;

    let dial = Dial {
        channel_id: "b".into(),
        call_id: "c".into(),
        switchboard: "s".into(),
        from: party(),
        to: Party { user: "1001".into(), display: None },
        destination: Destination {
            uri: "sip:1001@192.0.2.2;ob".into(),
            transport: "udp".into(),
            address: "192.0.2.2:5060".into(),
            path: vec!["<sip:edge;lr>".into()],
        },
        sdp: sdp(),
        max_forwards: 68,
    };
    let answer = Answer { channel_id: "b".into(), sdp: sdp() };
    let reject = Reject { channel_id: "b".into(), sip_code: 503, reason: None, retry_after_s: Some(5) };
    let cause = Cause { sip_code: 200, kind: CauseKind::Normal, text: String::new() };
    let dtmf = to_switchboard::Dtmf { channel_id: "b".into(), digit: 'D', duration_ms: 100 };
    checked.round_trip::<ChannelDial>(dial, Accepted {}).await;
    checked.round_trip::<ChannelRing>(Channel { channel_id: "a".into() }, Accepted {}).await;
    let progress = Progress { channel_id: "a".into(), sip_code: 183, sdp: None };
    checked.round_trip::<ChannelProgress>(progress, Accepted {}).await;
    checked.round_trip::<ChannelAnswer>(answer.clone(), Accepted {}).await;
    checked.round_trip::<ChannelReject>(reject, Accepted {}).await;
    checked.round_trip::<ChannelReinvite>(answer, Accepted {}).await;
    checked.round_trip::<ChannelDtmf>(dtmf, Accepted {}).await;
    checked.round_trip::<ChannelHangup>(to_switchboard::Ended { channel_id: "a".into(), cause }, Accepted {}).await;
    let adopt = Adopt { switchboard: "s".into(), fence: 7, channels: vec![("a".into(), "c".into())] };
    let phases = [Phase::Gone, Phase::Early, Phase::Answered];
    let channels = phases.into_iter().map(|phase| ("a".into(), phase)).collect();
    checked.round_trip::<ChannelAdopt>(adopt, Adopted { channels }).await;
}

async fn to_the_media_agent(checked: &mut Checked) {
    use to_media::*;

    let text = || sdp().unwrap_or_default();
    let create = |mode, step| Create {
        call_id: "c".into(),
        channel_id: "a".into(),
        switchboard: "s".into(),
        mode,
        step,
        source: Some("192.0.2.1:5060".into()),
        srtp: Some(Srtp::Optional),
    };
    let created = Created { stream_id: "1".into(), media: "m".into(), sdp: None };
    let bridge = Bridge { a: "1".into(), b: "2".into() };
    let stats = StreamStats {
        packets_received: u64::MAX,
        packets_lost: -3,
        jitter_us: 1,
        drops: [("drop_bad_version".to_owned(), 2)].into(),
        codec: Some("PCMU/8000".into()),
        ..StreamStats::default()
    };
    checked.round_trip::<StreamCreate>(create(Mode::Echo, Step::RemoteOffer { sdp: text() }), created.clone()).await;
    let local = Step::LocalOffer { mirror: Some("2".into()) };
    checked.round_trip::<StreamCreate>(create(Mode::Bridge, local), Created { sdp: sdp(), ..created }).await;
    for step in [Step::RemoteAnswer { sdp: text() }, Step::LocalAnswer { mirror: None }, Step::Rollback] {
        let update = Update { stream_id: "1".into(), step };
        checked.round_trip::<StreamUpdate>(update, Negotiated { sdp: sdp(), held: true }).await;
    }
    checked.round_trip::<StreamDestroy>(Stream { stream_id: "1".into() }, stats.clone()).await;
    checked.round_trip::<StreamGet>(Stream { stream_id: "1".into() }, stats).await;
    checked.round_trip::<BridgeCreate>(bridge.clone(), Accepted {}).await;
    checked.round_trip::<BridgeDestroy>(bridge, Accepted {}).await;
    let adopt = AdoptStreams { switchboard: "s".into(), fence: 7, streams: vec!["1".into(), "2".into()] };
    checked.round_trip::<StreamAdopt>(adopt, AdoptedStreams { alive: vec!["2".into()] }).await;
}
