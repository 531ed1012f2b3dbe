//! One change of a session at a time: re-INVITE and UPDATE in both directions (RFC 3261 sections 14.1 and 14.2, RFC 3311
//! section 5.2).
//!
//! Asked by the owner of a dialog before it sends, and when it receives, a request that may change the session.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::transaction::Tokens;

/// Delays are drawn in units of this (14.1).
const RETRY_UNIT: Duration = Duration::from_millis(10);
/// The owner of the Call-ID waits 2.1 to 4 s, in units.
const RETRY_OWNER: (u32, u32) = (210, 400);
/// The other waits 0 to 2 s, in units.
const RETRY_OTHER: (u32, u32) = (0, 200);
/// Retry-After of a 500 is 0 to 10 s (14.2).
const RETRY_AFTER_MAX_S: u32 = 10;

/// Which changes are open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Renegotiation {
    ours: bool,
    theirs: bool,
}

/// What to do with a re-INVITE or UPDATE from the peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Take it on; `finish_theirs` when it is answered.
    Admit,
    /// Answer 491: ours is open.
    RequestPending,
    /// Answer 500 with this Retry-After: an earlier one of the peer is not answered yet.
    Later {
        /// 0 to 10 s.
        retry_after_s: u32,
    },
}

impl Renegotiation {
    /// Whether we may send one now.
    pub fn is_idle(&self) -> bool {
        !self.ours && !self.theirs
    }

    /// We send one; false (and nothing changes) if one is open in either direction.
    #[must_use]
    pub fn begin(&mut self) -> bool {
        let idle = self.is_idle();
        self.ours |= idle;
        idle
    }

    /// Ours was answered finally, or failed.
    pub fn finish_ours(&mut self) {
        self.ours = false;
    }

    /// The peer sent one.
    pub fn admit(&mut self, tokens: &mut Tokens) -> Admission {
        match (self.ours, self.theirs) {
            (_, true) => Admission::Later { retry_after_s: tokens.below(RETRY_AFTER_MAX_S + 1) },
            (true, false) => Admission::RequestPending,
            (false, false) => {
                self.theirs = true;
                Admission::Admit
            }
        }
    }

    /// Theirs was answered finally.
    pub fn finish_theirs(&mut self) {
        self.theirs = false;
    }
}

/// How long to wait after a 491 before trying again; `is_owner`: we made the Call-ID.
pub fn retry_delay(is_owner: bool, tokens: &mut Tokens) -> Duration {
    let (low, high) = if is_owner { RETRY_OWNER } else { RETRY_OTHER };
    RETRY_UNIT * (low + tokens.below(high - low + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time() {
        let mut tokens = Tokens::new([0; 16]);
        let mut state = Renegotiation::default();
        assert!(state.begin());
        assert!(!state.begin(), "ours is open");
        assert_eq!(state.admit(&mut tokens), Admission::RequestPending);
        state.finish_ours();
        assert_eq!(state.admit(&mut tokens), Admission::Admit);
        assert!(!state.begin(), "theirs is open");
        let Admission::Later { retry_after_s } = state.admit(&mut tokens) else { panic!("admitted twice") };
        assert!(retry_after_s <= 10);
        state.finish_theirs();
        assert!(state.is_idle());
    }

    #[test]
    fn after_491_the_owner_of_the_call_id_waits_longer() {
        let mut tokens = Tokens::new([7; 16]);
        let mut draw = |is_owner| (0..2_000).map(|_| retry_delay(is_owner, &mut tokens)).collect::<Vec<_>>();
        let (owner, other) = (draw(true), draw(false));
        let ms = Duration::from_millis;
        assert!(owner.iter().all(|d| (ms(2_100)..=ms(4_000)).contains(d) && d.as_millis() % 10 == 0));
        assert!(other.iter().all(|d| *d <= ms(2_000) && d.as_millis() % 10 == 0));
        assert!(owner.iter().min() < Some(&ms(2_150)) && owner.iter().max() > Some(&ms(3_950)));
        assert!(other.iter().min() < Some(&ms(50)) && other.iter().max() > Some(&ms(1_950)));
    }
}
