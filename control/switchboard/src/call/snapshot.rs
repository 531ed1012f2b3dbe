//! A call as it is kept outside of its process: small, versioned, written when what a successor must know has changed.
//!
//! Requests under way are not kept. A successor asks proxies and media agents what became of their legs and streams
//! (`call/resume.rs`), and repeats what acts once however often it is said. Neither are descriptions: only set-up needs
//! them, and a call in set-up is ended, not continued.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};

use nebula_bus::contract::{CallId, InstanceId, to_switchboard::Invite};
use nebula_bus::snapshots::{Moment, Unreadable, decode, encode};
use serde::{Deserialize, Serialize};

use super::{
    Awaited, Call, Change, Deadlines, Effect, End, Leg, LegIndex, Media, Now, State, Timing, Turn, change, resume,
};
use crate::services::Service;

/// What the snapshot of a call is called.
pub const KIND: &str = "call";
/// The version that is written.
pub const VERSION: u32 = 1;
/// The versions that are read.
const READABLE: &[u32] = &[1];

#[derive(Serialize, Deserialize)]
struct Saved<'a> {
    /// When this was written, on three clocks: monotonic times go on as they are on the same boot of the same host.
    moment: Moment,
    now: Now,
    id: Cow<'a, CallId>,
    invite: Cow<'a, Invite>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<Service>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    late_offer: bool,
    state: State,
    legs: Cow<'a, [Leg]>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    winner: Option<LegIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bridged: Option<LegIndex>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    change: Option<Change>,
    #[serde(default)]
    change_last: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reoffer_due: Option<LegIndex>,
    #[serde(default)]
    reoffers_left: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owed: Option<LegIndex>,
    started: Now,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    answered_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    callee_answered_ms: Option<u64>,
    #[serde(default)]
    deadlines: Deadlines,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    end: Option<Cow<'a, End>>,
}

impl Call {
    /// Whether a successor would be worse off without a new snapshot. True once per such change.
    pub fn snapshot_due(&mut self) -> bool {
        if self.disowned {
            return false;
        }
        let shape = self.shape();
        std::mem::replace(&mut self.kept_shape, shape) != shape
    }

    /// The call as bytes; none only for what JSON cannot hold, which it has not.
    pub fn snapshot(&self, now: Now) -> Option<Vec<u8>> {
        let saved = Saved {
            moment: Moment::now(),
            now,
            id: Cow::Borrowed(&self.id),
            invite: Cow::Borrowed(&self.invite),
            service: self.service,
            late_offer: self.late_offer,
            state: self.state,
            legs: Cow::Borrowed(&self.legs),
            winner: self.winner,
            bridged: self.bridged,
            change: self.change,
            change_last: self.change_last,
            reoffer_due: self.reoffer_due,
            reoffers_left: self.reoffers_left,
            owed: self.owed,
            started: self.started,
            answered_ms: self.answered_ms,
            callee_answered_ms: self.callee_answered_ms,
            deadlines: self.deadlines,
            end: self.end.as_ref().map(Cow::Borrowed),
        };
        encode(KIND, VERSION, &saved)
    }

    /// Takes a call up from a snapshot, with its first effects. Until its proxies have said where its legs stand
    /// ([`super::Input::Adopted`]) it is not over.
    pub fn restore(
        bytes: &[u8],
        switchboard: InstanceId,
        timing: Timing,
        now: Now,
        out: &mut Vec<Effect>,
    ) -> Result<Call, Unreadable> {
        let saved: Saved<'_> = decode(KIND, READABLE, bytes)?;
        let shift = Shift::since(&saved, now);
        let mut call = Call {
            id: saved.id.into_owned(),
            switchboard,
            timing,
            service: saved.service,
            invite: saved.invite.into_owned(),
            late_offer: saved.late_offer,
            // It was over, but for its record.
            state: if saved.state == State::Ended { State::Ending } else { saved.state },
            legs: saved.legs.into_owned(),
            awaited: Awaited::default(),
            join: None,
            winner: saved.winner,
            winner_sdp: None,
            early: None,
            bridged: saved.bridged,
            caller_sdp: None,
            reoffer: false,
            change: saved.change,
            change_last: saved.change_last,
            reoffer_due: saved.reoffer_due,
            reoffers_left: saved.reoffers_left,
            owed: saved.owed,
            asked: Vec::new(),
            rpc_last: 0,
            started: Now { monotonic_ms: shift.of(saved.started.monotonic_ms).min(now.monotonic_ms), ..saved.started },
            answered_ms: saved.answered_ms.map(|at| shift.of(at)),
            callee_answered_ms: saved.callee_answered_ms.map(|at| shift.of(at)),
            deadlines: shift.deadlines(saved.deadlines),
            end: saved.end.map(|end| End { at_ms: shift.of(end.at_ms), ..end.into_owned() }),
            filed: false,
            adoption: None,
            disowned: false,
            kept_shape: 0,
        };
        for leg in &mut call.legs {
            leg.gone_ms = leg.gone_ms.map(|at| shift.of(at));
        }
        let taken_ms = shift.of(saved.now.monotonic_ms);
        call.adoption = Some(resume::Adoption::of(&call.legs, taken_ms));
        let mut turn = Turn::of(&mut call, now, out);
        turn.resume();
        turn.settle();
        Ok(call)
    }

    /// A digest of what a successor must know. During set-up that is which legs and streams there are; of a change, how
    /// far both parties may have come; at the end, that it is the end, and the statistics.
    fn shape(&self) -> u64 {
        let mut shape = DefaultHasher::new();
        let ending = self.end.is_some();
        (self.answered_ms, self.callee_answered_ms, self.winner, ending, self.filed).hash(&mut shape);
        if !ending {
            for leg in &self.legs {
                let media = match leg.media {
                    Media::None | Media::Creating => 0,
                    Media::Open { .. } => 1,
                    Media::Closing { .. } | Media::Closed(_) => 2,
                };
                (leg.sip, media, leg.held, leg.gone_ms).hash(&mut shape);
            }
            let progress = |change: &Change| {
                use change::Step::*;
                let stage = match change.step {
                    AskerOffered | PeerOffering | PeerAsked => 0,
                    PeerAnswering | AskerAnswering => 1,
                    AskerOffering | AckAwaited | AskerAcked => 2,
                };
                (change.number, stage)
            };
            self.change.as_ref().map(progress).hash(&mut shape);
            (self.reoffer_due, self.owed, self.deadlines.dataplane).hash(&mut shape);
        }
        shape.finish()
    }
}

/// From the monotonic clock of the snapshot to ours. On the same boot of the same host it is the same clock. Elsewhere the
/// only clock that both hosts know is the wall's.
struct Shift {
    was_ms: u64,
    is_ms: u64,
}

impl Shift {
    fn since(saved: &Saved<'_>, now: Now) -> Shift {
        let was_ms = saved.now.monotonic_ms;
        if saved.moment.elapsed().is_some() {
            return Shift { was_ms, is_ms: was_ms };
        }
        let away_ms = u64::try_from(now.unix_ms - saved.now.unix_ms).unwrap_or(0);
        Shift { was_ms, is_ms: now.monotonic_ms.saturating_sub(away_ms) }
    }

    fn of(&self, at_ms: u64) -> u64 {
        if self.was_ms == self.is_ms { at_ms } else { at_ms.saturating_add(self.is_ms).saturating_sub(self.was_ms) }
    }

    fn deadlines(&self, deadlines: Deadlines) -> Deadlines {
        let Deadlines { no_answer, duration, dataplane, change, reoffer, gone, silence } = deadlines;
        let of = |at: Option<u64>| at.map(|at| self.of(at));
        Deadlines {
            no_answer: of(no_answer),
            duration: of(duration),
            dataplane: of(dataplane),
            change: of(change),
            reoffer: of(reoffer),
            gone: of(gone),
            silence: of(silence),
        }
    }
}
