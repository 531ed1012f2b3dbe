//! The call detail record, made from an ended call: pure, once per call. What is billed and what is asked for in
//! disputes, so every time in it comes from the monotonic clock laid on the start's Unix time.

use nebula_bus::contract::{CauseKind, EndedBy};
use nebula_store::calls::CallRow;
use nebula_store::cdrs::{Cdr, Leg as CdrLeg};
use serde::Serialize;
use serde_json::Value;

use crate::call::{Call, Leg};

/// The record of a call that has ended; none while it lives.
pub fn of(call: &Call) -> Option<Cdr> {
    let end = call.ended()?;
    let invite = call.invite();
    let leg = |(index, leg): (usize, &Leg)| CdrLeg {
        channel_id: leg.channel_id.0.clone(),
        sip_call_id: Some(sip_call_id(call, index)),
        place: leg.destination.as_ref().map_or(&invite.source, |destination| &destination.uri).clone(),
        answered: call.answered_ms().is_some() && call.talks(index),
        sip_code: leg.ended.as_ref().map(|cause| cause.sip_code),
        stats: leg.stats().map_or(Value::Null, |stats| serde_json::to_value(stats).unwrap_or_default()),
    };
    Some(Cdr {
        call_id: call.id().0.clone(),
        customer_id: invite.customer_id.clone(),
        from_user: invite.from.user.clone(),
        from_display: invite.from.display.clone(),
        to_user: invite.to.clone(),
        started_unix_ms: call.started().unix_ms,
        answered_unix_ms: call.answered_ms().map(|at| call.unix_ms(at)),
        ended_unix_ms: call.unix_ms(end.at_ms),
        ended_by: word(end.by),
        sip_code: end.cause.sip_code,
        cause: word(end.cause.kind),
        cause_text: end.cause.text.clone(),
        legs: call.legs().iter().enumerate().map(leg).collect(),
    })
}

/// A leg's SIP Call-ID: the caller's own; a dialled leg has its channel's id (see `Dial::channel_id`).
pub(crate) fn sip_call_id(call: &Call, leg: usize) -> String {
    if leg == 0 { call.invite().sip_call_id.clone() } else { call.legs()[leg].channel_id.0.clone() }
}

/// The record of a call whose switchboard died, with what is left of its legs. If the dataplane still carried a stream of
/// it, the call lived until this was found out, `now_unix_ms`; else when it was last known to live, so that nobody pays for
/// the time until somebody noticed.
pub fn of_crashed(row: &CallRow, legs: Vec<CdrLeg>, now_unix_ms: i64) -> Cdr {
    let was_carried = legs.iter().any(|leg| !leg.stats.is_null());
    let last_sign = row.answered_unix_ms.unwrap_or(row.started_unix_ms);
    Cdr {
        call_id: row.id.clone(),
        customer_id: row.customer_id.clone(),
        from_user: row.from_user.clone(),
        from_display: row.from_display.clone(),
        to_user: row.to_user.clone(),
        started_unix_ms: row.started_unix_ms,
        answered_unix_ms: row.answered_unix_ms,
        ended_unix_ms: if was_carried { now_unix_ms.max(last_sign) } else { last_sign },
        ended_by: word(EndedBy::System),
        sip_code: 500,
        cause: word(CauseKind::Crash),
        cause_text: format!("{} died", row.switchboard),
        legs,
    }
}

/// The contract's own word for a unit variant.
pub(crate) fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        other => unreachable!("the contract's enums are words, not {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_the_contracts() {
        assert_eq!(word(CauseKind::NoAnswer), "no_answer");
        assert_eq!(word(EndedBy::Callee), "callee");
    }

    #[test]
    fn a_crashed_call_is_billed_up_to_its_last_sign_of_life() {
        let row = CallRow {
            id: "c".into(),
            customer_id: "x".into(),
            state: "answered".into(),
            from_user: "1000".into(),
            from_display: None,
            to_user: "1001".into(),
            started_unix_ms: 1_000,
            answered_unix_ms: Some(3_000),
            ended_unix_ms: None,
            switchboard: "switchboard-1".into(),
            snapshot: None,
        };
        let cdr = of_crashed(&row, Vec::new(), 9_000);
        assert_eq!((cdr.billed_ms(), cdr.duration_ms(), cdr.cause.as_str()), (0, 2_000, "crash"));
        let leg = |stats| CdrLeg {
            channel_id: "a".into(),
            sip_call_id: None,
            place: String::new(),
            answered: true,
            sip_code: None,
            stats,
        };
        let gone = of_crashed(&row, vec![leg(Value::Null)], 9_000);
        assert_eq!((gone.billed_ms(), gone.legs.len()), (0, 1));
        let carried = of_crashed(&row, vec![leg(Value::Null), leg(serde_json::json!({}))], 9_000);
        assert_eq!((carried.billed_ms(), carried.duration_ms()), (6_000, 8_000));
    }
}
