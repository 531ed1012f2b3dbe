//! The four transaction machines against figures 5 to 8 of RFC 3261, as corrected by RFC 6026, in virtual time.
//!
//! `ARCS` lists every arc of each figure, and what the figures do not draw must change nothing. The second half runs
//! the timers and asserts the instants.

use std::time::{Duration, Instant};

use nebula_sip::timers::{Base, Pace::*, Timer};
use nebula_sip::transaction::{Action::*, Event::*, Machine, *};

const EVENTS: [Event; 20] = [
    Request,
    Event::Ack,
    Provisional,
    Success,
    Failure,
    Fired(Timer::A),
    Fired(Timer::B),
    Fired(Timer::D),
    Fired(Timer::E),
    Fired(Timer::F),
    Fired(Timer::G),
    Fired(Timer::H),
    Fired(Timer::I),
    Fired(Timer::J),
    Fired(Timer::K),
    Fired(Timer::L),
    Fired(Timer::M),
    Fired(Timer::Trying),
    Fired(Timer::Abandon),
    TransportError,
];

type Arc<S> = (S, Event, S, &'static [Action]);

/// Every drawn arc leads where it is drawn; every other (state, event) stays and does nothing.
fn holds_against<S: Machine + PartialEq + std::fmt::Debug>(states: &[S], arcs: &[Arc<S>]) {
    for &(from, event, to, actions) in arcs {
        assert_eq!(from.step(event), (to, actions), "{from:?} --{event:?}-->");
    }
    for &state in states {
        for event in EVENTS {
            if !arcs.iter().any(|(from, on, ..)| (*from, *on) == (state, event)) {
                assert_eq!(state.step(event), (state, &[][..]), "{state:?} --{event:?}--> is not drawn");
            }
        }
    }
}

#[test]
fn figure_5_invite_client() {
    use invite_client::State::{self, *};
    assert_eq!(State::start(), (Calling, &[Transmit, Start(Timer::A, First), Start(Timer::B, First)][..]));
    holds_against(
        &[Calling, Proceeding, Accepted, Completed, Terminated],
        &[
            (Calling, Fired(Timer::A), Calling, &[Retransmit, Start(Timer::A, Doubled)]),
            (Calling, Fired(Timer::B), Terminated, &[Timeout]),
            (Calling, TransportError, Terminated, &[TransportFailed]),
            (Calling, Provisional, Proceeding, &[Stop(Timer::A), Start(Timer::C, First), Deliver]),
            (Calling, Success, Accepted, &[Stop(Timer::A), Start(Timer::M, First), Deliver]),
            (Calling, Failure, Completed, &[Stop(Timer::A), Action::Ack, Start(Timer::D, First), Deliver]),
            (Proceeding, Provisional, Proceeding, &[Deliver]),
            (Proceeding, Success, Accepted, &[Start(Timer::M, First), Deliver]),
            (Proceeding, Failure, Completed, &[Action::Ack, Start(Timer::D, First), Deliver]),
            // Not in the figure: section 9.1 bounds a cancelled INVITE, and a dead connection cannot bring an answer.
            (Proceeding, Fired(Timer::C), Terminated, &[Timeout]),
            (Proceeding, Fired(Timer::Abandon), Terminated, &[Timeout]),
            (Proceeding, TransportError, Terminated, &[TransportFailed]),
            (Accepted, Success, Accepted, &[Deliver]),
            (Accepted, Fired(Timer::M), Terminated, &[]),
            (Completed, Failure, Completed, &[Action::Ack]),
            (Completed, Fired(Timer::D), Terminated, &[]),
            (Completed, TransportError, Terminated, &[TransportFailed]),
        ],
    );
}

#[test]
fn figure_6_client() {
    use client::State::{self, *};
    const DONE: &[Action] = &[Stop(Timer::E), Start(Timer::K, First), Deliver];
    assert_eq!(State::start(), (Trying, &[Transmit, Start(Timer::E, First), Start(Timer::F, First)][..]));
    holds_against(
        &[Trying, Proceeding, Completed, Terminated],
        &[
            (Trying, Fired(Timer::E), Trying, &[Retransmit, Start(Timer::E, Doubled)]),
            (Trying, Fired(Timer::F), Terminated, &[Timeout]),
            (Trying, TransportError, Terminated, &[TransportFailed]),
            (Trying, Provisional, Proceeding, &[Deliver]),
            (Trying, Success, Completed, DONE),
            (Trying, Failure, Completed, DONE),
            (Proceeding, Fired(Timer::E), Proceeding, &[Retransmit, Start(Timer::E, Slowest)]),
            (Proceeding, Fired(Timer::F), Terminated, &[Timeout]),
            (Proceeding, TransportError, Terminated, &[TransportFailed]),
            (Proceeding, Provisional, Proceeding, &[Deliver]),
            (Proceeding, Success, Completed, DONE),
            (Proceeding, Failure, Completed, DONE),
            (Completed, Fired(Timer::K), Terminated, &[]),
        ],
    );
}

#[test]
fn figure_7_invite_server() {
    use invite_server::State::{self, *};
    assert_eq!(State::start(), (Proceeding, &[Deliver, Start(Timer::Trying, First)][..]));
    const REFUSED: &[Action] = &[Stop(Timer::Trying), Transmit, Start(Timer::G, First), Start(Timer::H, First)];
    holds_against(
        &[Proceeding, Accepted, Completed, Confirmed, Terminated],
        &[
            (Proceeding, Request, Proceeding, &[Stop(Timer::Trying), Retransmit]),
            (Proceeding, Fired(Timer::Trying), Proceeding, &[Retransmit]),
            (Proceeding, Provisional, Proceeding, &[Stop(Timer::Trying), Transmit]),
            (Proceeding, Success, Accepted, &[Stop(Timer::Trying), Transmit, Start(Timer::L, First)]),
            (Proceeding, Failure, Completed, REFUSED),
            (Proceeding, TransportError, Proceeding, &[TransportFailed]),
            (Accepted, Success, Accepted, &[Transmit]),
            (Accepted, Event::Ack, Accepted, &[Deliver]),
            (Accepted, Fired(Timer::L), Terminated, &[]),
            (Accepted, TransportError, Accepted, &[TransportFailed]),
            (Completed, Request, Completed, &[Retransmit]),
            (Completed, Fired(Timer::G), Completed, &[Retransmit, Start(Timer::G, Doubled)]),
            (Completed, Fired(Timer::H), Terminated, &[Timeout]),
            (Completed, Event::Ack, Confirmed, &[Stop(Timer::G), Start(Timer::I, First)]),
            (Completed, TransportError, Completed, &[TransportFailed]),
            (Confirmed, Fired(Timer::I), Terminated, &[]),
        ],
    );
}

#[test]
fn figure_8_server() {
    use server::State::{self, *};
    assert_eq!(State::start(), (Trying, &[Deliver][..]));
    const DONE: &[Action] = &[Transmit, Start(Timer::J, First)];
    holds_against(
        &[Trying, Proceeding, Completed, Terminated],
        &[
            (Trying, Provisional, Proceeding, &[Transmit]),
            (Trying, Success, Completed, DONE),
            (Trying, Failure, Completed, DONE),
            (Proceeding, Request, Proceeding, &[Retransmit]),
            (Proceeding, Provisional, Proceeding, &[Transmit]),
            (Proceeding, Success, Completed, DONE),
            (Proceeding, Failure, Completed, DONE),
            (Proceeding, TransportError, Terminated, &[TransportFailed]),
            (Completed, Request, Completed, &[Retransmit]),
            (Completed, Fired(Timer::J), Terminated, &[]),
            (Completed, TransportError, Terminated, &[TransportFailed]),
        ],
    );
}

/// One machine with its two timers and a clock that jumps from timer to timer.
struct Run<S> {
    state: S,
    reliable: bool,
    now: Instant,
    started: Instant,
    repeat: Option<(Timer, Instant)>,
    deadline: Option<(Timer, Instant)>,
    doublings: u32,
    /// (ms since the start, what the machine asked for besides timers)
    log: Vec<(u128, Action)>,
}

impl<S: Machine> Run<S> {
    fn new(reliable: bool) -> Self {
        let now = Instant::now();
        let (state, actions) = S::start();
        let mut run =
            Self { state, reliable, now, started: now, repeat: None, deadline: None, doublings: 0, log: Vec::new() };
        run.carry_out(actions);
        run
    }

    fn carry_out(&mut self, actions: &[Action]) {
        for &action in actions {
            let slot = |run: &mut Self, timer, value| match timer {
                Timer::A | Timer::E | Timer::G | Timer::Trying => run.repeat = value,
                _ => run.deadline = value,
            };
            match action {
                Start(timer, pace) => {
                    self.doublings = if pace == Doubled { self.doublings + 1 } else { 0 };
                    let runs = Base::default().duration(timer, pace, self.doublings, self.reliable);
                    slot(self, timer, runs.map(|runs| (timer, self.now + runs)));
                }
                Stop(timer) => slot(self, timer, None),
                other => self.log.push(((self.now - self.started).as_millis(), other)),
            }
        }
    }

    fn on(&mut self, event: Event) -> &mut Self {
        let (state, actions) = self.state.step(event);
        self.state = state;
        self.carry_out(actions);
        self
    }

    /// Runs every timer that is due until then, or until the end.
    fn until_ms(&mut self, ms: u64) -> &mut Self {
        let end = self.started + Duration::from_millis(ms);
        while !self.state.is_terminated() {
            let Some((timer, at)) = [self.deadline, self.repeat]
                .into_iter()
                .flatten()
                .min_by_key(|(_, at)| *at)
                .filter(|(_, at)| *at <= end)
            else {
                break;
            };
            self.now = at;
            if self.repeat == Some((timer, at)) {
                self.repeat = None
            } else {
                self.deadline = None
            }
            self.on(Fired(timer));
        }
        self.now = end;
        self
    }

    fn instants(&self, wanted: Action) -> Vec<u128> {
        self.log.iter().filter(|(_, action)| *action == wanted).map(|(at, _)| *at).collect()
    }
}

const FOREVER_MS: u64 = 1_000_000;

#[test]
fn an_unanswered_invite_is_sent_seven_times_and_times_out_at_32_s() {
    let mut run = Run::<invite_client::State>::new(false);
    run.until_ms(FOREVER_MS);
    assert_eq!(run.instants(Transmit), [0]);
    assert_eq!(run.instants(Retransmit), [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert_eq!(run.instants(Timeout), [32_000]);
    assert!(run.state.is_terminated());
}

#[test]
fn an_invite_over_tcp_is_sent_once_and_times_out_at_32_s() {
    let mut run = Run::<invite_client::State>::new(true);
    run.until_ms(FOREVER_MS);
    assert_eq!((run.instants(Retransmit), run.instants(Timeout)), (vec![], vec![32_000]));
}

#[test]
fn an_invite_that_its_user_forgot_ends_by_timer_c() {
    let mut run = Run::<invite_client::State>::new(false);
    run.until_ms(600).on(Provisional).until_ms(FOREVER_MS);
    assert_eq!(run.instants(Timeout), [600_600]);
    assert!(run.state.is_terminated());
}

#[test]
fn a_provisional_stops_an_invite_and_its_timeout() {
    let mut run = Run::<invite_client::State>::new(false);
    let since_ms = 500_000;
    run.until_ms(600).on(Provisional).until_ms(since_ms);
    assert_eq!((run.instants(Retransmit), run.instants(Timeout)), (vec![500], vec![]));
    assert_eq!(run.state, invite_client::State::Proceeding);
    run.on(Success).until_ms(since_ms + 31_999);
    assert_eq!(run.state, invite_client::State::Accepted);
    run.until_ms(since_ms + 32_000);
    assert!(run.state.is_terminated(), "timer M is 64*T1");
}

#[test]
fn a_refused_invite_acknowledges_for_32_s_over_udp_and_not_at_all_longer_over_tcp() {
    let mut udp = Run::<invite_client::State>::new(false);
    udp.until_ms(100).on(Failure).until_ms(32_099).on(Failure);
    assert_eq!(udp.instants(Action::Ack), [100, 32_099]);
    assert!(udp.until_ms(32_100).state.is_terminated(), "timer D");
    let mut tcp = Run::<invite_client::State>::new(true);
    tcp.until_ms(100).on(Failure);
    assert!(tcp.until_ms(100).state.is_terminated(), "timer D is zero");
}

#[test]
fn an_unanswered_request_backs_off_to_4_s_and_times_out_at_32_s() {
    let mut run = Run::<client::State>::new(false);
    run.until_ms(FOREVER_MS);
    assert_eq!(run.instants(Retransmit), [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(run.instants(Timeout), [32_000]);
}

#[test]
fn a_provisional_slows_a_request_to_every_4_s_but_does_not_put_off_its_timeout() {
    let mut run = Run::<client::State>::new(false);
    run.until_ms(600).on(Provisional).until_ms(FOREVER_MS);
    // The E that runs already fires at 1.5 s; from then on every T2.
    assert_eq!(run.instants(Retransmit), [500, 1_500, 5_500, 9_500, 13_500, 17_500, 21_500, 25_500, 29_500]);
    assert_eq!(run.instants(Timeout), [32_000]);
}

#[test]
fn an_answered_request_lingers_5_s_over_udp_and_not_over_tcp() {
    for (reliable, linger_ms) in [(false, 5_000), (true, 0)] {
        let mut run = Run::<client::State>::new(reliable);
        run.until_ms(100).on(Success);
        assert!(!run.state.is_terminated());
        assert!(run.until_ms(100 + linger_ms).state.is_terminated(), "timer K");
        if linger_ms > 0 {
            let mut run = Run::<client::State>::new(reliable);
            assert!(!run.until_ms(100).on(Success).until_ms(99 + linger_ms).state.is_terminated());
        }
    }
}

#[test]
fn a_refusal_of_an_invite_is_repeated_until_ack_and_then_lingers_5_s() {
    let mut run = Run::<invite_server::State>::new(false);
    run.until_ms(50).on(Failure).until_ms(8_000).on(Event::Ack).until_ms(12_999);
    assert_eq!(run.instants(Retransmit), [550, 1_550, 3_550, 7_550]);
    assert_eq!(run.state, invite_server::State::Confirmed);
    assert!(run.until_ms(13_000).state.is_terminated(), "timer I");
}

#[test]
fn a_refusal_that_is_never_acknowledged_is_given_up_after_32_s() {
    let mut run = Run::<invite_server::State>::new(false);
    run.until_ms(0).on(Failure).until_ms(FOREVER_MS);
    assert_eq!(run.instants(Retransmit), [500, 1_500, 3_500, 7_500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500]);
    assert_eq!(run.instants(Timeout), [32_000]);
    let mut tcp = Run::<invite_server::State>::new(true);
    tcp.on(Failure).until_ms(FOREVER_MS);
    assert_eq!((tcp.instants(Retransmit), tcp.instants(Timeout)), (vec![], vec![32_000]), "H runs over TCP too");
}

#[test]
fn an_answered_invite_absorbs_repeats_for_32_s() {
    let mut run = Run::<invite_server::State>::new(false);
    run.until_ms(1_000).on(Success).until_ms(20_000).on(Request).on(Success).on(Event::Ack);
    assert_eq!(run.instants(Transmit), [1_000, 20_000]);
    assert_eq!(run.instants(Deliver), [0, 20_000], "the INVITE, then the ACK");
    assert!(!run.until_ms(32_999).state.is_terminated());
    assert!(run.until_ms(33_000).state.is_terminated(), "timer L is 64*T1");
}

#[test]
fn trying_is_sent_after_200_ms_unless_the_user_was_faster() {
    let mut slow = Run::<invite_server::State>::new(false);
    slow.until_ms(1_000);
    assert_eq!(slow.instants(Retransmit), [200], "the prepared 100");
    let mut fast = Run::<invite_server::State>::new(false);
    fast.until_ms(199).on(Provisional).until_ms(1_000);
    assert_eq!((fast.instants(Retransmit), fast.instants(Transmit)), (vec![], vec![199]));
}

#[test]
fn an_answer_to_a_request_is_repeated_for_32_s_over_udp_and_forgotten_over_tcp() {
    let mut udp = Run::<server::State>::new(false);
    udp.until_ms(10).on(Success).until_ms(32_009).on(Request);
    assert_eq!(udp.instants(Retransmit), [32_009]);
    assert!(udp.until_ms(32_010).state.is_terminated(), "timer J");
    let mut tcp = Run::<server::State>::new(true);
    assert!(tcp.on(Success).until_ms(0).state.is_terminated(), "timer J is zero");
}
