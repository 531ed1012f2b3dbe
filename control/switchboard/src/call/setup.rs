//! From INVITE to 200: routing, forking, early media, the answer. The states before `Answered` in the call's table.
//!
//! Media is joined one fork at a time: the fork's answer is applied to its stream, then (at once) the two streams are
//! bridged and the caller's answer is made in the image of the fork's. A fork that answers while another's early media
//! is being joined waits for that join, because a stream holds one exchange at a time.

use nebula_bus::contract::{
    Cause, CauseKind, ChannelId, EndedBy, Party,
    to_media::{Bridge, Create, Step, Update},
    to_proxy::{Answer, Channel, Dial, Progress},
};

use super::{
    Asked, CALLER, Effect, FORKS_MAX, Failure, Join, Leg, LegIndex, Media, Record, Reply, Request, Route, Sip, State,
    To, Turn, response,
};

impl Turn<'_> {
    /// The first effects; everything that needs nothing else, at once.
    pub(super) fn start(&mut self, offer: Option<String>) {
        self.out.push(Effect::Record(Record::Started));
        if self.call.service.is_none() {
            self.out.push(Effect::Locate);
        } else {
            self.call.awaited.routes = Some(Vec::new());
        }
        let step = match offer {
            Some(sdp) => Step::RemoteOffer { sdp },
            // To the callee we offer all we can as well; what the caller is offered is made anew in the image of the
            // callee's answer, so this exchange only fixes agent and worker. A service offers it as it is.
            None => Step::LocalOffer { mirror: None },
        };
        let source = Some(self.call.invite.source.clone());
        self.create_stream(CALLER, step, source);
    }

    pub(super) fn recorded(&mut self, result: Result<(), Failure>) {
        match result {
            Ok(()) => {
                self.call.awaited.recorded = true;
                self.route();
            }
            Err(failure) => self.end(failure.cause(), EndedBy::System),
        }
    }

    pub(super) fn located(&mut self, result: Result<Vec<Route>, Failure>) {
        match result {
            Ok(routes) if routes.is_empty() => {
                self.end(response::cause(480, CauseKind::Unreachable, "not registered"), EndedBy::System);
            }
            Ok(routes) => {
                self.call.awaited.routes = Some(routes);
                self.route();
            }
            Err(failure) => self.end(failure.cause(), EndedBy::System),
        }
    }

    /// `stream.create` ended, in whatever state: a stream nobody waits for any more is closed at once.
    pub(super) fn created(&mut self, leg: LegIndex, result: Result<Reply, Failure>) {
        let made = match result {
            Ok(Reply::Created(created)) => Ok(created),
            Ok(_) => Err(Failure::Internal),
            Err(failure) => Err(failure),
        };
        match made {
            Ok(created) => {
                let sdp = created.sdp;
                self.call.leg_mut(leg).media = Media::Open { stream_id: created.stream_id, media: created.media };
                if self.call.leg(leg).sip == Sip::Gone {
                    self.close_stream(leg);
                } else if leg == CALLER {
                    self.call.caller_sdp = sdp;
                    self.route();
                } else {
                    self.dial(leg, sdp);
                }
            }
            Err(failure) => {
                self.call.leg_mut(leg).media = Media::Closed(None);
                if self.call.end.is_some() {
                } else if leg == CALLER {
                    self.end(failure.cause(), EndedBy::System);
                } else {
                    self.fork_failed(leg, failure.cause());
                }
            }
        }
    }

    /// Goes on once the row, the caller's stream and the bindings are there.
    fn route(&mut self) {
        if self.call.state != State::Routing
            || !self.call.awaited.recorded
            || !matches!(self.call.leg(CALLER).media, Media::Open { .. })
        {
            return;
        }
        let Some(mut routes) = self.call.awaited.routes.take() else { return };
        if self.call.service.is_some() {
            return self.serve();
        }
        routes.truncate(FORKS_MAX);
        self.call.state = State::Dialling;
        self.call.deadlines.no_answer = Some(self.now.monotonic_ms + self.call.timing.no_answer_ms);
        let mirror = if self.call.late_offer { None } else { self.call.leg(CALLER).stream_id().cloned() };
        for Route { proxy, destination } in routes {
            let leg = LegIndex::from(self.call.legs.len());
            let channel_id = ChannelId(format!("{}-{}", self.call.id, leg.0));
            let source = Some(destination.address.clone()).filter(|address| !address.is_empty());
            self.call.legs.push(Leg::fork(channel_id, proxy, destination));
            self.create_stream(leg, Step::LocalOffer { mirror: mirror.clone() }, source);
        }
    }

    /// Answers the caller from a service: as we ourselves can, or with our offer.
    fn serve(&mut self) {
        if self.call.late_offer {
            return self.answer_caller();
        }
        self.call.state = State::Answering;
        self.update(CALLER, Asked::JoinCaller(CALLER), Step::LocalAnswer { mirror: None });
    }

    fn dial(&mut self, leg: LegIndex, sdp: Option<String>) {
        let call = &mut *self.call;
        let fork = &mut call.legs[leg.0 as usize];
        let Some(destination) = fork.destination.clone() else { return };
        fork.sip = Sip::Inviting;
        let dial = Dial {
            channel_id: fork.channel_id.clone(),
            call_id: call.id.clone(),
            switchboard: call.switchboard.clone(),
            from: call.invite.from.clone(),
            to: Party { user: call.invite.to.clone(), display: None },
            destination,
            sdp,
            max_forwards: call.invite.max_forwards,
        };
        self.ask_proxy(leg, Asked::Dial(leg), |_| Request::Dial(Box::new(dial)));
    }

    pub(super) fn provisional(&mut self, leg: LegIndex, sip_code: u16, sdp: Option<String>) {
        let early = sdp.filter(|_| !self.call.late_offer && self.call.join.is_none() && self.call.early.is_none());
        match early {
            Some(sdp) => {
                self.call.join = Some(Join { leg, progress: Some(sip_code) });
                self.apply_answer(leg, sdp);
            }
            None if self.call.state == State::Dialling => {
                self.call.state = State::Ringing;
                self.tell(CALLER, |channel_id| Request::Ring(Channel { channel_id }));
            }
            None => {}
        }
    }

    /// The first 2xx wins; the other forks are hung up.
    pub(super) fn fork_answered(&mut self, leg: LegIndex, sdp: Option<String>) {
        self.call.state = State::Answering;
        self.call.deadlines.no_answer = None;
        self.call.callee_answered_ms = Some(self.happened_ms);
        self.call.winner = Some(leg);
        self.call.winner_sdp = sdp;
        self.call.leg_mut(leg).sip = Sip::Answered;
        for other in self.call.forks().filter(|other| *other != leg) {
            self.drop_fork(other);
        }
        if self.call.join.is_none() {
            self.join_winner(leg);
        }
    }

    /// Joins for good. A 2xx that repeats the early answer needs no new exchange; one that differs (another fork
    /// downstream of that binding answered) replaces it.
    fn join_winner(&mut self, leg: LegIndex) {
        let new = self.call.winner_sdp.take();
        let known = self.call.leg(leg).remote_sdp.as_deref();
        match new {
            None if known.is_none() => {
                self.end(response::cause(488, CauseKind::Incompatible, "answered without SDP"), EndedBy::System);
            }
            Some(sdp) if known != Some(&*sdp) => {
                self.call.reoffer = known.is_some();
                self.call.join = Some(Join { leg, progress: None });
                self.apply_answer(leg, sdp);
            }
            _ => {
                // Bridged again, so that the media plane waits for both phones from now on, not from their early media.
                self.call.bridged = None;
                self.join_caller(leg, None);
            }
        }
    }

    fn apply_answer(&mut self, leg: LegIndex, sdp: String) {
        self.call.leg_mut(leg).remote_sdp = Some(sdp.clone());
        self.update(leg, Asked::JoinRemote(leg), Step::RemoteAnswer { sdp });
    }

    /// The fork's answer is applied, or does not fit.
    pub(super) fn join_remote_done(&mut self, leg: LegIndex, result: Result<Reply, Failure>) {
        let Some(join) = self.call.join.take_if(|join| join.leg == leg) else { return };
        let taken_over = self.call.winner.is_some_and(|winner| winner != leg);
        match result {
            Ok(Reply::Negotiated(negotiated)) => {
                let fork = self.call.leg_mut(leg);
                fork.held = negotiated.held;
                fork.agreed = true;
                if fork.sip != Sip::Gone && !taken_over {
                    return self.join_caller(leg, join.progress);
                }
            }
            Ok(_) => self.call.leg_mut(leg).remote_sdp = None,
            Err(failure) => {
                self.call.leg_mut(leg).remote_sdp = None;
                if join.progress.is_none() {
                    return self.end(failure.cause(), EndedBy::System);
                }
            }
        }
        self.join_waiting();
    }

    /// Bridges the two and makes the caller's side of the session, unless an early answer has fixed it already.
    fn join_caller(&mut self, leg: LegIndex, progress: Option<u16>) {
        self.bridge(leg);
        if self.call.early.is_some() {
            self.call.reoffer |= self.call.early != Some(leg);
            return self.answer_caller();
        }
        self.call.join = Some(Join { leg, progress });
        let mirror = self.call.leg(leg).stream_id().cloned();
        let step = if self.call.late_offer { Step::LocalOffer { mirror } } else { Step::LocalAnswer { mirror } };
        self.update(CALLER, Asked::JoinCaller(leg), step);
    }

    /// The caller's side is made.
    pub(super) fn join_caller_done(&mut self, leg: LegIndex, result: Result<Reply, Failure>) {
        let progress = self.call.join.take_if(|join| join.leg == leg).and_then(|join| join.progress);
        match result {
            Ok(Reply::Negotiated(negotiated)) => {
                self.call.caller_sdp = negotiated.sdp;
                if !self.call.late_offer {
                    let caller = self.call.leg_mut(CALLER);
                    caller.agreed = true;
                    caller.held = negotiated.held;
                    // Whatever becomes of this fork: the caller's exchange is done, and this is its answer.
                    self.call.early = Some(leg);
                }
                if self.call.winner.is_some_and(|winner| winner == leg) || leg == CALLER {
                    return self.finish(leg);
                }
                self.call.state = match (self.call.state, progress) {
                    (State::Dialling | State::Ringing, Some(sip_code)) if self.call.leg(leg).sip != Sip::Gone => {
                        self.progress(sip_code);
                        State::Ringing
                    }
                    (state, _) => state,
                };
            }
            Ok(_) => return self.end(Failure::Internal.cause(), EndedBy::System),
            Err(failure) if progress.is_none() => return self.end(failure.cause(), EndedBy::System),
            Err(_) => {}
        }
        self.join_waiting();
    }

    /// The joined fork is the one that answered, by a 2xx that came meanwhile or before.
    fn finish(&mut self, leg: LegIndex) {
        match self.call.winner_sdp.is_some() {
            true => self.join_winner(leg),
            false => self.answer_caller(),
        }
    }

    /// A join is over; a fork that answered meanwhile is next.
    fn join_waiting(&mut self) {
        if let (State::Answering, Some(winner)) = (self.call.state, self.call.winner) {
            self.join_winner(winner);
        }
    }

    fn progress(&mut self, sip_code: u16) {
        // 180 with SDP stays 180; what we do not know becomes 183.
        let sip_code = if matches!(sip_code, 180..=199) { sip_code } else { 183 };
        let sdp = self.call.caller_sdp.clone();
        self.tell(CALLER, |channel_id| Request::Progress(Progress { channel_id, sip_code, sdp }));
    }

    /// 200 to the caller: the call is answered, as of the callee's 2xx.
    fn answer_caller(&mut self) {
        let call = &mut *self.call;
        let at_ms = call.callee_answered_ms.unwrap_or(self.now.monotonic_ms);
        call.state = State::Answered;
        call.answered_ms = Some(at_ms);
        call.deadlines.no_answer = None;
        call.deadlines.duration = Some(at_ms + call.timing.duration_ms_max);
        call.leg_mut(CALLER).sip = Sip::Answered;
        // What set-up needed is not kept for the hours of a talk.
        let sdp = call.caller_sdp.take();
        call.legs.iter_mut().for_each(|leg| leg.remote_sdp = None);
        let at_unix_ms = call.unix_ms(at_ms);
        self.ask_proxy(CALLER, Asked::Answer, |channel_id| Request::Answer(Answer { channel_id, sdp }));
        self.out.push(Effect::Record(Record::Answered { at_unix_ms }));
        if self.call.late_offer {
            self.await_ack(CALLER);
        } else if self.call.reoffer {
            self.reoffer_later(CALLER);
        }
    }

    /// A fork is out: refused, failed, died. The last one decides what the caller hears.
    pub(super) fn fork_failed(&mut self, leg: LegIndex, cause: Cause) {
        let fork = self.call.leg_mut(leg);
        fork.sip = Sip::Gone;
        fork.ended = Some(cause.clone());
        self.close_stream(leg);
        if self.call.winner == Some(leg) {
            return self.end(cause, EndedBy::Callee);
        }
        if self.call.winner.is_some() || self.call.forks().any(|fork| self.call.leg(fork).sip != Sip::Gone) {
            return;
        }
        let best = response::best(self.call.legs.iter().filter_map(|leg| leg.ended.as_ref())).cloned();
        let best = best.unwrap_or(cause);
        let by = if best.kind == CauseKind::Internal { EndedBy::System } else { EndedBy::Callee };
        self.end(best, by);
    }

    /// A fork lost: to another that answered.
    pub(super) fn drop_fork(&mut self, leg: LegIndex) {
        let was = self.call.leg(leg).sip;
        if was == Sip::Gone {
            return;
        }
        if was != Sip::Idle {
            self.hang_up(leg, response::elsewhere());
        }
        let fork = self.call.leg_mut(leg);
        fork.sip = Sip::Gone;
        fork.ended = Some(response::elsewhere());
        self.close_stream(leg);
    }

    fn create_stream(&mut self, leg: LegIndex, step: Step, source: Option<String>) {
        let call = &mut *self.call;
        let create = Create {
            call_id: call.id.clone(),
            channel_id: call.leg(leg).channel_id.clone(),
            switchboard: call.switchboard.clone(),
            mode: call.mode(),
            step,
            source,
            srtp: if leg == CALLER { call.invite.from_srtp } else { call.invite.to_srtp },
        };
        let agent = call.leg(CALLER).agent().cloned();
        call.leg_mut(leg).media = Media::Creating;
        self.ask(leg, Asked::Create(leg), To::Media(agent), Request::Create(Box::new(create)));
    }

    pub(super) fn bridge(&mut self, leg: LegIndex) {
        if self.call.bridged == Some(leg) {
            return;
        }
        let Some(a) = self.call.leg(CALLER).stream_id().cloned() else { return };
        self.call.bridged = Some(leg);
        self.ask_media(leg, Asked::Bridge(leg), |b| Request::Bridge(Bridge { a, b }));
    }

    pub(super) fn bridge_failed(&mut self, leg: LegIndex, failure: Failure) {
        if self.call.bridged == Some(leg) {
            self.call.bridged = None;
        }
        // Early media is a courtesy; a talk without a bridge is none.
        if self.call.winner == Some(leg) {
            self.end(failure.cause(), EndedBy::System);
        }
    }

    pub(super) fn update(&mut self, leg: LegIndex, asked: Asked, step: Step) {
        self.ask_media(leg, asked, |stream_id| Request::Update(Update { stream_id, step }));
    }
}
