//! A call in the switchboard's snapshots.

use nebula_bus::contract::to_proxy::Phase;
use nebula_switchboard::call::{Call, Input, Now, Timing};

/// Takes up whatever it says, and lets it go on for a while.
pub fn call_snapshot(bytes: &[u8]) {
    let timing = Timing { no_answer_ms: 60_000, duration_ms_max: 86_400_000, dataplane_grace_ms: 2_000 };
    let mut now = Now { monotonic_ms: 1_000_000_000, unix_ms: 1_800_000_000_000 };
    let mut out = Vec::new();
    let Ok(mut call) = Call::restore(bytes, "heir".into(), timing, now, &mut out) else { return };
    let _ = call.snapshot(now);
    call.handle(now, Input::Adopted { channels: vec![("ch_a".into(), Phase::Answered)] }, &mut out);
    for _ in 0..16 {
        let Some(at_ms) = call.deadline_ms() else { break };
        now.monotonic_ms = now.monotonic_ms.max(at_ms);
        call.handle(now, Input::Timeout, &mut out);
        let _ = (call.snapshot_due(), call.snapshot(now), call.view());
    }
}
