//! What passes from one leg to the other, and how payload type numbers differ between them.

use super::*;

#[test]
fn unknown_codecs_and_their_parameters_pass_word_for_word() {
    let formats = "m=audio 4000 RTP/AVP 110 101\na=rtpmap:110 SuperCodec-X/44100/2\na=fmtp:110 depth=7; mode=Odd , x\n\
                   a=rtpmap:101 telephone-event/8000\na=fmtp:101 0-11,16\na=ptime:30";
    let (mut a, mut b) = (leg(), leg());
    let (to_b, to_a) = connect(&mut a, &mut b, &sdp(formats), &sdp(formats));
    for text in [&to_b, &to_a] {
        assert_eq!(lines(text, "a=rtpmap:"), ["110 SuperCodec-X/44100/2", "101 telephone-event/8000"]);
        assert_eq!(lines(text, "a=fmtp:"), ["110 depth=7; mode=Odd , x", "101 0-11,16"]);
        assert_eq!(lines(text, "a=ptime:"), ["30"]);
    }
    assert_eq!(a.codec().as_deref(), Some("SUPERCODEC-X/44100/2"));
}

#[test]
fn each_leg_hears_the_numbers_it_asked_for() {
    let (mut a, mut b) = (leg(), leg());
    let offer = sdp("m=audio 4000 RTP/AVP 96 97\na=rtpmap:96 opus/48000/2\na=rtpmap:97 telephone-event/8000");
    // B may answer under numbers of its own (RFC 3264 section 6.1).
    let answer = sdp("m=audio 5000 RTP/AVP 120 101\na=rtpmap:120 OPUS/48000/2\na=rtpmap:101 telephone-event/8000");
    let (_, to_a) = connect(&mut a, &mut b, &offer, &answer);
    assert_eq!(lines(&to_a, "m="), ["audio 10000 RTP/AVP 96 97"], "A keeps the numbers of its offer");
    assert_eq!(map(&a, Some(&b)), [(96, 120), (97, 101)]);
    assert_eq!(map(&b, Some(&a)), [(96, 96), (97, 97)], "B sends what we offered, A hears what it offered");
}

#[test]
fn a_codec_that_only_one_leg_has_is_not_forwarded() {
    let (mut a, mut b) = (leg(), leg());
    hear(&mut a, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/AVP 0 8")));
    say(&mut a, Turn::LocalAnswer(None));
    say(&mut b, Turn::LocalOffer(None));
    hear(&mut b, Turn::RemoteAnswer(&sdp("m=audio 4000 RTP/AVP 8 9")));
    assert_eq!(map(&a, Some(&b)), [(8, 8)]);
    assert_eq!(map(&b, Some(&a)), [(8, 8)]);
}

#[test]
fn a_number_keeps_its_meaning_when_the_other_leg_is_replaced() {
    let (mut a, mut b) = (leg(), leg());
    let opus_96 = sdp("m=audio 4000 RTP/AVP 96\na=rtpmap:96 opus/48000/2");
    connect(&mut a, &mut b, &opus_96, &opus_96);
    // The call is transferred: leg A now talks to C, which calls 96 something else and Opus 107.
    let mut c = leg();
    hear(
        &mut c,
        Turn::RemoteOffer(&sdp(
            "m=audio 7000 RTP/AVP 107 96\na=rtpmap:107 opus/48000/2\na=rtpmap:96 telephone-event/8000",
        )),
    );
    let to_a = say(&mut a, Turn::LocalOffer(Some(&c.remote().unwrap().terms)));
    assert_eq!(lines(&to_a, "a=rtpmap:"), ["96 opus/48000/2", "97 telephone-event/8000"]);
    hear(
        &mut a,
        Turn::RemoteAnswer(&sdp(
            "m=audio 4000 RTP/AVP 96 97\na=rtpmap:96 opus/48000/2\na=rtpmap:97 telephone-event/8000",
        )),
    );
    say(&mut c, Turn::LocalAnswer(Some(&a.remote().unwrap().terms)));
    assert_eq!(map(&a, Some(&c)), [(96, 107), (97, 96)]);
    assert_eq!(map(&c, Some(&a)), [(107, 96), (96, 97)]);
}

#[test]
fn the_transport_of_one_leg_is_not_that_of_the_other() {
    let (mut a, mut b) = (leg(), leg());
    let offer = sdp(
        "m=audio 4000 RTP/AVPF 0\na=rtcp-mux\na=rtcp:4000\na=rtcp-fb:0 nack\na=candidate:1 1 UDP 1 192.0.2.10 4000 typ host\n\
         a=ssrc:1 cname:x\na=extmap:1 urn:x\na=mid:0\na=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:abc",
    );
    let (to_b, to_a) = connect(&mut a, &mut b, &offer, &sdp("m=audio 5000 RTP/AVP 0\na=rtcp:6001 IN IP4 192.0.2.99"));
    assert_eq!(lines(&to_b, "m="), ["audio 10000 RTP/AVP 0"]);
    assert_eq!(lines(&to_b, "a="), ["rtcp-mux", "sendrecv"]);
    assert_eq!(lines(&to_a, "m="), ["audio 10000 RTP/AVPF 0"]);
    assert_eq!(lines(&to_a, "a="), ["rtcp-mux", "sendrecv"]);
    assert_eq!(a.remote_addresses().1, Some("192.0.2.10:4000".parse().unwrap()));
    assert_eq!(b.remote_addresses().1, Some("192.0.2.99:6001".parse().unwrap()));
    assert!(a.is_muxed() && !b.is_muxed());
}

#[test]
fn rtcp_mux_is_offered_and_comes_and_goes_with_the_answers() {
    let mut leg = leg();
    assert!(say(&mut leg, Turn::LocalOffer(None)).contains("a=rtcp-mux\r\n"));
    hear(&mut leg, Turn::RemoteAnswer(&sdp("m=audio 4000 RTP/AVP 0\na=rtcp-mux")));
    assert!(leg.is_muxed());
    assert_eq!(leg.remote_addresses().1, Some("192.0.2.10:4000".parse().unwrap()));
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/AVP 0")));
    assert!(leg.is_muxed(), "until it is answered");
    assert!(!say(&mut leg, Turn::LocalAnswer(None)).contains("rtcp-mux"));
    assert!(!leg.is_muxed());
    assert_eq!(leg.remote_addresses().1, Some("192.0.2.10:4001".parse().unwrap()));
}

#[test]
fn ipv6_on_both_levels_and_a_leg_of_each_family() {
    let (mut a, mut b) = (leg_at("2001:db8::1"), leg());
    let offer =
        "v=0\r\no=- 1 1 IN IP6 2001:db8::5\r\ns=-\r\nt=0 0\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP6 2001:db8::6\r\n";
    let (to_b, to_a) = connect(&mut a, &mut b, offer, &sdp("m=audio 5000 RTP/AVP 0"));
    assert_eq!((lines(&to_b, "c="), lines(&to_a, "c=")), (vec!["IN IP4 198.51.100.1"], vec!["IN IP6 2001:db8::1"]));
    assert_eq!(a.remote_addresses().0, Some("[2001:db8::6]:4000".parse().unwrap()));
    assert_eq!(refuse(&mut a, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/AVP 0"))).code(), "incompatible");
}
