//! Why a stream is silent, in plain words: from its record, its partner's and what was refused. Pure. Whatever it says
//! follows from a number that is shown beside it.

use crate::codec;
use nebula_ring::table::{FLAG_ECHO, FLAG_LATCHED, FLAG_OPEN, FLAG_RECEIVE, FLAG_SEND, FLAG_TIMED_OUT};
use nebula_ring::{DropReason, StreamRecord};
use serde::Serialize;

/// RTP comes every 20 ms, or less often in silence; after so long without any a stream counts as silent here.
const SILENT_AFTER_MS: u64 = 2_000;
/// ICMP messages older than that are history.
const UNREACHABLE_FOR_MS: u64 = 10_000;

/// One reason, with what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// Which; stable, for scripts.
    pub code: Code,
    /// In plain words.
    pub says: String,
    /// Where to look next.
    pub advice: &'static str,
}

/// Why nothing is heard, or why something else is odd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// It ended.
    Ended,
    /// Nothing ever came.
    NoPacketsEver,
    /// Packets come, but not from the peer's address.
    ForeignSource,
    /// A source is being observed and has not proved to be the peer.
    StillLearning,
    /// A tag did not verify.
    BadTags,
    /// There is no key to verify anything by.
    NoKey,
    /// Packets come in a payload type that was not negotiated.
    WrongPayloadType,
    /// The peer does not want to hear.
    PeerOnHold,
    /// We do not let the peer speak.
    HeldByUs,
    /// ICMP says nobody listens there.
    PortUnreachable,
    /// It has no other leg.
    NotBridged,
    /// The other leg's address is not known.
    NoRemote,
    /// What comes is no RTP.
    NotRtp,
    /// Our own packets come back.
    Loop,
    /// The peer talked and stopped.
    WentSilent,
    /// The peer talks; the other leg does not.
    PartnerSilent,
    /// Nothing is wrong.
    Talking,
}

/// Drops that mean that whoever sends speaks another protocol, each with that protocol's name.
const NOT_RTP: [(DropReason, &str); 8] = [
    (DropReason::Stun, "STUN, that is ICE, which was not negotiated"),
    (DropReason::Dtls, "DTLS, that is WebRTC keying, which was not negotiated"),
    (DropReason::Zrtp, "ZRTP"),
    (DropReason::TurnChannel, "TURN channel data"),
    (DropReason::BadVersion, "something without RTP's version number"),
    (DropReason::Truncated, "packets shorter than their own headers"),
    (DropReason::BadPadding, "packets with impossible padding"),
    (DropReason::TooLong, "packets longer than a relay takes"),
];

/// Explains a stream; `partner` is the other leg of its bridge, if that was found. The most likely reason comes first, and
/// there is always one.
pub fn explain(record: &StreamRecord, partner: Option<&StreamRecord>, now_ms: u64) -> Vec<Reason> {
    if !record.is(FLAG_OPEN) {
        return vec![reason(Code::Ended, "The stream has ended; these are its final counts.".into(), "")];
    }
    let mut reasons: Vec<Reason> = [
        held(record),
        unreachable(record, now_ms),
        silent(record, now_ms),
        refused(record),
        protection(record),
        wrong_payload_type(record),
        not_rtp(record),
        looped(record),
        egress(record, partner, now_ms),
    ]
    .into_iter()
    .flatten()
    .collect();
    if is_silent(record, now_ms) && record.is(FLAG_RECEIVE) {
        // A packet that was refused says more than that none was accepted.
        reasons.sort_by_key(|it| matches!(it.code, Code::NoPacketsEver | Code::WentSilent));
    }
    if reasons.is_empty() {
        reasons.push(reason(Code::Talking, "Packets flow as negotiated.".into(), ""));
    }
    reasons
}

fn reason(code: Code, says: String, advice: &'static str) -> Reason {
    Reason { code, says, advice }
}

fn count(record: &StreamRecord, reason: DropReason) -> u64 {
    record.drops().get(reason)
}

fn is_silent(record: &StreamRecord, now_ms: u64) -> bool {
    record.rtp_in_at_ms == 0 || now_ms.saturating_sub(record.rtp_in_at_ms) > SILENT_AFTER_MS
}

fn silent(record: &StreamRecord, now_ms: u64) -> Option<Reason> {
    if !is_silent(record, now_ms) || !record.is(FLAG_RECEIVE) {
        return None;
    }
    let port = record.rtp_port;
    Some(if record.packets_in == 0 {
        let to = record.remote_rtp().map_or("nowhere yet".into(), |to| to.to_string());
        let age_s = now_ms.saturating_sub(record.created_at_ms) / 1000;
        let says = format!(
            "No RTP was ever accepted from the peer in {age_s} s: none that counts came to our port {port}. We send to {to}."
        );
        reason(
            Code::NoPacketsEver,
            says,
            "A firewall before this host, a wrong advertised address, or a phone that sends elsewhere: `nebula capture` shows what arrives.",
        )
    } else {
        let for_s = now_ms.saturating_sub(record.rtp_in_at_ms) / 1000;
        let timeout = if record.is(FLAG_TIMED_OUT) { "; its RTP timeout is over" } else { "" };
        let says = format!("The peer sent {} packets and stopped {for_s} s ago{timeout}.", record.packets_in);
        reason(Code::WentSilent, says, "Silence suppression, a phone that is gone, or a NAT that forgot it.")
    })
}

fn held(record: &StreamRecord) -> Option<Reason> {
    match (record.is(FLAG_SEND), record.is(FLAG_RECEIVE)) {
        (true, true) => None,
        (false, receives) => {
            let also = if receives { "" } else { ", nor may it speak (inactive)" };
            let says = format!("The peer is on hold: by its SDP it does not want to hear anything{also}.");
            Some(reason(Code::PeerOnHold, says, "It ends with the re-INVITE that takes it off hold."))
        }
        (true, false) => {
            let refused = count(record, DropReason::Direction);
            let says =
                format!("By the SDP the peer only listens (recvonly); {refused} packets of it were refused for that.");
            Some(reason(Code::HeldByUs, says, "The other party holds the call, or the phone negotiated recvonly."))
        }
    }
}

fn unreachable(record: &StreamRecord, now_ms: u64) -> Option<Reason> {
    let recent = record.unreachable > 0 && now_ms.saturating_sub(record.unreachable_at_ms) <= UNREACHABLE_FOR_MS;
    let to = record.remote_rtp().map_or("its address".into(), |to| to.to_string());
    recent.then(|| {
        let says =
            format!("The network says that nobody listens at {to} (ICMP unreachable, {} times).", record.unreachable);
        reason(Code::PortUnreachable, says, "The phone has closed its port or restarted, or a firewall refuses.")
    })
}

fn refused(record: &StreamRecord) -> Option<Reason> {
    let (foreign, learning) = (count(record, DropReason::ForeignSource), count(record, DropReason::Learning));
    let from = record.refused_source().map_or(String::new(), |from| format!(", last from {from}"));
    let wanted = record.remote_rtp().map_or("an address not known yet".into(), |it| it.to_string());
    if foreign > 0 {
        let says = format!("{foreign} packets came from a foreign source{from}; the peer is {wanted}.");
        let advice = if record.is(FLAG_LATCHED) {
            "If that is the phone, its NAT gave it another port: it is found again by a re-INVITE. If not, somebody probes."
        } else {
            "The phone sends from elsewhere than its SDP says, and NAT is not expected of it: see media.nat in the configuration."
        };
        return Some(reason(Code::ForeignSource, says, advice));
    }
    (learning > 0 && !record.is(FLAG_LATCHED)).then(|| {
        let says = format!(
            "{learning} packets came from a source that has yet to prove to be the peer{from}; signalled was {wanted}."
        );
        reason(Code::StillLearning, says, "The learning window may be over before enough packets came in order.")
    })
}

fn protection(record: &StreamRecord) -> Option<Reason> {
    let (bad, keyless) = (count(record, DropReason::BadTag), count(record, DropReason::NoKey));
    if bad > 0 {
        let says = format!("{bad} packets had a bad authentication tag (SRTP).");
        return Some(reason(
            Code::BadTags,
            says,
            "The sides have different keys or suites, or somebody forges packets.",
        ));
    }
    (keyless > 0).then(|| {
        let says = format!("{keyless} packets were protected by a key that is not known here (SRTP).");
        reason(Code::NoKey, says, "The peer's answer is still to come, or it uses a key of an earlier offer.")
    })
}

fn wrong_payload_type(record: &StreamRecord) -> Option<Reason> {
    let refused = count(record, DropReason::UnknownPayloadType);
    (refused > 0).then(|| {
        let number = codec::name_of(record.payload_type_refused);
        let says =
            format!("{refused} packets came in a payload type that was not negotiated, last {number}: codec mismatch.");
        reason(
            Code::WrongPayloadType,
            says,
            "The phone sends another codec than it agreed to, or an offer is still open.",
        )
    })
}

fn not_rtp(record: &StreamRecord) -> Option<Reason> {
    let (refused, protocol) =
        NOT_RTP.iter().map(|&(which, name)| (count(record, which), name)).max_by_key(|(refused, _)| *refused)?;
    (refused > 0 && refused > record.packets_in / 10).then(|| {
        let says = format!("{refused} packets were no RTP but {protocol}.");
        reason(Code::NotRtp, says, "The peer speaks another protocol than was negotiated.")
    })
}

fn looped(record: &StreamRecord) -> Option<Reason> {
    let refused = count(record, DropReason::Loop);
    (refused > 0).then(|| {
        let says = format!("{refused} packets were our own that came back: there is a loop in the network.");
        reason(Code::Loop, says, "A media proxy, or a forwarding rule, sends what it gets from us to us.")
    })
}

/// Why nothing leaves towards the peer, though the peer may be heard.
fn egress(record: &StreamRecord, partner: Option<&StreamRecord>, now_ms: u64) -> Option<Reason> {
    if record.is(FLAG_ECHO) && record.bridged_with == 0 {
        return None;
    }
    if record.bridged_with == 0 {
        let lost = count(record, DropReason::NoPeer);
        let says = format!("The stream has no other leg yet; {lost} packets had nowhere to go.");
        return Some(reason(Code::NotBridged, says, "It is bridged when the call is answered, or with early media."));
    }
    let partner = partner?;
    let name = crate::view::id(partner.id);
    let nowhere = count(record, DropReason::NoRemote);
    if nowhere > 0 && partner.remote_rtp().is_none() {
        let says = format!("{nowhere} packets had nowhere to go: the address of the other leg ({name}) is not known.");
        return Some(reason(
            Code::NoRemote,
            says,
            "Its phone has not answered with an address, or is on the old kind of hold.",
        ));
    }
    (!is_silent(record, now_ms) && is_silent(partner, now_ms) && record.is(FLAG_SEND)).then(|| {
        let says = format!("This peer talks and hears nothing, because the other leg ({name}) is silent.");
        reason(Code::PartnerSilent, says, "Ask `nebula stream` about that one.")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::tests::talking;

    const NOW: u64 = 100_000;

    fn heard(id: u64) -> StreamRecord {
        StreamRecord { rtp_in_at_ms: NOW - 20, created_at_ms: NOW - 30_000, ..talking(id, 1_000, 0, 0) }
    }

    fn unheard(id: u64) -> StreamRecord {
        let mut record = StreamRecord { packets_in: 0, rtp_in_at_ms: 0, ..heard(id) };
        record.set(FLAG_LATCHED, false);
        record
    }

    fn with(mut record: StreamRecord, reason: DropReason, count: u64) -> StreamRecord {
        record.drop_counts[reason as usize] = count;
        record
    }

    fn codes(record: &StreamRecord, partner: Option<&StreamRecord>) -> Vec<Code> {
        explain(record, partner, NOW).into_iter().map(|it| it.code).collect()
    }

    #[test]
    fn each_silence_has_its_reason_first() {
        let mut foreign = with(unheard(2), DropReason::ForeignSource, 7);
        foreign.set_refused_source(Some("203.0.113.9:777".parse().unwrap()));
        let wrong = StreamRecord { payload_type_refused: 111, ..with(unheard(2), DropReason::UnknownPayloadType, 9) };
        let gone = StreamRecord { rtp_in_at_ms: NOW - 9_000, ..heard(2) };
        let icmp = StreamRecord { unreachable: 3, unreachable_at_ms: NOW - 100, ..gone };
        let mut hold = gone;
        hold.set(FLAG_SEND, false);
        let mut held = with(gone, DropReason::Direction, 4);
        held.set(FLAG_RECEIVE, false);
        for (record, first, word) in [
            (unheard(2), Code::NoPacketsEver, "30 s"),
            (foreign, Code::ForeignSource, "203.0.113.9:777"),
            (with(unheard(2), DropReason::Learning, 2), Code::StillLearning, "prove"),
            (wrong, Code::WrongPayloadType, "111 (dynamic)"),
            (with(unheard(2), DropReason::Dtls, 5), Code::NotRtp, "DTLS"),
            (with(unheard(2), DropReason::BadTag, 6), Code::BadTags, "6 packets"),
            (with(unheard(2), DropReason::NoKey, 8), Code::NoKey, "8 packets"),
            (with(unheard(2), DropReason::Loop, 2), Code::Loop, "came back"),
            (gone, Code::WentSilent, "9 s ago"),
            (icmp, Code::PortUnreachable, "192.0.2.1:4000"),
            (hold, Code::PeerOnHold, "on hold"),
            (held, Code::HeldByUs, "4 packets"),
        ] {
            let partner = heard(3);
            let reasons = explain(&record, Some(&partner), NOW);
            assert_eq!(reasons[0].code, first, "{reasons:?}");
            assert!(reasons[0].says.contains(word) && !reasons[0].advice.is_empty(), "{reasons:?}");
        }
    }

    #[test]
    fn legs_are_told_apart_and_a_good_call_has_nothing() {
        assert_eq!(codes(&heard(2), Some(&heard(3))), [Code::Talking]);
        assert_eq!(codes(&heard(2), Some(&unheard(3))), [Code::PartnerSilent]);
        assert_eq!(codes(&StreamRecord { bridged_with: 0, ..heard(2) }, None), [Code::NotBridged]);
        let mut echo = StreamRecord { bridged_with: 0, ..heard(2) };
        echo.set(FLAG_ECHO, true);
        assert_eq!(codes(&echo, None), [Code::Talking]);
        let mut nowhere = unheard(3);
        nowhere.set_remote_rtp(None);
        assert_eq!(codes(&with(heard(2), DropReason::NoRemote, 5), Some(&nowhere)), [Code::NoRemote]);
        assert_eq!(codes(&StreamRecord { flags: 0, ..heard(2) }, None), [Code::Ended]);
        let old = StreamRecord { unreachable: 3, unreachable_at_ms: 1, ..heard(2) };
        assert_eq!(codes(&old, Some(&heard(3))), [Code::Talking], "history");
    }

    #[test]
    fn a_few_stray_packets_are_no_reason_and_a_stranger_in_a_good_call_is_told() {
        assert_eq!(codes(&with(heard(2), DropReason::Stun, 3), Some(&heard(3))), [Code::Talking]);
        let mut probed = with(heard(2), DropReason::ForeignSource, 3);
        probed.set_refused_source(Some("203.0.113.9:777".parse().unwrap()));
        assert_eq!(codes(&probed, Some(&heard(3))), [Code::ForeignSource]);
    }
}
