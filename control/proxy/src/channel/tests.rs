//! The tables and their races, in virtual time.

use std::time::Duration;

use super::*;
use nebula_bus::contract::CauseKind;
use nebula_sip::message::{CSeq, Method, RAck, SessionExpires};
use nebula_sip::session_timer;

const INVITE_CSEQ: u32 = 5;

/// A channel with a clock and what it last did.
struct Leg {
    channel: Channel,
    now: Instant,
}

impl Leg {
    fn incoming(offered: bool, reliable: bool) -> Self {
        let now = Instant::now();
        let timing = Timing::default();
        let sender = reliable.then(|| reliable::Sender::new(timing.base, INVITE_CSEQ, 0));
        Self { channel: Channel::incoming("in".into(), offered, sender, timing, now), now }
    }

    fn outgoing(sdp: Option<&str>) -> Self {
        let now = Instant::now();
        Self { channel: Channel::outgoing("out".into(), sdp.map(str::to_owned), Timing::default(), now), now }
    }

    /// Answered and acknowledged.
    fn talking() -> Self {
        let mut leg = Self::incoming(true, false);
        leg.command(Command::Answer { sdp: some("answer") });
        leg.peer(Peer::Ack { sdp: None });
        assert_eq!(leg.channel.state(), State::Confirmed);
        leg
    }

    fn peer(&mut self, input: Peer) -> Vec<Act> {
        let mut out = Vec::new();
        self.channel.peer(input, self.now, &mut out);
        out
    }

    fn command(&mut self, command: Command) -> Vec<Act> {
        self.try_command(command).expect("possible")
    }

    fn try_command(&mut self, command: Command) -> Result<Vec<Act>, WrongState> {
        let mut out = Vec::new();
        self.channel.command(command, self.now, &mut out).map(|()| out)
    }

    /// Lets time pass, firing timers at their instants.
    fn pass(&mut self, time: Duration) -> Vec<Act> {
        let end = self.now + time;
        let mut out = Vec::new();
        while let Some(at) = self.channel.deadline().filter(|at| *at <= end) {
            self.now = at;
            self.channel.wake(at, &mut out);
        }
        self.now = end;
        out
    }

    fn agree(&mut self, interval_s: u32, refresher: Refresher, we_are: Refresher) {
        let agreed = session_timer::settle(Some(SessionExpires { interval_s, refresher: Some(refresher) }));
        self.channel.session_agreed(agreed, we_are, self.now);
    }

    fn over(&self) -> bool {
        assert!(!self.channel.is_over() || self.channel.deadline().is_none(), "a dead leg has no clock");
        self.channel.is_over()
    }
}

fn some(sdp: &str) -> Option<String> {
    Some(sdp.to_owned())
}

fn respond(code: u16, sdp: Option<&str>) -> Act {
    Act::Respond(Reply { code, sdp: sdp.map(str::to_owned), ..Reply::default() })
}

fn reliably(code: u16, sdp: Option<&str>, rseq: u32) -> Act {
    Act::Respond(Reply { code, sdp: sdp.map(str::to_owned), rseq: Some(rseq), ..Reply::default() })
}

fn reply(code: u16) -> Act {
    Act::Reply(Reply::code(code))
}

fn ack(sdp: Option<&str>) -> Act {
    Act::Send(Request::Ack { sdp: sdp.map(str::to_owned) })
}

fn tells_hangup(acts: &[Act]) -> Option<(u16, CauseKind)> {
    acts.iter().find_map(|act| match act {
        Act::Tell(Report::Hangup(cause)) => Some((cause.sip_code, cause.kind)),
        _ => None,
    })
}

fn sends_bye(acts: &[Act]) -> bool {
    acts.iter().any(|act| matches!(act, Act::Send(Request::Bye { .. })))
}

fn sends_cancel(acts: &[Act]) -> bool {
    acts.iter().any(|act| matches!(act, Act::Send(Request::Cancel { .. })))
}

fn hangup() -> Command {
    Command::Hangup { cause: cause::own(200, CauseKind::Normal, ""), retry_after_s: None }
}

fn bye() -> Peer {
    Peer::Bye { reason: None }
}

fn prack(rseq: u32, sdp: Option<String>) -> Peer {
    Peer::Prack { rack: RAck { rseq, cseq: CSeq { number: INVITE_CSEQ, method: Method::Invite } }, sdp }
}

fn provisional(code: u16, sdp: Option<&str>) -> Peer {
    Peer::Provisional { code, sdp: sdp.map(str::to_owned), rseq: None }
}

fn success(of: Sent, sdp: Option<&str>) -> Peer {
    Peer::Success { of, sdp: sdp.map(str::to_owned) }
}

fn refused(of: Sent, code: u16) -> Peer {
    Peer::Failure { of, why: Failure::Refused, code, reason: String::new() }
}

fn timeout(of: Sent) -> Peer {
    Peer::Failure { of, why: Failure::Timeout, code: 408, reason: "Request Timeout".to_owned() }
}

// ---- incoming ----

#[test]
fn ring_early_media_answer_ack_bye() {
    let mut leg = Leg::incoming(true, false);
    assert_eq!(leg.command(Command::Ring), [respond(180, None)]);
    assert_eq!(leg.command(Command::Progress { code: 183, sdp: some("early") }), [respond(183, Some("early"))]);
    assert_eq!(leg.command(Command::Answer { sdp: some("answer") }), [respond(200, Some("answer"))]);
    assert_eq!(leg.channel.state(), State::Answered);
    assert_eq!(leg.peer(Peer::Ack { sdp: None }), []);
    assert_eq!(leg.pass(Duration::from_secs(300)), []);
    let acts = leg.peer(bye());
    assert_eq!(acts[0], reply(200));
    assert_eq!(tells_hangup(&acts), Some((200, CauseKind::Normal)));
    assert!(leg.over());
}

#[test]
fn without_an_offer_ours_travels_in_the_200_and_theirs_in_the_ack() {
    let mut leg = Leg::incoming(false, false);
    assert_eq!(leg.command(Command::Progress { code: 183, sdp: some("offer") }), [respond(183, None)]);
    assert_eq!(leg.command(Command::Answer { sdp: some("offer") }), [respond(200, Some("offer"))]);
    assert_eq!(leg.peer(Peer::Ack { sdp: some("answer") }), [Act::Tell(Report::Acked { sdp: some("answer") })]);
}

#[test]
fn an_answer_is_repeated_until_its_ack_and_then_given_up() {
    let mut leg = Leg::incoming(true, false);
    leg.command(Command::Answer { sdp: None });
    assert_eq!(leg.pass(Duration::from_millis(3600)), [Act::Repeat, Act::Repeat, Act::Repeat]);
    let rest = leg.pass(Duration::from_secs(30));
    assert_eq!(rest.iter().filter(|act| **act == Act::Repeat).count(), 7);
    assert!(sends_bye(&rest));
    assert_eq!(tells_hangup(&rest), Some((408, CauseKind::Network)));
    assert_eq!(leg.peer(timeout(Sent::Bye)), []);
    assert!(leg.over());
}

#[test]
fn cancel_before_the_answer_ends_it() {
    for ring in [false, true] {
        let mut leg = Leg::incoming(true, false);
        if ring {
            leg.command(Command::Ring);
        }
        let acts = leg.peer(Peer::Cancel);
        assert_eq!(acts[0], respond(487, None));
        assert_eq!(tells_hangup(&acts), Some((487, CauseKind::Cancelled)));
        assert!(leg.over());
        // The switchboard's answer crossed: it learns that the leg is gone.
        assert_eq!(leg.try_command(Command::Answer { sdp: None }), Err(WrongState(State::Over)));
        assert_eq!(leg.command(hangup()), []);
    }
}

#[test]
fn cancel_that_crosses_our_200_changes_nothing() {
    let mut leg = Leg::incoming(true, false);
    leg.command(Command::Answer { sdp: some("answer") });
    assert_eq!(leg.peer(Peer::Cancel), []);
    leg.peer(Peer::Ack { sdp: None });
    assert_eq!(leg.channel.state(), State::Confirmed);
    assert_eq!(tells_hangup(&leg.peer(bye())), Some((200, CauseKind::Normal)));
}

#[test]
fn a_rejected_or_hung_up_invite_gets_its_final_failure() {
    let mut leg = Leg::incoming(true, false);
    let acts = leg.command(Command::Reject { code: 486, reason: some("Busy"), retry_after_s: None });
    assert_eq!(acts, [Act::Respond(Reply { code: 486, reason: some("Busy"), ..Reply::default() })]);
    assert!(leg.over());

    let mut leg = Leg::incoming(true, false);
    let cause = cause::own(503, CauseKind::Internal, "No switchboard");
    let acts = leg.command(Command::Hangup { cause, retry_after_s: Some(5) });
    let reply = Reply { code: 503, reason: some("No switchboard"), retry_after_s: Some(5), ..Reply::default() };
    assert_eq!(acts, [Act::Respond(reply)]);
    assert!(leg.over());
}

#[test]
fn a_hangup_between_200_and_ack_sends_bye_only_after_the_ack() {
    let mut leg = Leg::incoming(true, false);
    leg.command(Command::Answer { sdp: None });
    assert_eq!(leg.command(hangup()), []);
    assert!(sends_bye(&leg.peer(Peer::Ack { sdp: None })));
    assert_eq!(leg.channel.state(), State::Ending);
    leg.peer(success(Sent::Bye, None));
    assert!(leg.over());

    let mut leg = Leg::incoming(true, false);
    leg.command(Command::Answer { sdp: None });
    leg.command(hangup());
    let acts = leg.pass(Duration::from_secs(33));
    assert!(sends_bye(&acts));
    assert_eq!(tells_hangup(&acts), None, "the switchboard asked for it");
}

#[test]
fn an_early_bye_ends_the_invite_too() {
    let mut leg = Leg::incoming(true, false);
    leg.command(Command::Ring);
    let acts = leg.peer(bye());
    assert_eq!(acts[..2], [reply(200), respond(487, None)]);
    assert_eq!(tells_hangup(&acts), Some((200, CauseKind::Normal)));
    assert!(leg.over());
}

#[test]
fn a_silent_switchboard_does_not_hang_the_caller() {
    let mut leg = Leg::incoming(true, false);
    let acts = leg.pass(Timing::default().setup);
    assert_eq!(acts[0], respond(480, None));
    assert_eq!(tells_hangup(&acts), Some((480, CauseKind::NoAnswer)));
    assert!(leg.over());
}

#[test]
fn a_reliable_183_is_repeated_until_prack_and_the_answer_waits_for_it() {
    let mut leg = Leg::incoming(true, true);
    assert_eq!(leg.command(Command::Progress { code: 183, sdp: some("early") }), [reliably(183, Some("early"), 1)]);
    assert_eq!(leg.pass(Duration::from_millis(1600)), [Act::Repeat, Act::Repeat]);
    assert_eq!(leg.command(Command::Answer { sdp: some("early") }), []);
    assert_eq!(leg.peer(prack(9, None)), [reply(481)]);
    // The session was described in the 183, so the 200 has no body.
    assert_eq!(leg.peer(prack(1, None)), [reply(200), respond(200, None)]);
    assert_eq!(leg.peer(prack(1, None)), [reply(481)]);
    leg.peer(Peer::Ack { sdp: None });
    assert_eq!(leg.channel.state(), State::Confirmed);
}

#[test]
fn provisional_responses_go_out_one_after_the_other_when_reliable() {
    let mut leg = Leg::incoming(true, true);
    assert_eq!(leg.command(Command::Ring), [reliably(180, None, 1)]);
    assert_eq!(leg.command(Command::Progress { code: 183, sdp: some("early") }), []);
    let acts = leg.peer(prack(1, None));
    assert_eq!(acts, [reply(200), reliably(183, Some("early"), 2)]);
}

#[test]
fn a_reliable_offer_is_answered_in_prack() {
    let mut leg = Leg::incoming(false, true);
    assert_eq!(leg.command(Command::Progress { code: 183, sdp: some("offer") }), [reliably(183, Some("offer"), 1)]);
    let acts = leg.peer(prack(1, some("answer")));
    assert_eq!(acts, [reply(200), Act::Tell(Report::Acked { sdp: some("answer") })]);
    assert_eq!(leg.command(Command::Answer { sdp: some("offer") }), [respond(200, None)]);
    assert_eq!(leg.peer(Peer::Ack { sdp: None }), []);
}

#[test]
fn without_prack_the_call_is_given_up() {
    let mut leg = Leg::incoming(true, true);
    leg.command(Command::Ring);
    let acts = leg.pass(Duration::from_secs(32));
    assert!(acts.contains(&respond(504, None)));
    assert_eq!(tells_hangup(&acts), Some((504, CauseKind::Network)));
    assert!(leg.over());
}

#[test]
fn requests_too_early_are_put_off() {
    let mut leg = Leg::incoming(true, false);
    assert!(matches!(&leg.peer(Peer::Reinvite { sdp: some("x") })[..], [Act::Reply(Reply { code: 500, .. })]));
    assert_eq!(leg.peer(Peer::Update { sdp: some("x") }), [reply(491)]);
    assert_eq!(leg.peer(Peer::Update { sdp: None }), [reply(200)]);
    leg.command(Command::Answer { sdp: None });
    assert_eq!(
        leg.command(Command::Reinvite { sdp: some("y") }),
        [Act::Tell(Report::Refused(cause::own(491, CauseKind::Rejected, "Request Pending")))]
    );
}

#[test]
fn who_begins_another_invite_has_acknowledged_the_last() {
    let mut leg = Leg::incoming(true, false);
    leg.command(Command::Answer { sdp: some("answer") });
    let acts = leg.peer(Peer::Reinvite { sdp: some("x") });
    assert!(acts.contains(&Act::Tell(Report::Reinvite { sdp: some("x") })), "{acts:?}");
    // Nor is the first answer repeated any more, or the call given up for want of its ACK.
    leg.command(Command::Answer { sdp: some("y") });
    let acts = leg.peer(Peer::Reinvite { sdp: some("z") });
    assert!(acts.contains(&Act::Tell(Report::Reinvite { sdp: some("z") })), "{acts:?}");
}

// ---- outgoing ----

#[test]
fn dial_ring_early_media_answer() {
    let mut leg = Leg::outgoing(Some("offer"));
    assert_eq!(leg.peer(provisional(180, None)), [Act::Tell(Report::Ringing { code: 180 })]);
    assert_eq!(
        leg.peer(provisional(183, Some("early"))),
        [Act::Tell(Report::Progress { code: 183, sdp: some("early") })]
    );
    assert_eq!(
        leg.peer(success(Sent::Invite, Some("answer"))),
        [ack(None), Act::Tell(Report::Answered { sdp: some("answer") })]
    );
    assert_eq!(leg.channel.state(), State::Confirmed);
    assert_eq!(leg.pass(Duration::from_secs(600)), []);
}

#[test]
fn a_reliable_provisional_gets_its_prack() {
    let mut leg = Leg::outgoing(Some("offer"));
    let acts = leg.peer(Peer::Provisional { code: 183, sdp: some("early"), rseq: Some(7) });
    assert_eq!(acts[0], Act::Send(Request::Prack { rseq: 7 }));
    assert_eq!(acts[1], Act::Tell(Report::Progress { code: 183, sdp: some("early") }));
}

#[test]
fn final_failures_and_silence_end_the_leg_with_their_cause() {
    let table = [
        (refused(Sent::Invite, 486), (486, CauseKind::Busy)),
        (refused(Sent::Invite, 603), (603, CauseKind::Rejected)),
        (refused(Sent::Invite, 401), (401, CauseKind::Rejected)),
        (refused(Sent::Invite, 302), (302, CauseKind::Unreachable)),
        (timeout(Sent::Invite), (408, CauseKind::Network)),
    ];
    for (input, cause) in table {
        let mut leg = Leg::outgoing(Some("offer"));
        assert_eq!(tells_hangup(&leg.peer(input)), Some(cause));
        assert!(leg.over());
    }
}

#[test]
fn a_hangup_before_the_answer_cancels() {
    for rang in [false, true] {
        for last in [refused(Sent::Invite, 487), timeout(Sent::Invite)] {
            let mut leg = Leg::outgoing(Some("offer"));
            if rang {
                leg.peer(provisional(180, None));
            }
            assert!(sends_cancel(&leg.command(hangup())));
            assert_eq!(leg.command(hangup()), []);
            assert_eq!(leg.peer(provisional(180, None)), [], "CANCEL goes out once");
            assert_eq!(leg.peer(last), [], "the switchboard asked for it");
            assert!(leg.over());
        }
    }
}

#[test]
fn a_200_that_crosses_our_cancel_is_acknowledged_and_ended() {
    for rang in [false, true] {
        let mut leg = Leg::outgoing(Some("offer"));
        if rang {
            leg.peer(provisional(180, None));
        }
        leg.command(hangup());
        let acts = leg.peer(success(Sent::Invite, Some("answer")));
        assert_eq!(acts[0], ack(None));
        assert!(sends_bye(&acts));
        assert_eq!(tells_hangup(&acts), None);
        leg.peer(success(Sent::Bye, None));
        assert!(leg.over());
    }
}

#[test]
fn nobody_answers() {
    let mut leg = Leg::outgoing(Some("offer"));
    leg.peer(provisional(180, None));
    let acts = leg.pass(Timing::default().setup);
    assert!(sends_cancel(&acts));
    assert_eq!(tells_hangup(&acts), Some((408, CauseKind::NoAnswer)));
    assert_eq!(leg.peer(refused(Sent::Invite, 487)), []);
    assert!(leg.over());
}

#[test]
fn without_an_offer_of_ours_the_ack_waits_for_the_answer() {
    let mut leg = Leg::outgoing(None);
    let acts = leg.peer(success(Sent::Invite, Some("offer")));
    assert_eq!(acts, [Act::Tell(Report::Answered { sdp: some("offer") })]);
    assert_eq!(leg.command(Command::Answer { sdp: some("answer") }), [ack(Some("answer"))]);
    assert_eq!(leg.channel.state(), State::Confirmed);

    let mut leg = Leg::outgoing(None);
    leg.peer(success(Sent::Invite, Some("offer")));
    let acts = leg.pass(Timing::default().change);
    assert_eq!(acts[0], ack(None));
    assert!(sends_bye(&acts));
    assert_eq!(tells_hangup(&acts), Some((500, CauseKind::Internal)));
}

// ---- confirmed ----

#[test]
fn their_reinvite_is_held_answered_and_acknowledged() {
    let mut leg = Leg::talking();
    assert_eq!(
        leg.peer(Peer::Reinvite { sdp: some("hold") }),
        [Act::Hold, Act::Tell(Report::Reinvite { sdp: some("hold") })]
    );
    assert!(matches!(&leg.peer(Peer::Reinvite { sdp: None })[..], [Act::Reply(Reply { code: 500, .. })]));
    assert_eq!(leg.peer(Peer::Cancel), [], "the answer is on its way");
    assert_eq!(leg.command(Command::Answer { sdp: some("held") }), [respond(200, Some("held"))]);
    assert_eq!(leg.pass(Duration::from_millis(600)), [Act::Repeat]);
    assert_eq!(leg.peer(Peer::Ack { sdp: None }), []);
    assert_eq!(leg.pass(Duration::from_secs(60)), []);
}

#[test]
fn their_reinvite_without_an_offer_is_answered_in_the_ack() {
    let mut leg = Leg::talking();
    leg.peer(Peer::Reinvite { sdp: None });
    leg.command(Command::Answer { sdp: some("offer") });
    assert_eq!(leg.peer(Peer::Ack { sdp: some("answer") }), [Act::Tell(Report::Acked { sdp: some("answer") })]);
}

#[test]
fn a_refused_or_forgotten_change_leaves_the_call_alone() {
    let mut leg = Leg::talking();
    leg.peer(Peer::Reinvite { sdp: some("x") });
    let acts = leg.command(Command::Reject { code: 488, reason: None, retry_after_s: None });
    assert_eq!(acts, [respond(488, None)]);
    leg.peer(Peer::Update { sdp: some("x") });
    assert_eq!(leg.pass(Timing::default().change), [respond(504, None)]);
    assert_eq!(leg.channel.state(), State::Confirmed);
    let late = leg.try_command(Command::Answer { sdp: None });
    assert_eq!(late, Err(WrongState(State::Confirmed)));
}

#[test]
fn an_update_is_answered_without_waiting_for_an_ack() {
    let mut leg = Leg::talking();
    assert_eq!(leg.peer(Peer::Update { sdp: None }), [reply(200)]);
    leg.peer(Peer::Update { sdp: some("x") });
    assert_eq!(leg.command(Command::Answer { sdp: some("y") }), [respond(200, Some("y"))]);
    assert_eq!(leg.pass(Duration::from_secs(60)), []);
}

#[test]
fn our_reinvite_is_acknowledged_and_reported() {
    let mut leg = Leg::talking();
    assert_eq!(
        leg.command(Command::Reinvite { sdp: some("new") }),
        [Act::Send(Request::Reinvite { sdp: some("new") })]
    );
    assert_eq!(leg.peer(Peer::Reinvite { sdp: some("theirs") }), [reply(491)], "glare");
    assert_eq!(
        leg.peer(success(Sent::Reinvite, Some("answer"))),
        [ack(None), Act::Tell(Report::Answered { sdp: some("answer") })]
    );

    leg.command(Command::Reinvite { sdp: some("newer") });
    let acts = leg.peer(refused(Sent::Reinvite, 491));
    assert!(matches!(&acts[..], [Act::Tell(Report::Refused(Cause { sip_code: 491, .. }))]));
    assert_eq!(leg.channel.state(), State::Confirmed);

    leg.command(Command::Reinvite { sdp: None });
    assert_eq!(leg.peer(success(Sent::Reinvite, Some("offer"))), [Act::Tell(Report::Answered { sdp: some("offer") })]);
    assert_eq!(leg.command(Command::Answer { sdp: some("answer") }), [ack(Some("answer"))]);
}

#[test]
fn a_reinvite_of_the_switchboard_while_theirs_is_open_is_glare() {
    let mut leg = Leg::talking();
    leg.peer(Peer::Reinvite { sdp: some("theirs") });
    let acts = leg.command(Command::Reinvite { sdp: some("ours") });
    assert!(matches!(&acts[..], [Act::Tell(Report::Refused(Cause { sip_code: 491, .. }))]));
    assert_eq!(leg.command(Command::Answer { sdp: some("y") }), [respond(200, Some("y"))]);
}

#[test]
fn a_dialog_that_the_peer_forgot_ends() {
    for input in [refused(Sent::Reinvite, 481), refused(Sent::Reinvite, 408), timeout(Sent::Reinvite)] {
        let mut leg = Leg::talking();
        leg.command(Command::Reinvite { sdp: some("new") });
        let acts = leg.peer(input);
        assert!(sends_bye(&acts));
        assert_eq!(tells_hangup(&acts).map(|(_, kind)| kind), Some(CauseKind::Network));
    }
    let mut leg = Leg::talking();
    leg.command(Command::Dtmf { digit: '1', duration_ms: 100 });
    assert_eq!(leg.peer(refused(Sent::Info, 415)), []);
    assert!(sends_bye(&leg.peer(refused(Sent::Info, 481))));
}

#[test]
fn bye_crosses_bye() {
    let mut leg = Leg::talking();
    assert!(sends_bye(&leg.command(hangup())));
    assert_eq!(leg.peer(bye()), [reply(200)]);
    assert_eq!(leg.peer(success(Sent::Bye, None)), []);
    assert!(leg.over());
}

#[test]
fn a_reinvite_answered_after_our_bye_is_still_acknowledged() {
    let mut leg = Leg::talking();
    leg.command(Command::Reinvite { sdp: some("new") });
    leg.command(hangup());
    assert_eq!(leg.peer(success(Sent::Reinvite, Some("x"))), [ack(None)]);
    assert_eq!(leg.peer(Peer::Reinvite { sdp: None }), [reply(481)]);
    assert_eq!(leg.peer(timeout(Sent::Bye)), []);
    assert!(leg.over(), "without a response to BYE, too");
}

#[test]
fn bye_while_their_reinvite_is_open_refuses_that() {
    let mut leg = Leg::talking();
    leg.peer(Peer::Reinvite { sdp: some("x") });
    let acts = leg.peer(bye());
    assert_eq!(acts[..2], [reply(200), respond(487, None)]);
    assert!(leg.over());

    let mut leg = Leg::talking();
    leg.peer(Peer::Reinvite { sdp: some("x") });
    let acts = leg.command(hangup());
    assert_eq!(acts[0], respond(487, None));
    assert!(sends_bye(&acts));
}

#[test]
fn keys_go_both_ways() {
    let mut leg = Leg::talking();
    let acts = leg.peer(Peer::Info(dtmf::Info::Key { digit: '7', duration_ms: 200 }));
    assert_eq!(acts, [reply(200), Act::Tell(Report::Dtmf { digit: '7', duration_ms: 200 })]);
    assert_eq!(leg.peer(Peer::Info(dtmf::Info::Unsupported)), [reply(415)]);
    assert_eq!(leg.peer(Peer::Info(dtmf::Info::Empty)), [reply(200)]);
    let acts = leg.command(Command::Dtmf { digit: '#', duration_ms: 90 });
    assert_eq!(acts, [Act::Send(Request::Info { digit: '#', duration_ms: 90 })]);
}

// ---- session timer ----

#[test]
fn we_refresh_by_update_or_by_reinvite() {
    let mut leg = Leg::talking();
    leg.channel.peer_takes_update(true);
    leg.agree(1800, Refresher::Uas, Refresher::Uas);
    assert_eq!(leg.pass(Duration::from_secs(900)), [Act::Send(Request::Update)]);
    leg.peer(success(Sent::Update, None));
    leg.agree(1800, Refresher::Uac, Refresher::Uac);
    assert_eq!(leg.pass(Duration::from_secs(900)), [Act::Send(Request::Update)]);
    // The peer takes no UPDATE after all.
    leg.peer(refused(Sent::Update, 501));
    assert_eq!(leg.pass(Duration::from_secs(2)), [Act::Send(Request::Reinvite { sdp: some("answer") })]);
    assert_eq!(leg.peer(success(Sent::Reinvite, Some("same"))), [ack(None)], "no news for the switchboard");
}

#[test]
fn a_session_that_nobody_refreshes_ends() {
    let mut leg = Leg::talking();
    leg.agree(1800, Refresher::Uac, Refresher::Uas);
    assert_eq!(leg.pass(Duration::from_secs(1767)), []);
    let acts = leg.pass(Duration::from_secs(1));
    assert!(sends_bye(&acts));
    assert_eq!(tells_hangup(&acts), Some((408, CauseKind::SessionTimer)));

    let mut leg = Leg::talking();
    leg.agree(1800, Refresher::Uac, Refresher::Uas);
    leg.pass(Duration::from_secs(1000));
    leg.peer(Peer::Update { sdp: None });
    leg.agree(1800, Refresher::Uac, Refresher::Uas);
    assert_eq!(leg.pass(Duration::from_secs(1767)), [], "a refresh starts the clock anew");
}

#[test]
fn a_refresh_that_is_lost_ends_the_leg() {
    let mut leg = Leg::talking();
    leg.channel.peer_takes_update(true);
    leg.agree(1800, Refresher::Uas, Refresher::Uas);
    leg.pass(Duration::from_secs(900));
    let acts = leg.peer(timeout(Sent::Update));
    assert!(sends_bye(&acts));
    assert_eq!(tells_hangup(&acts).map(|(_, kind)| kind), Some(CauseKind::Network));
}
