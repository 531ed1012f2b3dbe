//! The stream table shows an SRTP or SRTCP index before the driver is handed the packet that takes it: the driver may have the
//! kernel send at any moment, and the dataplane may be killed in the next.

mod common;

use common::{at, config, rtp};
use nebula_core::driver::{Component, Datagram, Driver, Generation, OpenError, Socket, StreamIndex};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::record::record;
use nebula_core::srtp::{Kernels, Sender};
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_ring::command::{Command, Mode, StreamConfig, StreamId};
use nebula_ring::event::Event;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;

/// What the table says of each stream: the highest SRTCP index that may have been used, and the highest SRTP index.
type Shown = Rc<RefCell<Vec<(u32, u64)>>>;

/// A driver whose queue is always full: each packet leaves at once.
struct Impatient {
    shown: Shown,
    reports: u64,
}

impl Driver for Impatient {
    fn open(&mut self, _: Socket, _: SocketAddr) -> Result<(), OpenError> {
        Ok(())
    }
    fn close(&mut self, _: Socket) {}
    fn connect(&mut self, _: Socket, _: SocketAddr) {}
    fn disconnect(&mut self, _: Socket) {}
    fn send(&mut self, from: Socket, _: SocketAddr, packet: &[u8]) {
        // E bit and index, before a tag of ten bytes.
        let word = u32::from_be_bytes(*packet[packet.len() - 14..].first_chunk().unwrap());
        let (rtcp, _) = self.shown.borrow()[from.stream.0 as usize];
        assert!((word & !(1 << 31)) <= rtcp, "{} was sent, and up to {rtcp} is shown", word & !(1 << 31));
        self.reports += 1;
    }
}

struct Table(Shown);

impl EventSink for Table {
    fn push(&mut self, event: Event) {
        assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
    }

    fn show(&mut self, index: StreamIndex, view: &StreamView<'_>) {
        let record = record(view);
        self.0.borrow_mut()[index.0 as usize] = (record.srtcp_used_out, record.srtp_used_out[0]);
    }
}

fn key(with: u8) -> MasterKey {
    MasterKey::new(1, Suite::AesCm128HmacSha1_80, &[with; 30], Mki::default()).unwrap()
}

/// A rig of three streams: a plain one that is bridged with a protected one, and another protected one that echoes.
struct Rig {
    engine: Engine,
    driver: Impatient,
    table: Table,
    shown: Shown,
    now: Nanos,
}

impl Rig {
    fn new() -> Self {
        let shown: Shown = Rc::new(RefCell::new(vec![(0, 0); 3]));
        let driver = Impatient { shown: Rc::clone(&shown), reports: 0 };
        let table = Table(Rc::clone(&shown));
        let engine = Engine::new(Limits { streams_max: 3 });
        let mut rig = Self { engine, driver, table, shown, now: Nanos(0) };
        let srtp = |n| Some(SrtpConfig { receive: Some(key(n)), send: Some(key(n + 1)) });
        let echo = StreamConfig { mode: Mode::Echo, srtp: srtp(3), ..config(3) };
        for (id, config) in (1..).zip([config(1), StreamConfig { srtp: srtp(2), ..config(2) }, echo]) {
            rig.apply(Command::CreateStream { id: StreamId(id), config });
        }
        rig.apply(Command::CreateBridge { a: StreamId(1), b: StreamId(2) });
        rig
    }

    fn apply(&mut self, command: Command) {
        self.engine.apply(self.now, 1, &command, &mut self.driver, &mut self.table);
    }

    /// Hands in a packet of a stream's phone, and looks whether its index is shown when it is to be sent.
    fn hear(&mut self, stream: u32, component: Component, packet: &mut Datagram<'_>) {
        let socket = Socket { stream: StreamIndex(stream), generation: Generation(stream + 1), component };
        let port = if component == Component::Rtcp { 5001 } else { 5000 };
        let source = Some(at(&format!("192.0.2.{}:{port}", stream + 1)));
        let Self { engine, driver, table, .. } = self;
        let forward = engine.receive(self.now, socket, source, packet, driver, table).expect("it is sent on");
        if component == Component::Rtcp {
            return driver.send(forward.from, forward.to, packet.as_ref());
        }
        let (_, shown) = self.shown.borrow()[forward.from.stream.0 as usize];
        let sequence = u16::from_be_bytes([packet.as_ref()[2], packet.as_ref()[3]]);
        assert!(u64::from(sequence) <= shown && shown > 0, "{sequence} is sent, and up to {shown} is shown");
    }
}

#[test]
fn what_is_relayed_is_shown_first() {
    let mut rig = Rig::new();
    for sequence in 0..3_000u16 {
        rig.now = rig.now.plus_millis(20);
        let mut packet = [rtp(8, sequence, 0, 7), vec![0; 48]].concat();
        rig.hear(0, Component::Rtp, &mut Datagram::new(&mut packet, 172));
        let mut report = [0; 60];
        report[..8].copy_from_slice(&[0x80, 201, 0, 1, 0, 0, 0, 7]);
        rig.hear(0, Component::Rtcp, &mut Datagram::new(&mut report, 8));
    }
    assert_eq!(rig.driver.reports, 3_000);
}

#[test]
fn reports_of_our_own_and_the_bye_are_shown_first() {
    // So many reports that the BYE is the first under an index that was not shown, in one of the rounds.
    for turns in 1..200u16 {
        let (mut rig, mut phone) = (Rig::new(), Sender::new(Kernels::detect(), &key(3)));
        for sequence in 0..turns {
            rig.now = rig.now.plus_millis(1_000);
            let mut packet = [rtp(8, sequence, 0, 7), vec![0; 48]].concat();
            let mut packet = Datagram::new(&mut packet, 172);
            assert!(phone.protect_rtp(&mut packet).is_ok());
            rig.hear(2, Component::Rtp, &mut packet);
            rig.engine.tick(rig.now, &mut rig.driver, &mut rig.table);
        }
        let before = rig.driver.reports;
        assert!(turns < 20 || before > u64::from(turns / 10), "{before} in {turns} s");
        rig.apply(Command::DestroyStream { id: StreamId(3) });
        assert!(rig.driver.reports > before, "a BYE");
    }
}
