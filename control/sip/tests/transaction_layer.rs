//! The transaction layer: matching, repetition, ACK, refusals of its own, and its bounds; one layer, driven by hand.

mod transaction_support;

use nebula_sip::timers::Base;
use nebula_sip::transaction::{Options, Output, RequestError, RespondError};
use nebula_sip::{Flow, Method, Name};
use transaction_support::*;

const FOREVER_MS: u64 = 1_000_000;

fn at(instants: &[(u128, String)], what: &str) -> Vec<u128> {
    instants.iter().filter(|(_, seen)| seen == what).map(|(at, _)| *at).collect()
}

#[test]
fn an_invite_is_repeated_as_the_same_bytes_and_times_out() {
    let mut end = End::new();
    let (_, first) = end.send(outgoing(Method::Invite), udp());
    let via = request_of(&first).headers.via_top().unwrap();
    assert_eq!((via.transport.as_str(), via.host.as_str(), via.port), ("UDP", "192.0.2.1", Some(5060)));
    assert!(via.rfc3261_branch().is_some() && via.params.has("rport"));
    let seen = end.run_until_ms(FOREVER_MS);
    assert!(seen.iter().all(|(_, o)| !matches!(o, Output::Transmit { bytes, .. } if *bytes != first)));
    let seen = timed(&seen);
    assert_eq!(at(&seen, ">INVITE"), [500, 1_500, 3_500, 7_500, 15_500, 31_500]);
    assert_eq!(seen[seen.len() - 2..], [(32_000, "timeout".to_owned()), (32_000, "terminated".to_owned())]);
    assert!(end.layer.is_empty());
    assert_eq!((end.layer.counters().retransmissions, end.layer.counters().timeouts), (6, 1));
}

#[test]
fn every_2xx_reaches_the_user_until_timer_m() {
    let mut end = End::new();
    let (_, invite) = end.send(outgoing(Method::Invite), udp());
    assert_eq!(brief(&end.receive(answer(&invite, 180, "a"), udp())), ["<180"]);
    assert_eq!(brief(&end.receive(answer(&invite, 200, "a"), udp())), ["<200"]);
    assert_eq!(brief(&end.receive(answer(&invite, 200, "a"), udp())), ["<200"]);
    assert_eq!(brief(&end.receive(answer(&invite, 200, "b"), udp())), ["<200"]);
    assert_eq!(brief(&end.receive(answer(&invite, 180, "a"), udp())), [""; 0]);
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(32_000, "terminated".to_owned())]);
    assert_eq!(brief(&end.receive(answer(&invite, 200, "a"), udp())), [""; 0]);
    assert_eq!(end.layer.counters().responses_stray, 1);
}

#[test]
fn a_refusal_is_acknowledged_each_time_and_delivered_once() {
    let mut end = End::new();
    let (_, invite) = end.send(outgoing(Method::Invite), udp());
    let outputs = end.receive(answer(&invite, 486, "theirs"), udp());
    assert_eq!(brief(&outputs), [">ACK", "<486"]);
    // 17.1.1.3
    let (ack, invite_sent) = (request_of(&bytes_of(&outputs)[0]), request_of(&invite));
    assert_eq!(ack.uri, invite_sent.uri);
    for same in [Name::Via, Name::From, Name::CallId, Name::Route] {
        assert_eq!(ack.headers.get(&same), invite_sent.headers.get(&same), "{same}");
    }
    assert_eq!(ack.headers.to().unwrap().tag(), Some("theirs"));
    assert_eq!(ack.headers.get(Name::CSeq), Some("7 ACK"));
    assert_eq!(ack.headers.get(Name::MaxForwards), Some("70"));
    assert_eq!(ack.headers.vias().unwrap().len(), 1);
    assert_eq!(brief(&end.receive(answer(&invite, 486, "theirs"), udp())), [">ACK"]);
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(32_000, "terminated".to_owned())]);
}

#[test]
fn a_request_ends_5_s_after_its_answer_over_udp_and_at_once_over_tcp() {
    let mut end = End::new();
    let (_, options) = end.send(outgoing(Method::Options), udp());
    assert_eq!(brief(&end.receive(answer(&options, 200, "a"), udp())), ["<200"]);
    assert_eq!(brief(&end.receive(answer(&options, 200, "a"), udp())), [""; 0]);
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(5_000, "terminated".to_owned())]);
    let (_, options) = end.send(outgoing(Method::Options), tcp());
    assert_eq!(brief(&end.receive(answer(&options, 200, "a"), tcp())), ["<200", "terminated"]);
    assert!(end.layer.is_empty());
}

#[test]
fn an_incoming_invite_gets_100_then_what_the_user_says_and_repeats_get_the_latest() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let outputs = end.receive(invite.clone(), udp());
    assert_eq!(brief(&outputs), ["<INVITE"]);
    let id = id_of(&outputs);
    assert_eq!(timed(&end.run_until_ms(300)), [(200, ">100".to_owned())]);
    assert_eq!(brief(&end.receive(invite.clone(), udp())), [">100"]);
    assert_eq!(brief(&end.respond(id, &reply(&invite, 180))), [">180"]);
    assert_eq!(brief(&end.receive(invite.clone(), udp())), [">180"]);
    assert_eq!(brief(&end.respond(id, &reply(&invite, 486))), [">486"]);
    assert_eq!(brief(&end.receive(invite.clone(), udp())), [">486"]);
    let seen = timed(&end.run_until_ms(2_000));
    assert_eq!(at(&seen, ">486"), [800, 1_800]);
    assert_eq!(brief(&end.receive(incoming("ACK", "z9hG4bKa", 1), udp())), [""; 0]);
    assert_eq!(brief(&end.receive(incoming("ACK", "z9hG4bKa", 1), udp())), [""; 0]);
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(7_000, "terminated".to_owned())]);
    assert_eq!(end.layer.counters().requests_repeated, 3);
}

#[test]
fn the_ack_of_a_2xx_goes_to_the_user_and_the_2xx_may_be_repeated() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    assert_eq!(brief(&end.respond(id, &reply(&invite, 200))), [">200"]);
    assert_eq!(brief(&end.receive(invite.clone(), udp())), [""; 0], "absorbed: the user repeats");
    assert_eq!(brief(&end.respond(id, &reply(&invite, 200))), [">200"]);
    assert_eq!(brief(&end.receive(incoming("ACK", "z9hG4bKother", 1), udp())), ["<ACK"]);
    assert_eq!(brief(&end.receive(incoming("ACK", "z9hG4bKa", 1), udp())), ["<ACK"], "some phones reuse the branch");
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(32_000, "terminated".to_owned())]);
}

#[test]
fn a_refusal_without_ack_times_out() {
    let mut end = End::new();
    let invite = incoming("INVITE", "z9hG4bKa", 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    end.respond(id, &reply(&invite, 404));
    let seen = timed(&end.run_until_ms(FOREVER_MS));
    assert_eq!(at(&seen, "timeout"), [32_000]);
    assert_eq!(at(&seen, "terminated"), [32_000]);
}

#[test]
fn an_answer_to_another_request_is_repeated_for_32_s() {
    let mut end = End::new();
    let bye = incoming("BYE", "z9hG4bKa", 2);
    let id = id_of(&end.receive(bye.clone(), udp()));
    assert_eq!(brief(&end.receive(bye.clone(), udp())), [""; 0], "absorbed while the user thinks");
    assert_eq!(brief(&end.respond(id, &reply(&bye, 200))), [">200"]);
    assert_eq!(brief(&end.receive(bye.clone(), udp())), [">200"]);
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(32_000, "terminated".to_owned())]);
    let id = id_of(&end.receive(bye.clone(), tcp()));
    assert_eq!(brief(&end.respond(id, &reply(&bye, 200))), [">200", "terminated"]);
}

#[test]
fn the_user_answers_once() {
    let mut end = End::new();
    let bye = incoming("BYE", "z9hG4bKa", 2);
    let id = id_of(&end.receive(bye.clone(), udp()));
    end.respond(id, &reply(&bye, 200));
    let again = end.layer.respond(end.now, id, &reply(&bye, 200));
    assert!(matches!(again, Err(RespondError::NotNow { .. })), "{again:?}");
    let (client, _) = end.send(outgoing(Method::Options), udp());
    let wrong = end.layer.respond(end.now, client, &reply(&bye, 200));
    assert!(matches!(wrong, Err(RespondError::NotNow { .. })), "{wrong:?}");
    end.run_until_ms(FOREVER_MS);
    assert_eq!(end.layer.respond(end.now, id, &reply(&bye, 200)), Err(RespondError::Unknown(id)));
    assert!(end.drain().is_empty());
}

#[test]
fn the_same_branch_from_another_sender_or_of_another_method_is_another_transaction() {
    let mut end = End::new();
    end.receive(incoming("OPTIONS", "z9hG4bKa", 1), udp());
    let other = incoming_via("OPTIONS", "SIP/2.0/UDP 192.0.2.8:5060;branch=z9hG4bKa", 2);
    assert_eq!(brief(&end.receive(other, udp())), ["<OPTIONS"]);
    assert_eq!(brief(&end.receive(incoming("INFO", "z9hG4bKa", 3), udp())), ["<INFO"]);
    let spelled = incoming_via("OPTIONS", "SIP/2.0/UDP 192.0.2.9;branch=z9hG4bKa", 1);
    assert_eq!(brief(&end.receive(spelled, udp())), [""; 0], "5060 is the default port");
    assert_eq!(end.layer.len(), 3);
}

#[test]
fn a_peer_of_rfc_2543_is_matched_without_a_branch() {
    let mut end = End::new();
    let via = "SIP/2.0/UDP 192.0.2.9:5060";
    let invite = incoming_via("INVITE", via, 1);
    let id = id_of(&end.receive(invite.clone(), udp()));
    assert_eq!(brief(&end.receive(invite.clone(), udp())), [">100"]);
    end.respond(id, &reply(&invite, 486));
    let mut ack = incoming_via("ACK", via, 1);
    ack.headers.set_to_tag("ours").unwrap();
    assert_eq!(brief(&end.receive(ack, udp())), [""; 0]);
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(5_000, "terminated".to_owned())], "timer I, so it was matched");
    let next = incoming_via("INVITE", via, 2);
    assert_eq!(brief(&end.receive(next, udp())), ["<INVITE"]);
}

#[test]
fn a_request_that_comes_over_two_ways_is_a_loop_unless_it_is_in_a_dialog() {
    let mut end = End::new();
    end.receive(incoming("INVITE", "z9hG4bKa", 1), udp());
    let merged = incoming("INVITE", "z9hG4bKb", 1);
    let outputs = end.receive(merged.clone(), udp());
    assert_eq!(brief(&outputs), [">482"]);
    assert_eq!(bytes_of(&outputs), bytes_of(&end.receive(merged, udp())), "the same answer to the same request");
    assert_eq!(end.layer.counters().requests_merged, 2);
    let mut inside = incoming("INVITE", "z9hG4bKc", 1);
    inside.headers.set_to_tag("ours").unwrap();
    assert_eq!(brief(&end.receive(inside, udp())), ["<INVITE"]);
    assert_eq!(brief(&end.receive(incoming("INVITE", "z9hG4bKd", 2), udp())), ["<INVITE"], "a new CSeq is new");
}

#[test]
fn the_table_is_bounded() {
    let mut end = End::with(Options { transactions_max: 2, ..Options::default() });
    let (first, _) = end.send(outgoing(Method::Options), udp());
    end.receive(incoming("OPTIONS", "z9hG4bKa", 1), udp());
    let outputs = end.receive(incoming("OPTIONS", "z9hG4bKb", 2), udp());
    assert_eq!(brief(&outputs), [">503"]);
    assert_eq!(response_of(&bytes_of(&outputs)[0]).headers.retry_after(), Ok(Some(5)));
    let refused = end.layer.request(end.now, outgoing(Method::Options), udp());
    assert_eq!(refused, Err(RequestError::Full { transactions_max: 2 }));
    assert_eq!(end.layer.counters().refused_full, 2);
    end.run_until_ms(FOREVER_MS);
    assert_eq!(end.layer.len(), 1, "the client's timed out, the user still owes an answer");
    let (next, _) = end.send(outgoing(Method::Options), udp());
    assert_ne!(first, next);
}

#[test]
fn ack_and_cancel_open_no_transaction() {
    let mut end = End::new();
    for method in [Method::Ack, Method::Cancel] {
        let refused = end.layer.request(end.now, outgoing(method.clone()), udp());
        assert_eq!(refused, Err(RequestError::NoTransactionOfItsOwn(method)));
    }
    let bytes = end.layer.send_ack(outgoing(Method::Ack), udp());
    let outputs = end.drain();
    assert_eq!(bytes_of(&outputs), std::slice::from_ref(&bytes));
    assert!(request_of(&bytes).headers.via_top().unwrap().rfc3261_branch().is_some());
    assert!(end.layer.is_empty());
}

#[test]
fn stray_responses_are_counted_and_dropped() {
    let mut end = End::new();
    let (_, options) = end.send(outgoing(Method::Options), udp());
    let mut other_method = answer(&options, 200, "a");
    other_method.headers.set(Name::CSeq, "7 INVITE");
    let mut other_branch = answer(&options, 200, "a");
    other_branch.headers.set(Name::Via, "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKguess");
    let mut two_vias = answer(&options, 200, "a");
    two_vias.headers.insert_first(Name::Via, options_via(&options));
    for stray in [other_method, other_branch, two_vias] {
        assert_eq!(brief(&end.receive(stray, udp())), [""; 0]);
    }
    assert_eq!(end.layer.counters().responses_stray, 3);
    assert_eq!(end.layer.len(), 1);
}

fn options_via(sent: &bytes::Bytes) -> String {
    request_of(sent).headers.via_top().unwrap().to_string()
}

#[test]
fn answers_go_where_the_via_says() {
    let behind_nat = Flow { remote: addr("203.0.113.5:40000"), ..udp() };
    for (via, flow, target) in [
        ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKa;rport", behind_nat, "203.0.113.5:40000"),
        ("SIP/2.0/UDP 10.0.0.1:5070;branch=z9hG4bKb", behind_nat, "203.0.113.5:5070"),
        ("SIP/2.0/UDP phone.example;branch=z9hG4bKc", behind_nat, "203.0.113.5:5060"),
        ("SIP/2.0/TCP 10.0.0.1:5070;branch=z9hG4bKd", tcp(), PEER),
    ] {
        let mut end = End::new();
        let outputs = end.receive(incoming_via("OPTIONS", via, 1), flow);
        let Some(Output::Request { id, request, flow: seen }) = outputs.into_iter().next() else { panic!("{via}") };
        assert_eq!(seen, flow, "the user sees the flow itself");
        let response = reply(&request, 200);
        match end.respond(id, &response).first() {
            Some(Output::Transmit { flow, .. }) => assert_eq!(flow.remote, addr(target), "{via}"),
            other => panic!("{via}: {other:?}"),
        }
        assert_eq!(response.headers.via_top().unwrap().received(), Some(flow.remote.ip()), "{via}");
    }
}

#[test]
fn a_lost_connection_ends_what_ran_over_it() {
    let mut end = End::new();
    let (invite, sent) = end.send(outgoing(Method::Invite), tcp());
    end.receive(answer(&sent, 180, "a"), tcp());
    let (_, _) = end.send(outgoing(Method::Options), Flow { connection: 8, ..tcp() });
    end.layer.connection_lost(end.now, 7);
    let outputs = end.drain();
    assert_eq!(outputs, [Output::TransportFailed { id: invite }, Output::Terminated { id: invite }]);
    assert_eq!(end.layer.len(), 1);
    end.layer.connection_lost(end.now, 7);
    assert!(end.drain().is_empty());
}

#[test]
fn a_connection_that_was_opened_for_a_request_is_learned_from_its_response() {
    let mut end = End::new();
    let (invite, sent) = end.send(outgoing(Method::Invite), Flow { connection: 0, ..tcp() });
    end.receive(answer(&sent, 180, "a"), tcp());
    end.layer.connection_lost(end.now, tcp().connection);
    assert_eq!(end.drain(), [Output::TransportFailed { id: invite }, Output::Terminated { id: invite }]);
}

#[test]
fn trying_may_be_at_once_or_left_to_the_user() {
    let with =
        |trying_after| End::with(Options { timers: Base { trying_after, ..Base::default() }, ..Options::default() });
    let mut at_once = with(Some(std::time::Duration::ZERO));
    assert_eq!(brief(&at_once.receive(incoming("INVITE", "z9hG4bKa", 1), udp())), ["<INVITE", ">100"]);
    let mut never = with(None);
    assert_eq!(brief(&never.receive(incoming("INVITE", "z9hG4bKa", 1), udp())), ["<INVITE"]);
    assert_eq!(timed(&never.run_until_ms(FOREVER_MS)), []);
}

#[test]
fn a_timer_earlier_than_the_one_that_waits_is_not_late() {
    let timers = Base { t4: std::time::Duration::from_secs(1), ..Base::default() };
    let mut end = End::with(Options { timers, ..Options::default() });
    let (_, options) = end.send(outgoing(Method::Options), udp());
    end.receive(answer(&options, 100, ""), udp());
    // E waits for 4.5 s when the answer starts K, which is shorter here.
    assert_eq!(timed(&end.run_until_ms(600)), [(500, ">OPTIONS".to_owned())]);
    end.receive(answer(&options, 200, "a"), udp());
    assert_eq!(timed(&end.run_until_ms(FOREVER_MS)), [(1_600, "terminated".to_owned())]);
}

#[test]
fn ten_thousand_calls_leave_nothing_and_the_timer_queue_stays_as_long_as_the_table() {
    let mut end = End::new();
    for n in 0..10_000u32 {
        let invite = incoming("INVITE", &format!("z9hG4bK{n}"), n);
        let id = id_of(&end.receive(invite.clone(), udp()));
        end.respond(id, &reply(&invite, 180));
        end.respond(id, &reply(&invite, 486));
        end.receive(incoming("ACK", &format!("z9hG4bK{n}"), n), udp());
    }
    assert_eq!(end.layer.len(), 10_000);
    assert!(end.layer.queue_len() <= 20_000, "{} wake-ups", end.layer.queue_len());
    let ended = end.run_until_ms(FOREVER_MS);
    assert_eq!((ended.len(), end.layer.len(), end.layer.queue_len()), (10_000, 0, 0));
}
