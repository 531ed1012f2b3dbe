//! A call that was taken up from its snapshot: what its proxies and media agents say of it, and what is repaired.
//!
//! | it was | its legs say | what happens |
//! |---|---|---|
//! | in set-up | the caller waits | 503 to the caller, CANCEL or BYE to the forks, a record of cause `crash` |
//! | in set-up | the caller and one fork talk | the last snapshot was late by a moment: it is answered |
//! | answered | they talk | it lives on; an open change is undone and refused |
//! | answered | one has gone | its report is on its way; without one it ends after a moment |
//! | ending | any is still there | told again; streams are closed again, the record is written again |
//!
//! Whatever is told twice acts once: a hang-up by its nature, a record by the call's id.

use std::collections::HashSet;

use nebula_bus::contract::{CauseKind, ChannelId, EndedBy, InstanceId, StreamId, to_proxy::Phase};

use super::{CALLER, Effect, Leg, LegIndex, Media, Record, Sip, State, Turn, response};

/// The report of a leg that its proxy no longer has may be so much later than that news.
const REPORT_LATE_MS: u64 = 1_000;

/// What is still to be heard of a call's legs.
#[derive(Debug, Clone)]
pub(crate) struct Adoption {
    /// Not heard of yet.
    awaited: Vec<LegIndex>,
    /// Answered.
    answered: Vec<LegIndex>,
    /// When the snapshot was taken.
    taken_ms: u64,
}

impl Adoption {
    pub(super) fn of(legs: &[Leg], taken_ms: u64) -> Adoption {
        Adoption { awaited: (0..legs.len()).map(LegIndex::from).collect(), answered: Vec::new(), taken_ms }
    }
}

impl Turn<'_> {
    /// What can be repaired before anybody was heard.
    pub(super) fn resume(&mut self) {
        let over = self.call.end.is_some();
        for index in (0..self.call.legs.len()).map(LegIndex::from) {
            let leg = self.call.leg_mut(index);
            match std::mem::replace(&mut leg.media, Media::None) {
                // Whether it was made is not known. Its agent closes what nobody claims.
                Media::Creating => leg.media = Media::Closed(None),
                Media::Closing { stream_id, media } => {
                    leg.media = Media::Open { stream_id, media };
                    self.close_stream(index);
                }
                open if over => {
                    leg.media = open;
                    self.close_stream(index);
                }
                other => leg.media = other,
            }
        }
        if self.call.state == State::Answered {
            self.record_answer();
            if let Some(change) = self.call.change {
                self.undo_unknown(change);
            }
        }
    }

    /// A proxy says where legs of this call stand.
    pub(super) fn adopted(&mut self, channels: &[(ChannelId, Phase)]) {
        if self.call.state == State::Ended {
            return;
        }
        for (channel_id, phase) in channels {
            let Some(leg) = self.call.find_leg(channel_id) else { continue };
            self.stands(leg, *phase);
            self.phase_known(leg);
        }
        self.adoption_progress();
    }

    fn stands(&mut self, leg: LegIndex, phase: Phase) {
        if let (Some(adoption), Phase::Answered) = (&mut self.call.adoption, phase) {
            adoption.answered.push(leg);
        }
        match (self.call.leg(leg).sip, phase) {
            (Sip::Gone | Sip::Idle, Phase::Gone) => {}
            // It was told to end, and did not hear it.
            (Sip::Gone, _) => {
                let end = self.call.end.as_ref().map(|end| end.cause.clone());
                let mut cause = end.unwrap_or_else(response::elsewhere);
                if leg == CALLER && phase == Phase::Early {
                    cause.sip_code = response::caller_code(&cause);
                }
                self.hang_up(leg, cause);
            }
            // Dialled after the snapshot.
            (Sip::Idle, _) => self.call.leg_mut(leg).sip = Sip::Inviting,
            (Sip::Inviting | Sip::Answered, Phase::Gone) => {
                let now_ms = self.now.monotonic_ms;
                self.call.leg_mut(leg).gone_ms.get_or_insert(now_ms);
                self.call.deadlines.gone.get_or_insert(now_ms + REPORT_LATE_MS);
            }
            (Sip::Inviting | Sip::Answered, _) => {}
        }
    }

    /// Its proxy does not know a leg: it died before it kept it, or has told of its end.
    pub(super) fn leg_unknown(&mut self, leg: LegIndex) {
        self.stands(leg, Phase::Gone);
    }

    /// Legs that ended while nobody listened, and whose report has not come.
    pub(super) fn gone_unseen(&mut self) {
        for index in (0..self.call.legs.len()).map(LegIndex::from) {
            let leg = self.call.leg(index);
            if leg.gone_ms.is_some() && leg.sip != Sip::Gone && self.call.end.is_none() {
                let cause = response::cause(500, CauseKind::Crash, "ended while nobody listened");
                // In case it is there after all: what is gone needs no end.
                self.hang_up(index, cause.clone());
                self.left(index, cause);
            }
        }
    }

    pub(super) fn phase_known(&mut self, leg: LegIndex) {
        if let Some(adoption) = &mut self.call.adoption {
            adoption.awaited.retain(|awaited| *awaited != leg);
        }
    }

    /// Goes on once enough is known: of a call in set-up whose caller was not answered, that alone.
    pub(super) fn adoption_progress(&mut self) {
        let Some(adoption) = &self.call.adoption else { return };
        let in_setup = matches!(self.call.state, State::Routing | State::Dialling | State::Ringing | State::Answering);
        let caller_waits = !adoption.awaited.contains(&CALLER) && !adoption.answered.contains(&CALLER);
        let enough = adoption.awaited.is_empty() || in_setup && caller_waits;
        if !enough {
            return;
        }
        let Some(adoption) = self.call.adoption.take() else { return };
        if in_setup && !self.was_answered(&adoption) {
            for leg in adoption.answered {
                self.call.leg_mut(leg).sip = Sip::Answered;
            }
            let cause = response::cause(503, CauseKind::Crash, "the switchboard died before the answer");
            self.end(cause, EndedBy::System);
        }
    }

    /// A call that the snapshot has in set-up was answered if the caller was, and exactly one fork. The answer is known to
    /// the moment of the callee's 2xx, or to that of the snapshot, which is a few milliseconds old.
    fn was_answered(&mut self, adoption: &Adoption) -> bool {
        let answered = |leg: &LegIndex| adoption.answered.contains(leg) && self.call.leg(*leg).agent().is_some();
        let mut forks = self.call.forks().filter(answered);
        let (winner, second) = (forks.next(), forks.next());
        let talks = winner.is_some() != self.call.service.is_some() && second.is_none();
        if !talks || !answered(&CALLER) || self.call.late_offer {
            return false;
        }
        let call = &mut *self.call;
        let at_ms = call.callee_answered_ms.unwrap_or(adoption.taken_ms);
        call.state = State::Answered;
        call.winner = winner;
        call.answered_ms = Some(at_ms);
        call.deadlines.no_answer = None;
        call.deadlines.duration = Some(at_ms + call.timing.duration_ms_max);
        for leg in [Some(CALLER), winner].into_iter().flatten() {
            let leg = call.leg_mut(leg);
            (leg.sip, leg.agreed) = (Sip::Answered, true);
        }
        for loser in self.call.forks().filter(|fork| Some(*fork) != winner) {
            self.drop_fork(loser);
        }
        if let Some(winner) = winner {
            self.call.bridged = None;
            self.bridge(winner);
        }
        self.record_answer();
        true
    }

    /// A media agent says which streams it has.
    pub(super) fn streams_adopted(&mut self, media: &InstanceId, alive: &HashSet<StreamId>) {
        match self.all_alive(media, alive) {
            Some(true) => self.call.deadlines.dataplane = None,
            Some(false) => self.dataplane_lost(media),
            None => {}
        }
    }

    fn record_answer(&mut self) {
        if let Some(at_ms) = self.call.answered_ms {
            let at_unix_ms = self.call.unix_ms(at_ms);
            self.out.push(Effect::Record(Record::Answered { at_unix_ms }));
        }
    }
}
