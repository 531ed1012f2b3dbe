//! Where rsip, which shares no line with us, can read a message, it must see what we see.
//!
//! It cannot read IPv6 hosts, folded headers, unknown methods or lists, so those are left out by trying.

mod testdata;

use nebula_sip::message::{Message, Name};
use rsip::prelude::{HasHeaders, HeadersExt, ToTypedHeader, UntypedHeader};

#[test]
fn both_see_the_same_in_what_both_can_read() {
    let all = testdata::all();
    if all.is_empty() {
        return;
    }
    let mut compared = 0;
    for (name, bytes) in all {
        let Ok(ours) = Message::parse(bytes.clone()) else { continue };
        let Ok(theirs) = rsip::SipMessage::try_from(bytes.as_ref()) else { continue };
        compared += 1;
        match (&ours, &theirs) {
            (Message::Request(ours), rsip::SipMessage::Request(theirs)) => {
                assert_eq!(ours.method.as_str(), theirs.method.to_string(), "{name}");
            }
            (Message::Response(ours), rsip::SipMessage::Response(theirs)) => {
                assert_eq!(ours.status.get(), theirs.status_code.code(), "{name}");
            }
            _ => panic!("{name}: a request to one, a response to the other"),
        }
        let headers = ours.headers();
        if let Ok(call_id) = theirs.call_id_header() {
            assert_eq!(headers.call_id().unwrap(), call_id.value(), "{name}");
        }
        if let Ok(cseq) = theirs.cseq_header().and_then(|cseq| cseq.clone().typed()) {
            let expected = format!("{} {}", cseq.seq, cseq.method);
            assert_eq!(headers.cseq().unwrap().to_string(), expected, "{name}");
        }
        if let Ok(from) = theirs.from_header().and_then(|from| from.clone().typed()) {
            let ours = headers.from().unwrap();
            let tag = from.params.iter().find_map(|p| match p {
                rsip::Param::Tag(tag) => Some(tag.value().to_owned()),
                _ => None,
            });
            assert_eq!(ours.tag(), tag.as_deref(), "{name}");
            // Without brackets rsip takes the user for a part of the host; hosts of other schemes are none to us.
            if headers.get(Name::From).is_some_and(|from| from.contains("<sip:")) {
                let host = ours.uri.host().map(|host| host.as_str().to_owned());
                assert_eq!(host, Some(from.uri.host_with_port.host.to_string()), "{name}");
            }
        }
        if let Ok(via) = theirs.via_header().and_then(|via| via.clone().typed()) {
            let ours = headers.via_top().unwrap();
            let branch = via.params.iter().find_map(|p| match p {
                rsip::Param::Branch(branch) => Some(branch.value().to_owned()),
                _ => None,
            });
            assert_eq!(ours.branch(), branch.as_deref(), "{name}");
        }
        assert_eq!(
            headers.get_all(Name::Via).count(),
            theirs.headers().iter().filter(|h| matches!(h, rsip::Header::Via(_))).count(),
            "{name}"
        );
    }
    assert!(compared >= 20, "rsip read only {compared}");
}
