//! The offer/answer state of one stream: whose turn it is, which session holds, which is pending.
//!
//! Owned by the stream's entry in `agent`; sans-IO. RFC 3264 section 4, RFC 6337 sections 2 and 3:
//!
//! | state \ turn | RemoteOffer | LocalOffer | RemoteAnswer | LocalAnswer | Rollback |
//! |---|---|---|---|---|---|
//! | idle | offered | offering | - | - | idle |
//! | offered (theirs is pending) | offered | offering | - | answered | as before it |
//! | offering (ours is pending) | offered | offering | answering | - | as before it |
//! | answered (by us) | offered | offering | - | answered | answered |
//! | answering (they answered) | offered | offering | answering | - | answering |
//!
//! A dash is `WrongStep`. A new offer of either side replaces a pending one, so an exchange that SIP has refused (488,
//! 491) needs no clean-up. An answer may be given again: a 183's is only a preview of the 200's, which may come from
//! another fork. The session that holds changes by answers alone, and a turn that fails changes nothing.

use super::crypto::{Crypto, Policy, Seed};
use super::negotiate::{self, Agreed, Numbers};
use super::sdp::{self, Description, Direction, Endpoint, Line, LocalDescription, OurKey, Profile, Terms};
use super::{Error, Incompatible};
use nebula_ring::command::PayloadTypes;
use nebula_ring::srtp::{SrtpConfig, Suite};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// One turn of the exchange. Mirrored terms are those of the other leg; none means our own.
#[derive(Debug, Clone, Copy)]
pub enum Turn<'a> {
    /// The peer offers.
    RemoteOffer(&'a str),
    /// We offer.
    LocalOffer(Option<&'a Terms>),
    /// The peer answers.
    RemoteAnswer(&'a str),
    /// We answer.
    LocalAnswer(Option<&'a Terms>),
    /// The pending offer came to nothing.
    Rollback,
}

/// The exchange of one stream.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Exchange {
    endpoint: Option<Endpoint>,
    session: Option<Session>,
    pending: Option<Pending>,
    numbers: Numbers,
    #[serde(with = "written")]
    written: Option<sdp_types::Session>,
    version: u64,
    #[serde(default)]
    srtp: Srtp,
}

/// Whether the leg may be protected, and with what.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Srtp {
    policy: Policy,
    /// The suites that may be used, by name, in our order of preference.
    suites: Vec<String>,
    seed: Seed,
    /// The highest serial of our keys.
    keys_made: u32,
    /// The highest serial of the peer's.
    keys_heard: u32,
}

/// The keys of a session that is protected.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Secured {
    local: OurKey,
    remote: Crypto,
    remote_serial: u32,
}

#[derive(Debug, Serialize, Deserialize)]
enum Pending {
    Received(Description),
    Sent(LocalDescription),
}

#[derive(Debug, Serialize, Deserialize)]
struct Session {
    local: LocalDescription,
    remote: Description,
    offered_by_us: bool,
    agreed: Vec<Agreed>,
    muxed: bool,
    remote_rtp: Option<SocketAddr>,
    remote_rtcp: Option<SocketAddr>,
    #[serde(default)]
    secured: Option<Secured>,
}

/// What was last written, as the text that it is.
mod written {
    use sdp_types::Session;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

    pub fn serialize<S: Serializer>(written: &Option<Session>, to: S) -> Result<S::Ok, S::Error> {
        written.as_ref().map(Session::to_string).serialize(to)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Session>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| Session::parse(text.as_bytes()).map_err(D::Error::custom)).transpose()
    }
}

impl Exchange {
    /// A leg that may be protected, with keys made of a seed of its own. One by `default` never is.
    pub fn new(policy: Policy, suites: &[Suite], seed: Seed) -> Self {
        let suites = suites.iter().map(|suite| suite.name().to_owned()).collect();
        Self { srtp: Srtp { policy, suites, seed, ..Srtp::default() }, ..Self::default() }
    }

    /// Takes a turn. True if it makes a description for the peer: `render` writes it.
    pub fn take(&mut self, turn: Turn<'_>) -> Result<bool, Error> {
        match turn {
            Turn::RemoteOffer(text) => self.remote_offer(text).map(|()| false),
            Turn::LocalOffer(mirrored) => {
                self.local_offer(mirrored);
                Ok(true)
            }
            Turn::RemoteAnswer(text) => self.remote_answer(text).map(|()| false),
            Turn::LocalAnswer(mirrored) => self.local_answer(mirrored).map(|()| true),
            Turn::Rollback => {
                self.pending = None;
                Ok(false)
            }
        }
    }

    /// Sets where we receive: after the first turn, before the first `render`. The address family is fixed by it.
    pub fn place(&mut self, endpoint: Endpoint) {
        self.endpoint = Some(endpoint);
    }

    /// The latest of our descriptions as text. Its version rises when it differs from the one before (section 8).
    pub fn render(&mut self) -> Option<String> {
        let local = match (&self.pending, &self.session) {
            (Some(Pending::Sent(local)), _) => local,
            (_, Some(session)) => &session.local,
            _ => return None,
        };
        let mut session = sdp::compose(local, self.endpoint.as_ref()?);
        if self.written.as_ref() != Some(&session) {
            self.written = Some(session.clone());
            self.version += 1;
        }
        session.origin.sess_version = self.version;
        Some(session.to_string())
    }

    fn remote_offer(&mut self, text: &str) -> Result<(), Error> {
        let offer = sdp::read_offer(text, self.session.as_ref().map(|session| session.local.carried))?;
        self.check_address(&offer)?;
        self.check_protection(&offer)?;
        self.numbers.remember(&offer.terms.formats);
        self.pending = Some(Pending::Received(offer));
        Ok(())
    }

    fn local_offer(&mut self, mirrored: Option<&Terms>) {
        let terms = match mirrored {
            Some(terms) => negotiate::mirrored_offer(terms, &self.numbers),
            None => negotiate::own_offer(&self.numbers),
        };
        self.numbers.remember(&terms.formats);
        let (lines, carried, profile, crypto) = match &self.session {
            // The same key is no new one (RFC 4568 section 7.1.4): its rollover counter goes on.
            Some(Session { local, secured, .. }) => {
                let key = secured.as_ref().map(|it| OurKey { crypto: it.local.crypto.clone(), ..it.local });
                (local.lines.clone(), local.carried, local.profile, key.into_iter().collect())
            }
            None => {
                let line = Line { media: "audio".into(), proto: String::new(), format: String::new() };
                let profile = if self.srtp.policy() == Policy::Required { Profile::Savp } else { Profile::Avp };
                (vec![line], 0, profile, self.srtp.offer())
            }
        };
        self.pending = Some(Pending::Sent(LocalDescription { lines, carried, profile, rtcp_mux: true, terms, crypto }));
    }

    fn remote_answer(&mut self, text: &str) -> Result<(), Error> {
        let local = match (&self.pending, &self.session) {
            (Some(Pending::Sent(local)), _) => local,
            (None, Some(session)) if session.offered_by_us => &session.local,
            _ => return Err(self.wrong_step("RemoteAnswer")),
        };
        let remote = sdp::read_answer(text, local.carried)?;
        self.check_address(&remote)?;
        let agreed = negotiate::agree(&local.terms.formats, &remote.terms.formats)?;
        let keys = answered_key(local, &remote)?;
        let local = local.clone();
        self.numbers.remember(&remote.terms.formats);
        let secured = keys.map(|(local, remote)| self.secure(local, remote));
        self.complete(local, remote, agreed, true, secured);
        Ok(())
    }

    fn local_answer(&mut self, mirrored: Option<&Terms>) -> Result<(), Error> {
        let remote = match (&self.pending, &self.session) {
            (Some(Pending::Received(remote)), _) => remote,
            (None, Some(session)) if !session.offered_by_us => &session.remote,
            _ => return Err(self.wrong_step("LocalAnswer")),
        };
        let terms = match mirrored {
            Some(mirrored) => negotiate::mirrored_answer(&remote.terms, mirrored)?,
            None => negotiate::own_answer(&remote.terms)?,
        };
        let agreed = negotiate::agree(&terms.formats, &remote.terms.formats)?;
        let chosen = self.choose(remote)?.cloned();
        let remote = remote.clone();
        let secured = chosen.map(|theirs| {
            let ours = self.our_key(&theirs);
            self.secure(ours, theirs)
        });
        let local = LocalDescription {
            lines: remote.lines.clone(),
            carried: remote.carried,
            profile: remote.transport.profile,
            rtcp_mux: remote.transport.rtcp_mux,
            terms,
            crypto: secured.iter().map(|secured| secured.local.clone()).collect(),
        };
        self.complete(local, remote, agreed, false, secured);
        Ok(())
    }

    fn complete(
        &mut self,
        local: LocalDescription,
        remote: Description,
        agreed: Vec<Agreed>,
        offered_by_us: bool,
        secured: Option<Secured>,
    ) {
        let muxed = local.rtcp_mux && remote.transport.rtcp_mux;
        let before = self.session.as_ref();
        // Held by `0.0.0.0` the peer keeps its place: nothing is sent there, but its own media and RTCP still come.
        let remote_rtp = remote.transport.rtp.or(before.and_then(|session| session.remote_rtp));
        let remote_rtcp = match remote.transport.rtp {
            Some(rtp) if muxed => Some(rtp),
            Some(_) => remote.transport.rtcp,
            None => before.and_then(|session| session.remote_rtcp),
        };
        self.session = Some(Session { local, remote, offered_by_us, agreed, muxed, remote_rtp, remote_rtcp, secured });
        self.pending = None;
    }

    /// Before the endpoint is known, whoever places it asks.
    fn check_address(&self, remote: &Description) -> Result<(), Error> {
        match self.endpoint {
            Some(here) if here.ip.is_ipv6() != remote.transport.ipv6 => Err(Incompatible::AddressFamily.into()),
            Some(here) if !here.loopback && remote.transport.is_loopback() => Err(Error::Loopback),
            _ => Ok(()),
        }
    }

    fn wrong_step(&self, step: &'static str) -> Error {
        let state = match (&self.pending, &self.session) {
            (Some(Pending::Received(_)), _) => "offered",
            (Some(Pending::Sent(_)), _) => "offering",
            (None, Some(session)) if session.offered_by_us => "answering",
            (None, Some(_)) => "answered",
            (None, None) => "idle",
        };
        Error::WrongStep { step, state }
    }
}

/// Protection. RFC 4568 sections 5 and 7.
impl Exchange {
    /// Whether an offer is protected or not as it must be.
    fn check_protection(&self, offer: &Description) -> Result<(), Incompatible> {
        match (self.srtp.policy(), offer.transport.profile.is_secure()) {
            (Policy::Off, true) => Err(Incompatible::SrtpOff),
            (Policy::Required, false) if offer.transport.crypto.is_empty() => Err(Incompatible::SrtpRequired),
            _ => self.choose(offer).map(drop),
        }
    }

    /// The offered key that we take: of the suite in use if there is one, else of the suite we prefer. None if the offer
    /// is not protected, or need not be.
    fn choose<'a>(&self, offer: &'a Description) -> Result<Option<&'a Crypto>, Incompatible> {
        let offered = |suite: Suite| offer.transport.crypto.iter().find(|crypto| crypto.suite() == suite);
        let allowed = self.srtp.suites();
        let in_use = self.secured().map(|secured| secured.remote.suite()).filter(|suite| allowed.contains(suite));
        let chosen = in_use.and_then(offered).or_else(|| allowed.into_iter().find_map(offered));
        let must = offer.transport.profile.is_secure() || self.srtp.policy() == Policy::Required;
        if chosen.is_none() && must { Err(Incompatible::NoSuite) } else { Ok(chosen) }
    }

    /// Our key to answer with: the one in use goes on.
    fn our_key(&mut self, theirs: &Crypto) -> OurKey {
        let serial = match self.secured().map(|secured| &secured.local) {
            Some(local) if local.crypto.suite() == theirs.suite() => local.serial,
            _ => self.srtp.next_serial(),
        };
        OurKey { serial, crypto: self.srtp.seed.key(theirs.tag, theirs.suite(), serial) }
    }

    /// A key of the peer's that we have already keeps its serial, and with it all that was heard under it.
    fn secure(&mut self, local: OurKey, remote: Crypto) -> Secured {
        let known = self.secured().filter(|secured| secured.remote.is_same_key(&remote));
        let remote_serial = match known.map(|secured| secured.remote_serial) {
            Some(serial) => serial,
            None => {
                self.srtp.keys_heard += 1;
                self.srtp.keys_heard
            }
        };
        Secured { local, remote, remote_serial }
    }

    fn secured(&self) -> Option<&Secured> {
        self.session.as_ref()?.secured.as_ref()
    }

    /// Whether the peer's latest words ask for protection, or at least offer it.
    pub fn wants_protection(&self) -> bool {
        self.remote().is_some_and(|remote| !remote.transport.crypto.is_empty())
    }

    /// What the dataplane is to protect with. A protected leg without keys yet is one, too: nothing passes it in the clear.
    pub fn srtp(&self) -> Option<SrtpConfig> {
        match (&self.session, &self.pending) {
            (Some(Session { secured: Some(it), .. }), _) => Some(SrtpConfig {
                receive: it.remote.master(it.remote_serial),
                send: it.local.crypto.master(it.local.serial),
            }),
            (None, Some(Pending::Received(Description { transport, .. }))) if transport.profile.is_secure() => {
                Some(SrtpConfig::default())
            }
            (None, Some(Pending::Sent(local))) if local.profile.is_secure() => Some(SrtpConfig::default()),
            _ => None,
        }
    }

    /// The suite in use.
    pub fn suite(&self) -> Option<Suite> {
        self.secured().map(|secured| secured.remote.suite())
    }
}

impl Srtp {
    /// Without a seed there are no keys, so nothing is protected.
    fn policy(&self) -> Policy {
        if self.seed.is_there() { self.policy } else { Policy::Off }
    }

    fn suites(&self) -> Vec<Suite> {
        let all = if self.policy() == Policy::Off { &[][..] } else { &self.suites };
        all.iter().filter_map(|name| Suite::from_name(name)).collect()
    }

    fn next_serial(&mut self) -> u32 {
        self.keys_made += 1;
        self.keys_made
    }

    /// A key for each suite, in our order of preference.
    fn offer(&mut self) -> Vec<OurKey> {
        let suites = match self.policy() {
            Policy::Off | Policy::Accepted => Vec::new(),
            Policy::Offered | Policy::Required => self.suites(),
        };
        (1..)
            .zip(suites)
            .map(|(tag, suite)| {
                let serial = self.next_serial();
                OurKey { serial, crypto: self.seed.key(tag, suite, serial) }
            })
            .collect()
    }
}

/// Which of our keys an answer takes, and the peer's own. None if nothing is to be protected.
fn answered_key(local: &LocalDescription, remote: &Description) -> Result<Option<(OurKey, Crypto)>, Incompatible> {
    let answers = |theirs: &Crypto| {
        let ours = local.crypto.iter().find(|it| (it.crypto.tag, it.crypto.suite()) == (theirs.tag, theirs.suite()))?;
        Some((ours.clone(), theirs.clone()))
    };
    match remote.transport.crypto.iter().find_map(answers) {
        Some((ours, theirs)) if ours.crypto.shares_secret(&theirs) => Err(Incompatible::OurKey),
        Some(keys) => Ok(Some(keys)),
        None if local.profile.is_secure() || remote.transport.profile.is_secure() => Err(Incompatible::NoSuite),
        None => Ok(None),
    }
}

/// What the exchange has come to.
impl Exchange {
    /// The peer's latest description, be it pending or agreed: what the other leg mirrors.
    pub fn remote(&self) -> Option<&Description> {
        match &self.pending {
            Some(Pending::Received(offer)) => Some(offer),
            _ => self.session.as_ref().map(|session| &session.remote),
        }
    }

    /// Whether the peer does not want to hear us.
    pub fn is_held(&self) -> bool {
        self.remote().is_some_and(|remote| !remote.terms.direction.recv)
    }

    /// Whether an answer has ever been given.
    pub fn is_answered(&self) -> bool {
        self.session.is_some()
    }

    /// Where to send RTP and RTCP. Before the first answer: where the pending offer says.
    pub fn remote_addresses(&self) -> (Option<SocketAddr>, Option<SocketAddr>) {
        match (&self.session, self.remote()) {
            (Some(session), _) => (session.remote_rtp, session.remote_rtcp),
            (None, Some(offer)) if offer.transport.rtcp_mux => (offer.transport.rtp, offer.transport.rtp),
            (None, Some(offer)) => (offer.transport.rtp, offer.transport.rtcp),
            (None, None) => (None, None),
        }
    }

    /// Whether RTCP shares the RTP port. Before the first answer: whether the peer offers it, for we accept.
    pub fn is_muxed(&self) -> bool {
        match &self.session {
            Some(session) => session.muxed,
            None => self.remote().is_some_and(|offer| offer.transport.rtcp_mux),
        }
    }

    /// How media flows, seen from us. Not at all before the first answer.
    pub fn direction(&self) -> Direction {
        self.session.as_ref().map_or(Direction { send: false, recv: false }, |session| {
            session.local.terms.direction.and(session.remote.terms.direction.reversed())
        })
    }

    /// The codec that the peer prefers of those agreed.
    pub fn codec(&self) -> Option<String> {
        let mut agreed = self.session.as_ref()?.agreed.iter();
        agreed.find(|a| a.ours.codec.is_audio()).map(|a| a.ours.codec.to_string())
    }

    /// What the peer may send, and what to call it towards the partner of a bridge; without one, towards itself.
    pub fn payload_types(&self, partner: Option<&Exchange>) -> PayloadTypes {
        let agreed = self.session.as_ref().map_or(&[][..], |session| &session.agreed);
        negotiate::payload_types(agreed, |a| match partner {
            Some(partner) => partner.number_at_peer(a),
            None => Some(a.peer_number),
        })
    }

    /// A pending offer counts too: who offers must be ready to receive at once (section 5.1), and between the answers of
    /// two legs to a change of codec, one leg speaks the new one already.
    fn number_at_peer(&self, there: &Agreed) -> Option<u8> {
        let agreed = self.session.iter().flat_map(|session| &session.agreed);
        let offered = match &self.pending {
            Some(Pending::Received(offer)) => offer.terms.formats.as_slice(),
            _ => &[],
        };
        agreed
            .map(|here| (&here.ours, here.peer_number))
            .chain(offered.iter().map(|format| (format, format.number)))
            .find(|(format, _)| format.same_as(&there.ours))
            .map(|(_, number)| number)
    }
}
