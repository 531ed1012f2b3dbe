//! An engine with a driver that writes down what it is asked, in virtual time.
#![allow(dead_code, missing_docs, reason = "each test file uses its part")]

use nebula_core::driver::{Component, Datagram, Driver, Forward, OpenError, Socket, StreamIndex};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::record::record;
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_ring::command::{Command, Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::event::{Event, Reason};
use nebula_ring::table::StreamRecord;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};

/// Room behind each packet that is handed in.
pub const TAIL_ROOM: usize = 48;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Call {
    Open(Socket, SocketAddr),
    Close(Socket),
    Connect(Socket, SocketAddr),
    Disconnect(Socket),
    Forward(Socket, SocketAddr),
    Send(Socket, SocketAddr, Vec<u8>),
}

#[derive(Debug, Default)]
pub struct Recorder {
    pub calls: Vec<Call>,
    /// What `open` answers for these ports.
    pub refuse: Vec<(u16, OpenError)>,
}

impl Driver for Recorder {
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError> {
        if let Some(&(_, error)) = self.refuse.iter().find(|(port, _)| *port == local.port()) {
            return Err(error);
        }
        self.calls.push(Call::Open(socket, local));
        Ok(())
    }

    fn close(&mut self, socket: Socket) {
        self.calls.push(Call::Close(socket));
    }

    fn connect(&mut self, socket: Socket, remote: SocketAddr) {
        self.calls.push(Call::Connect(socket, remote));
    }

    fn disconnect(&mut self, socket: Socket) {
        self.calls.push(Call::Disconnect(socket));
    }

    fn send(&mut self, from: Socket, to: SocketAddr, packet: &[u8]) {
        self.calls.push(Call::Send(from, to, packet.to_vec()));
    }
}

/// Hears events, and keeps the table of what had to be shown at once.
#[derive(Debug, Default)]
pub struct Ears {
    pub events: Vec<Event>,
    pub table: BTreeMap<u64, StreamRecord>,
}

impl EventSink for Ears {
    fn push(&mut self, event: Event) {
        self.events.push(event);
    }

    fn show(&mut self, _: StreamIndex, view: &StreamView<'_>) {
        self.table.insert(view.id.0, record(view));
    }
}

impl<const N: usize> PartialEq<[Event; N]> for Ears {
    fn eq(&self, events: &[Event; N]) -> bool {
        self.events == events
    }
}

impl Deref for Ears {
    type Target = Vec<Event>;

    fn deref(&self) -> &Vec<Event> {
        &self.events
    }
}

impl DerefMut for Ears {
    fn deref_mut(&mut self) -> &mut Vec<Event> {
        &mut self.events
    }
}

pub struct Rig {
    pub engine: Engine,
    pub driver: Recorder,
    pub events: Ears,
    pub now: Nanos,
    correlation: u64,
}

impl Rig {
    pub fn new() -> Self {
        let engine = Engine::new(Limits { streams_max: 16 });
        Self {
            engine,
            driver: Recorder::default(),
            events: Ears::default(),
            now: Nanos::from_millis(1_000_000),
            correlation: 0,
        }
    }

    /// An engine with streams 1 (ports 4000, peer 192.0.2.1:5001) and so on.
    pub fn with(configs: &[StreamConfig]) -> Self {
        let mut rig = Self::new();
        for (id, config) in (1..).zip(configs) {
            rig.apply(Command::CreateStream { id: StreamId(id), config: config.clone() }).unwrap();
        }
        rig.driver.calls.clear();
        rig
    }

    pub fn bridged(a: StreamConfig, b: StreamConfig) -> Self {
        let mut rig = Self::with(&[a, b]);
        rig.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) }).unwrap();
        rig
    }

    pub fn apply(&mut self, command: Command) -> Result<(), Reason> {
        self.correlation += 1;
        let before = self.events.len();
        self.engine.apply(self.now, self.correlation, &command, &mut self.driver, &mut self.events);
        assert_eq!(self.events.len(), before + 1, "one answer");
        match self.events.pop() {
            Some(Event::Done { correlation }) if correlation == self.correlation => Ok(()),
            Some(Event::Failed { correlation, reason }) if correlation == self.correlation => Err(reason),
            other => panic!("{other:?}"),
        }
    }

    pub fn update(&mut self, id: u64, config: StreamConfig) {
        self.apply(Command::UpdateStream { id: StreamId(id), config }).unwrap();
    }

    pub fn socket(&self, id: u64, component: Component) -> Socket {
        let (index, view) = self.engine.streams().find(|(_, view)| view.id.0 == id).expect("alive");
        Socket { stream: index, generation: view.generation, component }
    }

    pub fn view(&self, id: u64) -> StreamView<'_> {
        self.engine.streams().find(|(_, view)| view.id.0 == id).expect("alive").1
    }

    /// Hands a packet in; returns it as the engine left it, and what the driver was asked meanwhile.
    pub fn hear(&mut self, id: u64, component: Component, from: Option<&str>, packet: &[u8]) -> (Vec<u8>, Vec<Call>) {
        let socket = self.socket(id, component);
        let mut packet = packet.to_vec();
        let source = from.map(at);
        self.driver.calls.clear();
        let len = packet.len();
        packet.resize(len + TAIL_ROOM, 0xcc);
        let mut datagram = Datagram::new(&mut packet, len);
        let forward = self.engine.receive(self.now, socket, source, &mut datagram, &mut self.driver, &mut self.events);
        self.driver.calls.extend(forward.map(|Forward { from, to }| Call::Forward(from, to)));
        let len = datagram.len();
        packet.truncate(len);
        (packet, std::mem::take(&mut self.driver.calls))
    }

    /// The same for RTP that is to be dropped: by which reason it was.
    pub fn dropped(&mut self, id: u64, from: &str, packet: &[u8]) -> DropReason {
        let before = *self.view(id).drops;
        let (_, calls) = self.hear(id, Component::Rtp, Some(from), packet);
        assert_eq!(calls, [], "a dropped packet goes nowhere");
        let after = *self.view(id).drops;
        let mut counted = DropReason::ALL.iter().filter(|&&r| after.get(r) != before.get(r));
        let reason = *counted.next().expect("dropped");
        assert_eq!((counted.next(), after.total()), (None, before.total() + 1));
        reason
    }

    /// Lets time pass in milliseconds, ticking as asked for.
    pub fn pass(&mut self, ms: u64) -> Vec<Call> {
        let until = self.now.plus_millis(ms);
        while let Some(at) = self.engine.next_timeout().filter(|&at| at <= until) {
            self.now = self.now.max(at);
            self.engine.tick(self.now, &mut self.driver, &mut self.events);
        }
        self.now = until;
        self.engine.tick(self.now, &mut self.driver, &mut self.events);
        std::mem::take(&mut self.driver.calls)
    }
}

pub fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// Stream n: port 4000 + 2n and the next, peer 192.0.2.n:5000 and the next, PCMA and telephone-event.
pub fn config(n: u8) -> StreamConfig {
    let port = 4000 + 2 * u16::from(n);
    StreamConfig {
        local_ip: at("127.0.0.1:0").ip(),
        rtp_port: port,
        rtcp_port: port + 1,
        remote_rtp: Some(at(&format!("192.0.2.{n}:5000"))),
        remote_rtcp: Some(at(&format!("192.0.2.{n}:5001"))),
        nat_expected: false,
        learning_window_ms: 1000,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Bridge,
        rtp_timeout_ms: 0,
        ssrc: 0xeeee_0000 + u32::from(n),
        srtp: None,
        payload_types: [
            PayloadType { number: 8, forward_as: 8, clock_rate_hz: 8000 },
            PayloadType { number: 101, forward_as: 96, clock_rate_hz: 8000 },
        ]
        .into_iter()
        .collect(),
    }
}

pub fn rtp(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32) -> Vec<u8> {
    let mut packet = vec![0x80, payload_type];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(ssrc.to_be_bytes());
    packet.extend([0x55; 160]);
    packet
}
