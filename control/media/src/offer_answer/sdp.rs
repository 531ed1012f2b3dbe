//! Reads and writes session descriptions: `sdp-types` for the syntax, this file for the meaning.
//!
//! Called by `exchange`; pure. RFC 8866, RFC 3264 sections 5 and 6, RFC 3605 (`a=rtcp`), RFC 5761 (`a=rtcp-mux`).
//!
//! One audio line is carried. Of it and of the session level this is kept, the rest is dropped:
//!
//! | line | what becomes of it |
//! |---|---|
//! | `m=` formats, `a=rtpmap`, `a=fmtp` | kept word for word, and mirrored to the other leg |
//! | `a=ptime`, `a=maxptime` | kept and mirrored, if they are numbers |
//! | `a=sendrecv`, `sendonly`, `recvonly`, `inactive` | understood at either level and mirrored; always written |
//! | `c=` | terminated: understood at either level; `0.0.0.0` and `::` mean hold (RFC 3264 section 8.4) |
//! | `m=` port, `a=rtcp`, `a=rtcp-mux` | terminated: each leg has its own |
//! | `m=` profile | terminated: answered as offered, offered as `RTP/AVP` or, if SRTP is required, `RTP/SAVP`, unless the leg has another already |
//! | `a=rtcp-fb`, `a=extmap`, `a=ssrc`, `a=msid`, `a=mid`, `a=group` | dropped: they bind both ends to what we rewrite |
//! | `a=crypto` | terminated: see `crypto` |
//! | `a=fingerprint`, `a=setup`, `a=candidate`, `a=ice-*` | dropped: hop by hop, and not spoken yet |
//! | `o=`, `s=`, `t=` | our own |
//! | `b=`, `i=`, `k=`, `u=`, `e=`, `p=`, `r=`, `z=`, other `a=` | dropped |
//! | other `m=` lines | remembered in their order and rejected with port 0 (RFC 3264 section 6) |

use super::codecs::{Format, NUMBER_MAX};
use super::crypto::{CRYPTO_LINES_MAX, Crypto, Unusable};
use super::{Error, FORMATS_MAX, Incompatible, MEDIA_LINES_MAX, SDP_BYTES_MAX};
use sdp_types::{Attribute, Connection, Media, Origin, Session, Time};
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

/// What the peer said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// Its media lines in their order.
    pub lines: Vec<Line>,
    /// Which of them is carried.
    pub carried: usize,
    /// Where and how the peer receives.
    pub transport: Transport,
    /// What it receives and sends.
    pub terms: Terms,
}

/// What is remembered of a media line, to hold its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// `audio`, `video`, ...
    pub media: String,
    /// `RTP/AVP`, ...
    pub proto: String,
    /// Its first format.
    pub format: String,
}

/// The hop-by-hop part of an audio line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transport {
    /// How packets look.
    pub profile: Profile,
    /// Where the peer wants RTP; none while it holds by `0.0.0.0`.
    pub rtp: Option<SocketAddr>,
    /// Where it wants RTCP, if it does not multiplex.
    pub rtcp: Option<SocketAddr>,
    /// Whether it can multiplex RTCP with RTP.
    pub rtcp_mux: bool,
    /// Whether its addresses are of IPv6.
    pub ipv6: bool,
    /// Its keys that can be used, in its order of preference.
    #[serde(default)]
    pub crypto: Vec<Crypto>,
}

/// The end-to-end part of an audio line: what is mirrored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    /// Which way media flows, seen from who wrote the description.
    pub direction: Direction,
    /// In order of preference.
    pub formats: Vec<Format>,
    /// `a=ptime`.
    pub ptime_ms: Option<u16>,
    /// `a=maxptime`.
    pub maxptime_ms: Option<u16>,
}

/// The RTP profiles that are carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum Profile {
    /// RFC 3551.
    #[default]
    Avp,
    /// RFC 4585; we send no feedback of our own, which it permits.
    Avpf,
    /// RFC 3711.
    Savp,
    /// RFC 5124.
    Savpf,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Profile::Avp => "RTP/AVP",
            Profile::Avpf => "RTP/AVPF",
            Profile::Savp => "RTP/SAVP",
            Profile::Savpf => "RTP/SAVPF",
        }
    }

    /// Whether packets must be protected.
    pub fn is_secure(self) -> bool {
        matches!(self, Profile::Savp | Profile::Savpf)
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Profile::Avp, Profile::Avpf, Profile::Savp, Profile::Savpf];
        all.into_iter().find(|profile| profile.name().eq_ignore_ascii_case(name))
    }
}

/// Which way media flows, seen from who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Direction {
    /// Whether it sends.
    pub send: bool,
    /// Whether it wants to receive.
    pub recv: bool,
}

const DIRECTIONS: &[(&str, Direction)] = &[
    ("sendrecv", Direction { send: true, recv: true }),
    ("sendonly", Direction { send: true, recv: false }),
    ("recvonly", Direction { send: false, recv: true }),
    ("inactive", Direction { send: false, recv: false }),
];

impl Direction {
    /// Both ways.
    pub const SENDRECV: Self = Self { send: true, recv: true };

    /// The same, seen from the other end.
    pub fn reversed(self) -> Self {
        Self { send: self.recv, recv: self.send }
    }

    /// What both allow.
    pub fn and(self, other: Self) -> Self {
        Self { send: self.send && other.send, recv: self.recv && other.recv }
    }

    /// The attribute's name.
    pub fn name(self) -> &'static str {
        DIRECTIONS.iter().find(|row| row.1 == self).map_or("sendrecv", |row| row.0)
    }

    fn from_name(name: &str) -> Option<Self> {
        DIRECTIONS.iter().find(|row| row.0.eq_ignore_ascii_case(name)).map(|row| row.1)
    }
}

/// Reads an offer. `preferred` is the line that this leg has carried so far; else it is the first that can be carried.
pub fn read_offer(text: &str, preferred: Option<usize>) -> Result<Description, Error> {
    let session = parse(text)?;
    let mut first_error = None;
    for carried in preferred.into_iter().chain(0..session.medias.len()) {
        match describe(&session, carried) {
            Ok(description) => return Ok(description),
            Err(Error::Incompatible(Incompatible::NoAudio)) => {}
            Err(error) => drop(first_error.get_or_insert(error)),
        }
    }
    Err(first_error.unwrap_or(Incompatible::NoAudio.into()))
}

/// Reads an answer to an offer whose line `carried` was the audio.
pub fn read_answer(text: &str, carried: usize) -> Result<Description, Error> {
    describe(&parse(text)?, carried)
}

fn parse(text: &str) -> Result<Session, Error> {
    if text.len() > SDP_BYTES_MAX {
        return Err(Error::TooLong { bytes: text.len() });
    }
    let session = Session::parse(text.as_bytes()).map_err(Error::Malformed)?;
    if session.medias.len() > MEDIA_LINES_MAX {
        return Err(Error::TooManyMediaLines { lines: session.medias.len() });
    }
    Ok(session)
}

fn describe(session: &Session, carried: usize) -> Result<Description, Error> {
    let media = session
        .medias
        .get(carried)
        .filter(|media| media.media.eq_ignore_ascii_case("audio") && media.port != 0)
        .ok_or(Incompatible::NoAudio)?;
    let profile = Profile::from_name(&media.proto).ok_or_else(|| Incompatible::Profile(media.proto.clone()))?;
    let ip = address(media.connections.first().or(session.connection.as_ref()).ok_or(Error::NoAddress)?)?;
    let mut terms = Terms {
        direction: direction(&session.attributes).unwrap_or(Direction::SENDRECV),
        formats: formats(media)?,
        ptime_ms: number(media, "ptime"),
        maxptime_ms: number(media, "maxptime"),
    };
    terms.direction = direction(&media.attributes).unwrap_or(terms.direction);
    let held_by_address = ip.is_unspecified();
    terms.direction.recv &= !held_by_address;
    let (crypto, unusable) = crypto(media);
    let transport = Transport {
        profile,
        rtp: (!held_by_address).then_some(SocketAddr::new(ip, media.port)),
        rtcp: rtcp(media, ip).filter(|_| !held_by_address),
        rtcp_mux: media.get_first_attribute_value("rtcp-mux") == Some(None),
        ipv6: ip.is_ipv6(),
        crypto,
    };
    if profile.is_secure() && transport.crypto.is_empty() {
        return Err(Incompatible::NoCrypto(unusable).into());
    }
    let lines = session.medias.iter().map(Line::of).collect();
    Ok(Description { lines, carried, transport, terms })
}

impl Line {
    fn of(media: &Media) -> Self {
        let format = media.fmt.split_whitespace().next().unwrap_or("0");
        Self { media: media.media.clone(), proto: media.proto.clone(), format: format.to_owned() }
    }
}

/// Names are refused: resolving one would let a peer choose whom we ask, and nobody but test suites sends them.
fn address(connection: &Connection) -> Result<IpAddr, Error> {
    let text = &connection.connection_address;
    let bad = || Error::BadAddress { address: text.clone() };
    let ip = text.split('/').next().unwrap_or_default().parse::<IpAddr>().map_err(|_| bad())?.to_canonical();
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    if ip.is_multicast() || broadcast { Err(bad()) } else { Ok(ip) }
}

fn direction(attributes: &[Attribute]) -> Option<Direction> {
    attributes.iter().find_map(|attribute| Direction::from_name(&attribute.attribute))
}

fn number(media: &Media, name: &str) -> Option<u16> {
    media.get_first_attribute_value(name)??.trim().parse().ok().filter(|&ms| ms > 0)
}

/// `a=rtcp:53020` or `a=rtcp:53020 IN IP4 126.16.64.4`; else the next port (RFC 3605, RFC 3550 section 11).
fn rtcp(media: &Media, ip: IpAddr) -> Option<SocketAddr> {
    let Some(Some(value)) = media.get_first_attribute_value("rtcp") else {
        return Some(SocketAddr::new(ip, media.port.checked_add(1)?));
    };
    let mut words = value.split_whitespace();
    let port = words.next()?.parse().ok().filter(|&port| port != 0)?;
    let ip = words.nth(2).map_or(Some(ip), |ip| ip.parse().ok())?;
    (!ip.is_unspecified() && !ip.is_multicast()).then_some(SocketAddr::new(ip, port))
}

/// The lines that can be used, and why the first of the others cannot.
fn crypto(media: &Media) -> (Vec<Crypto>, Option<Unusable>) {
    let lines = media.attributes.iter().filter(|attribute| attribute.attribute.eq_ignore_ascii_case("crypto"));
    let (mut usable, mut unusable) = (Vec::new(), None);
    for line in lines.take(CRYPTO_LINES_MAX) {
        match Crypto::read(line.value.as_deref().unwrap_or_default()) {
            Ok(crypto) => usable.push(crypto),
            Err(why) => drop(unusable.get_or_insert(why)),
        }
    }
    (usable, unusable)
}

/// Formats without a meaning (no `rtpmap` and no static number, not a number at all) and repeated ones are left out.
fn formats(media: &Media) -> Result<Vec<Format>, Error> {
    let words = media.fmt.split_whitespace().count();
    if words > FORMATS_MAX {
        return Err(Error::TooManyFormats { formats: words });
    }
    let mut formats: Vec<Format> = Vec::with_capacity(words);
    for number in media.fmt.split_whitespace().filter_map(|word| word.parse().ok()).filter(|&n| n <= NUMBER_MAX) {
        if formats.iter().all(|format| format.number != number) {
            let format = valued(media, "rtpmap", number)
                .next()
                .map_or_else(|| Format::from_static_number(number), |rtpmap| Format::from_rtpmap(number, rtpmap));
            formats.extend(format);
        }
    }
    for format in &mut formats {
        format.fmtp = valued(media, "fmtp", format.number).map(str::to_owned).collect();
    }
    if formats.iter().any(|format| format.codec.is_audio()) { Ok(formats) } else { Err(Incompatible::NoCodec.into()) }
}

/// The values of `a=NAME:NUMBER value`.
fn valued<'a>(media: &'a Media, name: &'static str, number: u8) -> impl Iterator<Item = &'a str> {
    media
        .attributes
        .iter()
        .filter(move |attribute| attribute.attribute.eq_ignore_ascii_case(name))
        .filter_map(|attribute| attribute.value.as_deref()?.trim_start().split_once(char::is_whitespace))
        .filter(move |(n, _)| n.parse() == Ok(number))
        .map(|(_, value)| value.trim())
}

/// What we say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LocalDescription {
    /// All media lines; all but the carried one are rejected.
    pub lines: Vec<Line>,
    /// Which line is ours.
    pub carried: usize,
    /// As offered, or our own choice.
    pub profile: Profile,
    /// Whether to say `a=rtcp-mux`: always in an offer, in an answer if the offer has it.
    pub rtcp_mux: bool,
    /// What we receive and send.
    pub terms: Terms,
    /// Our own keys: all that we offer, or the one that answers.
    #[serde(default)]
    pub crypto: Vec<OurKey>,
}

/// A key of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OurKey {
    /// Which of ours it is.
    pub serial: u32,
    /// As it is written.
    pub crypto: Crypto,
}

/// Where we receive, and how the session is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The address that peers can reach.
    pub ip: IpAddr,
    /// The RTP port; RTCP has the next one, unless it is multiplexed.
    pub rtp_port: u16,
    /// The `sess-id` of `o=`.
    pub session_id: u64,
    /// Whether the peer is on this host, so that loopback addresses mean something between us.
    pub loopback: bool,
}

impl Transport {
    /// Whether the peer wants media at a loopback address: ours, as it would turn out.
    pub fn is_loopback(&self) -> bool {
        [self.rtp, self.rtcp].iter().flatten().any(|at| at.ip().to_canonical().is_loopback())
    }
}

/// Builds a description, without its version.
pub fn compose(local: &LocalDescription, here: &Endpoint) -> Session {
    let mut session = Session::new(Origin::with_ip_addr(here.session_id, 0, here.ip), "-");
    session.set_connection(here.ip);
    session.add_time(Time::new(0, 0));
    session.medias = local.lines.iter().map(rejected).collect();
    if let Some(place) = session.medias.get_mut(local.carried) {
        *place = carried(local, here);
    }
    session
}

fn rejected(line: &Line) -> Media {
    Media {
        media: line.media.clone(),
        port: 0,
        num_ports: None,
        proto: line.proto.clone(),
        fmt: line.format.clone(),
        media_title: None,
        connections: Vec::new(),
        bandwidths: Vec::new(),
        key: None,
        attributes: Vec::new(),
    }
}

fn carried(local: &LocalDescription, here: &Endpoint) -> Media {
    let terms = &local.terms;
    let numbers: Vec<String> = terms.formats.iter().map(|format| format.number.to_string()).collect();
    let line = Line { media: "audio".into(), proto: local.profile.name().into(), format: numbers.join(" ") };
    let mut media = Media { port: here.rtp_port, ..rejected(&line) };
    for format in &terms.formats {
        if let Some(rtpmap) = &format.rtpmap {
            media.add_attribute_with_value("rtpmap", format!("{} {rtpmap}", format.number));
        }
        for fmtp in &format.fmtp {
            media.add_attribute_with_value("fmtp", format!("{} {fmtp}", format.number));
        }
    }
    for key in &local.crypto {
        media.add_attribute_with_value("crypto", key.crypto.write());
    }
    for (name, value) in [("ptime", terms.ptime_ms), ("maxptime", terms.maxptime_ms)] {
        if let Some(value) = value {
            media.add_attribute_with_value(name, value);
        }
    }
    if local.rtcp_mux {
        media.add_attribute_from_str("rtcp-mux");
    }
    media.add_attribute_from_str(terms.direction.name());
    media
}
