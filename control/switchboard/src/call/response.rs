//! Which refusal the caller hears when every fork failed (RFC 3261 section 16.7, step 6), and causes in common use.

use nebula_bus::contract::{Cause, CauseKind};

/// The best of the forks' refusals: a 6xx before all, else the lowest class; within a class the one that says most,
/// and the earliest of equals.
pub fn best<'a>(causes: impl IntoIterator<Item = &'a Cause>) -> Option<&'a Cause> {
    causes.into_iter().min_by_key(|cause| rank(cause.sip_code))
}

/// Lower is better: the class, then the codes that tell the caller what to mend, then those that tell nothing.
fn rank(sip_code: u16) -> (u8, u8) {
    let class = match sip_code / 100 {
        6 => 0,
        class @ 3..=5 => class as u8,
        _ => 9,
    };
    let within = match sip_code {
        401 | 407 | 415 | 420 | 484 => 0,
        // A fork that timed out, was cancelled or was overloaded says less than one that spoke for its user.
        408 | 480 | 481 | 487 | 503 => 2,
        _ => 1,
    };
    (class, within)
}

/// The code the caller gets for a cause. What only makes sense between us and the callee is not passed on: a redirect
/// whose Contact we do not follow, a challenge to us, a 503 (16.7: the next call may well succeed), a BYE's 200.
pub fn caller_code(cause: &Cause) -> u16 {
    match cause.sip_code {
        401 | 407 => 403,
        481 => 480,
        503 if !matches!(cause.kind, CauseKind::Internal | CauseKind::Crash) => 500,
        code @ 400..=699 => code,
        _ => 480,
    }
}

pub(crate) fn cause(sip_code: u16, kind: CauseKind, text: &str) -> Cause {
    Cause { sip_code, kind, text: text.to_owned() }
}

/// What a fork is told that lost to another (RFC 3326 section 3.1 names this text).
pub(crate) fn elsewhere() -> Cause {
    cause(200, CauseKind::Cancelled, "Call completed elsewhere")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best_of(codes: &[u16]) -> Option<u16> {
        let causes: Vec<_> = codes.iter().map(|&code| cause(code, CauseKind::Rejected, "")).collect();
        best(&causes).map(|cause| cause.sip_code)
    }

    #[test]
    fn the_order_of_rfc_3261_section_16_7() {
        for (codes, expected) in [
            (&[][..], None),
            (&[486], Some(486)),
            (&[404, 603, 200], Some(603)),
            (&[503, 486], Some(486)),
            (&[486, 302], Some(302)),
            (&[500, 503], Some(500)),
            (&[486, 420], Some(420)),
            (&[480, 486], Some(486)),
            (&[408, 487, 404], Some(404)),
            (&[486, 404], Some(486)),
            (&[600, 603], Some(600)),
        ] {
            assert_eq!(best_of(codes), expected, "{codes:?}");
        }
    }

    #[test]
    fn the_caller_hears_only_what_concerns_it() {
        for (code, kind, expected) in [
            (486, CauseKind::Busy, 486),
            (603, CauseKind::Rejected, 603),
            (302, CauseKind::Rejected, 480),
            (407, CauseKind::Rejected, 403),
            (503, CauseKind::Network, 500),
            (503, CauseKind::Internal, 503),
            (200, CauseKind::Normal, 480),
            (0, CauseKind::Crash, 480),
        ] {
            assert_eq!(caller_code(&cause(code, kind, "")), expected, "{code}");
        }
    }
}
