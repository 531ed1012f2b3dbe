//! Changes of an answered call: re-INVITE and UPDATE (RFC 3261 section 14, RFC 3311), hold and resume among them.
//!
//! One change at a time per call; a second is refused with 491 (14.2). The asker's offer is mirrored to the peer and the
//! peer's answer back, so directions and codecs pass through and hold needs no code of its own.
//!
//! | step (awaited) | input | what happens | next |
//! |---|---|---|---|
//! | none | re-INVITE with SDP | `RemoteOffer` on the asker | `AskerOffered` |
//! | none | re-INVITE without SDP | `LocalOffer` on the asker, mirroring the peer | `AskerOffering` |
//! | none | a wish of our own: the session no longer fits | `LocalOffer` on the peer | `PeerOffering` |
//! | `AskerOffered` | done | `LocalOffer` on the peer, mirroring the asker | `PeerOffering` |
//! | | done, in a service | `LocalAnswer` on the asker | `AskerAnswering` |
//! | `PeerOffering` | done | `channel.reinvite` to the peer | `PeerAsked` |
//! | `PeerAsked` | 2xx with SDP | `RemoteAnswer` on the peer | `PeerAnswering` |
//! | | refused, silent | roll back both, `channel.reject` to the asker | none |
//! | | refused with 491, and the wish is ours | roll back; again after a pause | none |
//! | `PeerAnswering` | done | `LocalAnswer` on the asker, mirroring the peer | `AskerAnswering` |
//! | | failed: they disagree | end the call | |
//! | `AskerAnswering` | done | `channel.answer` to the asker | none |
//! | | failed | refuse the asker, offer the peer the old session | |
//! | `AskerOffering` | done | `channel.answer` to the asker with the offer | `AckAwaited` |
//! | `AckAwaited` | ACK with SDP | `RemoteAnswer` on the asker | `AskerAcked` |
//! | | ACK without | roll back | none |
//! | `AskerAcked` | done | if the asker began or ended a hold, offer that to the peer | none |
//! | | failed | end the call | |
//!
//! A late-offer INVITE enters at `AckAwaited` once the caller was answered.

use nebula_bus::contract::{
    Cause, CauseKind, EndedBy,
    to_media::{Step as Negotiate, Update},
    to_proxy::{Answer, Reject},
};

use serde::{Deserialize, Serialize};

use super::{
    Asked, CHANGE_TIMEOUT_MS, Failure, LegIndex, REOFFER_PAUSE_MS, Reply, Request, Sip, State, Turn, response,
};

/// What a change waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// The asker's offer being taken in.
    AskerOffered,
    /// The peer's offer being made.
    PeerOffering,
    /// The peer's final response.
    PeerAsked,
    /// The peer's answer being taken in.
    PeerAnswering,
    /// The asker's answer being made.
    AskerAnswering,
    /// Our offer to the asker being made.
    AskerOffering,
    /// The asker's ACK.
    AckAwaited,
    /// The asker's answer being taken in.
    AskerAcked,
}

/// A change under way.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Change {
    /// Tells the replies of this change from those of an earlier one.
    pub number: u32,
    /// Who wants it; none for ourselves.
    pub asker: Option<LegIndex>,
    /// The other party; none in a service.
    pub peer: Option<LegIndex>,
    /// What is awaited.
    pub step: Step,
}

impl Change {
    /// The asker's transaction is open: it must be answered whatever happens.
    pub(super) fn open_for(&self) -> Option<LegIndex> {
        self.asker.filter(|_| !matches!(self.step, Step::AckAwaited | Step::AskerAcked))
    }
}

impl Turn<'_> {
    /// A phone wants a change.
    pub(super) fn reinvite(&mut self, leg: LegIndex, sdp: Option<String>) {
        match self.call.change {
            // The proxy lets one transaction through at a time: this is the same one again.
            Some(change) if change.open_for() == Some(leg) => return,
            None if self.call.state == State::Answered => {}
            _ => return self.refuse(leg, 491),
        }
        let peer = self.call.peer(leg);
        match sdp {
            Some(sdp) => {
                self.begin(Some(leg), peer, Step::AskerOffered);
                self.negotiate(leg, Negotiate::RemoteOffer { sdp });
            }
            None => {
                self.begin(Some(leg), peer, Step::AskerOffering);
                let mirror = peer.and_then(|peer| self.call.leg(peer).stream_id().cloned());
                self.negotiate(leg, Negotiate::LocalOffer { mirror });
            }
        }
    }

    /// Offers a leg the session in the image of its peer's, unasked.
    pub(super) fn reoffer(&mut self, leg: LegIndex) {
        let Some(mirror) = self.call.peer(leg) else { return };
        self.begin(None, Some(leg), Step::PeerOffering);
        self.offer(leg, mirror);
    }

    /// The same, once the last transaction is surely over.
    pub(super) fn reoffer_later(&mut self, leg: LegIndex) {
        let Some(left) = self.call.reoffers_left.checked_sub(1) else { return };
        self.call.reoffers_left = left;
        self.call.reoffer_due = Some(leg);
        self.call.deadlines.reoffer = Some(self.now.monotonic_ms + REOFFER_PAUSE_MS);
    }

    pub(super) fn reoffer_due(&mut self) {
        match self.call.reoffer_due.take() {
            Some(leg) if self.call.change.is_some() => self.reoffer_later(leg),
            Some(leg) if self.call.state == State::Answered => self.reoffer(leg),
            _ => {}
        }
    }

    /// The caller was answered with our offer.
    pub(super) fn await_ack(&mut self, leg: LegIndex) {
        self.begin(Some(leg), self.call.peer(leg), Step::AckAwaited);
        self.set_deadline();
    }

    /// A media step or the request to the peer ended.
    pub(super) fn change_done(&mut self, number: u32, step: Step, result: Result<Reply, Failure>) {
        let Some(change) = self.call.change.filter(|change| change.number == number && change.step == step) else {
            return;
        };
        match (step, result) {
            (Step::PeerAsked, Ok(_)) => {}
            (_, Ok(Reply::Negotiated(done))) => self.negotiated(change, done.sdp, done.held),
            (_, Ok(_)) => self.change_failed(change, Failure::Internal),
            (_, Err(failure)) => self.change_failed(change, failure),
        }
    }

    fn negotiated(&mut self, change: Change, sdp: Option<String>, held: bool) {
        match (change.step, change.asker, change.peer) {
            (Step::AskerOffered, Some(asker), Some(peer)) => {
                self.step(Step::PeerOffering);
                self.offer(peer, asker);
            }
            (Step::AskerOffered, Some(asker), None) => {
                self.call.leg_mut(asker).held = held;
                self.step(Step::AskerAnswering);
                self.negotiate(asker, Negotiate::LocalAnswer { mirror: None });
            }
            (Step::PeerOffering, _, Some(peer)) => {
                self.step(Step::PeerAsked);
                self.set_deadline();
                let asked = self.asked();
                self.ask_proxy(peer, asked, |channel_id| Request::Reinvite(Answer { channel_id, sdp }));
            }
            (Step::PeerAnswering, asker, Some(peer)) => {
                self.call.leg_mut(peer).held = held;
                match asker {
                    Some(asker) => {
                        self.step(Step::AskerAnswering);
                        let mirror = self.call.leg(peer).stream_id().cloned();
                        self.negotiate(asker, Negotiate::LocalAnswer { mirror });
                    }
                    None => self.finish_change(),
                }
            }
            (Step::AskerAnswering, Some(asker), _) => {
                // By now `held` speaks of the offer that was just agreed to.
                self.call.leg_mut(asker).held = held;
                self.finish_change();
                self.answer(asker, sdp);
            }
            (Step::AskerOffering, Some(asker), _) => {
                self.step(Step::AckAwaited);
                self.set_deadline();
                self.answer(asker, sdp);
            }
            (Step::AskerAcked, Some(asker), peer) => {
                let leg = self.call.leg_mut(asker);
                let hold_changed = std::mem::replace(&mut leg.held, held) != held;
                leg.agreed = true;
                self.finish_change();
                if let Some(peer) = peer.filter(|_| hold_changed) {
                    self.reoffer(peer);
                }
            }
            _ => self.change_failed(change, Failure::Internal),
        }
    }

    fn change_failed(&mut self, change: Change, failure: Failure) {
        match (change.step, change.asker) {
            // Somebody was away for a moment, which ends no call: the party that holds an answer is offered the session anew.
            (Step::PeerAnswering, _) if failure.is_transient() => {
                self.undo(change, 503);
                self.sync_later(change.peer);
            }
            (Step::AskerAcked, Some(asker)) if failure.is_transient() && self.call.leg(asker).agreed => {
                self.undo(change, 503);
                self.sync_later(Some(asker));
            }
            // The offer is our own wish, which remains.
            (Step::PeerOffering | Step::PeerAsked, None) if failure.is_transient() => {
                self.undo(change, 503);
                self.sync_later(change.peer);
            }
            // A party holds an answer that we could not take: there is no session both agree on.
            (Step::PeerAnswering | Step::AskerAcked, _) => self.end(failure.cause(), EndedBy::System),
            (Step::AskerAnswering, Some(asker)) => {
                self.finish_change();
                self.roll_back(asker);
                self.refuse(asker, response::caller_code(&failure.cause()));
                if let Some(peer) = change.peer {
                    self.reoffer(peer);
                }
            }
            _ => self.undo(change, response::caller_code(&failure.cause())),
        }
    }

    /// 2xx from the peer.
    pub(super) fn change_answered(&mut self, leg: LegIndex, sdp: Option<String>) {
        let Some(change) = self.peer_asked(leg) else {
            if self.call.owed.take_if(|owed| *owed == leg).is_some() {
                self.reoffer_later(leg);
            }
            return;
        };
        let Some(sdp) = sdp else { return self.undo(change, 488) };
        self.step(Step::PeerAnswering);
        self.negotiate(leg, Negotiate::RemoteAnswer { sdp });
    }

    /// A refusal from the peer: the old session stays (RFC 3264 section 8).
    pub(super) fn change_refused(&mut self, leg: LegIndex, cause: &Cause) {
        let Some(change) = self.peer_asked(leg) else {
            self.call.owed.take_if(|owed| *owed == leg);
            return;
        };
        self.undo(change, response::caller_code(cause));
        if change.asker.is_none() && cause.sip_code == 491 {
            self.reoffer_later(leg);
        }
    }

    /// The ACK to our offer.
    pub(super) fn change_acked(&mut self, leg: LegIndex, sdp: Option<String>) {
        let Some(change) = self.call.change.filter(|c| c.step == Step::AckAwaited && c.asker == Some(leg)) else {
            return;
        };
        match sdp {
            Some(sdp) => {
                self.step(Step::AskerAcked);
                self.negotiate(leg, Negotiate::RemoteAnswer { sdp });
            }
            None if self.call.leg(leg).agreed => self.undo(change, 488),
            None => self.end(response::cause(488, CauseKind::Incompatible, "ACK without SDP"), EndedBy::System),
        }
    }

    pub(super) fn change_timeout(&mut self) {
        match self.call.change {
            Some(change) if change.step == Step::PeerAsked => {
                self.call.owed = change.peer;
                self.undo(change, 408);
            }
            Some(change) if change.step == Step::AckAwaited => {
                self.end(response::cause(408, CauseKind::Network, "no ACK"), EndedBy::System);
            }
            _ => {}
        }
    }

    /// The call ends with a change under way: its asker is answered first.
    pub(super) fn drop_change(&mut self) {
        let asker = self.call.change.take().and_then(|change| change.open_for());
        if let Some(asker) = asker.filter(|asker| self.call.leg(*asker).sip != Sip::Gone) {
            self.refuse(asker, 487);
        }
    }

    /// Both sides back to the old session, and a refusal to the asker if it waits for one.
    fn undo(&mut self, change: Change, sip_code: u16) {
        self.finish_change();
        let touched = match change.step {
            Step::PeerOffering | Step::PeerAsked | Step::PeerAnswering => change.peer,
            _ => None,
        };
        for leg in change.asker.into_iter().chain(touched) {
            self.roll_back(leg);
        }
        if let Some(asker) = change.open_for() {
            self.refuse(asker, sip_code);
        }
    }

    /// What a snapshot knew of a change: how far it came is not known, so both go back, and a party that may have gone
    /// further is offered the session anew.
    pub(super) fn undo_unknown(&mut self, change: Change) {
        self.finish_change();
        for leg in change.asker.into_iter().chain(change.peer) {
            self.roll_back(leg);
        }
        if let Some(asker) = change.open_for() {
            self.refuse(asker, 500);
        }
        match change.step {
            Step::AskerOffered | Step::PeerOffering | Step::PeerAsked => self.call.owed = change.peer,
            Step::PeerAnswering | Step::AskerAnswering => self.sync_later(change.peer),
            Step::AskerOffering | Step::AckAwaited | Step::AskerAcked => self.sync_later(change.asker),
        }
    }

    /// The 200 to a re-INVITE did not go out. If the leg is there, its session and its peer's differ now.
    pub(super) fn answer_change_failed(&mut self, leg: LegIndex, failure: Failure) {
        match failure {
            Failure::Unknown => self.end(failure.cause(), EndedBy::System),
            _ => {
                let offered = |change: &Change| change.step == Step::AckAwaited && change.asker == Some(leg);
                if let Some(change) = self.call.change.filter(offered) {
                    self.undo(change, 500);
                }
                self.sync_later(Some(leg));
            }
        }
    }

    /// Offers a leg the session anew after a pause; a service has no peer whose session it could be.
    fn sync_later(&mut self, leg: Option<LegIndex>) {
        if let Some(leg) = leg.filter(|leg| self.call.peer(*leg).is_some()) {
            self.reoffer_later(leg);
        }
    }

    fn peer_asked(&self, leg: LegIndex) -> Option<Change> {
        self.call.change.filter(|change| change.step == Step::PeerAsked && change.peer == Some(leg))
    }

    fn begin(&mut self, asker: Option<LegIndex>, peer: Option<LegIndex>, step: Step) {
        self.call.change_last += 1;
        self.call.change = Some(Change { number: self.call.change_last, asker, peer, step });
    }

    fn step(&mut self, step: Step) {
        self.call.deadlines.change = None;
        if let Some(change) = &mut self.call.change {
            change.step = step;
        }
    }

    fn set_deadline(&mut self) {
        self.call.deadlines.change = Some(self.now.monotonic_ms + CHANGE_TIMEOUT_MS);
    }

    fn finish_change(&mut self) {
        self.call.deadlines.change = None;
        self.call.change = None;
    }

    fn asked(&self) -> Asked {
        self.call.change.map_or(Asked::Tell, |change| Asked::Change { number: change.number, step: change.step })
    }

    fn offer(&mut self, to: LegIndex, like: LegIndex) {
        let mirror = self.call.leg(like).stream_id().cloned();
        self.negotiate(to, Negotiate::LocalOffer { mirror });
    }

    fn negotiate(&mut self, leg: LegIndex, step: Negotiate) {
        self.update(leg, self.asked(), step);
    }

    fn roll_back(&mut self, leg: LegIndex) {
        if self.call.leg(leg).agent().is_none() {
            return;
        }
        let step = Negotiate::Rollback;
        self.ask_media(leg, Asked::Tell, |stream_id| Request::Update(Update { stream_id, step }));
    }

    fn answer(&mut self, leg: LegIndex, sdp: Option<String>) {
        self.ask_proxy(leg, Asked::AnswerChange(leg), |channel_id| Request::Answer(Answer { channel_id, sdp }));
    }

    pub(super) fn refuse(&mut self, leg: LegIndex, sip_code: u16) {
        let retry_after_s = (sip_code == 503).then_some(super::RETRY_AFTER_S);
        self.tell(leg, |channel_id| Request::Reject(Reject { channel_id, sip_code, reason: None, retry_after_s }));
    }
}
