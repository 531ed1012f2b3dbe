//! Keys in SDP (RFC 4568): what is offered, taken, refused and changed.

use super::*;
use nebula_media::offer_answer::Incompatible::{self, NoCrypto, NoSuite, OurKey, SrtpOff, SrtpRequired};
use nebula_media::offer_answer::crypto::{Policy, Seed, Unusable};
use nebula_ring::srtp::{SrtpConfig, Suite};

const GCM: &str = "AEAD_AES_128_GCM inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGw==";
const CM: &str = "AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
const OTHER_CM: &str = "AES_CM_128_HMAC_SHA1_80 inline:AAAAX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz";
const SUITES: [Suite; 3] = [Suite::AeadAes128Gcm, Suite::AesCm128HmacSha1_80, Suite::AesCm128HmacSha1_32];

fn protected_leg(policy: Policy) -> Exchange {
    let mut leg = Exchange::new(policy, &SUITES, Seed::new([42; 32]));
    leg.place(Endpoint { ip: "198.51.100.1".parse().unwrap(), rtp_port: 10_000, session_id: 4711, loopback: false });
    leg
}

/// An audio line of this profile with these crypto lines.
fn audio(profile: &str, crypto: &[&str]) -> String {
    let crypto: String = (1..).zip(crypto).map(|(tag, rest)| format!("a=crypto:{tag} {rest}\n")).collect();
    sdp(&format!("m=audio 4000 {profile} 8\n{crypto}"))
}

fn answer(leg: &mut Exchange, offer: &str) -> String {
    hear(leg, Turn::RemoteOffer(offer));
    say(leg, Turn::LocalAnswer(None))
}

fn serials(leg: &Exchange) -> Option<(u32, u32)> {
    let SrtpConfig { receive, send } = leg.srtp()?;
    Some((receive?.serial, send?.serial))
}

fn why(leg: &mut Exchange, turn: Turn<'_>) -> Incompatible {
    match refuse(leg, turn) {
        Error::Incompatible(why) => why,
        other => panic!("{other}"),
    }
}

#[test]
fn a_leg_is_answered_with_what_it_offered() {
    for (profile, offered, taken) in [
        ("RTP/SAVP", &[CM][..], Some("1 AES_CM_128_HMAC_SHA1_80 ")),
        ("RTP/SAVPF", &[CM, GCM], Some("2 AEAD_AES_128_GCM ")),
        ("RTP/AVP", &[CM, OTHER_CM], Some("1 AES_CM_128_HMAC_SHA1_80 ")),
        ("RTP/AVP", &[], None),
        ("RTP/AVP", &["F8_128_HMAC_SHA1_80 inline:AAAA"], None),
    ] {
        let mut leg = protected_leg(Policy::Accepted);
        let answer = answer(&mut leg, &audio(profile, offered));
        assert_eq!(lines(&answer, "m=audio 10000 "), [format!("{profile} 8")]);
        let crypto = lines(&answer, "a=crypto:");
        assert_eq!(crypto.len(), usize::from(taken.is_some()), "{answer}");
        assert!(taken.is_none_or(|taken| crypto[0].starts_with(taken)), "{crypto:?}");
        assert_eq!(serials(&leg), taken.map(|_| (1, 1)));
        assert!(!offered.iter().any(|theirs| crypto.first().is_some_and(|ours| ours.ends_with(&theirs[30..]))));
    }
}

#[test]
fn lines_that_cannot_be_used_are_passed_over_and_named_if_there_are_no_others() {
    let unencrypted = format!("{CM} UNENCRYPTED_SRTP");
    let mut leg = protected_leg(Policy::Accepted);
    let answer = answer(&mut leg, &audio("RTP/SAVP", &[&unencrypted, &format!("{CM}|2^31|1:1")]));
    assert!(lines(&answer, "a=crypto:")[0].starts_with("2 AES_CM_128_HMAC_SHA1_80 "));
    assert_eq!(leg.srtp().unwrap().receive.unwrap().mki.as_bytes(), [1]);
    let mut leg = protected_leg(Policy::Accepted);
    let named = NoCrypto(Some(Unusable::Parameter("UNENCRYPTED_SRTP".into())));
    assert_eq!(why(&mut leg, Turn::RemoteOffer(&audio("RTP/SAVP", &[&unencrypted]))), named);
    assert_eq!(named.to_string(), "no usable a=crypto: session parameter UNENCRYPTED_SRTP is not supported");
    assert_eq!(why(&mut leg, Turn::RemoteOffer(&audio("RTP/SAVP", &[]))), NoCrypto(None));
    let not_ours = "AES_256_CM_HMAC_SHA1_80 inline:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLQ==";
    assert_eq!(why(&mut leg, Turn::RemoteOffer(&audio("RTP/SAVP", &[not_ours]))), NoSuite);
}

#[test]
fn the_policy_says_what_is_accepted() {
    let mut off = protected_leg(Policy::Off);
    assert_eq!(why(&mut off, Turn::RemoteOffer(&audio("RTP/SAVP", &[CM]))), SrtpOff);
    assert_eq!(lines(&answer(&mut off, &audio("RTP/AVP", &[CM])), "a=crypto:"), [] as [&str; 0]);
    assert_eq!(off.srtp(), None);
    let mut required = protected_leg(Policy::Required);
    assert_eq!(why(&mut required, Turn::RemoteOffer(&audio("RTP/AVP", &[]))), SrtpRequired);
    assert_eq!(lines(&answer(&mut required, &audio("RTP/AVP", &[CM])), "a=crypto:").len(), 1);
}

#[test]
fn what_we_offer_follows_the_policy_and_may_be_declined_or_not() {
    for (policy, profile, keys) in [
        (Policy::Off, "RTP/AVP", 0),
        (Policy::Accepted, "RTP/AVP", 0),
        (Policy::Offered, "RTP/AVP", 3),
        (Policy::Required, "RTP/SAVP", 3),
    ] {
        let mut leg = protected_leg(policy);
        let offer = say(&mut leg, Turn::LocalOffer(None));
        assert!(lines(&offer, "m=audio 10000 ")[0].starts_with(profile));
        assert_eq!(lines(&offer, "a=crypto:").len(), keys);
        let waits = policy == Policy::Required;
        assert_eq!(leg.srtp(), waits.then(SrtpConfig::default), "nothing passes in the clear meanwhile");
        let plain = audio("RTP/AVP", &[]);
        if waits {
            assert_eq!(why(&mut leg, Turn::RemoteAnswer(&plain)), NoSuite);
        } else {
            hear(&mut leg, Turn::RemoteAnswer(&plain));
            assert_eq!(leg.srtp(), None);
        }
    }
    let mut leg = protected_leg(Policy::Offered);
    let offer = say(&mut leg, Turn::LocalOffer(None));
    let keys: Vec<&str> = lines(&offer, "a=crypto:").iter().map(|line| line.split_once("inline:").unwrap().1).collect();
    assert!(keys[0] != keys[1] && !keys[1].starts_with(&keys[2][..20]), "a key of its own for each suite");
    assert_eq!(why(&mut leg, Turn::RemoteAnswer(&audio("RTP/SAVP", &[CM]))), NoSuite, "tag 1 is of another suite");
    hear(&mut leg, Turn::RemoteAnswer(&sdp(&format!("m=audio 4000 RTP/AVP 8\na=crypto:2 {CM}"))));
    assert_eq!((leg.suite(), serials(&leg)), (Some(Suite::AesCm128HmacSha1_80), Some((1, 2))));
    let ours = leg.srtp().unwrap().send.unwrap();
    use base64::Engine;
    let written = base64::engine::general_purpose::STANDARD.encode([ours.key(), ours.salt()].concat());
    assert_eq!(written, keys[1], "what we protect with is what we said");
}

#[test]
fn an_answer_with_our_own_key_is_refused() {
    let mut leg = protected_leg(Policy::Required);
    let offer = say(&mut leg, Turn::LocalOffer(None));
    let reflected = format!("m=audio 4000 RTP/SAVP 8\na=crypto:{}", lines(&offer, "a=crypto:")[0]);
    assert_eq!(why(&mut leg, Turn::RemoteAnswer(&sdp(&reflected))), OurKey);
}

#[test]
fn the_same_keys_go_on_and_new_ones_are_new() {
    let mut leg = protected_leg(Policy::Accepted);
    let first = answer(&mut leg, &audio("RTP/SAVP", &[CM]));
    let keys = leg.srtp();
    let again = answer(&mut leg, &audio("RTP/SAVP", &[CM]));
    assert_eq!(lines(&first, "a=crypto:"), lines(&again, "a=crypto:"));
    assert_eq!(leg.srtp(), keys, "nothing begins anew");
    // Hold and resume are such re-INVITEs, and so are ours.
    let held = answer(&mut leg, &sdp(&format!("m=audio 4000 RTP/SAVP 8\na=crypto:7 {CM}\na=sendonly")));
    assert!(lines(&held, "a=crypto:7 ").len() == 1 && leg.is_held() && leg.srtp() == keys);
    let ours = say(&mut leg, Turn::LocalOffer(None));
    assert!(lines(&ours, "m=audio 10000 ")[0].starts_with("RTP/SAVP "), "{ours}");
    assert_eq!(lines(&ours, "a=crypto:").len(), 1);
    hear(&mut leg, Turn::RemoteAnswer(&sdp(&format!("m=audio 4000 RTP/SAVP 8\na=crypto:7 {CM}"))));
    assert_eq!(leg.srtp(), keys);
    // Another key of the peer's; our own goes on.
    answer(&mut leg, &audio("RTP/SAVP", &[OTHER_CM]));
    assert_eq!(serials(&leg), Some((2, 1)));
    assert_eq!(leg.srtp().unwrap().send, keys.clone().unwrap().send);
    // Another suite, and back: our keys are new each time.
    answer(&mut leg, &audio("RTP/SAVP", &[GCM]));
    assert_eq!(serials(&leg), Some((3, 2)));
    answer(&mut leg, &audio("RTP/SAVP", &[CM]));
    assert_eq!(serials(&leg), Some((4, 3)));
    assert_ne!(leg.srtp().unwrap().send.unwrap().key(), keys.unwrap().send.unwrap().key());
    // A re-INVITE that is refused leaves all as it was.
    let before = leg.srtp();
    hear(&mut leg, Turn::RemoteOffer(&audio("RTP/SAVP", &[OTHER_CM])));
    hear(&mut leg, Turn::Rollback);
    assert_eq!(leg.srtp(), before);
}

#[test]
fn keys_survive_a_restart_of_the_agent() {
    let mut leg = protected_leg(Policy::Accepted);
    answer(&mut leg, &audio("RTP/SAVP", &[GCM, CM]));
    let kept = serde_json::to_string(&leg).unwrap();
    let mut again: Exchange = serde_json::from_str(&kept).unwrap();
    assert_eq!(again.srtp(), leg.srtp());
    let offer = audio("RTP/SAVP", &[GCM, CM]);
    assert_eq!(answer(&mut again, &offer), answer(&mut leg, &offer));
    assert_eq!(again.srtp(), leg.srtp(), "and it does not draw new ones");
    assert!(!format!("{leg:?}").contains("AAECAwQF"), "nor are they shown");
}

#[test]
fn a_protected_offer_lets_nothing_through_before_its_answer() {
    let mut leg = protected_leg(Policy::Accepted);
    hear(&mut leg, Turn::RemoteOffer(&audio("RTP/SAVP", &[CM])));
    assert_eq!(leg.srtp(), Some(SrtpConfig::default()));
    assert!(leg.wants_protection());
}
