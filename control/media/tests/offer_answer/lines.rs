//! Media lines that are not carried hold their places (RFC 3264 sections 6 and 8).

use super::*;

const AUDIO_VIDEO: &str =
    "m=video 5000 RTP/AVP 99\na=rtpmap:99 H264/90000\nm=audio 4000 RTP/AVP 0\nm=application 6000 TCP/BFCP *";

#[test]
fn our_own_offers_keep_the_lines_of_the_leg() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp(AUDIO_VIDEO)));
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    let expected = ["video 0 RTP/AVP 99", "audio 10000 RTP/AVP 0", "application 0 TCP/BFCP *"];
    assert_eq!(lines(&answer, "m="), expected);
    let terms = leg.remote().unwrap().terms.clone();
    let offer = say(&mut leg, Turn::LocalOffer(Some(&terms)));
    assert_eq!(lines(&offer, "m="), expected);
    let their_answer = sdp("m=video 0 RTP/AVP 99\nm=audio 4002 RTP/AVP 0\nm=application 0 TCP/BFCP *");
    hear(&mut leg, Turn::RemoteAnswer(&their_answer));
    assert_eq!(leg.remote_addresses().0, Some("192.0.2.10:4002".parse().unwrap()));
}

#[test]
fn the_secure_line_is_passed_over_for_the_plain_one() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/SAVP 0\nm=audio 4002 RTP/AVP 0")));
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 0 RTP/SAVP 0", "audio 10000 RTP/AVP 0"]);
}

#[test]
fn audio_may_move_to_another_line_in_a_new_offer() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/AVP 0\nm=audio 4002 RTP/AVP 0")));
    say(&mut leg, Turn::LocalAnswer(None));
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 0 RTP/AVP 0\nm=audio 4002 RTP/AVP 0")));
    assert_eq!(lines(&say(&mut leg, Turn::LocalAnswer(None)), "m="), ["audio 0 RTP/AVP 0", "audio 10000 RTP/AVP 0"]);
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/AVP 0\nm=audio 4002 RTP/AVP 0")));
    assert_eq!(
        lines(&say(&mut leg, Turn::LocalAnswer(None)), "m="),
        ["audio 0 RTP/AVP 0", "audio 10000 RTP/AVP 0"],
        "and stays on the line it is on"
    );
}

#[test]
fn offers_without_plain_audio_are_incompatible() {
    for offer in [
        "m=video 5000 RTP/AVP 31",
        "m=audio 0 RTP/AVP 0",
        "m=audio 4000 RTP/SAVP 0",
        "m=audio 4000 UDP/TLS/RTP/SAVPF 0",
        "m=audio 4000 RTP/AVP 101\na=rtpmap:101 telephone-event/8000",
        "m=audio 4000 RTP/AVP 99",
        "m=image 4000 udptl t38",
        "",
    ] {
        assert_eq!(refuse(&mut leg(), Turn::RemoteOffer(&sdp(offer))).code(), "incompatible", "{offer}");
    }
}
