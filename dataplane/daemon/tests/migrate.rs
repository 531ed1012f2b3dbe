//! Two legs that live on different workers meet: one moves, with its socket, and no packet of it is lost.

mod common;

use common::{Process, call, config, done, free_port, peer, record_when, rtp};
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
