//! Headers are found by any spelling, kept in order, and changed without touching their neighbours.

use bytes::Bytes;
use nebula_sip::message::{Contacts, Fault, HeaderError, Headers, Message, Method, Name, Refresher, Request, Response};
use nebula_sip::message::{ParseError, StatusCode, limits};

const HEAD: &str = "INVITE sip:a@b SIP/2.0\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\n\
                    To: <sip:b@b>\r\nCall-ID: c\r\nCSeq: 1 INVITE\r\n";

fn parse(extra: &str) -> Result<Request, ParseError> {
    match Message::parse(Bytes::from(format!("{HEAD}{extra}\r\n"))) {
        Ok(Message::Request(request)) => Ok(request),
        Ok(Message::Response(response)) => panic!("{response:?}"),
        Err(malformed) => Err(malformed.error),
    }
}

fn headers(extra: &str) -> Headers {
    parse(extra).unwrap_or_else(|e| panic!("{extra}: {e}")).headers
}

#[test]
fn any_spelling_finds_a_header_and_is_kept() {
    let headers = headers("SUPPORTED: timer\r\nk: 100rel , Path;x=1\r\nx-Own:  1 \r\nX-OWN:2\r\n");
    assert_eq!(headers.tokens(Name::Supported).unwrap(), ["timer", "100rel", "Path"]);
    assert!(headers.lists(Name::Supported, "path") && !headers.lists(Name::Supported, "pat"));
    assert_eq!(headers.get_all(Name::from("X-Own")).collect::<Vec<_>>(), ["1", "2"]);
    let spelled: Vec<&str> = headers.iter().skip(5).map(|h| h.spelled.as_str()).collect();
    assert_eq!(spelled, ["SUPPORTED", "k", "x-Own", "X-OWN"]);
}

#[test]
fn typed_views_read_what_they_are_for() {
    let h = headers(
        "Session-Expires: 1800;refresher=uas\r\nMin-SE: 90\r\nExpires: 99999999999\r\nMax-Forwards: 300\r\n\
         Date: Sat, 13 Nov 2010 23:29:00 GMT\r\nContact: <sip:a@1.2.3.4>;q=0.5, <sip:b@b>\r\n\
         Record-Route: <sip:p1;lr>,<sip:p2;lr>\r\nRoute: <sip:p3;lr>\r\nPath: <sip:p4>\r\nAccept: application/sdp, text/*\r\n\
         Content-Type: application/sdp;charset=utf-8\r\nRAck: 7 1 INVITE\r\nSubject:\r\n",
    );
    let session = h.session_expires().unwrap().unwrap();
    assert_eq!((session.interval_s, session.refresher), (1800, Some(Refresher::Uas)));
    assert_eq!(h.min_se().unwrap(), Some(90));
    assert_eq!(h.expires().unwrap(), Some(u32::MAX));
    assert_eq!(h.max_forwards().unwrap(), Some(255));
    assert_eq!(h.date().unwrap(), Some(1_289_690_940));
    assert_eq!(h.contact().unwrap().unwrap().uri.to_string(), "sip:a@1.2.3.4");
    assert!(matches!(h.contacts().unwrap(), Contacts::List(list) if list.len() == 2));
    let hosts =
        |list: Vec<nebula_sip::NameAddr>| list.iter().map(|a| a.uri.host().unwrap().to_string()).collect::<Vec<_>>();
    assert_eq!(hosts(h.record_routes().unwrap()), ["p1", "p2"]);
    assert_eq!((hosts(h.routes().unwrap()), hosts(h.paths().unwrap())), (vec!["p3".into()], vec!["p4".into()]));
    assert_eq!(h.accept().unwrap().unwrap().len(), 2);
    assert!(h.content_type().unwrap().unwrap().is("application", "SDP"));
    assert_eq!((h.rack().unwrap().unwrap().rseq, h.get(Name::Subject)), (7, Some("")));
    // What is not there is none, not wrong.
    assert_eq!((h.rseq().unwrap(), h.retry_after().unwrap(), h.min_expires().unwrap()), (None, None, None));
    assert!(matches!(headers("Contact: *\r\n").contacts().unwrap(), Contacts::Star));
    assert_eq!(headers("Expires: soon\r\n").expires().unwrap(), Some(3600));
}

#[test]
fn retry_after_may_have_a_comment_and_parameters() {
    let mut h = Headers::default();
    for (value, expected) in [("120", 120), ("3600;duration=60", 3600), ("18000 (in (a) meeting) ;x", 18_000)] {
        h.set(Name::RetryAfter, value);
        assert_eq!(h.retry_after().unwrap(), Some(expected), "{value}");
    }
    h.set(Name::RetryAfter, "12 (open");
    assert!(h.retry_after().is_err());
}

#[test]
fn what_is_wrong_is_named() {
    let bad = |extra: &str, name: Name, fault: Fault| match parse(extra) {
        Err(ParseError::Header(HeaderError::Bad { name: n, error })) => {
            assert_eq!((n, error.fault), (name, fault), "{extra}");
        }
        other => panic!("{extra}: {other:?}"),
    };
    bad("Contact: *\r\nContact: <sip:a@b>\r\n", Name::Contact, Fault::Star);
    bad("Max-Forwards: x\r\n", Name::MaxForwards, Fault::Number);
    bad("Route: <sip:a@b> <sip:c@d>\r\n", Name::Route, Fault::Trailing);
    bad("Require: a b\r\n", Name::Require, Fault::Token);
    bad("Authorization: Digest x\r\n", Name::Authorization, Fault::Expected(b'='));
    for (extra, expected) in [
        ("To: <sip:x@y>\r\n", ParseError::Header(HeaderError::Repeated(Name::To))),
        ("no colon\r\n", ParseError::HeaderLine { line: 6, error: error(Fault::Expected(b':'), 3) }),
        (": x\r\n", ParseError::HeaderLine { line: 6, error: error(Fault::Token, 0) }),
        ("X: a\rb\r\n", ParseError::HeaderLine { line: 6, error: error(Fault::Control, 4) }),
        ("X: a\nVia: b\r\n", ParseError::HeaderLine { line: 6, error: error(Fault::Control, 4) }),
    ] {
        assert_eq!(parse(extra), Err(expected), "{extra}");
    }
    assert_eq!(
        HeaderError::Bad { name: Name::To, error: error(Fault::Quote, 3) }.to_string(),
        "bad To: unbalanced quote at 3"
    );
}

fn error(fault: Fault, at: usize) -> nebula_sip::message::ValueError {
    nebula_sip::message::ValueError { fault, at }
}

#[test]
fn every_bound_holds_at_its_edge() {
    let many = |count: usize| "X-Y: 1\r\n".repeat(count);
    assert!(parse(&many(limits::HEADERS_MAX - 5)).is_ok());
    assert_eq!(parse(&many(limits::HEADERS_MAX - 4)), Err(ParseError::HeadersTooMany));

    let long = |bytes: usize| format!("X-Y: {}\r\n", "a".repeat(bytes - 5));
    assert!(parse(&long(limits::HEADER_LINE_BYTES_MAX)).is_ok());
    assert_eq!(parse(&long(limits::HEADER_LINE_BYTES_MAX + 1)), Err(ParseError::HeaderTooLong { line: 6 }));

    let list = |count: usize| format!("Route: {}\r\n", vec!["<sip:a>"; count].join(","));
    assert!(parse(&list(limits::LIST_ELEMENTS_MAX)).is_ok());
    assert!(matches!(
        parse(&list(limits::LIST_ELEMENTS_MAX + 1)),
        Err(ParseError::Header(HeaderError::Bad { error, .. })) if error.fault == Fault::TooMany
    ));

    let params = |count: usize| format!("Contact: <sip:a>{}\r\n", ";x".repeat(count));
    assert!(parse(&params(limits::PARAMS_MAX)).is_ok());
    assert!(parse(&params(limits::PARAMS_MAX + 1)).is_err());

    let padded = |body: usize| format!("{HEAD}\r\n{}", "b".repeat(body));
    let empty = padded(0).len();
    assert!(Message::parse(padded(limits::MESSAGE_BYTES_MAX - empty).into()).is_ok());
    let error = Message::parse(padded(limits::MESSAGE_BYTES_MAX - empty + 1).into()).unwrap_err().error;
    assert_eq!((error.status(), error), (StatusCode::MESSAGE_TOO_LARGE, ParseError::TooLarge));
}

#[test]
fn changes_touch_one_header_only() {
    let mut h = headers("Route: <sip:x>\r\nX-A: 1\r\nX-B: 2\r\nX-a: 3\r\n");
    h.insert_first(Name::Via, "SIP/2.0/UDP ours;branch=z9hG4bK0");
    h.insert_first(Name::RecordRoute, "<sip:us;lr>");
    h.set(Name::from("X-A"), "4");
    h.push(Name::from("X-A"), "5");
    assert!(h.remove(Name::Route) && !h.remove(Name::Route));
    let all: Vec<String> = h.iter().map(|h| format!("{}={}", h.name, h.value)).collect();
    assert_eq!(
        all,
        [
            "Record-Route=<sip:us;lr>",
            "Via=SIP/2.0/UDP ours;branch=z9hG4bK0",
            "Via=SIP/2.0/UDP h;branch=z9hG4bK1",
            "From=<sip:a@b>;tag=1",
            "To=<sip:b@b>",
            "Call-ID=c",
            "CSeq=1 INVITE",
            "X-A=4",
            "X-B=2",
            "X-A=5",
        ]
    );
}

#[test]
fn the_top_via_is_changed_and_taken_off_alone() {
    let mut h = Headers::default();
    h.push(Name::Via, "SIP/2.0/UDP a;branch=z9hG4bK1;rport , SIP / 2.0/TCP b;x=\"1,2\"");
    h.push(Name::Via, "SIP/2.0/UDP c");
    h.stamp_via("192.0.2.1:5070".parse().unwrap()).unwrap();
    assert_eq!(
        h.get(Name::Via),
        Some("SIP/2.0/UDP a;branch=z9hG4bK1;rport=5070;received=192.0.2.1 , SIP / 2.0/TCP b;x=\"1,2\"")
    );
    for host in ["a", "b", "c"] {
        assert_eq!(h.pop_via().unwrap().host.as_str(), host);
    }
    assert_eq!(h.pop_via().unwrap_err(), HeaderError::Missing(Name::Via));
}

#[test]
fn a_response_takes_over_what_it_must() {
    let request = parse("Via: SIP/2.0/UDP i\r\nTimestamp: 54\r\nRecord-Route: <sip:p;lr>\r\nX: 1\r\n").unwrap();
    let mut response = Response::to(&request, StatusCode::RINGING);
    response.headers.set_to_tag("t1").unwrap();
    assert_eq!(
        String::from_utf8(response.to_bytes().to_vec()).unwrap(),
        "SIP/2.0 180 Ringing\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:b@b>;tag=t1\r\n\
         Call-ID: c\r\nCSeq: 1 INVITE\r\nVia: SIP/2.0/UDP i\r\nTimestamp: 54\r\nContent-Length: 0\r\n\r\n"
    );
    assert_eq!(request.method, Method::Invite);
}

#[test]
fn display_names_in_latin_1_are_read_all_the_same() {
    let bytes = [&HEAD.as_bytes()[..HEAD.len() - 2], b"\r\nContact: \"J\xfcrgen\" <sip:j@e>\r\n\r\n"].concat();
    let message = Message::parse(bytes.into()).unwrap();
    assert_eq!(message.headers().contact().unwrap().unwrap().display_name().unwrap(), "J\u{fffd}rgen");
}

#[test]
fn a_response_is_not_lost_for_what_nobody_needs() {
    let head = HEAD.replace("INVITE sip:a@b SIP/2.0", "SIP/2.0 200 OK");
    let parse = |extra: &str| Message::parse(format!("{head}{extra}\r\n").into());
    assert!(parse("Date: yesterday\r\nSession-Expires: x\r\nMin-SE:\r\n").is_ok());
    assert!(parse("Contact: <sip:a@b\r\n").is_err());
}
