//! Pure functions from terms to terms: what to offer, what to answer, what both then mean by a payload type number.
//!
//! Called by `exchange` and, for the payload type map of a bridge, by `agent`. RFC 3264 sections 5.1, 6.1 and 8.3.2.

use super::Incompatible;
use super::codecs::{self, Format, NUMBER_MAX};
use super::sdp::{Direction, Terms};
use nebula_ring::command::{PAYLOAD_TYPES_MAX, PayloadType, PayloadTypes};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What we offer of our own accord.
const OWN_PTIME_MS: u16 = 20;

/// One format that both ends of a leg know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Agreed {
    /// As our description has it: its number is what the peer sends.
    pub ours: Format,
    /// The number in the peer's description: what we send.
    pub peer_number: u8,
}

/// The payload type numbers a leg has used so far. A number keeps its meaning while the leg lives (section 8.3.2).
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Numbers(BTreeMap<u8, Format>);

impl Numbers {
    /// Notes the numbers of a description, ours or the peer's.
    pub fn remember(&mut self, formats: &[Format]) {
        for format in formats {
            self.0.entry(format.number).or_insert_with(|| format.clone());
        }
    }

    fn of(&self, format: &Format, taken: &[Format]) -> Option<u8> {
        self.0.values().find(|known| known.same_as(format) && is_free(known.number, taken)).map(|known| known.number)
    }

    fn is_unused(&self, number: u8) -> bool {
        !self.0.contains_key(&number)
    }
}

fn is_free(number: u8, taken: &[Format]) -> bool {
    taken.iter().all(|format| format.number != number)
}

/// Everything we can do, for a phone that asked for our offer.
pub fn own_offer(numbers: &Numbers) -> Terms {
    let formats = codecs::ours();
    let terms = Terms { direction: Direction::SENDRECV, formats, ptime_ms: Some(OWN_PTIME_MS), maxptime_ms: None };
    mirrored_offer(&terms, numbers)
}

/// Offers one leg what the other leg said, in that leg's numbers unless they mean something else here already.
pub fn mirrored_offer(mirrored: &Terms, numbers: &Numbers) -> Terms {
    let mut formats: Vec<Format> = Vec::with_capacity(mirrored.formats.len());
    for format in bounded(mirrored.formats.clone()) {
        let number = number_for(&format, mirrored, numbers, &formats);
        formats.extend(number.map(|number| Format { number, ..format }));
    }
    let renumbered = formats.iter().any(|format| !mirrored.formats.contains(format));
    formats.retain(|format| !(renumbered && format.codec.names_other_formats()));
    Terms { formats, ..mirrored.clone() }
}

/// The number it had here before, else the other leg's, else a free one: dynamic first, then the unassigned range that
/// RTCP does not need (RFC 3551 section 3, RFC 5761 section 4). None are left: the format is not offered.
fn number_for(format: &Format, mirrored: &Terms, numbers: &Numbers, taken: &[Format]) -> Option<u8> {
    let is_static = Format::from_static_number(format.number).is_some_and(|known| known.same_as(format));
    let as_there = (is_static || numbers.is_unused(format.number)) && is_free(format.number, taken);
    let unused = |&n: &u8| numbers.is_unused(n) && is_free(n, taken) && is_free(n, &mirrored.formats);
    numbers
        .of(format, taken)
        .filter(|_| !is_static)
        .or(as_there.then_some(format.number))
        .or_else(|| (96..=NUMBER_MAX).chain(35..=63).find(unused))
}

/// Answers a leg's offer as the other leg answered ours: its formats and parameters in its order of preference, under
/// the numbers and names of the offer.
pub fn mirrored_answer(offer: &Terms, mirrored: &Terms) -> Result<Terms, Incompatible> {
    let mut formats: Vec<Format> = Vec::with_capacity(mirrored.formats.len());
    let mut renumbered = false;
    for there in &mirrored.formats {
        let here = offer.formats.iter().find(|here| here.same_as(there) && is_free(here.number, &formats));
        renumbered |= here.is_some_and(|here| here.number != there.number);
        formats.extend(here.map(|here| Format { fmtp: there.fmtp.clone(), ..here.clone() }));
    }
    formats.retain(|format| !(renumbered && format.codec.names_other_formats()));
    let formats = bounded(formats);
    if !formats.iter().any(|format| format.codec.is_audio()) {
        return Err(Incompatible::NoCodec);
    }
    Ok(Terms { direction: mirrored.direction.and(offer.direction.reversed()), formats, ..mirrored.clone() })
}

/// Answers for ourselves (echo): the peer's own offer turned round, as far as we speak its codecs.
pub fn own_answer(offer: &Terms) -> Result<Terms, Incompatible> {
    let mut terms = Terms { direction: Direction::SENDRECV, ..offer.clone() };
    terms.formats.retain(|format| format.codec.is_ours());
    mirrored_answer(offer, &terms)
}

/// A stream has room for `PAYLOAD_TYPES_MAX`: what is too much goes from the end, speech before events.
fn bounded(mut formats: Vec<Format>) -> Vec<Format> {
    while formats.len() > PAYLOAD_TYPES_MAX {
        let last_audio = formats.iter().rposition(|format| format.codec.is_audio()).filter(|&at| at > 0);
        formats.remove(last_audio.unwrap_or(formats.len() - 1));
    }
    formats
}

/// What both descriptions of a leg have, in the peer's order of preference.
pub fn agree(ours: &[Format], peers: &[Format]) -> Result<Vec<Agreed>, Incompatible> {
    let mut agreed: Vec<Agreed> = Vec::with_capacity(peers.len());
    for peer in peers {
        let found = ours.iter().find(|our| our.same_as(peer) && agreed.iter().all(|a| a.ours.number != our.number));
        agreed.extend(found.map(|our| Agreed { ours: our.clone(), peer_number: peer.number }));
    }
    if agreed.iter().any(|a| a.ours.codec.is_audio()) { Ok(agreed) } else { Err(Incompatible::NoCodec) }
}

/// What the peer may send, and what it is called where it goes; `forward_as` knows that, none drops the format.
pub fn payload_types(agreed: &[Agreed], forward_as: impl Fn(&Agreed) -> Option<u8>) -> PayloadTypes {
    let all: Vec<(&Agreed, PayloadType)> = agreed
        .iter()
        .filter_map(|a| {
            let (number, clock_rate_hz) = (a.ours.number, a.ours.codec.clock_rate_hz);
            Some((a, PayloadType { number, forward_as: forward_as(a)?, clock_rate_hz }))
        })
        .collect();
    let renumbered = all.iter().any(|(_, row)| row.number != row.forward_as);
    all.iter().filter(|(a, _)| !(renumbered && a.ours.codec.names_other_formats())).map(|(_, row)| *row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms(formats: &[(u8, &str)]) -> Terms {
        let formats = formats.iter().map(|&(number, rtpmap)| Format::from_rtpmap(number, rtpmap).unwrap()).collect();
        Terms { direction: Direction::SENDRECV, formats, ptime_ms: None, maxptime_ms: None }
    }

    fn numbers_of(terms: &Terms) -> Vec<u8> {
        terms.formats.iter().map(|format| format.number).collect()
    }

    #[test]
    fn an_offer_keeps_the_numbers_of_the_other_leg() {
        let there = terms(&[(97, "iLBC/8000"), (0, "PCMU/8000"), (101, "telephone-event/8000")]);
        assert_eq!(mirrored_offer(&there, &Numbers::default()), there);
    }

    #[test]
    fn a_number_never_changes_its_meaning_on_a_leg() {
        let mut numbers = Numbers::default();
        numbers.remember(&terms(&[(96, "telephone-event/8000"), (97, "opus/48000/2")]).formats);
        let there = terms(&[(96, "opus/48000/2"), (98, "iLBC/8000"), (97, "speex/8000"), (0, "PCMU/8000")]);
        assert_eq!(numbers_of(&mirrored_offer(&there, &numbers)), [97, 98, 99, 0]);
    }

    #[test]
    fn redundancy_is_offered_only_under_its_own_numbers() {
        let there = terms(&[(96, "opus/48000/2"), (63, "red/48000/2")]);
        assert_eq!(numbers_of(&mirrored_offer(&there, &Numbers::default())), [96, 63]);
        let mut numbers = Numbers::default();
        numbers.remember(&terms(&[(96, "telephone-event/8000")]).formats);
        assert_eq!(numbers_of(&mirrored_offer(&there, &numbers)), [97]);
        let agreed = agree(&there.formats, &terms(&[(100, "opus/48000/2"), (63, "red/48000/2")]).formats).unwrap();
        let map = payload_types(&agreed, |a| Some(a.peer_number));
        assert_eq!(map.as_slice(), [PayloadType { number: 96, forward_as: 100, clock_rate_hz: 48_000 }]);
    }

    #[test]
    fn the_answer_is_that_of_the_other_leg_in_the_numbers_of_the_offer() {
        let offer = terms(&[(0, "PCMU/8000"), (8, "PCMA/8000"), (96, "telephone-event/8000")]);
        let mut there = terms(&[(8, "PCMA/8000"), (101, "telephone-event/8000"), (18, "G729/8000")]);
        there.formats[1].fmtp.push("0-15".into());
        let answer = mirrored_answer(&offer, &there).unwrap();
        assert_eq!(numbers_of(&answer), [8, 96]);
        assert_eq!(answer.formats[1].fmtp, ["0-15"]);
    }

    #[test]
    fn events_alone_are_no_session() {
        let offer = terms(&[(0, "PCMU/8000"), (101, "telephone-event/8000")]);
        let there = terms(&[(8, "PCMA/8000"), (101, "telephone-event/8000")]);
        assert_eq!(mirrored_answer(&offer, &there), Err(Incompatible::NoCodec));
        assert_eq!(agree(&offer.formats, &there.formats), Err(Incompatible::NoCodec));
        assert_eq!(own_answer(&terms(&[(18, "G729/8000"), (101, "telephone-event/8000")])), Err(Incompatible::NoCodec));
    }

    #[test]
    fn too_many_formats_lose_speech_first() {
        let many: Vec<(u8, String)> = (0..20).map(|n| (96 + n, format!("X{n}/8000"))).collect();
        let mut rows: Vec<(u8, &str)> = many.iter().map(|(n, name)| (*n, name.as_str())).collect();
        rows.push((126, "telephone-event/8000"));
        let offer = mirrored_offer(&terms(&rows), &Numbers::default());
        assert_eq!(offer.formats.len(), PAYLOAD_TYPES_MAX);
        assert_eq!(numbers_of(&offer).last(), Some(&126));
    }

    #[test]
    fn a_direction_is_answered_only_by_what_it_allows() {
        let dir = |send, recv| Direction { send, recv };
        for (offered, there, answered) in [
            (dir(true, true), dir(true, true), dir(true, true)),
            (dir(true, false), dir(false, true), dir(false, true)),
            (dir(true, false), dir(true, true), dir(false, true)),
            (dir(true, true), dir(false, true), dir(false, true)),
            (dir(false, true), dir(true, true), dir(true, false)),
            (dir(false, false), dir(true, true), dir(false, false)),
        ] {
            let offer = Terms { direction: offered, ..terms(&[(0, "PCMU/8000")]) };
            let mirrored = Terms { direction: there, ..offer.clone() };
            assert_eq!(mirrored_answer(&offer, &mirrored).unwrap().direction, answered, "{offered:?} {there:?}");
        }
    }
}
