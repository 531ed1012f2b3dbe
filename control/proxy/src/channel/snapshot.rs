//! A channel in a snapshot: its state, what it said of its session, and what is left of its clocks.
//!
//! Reliable provisional responses are not kept: a leg in set-up ends at a restart.

use std::time::Instant;

use nebula_bus::contract::{Cause, ChannelId};
use nebula_sip::session_timer::{SavedWatch, Watch};
use nebula_sip::snapshot::{Left, Resume, SnapshotError};
use nebula_sip::timers::{Repetition, SavedRepetition};
use serde::{Deserialize, Serialize};

use super::timing::{TIMERS, Timers};
use super::{Act, Change, Channel, Exchange, Report, State, Timing};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Saved {
    state: State,
    exchange: Exchange,
    change: Change,
    timers: SavedTimers,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hangup_after_ack: Option<Cause>,
    peer_takes_update: bool,
    local_sdp: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    local_sdp_offered: Option<String>,
}

/// In the order of [`TIMERS`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SavedTimers {
    at: [Option<Left>; TIMERS.len()],
    repetition: Option<SavedRepetition>,
    session: Option<SavedWatch>,
}

/// How much a step of a leg matters to a restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Weight {
    /// Not at all.
    #[default]
    Nothing,
    /// It should be known: what is repeated without it does no harm.
    Soon,
    /// It must be known.
    Now,
}

/// Where a leg stands, to be compared after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    state: State,
    change: Change,
}

/// How much a step matters. In set-up little does, for a leg in set-up ends at a restart.
pub fn weight(before: Standing, after: Standing, acts: &[Act]) -> Weight {
    let moved = match (before, after) {
        _ if before == after => Weight::Nothing,
        (_, Standing { state: State::Early | State::Ringing, .. }) => Weight::Nothing,
        _ => Weight::Now,
    };
    let of_act = |act: &Act| match act {
        Act::Repeat | Act::Tell(Report::Ringing { .. } | Report::Progress { .. }) => Weight::Nothing,
        Act::Tell(_) | Act::Hold => Weight::Now,
        Act::Reply(_) | Act::Respond(_) | Act::Send(_) if after.state.is_setup() => Weight::Nothing,
        Act::Reply(_) | Act::Respond(_) | Act::Send(_) => Weight::Soon,
    };
    acts.iter().map(of_act).fold(moved, Weight::max)
}

impl Channel {
    /// To be compared after a step.
    pub fn standing(&self) -> Standing {
        Standing { state: self.state, change: self.change }
    }

    /// Whether a re-INVITE or UPDATE of ours waits for its answer.
    pub fn awaits_change(&self) -> bool {
        matches!(self.change, Change::Ours | Change::Refresh)
    }

    /// As it is now.
    pub fn save(&self, now: Instant) -> Saved {
        Saved {
            state: self.state,
            exchange: self.exchange,
            change: self.change,
            timers: self.timers.save(now),
            hangup_after_ack: self.hangup_after_ack.clone(),
            peer_takes_update: self.peer_takes_update,
            local_sdp: self.local_sdp.clone(),
            local_sdp_offered: self.local_sdp_offered.clone(),
        }
    }

    /// Goes on where it was.
    pub fn resume(id: ChannelId, saved: Saved, timing: Timing, resume: &Resume) -> Result<Self, SnapshotError> {
        Ok(Self {
            id,
            state: saved.state,
            exchange: saved.exchange,
            change: saved.change,
            timers: Timers::resume(saved.timers, timing, resume)?,
            reliable: None,
            hangup_after_ack: saved.hangup_after_ack,
            peer_takes_update: saved.peer_takes_update,
            local_sdp: saved.local_sdp,
            local_sdp_offered: saved.local_sdp_offered,
        })
    }
}

impl Timers {
    fn save(&self, now: Instant) -> SavedTimers {
        SavedTimers {
            at: self.at.map(|at| at.map(|at| Left::of(at, now))),
            repetition: self.repetition.and_then(|repetition| repetition.save(now)),
            session: self.session.map(|watch| watch.save(now)),
        }
    }

    fn resume(saved: SavedTimers, timing: Timing, resume: &Resume) -> Result<Self, SnapshotError> {
        let repetition = saved.repetition.map(|saved| Repetition::resume(saved, timing.base, resume)).transpose()?;
        Ok(Self {
            timing,
            at: saved.at.map(|left| left.map(|left| resume.at(left))),
            repetition,
            session: saved.session.map(|saved| Watch::resume(saved, resume)),
        })
    }
}
