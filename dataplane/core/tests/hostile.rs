//! Anything at all from the network: no panic, and every packet is accounted for.

mod common;
use common::{Rig, config, rtp};
use nebula_core::driver::Component::{self, Rtcp, Rtp};
use nebula_ring::command::{Mode, StreamConfig};
use proptest::prelude::*;

fn packet() -> impl Strategy<Value = Vec<u8>> {
    let noise = prop::collection::vec(any::<u8>(), 0..200);
    let versioned = prop::collection::vec(any::<u8>(), 2..200).prop_map(|mut b| {
        b[0] = b[0] & 0x3f | 0x80;
        b
    });
    let nearly_rtp = (any::<[u8; 12]>(), 0usize..172, any::<u8>()).prop_map(|(sequence, at, value)| {
        let mut b = rtp(8, u16::from(sequence[0]), 0, u32::from(sequence[1] & 1));
        b[at] = value;
        b
    });
    let nearly_rtcp = (200u8..208, prop::collection::vec(any::<u8>(), 0..30)).prop_map(|(kind, words)| {
        let mut b = vec![0x80 | words.len() as u8 & 0x1f, kind, 0, words.len() as u8];
        b.extend(words.iter().flat_map(|w| [*w, 0, 0, *w]));
        b
    });
    prop_oneof![noise, versioned, nearly_rtp, nearly_rtcp, Just(vec![0x80; 1473])]
}

fn source() -> impl Strategy<Value = Option<&'static str>> {
    prop::sample::select(vec![
        None,
        Some("192.0.2.1:5000"),
        Some("192.0.2.1:5001"),
        Some("192.0.2.2:5000"),
        Some("203.0.113.1:7"),
        Some("[2001:db8::1]:5000"),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn every_packet_is_forwarded_consumed_or_dropped(
        muxed: bool, nat: bool, echo: bool, bridge: bool,
        packets in prop::collection::vec((1u64..3, any::<bool>(), source(), packet(), 0u64..3000), 1..60),
    ) {
        let leg = |n: u8| StreamConfig {
            nat_expected: nat,
            mode: if echo { Mode::Echo } else { Mode::Bridge },
            rtcp_port: config(n).rtp_port + u16::from(!muxed),
            rtp_timeout_ms: 2000,
            ..config(n)
        };
        let mut rig = if bridge { Rig::bridged(leg(1), leg(2)) } else { Rig::with(&[leg(1), leg(2)]) };
        let count = packets.len() as u64;
        let mut forwards = 0;
        for (id, rtcp, source, packet, pass_ms) in packets {
            let component: Component = if rtcp && !muxed { Rtcp } else { Rtp };
            let (after, calls) = rig.hear(id, component, source, &packet);
            let forwarded = calls.iter().filter(|c| matches!(c, common::Call::Forward(..))).count();
            prop_assert!(forwarded <= 1);
            prop_assert!(forwarded == 1 || after == packet, "what is dropped is not touched");
            forwards += forwarded as u64;
            rig.pass(pass_ms);
        }
        let totals = rig.engine.totals();
        prop_assert_eq!((totals.received, totals.forwarded), (count, forwards));
        prop_assert_eq!(count, totals.forwarded + totals.consumed + totals.drops.total());
        let (mut handled, mut drops) = (0, 0);
        for (_, view) in rig.engine.streams() {
            prop_assert_eq!(view.stats.handled, view.stats.forwarded + view.stats.consumed + view.drops.total());
            handled += view.stats.handled;
            drops += view.drops.total();
        }
        prop_assert_eq!((handled, drops), (count, totals.drops.total()));
    }
}
