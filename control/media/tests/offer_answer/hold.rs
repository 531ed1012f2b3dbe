//! Hold and resume, in all the ways phones spell it (RFC 3264 section 8.4, RFC 6337 section 5.3).

use super::*;
use nebula_media::offer_answer::sdp::Direction;

const TALK: &str = "m=audio 4000 RTP/AVP 0\na=sendrecv";

fn connected() -> (Exchange, Exchange) {
    let (mut a, mut b) = (leg(), leg());
    connect(&mut a, &mut b, &sdp(TALK), &sdp(TALK));
    (a, b)
}

#[test]
fn a_hold_passes_through_and_stops_media_one_way() {
    let (mut a, mut b) = connected();
    let hold = sdp("m=audio 4000 RTP/AVP 0\na=sendonly");
    let (to_b, to_a) = connect(&mut a, &mut b, &hold, &sdp("m=audio 4000 RTP/AVP 0\na=recvonly"));
    assert!(to_b.contains("a=sendonly") && to_a.contains("a=recvonly"));
    assert!(a.is_held() && !b.is_held());
    assert_eq!(a.direction(), Direction { send: false, recv: true }, "music on hold still comes from A");
    assert_eq!(b.direction(), Direction { send: true, recv: false });

    let (to_b, to_a) = connect(&mut a, &mut b, &sdp(TALK), &sdp(TALK));
    assert!(to_b.contains("a=sendrecv") && to_a.contains("a=sendrecv"));
    assert!(!a.is_held());
    assert_eq!((a.direction(), b.direction()), (Direction::SENDRECV, Direction::SENDRECV));
}

#[test]
fn old_style_hold_by_the_unspecified_address() {
    let (mut a, mut b) = connected();
    let before = a.remote_addresses();
    let hold = sdp("m=audio 4000 RTP/AVP 0").replace("c=IN IP4 192.0.2.10", "c=IN IP4 0.0.0.0");
    let (to_b, to_a) = connect(&mut a, &mut b, &hold, &sdp("m=audio 4000 RTP/AVP 0\na=recvonly"));
    assert!(to_b.contains("a=sendonly"), "said the modern way on the other leg");
    assert!(to_b.contains("c=IN IP4 198.51.100.1"));
    assert!(to_a.contains("a=recvonly"));
    assert!(a.is_held() && !a.direction().send);
    assert_eq!(a.remote_addresses(), before, "the latch is not disturbed by a hold");
}

#[test]
fn an_inactive_offer_is_answered_inactive_whatever_the_other_leg_says() {
    let (mut a, mut b) = connected();
    let (_, to_a) = connect(&mut a, &mut b, &sdp("m=audio 4000 RTP/AVP 0\na=inactive"), &sdp(TALK));
    assert!(to_a.contains("a=inactive"));
    assert_eq!(a.direction(), Direction { send: false, recv: false });
    assert_eq!(b.direction(), Direction { send: false, recv: false }, "an answer cannot widen our offer");
}

#[test]
fn a_direction_at_session_level_counts_unless_the_line_has_its_own() {
    let mut leg = leg();
    hear(&mut leg, Turn::RemoteOffer(&sdp("a=sendonly\nm=audio 4000 RTP/AVP 0")));
    assert!(leg.is_held());
    hear(&mut leg, Turn::RemoteOffer(&sdp("a=sendonly\nm=audio 4000 RTP/AVP 0\na=sendrecv")));
    assert!(!leg.is_held());
}

#[test]
fn a_refused_hold_leaves_the_old_session() {
    let (mut a, mut b) = connected();
    let hold = sdp("m=audio 4000 RTP/AVP 0\na=sendonly");
    hear(&mut a, Turn::RemoteOffer(&hold));
    say(&mut b, Turn::LocalOffer(Some(&a.remote().unwrap().terms)));
    assert_eq!(
        (a.direction(), b.direction()),
        (Direction::SENDRECV, Direction::SENDRECV),
        "nothing holds before answers"
    );
    hear(&mut b, Turn::Rollback);
    hear(&mut a, Turn::Rollback);
    hear(&mut a, Turn::Rollback);
    assert!(!a.is_held());
    assert_eq!(refuse(&mut b, Turn::RemoteAnswer(&sdp("m=audio 4000 RTP/AVP 18"))).code(), "incompatible");
    assert_eq!(map(&a, Some(&b)), [(0, 0)]);
    let offer = say(&mut b, Turn::LocalOffer(Some(&a.remote().unwrap().terms)));
    assert!(offer.contains("a=sendrecv"), "the mirror shows the session that holds, not the refused offer");
}
