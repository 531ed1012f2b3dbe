//! A phone's side of the exchange of keys by `a=crypto` (RFC 4568). Each phone has one suite, and a key that it keeps until it is
//! asked to offer another one.

use super::{Secure, Suite};
use crate::sip::Failure;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use webrtc_srtp::context::Context;

/// RTP's profile (RFC 3551), and SRTP's (RFC 3711).
const PLAIN: &str = "RTP/AVP";
const SECURE: &str = "RTP/SAVP";

/// The tag of what we offer.
const TAG: u32 = 1;

/// A master key with its salt behind it.
#[derive(Clone, PartialEq, Eq)]
pub struct Master {
    /// What it is for.
    pub suite: Suite,
    bytes: Vec<u8>,
}

impl Master {
    /// One that nobody has.
    pub fn random(suite: Suite) -> Self {
        let mut bytes = vec![0; suite.profile().key_len() + suite.profile().salt_len()];
        // Calls under one key would be no test: better to stop at once.
        getrandom::fill(&mut bytes).expect("the system's random source works");
        Self { suite, bytes }
    }

    /// What packets of one direction are made, or read, with.
    pub fn context(&self) -> Result<Context, webrtc_srtp::Error> {
        let (key, salt) = self.bytes.split_at(self.suite.profile().key_len());
        // What comes twice is to be seen, and not to be dropped.
        Context::new(key, salt, self.suite.profile(), None, None)
    }

    fn write(&self, tag: u32) -> String {
        format!("a=crypto:{tag} {} inline:{}\r\n", self.suite.name(), STANDARD.encode(&self.bytes))
    }

    /// Of `1 AEAD_AES_128_GCM inline:KEY|2^31`, with its tag; none of another suite than that, or with what we don't know.
    fn read(value: &str, suite: Suite) -> Option<(u32, Self)> {
        let mut words = value.split_whitespace();
        let (tag, name, inline) = (words.next()?.parse().ok()?, words.next()?, words.next()?.strip_prefix("inline:")?);
        // A key identifier would be in each packet; a lifetime is none of a test's.
        let (key, mki) = inline.split_once('|').unwrap_or((inline, ""));
        let is_plain = words.next().is_none() && !mki.contains(':') && Suite::named(name) == Some(suite);
        let bytes = STANDARD.decode(key).ok().filter(|_| is_plain)?;
        (bytes.len() == suite.profile().key_len() + suite.profile().salt_len()).then_some((tag, Self { suite, bytes }))
    }
}

/// What the media line of a description says of protection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Terms {
    /// The profile in the `m=` line.
    pub profile: &'static str,
    /// A line of its own behind it, or nothing.
    pub line: String,
}

/// Both keys of a dialog, as far as they are known.
pub struct Exchange {
    own: Option<Own>,
    peer: Option<Master>,
}

struct Own {
    master: Master,
    /// The one that is offered in its place, until the answer.
    offered: Option<Master>,
    /// It has taken that place, and packets have not heard of it.
    is_new: bool,
    tag: u32,
    profile: &'static str,
}

/// Which step a description is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The peer offers.
    Offer,
    /// It answers what we offered.
    Answer,
}

impl Exchange {
    /// Of a phone that protects with this suite, or that doesn't.
    pub fn new(suite: Option<Suite>) -> Self {
        let own = suite.map(|suite| Own {
            master: Master::random(suite),
            offered: None,
            is_new: false,
            tag: TAG,
            profile: SECURE,
        });
        Self { own, peer: None }
    }

    /// For our next description.
    pub fn terms(&self) -> Terms {
        match &self.own {
            Some(own) => {
                Terms { profile: own.profile, line: own.offered.as_ref().unwrap_or(&own.master).write(own.tag) }
            }
            None => Terms { profile: PLAIN, line: String::new() },
        }
    }

    /// Our next offer has another key. Nothing of a phone without protection.
    pub fn renew(&mut self) {
        if let Some(own) = &mut self.own {
            own.offered = Some(Master::random(own.master.suite));
        }
    }

    /// That offer was refused.
    pub fn keep(&mut self) {
        if let Some(own) = &mut self.own {
            own.offered = None;
        }
    }

    /// The key for what we send from now on, once, if it has become another one.
    pub fn renewed(&mut self) -> Option<Master> {
        let own = self.own.as_mut()?;
        std::mem::take(&mut own.is_new).then(|| own.master.clone())
    }

    /// Takes the peer's description; whether its key has become another one.
    pub fn hear(&mut self, sdp: &[u8], step: Step) -> Result<bool, Failure> {
        let text = std::str::from_utf8(sdp).map_err(|_| Failure::Malformed("SDP is not text"))?;
        let profile = text.lines().find_map(|line| line.strip_prefix("m=audio ")?.split(' ').nth(1));
        let Some(own) = &mut self.own else {
            let is_plain = profile == Some(PLAIN);
            return if is_plain {
                Ok(false)
            } else {
                Err(Failure::Crypto("the far end wants SRTP, this one has none"))
            };
        };
        let lines = text.lines().filter_map(|line| line.strip_prefix("a=crypto:"));
        let found = lines.filter_map(|value| Master::read(value, own.master.suite)).next();
        let (tag, master) = found.ok_or(Failure::Crypto("no a=crypto of our suite"))?;
        if master == own.master {
            return Err(Failure::Crypto("our own key came back"));
        }
        if step == Step::Answer && tag != own.tag {
            return Err(Failure::Crypto("an answer of another tag than that of our offer"));
        }
        // Section 5.1.2: an answer has the offer's profile, which is RTP/AVP where protection may be declined.
        own.profile = if profile == Some(SECURE) { SECURE } else { PLAIN };
        own.tag = tag;
        if let Some(offered) = own.offered.take_if(|_| step == Step::Answer) {
            (own.master, own.is_new) = (offered, true);
        }
        let changed = self.peer.as_ref().is_some_and(|before| *before != master);
        self.peer = Some(master);
        Ok(changed)
    }

    /// For the packets, once the peer's key is known; none for those of a phone without protection.
    pub fn secure(&self) -> Result<Option<Box<Secure>>, Failure> {
        let Some(own) = &self.own else { return Ok(None) };
        let peer = self.peer.as_ref().ok_or(Failure::Crypto("the far end has named no key"))?;
        let secure = Secure::new(&own.master, peer).map_err(|e| Failure::Local(e.to_string()))?;
        Ok(Some(Box::new(secure)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sdp(exchange: &Exchange) -> Vec<u8> {
        let Terms { profile, line } = exchange.terms();
        format!("v=0\r\nm=audio 4000 {profile} 0\r\na=rtpmap:0 PCMU/8000\r\n{line}").into_bytes()
    }

    #[test]
    fn two_phones_find_each_others_keys_and_keep_them() {
        let (mut a, mut b) = (Exchange::new(Some(Suite::Gcm256)), Exchange::new(Some(Suite::Gcm256)));
        // Others before it, as of who offers all that there is; it may be declined.
        let mut offer = String::from_utf8(sdp(&a)).unwrap().replace("crypto:1 ", "crypto:6 ").replace(SECURE, PLAIN);
        offer.push_str("a=crypto:2 AEAD_AES_128_GCM inline:AAAA\r\n");
        assert_eq!(b.hear(offer.as_bytes(), Step::Offer), Ok(false));
        let answer = b.terms();
        assert_eq!(answer.profile, PLAIN);
        assert!(answer.line.starts_with("a=crypto:6 AEAD_AES_256_GCM inline:"), "{answer:?}");
        assert_eq!(
            a.hear(&sdp(&b), Step::Answer),
            Err(Failure::Crypto("an answer of another tag than that of our offer"))
        );
        let answer = String::from_utf8(sdp(&b)).unwrap().replace("crypto:6 ", "crypto:1 ");
        assert_eq!(a.hear(answer.as_bytes(), Step::Answer), Ok(false));
        assert!(a.secure().unwrap().is_some() && b.secure().unwrap().is_some());
        // The same key again, and another one.
        assert_eq!(a.hear(answer.as_bytes(), Step::Offer), Ok(false));
        let other = sdp(&Exchange::new(Some(Suite::Gcm256)));
        assert_eq!(a.hear(&other, Step::Offer), Ok(true));
        // A key that is offered holds from its answer on.
        let keys =
            |a: &mut Exchange, step| a.hear(answer.as_bytes(), step).map(|_| a.renewed().map(|key| key.write(TAG)));
        a.renew();
        let offered = a.terms().line;
        assert_eq!(keys(&mut a, Step::Offer), Ok(None));
        assert_eq!(keys(&mut a, Step::Answer), Ok(Some(offered.clone())));
        assert_eq!(keys(&mut a, Step::Answer), Ok(None));
        a.renew();
        a.keep();
        assert_eq!(a.terms().line, offered);
        let own = sdp(&a);
        assert_eq!(a.hear(&own, Step::Offer), Err(Failure::Crypto("our own key came back")));
    }

    #[test]
    fn nobody_is_left_without_the_protection_that_was_asked_for() {
        let (mut plain, mut secure) = (Exchange::new(None), Exchange::new(Some(Suite::AesCm128Tag80)));
        assert!(plain.hear(&sdp(&secure), Step::Offer).is_err());
        assert!(secure.hear(&sdp(&plain), Step::Answer).is_err());
        assert!(secure.hear(&sdp(&Exchange::new(Some(Suite::AesCm128Tag32))), Step::Offer).is_err());
        assert!(secure.secure().is_err());
        assert!(plain.hear(&sdp(&Exchange::new(None)), Step::Offer).is_ok() && plain.secure().unwrap().is_none());
    }
}
