//! The end of a call: every leg is told, every stream closed, then the CDR is made, once.

use std::collections::HashSet;

use nebula_bus::contract::{Cause, CauseKind, EndedBy, InstanceId, StreamId, to_media::Stream, to_switchboard::Ended};

use super::{
    Asked, CALLER, Deadlines, Effect, End, Failure, Leg, LegIndex, Media, Record, Reply, Request, Sip, State, Turn,
    response,
};
use crate::cdr;

/// Silence ends a call so much later than it is told: a proxy that could not report tries again within a second.
const SILENCE_MS: u64 = 2_000;

impl Turn<'_> {
    /// A party left: BYE, CANCEL, refusal, timeout.
    pub(super) fn left(&mut self, leg: LegIndex, cause: Cause) {
        if leg == CALLER {
            let caller = self.call.leg_mut(CALLER);
            caller.sip = Sip::Gone;
            caller.ended = Some(cause.clone());
            self.end(cause, EndedBy::Caller);
        } else {
            self.fork_failed(leg, cause);
        }
    }

    /// A proxy could not dial. If it merely did not say so, the phone may be ringing.
    pub(super) fn dial_failed(&mut self, leg: LegIndex, failure: Failure) {
        if self.call.leg(leg).sip != Sip::Inviting {
            return;
        }
        if failure == Failure::Unavailable {
            self.hang_up(leg, failure.cause());
        }
        self.fork_failed(leg, failure.cause());
    }

    /// Ends the call: every leg that lives is refused or hung up, every stream closed.
    pub(super) fn end(&mut self, cause: Cause, by: EndedBy) {
        if self.call.end.is_some() {
            return;
        }
        self.drop_change();
        for index in (0..self.call.legs.len()).map(LegIndex::from) {
            match self.call.leg(index).sip {
                Sip::Inviting if index == CALLER => self.refuse(CALLER, response::caller_code(&cause)),
                Sip::Inviting | Sip::Answered => self.hang_up(index, cause.clone()),
                Sip::Idle | Sip::Gone => {}
            }
            let leg = self.call.leg_mut(index);
            leg.sip = Sip::Gone;
            leg.ended.get_or_insert_with(|| cause.clone());
            self.close_stream(index);
        }
        // A party of an answered call leaves by BYE. One that merely falls silent has not hung up: our timers ended it.
        let fell_silent = matches!(cause.kind, CauseKind::Network | CauseKind::SessionTimer);
        let crashed = cause.kind == CauseKind::Crash;
        let by = if crashed || self.call.answered_ms.is_some() && fell_silent { EndedBy::System } else { by };
        self.call.state = State::Ending;
        self.call.deadlines = Deadlines::default();
        self.call.join = None;
        let seen_ms = self.call.legs.iter().filter_map(|leg| leg.gone_ms).min();
        let at_ms = seen_ms.map_or(self.happened_ms, |seen_ms| seen_ms.min(self.happened_ms));
        self.call.end = Some(End { cause, by, at_ms: at_ms.max(self.call.answered_ms.unwrap_or(0)) });
    }

    /// Files the CDR when the last stream is closed, and ends when nothing is under way any more. Every RPC has a
    /// deadline, so both come to pass even if a role is gone.
    pub(super) fn settle(&mut self) {
        if self.call.state != State::Ending {
            return;
        }
        let closed = |leg: &Leg| matches!(leg.media, Media::None | Media::Closed(_));
        if !self.call.filed && self.call.legs.iter().all(closed) {
            self.call.filed = true;
            if let Some(cdr) = cdr::of(self.call) {
                self.out.push(Effect::Record(Record::Ended(Box::new(cdr))));
            }
        }
        if self.call.filed && self.call.asked.is_empty() && self.call.adoption.is_none() {
            self.call.state = State::Ended;
        }
    }

    pub(super) fn hang_up(&mut self, leg: LegIndex, cause: Cause) {
        self.tell(leg, |channel_id| Request::HangUp(Ended { channel_id, cause }));
    }

    /// Closes the stream of a leg; one still being made is closed when it is there.
    pub(super) fn close_stream(&mut self, leg: LegIndex) {
        let Media::Open { stream_id, media } = self.call.leg(leg).media.clone() else { return };
        self.ask_media(leg, Asked::Destroy(leg), |stream_id| Request::Destroy(Stream { stream_id }));
        self.call.leg_mut(leg).media = Media::Closing { stream_id, media };
    }

    pub(super) fn destroyed(&mut self, leg: LegIndex, result: Result<Reply, Failure>) {
        if !matches!(self.call.leg(leg).media, Media::Closing { .. }) {
            // Its agent was given up meanwhile.
            return;
        }
        let stats = match result {
            Ok(Reply::Stats(stats)) => Some(stats),
            _ => None,
        };
        self.call.leg_mut(leg).media = Media::Closed(stats);
    }

    /// Silence ends a talk, unless somebody is on hold. A party that hung up while its proxy could not tell us is silent, too:
    /// its report is waited for, so that the record has its end.
    pub(super) fn stream_timeout(&mut self, stream_id: &StreamId) {
        let ours = self.call.legs.iter().any(|leg| leg.sip != Sip::Gone && leg.stream_id() == Some(stream_id));
        if ours && !self.is_held() {
            self.call.deadlines.silence.get_or_insert(self.now.monotonic_ms + SILENCE_MS);
        }
    }

    pub(super) fn silence_lasted(&mut self) {
        if !self.is_held() {
            self.happened_ms = self.happened_ms.saturating_sub(SILENCE_MS).max(self.call.started.monotonic_ms);
            self.end(response::cause(200, CauseKind::RtpTimeout, "no RTP"), EndedBy::System);
        }
    }

    fn is_held(&self) -> bool {
        self.call.legs.iter().any(|leg| leg.sip == Sip::Answered && leg.held)
    }

    /// Somebody else runs this call: nothing of it is ours to end or to record.
    pub(super) fn disown(&mut self) {
        let call = &mut *self.call;
        (call.state, call.disowned, call.filed) = (State::Ended, true, true);
        call.deadlines = Deadlines::default();
        call.asked.clear();
        call.adoption = None;
        self.out.clear();
    }

    /// A proxy is lost with its legs: nobody can be told.
    pub(super) fn proxy_gone(&mut self, proxy: &InstanceId) {
        let cause = response::cause(503, CauseKind::Crash, "the proxy is gone");
        for index in (0..self.call.legs.len()).map(LegIndex::from) {
            if self.call.leg(index).proxy != *proxy {
                continue;
            }
            self.phase_known(index);
            if self.call.end.is_none() && !matches!(self.call.leg(index).sip, Sip::Gone) {
                self.left(index, cause.clone());
            }
        }
        self.adoption_progress();
    }

    /// A media agent is lost. What its streams have seen is lost with it.
    pub(super) fn media_gone(&mut self, media: &InstanceId) {
        let mut lost = false;
        for index in (0..self.call.legs.len()).map(LegIndex::from) {
            let leg = self.call.leg_mut(index);
            match &leg.media {
                Media::Open { media: of, .. } if of == media => lost |= leg.sip != Sip::Gone,
                Media::Closing { media: of, .. } if of == media => {}
                _ => continue,
            }
            leg.media = Media::Closed(None);
        }
        if lost {
            self.end(response::cause(503, CauseKind::Crash, "the media agent is gone"), EndedBy::System);
        }
    }

    /// The streams may come back: wait a little.
    pub(super) fn dataplane_lost(&mut self, media: &InstanceId) {
        if self.call.legs.iter().any(|leg| leg.agent() == Some(media)) {
            let at = self.now.monotonic_ms + self.call.timing.dataplane_grace_ms;
            self.call.deadlines.dataplane.get_or_insert(at);
        }
    }

    pub(super) fn dataplane_back(&mut self, media: &InstanceId, alive: &HashSet<StreamId>) {
        match self.all_alive(media, alive) {
            None => {}
            Some(true) => self.call.deadlines.dataplane = None,
            Some(false) => {
                self.end(response::cause(500, CauseKind::Crash, "streams lost with the dataplane"), EndedBy::System);
            }
        }
    }

    /// Whether all of the call's streams at this agent are among these; none if it has none there.
    pub(super) fn all_alive(&self, media: &InstanceId, alive: &HashSet<StreamId>) -> Option<bool> {
        let mut legs = self.call.legs.iter().filter(|leg| leg.agent() == Some(media)).peekable();
        legs.peek()?;
        Some(legs.all(|leg| leg.stream_id().is_some_and(|stream_id| alive.contains(stream_id))))
    }
}
