//! The order of steps, what may be repeated, and the version of our descriptions.

use super::*;

const PCMU: &str = "m=audio 4000 RTP/AVP 0";
const PCMA: &str = "m=audio 4000 RTP/AVP 8";

fn version(sdp: &str) -> (u64, u64) {
    let origin: Vec<u64> = lines(sdp, "o=- ")[0].split(' ').take(2).map(|word| word.parse().unwrap()).collect();
    (origin[0], origin[1])
}

#[test]
fn steps_out_of_order_are_refused_and_change_nothing() {
    let mut leg = leg();
    assert_eq!(refuse(&mut leg, Turn::LocalAnswer(None)).code(), "wrong_step");
    assert_eq!(refuse(&mut leg, Turn::RemoteAnswer(&sdp(PCMU))).code(), "wrong_step");
    hear(&mut leg, Turn::RemoteOffer(&sdp(PCMU)));
    assert_eq!(
        refuse(&mut leg, Turn::RemoteAnswer(&sdp(PCMU))),
        Error::WrongStep { step: "RemoteAnswer", state: "offered" }
    );
    say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(refuse(&mut leg, Turn::RemoteAnswer(&sdp(PCMU))).code(), "wrong_step");
    say(&mut leg, Turn::LocalOffer(None));
    assert_eq!(refuse(&mut leg, Turn::LocalAnswer(None)).code(), "wrong_step");
    hear(&mut leg, Turn::RemoteAnswer(&sdp(PCMA)));
    assert_eq!(leg.codec().as_deref(), Some("PCMA/8000"));
}

#[test]
fn nothing_flows_before_the_first_answer() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp(PCMU)));
    assert!(!leg.is_answered() && !leg.direction().send && !leg.direction().recv);
    assert_eq!(leg.remote_addresses().0, Some("192.0.2.10:4000".parse().unwrap()), "but the peer's address is known");
    assert_eq!(map(&leg, None), []);
}

#[test]
fn an_early_answer_may_be_followed_by_another_of_another_fork() {
    let mut leg = leg();
    say(&mut leg, Turn::LocalOffer(None));
    hear(&mut leg, Turn::RemoteAnswer(&sdp(PCMU)));
    assert!(leg.direction().recv, "early media flows");
    let other = sdp("m=audio 6000 RTP/AVP 8").replace("192.0.2.10", "192.0.2.11");
    hear(&mut leg, Turn::RemoteAnswer(&other));
    assert_eq!(leg.codec().as_deref(), Some("PCMA/8000"));
    assert_eq!(leg.remote_addresses().0, Some("192.0.2.11:6000".parse().unwrap()));
}

#[test]
fn the_version_rises_only_with_a_change() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp(PCMU)));
    let early = say(&mut leg, Turn::LocalAnswer(None));
    let last = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(early, last, "183 and 200 say the same");
    assert_eq!(version(&last), (4711, 1));
    hear(&mut leg, Turn::RemoteOffer(&sdp("m=audio 4000 RTP/AVP 0\na=sendonly")));
    assert_eq!(version(&say(&mut leg, Turn::LocalAnswer(None))), (4711, 2));
    hear(&mut leg, Turn::RemoteOffer(&sdp(PCMU)));
    assert_eq!(version(&say(&mut leg, Turn::LocalAnswer(None))), (4711, 3), "going back is a change too");
}

#[test]
fn a_codec_change_by_reinvite_reaches_both_legs() {
    let (mut a, mut b) = (leg(), leg());
    connect(&mut a, &mut b, &sdp(PCMU), &sdp(PCMU));
    hear(&mut a, Turn::RemoteOffer(&sdp(PCMA)));
    say(&mut b, Turn::LocalOffer(Some(&a.remote().unwrap().terms)));
    hear(&mut b, Turn::RemoteAnswer(&sdp(PCMA)));
    assert_eq!(map(&b, Some(&a)), [(8, 8)], "B speaks the new codec already, and A has offered to hear it");
    say(&mut a, Turn::LocalAnswer(Some(&b.remote().unwrap().terms)));
    assert_eq!((map(&a, Some(&b)), map(&b, Some(&a))), (vec![(8, 8)], vec![(8, 8)]));
}

#[test]
fn an_answer_without_a_codec_in_common_is_incompatible_and_leaves_the_offer_open() {
    let (mut a, mut b) = (leg(), leg());
    hear(&mut a, Turn::RemoteOffer(&sdp(PCMU)));
    say(&mut b, Turn::LocalOffer(Some(&a.remote().unwrap().terms)));
    assert_eq!(refuse(&mut b, Turn::RemoteAnswer(&sdp(PCMA))).code(), "incompatible");
    assert_eq!(refuse(&mut b, Turn::RemoteAnswer(&sdp("m=audio 0 RTP/AVP 0"))).code(), "incompatible");
    hear(&mut b, Turn::RemoteAnswer(&sdp(PCMU)));
}

#[test]
fn the_late_offer_has_all_we_speak() {
    let offer = say(&mut leg(), Turn::LocalOffer(None));
    assert_eq!(lines(&offer, "m="), ["audio 10000 RTP/AVP 96 9 8 0 101"]);
    assert_eq!(
        lines(&offer, "a=rtpmap:"),
        ["96 opus/48000/2", "9 G722/8000", "8 PCMA/8000", "0 PCMU/8000", "101 telephone-event/8000"]
    );
    assert_eq!(lines(&offer, "a=fmtp:"), ["96 useinbandfec=1", "101 0-16"]);
    assert_eq!(lines(&offer, "a=ptime:"), ["20"]);
    assert_eq!(lines(&offer, "s="), ["-"]);
    assert_eq!(lines(&offer, "t="), ["0 0"]);
}

#[test]
fn echo_answers_the_phone_with_its_own_parameters() {
    let mut leg = leg();
    hear(
        &mut leg,
        Turn::RemoteOffer(&sdp(
            "m=audio 4000 RTP/AVP 107 18 0 100\na=rtpmap:107 opus/48000/2\na=fmtp:107 stereo=0;useinbandfec=1\n\
             a=rtpmap:100 telephone-event/48000\na=fmtp:100 0-15\na=ptime:40\na=maxptime:60",
        )),
    );
    let answer = say(&mut leg, Turn::LocalAnswer(None));
    assert_eq!(lines(&answer, "m="), ["audio 10000 RTP/AVP 107 0 100"]);
    assert_eq!(lines(&answer, "a=fmtp:"), ["107 stereo=0;useinbandfec=1", "100 0-15"]);
    assert_eq!((lines(&answer, "a=ptime:"), lines(&answer, "a=maxptime:")), (vec!["40"], vec!["60"]));
    assert_eq!(map(&leg, None), [(107, 107), (0, 0), (100, 100)]);
}
