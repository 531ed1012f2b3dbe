//! Frames that come together are handed to the engine together, so that it computes the tags of SRTP side by side; and what
//! becomes of each is what became of it alone.
#![allow(unsafe_code)]

mod netns;
#[path = "netns/rig.rs"]
mod rig;
#[path = "netns/wire.rs"]
mod wire;

use nebula_core::batch::BATCH_MAX;
use nebula_core::driver::{Datagram, StreamIndex};
use nebula_core::engine::{Engine, EventSink};
use nebula_core::limits::Limits;
use nebula_core::srtp::{Kernels, Receiver, Sender};
use nebula_core::time::Nanos;
use nebula_core::view::StreamView;
use nebula_io::PacketDriver;
use nebula_io::xdp::Mode;
use nebula_ring::command::{Command, Mode as StreamMode, PayloadType, StreamConfig, StreamId};
use nebula_ring::drops::DropReason;
use nebula_ring::event::Event;
use nebula_ring::srtp::{MasterKey, Mki, SrtpConfig, Suite};
use rig::{DEADLINE, Rig, send_back};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// More than two batches, and no multiple of one.
const FRAMES: u8 = 2 * BATCH_MAX as u8 + 5;
const LOCAL: [&str; 2] = ["10.77.0.1:4000", "10.77.0.1:4002"];
const PHONE: [&str; 2] = ["10.77.0.9:5004", "10.77.0.8:5006"];

#[test]
fn frames_that_come_together_are_handed_in_together_and_leave_in_order() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    rig.open(0, LOCAL[0]);
    let start = Instant::now();
    // The kernel may bring them one by one; as often as not it does not.
    loop {
        assert!(start.elapsed() < DEADLINE, "no full batch yet");
        for n in 0..FRAMES {
            // Among them one for nobody, one that lies, and one that is not answered.
            let mut frame = rig.v4(&[n; 172]);
            match n {
                3 => frame.to.set_port(4444),
                5 => frame.payload.clear(),
                _ => {}
            }
            let mut bytes = frame.bytes();
            if n == 7 {
                bytes[40] ^= 1;
            }
            rig.wire.send(&bytes);
        }
        let (mut heard, mut longest) = (Vec::new(), 0);
        while heard.len() < usize::from(FRAMES) - 2 {
            assert!(start.elapsed() < DEADLINE, "{heard:?}");
            rig.xdp.wait(Some(Duration::from_millis(20)), None).unwrap();
            rig.xdp.receive(|_, packets| {
                longest = longest.max(packets.len());
                for incoming in packets.iter_mut() {
                    heard.push(incoming.packet.as_ref().first().copied());
                    if !incoming.packet.is_empty() {
                        send_back(incoming);
                    }
                }
            });
        }
        rig.flush();
        assert!(longest <= BATCH_MAX);
        let expected: Vec<u8> = (0..FRAMES).filter(|n| ![3, 7].contains(n)).collect();
        assert_eq!(heard, expected.iter().map(|n| Some(*n).filter(|n| *n != 5)).collect::<Vec<_>>());
        for n in expected.into_iter().filter(|n| *n != 5) {
            assert_eq!(rig.next(5004).payload, [n; 172]);
        }
        if longest == BATCH_MAX {
            break;
        }
    }
    // All memory came back: as many again, many times over, would not fit otherwise.
    let before = rig.xdp.frame_counters();
    for _ in 0..20 {
        for n in 0..FRAMES {
            rig.wire.send(&rig.v4(&[n; 172]).bytes());
        }
        rig.turns(FRAMES.into(), |_, incoming| send_back(incoming));
        for n in 0..FRAMES {
            assert_eq!(rig.next(5004).payload, [n; 172]);
        }
    }
    let sent = rig.xdp.frame_counters().sent - before.sent;
    assert_eq!((sent, rig.xdp.frame_counters().sent_by_kernel), (20 * u64::from(FRAMES), 0));
}

struct Ears;

impl EventSink for Ears {
    fn push(&mut self, event: Event) {
        assert!(!matches!(event, Event::Failed { .. }), "{event:?}");
    }

    fn show(&mut self, _: StreamIndex, _: &StreamView<'_>) {}
}

fn key(byte: u8) -> MasterKey {
    let suite = Suite::AesCm128HmacSha1_80;
    let bytes: Vec<u8> = (0..(suite.key_bytes() + suite.salt_bytes()) as u8).map(|n| n ^ byte).collect();
    MasterKey::new(1, suite, &bytes, Mki::new(&[]).unwrap()).unwrap()
}

/// One of two legs: its phone protects by one key and reads by the other.
fn leg(index: usize) -> StreamConfig {
    let local: SocketAddr = LOCAL[index].parse().unwrap();
    let keys = [0x10, 0x20].map(|whose| key(whose + index as u8));
    let [receive, send] = keys.map(Some);
    StreamConfig {
        local_ip: local.ip(),
        rtp_port: local.port(),
        rtcp_port: local.port() + 1,
        remote_rtp: Some(PHONE[index].parse().unwrap()),
        remote_rtcp: None,
        nat_expected: false,
        learning_window_ms: 0,
        learn_from: None,
        relatch_interval_ms: 0,
        receive: true,
        send: true,
        mode: StreamMode::Bridge,
        rtp_timeout_ms: 0,
        ssrc: 1,
        srtp: Some(SrtpConfig { receive, send }),
        payload_types: [PayloadType { number: 0, forward_as: 0, clock_rate_hz: 8000 }].into_iter().collect(),
    }
}

fn rtp(sequence: u16) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(sequence.to_be_bytes());
    packet.extend((u32::from(sequence) * 160).to_be_bytes());
    packet.extend(7u32.to_be_bytes());
    packet.extend([sequence as u8; 160]);
    packet
}

fn protected(plain: &[u8], sender: &mut Sender) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + 64, 0);
    let mut packet = Datagram::new(&mut buffer, plain.len());
    sender.protect_rtp(&mut packet).map(drop).unwrap();
    packet.as_ref().to_vec()
}

#[test]
fn srtp_in_batches_is_read_and_protected_anew_and_a_bad_tag_among_them_is_dropped_alone() {
    let Some(mut rig) = Rig::new(Mode::Driver) else { return };
    let mut engine = Engine::new(Limits { streams_max: 8 });
    for (index, id) in [(0, StreamId(1)), (1, StreamId(2))] {
        engine.apply(Nanos(1), 0, &Command::CreateStream { id, config: leg(index) }, &mut rig.xdp, &mut Ears);
    }
    let bridge = Command::CreateBridge { a: StreamId(1), b: StreamId(2) };
    engine.apply(Nanos(1), 0, &bridge, &mut rig.xdp, &mut Ears);
    let kernels = Kernels::detect();
    let mut phones = [0, 1].map(|index| {
        let SrtpConfig { receive, send } = leg(index).srtp.unwrap();
        (Sender::new(kernels, &receive.unwrap()), Receiver::new(kernels, &send.unwrap()))
    });
    let (mut sequence, mut bad, start) = (0, 0, Instant::now());
    // The first two rounds teach the way to both phones. Then the kernel may bring frames one by one; mostly it does not.
    for (round, from) in (0..).zip([0, 1].into_iter().cycle()) {
        assert!(start.elapsed() < DEADLINE, "no full batch yet");
        let (mut handled, mut longest, mut due) = (0, 0, Vec::new());
        for n in 0..FRAMES {
            let plain = rtp(sequence);
            let mut frame = rig.frame(PHONE[from], LOCAL[from], &protected(&plain, &mut phones[from].0));
            if n == 9 {
                *frame.payload.last_mut().unwrap() ^= 1;
                bad += 1;
            } else {
                due.push(plain);
            }
            rig.wire.send(&frame.bytes());
            sequence += 1;
        }
        while handled < usize::from(FRAMES) {
            assert!(start.elapsed() < DEADLINE, "{handled} handled");
            rig.xdp.wait(Some(Duration::from_millis(20)), None).unwrap();
            rig.xdp.receive(|turn, packets| {
                (handled, longest) = (handled + packets.len(), longest.max(packets.len()));
                engine.receive_many(Nanos(start.elapsed().as_nanos() as u64 + 1), packets, turn, &mut Ears);
            });
        }
        rig.flush();
        assert_eq!(engine.totals().drops.get(DropReason::BadTag), bad);
        if round < 2 {
            continue;
        }
        for plain in due {
            let mut payload = rig.next(PHONE[1 - from].parse::<SocketAddr>().unwrap().port()).payload;
            let len = payload.len();
            let mut packet = Datagram::new(&mut payload, len);
            phones[1 - from].1.read_rtp(&mut packet).unwrap();
            assert_eq!((&packet.as_ref()[1..8], &packet.as_ref()[12..]), (&plain[1..8], &plain[12..]));
        }
        if longest == BATCH_MAX {
            break;
        }
    }
}
