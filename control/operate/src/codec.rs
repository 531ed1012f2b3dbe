//! What codec a stream carries, as far as its packets tell: the payload type is known to the dataplane by number and clock
//! alone. Static numbers say it for sure (RFC 3551 section 6), dynamic ones do not.

use crate::quality::{self, Impairment};
use nebula_ring::StreamRecord;

/// A codec as a stream's packets show it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Codec {
    /// Its name in SDP, or what is known instead.
    pub name: &'static str,
    /// How it sounds. For what is not known, and for Opus and G.722, of which G.113 has no narrow-band figures, that of
    /// G.711 with concealment.
    pub impairment: Impairment,
    /// Whether `impairment` is the codec's own.
    pub is_tabulated: bool,
}

/// Of RFC 3551 table 4: number, name, impairment if it is tabulated.
const STATIC: [(u8, &str, Option<Impairment>); 7] = [
    (0, "PCMU", Some(quality::G711)),
    (3, "GSM", Some(quality::GSM)),
    (4, "G723", Some(quality::G723)),
    (8, "PCMA", Some(quality::G711)),
    (9, "G722", None),
    (13, "CN", None),
    (18, "G729", Some(quality::G729)),
];

/// What a stream's peer sends; none before its first packet.
pub fn of(record: &StreamRecord) -> Option<Codec> {
    if record.packets_in == 0 {
        return None;
    }
    let known = STATIC.iter().find(|(number, _, _)| *number == record.payload_type_in);
    Some(match known {
        Some((_, name, impairment)) => {
            Codec { name, impairment: impairment.unwrap_or(quality::G711), is_tabulated: impairment.is_some() }
        }
        // Nothing else in use has this clock (RFC 7587 section 4.1).
        None if record.clock_rate_in_hz == 48_000 => assumed("opus"),
        None => assumed("dynamic"),
    })
}

/// The name of a payload type that was refused.
pub fn name_of(number: u8) -> String {
    match STATIC.iter().find(|(known, _, _)| *known == number) {
        Some((_, name, _)) => format!("{number} ({name})"),
        None if number >= 96 => format!("{number} (dynamic)"),
        None => number.to_string(),
    }
}

fn assumed(name: &'static str) -> Codec {
    Codec { name, impairment: quality::G711, is_tabulated: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn static_numbers_are_sure_and_dynamic_ones_are_not() {
        let of = |payload_type_in, clock_rate_in_hz| {
            of(&StreamRecord { packets_in: 1, payload_type_in, clock_rate_in_hz, ..Default::default() }).unwrap()
        };
        assert_eq!((of(8, 8000).name, of(8, 8000).is_tabulated), ("PCMA", true));
        assert_eq!(of(18, 8000).impairment, quality::G729);
        assert_eq!((of(9, 8000).name, of(9, 8000).is_tabulated), ("G722", false));
        assert_eq!((of(111, 48_000).name, of(97, 8000).name), ("opus", "dynamic"));
        assert_eq!(super::of(&StreamRecord::default()), None);
        assert_eq!((name_of(0), name_of(101), name_of(35)), ("0 (PCMU)".into(), "101 (dynamic)".into(), "35".into()));
    }
}
