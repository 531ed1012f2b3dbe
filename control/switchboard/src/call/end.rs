//! The end of a call: every leg is told, every stream closed, then the CDR is made, once.

use std::{collections::HashSet, sync::Arc};

use nebula_bus::contract::{Cause, CauseKind, EndedBy, InstanceId, StreamId, to_media::Stream, to_switchboard::Ended};

use super::{
    Asked, CALLER, Deadlines, Effect, End, Failure, Leg, LegIndex, Media, Record, Reply, Request, Sip, State, Turn,
    response,
};
use crate::cdr;

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
        let by = if self.call.answered_ms.is_some() && fell_silent { EndedBy::System } else { by };
        self.call.state = State::Ending;
        self.call.deadlines = Deadlines::default();
        self.call.join = None;
        self.call.end = Some(End { cause, by, at_ms: self.now.monotonic_ms });
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
        if self.call.filed && self.call.asked.is_empty() {
            self.call.state = State::Ended;
        }
    }

    pub(super) fn hang_up(&mut self, leg: LegIndex, cause: Cause) {
        self.tell(leg, |channel_id| Request::HangUp(Ended { channel_id, cause }));
    }

    /// Closes the stream of a leg; one still being made is closed when it is there.
    pub(super) fn close_stream(&mut self, leg: LegIndex) {
        let Some(stream_id) = self.call.leg(leg).agent().and(self.call.leg(leg).stream_id()).cloned() else { return };
        self.ask_media(leg, Asked::Destroy(leg), |stream_id| Request::Destroy(Stream { stream_id }));
        self.call.leg_mut(leg).media = Media::Closing { stream_id };
    }

    pub(super) fn destroyed(&mut self, leg: LegIndex, result: Result<Reply, Failure>) {
        let stats = match result {
            Ok(Reply::Stats(stats)) => Some(stats),
            _ => None,
        };
        self.call.leg_mut(leg).media = Media::Closed(stats);
    }

    /// Silence ends a talk, unless somebody is on hold.
    pub(super) fn stream_timeout(&mut self, stream_id: &StreamId) {
        let ours = self.call.legs.iter().any(|leg| leg.sip != Sip::Gone && leg.stream_id() == Some(stream_id));
        let held = self.call.legs.iter().any(|leg| leg.sip == Sip::Answered && leg.held);
        if ours && !held {
            self.end(response::cause(200, CauseKind::RtpTimeout, "no RTP"), EndedBy::System);
        }
    }

    /// The streams may come back: wait a little.
    pub(super) fn dataplane_lost(&mut self, media: &InstanceId) {
        if self.call.legs.iter().any(|leg| leg.agent() == Some(media)) {
            let at = self.now.monotonic_ms + self.call.timing.dataplane_grace_ms;
            self.call.deadlines.dataplane.get_or_insert(at);
        }
    }

    pub(super) fn dataplane_back(&mut self, media: &InstanceId, alive: &Arc<HashSet<StreamId>>) {
        let mut legs = self.call.legs.iter().filter(|leg| leg.agent() == Some(media)).peekable();
        if legs.peek().is_none() {
            return;
        }
        if legs.all(|leg| leg.stream_id().is_some_and(|stream_id| alive.contains(stream_id))) {
            self.call.deadlines.dataplane = None;
        } else {
            self.end(response::cause(500, CauseKind::Crash, "streams lost with the dataplane"), EndedBy::System);
        }
    }
}
