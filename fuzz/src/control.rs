//! A control that writes garbage: whatever commands can be read from it, the engine carries out or refuses each, with one answer,
//! and two bystanders' call flows on.

use nebula_core::driver::{Datagram, Driver, OpenError, Socket};
use nebula_core::engine::Engine;
use nebula_core::limits::Limits;
use nebula_core::time::Nanos;
use nebula_ring::command::{Command, Mode, PayloadType, StreamConfig, StreamId};
use nebula_ring::event::Event;
use nebula_ring::slot::decode_command;
use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};

const PHONES: [SocketAddr; 2] = [phone(1), phone(2)];
/// Bytes of one command at most.
const CHUNK: usize = 160;

const fn phone(n: u8) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::new(192, 0, 2, n)), 4000)
}

/// A driver that knows what is bound.
#[derive(Default)]
struct Sockets {
    bound: BTreeSet<SocketAddr>,
    open: Vec<(Socket, SocketAddr)>,
}

impl Driver for Sockets {
    fn open(&mut self, socket: Socket, local: SocketAddr) -> Result<(), OpenError> {
        if !self.bound.insert(local) {
            return Err(OpenError::PortInUse);
        }
        self.open.push((socket, local));
        Ok(())
    }

    fn close(&mut self, socket: Socket) {
        let at = self.open.iter().position(|(it, _)| *it == socket).expect("it was opened");
        self.bound.remove(&self.open.swap_remove(at).1);
    }

    fn connect(&mut self, _: Socket, _: SocketAddr) {}

    fn disconnect(&mut self, _: Socket) {}

    fn send(&mut self, _: Socket, _: SocketAddr, _: &[u8]) {}
}

/// Chunks of garbage as commands, each behind its length.
pub fn control(bytes: &[u8]) {
    let mut engine = Engine::new(Limits { streams_max: 6 });
    let (mut driver, mut events) = (Sockets::default(), Vec::new());
    let mut now = Nanos::from_millis(1_000);
    let bystanders = [StreamId(1), StreamId(2)];
    for (id, port) in bystanders.into_iter().zip([4000, 4002]) {
        let create = Command::CreateStream { id, config: config(port, PHONES[usize::from(id.0 == 2)]) };
        engine.apply(now, 0, &create, &mut driver, &mut events);
    }
    engine.apply(now, 0, &Command::CreateBridge { a: bystanders[0], b: bystanders[1] }, &mut driver, &mut events);
    assert_eq!(events, [const { Event::Done { correlation: 0 } }; 3]);
    // RTP, RTCP, RTP, RTCP.
    let sockets = [driver.open[0].0, driver.open[2].0];
    let mut rest = bytes;
    let mut sequence = 0u16;
    while let Some((&len, after)) = rest.split_first() {
        let (chunk, after) = after.split_at(after.len().min(usize::from(len).min(CHUNK)));
        rest = after;
        if let (Some(correlation), Ok(command)) = decode_command(chunk)
            && !names(&command).iter().any(|id| bystanders.contains(id))
        {
            events.clear();
            engine.apply(now, correlation, &command, &mut driver, &mut events);
            let answers = events.iter().filter(|event| {
                matches!(event, Event::Done { correlation: it } | Event::Failed { correlation: it, .. } if *it == correlation)
            });
            assert_eq!(answers.count(), 1, "{command:?}");
        }
        now = now.plus_millis(20);
        engine.tick(now, &mut driver, &mut events);
        sequence = sequence.wrapping_add(1);
        for (socket, from, to) in [(sockets[0], PHONES[0], PHONES[1]), (sockets[1], PHONES[1], PHONES[0])] {
            let mut packet = [0x55; 172];
            packet[..2].copy_from_slice(&[0x80, 8]);
            packet[2..4].copy_from_slice(&sequence.to_be_bytes());
            let mut datagram = Datagram::whole(&mut packet);
            let forward = engine.receive(now, socket, Some(from), &mut datagram, &mut driver, &mut events);
            assert_eq!(forward.map(|it| it.to), Some(to), "the bystanders talk on");
        }
    }
    let totals = engine.totals();
    assert_eq!((totals.received, totals.drops.total()), (totals.forwarded, 0));
}

/// The streams that a command is about.
fn names(command: &Command) -> [StreamId; 2] {
    match command {
        Command::CreateStream { id, .. }
        | Command::ResumeStream { id, .. }
        | Command::UpdateStream { id, .. }
        | Command::MigrateStream { id, .. }
        | Command::DestroyStream { id } => [*id; 2],
        Command::CreateBridge { a, b } | Command::DestroyBridge { a, b } => [*a, *b],
    }
}

fn config(port: u16, remote: SocketAddr) -> StreamConfig {
    StreamConfig {
        local_ip: Ipv4Addr::LOCALHOST.into(),
        rtp_port: port,
        rtcp_port: port + 1,
        remote_rtp: Some(remote),
        remote_rtcp: None,
        nat_expected: false,
        learning_window_ms: 0,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: Mode::Bridge,
        rtp_timeout_ms: 0,
        ssrc: 1,
        srtp: None,
        payload_types: [PayloadType { number: 8, forward_as: 8, clock_rate_hz: 8000 }].into_iter().collect(),
    }
}
