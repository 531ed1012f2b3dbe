//! Causes and status codes: one table each way. Called by the channel machine and by the edge; pure.
//!
//! RFC 3261 section 21 names the codes; the causes are the contract's fixed list.

use nebula_bus::contract::{Cause, CauseKind};

/// No reason phrase or text is kept longer.
pub const TEXT_CHARS_MAX: usize = 128;

/// Why a leg ended, told from the final failure a phone sent to our INVITE.
pub fn of_response(code: u16, reason: &str) -> Cause {
    let kind = match code {
        486 | 600 => CauseKind::Busy,
        408 | 480 => CauseKind::NoAnswer,
        404 | 410 | 484 | 485 | 604 | 300..=399 => CauseKind::Unreachable,
        406 | 415 | 488 | 606 => CauseKind::Incompatible,
        487 => CauseKind::Cancelled,
        500..=599 => CauseKind::Network,
        _ => CauseKind::Rejected,
    };
    Cause { sip_code: code, kind, text: reason.to_owned() }
}

/// A cause of our own making.
pub fn own(sip_code: u16, kind: CauseKind, text: &str) -> Cause {
    Cause { sip_code, kind, text: text.to_owned() }
}

/// The final failure that tells `cause` to a caller whose INVITE is open.
pub fn refusal_code(cause: &Cause) -> u16 {
    if (300..=699).contains(&cause.sip_code) {
        return cause.sip_code;
    }
    match cause.kind {
        CauseKind::Busy => 486,
        CauseKind::Rejected => 603,
        CauseKind::NoAnswer | CauseKind::Normal => 480,
        CauseKind::Cancelled => 487,
        CauseKind::Unreachable => 404,
        CauseKind::Incompatible => 488,
        CauseKind::Network => 503,
        CauseKind::Administrative => 503,
        CauseKind::RtpTimeout | CauseKind::SessionTimer | CauseKind::Crash | CauseKind::Internal => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn final_failures_map_to_the_fixed_list() {
        let table = [
            (486, CauseKind::Busy),
            (600, CauseKind::Busy),
            (603, CauseKind::Rejected),
            (403, CauseKind::Rejected),
            (401, CauseKind::Rejected),
            (407, CauseKind::Rejected),
            (408, CauseKind::NoAnswer),
            (480, CauseKind::NoAnswer),
            (404, CauseKind::Unreachable),
            (410, CauseKind::Unreachable),
            (604, CauseKind::Unreachable),
            (302, CauseKind::Unreachable),
            (488, CauseKind::Incompatible),
            (606, CauseKind::Incompatible),
            (487, CauseKind::Cancelled),
            (503, CauseKind::Network),
        ];
        for (code, kind) in table {
            assert_eq!(of_response(code, "x").kind, kind, "{code}");
        }
    }

    #[test]
    fn a_refusal_is_always_a_final_failure() {
        for kind in [CauseKind::Normal, CauseKind::Busy, CauseKind::Internal, CauseKind::Administrative] {
            for sip_code in [0, 100, 200, 299, 700] {
                let code = refusal_code(&own(sip_code, kind, ""));
                assert!((300..=699).contains(&code), "{kind:?} {sip_code} gave {code}");
            }
        }
        assert_eq!(refusal_code(&own(486, CauseKind::Busy, "")), 486);
    }
}
