//! Any order of everything: requests, replies and phones interleaved by a seed, with faults, then the invariants.
//! A failure prints its numbers; the same function replays them.

use nebula_bus::contract::CauseKind;
use proptest::prelude::*;

use super::rig::*;
use crate::call::*;

/// xorshift64*: the same sequence everywhere.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed | 1)
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % sides
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.roll(of.len())]
    }
}

const FAULTS: &[&str] = &[
    "create remote offer",
    "create local offer",
    "dial",
    "ring",
    "progress",
    "answer",
    "reinvite",
    "dtmf",
    "bridge",
    "remote offer",
    "local offer",
    "remote answer",
    "local answer",
];
const FAILURES: &[Failure] =
    &[Failure::Incompatible, Failure::Busy, Failure::Unknown, Failure::Unavailable, Failure::Internal];

/// One phone does one thing that it may do now.
fn phone(rig: &mut Rig, dice: &mut Dice) {
    let names: Vec<String> = rig.channels.iter().filter(|(_, leg)| leg.alive).map(|(name, _)| name.clone()).collect();
    if names.is_empty() {
        return;
    }
    let name = names[dice.roll(names.len())].clone();
    let sdp = dice.pick(&[Some("sdp 1"), Some("sdp 2"), Some("hold"), None]);
    let leg = &rig.channels[&name];
    match (leg.outgoing, dice.roll(12)) {
        (_, 0) if dice.roll(3) == 0 => {
            let code = dice.pick(&[200, 486, 487, 503, 603]);
            rig.leave(&name, code, CauseKind::Normal);
        }
        (Some(Open::Invite { .. }), 1..=3) => _ = rig.ring(&name),
        (Some(Open::Invite { .. }), 4..=6) => _ = rig.progress(&name, dice.pick(&["sdp 1", "sdp 2", "sdp 3"])),
        (Some(_), 7..=9) => _ = rig.answer(&name, sdp),
        (Some(Open::Reinvite { .. }), 10) => {
            let code = dice.pick(&[488, 491, 500]);
            rig.refuse(&name, code);
        }
        (_, 11) if leg.ack_awaited => _ = rig.ack(&name, sdp),
        (_, 1..=3) if leg.answered && leg.incoming.is_empty() && !leg.ack_awaited => _ = rig.reinvite(&name, sdp),
        (_, 4) if leg.answered => _ = rig.event(&name, ChannelEvent::Dtmf { digit: '7', duration_ms: 100 }),
        _ => {}
    }
}

fn run(seed: u64, steps: usize, faults: usize) -> Rig {
    let mut dice = Dice(seed | 1);
    let (to, forks) = (dice.pick(&["1001", "1001", "1001", "*43"]), dice.roll(4));
    let offer = dice.pick(&[Some("offer"), Some("offer"), None]);
    let mut rig = Rig::dialling(to, offer, forks);
    for _ in 0..faults {
        let fault = Fault { name: dice.pick(FAULTS), failure: dice.pick(FAILURES), after: dice.roll(4) };
        rig.faults.push(fault);
    }
    for _ in 0..steps {
        rig.now_ms += dice.roll(50) as u64;
        match dice.roll(8) {
            0 => _ = rig.step_shell(),
            1 => _ = rig.step_event(),
            2 => _ = rig.step_proxy(),
            3 => _ = rig.step_media(),
            4 | 5 => {
                let replies = rig.replies.len().max(1);
                rig.step_reply(dice.roll(replies));
            }
            6 => phone(&mut rig, &mut dice),
            _ if dice.roll(200) == 0 => rig.input(Input::Hangup { cause: cause(503, CauseKind::Administrative) }),
            _ => {}
        }
    }
    // Left alone from here on, every call ends by itself.
    rig.faults.clear();
    rig.settle();
    rig.pass(timing().no_answer_ms + timing().duration_ms_max);
    rig.over();
    rig
}

/// The random runs are worth something only if they get everywhere.
#[test]
fn the_runs_reach_every_corner() {
    let mut seen = std::collections::BTreeMap::new();
    for seed in 0..2_000u64 {
        let rig = run(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15), 400, 1);
        let media = rig.streams.values().flat_map(|stream| &stream.log);
        let asked = rig.channels.values().flat_map(|leg| &leg.log).map(|asked| match asked.split_once(' ') {
            Some((name, _)) => name,
            None => asked,
        });
        for name in media.map(String::as_str).chain(asked).chain(rig.records.iter().copied()) {
            *seen.entry(name.to_owned()).or_insert(0) += 1;
        }
    }
    for name in ["answered", "reinvite", "rollback", "reject", "183", "dtmf", "local answer", "local offer", "destroy"]
    {
        assert!(seen.get(name).is_some_and(|count| *count >= 100), "{name}: {seen:?}");
    }
}

/// Things that no proxy would say, at any time: they may end the call, but not break it.
fn noise(seed: u64, steps: usize) {
    let mut dice = Dice(seed | 1);
    let forks = dice.roll(4);
    let mut rig = Rig::new(forks);
    for _ in 0..steps {
        let channel = dice.pick(&[A, B, C, "call-3", "nobody"]);
        let sdp = dice.pick(&[Some("sdp 1"), Some("hold"), None]).map(str::to_owned);
        let event = match dice.roll(24) {
            0..=3 => ChannelEvent::Provisional { sip_code: dice.pick(&[0, 180, 183, 199, 65_535]), sdp },
            4..=7 => ChannelEvent::Answered { sdp },
            8..=10 => ChannelEvent::Refused { cause: cause(dice.pick(&[0, 491, 65_535]), CauseKind::Rejected) },
            11..=14 => ChannelEvent::Acked { sdp },
            15 => ChannelEvent::Hangup { cause: cause(dice.pick(&[0, 200, 486, 65_535]), CauseKind::Normal) },
            16 => ChannelEvent::Dtmf { digit: '\0', duration_ms: u32::MAX },
            17 => {
                rig.input(Input::Timeout);
                continue;
            }
            18 => {
                let id = RpcId(dice.roll(40) as u32);
                rig.input(Input::Reply { id, result: Ok(Reply::Accepted) });
                continue;
            }
            _ => {
                _ = rig.step_shell() || rig.step_media() || rig.step_reply(0);
                continue;
            }
        };
        rig.call.handle(rig.now(), Input::Channel { channel_id: channel.into(), age_ms: 0, event }, &mut Vec::new());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_ends_with_one_record(seed in any::<u64>(), steps in 0usize..600) {
        let _ = run(seed, steps, 0);
    }

    #[test]
    fn any_interleaving_with_faults_ends_with_one_record(seed in any::<u64>(), steps in 0usize..600, faults in 1usize..6) {
        let _ = run(seed, steps, faults);
    }

    #[test]
    fn noise_breaks_nothing(seed in any::<u64>(), steps in 0usize..300) {
        noise(seed, steps);
    }
}
