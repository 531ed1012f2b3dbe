//! Dialogs of both sides against each other and against the examples of RFC 3261 section 12: identity, routes, targets,
//! sequence numbers.

mod transaction_support;

use nebula_sip::dialog::{Dialog, DialogId, Error, Refusal, Role, State};
use nebula_sip::{Message, Method, Name, NameAddr, Request, Response, StatusCode};
use transaction_support::parse;

const INVITE: &str = "INVITE sip:bob@example.com SIP/2.0\n\
    Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKa\n\
    Max-Forwards: 70\n\
    From: \"Alice\" <sip:alice@example.com>;tag=alice\n\
    To: <sip:bob@example.com>\n\
    Call-ID: call\n\
    CSeq: 314 INVITE\n\
    Contact: <sip:alice@192.0.2.1>\n\
    Content-Length: 0\n\n";

fn invite() -> Request {
    request(INVITE)
}

fn request(text: &str) -> Request {
    match parse(text) {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

fn contact(text: &str) -> NameAddr {
    NameAddr::parse(text).unwrap()
}

/// The INVITE as it reached Bob through two proxies, the nearer one on top.
fn invite_at_bob() -> Request {
    let mut invite = invite();
    invite.headers.push(Name::RecordRoute, "<sip:p2;lr>");
    invite.headers.push(Name::RecordRoute, "<sip:p1;lr>");
    invite
}

/// Both sides of one call, answered.
fn call() -> (Dialog, Dialog) {
    let mut bob = Dialog::uas(&invite_at_bob(), "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    let answer = bob.response(&invite_at_bob(), StatusCode::OK);
    bob.confirm();
    (Dialog::uac(&invite(), &answer).unwrap(), bob)
}

/// As it arrives at the other side.
fn over_the_wire(mut request: Request) -> Request {
    request.headers.insert_first(Name::Via, "SIP/2.0/UDP 192.0.2.1;branch=z9hG4bKx");
    match Message::parse(request.to_bytes()).expect("what a dialog makes can be read") {
        Message::Request(request) => request,
        Message::Response(_) => unreachable!(),
    }
}

fn routes(request: &Request) -> Vec<String> {
    request.headers.routes().unwrap().iter().map(|route| route.uri.to_string()).collect()
}

#[test]
fn both_sides_agree_on_who_they_are() {
    let (alice, bob) = call();
    assert_eq!((alice.role(), bob.role()), (Role::Uac, Role::Uas));
    assert_eq!((alice.state(), bob.state()), (State::Confirmed, State::Confirmed));
    assert_eq!(alice.id().call_id, bob.id().call_id);
    assert_eq!((&*alice.id().local_tag, &*alice.id().remote_tag), ("alice", "bob"));
    assert_eq!((&*bob.id().local_tag, &*bob.id().remote_tag), ("bob", "alice"));
}

#[test]
fn requests_of_both_sides_are_taken_by_the_other() {
    let (mut alice, mut bob) = call();
    let bye = over_the_wire(alice.request(Method::Bye));
    assert_eq!(DialogId::of_request(&bye).unwrap().as_ref(), Some(bob.id()));
    assert_eq!(bob.receive(&bye), Ok(()));
    assert_eq!(bye.headers.get(Name::CSeq), Some("315 BYE"));
    assert_eq!(bye.headers.get(Name::From), Some("\"Alice\" <sip:alice@example.com>;tag=alice"));
    assert_eq!(bye.headers.get(Name::MaxForwards), Some("70"));
    assert!(!bye.headers.has(Name::Contact), "BYE moves nobody");
    let info = over_the_wire(bob.request(Method::Info));
    assert_eq!(info.headers.get(Name::CSeq), Some("1 INFO"));
    assert_eq!(alice.receive(&info), Ok(()));
    assert_eq!(over_the_wire(bob.request(Method::Info)).headers.get(Name::CSeq), Some("2 INFO"));
}

#[test]
fn routes_run_from_near_to_far_on_both_sides() {
    let (mut alice, mut bob) = call();
    let (from_alice, from_bob) = (alice.request(Method::Bye), bob.request(Method::Bye));
    assert_eq!(routes(&from_alice), ["sip:p1;lr", "sip:p2;lr"]);
    assert_eq!(routes(&from_bob), ["sip:p2;lr", "sip:p1;lr"]);
    assert_eq!(from_alice.uri.to_string(), "sip:bob@192.0.2.2");
    assert_eq!(from_bob.uri.to_string(), "sip:alice@192.0.2.1");
    assert_eq!(alice.next_hop().to_string(), "sip:p1;lr");
}

#[test]
fn a_strict_router_is_put_into_the_request_uri() {
    let mut invite = invite();
    invite.headers.push(Name::RecordRoute, "<sip:strict.example.com>, <sip:p1;lr>");
    let mut bob = Dialog::uas(&invite, "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    let bye = bob.request(Method::Bye);
    assert_eq!(bye.uri.to_string(), "sip:strict.example.com");
    assert_eq!(routes(&bye), ["sip:p1;lr", "sip:alice@192.0.2.1"]);
    assert_eq!(bob.next_hop().to_string(), "sip:strict.example.com");
    let direct = Dialog::uas(&self::invite(), "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    assert_eq!(direct.next_hop().to_string(), "sip:alice@192.0.2.1");
}

#[test]
fn a_response_that_makes_a_dialog_bears_contact_and_record_route() {
    let bob = Dialog::uas(&invite_at_bob(), "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    let ringing = bob.response(&invite_at_bob(), StatusCode::RINGING);
    assert_eq!(ringing.headers.get(Name::Contact), Some("<sip:bob@192.0.2.2>"));
    let recorded: Vec<_> = ringing.headers.get_all(Name::RecordRoute).collect();
    assert_eq!(recorded, ["<sip:p2;lr>", "<sip:p1;lr>"]);
    assert_eq!(ringing.headers.to().unwrap().tag(), Some("bob"));
    let busy = bob.response(&invite_at_bob(), StatusCode::BUSY_HERE);
    assert!(!busy.headers.has(Name::Contact) && !busy.headers.has(Name::RecordRoute));
    assert_eq!(busy.headers.to().unwrap().tag(), Some("bob"));
}

#[test]
fn an_early_dialog_is_confirmed_by_the_2xx_with_its_routes_and_target() {
    let bob = Dialog::uas(&invite(), "bob", contact("<sip:bob@early>")).unwrap();
    let mut alice = Dialog::uac(&invite(), &bob.response(&invite(), StatusCode::RINGING)).unwrap();
    assert_eq!((alice.state(), alice.target().to_string().as_str()), (State::Early, "sip:bob@early"));
    let bob = Dialog::uas(&invite_at_bob(), "bob", contact("<sip:bob@late>")).unwrap();
    alice.receive_response(&bob.response(&invite_at_bob(), StatusCode::OK)).unwrap();
    assert_eq!((alice.state(), alice.target().to_string().as_str()), (State::Confirmed, "sip:bob@late"));
    assert_eq!(routes(&alice.request(Method::Bye)), ["sip:p1;lr", "sip:p2;lr"]);
}

#[test]
fn a_target_refresh_moves_the_target_but_not_the_routes() {
    let (mut alice, mut bob) = call();
    let mut update = over_the_wire(alice.request(Method::Update));
    update.headers.set(Name::Contact, "<sip:alice@192.0.2.77>");
    update.headers.push(Name::RecordRoute, "<sip:other;lr>");
    bob.receive(&update).unwrap();
    let mut answer = bob.response(&update, StatusCode::OK);
    answer.headers.set(Name::Contact, "<sip:bob@192.0.2.88>");
    alice.receive_response(&answer).unwrap();
    let (from_alice, from_bob) = (alice.request(Method::Bye), bob.request(Method::Bye));
    assert_eq!(from_bob.uri.to_string(), "sip:alice@192.0.2.77");
    assert_eq!(from_alice.uri.to_string(), "sip:bob@192.0.2.88");
    assert_eq!(routes(&from_bob), ["sip:p2;lr", "sip:p1;lr"]);
    let mut info = over_the_wire(alice.request(Method::Info));
    info.headers.set(Name::Contact, "<sip:nobody@192.0.2.99>");
    bob.receive(&info).unwrap();
    assert_eq!(bob.target().to_string(), "sip:alice@192.0.2.77", "INFO does not move it");
}

#[test]
fn a_lower_cseq_is_refused_with_500_and_retry_after() {
    let (mut alice, mut bob) = call();
    let first = over_the_wire(alice.request(Method::Info));
    let second = over_the_wire(alice.request(Method::Info));
    assert_eq!(bob.receive(&second), Ok(()));
    let refusal = bob.receive(&first).unwrap_err();
    assert_eq!(refusal, Refusal::OutOfOrder { got: 315, seen: 316 });
    let response = refusal.response(&first);
    assert_eq!((response.status.get(), response.headers.retry_after()), (500, Ok(Some(1))));
    assert_eq!(bob.receive(&over_the_wire(alice.request(Method::Bye))), Ok(()));
}

#[test]
fn a_request_of_another_dialog_is_481_and_changes_nothing() {
    let (mut alice, mut bob) = call();
    let before = bob.clone();
    let mut bye = over_the_wire(alice.request(Method::Bye));
    bye.headers.set(Name::From, "<sip:alice@example.com>;tag=mallory");
    let refusal = bob.receive(&bye).unwrap_err();
    assert_eq!((refusal, refusal.status().get()), (Refusal::Unknown, 481));
    assert_eq!(bob, before);
}

#[test]
fn ack_bears_the_number_of_its_invite() {
    let (mut alice, mut bob) = call();
    let answer = Response::to(&invite(), StatusCode::OK);
    let ack = over_the_wire(alice.ack(&answer).unwrap());
    assert_eq!(ack.headers.get(Name::CSeq), Some("314 ACK"));
    assert_eq!(routes(&ack), ["sip:p1;lr", "sip:p2;lr"]);
    alice.request(Method::Info);
    let reinvite = over_the_wire(alice.request(Method::Invite));
    assert!(reinvite.headers.has(Name::Contact));
    bob.receive(&reinvite).unwrap();
    let answer = bob.response(&reinvite, StatusCode::OK);
    let ack = over_the_wire(alice.ack(&answer).unwrap());
    assert_eq!(ack.headers.get(Name::CSeq), Some("316 ACK"));
    assert_eq!(bob.receive(&ack), Ok(()));
    assert_eq!(bob.receive(&over_the_wire(alice.ack(&Response::to(&invite(), StatusCode::OK)).unwrap())), Ok(()));
}

#[test]
fn prack_names_what_it_acknowledges() {
    let bob = Dialog::uas(&invite(), "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    let ringing = bob.response(&invite(), StatusCode::RINGING);
    let mut alice = Dialog::uac(&invite(), &ringing).unwrap();
    assert_eq!(alice.prack(&ringing), Ok(None));
    let prack = alice.prack(&ringing.with(Name::RSeq, "988789")).unwrap().unwrap();
    assert_eq!(prack.headers.get(Name::RAck), Some("988789 314 INVITE"));
    assert_eq!(prack.headers.get(Name::CSeq), Some("315 PRACK"));
}

#[test]
fn what_makes_no_dialog_is_refused() {
    let bob = Dialog::uas(&invite(), "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    for status in [100, 302, 404, 603] {
        let status = StatusCode::new(status).unwrap();
        assert_eq!(Dialog::uac(&invite(), &bob.response(&invite(), status)), Err(Error::Status(status)));
    }
    let mut lost = invite();
    lost.headers.remove(Name::Contact);
    assert_eq!(Dialog::uas(&lost, "bob", contact("<sip:bob@192.0.2.2>")), Err(Error::NoContact));
    let mut answer = bob.response(&invite(), StatusCode::OK);
    answer.headers.remove(Name::Contact);
    assert_eq!(Dialog::uac(&invite(), &answer), Err(Error::NoContact));
}

#[test]
fn a_peer_of_rfc_2543_has_an_empty_tag() {
    let old = request(&INVITE.replace(";tag=alice", ""));
    let mut bob = Dialog::uas(&old, "bob", contact("<sip:bob@192.0.2.2>")).unwrap();
    assert_eq!(&*bob.id().remote_tag, "");
    let bye = request(
        &INVITE
            .replace(";tag=alice", "")
            .replace("INVITE", "BYE")
            .replace("314", "315")
            .replace("To: <sip:bob@example.com>", "To: <sip:bob@example.com>;tag=bob"),
    );
    assert_eq!(bob.receive(&bye), Ok(()));
}
