//! The messages of RFC 4475 and RFC 5118: which are read, which are refused and why. Where the RFC leaves a choice, ours
//! stands in the table.

mod testdata;

use nebula_sip::message::{Fault, HeaderError, Malformed, Message, Method, Name, ParseError, Response, StatusCode};
use testdata::{rfc4475, rfc5118};

/// RFC 4475 sections 3.1.1, 3.2, 3.3, 3.4: messages whose syntax is right, whatever an application says to them.
const VALID: [&str; 27] = [
    "wsinv",
    "intmeth",
    "esc01",
    "escnull",
    "esc02",
    "lwsdisp",
    "longreq",
    "dblreq",
    "semiuri",
    "transports",
    "mpart01",
    "unreason",
    "noreason",
    "badbranch",
    "unkscm",
    "novelsc",
    "unksm2",
    "bext01",
    "invut",
    "regaut01",
    "bcast",
    "zeromf",
    "cparam01",
    "cparam02",
    "regescrt",
    "sdp01",
    "inv2543",
];

fn start_line(fault: Fault) -> impl Fn(&ParseError) -> bool {
    move |error| matches!(error, ParseError::StartLine(e) if e.fault == fault)
}

fn bad(name: Name, fault: Fault) -> impl Fn(&ParseError) -> bool {
    move |error| matches!(error, ParseError::Header(HeaderError::Bad { name: n, error: e }) if *n == name && e.fault == fault)
}

fn is(expected: ParseError) -> impl Fn(&ParseError) -> bool {
    move |error| *error == expected
}

type Expected = Box<dyn Fn(&ParseError) -> bool>;

/// RFC 4475 sections 3.1.2 and 3.3.8 to 3.3.10: what is wrong with each.
fn invalid() -> Vec<(&'static str, Expected)> {
    vec![
        ("badinv01", Box::new(bad(Name::Via, Fault::Param))),
        ("clerr", Box::new(is(ParseError::BodyShort { declared: 9999, available: 154 }))),
        ("ncl", Box::new(bad(Name::ContentLength, Fault::Number))),
        ("scalar02", Box::new(bad(Name::CSeq, Fault::NumberRange))),
        ("scalarlg", Box::new(bad(Name::CSeq, Fault::NumberRange))),
        ("quotbal", Box::new(bad(Name::To, Fault::Quote))),
        ("ltgtruri", Box::new(start_line(Fault::Uri))),
        ("lwsruri", Box::new(start_line(Fault::Trailing))),
        ("lwsstart", Box::new(start_line(Fault::Uri))),
        ("trws", Box::new(start_line(Fault::Trailing))),
        ("escruri", Box::new(start_line(Fault::UriHeaders))),
        ("baddate", Box::new(bad(Name::Date, Fault::Date))),
        ("regbadct", Box::new(bad(Name::Contact, Fault::Brackets))),
        ("badaspec", Box::new(bad(Name::To, Fault::Uri))),
        ("baddn", Box::new(bad(Name::From, Fault::Uri))),
        ("badvers", Box::new(is(ParseError::Version))),
        ("mismatch01", Box::new(is(ParseError::MethodMismatch))),
        ("mismatch02", Box::new(is(ParseError::MethodMismatch))),
        ("bigcode", Box::new(is(ParseError::Status))),
        ("insuf", Box::new(is(HeaderError::Missing(Name::From).into()))),
        ("multi01", Box::new(is(HeaderError::Repeated(Name::From).into()))),
        ("mcl01", Box::new(is(HeaderError::Repeated(Name::ContentLength).into()))),
    ]
}

#[test]
fn every_message_of_rfc_4475_is_in_one_of_the_tables() {
    let Some(all) = testdata::names("rfc4475", ".dat") else { return };
    let mut expected: Vec<String> = VALID.iter().map(|n| n.to_string()).collect();
    expected.extend(invalid().iter().map(|(n, _)| n.to_string()));
    expected.sort();
    assert_eq!(all, expected);
}

#[test]
fn valid_messages_are_read() {
    for name in VALID {
        let Some(bytes) = rfc4475(name) else { return };
        if let Err(malformed) = Message::parse(bytes) {
            panic!("{name}: {}", malformed.error);
        }
    }
}

#[test]
fn invalid_messages_are_refused_for_what_is_wrong() {
    for (name, expected) in invalid() {
        let Some(bytes) = rfc4475(name) else { return };
        match Message::parse(bytes) {
            Ok(_) => panic!("{name}: accepted"),
            Err(malformed) => assert!(expected(&malformed.error), "{name}: {:?}", malformed.error),
        }
    }
}

#[test]
fn broken_requests_can_be_answered_and_broken_responses_cannot() {
    for (name, _) in invalid() {
        let Some(bytes) = rfc4475(name) else { return };
        let Err(Malformed { error, salvage }) = Message::parse(bytes) else { panic!("{name}: accepted") };
        if ["scalarlg", "bigcode"].contains(&name) {
            assert!(salvage.is_none(), "{name}");
            continue;
        }
        let salvage = salvage.unwrap_or_else(|| panic!("{name}: nothing salvaged"));
        let answer = Response::to_salvage(&salvage, error.status()).with_reason(error.to_string());
        let text = String::from_utf8_lossy(&answer.to_bytes()).into_owned();
        let status = if name == "badvers" { 505 } else { 400 };
        assert!(text.starts_with(&format!("SIP/2.0 {status} ")), "{name}: {text}");
        assert!(text.contains("\r\nVia: SIP/") && text.contains("\r\nCSeq: "), "{name}: {text}");
    }
}

#[test]
fn the_tortuous_invite_is_understood() {
    let Some(bytes) = rfc4475("wsinv") else { return };
    let Ok(Message::Request(request)) = Message::parse(bytes) else { panic!() };
    let headers = &request.headers;
    assert_eq!(request.uri.to_string(), "sip:vivekg@chair-dnrc.example.com;unknownparam");
    assert_eq!(headers.to().unwrap().tag(), Some("1918181833n"));
    assert_eq!(headers.from().unwrap().display_name().unwrap(), "J Rosenberg \\\"");
    assert_eq!(headers.max_forwards().unwrap(), Some(68));
    assert_eq!(headers.cseq().unwrap().to_string(), "9 INVITE");
    let vias: Vec<String> = headers.vias().unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(
        vias,
        [
            "SIP/2.0/UDP 192.0.2.2;branch=390skdjuw",
            "SIP/2.0/TCP spindle.example.com;branch=z9hG4bK9ikj8",
            "SIP/2.0/UDP 192.168.255.111;branch=z9hG4bK30239",
        ]
    );
    assert_eq!(headers.get(Name::Subject), Some(""));
    assert_eq!(headers.get(Name::from("newfangledheader")), Some("newfangled value continued newfangled value"));
    assert_eq!(headers.get(Name::from("UnknownHeaderWithUnusualValue")), Some(";;,,;;,;"));
    assert!(headers.routes().unwrap()[0].uri.param("lr").is_some());
    let contact = headers.contact().unwrap().unwrap();
    assert_eq!(contact.display_name().unwrap(), "Quoted string \"\"");
    assert_eq!((contact.params.get("newparam"), contact.params.get("q")), (Some("newvalue"), Some("0.33")));
    assert_eq!(request.body.len(), 150);
}

#[test]
fn unusual_but_valid_parts_come_through_verbatim() {
    let Some(bytes) = rfc4475("intmeth") else { return };
    let Ok(Message::Request(request)) = Message::parse(bytes) else { panic!() };
    assert_eq!(request.method.as_str(), "!interesting-Method0123456789_*+`.%indeed'~");
    assert_eq!(request.headers.call_id().unwrap(), "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{");
    assert_eq!(request.headers.from().unwrap().tag(), Some("_token~1'+`*%!-."));

    // A method is compared as it stands: REGISTER escaped is none, and neither is Contact escaped.
    let Ok(Message::Request(request)) = Message::parse(rfc4475("esc02").unwrap()) else { panic!() };
    assert_eq!(request.method, Method::Other("RE%47IST%45R".into()));
    assert_eq!(request.headers.get_all(Name::Contact).count(), 2);

    let Ok(Message::Request(request)) = Message::parse(rfc4475("escnull").unwrap()) else { panic!() };
    assert_eq!(request.headers.to().unwrap().uri.user().unwrap(), "null-\0-null");

    // The request that trails in the same datagram is cut off.
    let Ok(Message::Request(request)) = Message::parse(rfc4475("dblreq").unwrap()) else { panic!() };
    assert!(request.method == Method::Register && request.body.is_empty());

    let Ok(Message::Response(response)) = Message::parse(rfc4475("noreason").unwrap()) else { panic!() };
    assert_eq!((response.status.get(), response.reason.as_str()), (100, ""));
    let Ok(Message::Response(response)) = Message::parse(rfc4475("unreason").unwrap()) else { panic!() };
    assert!(response.status == StatusCode::OK && response.reason.starts_with("= 2**3 * 5**2 но сто"));

    let Ok(Message::Request(request)) = Message::parse(rfc4475("badbranch").unwrap()) else { panic!() };
    assert_eq!(request.headers.via_top().unwrap().rfc3261_branch(), None);

    // A parameter in brackets is the URI's, one without is the header's.
    let Ok(Message::Request(outside)) = Message::parse(rfc4475("cparam01").unwrap()) else { panic!() };
    assert!(outside.headers.contact().unwrap().unwrap().params.has("unknownparam"));
    let Ok(Message::Request(inside)) = Message::parse(rfc4475("cparam02").unwrap()) else { panic!() };
    assert!(inside.headers.contact().unwrap().unwrap().uri.param("unknownparam").is_some());

    // Binary bodies are not touched.
    let Ok(Message::Request(request)) = Message::parse(rfc4475("mpart01").unwrap()) else { panic!() };
    assert_eq!(request.body.len(), 553);
    assert!(std::str::from_utf8(&request.body).is_err());
}

#[test]
fn ipv6_is_read_as_rfc_5118_wants_it() {
    let Some(all) = testdata::names("rfc5118", "") else { return };
    assert_eq!(all.len(), 12);
    for name in &all {
        let parsed = Message::parse(rfc5118(name).unwrap());
        match (name.as_str(), parsed) {
            ("ipv6-bad", Err(malformed)) => {
                assert_eq!(malformed.error.status(), StatusCode::BAD_REQUEST);
                assert!(malformed.salvage.is_some());
            }
            ("ipv6-bad", Ok(_)) => panic!("accepted"),
            (_, Ok(_)) => {}
            (name, Err(malformed)) => panic!("{name}: {}", malformed.error),
        }
    }
    let request = |name: &str| match Message::parse(rfc5118(name).unwrap()) {
        Ok(Message::Request(request)) => request,
        other => panic!("{name}: {other:?}"),
    };
    let uri = request("port-ambiguous").uri;
    assert_eq!((uri.host().unwrap().ip(), uri.port()), ("2001:db8::10:5070".parse().ok(), None));
    let uri = request("port-unambiguous").uri;
    assert_eq!((uri.host().unwrap().ip(), uri.port()), ("2001:db8::10".parse().ok(), Some(5070)));
    for name in ["via-received-param-no-delim", "via-received-param-with-delim"] {
        let via = request(name).headers.via_top().unwrap();
        assert_eq!(via.received(), "2001:db8::9:255".parse().ok(), "{name}");
    }
    for name in ["ipv6-bug-abnf-3-colons", "ipv6-correct-abnf-2-colons"] {
        assert_eq!(request(name).uri.host().unwrap().ip(), "2001:db8::192.0.2.1".parse().ok(), "{name}");
    }
}
