//! What a payload type number stands for: codecs, their static numbers and which two formats are the same one.
//!
//! Called by `sdp` (reading) and `negotiate` (matching); pure, no state. RFC 3551 section 6 (static numbers), RFC 4855
//! (names are case-insensitive), RFC 7587 (Opus), RFC 4733 (telephone-event).

use serde::{Deserialize, Serialize};
use std::fmt;

/// The highest payload type number.
pub const NUMBER_MAX: u8 = 127;

/// A codec's identity. Two formats with equal codecs (and equal `IDENTITY_PARAMETERS`) carry the same bits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Codec {
    /// The encoding name, in upper case.
    name: String,
    /// The RTP clock. Note G.722: 8000, though it samples at 16 kHz (RFC 3551 section 4.5.2).
    pub clock_rate_hz: u32,
    /// Channels; 1 unless said otherwise.
    pub channels: u8,
}

impl Codec {
    /// Any spelling of the name.
    pub fn new(name: &str, clock_rate_hz: u32, channels: u8) -> Self {
        Self { name: name.to_ascii_uppercase(), clock_rate_hz, channels }
    }

    /// Whether it carries speech or music, rather than events, noise levels or copies of other formats.
    pub fn is_audio(&self) -> bool {
        !["TELEPHONE-EVENT", "TONE", "CN", "RED", "RTX", "ULPFEC", "PARITYFEC", "FLEXFEC"].contains(&&*self.name)
    }

    /// Whether its packets name other payload types (RFC 2198, RFC 4588), so that it survives no renumbering.
    pub fn names_other_formats(&self) -> bool {
        ["RED", "RTX"].contains(&&*self.name)
    }

    /// Whether Nebula itself can speak it: what echo accepts and a late offer holds.
    pub fn is_ours(&self) -> bool {
        ["OPUS", "G722", "PCMA", "PCMU", "TELEPHONE-EVENT"].contains(&&*self.name)
    }
}

impl fmt::Display for Codec {
    /// As in `a=rtpmap`: `PCMU/8000`, `OPUS/48000/2`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.name, self.clock_rate_hz)?;
        if self.channels == 1 { Ok(()) } else { write!(f, "/{}", self.channels) }
    }
}

/// One format of a media line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Kept", try_from = "Kept")]
pub struct Format {
    /// The payload type.
    pub number: u8,
    /// What it stands for.
    pub codec: Codec,
    /// The `a=rtpmap` value behind the number, as it came; none if there was no such line (a static number).
    pub rtpmap: Option<String>,
    /// The `a=fmtp` values behind the number, as they came.
    pub fmtp: Vec<String>,
}

impl Format {
    /// A static number without attributes; none if RFC 3551 gives it no meaning.
    pub fn from_static_number(number: u8) -> Option<Self> {
        let &(_, name, clock_rate_hz, channels) = STATIC.iter().find(|row| row.0 == number)?;
        Some(Self { number, codec: Codec::new(name, clock_rate_hz, channels), rtpmap: None, fmtp: Vec::new() })
    }

    /// From an `a=rtpmap` value without its number (`opus/48000/2`); none if it is malformed.
    pub fn from_rtpmap(number: u8, rtpmap: &str) -> Option<Self> {
        let mut parts = rtpmap.trim().split('/');
        let name = parts.next().filter(|name| !name.is_empty())?;
        let clock_rate_hz = parts.next()?.trim().parse().ok().filter(|&hz| hz > 0)?;
        let channels = parts.next().map_or(Some(1), |n| n.trim().parse().ok()).filter(|&n| n > 0)?;
        let codec = Codec::new(name, clock_rate_hz, channels);
        Some(Self { number, codec, rtpmap: Some(rtpmap.trim().to_owned()), fmtp: Vec::new() })
    }

    /// Whether packets of one can be handed to a receiver of the other as they are.
    pub fn same_as(&self, other: &Format) -> bool {
        self.codec == other.codec
            && IDENTITY_PARAMETERS
                .iter()
                .filter(|row| row.codec == self.codec.name)
                .all(|row| row.value_in(&self.fmtp).eq_ignore_ascii_case(row.value_in(&other.fmtp)))
    }
}

/// A format as it is kept: without what its number or its `a=rtpmap` says already.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    #[serde(rename = "n")]
    number: u8,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    rtpmap: Option<String>,
    #[serde(rename = "f", default, skip_serializing_if = "Vec::is_empty")]
    fmtp: Vec<String>,
    #[serde(rename = "c", default, skip_serializing_if = "Option::is_none")]
    codec: Option<Codec>,
}

impl Kept {
    /// The codec that follows from the rest.
    fn implied(&self) -> Option<Codec> {
        let format = match &self.rtpmap {
            Some(rtpmap) => Format::from_rtpmap(self.number, rtpmap),
            None => Format::from_static_number(self.number),
        };
        format.map(|format| format.codec)
    }
}

impl From<Format> for Kept {
    fn from(format: Format) -> Self {
        let mut kept = Kept { number: format.number, rtpmap: format.rtpmap, fmtp: format.fmtp, codec: None };
        kept.codec = Some(format.codec).filter(|codec| kept.implied().as_ref() != Some(codec));
        kept
    }
}

impl TryFrom<Kept> for Format {
    type Error = &'static str;

    fn try_from(kept: Kept) -> Result<Self, Self::Error> {
        let codec = kept.codec.clone().or_else(|| kept.implied()).ok_or("a payload type without a meaning")?;
        Ok(Format { number: kept.number, codec, rtpmap: kept.rtpmap, fmtp: kept.fmtp })
    }
}

/// Everything we can do, in order of preference: the late offer.
pub fn ours() -> Vec<Format> {
    OURS.iter().map(Ours::format).collect()
}

struct Ours {
    number: u8,
    rtpmap: &'static str,
    fmtp: Option<&'static str>,
}

impl Ours {
    fn format(&self) -> Format {
        let mut format =
            Format::from_rtpmap(self.number, self.rtpmap).unwrap_or_else(|| unreachable!("the table is well-formed"));
        format.fmtp.extend(self.fmtp.map(str::to_owned));
        format
    }
}

const OURS: &[Ours] = &[
    Ours { number: 96, rtpmap: "opus/48000/2", fmtp: Some("useinbandfec=1") },
    Ours { number: 9, rtpmap: "G722/8000", fmtp: None },
    Ours { number: 8, rtpmap: "PCMA/8000", fmtp: None },
    Ours { number: 0, rtpmap: "PCMU/8000", fmtp: None },
    Ours { number: 101, rtpmap: "telephone-event/8000", fmtp: Some("0-16") },
];

/// Parameters that change the bits on the wire: formats that differ in one are different codecs.
struct IdentityParameter {
    codec: &'static str,
    parameter: &'static str,
    default: &'static str,
}

impl IdentityParameter {
    fn value_in<'a>(&self, fmtp: &'a [String]) -> &'a str {
        fmtp.iter()
            .flat_map(|line| line.split(';'))
            .filter_map(|pair| pair.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case(self.parameter))
            .map_or(self.default, |(_, value)| value.trim())
    }
}

const fn identity(codec: &'static str, parameter: &'static str, default: &'static str) -> IdentityParameter {
    IdentityParameter { codec, parameter, default }
}

/// RFC 4867 section 8.3.1 (AMR), RFC 5577 section 4.2.2 (G.722.1), RFC 3640 section 4.1 (AAC).
const IDENTITY_PARAMETERS: &[IdentityParameter] = &[
    identity("AMR", "octet-align", "0"),
    identity("AMR", "crc", "0"),
    identity("AMR", "robust-sorting", "0"),
    identity("AMR", "interleaving", ""),
    identity("AMR-WB", "octet-align", "0"),
    identity("AMR-WB", "crc", "0"),
    identity("AMR-WB", "robust-sorting", "0"),
    identity("AMR-WB", "interleaving", ""),
    identity("G7221", "bitrate", ""),
    identity("MPEG4-GENERIC", "mode", ""),
    identity("MPEG4-GENERIC", "config", ""),
];

/// RFC 3551 table 4, the audio rows: number, name, clock, channels.
const STATIC: &[(u8, &str, u32, u8)] = &[
    (0, "PCMU", 8_000, 1),
    (3, "GSM", 8_000, 1),
    (4, "G723", 8_000, 1),
    (5, "DVI4", 8_000, 1),
    (6, "DVI4", 16_000, 1),
    (7, "LPC", 8_000, 1),
    (8, "PCMA", 8_000, 1),
    (9, "G722", 8_000, 1),
    (10, "L16", 44_100, 2),
    (11, "L16", 44_100, 1),
    (12, "QCELP", 8_000, 1),
    (13, "CN", 8_000, 1),
    (14, "MPA", 90_000, 1),
    (15, "G728", 8_000, 1),
    (16, "DVI4", 11_025, 1),
    (17, "DVI4", 22_050, 1),
    (18, "G729", 8_000, 1),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn format(rtpmap: &str, fmtp: &str) -> Format {
        let mut format = Format::from_rtpmap(96, rtpmap).unwrap();
        format.fmtp.push(fmtp.to_owned());
        format
    }

    #[test]
    fn names_compare_without_case_and_clocks_and_channels_count() {
        assert!(format("opus/48000/2", "").same_as(&format("OPUS/48000/2", "stereo=1")));
        assert!(!format("opus/48000/2", "").same_as(&format("opus/48000", "")));
        assert!(!format("telephone-event/8000", "0-15").same_as(&format("telephone-event/48000", "0-15")));
    }

    #[test]
    fn a_static_number_equals_its_rtpmap() {
        assert!(Format::from_static_number(9).unwrap().same_as(&format("g722/8000", "")));
        assert!(Format::from_static_number(0).unwrap().same_as(&format("PCMU/8000/1", "")));
        assert_eq!(Format::from_static_number(19), None);
    }

    #[test]
    fn parameters_that_change_the_bits_make_another_codec() {
        let aligned = format("AMR/8000", "mode-set=7; octet-align=1");
        assert!(!aligned.same_as(&format("AMR/8000", "mode-set=7")));
        assert!(aligned.same_as(&format("amr/8000", "octet-align=1;mode-set=2")));
        assert!(format("AMR/8000", "octet-align=0").same_as(&format("AMR/8000", "")));
    }

    #[test]
    fn malformed_rtpmaps_are_no_formats() {
        for bad in ["", "PCMU", "PCMU/", "/8000", "PCMU/0", "PCMU/-1", "PCMU/8000/0", "PCMU/8000/x", "PCMU/99999999999"]
        {
            assert_eq!(Format::from_rtpmap(96, bad), None, "{bad}");
        }
    }

    #[test]
    fn our_own_formats_are_well_formed_and_ours() {
        assert_eq!(ours().len(), OURS.len());
        assert!(ours().iter().all(|format| format.codec.is_ours()));
        assert_eq!(
            ours().iter().map(|format| format.codec.name.clone()).collect::<Vec<_>>(),
            ["OPUS", "G722", "PCMA", "PCMU", "TELEPHONE-EVENT"]
        );
        assert!(!format("G729/8000", "").codec.is_ours());
    }

    #[test]
    fn what_is_kept_is_short_and_comes_back_the_same() {
        let pcmu = Format::from_static_number(0).unwrap();
        let mut renumbered = pcmu.clone();
        renumbered.number = 97;
        let mut opus = Format::from_rtpmap(96, "opus/48000/2").unwrap();
        opus.fmtp.push("useinbandfec=1".into());
        for (format, bytes_max) in [(pcmu, 7), (renumbered, 80), (opus, 60)] {
            let kept = serde_json::to_string(&format).unwrap();
            assert!(kept.len() <= bytes_max, "{kept}");
            assert_eq!(serde_json::from_str::<Format>(&kept).unwrap(), format);
        }
        assert!(serde_json::from_str::<Format>("{\"n\":97}").is_err(), "a number without a meaning");
    }
}
