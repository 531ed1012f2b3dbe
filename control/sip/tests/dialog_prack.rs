//! A call with a reliable provisional response, PRACK, and a session timer, over two transaction layers whose network
//! loses what the test says (RFC 3262, RFC 4028).

mod transaction_support;

use std::time::Duration;

use nebula_sip::dialog::{Dialog, DialogId, Forks, Heard};
use nebula_sip::reliable::{self, Sender, Verdict};
use nebula_sip::session_timer::{self, Offer, Policy, Refresher, Watch};
use nebula_sip::timers::Base;
use nebula_sip::transaction::Output;
use nebula_sip::{Message, Method, Name, NameAddr, Request, StatusCode};
use transaction_support::*;

fn flow_back() -> nebula_sip::Flow {
    nebula_sip::Flow { local: addr(PEER), remote: addr(US), ..udp() }
}

fn request_in(outputs: &[Output]) -> Request {
    outputs
        .iter()
        .find_map(|output| match output {
            Output::Request { request, .. } => Some((**request).clone()),
            _ => None,
        })
        .expect("a request for the user")
}

#[test]
fn a_lost_reliable_provisional_is_repeated_and_pracked_and_the_call_is_answered_with_a_session_timer() {
    let (mut alice, mut bob) = (End::new(), End::new());
    bob.start = alice.start;
    bob.now = alice.now;

    let policy = Policy { interval_s: 600, min_se_s: 90 };
    let mut invite = outgoing(Method::Invite)
        .with(Name::Require, reliable::OPTION_TAG)
        .with(Name::Supported, session_timer::OPTION_TAG);
    session_timer::request(policy, None).put(&mut invite.headers);
    let mut forks = Forks::new(invite.clone());
    let (_, invite_bytes) = alice.send(invite, udp());

    // Bob rings reliably, because he must; the first 180 is lost.
    let outputs = bob.receive(request_of(&invite_bytes), flow_back());
    let (invite_id, invite_at_bob) = (id_of(&outputs), request_in(&outputs));
    assert!(invite_at_bob.headers.lists(Name::Require, reliable::OPTION_TAG));
    let mut bobs = Dialog::uas(&invite_at_bob, "bob", NameAddr::parse("<sip:1001@192.0.2.9>").unwrap()).unwrap();
    let mut sender = Sender::new(Base::default(), invite_at_bob.headers.cseq().unwrap().number, 1_000);
    let ringing = sender
        .send(bob.now, true, |rseq| {
            bobs.response(&invite_at_bob, StatusCode::RINGING)
                .with(Name::Require, reliable::OPTION_TAG)
                .with(Name::RSeq, rseq.to_string())
        })
        .unwrap()
        .clone();
    bob.respond(invite_id, &ringing);
    assert!(sender.holds_back_success());
    bob.run_until_ms(500);
    alice.run_until_ms(400);
    let again = match sender.handle_timeout(bob.now) {
        Some(reliable::Due::Repeat(response)) => response.clone(),
        other => panic!("{other:?}"),
    };
    let repeated = bytes_of(&bob.respond(invite_id, &again)).remove(0);

    // Alice acknowledges it once, however often it comes.
    let heard = forks.receive(&response_of(&repeated)).unwrap();
    let Heard::Early { remote_tag, reliable: Some(Verdict::Acknowledge) } = heard else { panic!("{heard:?}") };
    assert!(matches!(
        forks.receive(&response_of(&repeated)),
        Ok(Heard::Early { reliable: Some(Verdict::Repeated), .. })
    ));
    let prack = forks.early_mut(&remote_tag).unwrap().prack(&response_of(&repeated)).unwrap().unwrap();
    alice.receive(response_of(&repeated), udp());
    let (_, prack_bytes) = alice.send(prack, udp());

    let outputs = bob.receive(request_of(&prack_bytes), flow_back());
    let (prack_id, prack_at_bob) = (id_of(&outputs), request_in(&outputs));
    bobs.receive(&prack_at_bob).unwrap();
    sender.acknowledge(&prack_at_bob.headers.rack().unwrap().unwrap()).unwrap();
    assert!(!sender.holds_back_success());
    let ok = bytes_of(&bob.respond(prack_id, &bobs.response(&prack_at_bob, StatusCode::OK))).remove(0);
    assert_eq!(brief(&alice.receive(response_of(&ok), udp())), ["<200"]);

    // Bob answers; both watch the session, Alice refreshes.
    let agreed = session_timer::answer(Policy::default(), &Offer::of(&invite_at_bob.headers)).unwrap().unwrap();
    let mut answer = bobs.response(&invite_at_bob, StatusCode::OK);
    agreed.put(&mut answer.headers);
    bobs.confirm();
    let answer = bytes_of(&bob.respond(invite_id, &answer)).remove(0);
    let Ok(Heard::Answered(mut alices)) = forks.receive(&response_of(&answer)) else { panic!("not answered") };
    let settled = session_timer::settle(response_of(&answer).headers.session_expires().unwrap()).unwrap();
    assert_eq!((settled.interval_s, settled.refresher), (600, Refresher::Uac));
    let (ours, theirs) = (Watch::new(alice.now, settled, Refresher::Uac), Watch::new(bob.now, agreed, Refresher::Uas));
    assert_eq!(ours.next_timeout(), Some(alice.now + Duration::from_secs(300)));
    assert_eq!(theirs.next_timeout(), Some(bob.now + Duration::from_secs(568)));

    // The sequence goes on: INVITE 7, PRACK 8 in the early dialog, then 9.
    let ack = alices.ack(&response_of(&answer)).unwrap();
    assert_eq!(ack.headers.get(Name::CSeq), Some("7 ACK"));
    let update = alices.request(Method::Update);
    assert_eq!(update.headers.get(Name::CSeq), Some("9 UPDATE"));
    let (_, update_bytes) = alice.send(update, udp());
    let outputs = bob.receive(request_of(&update_bytes), flow_back());
    assert_eq!(DialogId::of_request(&request_in(&outputs)).unwrap().as_ref(), Some(bobs.id()));
    assert_eq!(bobs.receive(&request_in(&outputs)), Ok(()));
}

#[test]
fn a_prack_that_matches_nothing_is_481_and_a_refused_interval_is_422() {
    let mut sender: Sender<()> = Sender::new(Base::default(), 7, 0);
    let prack = parse(
        "PRACK sip:b@192.0.2.9 SIP/2.0\nVia: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKp\nFrom: <sip:a@h>;tag=a\n\
         To: <sip:b@h>;tag=b\nCall-ID: c\nCSeq: 8 PRACK\nRAck: 5 7 INVITE\nMax-Forwards: 70\nContent-Length: 0\n\n",
    );
    let Message::Request(prack) = prack else { unreachable!() };
    let rack = prack.headers.rack().unwrap().unwrap();
    assert_eq!(sender.acknowledge(&rack), Err(reliable::Error::NoMatch));

    let strict = Policy { interval_s: 1_800, min_se_s: 300 };
    let mut invite = outgoing(Method::Invite).with(Name::Supported, session_timer::OPTION_TAG);
    session_timer::request(Policy { interval_s: 100, min_se_s: 90 }, None).put(&mut invite.headers);
    let refused = session_timer::answer(strict, &Offer::of(&invite.headers));
    assert_eq!(refused, Err(session_timer::Error::TooSmall { min_se_s: 300 }));
}
