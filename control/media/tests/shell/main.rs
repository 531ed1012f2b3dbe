//! The whole agent over an in-process bus, against a dataplane of the test's own that speaks the ring's real ABI.

mod adoption;
mod dataplane_lost;
mod fake;
mod reports;
mod restart;
mod streams;

use fake::Fake;
use nebula_bus::contract::to_media::{Bridge, Create, Created, Mode, Negotiated, Step, Stream, Update};
use nebula_bus::contract::{Method, Role, StreamId};
use nebula_bus::{Bus, Context, Error, Inbox, Membership, Target};
use nebula_media::{Handle, Options};
use std::path::PathBuf;
use std::time::Duration;

/// Long enough for a loaded machine; nothing here waits that long unless it fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// A folder, a bus, a switchboard's inbox on it, and an agent.
pub(crate) struct Stage {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) bus: Bus,
    pub(crate) switchboard: Inbox,
    pub(crate) agent: Handle,
}

impl Stage {
    /// An agent that finds no dataplane yet.
    pub(crate) async fn without_dataplane() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let bus = Bus::local();
        let switchboard = bus.serve(Role::Switchboard, "switchboard-1".into());
        let agent = agent(folder.path().join("socket"), &bus).await;
        Self { folder, bus, switchboard, agent }
    }

    /// With a dataplane of so many workers, attached.
    pub(crate) async fn with_workers(workers: usize) -> (Self, Fake) {
        let stage = Self::without_dataplane().await;
        let fake = Fake::start(&stage.socket(), workers);
        until_ready(&stage.agent).await;
        (stage, fake)
    }

    /// Two streams, answered and bridged; the commands for it are passed over.
    pub(crate) async fn bridged(&self, fake: &mut Fake) -> (StreamId, StreamId) {
        let a = self.create("call", offer("0 8")).await.unwrap().stream_id;
        let b = self.create("call", Step::LocalOffer { mirror: Some(a.clone()) }).await.unwrap().stream_id;
        self.update(&b, answer("0 8")).await.unwrap();
        self.update(&a, Step::LocalAnswer { mirror: Some(b.clone()) }).await.unwrap();
        self.call::<nebula_bus::contract::to_media::BridgeCreate>(bridge(&a, &b)).await.unwrap();
        while !matches!(fake.command().await.1, nebula_ring::Command::CreateBridge { .. }) {}
        (a, b)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) async fn call<M: Method>(&self, params: M::Params) -> Result<M::Reply, Error> {
        self.call_in::<M>(params, &Context::new(DEADLINE)).await
    }

    pub(crate) async fn call_in<M: Method>(&self, params: M::Params, context: &Context) -> Result<M::Reply, Error> {
        let target = Target::Instance(self.agent.instance().clone());
        self.bus.call::<M>(&target, params, context).await
    }

    pub(crate) async fn create(&self, call_id: &str, step: Step) -> Result<Created, Error> {
        self.call::<nebula_bus::contract::to_media::StreamCreate>(create(call_id, step)).await
    }

    pub(crate) async fn update(&self, stream_id: &StreamId, step: Step) -> Result<Negotiated, Error> {
        let update = Update { stream_id: stream_id.clone(), step };
        self.call::<nebula_bus::contract::to_media::StreamUpdate>(update).await
    }

    /// The next request to the switchboard, answered.
    pub(crate) async fn told<M: Method<Reply = nebula_bus::contract::Accepted>>(&mut self) -> M::Params {
        let request = tokio::time::timeout(DEADLINE, self.switchboard.recv()).await.expect("in time").unwrap();
        let params = request.parse::<M>().unwrap_or_else(|error| panic!("{}: {error}", request.method()));
        assert_eq!(request.method(), M::NAME);
        request.reply::<M>(Ok(nebula_bus::contract::Accepted {}));
        params
    }
}

pub(crate) async fn agent(dataplane_socket: PathBuf, bus: &Bus) -> Handle {
    agent_of(dataplane_socket, bus, Membership::alone(Role::Media)).await
}

/// An agent that is started again with the same `keep` takes up what the one before has left there.
pub(crate) async fn agent_of(dataplane_socket: PathBuf, bus: &Bus, member: Membership) -> Handle {
    let options = Options {
        dataplane_socket,
        local_ip: Some([127, 0, 0, 1].into()),
        rtp_port_min: 20_000,
        rtp_port_max: 20_007,
        command_timeout_ms: 2_000,
        ..Options::default()
    };
    nebula_media::start(options, bus.clone(), member).await.unwrap()
}

pub(crate) async fn until_ready(agent: &Handle) {
    let ready = async {
        while !agent.ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.expect("attached in time");
}

pub(crate) fn create(call_id: &str, step: Step) -> Create {
    Create {
        call_id: call_id.into(),
        channel_id: format!("{call_id}-leg").into(),
        switchboard: "switchboard-1".into(),
        mode: Mode::Bridge,
        step,
        source: Some("192.0.2.10:5060".into()),
        srtp: None,
    }
}

pub(crate) fn offer(formats: &str) -> Step {
    Step::RemoteOffer { sdp: sdp(4000, formats) }
}

pub(crate) fn answer(formats: &str) -> Step {
    Step::RemoteAnswer { sdp: sdp(5000, formats) }
}

fn sdp(port: u16, formats: &str) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 192.0.2.10\r\ns=-\r\nc=IN IP4 192.0.2.10\r\nt=0 0\r\nm=audio {port} RTP/AVP {formats}\r\n"
    )
}

pub(crate) fn stream(stream_id: &StreamId) -> Stream {
    Stream { stream_id: stream_id.clone() }
}

pub(crate) fn bridge(a: &StreamId, b: &StreamId) -> Bridge {
    Bridge { a: a.clone(), b: b.clone() }
}

pub(crate) fn sorted(mut names: Vec<StreamId>) -> Vec<StreamId> {
    names.sort();
    names
}
