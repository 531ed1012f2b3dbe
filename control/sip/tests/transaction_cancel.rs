//! CANCEL in both directions and its races with the final response (RFC 3261 section 9).

mod transaction_support;

use nebula_sip::transaction::CancelError;
use nebula_sip::{Method, Name};
use transaction_support::*;

const FOREVER_MS: u64 = 1_000_000;

#[test]
fn cancel_waits_for_a_provisional_response() {
    let mut end = End::new();
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.layer.cancel(end.now, id, Some("SIP;cause=200;text=\"Call completed elsewhere\"")).unwrap();
    assert!(end.drain().is_empty(), "nothing was heard yet");
    let outputs = end.receive(answer(&invite, 180, "a"), udp());
    assert_eq!(brief(&outputs), ["<180", ">CANCEL"]);
    let (cancel, invite_sent) = (request_of(&bytes_of(&outputs)[0]), request_of(&invite));
    assert_eq!(cancel.uri, invite_sent.uri);
    for same in [Name::Via, Name::From, Name::To, Name::CallId, Name::Route] {
        assert_eq!(cancel.headers.get(&same), invite_sent.headers.get(&same), "{same}");
    }
    assert_eq!(cancel.headers.get(Name::CSeq), Some("7 CANCEL"));
    assert_eq!(cancel.headers.vias().unwrap().len(), 1);
    assert!(cancel.headers.get(Name::Reason).unwrap().contains("elsewhere"));
    assert_eq!(brief(&end.receive(answer(&invite, 183, "a"), udp())), ["<183"], "one CANCEL is enough");
    // The answer to CANCEL is the layer's business, the 487 the user's.
    assert_eq!(brief(&end.receive(answer(&bytes_of(&outputs)[0], 200, "a"), udp())), [""; 0]);
    assert_eq!(brief(&end.receive(answer(&invite, 487, "a"), udp())), [">ACK", "<487"]);
    let ended = timed(&end.run_until_ms(FOREVER_MS));
    assert_eq!(ended, [(32_000, "terminated".to_owned())], "and nobody hears of the CANCEL's end");
    assert!(end.layer.is_empty());
}

#[test]
fn cancel_goes_out_at_once_after_a_provisional_response() {
    let mut end = End::new();
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.receive(answer(&invite, 100, ""), udp());
    end.layer.cancel(end.now, id, None).unwrap();
    assert_eq!(brief(&end.drain()), [">CANCEL"]);
    end.layer.cancel(end.now, id, None).unwrap();
    assert!(end.drain().is_empty(), "once");
}

#[test]
fn a_2xx_that_was_faster_than_cancel_reaches_the_user() {
    let mut end = End::new();
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.receive(answer(&invite, 180, "a"), udp());
    end.layer.cancel(end.now, id, None).unwrap();
    end.drain();
    assert_eq!(brief(&end.receive(answer(&invite, 200, "a"), udp())), ["<200"]);
    assert_eq!(end.layer.cancel(end.now, id, None), Err(CancelError::TooLate(id)));
}

#[test]
fn a_wanted_cancel_is_forgotten_when_a_final_response_comes_first() {
    let mut end = End::new();
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.layer.cancel(end.now, id, None).unwrap();
    assert_eq!(brief(&end.receive(answer(&invite, 486, "a"), udp())), [">ACK", "<486"]);
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.layer.cancel(end.now, id, None).unwrap();
    assert_eq!(brief(&end.receive(answer(&invite, 200, "a"), udp())), ["<200"], "to be ended with ACK and BYE");
}

#[test]
fn a_cancelled_invite_without_a_final_response_is_given_up_after_64_t1() {
    let mut end = End::new();
    let (id, invite) = end.send(outgoing(Method::Invite), udp());
    end.receive(answer(&invite, 180, "a"), udp());
    end.run_until_ms(10_000);
    end.layer.cancel(end.now, id, None).unwrap();
    let sent_cancel = bytes_of(&end.drain()).remove(0);
    end.receive(answer(&sent_cancel, 200, "a"), udp());
    let ended = timed(&end.run_until_ms(FOREVER_MS));
    assert_eq!(ended, [(42_000, "timeout".to_owned()), (42_000, "terminated".to_owned())]);
}

#[test]
fn only_an_invite_of_ours_is_cancelled() {
    let mut end = End::new();
    let (options, _) = end.send(outgoing(Method::Options), udp());
    assert_eq!(end.layer.cancel(end.now, options, None), Err(CancelError::NoInvite(options)));
    let theirs = id_of(&end.receive(incoming("INVITE", "z9hG4bKa", 1), udp()));
    assert_eq!(end.layer.cancel(end.now, theirs, None), Err(CancelError::NoInvite(theirs)));
    end.run_until_ms(FOREVER_MS);
    assert_eq!(end.layer.cancel(end.now, options, None), Err(CancelError::Unknown(options)));
}

#[test]
fn a_cancel_of_the_peer_is_answered_and_told_once() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    end.respond(id, &reply(&invite, 180));
    let outputs = end.receive(incoming("CANCEL", "z9hG4bKa", 1), udp());
    assert_eq!(brief(&outputs), [">200", "<CANCEL"]);
    let ok = response_of(&bytes_of(&outputs)[0]);
    assert_eq!(ok.headers.get(Name::CSeq), Some("1 CANCEL"));
    assert_eq!(ok.headers.to().unwrap().tag(), Some("ours"), "the tag of the 180 (9.2)");
    let again = end.receive(incoming("CANCEL", "z9hG4bKa", 1), udp());
    assert_eq!(brief(&again), [">200"]);
    assert_eq!(bytes_of(&again), bytes_of(&outputs));
    assert_eq!(brief(&end.respond(id, &reply(&invite, 487))), [">487"]);
}

#[test]
fn a_cancel_that_lost_the_race_is_answered_and_changes_nothing() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    end.respond(id, &reply(&invite, 200));
    assert_eq!(brief(&end.receive(incoming("CANCEL", "z9hG4bKa", 1), udp())), [">200"]);
    assert_eq!(end.layer.counters().cancels_received, 0);
}

#[test]
fn a_cancel_of_nothing_is_481_with_one_tag() {
    let mut end = End::new();
    let first = bytes_of(&end.receive(incoming("CANCEL", "z9hG4bKnone", 1), udp()));
    let second = bytes_of(&end.receive(incoming("CANCEL", "z9hG4bKnone", 1), udp()));
    assert_eq!(first, second);
    let response = response_of(&first[0]);
    assert_eq!(response.status.get(), 481);
    assert!(response.headers.to().unwrap().tag().is_some());
    assert_eq!((end.layer.counters().cancels_unmatched, end.layer.len()), (2, 0));
}
