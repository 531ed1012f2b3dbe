//! What is written is read back the same, and nothing that can be received makes the parser panic.

mod testdata;

use bytes::Bytes;
use nebula_sip::message::stream::Framer;
use nebula_sip::message::{Message, Method, Name, NameAddr, Request, Response, StatusCode, Uri, Via};
use proptest::prelude::*;

const TOKEN: &str = "[A-Za-z0-9.!%*_+`'~-]{1,12}";
const ANY_TEXT: &str = "[\\PC]{0,20}";

fn uri() -> impl Strategy<Value = Uri> {
    let host = prop_oneof![
        "[a-z][a-z0-9-]{0,10}(\\.[a-z]{2,5})?",
        any::<std::net::Ipv4Addr>().prop_map(|ip| ip.to_string()),
        any::<std::net::Ipv6Addr>().prop_map(|ip| format!("[{ip}]")),
    ];
    let sip =
        (proptest::option::of(ANY_TEXT.prop_filter("a user", |u| !u.is_empty())), host, proptest::option::of(1u16..))
            .prop_map(|(user, host, port)| {
                Uri::sip(user.as_deref(), nebula_sip::message::Host::parse(&host).expect("a host"), port)
            });
    let other = prop_oneof!["tel:\\+[0-9]{3,15}", "x-[a-z]{1,8}:[a-z0-9/]{1,20}"];
    prop_oneof![3 => sip, 1 => other.prop_map(|text| text.parse().expect("a URI"))]
}

fn address() -> impl Strategy<Value = NameAddr> {
    (uri(), ANY_TEXT, proptest::option::of(TOKEN)).prop_map(|(uri, display, tag)| {
        let address = NameAddr::new(uri).with_display(&display);
        match tag {
            Some(tag) => address.with_tag(&tag),
            None => address,
        }
    })
}

fn via() -> impl Strategy<Value = Via> {
    (TOKEN, any::<std::net::SocketAddr>(), TOKEN).prop_map(|(transport, address, branch)| {
        let address = std::net::SocketAddr::new(address.ip(), address.port().max(1));
        Via::new(&transport, address, &format!("z9hG4bK{branch}"))
    })
}

fn method() -> impl Strategy<Value = Method> {
    prop_oneof![Just(Method::Invite), Just(Method::Register), TOKEN.prop_map(|m| Method::from_token(m.into()))]
}

prop_compose! {
    fn parts()(
        vias in proptest::collection::vec(via(), 1..4),
        from in address(),
        to in address(),
        call_id in "[a-zA-Z0-9@.-]{1,30}",
        number in any::<u32>(),
        extra in proptest::collection::vec(("X-[A-Za-z]{1,10}", "[ -~]{0,30}|[\\PC]{0,30}"), 0..4),
        body in proptest::collection::vec(any::<u8>(), 0..200),
    ) -> (Vec<Via>, NameAddr, NameAddr, String, u32, Vec<(String, String)>, Vec<u8>) {
        (vias, from, to, call_id, number, extra, body)
    }
}

prop_compose! {
    fn request()(
        method in method(),
        target in uri(),
        (vias, from, to, call_id, number, extra, body) in parts(),
    ) -> Request {
        let mut request = Request::new(method.clone(), target);
        for via in vias {
            request.headers.push(Name::Via, via.to_string());
        }
        request = request
            .with(Name::From, from.to_string())
            .with(Name::To, to.to_string())
            .with(Name::CallId, call_id)
            .with(Name::CSeq, format!("{number} {method}"))
            .with(Name::MaxForwards, "70");
        for (name, value) in extra {
            request.headers.push(Name::from(name.as_str()), value.trim());
        }
        request.headers.push(Name::ContentLength, body.len().to_string());
        request.with_body("application/octet-stream", body)
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn requests_come_back_the_same(request in request()) {
        let parsed = Message::parse(request.to_bytes());
        prop_assert_eq!(parsed, Ok(Message::Request(request)));
    }

    #[test]
    fn responses_come_back_the_same(request in request(), code in 100u16..700, reason in "[\\PC]{0,20}") {
        let mut response = Response::to(&request, StatusCode::new(code).expect("in range"))
            .with_reason(reason.trim())
            .with_body("application/sdp", request.body.clone());
        response.headers.push(Name::ContentLength, request.body.len().to_string());
        let parsed = Message::parse(response.to_bytes());
        prop_assert_eq!(parsed, Ok(Message::Response(response)));
    }

    #[test]
    fn nobody_can_add_a_header_through_a_value(value in "[a-z\r\n: ]{0,40}") {
        let via = Via::new("UDP", "192.0.2.1:5060".parse().expect("an address"), "z9hG4bK1");
        let request = Request::new(Method::Options, "sip:h".parse().expect("a URI"))
            .with(Name::Via, via.to_string())
            .with(Name::From, "<sip:a@b>;tag=1")
            .with(Name::To, "<sip:a@b>")
            .with(Name::CallId, "c")
            .with(Name::CSeq, "1 OPTIONS")
            .with(Name::Subject, value.as_str());
        let parsed = Message::parse(request.to_bytes());
        let Ok(Message::Request(parsed)) = parsed else { panic!("{parsed:?}") };
        // And Content-Length, which is always written.
        prop_assert_eq!(parsed.headers.len(), request.headers.len() + 1);
        prop_assert!(parsed.body.is_empty());
    }

    #[test]
    fn arbitrary_bytes_do_no_harm(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        exercise(bytes);
    }

    #[test]
    fn texts_that_look_like_sip_do_no_harm(
        text in "(INVITE|SIP/2.0|REGISTER)[ a-z:@0-9]{0,20}(SIP/2.0)?\r\n((Via|To|f|CSeq|Contact|l|Date|Route)[: ]{1,2}[ -~\t\r\n]{0,60}\r\n){0,8}\r\n",
    ) {
        exercise(text.into_bytes());
    }

    /// Cuts, doubles, swaps and overwrites the torture messages.
    #[test]
    fn mutated_torture_messages_do_no_harm(
        pick in any::<proptest::sample::Index>(),
        edits in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0u8..4), 1..12),
    ) {
        let all = testdata::all();
        if all.is_empty() {
            return Ok(());
        }
        let mut bytes = pick.get(&all).1.to_vec();
        for (at, byte, kind) in edits {
            if bytes.is_empty() {
                break;
            }
            let at = at.index(bytes.len());
            match kind {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => drop(bytes.drain(at..(at + usize::from(byte % 16)).min(bytes.len()))),
                _ => {
                    let again = bytes[at..(at + usize::from(byte)).min(bytes.len())].to_vec();
                    bytes.splice(at..at, again);
                }
            }
        }
        exercise(bytes);
    }
}

/// All that reads received bytes; whatever is accepted must survive being written and read again.
fn exercise(bytes: Vec<u8>) {
    let mut framer = Framer::default();
    framer.buffer().extend_from_slice(&bytes);
    while framer.next_frame().is_some() {}
    match Message::parse(Bytes::from(bytes)) {
        Ok(message) => {
            typed(&message);
            let again = Message::parse(message.to_bytes()).unwrap_or_else(|e| panic!("{message:?}: {}", e.error));
            assert_eq!(again.to_bytes(), message.to_bytes());
        }
        Err(malformed) => {
            if let Some(salvage) = malformed.salvage {
                let response = Response::to_salvage(&salvage, malformed.error.status());
                assert!(!response.with_reason(malformed.error.to_string()).to_bytes().is_empty());
            }
        }
    }
}

fn typed(message: &Message) {
    let mut headers = message.headers().clone();
    let _ = (headers.retry_after(), headers.rseq(), headers.rack(), headers.min_se(), headers.min_expires());
    let _ = (headers.auths(Name::WwwAuthenticate), headers.addresses(Name::ReferTo), headers.accept());
    headers.set_to_tag("t").expect("To was read");
    headers.stamp_via("192.0.2.1:5060".parse().expect("an address")).expect("Via was read");
    while headers.pop_via().is_ok() {}
    assert!(!headers.has(Name::Via));
}
