//! SDP from the network is wrong, hostile or absent: typed errors, bounded work, no panic.

use super::*;
use nebula_media::offer_answer::{FORMATS_MAX, MEDIA_LINES_MAX, SDP_BYTES_MAX};
use proptest::prelude::*;

#[test]
fn malformed_descriptions_are_bad_sdp() {
    let with_address =
        |address: &str| sdp("m=audio 4000 RTP/AVP 0").replace("IN IP4 192.0.2.10\r\nt", &format!("{address}\r\nt"));
    for bad in [
        String::new(),
        "v=0".repeat(3),
        "v=1\r\n".into(),
        "INVITE sip:x SIP/2.0".into(),
        sdp("m=audio 4000 RTP/AVP 0").replace("c=IN IP4 192.0.2.10\r\n", ""),
        sdp("m=audio 99999 RTP/AVP 0"),
        sdp("m=audio -1 RTP/AVP 0"),
        sdp("m=audio 4000"),
        sdp("m=audio"),
        sdp("m=audio 4000 RTP/AVP 0\nnot a line"),
        with_address("IN IP4 phone.example.com"),
        with_address("IN IP4 224.2.1.1/127"),
        with_address("IN IP4 255.255.255.255"),
        with_address("IN IP6 ff02::1"),
        with_address("IN IP4 1.2.3"),
        with_address("IN"),
    ] {
        assert!(matches!(refuse(&mut leg(), Turn::RemoteOffer(&bad)).code(), "bad_sdp" | "incompatible"), "{bad:?}");
    }
    let named = refuse(&mut leg(), Turn::RemoteOffer(&with_address("IN IP4 phone.example.com")));
    assert_eq!(named, Error::BadAddress { address: "phone.example.com".into() });
}

#[test]
fn sizes_are_bounded() {
    let long = sdp(&format!("m=audio 4000 RTP/AVP 0\na=x:{}", "y".repeat(SDP_BYTES_MAX)));
    assert_eq!(refuse(&mut leg(), Turn::RemoteOffer(&long)), Error::TooLong { bytes: long.len() });
    let many = sdp(&"m=audio 4000 RTP/AVP 0\n".repeat(MEDIA_LINES_MAX + 1));
    assert_eq!(refuse(&mut leg(), Turn::RemoteOffer(&many)), Error::TooManyMediaLines { lines: MEDIA_LINES_MAX + 1 });
    let wide = sdp(&format!("m=audio 4000 RTP/AVP{}", " 0".repeat(FORMATS_MAX + 1)));
    assert_eq!(refuse(&mut leg(), Turn::RemoteOffer(&wide)), Error::TooManyFormats { formats: FORMATS_MAX + 1 });
}

#[test]
fn nonsense_beside_a_good_line_is_dropped() {
    let mut leg = leg();
    hear(
        &mut leg,
        Turn::RemoteOffer(&sdp(
            "m=audio 4000/2 RTP/AVP 0 0 300 x 96 97 128\na=rtpmap:96\na=rtpmap:97 broken\na=rtpmap:x y/1\na=fmtp:\na=ptime:soon\n\
         a=maxptime:0\na=rtcp:99999\na=rtcp-mux:yes\na=:",
        )),
    );
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 10000 RTP/AVP 0"]);
    assert_eq!(lines(&answer, "a="), ["sendrecv"]);
    assert_eq!(leg.remote_addresses().1, None);
}

#[test]
fn the_last_port_has_no_rtcp_beside_it() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 65535 RTP/AVP 0")));
    assert_eq!(leg.remote_addresses(), (Some("192.0.2.10:65535".parse().unwrap()), None));
}

/// Lines that are almost right, in any order.
fn soup() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        Just("v=0".to_owned()),
        Just("o=- 1 1 IN IP4 192.0.2.1".to_owned()),
        Just("s=-".to_owned()),
        Just("t=0 0".to_owned()),
        "c=IN IP[46] [0-9a-f:.]{1,20}(/[0-9]{1,3})?",
        Just("c=IN IP4 192.0.2.1".to_owned()),
        "m=(audio|video|image) [0-9]{1,5}(/[0-9])? (RTP/AVP|RTP/AVPF|RTP/SAVP|udptl)( [0-9]{1,3}){1,6}",
        "a=rtpmap:[0-9]{1,3} (PCMU|opus|red|AMR|telephone-event|[a-z]{1,4})/(8000|48000|[0-9]{1,10})(/[0-9])?",
        "a=fmtp:[0-9]{1,3} [ -~]{0,20}",
        "a=(sendrecv|sendonly|recvonly|inactive|rtcp-mux|ptime:[0-9]{1,6}|rtcp:[0-9]{1,6}( IN IP4 [0-9.]{1,9})?)",
        "[a-z]=\\PC{0,20}",
    ];
    proptest::collection::vec(line, 0..30).prop_map(|lines| lines.join("\r\n"))
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC{0,300}") {
        let _ = leg().take(Turn::RemoteOffer(&text));
    }

    #[test]
    fn what_is_accepted_is_answered_in_valid_sdp_with_the_same_lines(tail in soup(), reply in soup()) {
        let offer = format!("v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0 96\r\na=rtpmap:96 opus/48000/2\r\n{tail}");
        let (mut a, mut b) = (leg(), leg());
        if a.take(Turn::RemoteOffer(&offer)).is_ok() {
            let to_b = say(&mut b, Turn::LocalOffer(Some(&a.remote().unwrap().terms)));
            let mut c = leg();
            hear(&mut c, Turn::RemoteOffer(&to_b));
            let _ = b.take(Turn::RemoteAnswer(&reply));
            hear(&mut b, Turn::RemoteAnswer(&to_b));
            let to_a = say(&mut a, Turn::LocalAnswer(Some(&b.remote().unwrap().terms)));
            prop_assert_eq!(lines(&to_a, "m=").len(), lines(&offer, "m=").len());
            hear(&mut c, Turn::RemoteOffer(&to_a));
            for leg in [&a, &b] {
                prop_assert!(leg.payload_types(None).as_slice().iter().all(|row| row.number < 128 && row.clock_rate_hz > 0));
            }
        }
    }
}
