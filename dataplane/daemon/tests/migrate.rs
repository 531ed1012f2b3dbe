//! Two legs that live on different workers meet: one moves, with its socket, and no packet of it is lost.

mod common;

use common::{Process, call, config, done, free_port, peer, record_when, rtp};
use nebula_core::driver::Datagram;
use nebula_core::srtp::{Kernels, Receiver, Sender};
use nebula_ring::drops::DropReason;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use nebula_ring::{Command, Event, Mode, Reason, StreamConfig, StreamId};
use std::net::UdpSocket;

const A: StreamId = StreamId(1);
const B: StreamId = StreamId(2);

struct Leg {
    phone: UdpSocket,
    config: StreamConfig,
}

impl Leg {
    fn new(mode: Mode, ssrc: u32) -> Self {
        let phone = peer();
        let config = StreamConfig { mode, ssrc, ..config(free_port(), phone.local_addr().unwrap()) };
        Self { phone, config }
    }

    fn send(&self, number: u32) {
        self.phone.send_to(&rtp(7, number), ("127.0.0.1", self.config.rtp_port)).unwrap();
    }

    /// The number of the next packet that comes to it, in its payload.
    fn hear(&self) -> u8 {
        let mut got = [0; 1500];
        loop {
            let len = self.phone.recv(&mut got).unwrap();
            // An echo reports now and then, on the same port.
            if !(192..224).contains(&got[1]) {
                assert_eq!(len, 172);
                return got[20];
            }
        }
    }
}

#[test]
fn a_stream_moves_to_where_the_other_leg_is_without_a_lost_packet() {
    let folder = tempfile::tempdir().unwrap();
    // Both on the first core: there may be no other.
    let process = Process::start(folder.path(), &["--cores", "0,0", "--streams-max", "16"]);
    let mut control = process.attach();
    let (a, b) = (Leg::new(Mode::Bridge, 1), Leg::new(Mode::Echo, 2));
    done(&mut control.workers()[0], &Command::CreateStream { id: A, config: a.config.clone() });
    done(&mut control.workers()[1], &Command::CreateStream { id: B, config: b.config.clone() });
    for number in 0..10 {
        b.send(number);
        assert_eq!(b.hear(), number as u8, "it lives, and echoes");
    }
    record_when(&control.workers()[1], B, |record| record.packets_in == 10);

    let worker = &mut control.workers()[1];
    let refused = |event: Event, why: Reason| {
        assert!(matches!(event, Event::Failed { reason, .. } if reason == why), "{event:?}")
    };
    refused(call(worker, &Command::MigrateStream { id: B, worker: 7 }, &mut vec![]), Reason::Invalid);
    refused(call(worker, &Command::MigrateStream { id: A, worker: 0 }, &mut vec![]), Reason::UnknownStream);
    // It talks on while it moves, there and back and there again; what it says is echoed by whoever has it.
    let mut number = 10;
    for (from, to) in [(1, 0), (0, 1), (1, 0)] {
        (number..number + 20).for_each(|number| b.send(number));
        done(&mut control.workers()[from], &Command::MigrateStream { id: B, worker: to });
        (number + 20..number + 40).for_each(|number| b.send(number));
        for expected in number..number + 40 {
            assert_eq!(b.hear(), expected as u8, "in order, and none lost");
        }
        number += 40;
        let worker = &mut control.workers()[from];
        refused(call(worker, &Command::DestroyStream { id: B }, &mut vec![]), Reason::UnknownStream);
        let record = record_when(&control.workers()[to as usize], B, |record| record.packets_in == number.into());
        assert_eq!((record.lost, record.drops().total(), record.packets_out), (0, 0, number.into()));
        assert_eq!(record.remote_rtp(), Some(b.phone.local_addr().unwrap()));
    }

    let worker = &mut control.workers()[0];
    done(worker, &Command::CreateBridge { a: A, b: B });
    for number in 200..220 {
        b.send(number);
        assert_eq!(a.hear(), number as u8);
        a.send(number);
        assert_eq!(b.hear(), number as u8);
    }
    [A, B].into_iter().for_each(|id| done(worker, &Command::DestroyStream { id }));
    for leg in [&a, &b] {
        UdpSocket::bind(("127.0.0.1", leg.config.rtp_port)).expect("no second descriptor is left");
    }
}

/// A phone that protects, and its stream.
struct Safe {
    leg: Leg,
    out: Sender,
    heard: Receiver,
}

impl Safe {
    fn new(suite: Suite, ssrc: u32) -> Self {
        let key = |seed: u8| {
            let bytes: Vec<u8> = (0..suite.key_bytes() + suite.salt_bytes()).map(|n| n as u8 ^ seed).collect();
            MasterKey::new(1, suite, &bytes, Mki::default()).unwrap()
        };
        let (theirs, ours) = (key(ssrc as u8), key(0x80 | ssrc as u8));
        let (out, heard) = (Sender::new(Kernels::detect(), &theirs), Receiver::new(Kernels::detect(), &ours));
        let mut leg = Leg::new(Mode::Bridge, ssrc);
        leg.config.srtp = Some(SrtpConfig { receive: Some(theirs), send: Some(ours) });
        Self { leg, out, heard }
    }

    fn protected(&mut self, number: u32) -> Vec<u8> {
        let mut buffer = [0; 240];
        buffer[..172].copy_from_slice(&rtp(7, number));
        let mut packet = Datagram::new(&mut buffer, 172);
        let _ = self.out.protect_rtp(&mut packet).unwrap();
        packet.as_ref().to_vec()
    }

    fn send(&self, packet: &[u8]) {
        self.leg.phone.send_to(packet, ("127.0.0.1", self.leg.config.rtp_port)).unwrap();
    }

    /// The next packet must be authentic, new, and this one, under its own number.
    fn hears(&mut self, number: u32) {
        let mut buffer = [0; 1500];
        let len = self.leg.phone.recv(&mut buffer).unwrap();
        let mut packet = Datagram::new(&mut buffer, len);
        self.heard.read_rtp(&mut packet).unwrap();
        assert_eq!(packet.as_ref(), rtp(7, number), "number {number}");
    }
}

/// A packet each way; every one must come, so that the next number is known to be the next.
fn talk(a: &mut Safe, b: &mut Safe, number: u32) {
    let packet = a.protected(number);
    a.send(&packet);
    b.hears(number);
    let packet = b.protected(number);
    b.send(&packet);
    a.hears(number);
}

#[test]
fn protection_moves_along_exactly_as_it_stands() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(folder.path(), &["--cores", "0,0", "--streams-max", "16"]);
    let mut control = process.attach();
    let (mut a, mut b) = (Safe::new(Suite::AeadAes256Gcm, 1), Safe::new(Suite::AesCm128HmacSha1_80, 2));
    done(&mut control.workers()[0], &Command::CreateStream { id: A, config: a.leg.config.clone() });
    done(&mut control.workers()[1], &Command::CreateStream { id: B, config: b.leg.config.clone() });
    done(&mut control.workers()[1], &Command::MigrateStream { id: B, worker: 0 });
    done(&mut control.workers()[0], &Command::CreateBridge { a: A, b: B });
    // It begins where the system passes numbers on as they are, and comes to its first rollover.
    let mut number = 62_400;
    while number < 65_500 {
        talk(&mut a, &mut b, number);
        number += 25;
    }
    let late = b.protected(number - 3);
    for _ in 0..3 {
        (number..number + 20).for_each(|number| talk(&mut a, &mut b, number));
        number += 20;
        done(&mut control.workers()[0], &Command::MigrateStream { id: B, worker: 1 });
        done(&mut control.workers()[1], &Command::MigrateStream { id: B, worker: 0 });
        done(&mut control.workers()[0], &Command::CreateBridge { a: A, b: B });
    }
    assert!(number > 65_536, "a rollover counter went along");
    // What was sent before is let in once: not lost with its window, and no replay after it.
    let replay = late.clone();
    b.send(&late);
    a.hears(65_497);
    b.send(&replay);
    talk(&mut a, &mut b, number);
    let record = record_when(&control.workers()[0], B, |record| record.drops().total() > 0);
    assert_eq!((record.drops().total(), record.drops().get(DropReason::Replay)), (1, 1));
    assert_eq!((record.rollover_in, record.rollover_out), (1, 1));
    let record = record_when(&control.workers()[0], A, |record| record.packets_out == record.packets_in + 1);
    assert_eq!(record.drops().total(), 0);
}
