//! The worked examples of RFC 3264 and RFC 4317, and the torture messages that carry SDP.

use super::*;

/// RFC 3264 section 10.1, the offer, its video lines included.
const ALICE: &str = "v=0\r\no=alice 2890844526 2890844526 IN IP4 host.anywhere.com\r\ns=\r\n\
    c=IN IP4 192.0.2.44\r\nt=0 0\r\nm=audio 49170 RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n\
    m=video 51372 RTP/AVP 31\r\na=rtpmap:31 H261/90000\r\nm=video 53000 RTP/AVP 32\r\na=rtpmap:32 MPV/90000\r\n";

#[test]
fn rfc_3264_10_1_other_media_is_rejected_in_its_place() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(ALICE));
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 10000 RTP/AVP 0", "video 0 RTP/AVP 31", "video 0 RTP/AVP 32"]);
    assert_eq!(leg.remote_addresses().0, Some("192.0.2.44:49170".parse().unwrap()));
    assert_eq!(leg.remote_addresses().1, Some("192.0.2.44:49171".parse().unwrap()));
    assert_eq!(leg.codec().as_deref(), Some("PCMU/8000"));
}

#[test]
fn rfc_3264_10_2_one_of_several_codecs() {
    let offer = sdp("m=audio 62986 RTP/AVP 0 4 18\na=rtpmap:0 PCMU/8000\na=rtpmap:4 G723/8000\na=rtpmap:18 G729/8000");
    let (mut a, mut b) = (leg(), leg());
    let answer = sdp("m=audio 54344 RTP/AVP 0 4\na=rtpmap:0 PCMU/8000\na=rtpmap:4 G723/8000");
    let (to_b, to_a) = connect(&mut a, &mut b, &offer, &answer);
    assert_eq!(lines(&to_b, "m="), ["audio 10000 RTP/AVP 0 4 18"]);
    assert_eq!(lines(&to_a, "m="), ["audio 10000 RTP/AVP 0 4"]);

    // The offerer then settles for one by a second offer.
    let again = sdp("m=audio 62986 RTP/AVP 4\na=rtpmap:4 G723/8000");
    let (to_b, to_a) = connect(&mut a, &mut b, &again, &sdp("m=audio 54344 RTP/AVP 4\na=rtpmap:4 G723/8000"));
    assert_eq!(lines(&to_b, "m="), ["audio 10000 RTP/AVP 4"]);
    assert_eq!(lines(&to_a, "m="), ["audio 10000 RTP/AVP 4"]);
    assert_eq!((a.codec(), b.codec()), (Some("G723/8000".into()), Some("G723/8000".into())));
    assert_eq!(map(&a, Some(&b)), [(4, 4)]);
}

#[test]
fn rfc_4317_2_1_audio_with_events() {
    let offer =
        sdp("m=audio 49170 RTP/AVP 0 8 97\na=rtpmap:0 PCMU/8000\na=rtpmap:8 PCMA/8000\na=rtpmap:97 iLBC/8000\n\
         m=video 51372 RTP/AVP 31 32\na=rtpmap:31 H261/90000\na=rtpmap:32 MPV/90000");
    let answer = sdp("m=audio 49174 RTP/AVP 0\na=rtpmap:0 PCMU/8000");
    let (to_b, to_a) = connect(&mut leg(), &mut leg(), &offer, &answer);
    assert_eq!(lines(&to_b, "m="), ["audio 10000 RTP/AVP 0 8 97"], "what we do not carry is not mirrored");
    assert_eq!(lines(&to_b, "a=rtpmap:"), ["0 PCMU/8000", "8 PCMA/8000", "97 iLBC/8000"]);
    assert_eq!(lines(&to_a, "m="), ["audio 10000 RTP/AVP 0", "video 0 RTP/AVP 31"]);
}

#[test]
fn rfc_4317_2_4_the_second_audio_line_is_rejected() {
    let offer = sdp("m=audio 49170 RTP/AVP 0\na=rtpmap:0 PCMU/8000\n\
         m=audio 49172 RTP/AVP 98\na=rtpmap:98 telephone-event/8000\na=sendonly");
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&offer));
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 10000 RTP/AVP 0", "audio 0 RTP/AVP 98"]);
    assert_eq!(lines(&answer, "a="), ["rtpmap:0 PCMU/8000", "sendrecv"]);
}

#[test]
fn the_torture_messages_with_sdp() {
    let Some(root) = testdata() else { return };
    let body = |name: &str| {
        let bytes = std::fs::read(root.join(name)).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        text.split_once("\r\n\r\n").unwrap().1.to_owned()
    };
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&body("rfc4475/sdp01.dat")));
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 10000 RTP/AVP 0", "video 0 RTP/AVP 31"]);

    let mut v6 = leg_at("2001:db8::1");
    hear(&mut v6, Turn::RemoteOffer(&body("rfc5118/ipv6-in-sdp")));
    assert_eq!(v6.remote_addresses().0, Some("[2001:db8::20]:6000".parse().unwrap()));
    assert_eq!(refuse(&mut v6, Turn::LocalAnswer(None)).code(), "incompatible", "G.726 only");

    let mut mixed = super::leg();
    hear(&mut mixed, Turn::RemoteOffer(&body("rfc5118/mult-ip-in-sdp")));
    assert_eq!(mixed.remote_addresses().0, Some("192.0.2.1:22334".parse().unwrap()));
    let answer = say(&mut mixed, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 10000 RTP/AVP 0", "video 0 RTP/AVP 107"]);
}

fn testdata() -> Option<std::path::PathBuf> {
    let default = || concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/testdata").into();
    let root: std::path::PathBuf = std::env::var_os("NEBULA_TESTDATA").map_or_else(default, Into::into);
    if !root.join("rfc4475").is_dir() {
        eprintln!("skipped: no test data at {}", root.display());
        return None;
    }
    Some(root)
}
