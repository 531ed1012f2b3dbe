//! A call through the agent and the real `nebula-dataplane`, with RTP over real sockets.
//!
//! Needs the binary beside the tests (`cargo build -p nebula-dataplane`), or at `$NEBULA_DATAPLANE`; says so and is skipped
//! without it.

use nebula_bus::contract::to_media::{
    Bridge, BridgeCreate, Create, Mode, Step, Stream, StreamCreate, StreamDestroy, StreamUpdate, Update,
};
use nebula_bus::contract::to_switchboard::{DataplaneLost, StreamUp};
use nebula_bus::contract::{Accepted, Method, Role, StreamId};
use nebula_bus::{Bus, Context, Inbox, Target};
use nebula_media::{Handle, Options};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;
use tokio::net::UdpSocket;

const DEADLINE: Duration = Duration::from_secs(20);
const PACKETS: u16 = 50;

struct Dataplane(Child);

impl Dataplane {
    fn start(socket: &Path) -> Option<Self> {
        let binary = binary();
        if !binary.is_file() {
            eprintln!("skipped: no dataplane at {}", binary.display());
            return None;
        }
        let arguments = ["--streams-max", "64", "--buffers", "64", "--socket"];
        Some(Self(Command::new(binary).args(arguments).arg(socket).spawn().expect("the dataplane starts")))
    }

    fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

impl Drop for Dataplane {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn binary() -> PathBuf {
    let beside = || {
        let test = std::env::current_exe().unwrap();
        test.ancestors().nth(2).unwrap().join("nebula-dataplane")
    };
    std::env::var_os("NEBULA_DATAPLANE").map_or_else(beside, Into::into)
}

/// A phone: a socket and what it says of itself.
struct Phone {
    rtp: UdpSocket,
    ssrc: u32,
}

impl Phone {
    async fn new(ssrc: u32) -> Self {
        Self { rtp: UdpSocket::bind("127.0.0.1:0").await.unwrap(), ssrc }
    }

    fn sdp(&self, payload_type: u8) -> String {
        let port = self.rtp.local_addr().unwrap().port();
        format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
             m=audio {port} RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} opus/48000/2\r\na=rtcp-mux\r\n"
        )
    }

    async fn say(&self, to: &str, payload_type: u8, sequence: u16) {
        let mut packet = vec![0x80, payload_type];
        packet.extend(sequence.to_be_bytes());
        packet.extend((u32::from(sequence) * 960).to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        packet.extend(std::iter::repeat_n(sequence as u8, 60));
        self.rtp.send_to(&packet, to).await.unwrap();
    }

    /// The next RTP packet: payload type, sequence number, payload. RTCP (RFC 5761 section 4) is passed over.
    async fn hear(&self) -> (u8, u16, Vec<u8>) {
        let mut bytes = [0; 1500];
        loop {
            let received = tokio::time::timeout(DEADLINE, self.rtp.recv(&mut bytes)).await.expect("in time").unwrap();
            let packet = &bytes[..received];
            if !(192..224).contains(&packet[1]) {
                return (packet[1] & 0x7f, u16::from_be_bytes([packet[2], packet[3]]), packet[12..].to_vec());
            }
        }
    }
}

struct Stage {
    bus: Bus,
    agent: Handle,
    switchboard: Inbox,
}

impl Stage {
    async fn call<M: Method>(&self, params: M::Params) -> M::Reply {
        let target = Target::Instance(self.agent.instance().clone());
        self.bus.call::<M>(&target, params, &Context::new(DEADLINE)).await.unwrap()
    }

    async fn create(&self, mode: Mode, step: Step) -> (StreamId, Option<String>) {
        let created = self
            .call::<StreamCreate>(Create {
                call_id: "call".into(),
                channel_id: "leg".into(),
                switchboard: "switchboard-1".into(),
                mode,
                step,
                source: Some("127.0.0.1:5060".into()),
            })
            .await;
        (created.stream_id, created.sdp)
    }

    async fn update(&self, stream_id: &StreamId, step: Step) -> Option<String> {
        self.call::<StreamUpdate>(Update { stream_id: stream_id.clone(), step }).await.sdp
    }

    async fn told<M: Method<Reply = Accepted>>(&mut self) -> M::Params {
        let request = tokio::time::timeout(DEADLINE, self.switchboard.recv()).await.expect("in time").unwrap();
        assert_eq!(request.method(), M::NAME);
        let params = request.parse::<M>().unwrap();
        request.reply::<M>(Ok(Accepted {}));
        params
    }
}

/// Agent and dataplane, attached; none if there is no dataplane to be had.
async fn stage(folder: &Path) -> Option<(Stage, Dataplane)> {
    let socket = folder.join("socket");
    let dataplane = Dataplane::start(&socket)?;
    let bus = Bus::local();
    let switchboard = bus.serve(Role::Switchboard, "switchboard-1".into());
    // Above the ephemeral range of most hosts; what is taken nevertheless is passed over.
    let options =
        Options { dataplane_socket: socket, rtp_port_min: 61_000, rtp_port_max: 64_999, ..Options::default() };
    let agent =
        nebula_media::start(options, bus.clone(), nebula_bus::Membership::alone(nebula_bus::contract::Role::Media))
            .await
            .unwrap();
    let ready = async {
        while !agent.ready() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ready).await.expect("attached in time");
    Some((Stage { bus, agent, switchboard }, dataplane))
}

/// `127.0.0.1:port` of the audio line.
fn media_address(sdp: &str) -> String {
    let port = sdp.split_once("m=audio ").unwrap().1.split_once(' ').unwrap().0;
    assert!(sdp.contains("c=IN IP4 127.0.0.1\r\n"), "told the address the phone is reached from: {sdp}");
    format!("127.0.0.1:{port}")
}

#[tokio::test]
async fn a_bridged_call_relays_both_ways_and_counts_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut stage, _dataplane)) = stage(folder.path()).await else { return };
    let (alice, bob) = (Phone::new(0xa11ce).await, Phone::new(0xb0b).await);

    let (a, _) = stage.create(Mode::Bridge, Step::RemoteOffer { sdp: alice.sdp(96) }).await;
    let (b, to_bob) = stage.create(Mode::Bridge, Step::LocalOffer { mirror: Some(a.clone()) }).await;
    stage.update(&b, Step::RemoteAnswer { sdp: bob.sdp(120) }).await;
    let to_alice = stage.update(&a, Step::LocalAnswer { mirror: Some(b.clone()) }).await.unwrap();
    stage.call::<BridgeCreate>(Bridge { a: a.clone(), b: b.clone() }).await;
    let (at_a, at_b) = (media_address(&to_alice), media_address(&to_bob.unwrap()));

    for sequence in 1..=PACKETS {
        alice.say(&at_a, 96, sequence).await;
        assert_eq!(bob.hear().await, (120, sequence, vec![sequence as u8; 60]), "in the number that Bob asked for");
        bob.say(&at_b, 96, sequence).await;
        assert_eq!(alice.hear().await, (96, sequence, vec![sequence as u8; 60]));
    }
    let mut up = [stage.told::<StreamUp>().await.stream_id, stage.told::<StreamUp>().await.stream_id];
    let mut both = [a.clone(), b.clone()];
    up.sort();
    both.sort();
    assert_eq!(up, both);

    // What was not negotiated is refused, by name.
    alice.say(&at_a, 8, PACKETS + 1).await;
    alice.say(&at_a, 96, PACKETS + 2).await;
    assert_eq!(bob.hear().await.1, PACKETS + 2);
    let stats = stage.call::<StreamDestroy>(Stream { stream_id: a.clone() }).await;
    let packets = u64::from(PACKETS) + 1;
    assert_eq!((stats.packets_received, stats.packets_sent), (packets, packets - 1), "{stats:?}");
    assert_eq!((stats.bytes_received, stats.bytes_sent), (72 * packets, 72 * (packets - 1)));
    assert_eq!(stats.drops.get("drop_unknown_payload_type"), Some(&1), "{stats:?}");
    assert_eq!(stats.codec.as_deref(), Some("OPUS/48000/2"));
    assert_eq!((stats.local, stats.remote), (Some(at_a), Some(alice.rtp.local_addr().unwrap().to_string())));
    let stats = stage.call::<StreamDestroy>(Stream { stream_id: b }).await;
    assert_eq!((stats.packets_received, stats.packets_sent, stats.packets_lost), (packets - 1, packets, 0));
    stage.agent.stop().await;
}

#[tokio::test]
async fn echo_answers_the_phone_and_a_hold_silences_it() {
    let folder = tempfile::tempdir().unwrap();
    let Some((stage, _dataplane)) = stage(folder.path()).await else { return };
    let phone = Phone::new(7).await;
    let (id, _) = stage.create(Mode::Echo, Step::RemoteOffer { sdp: phone.sdp(107) }).await;
    let answer = stage.update(&id, Step::LocalAnswer { mirror: None }).await.unwrap();
    let address = media_address(&answer);
    for sequence in 1..=5 {
        phone.say(&address, 107, sequence).await;
        let (payload_type, _, payload) = phone.hear().await;
        assert_eq!((payload_type, payload), (107, vec![sequence as u8; 60]));
    }
    stage.update(&id, Step::RemoteOffer { sdp: phone.sdp(107) + "a=sendonly\r\n" }).await;
    let answer = stage.update(&id, Step::LocalAnswer { mirror: None }).await.unwrap();
    assert!(answer.contains("a=recvonly"));
    phone.say(&address, 107, 6).await;
    stage.update(&id, Step::RemoteOffer { sdp: phone.sdp(107) }).await;
    stage.update(&id, Step::LocalAnswer { mirror: None }).await.unwrap();
    phone.say(&address, 107, 7).await;
    assert_eq!(phone.hear().await.2, vec![7; 60], "what was said while held was not echoed");
    stage.agent.stop().await;
}

#[tokio::test]
async fn a_dataplane_that_dies_is_reported_and_its_successor_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let Some((mut stage, mut dataplane)) = stage(folder.path()).await else { return };
    let phone = Phone::new(7).await;
    let (id, _) = stage.create(Mode::Echo, Step::RemoteOffer { sdp: phone.sdp(107) }).await;
    dataplane.kill();
    assert_eq!(stage.told::<DataplaneLost>().await.streams, std::slice::from_ref(&id));
    let _successor = Dataplane::start(&folder.path().join("socket")).unwrap();
    assert!(stage.told::<nebula_bus::contract::to_switchboard::DataplaneBack>().await.streams.is_empty());
    stage.call::<StreamDestroy>(Stream { stream_id: id }).await;
    let (id, _) = stage.create(Mode::Echo, Step::RemoteOffer { sdp: phone.sdp(107) }).await;
    let address = media_address(&stage.update(&id, Step::LocalAnswer { mirror: None }).await.unwrap());
    phone.say(&address, 107, 1).await;
    assert_eq!(phone.hear().await.2, vec![1; 60]);
    stage.agent.stop().await;
}
