//! Digest authentication (RFC 2617, 7616, 8760): challenges, verification from a stored HA1, nonces, and the client's side.
//!
//! Sans-IO. Nonces carry their own proof (HMAC over time and a counter), so that issuing one keeps no state and a flood of
//! unauthenticated requests costs no memory; counts are kept only of nonces whose user proved the password.
//! Cost of a verification: three hashes of short strings.

mod nonce;

use md5::Md5;
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::message::{Auth, Method, quote};

pub use nonce::{Freshness, NONCES_TRACKED_MAX, Nonces, SavedNonces};

/// A hash of RFC 8760 that we offer, the better one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// `SHA-256`.
    Sha256,
    /// `MD5`, also meant when nothing is said.
    Md5,
}

impl Algorithm {
    /// As in `algorithm=`.
    pub const fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "SHA-256",
            Algorithm::Md5 => "MD5",
        }
    }

    fn from_param(name: Option<&str>) -> Option<Self> {
        let Some(name) = name else { return Some(Algorithm::Md5) };
        [Algorithm::Sha256, Algorithm::Md5].into_iter().find(|a| a.name().eq_ignore_ascii_case(name))
    }

    fn hash(self, text: &str) -> String {
        match self {
            Algorithm::Sha256 => hex::encode(Sha256::digest(text)),
            Algorithm::Md5 => hex::encode(Md5::digest(text)),
        }
    }

    /// H(user:realm:password), hexadecimal: what a store keeps instead of the password.
    pub fn ha1(self, user: &str, realm: &str, password: &str) -> String {
        self.hash(&format!("{user}:{realm}:{password}"))
    }
}

/// Both HA1 of an account, hexadecimal.
#[derive(Debug, Clone, Copy)]
pub struct Ha1<'a> {
    /// For `algorithm=MD5`.
    pub md5: &'a str,
    /// For `algorithm=SHA-256`.
    pub sha256: &'a str,
}

/// Why credentials cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CredentialsError {
    /// Another scheme than Digest.
    #[error("scheme is not Digest")]
    Scheme,
    /// This parameter is missing or malformed.
    #[error("bad or missing parameter {0}")]
    Param(&'static str),
    /// An algorithm or quality of protection that we did not offer.
    #[error("algorithm or qop was not offered")]
    NotOffered,
}

/// An Authorization header's digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Who claims to ask.
    pub username: String,
    /// For which realm.
    pub realm: String,
    /// The nonce answered.
    pub nonce: String,
    /// The digest-uri.
    pub uri: String,
    /// The proof, hexadecimal.
    pub response: String,
    /// The hash.
    pub algorithm: Algorithm,
    /// Client nonce and count; none is the legacy form of RFC 2069.
    pub qop: Option<QopAuth>,
}

/// What `qop=auth` adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QopAuth {
    /// The client's nonce.
    pub cnonce: String,
    /// How often it used ours, this request included.
    pub count: u32,
    /// The same as spelled: eight hexadecimal digits.
    pub nc: String,
}

impl Credentials {
    /// Reads a digest.
    pub fn parse(auth: &Auth) -> Result<Self, CredentialsError> {
        if !auth.is_digest() {
            return Err(CredentialsError::Scheme);
        }
        let maybe = |name| auth.params.get_unquoted(name).map(std::borrow::Cow::into_owned);
        let param = |name| maybe(name).ok_or(CredentialsError::Param(name));
        let algorithm = Algorithm::from_param(maybe("algorithm").as_deref()).ok_or(CredentialsError::NotOffered)?;
        let qop = match maybe("qop") {
            None => None,
            Some(qop) if qop.eq_ignore_ascii_case("auth") => {
                let nc = param("nc")?;
                let count = u32::from_str_radix(&nc, 16).ok().filter(|_| nc.len() == 8);
                let count = count.ok_or(CredentialsError::Param("nc"))?;
                Some(QopAuth { cnonce: param("cnonce")?, count, nc })
            }
            Some(_) => return Err(CredentialsError::NotOffered),
        };
        Ok(Self {
            username: param("username")?,
            realm: param("realm")?,
            nonce: param("nonce")?,
            uri: param("uri")?,
            response: param("response")?,
            algorithm,
            qop,
        })
    }

    /// Whether the proof is right for this account and method; in constant time over the proof.
    pub fn verify(&self, ha1: Ha1<'_>, method: &Method) -> bool {
        let ha1 = match self.algorithm {
            Algorithm::Sha256 => ha1.sha256,
            Algorithm::Md5 => ha1.md5,
        };
        same(&self.proof(ha1, method), &self.response)
    }

    /// The header value, for the client's side.
    pub fn to_header(&self) -> String {
        let mut out = format!(
            "Digest username={}, realm={}, nonce={}, uri={}, response=\"{}\", algorithm={}",
            quote(&self.username),
            quote(&self.realm),
            quote(&self.nonce),
            quote(&self.uri),
            self.response,
            self.algorithm.name(),
        );
        if let Some(qop) = &self.qop {
            out.push_str(&format!(", qop=auth, nc={}, cnonce={}", qop.nc, quote(&qop.cnonce)));
        }
        out
    }

    fn proof(&self, ha1: &str, method: &Method) -> String {
        let ha2 = self.algorithm.hash(&format!("{method}:{}", self.uri));
        let nonce = &self.nonce;
        self.algorithm.hash(&match &self.qop {
            None => format!("{ha1}:{nonce}:{ha2}"),
            Some(QopAuth { cnonce, nc, .. }) => format!("{ha1}:{nonce}:{nc}:{cnonce}:auth:{ha2}"),
        })
    }
}

/// The value of a WWW-Authenticate header. With several, the one preferred comes first (RFC 8760 section 2.4).
pub fn challenge(realm: &str, nonce: &str, algorithm: Algorithm, is_stale: bool) -> String {
    let stale = if is_stale { ", stale=true" } else { "" };
    let (realm, nonce, algorithm) = (quote(realm), quote(nonce), algorithm.name());
    format!("Digest realm={realm}, nonce={nonce}, algorithm={algorithm}, qop=\"auth\"{stale}")
}

/// Who answers a challenge, and how often this nonce was used with this request.
#[derive(Debug, Clone, Copy)]
pub struct Client<'a> {
    /// The user.
    pub user: &'a str,
    /// The password.
    pub password: &'a str,
    /// Any unpredictable text.
    pub cnonce: &'a str,
    /// 1 for the first request with this nonce.
    pub count: u32,
}

/// Answers a challenge for a request; none if it is no digest of an algorithm and qop that we know.
pub fn answer(challenge: &Auth, client: Client<'_>, method: &Method, uri: &str) -> Option<Credentials> {
    let param = |name| challenge.params.get_unquoted(name).map(std::borrow::Cow::into_owned);
    let algorithm = Algorithm::from_param(param("algorithm").as_deref()).filter(|_| challenge.is_digest())?;
    let qop = match param("qop") {
        None => None,
        Some(offered) if offered.split(',').any(|qop| qop.trim().eq_ignore_ascii_case("auth")) => {
            Some(QopAuth { cnonce: client.cnonce.to_owned(), count: client.count, nc: format!("{:08x}", client.count) })
        }
        Some(_) => return None,
    };
    let realm = param("realm")?;
    let ha1 = algorithm.ha1(client.user, &realm, client.password);
    let mut credentials = Credentials {
        username: client.user.to_owned(),
        realm,
        nonce: param("nonce")?,
        uri: uri.to_owned(),
        response: String::new(),
        algorithm,
        qop,
    };
    credentials.response = credentials.proof(&ha1, method);
    Some(credentials)
}

/// Whether two hexadecimal texts are the same, in a time that does not tell where they differ.
fn same(ours: &str, theirs: &str) -> bool {
    let differing = ours.bytes().zip(theirs.bytes()).fold(0, |acc, (a, b)| acc | (a ^ b.to_ascii_lowercase()));
    ours.len() == theirs.len() && differing == 0
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn auth(text: &str) -> Auth {
        Auth::parse(&Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn ha1s(user: &str, realm: &str, password: &str) -> (String, String) {
        (Algorithm::Md5.ha1(user, realm, password), Algorithm::Sha256.ha1(user, realm, password))
    }

    /// RFC 2617 section 3.5 and RFC 7616 section 3.9.1.
    #[test]
    fn the_examples_of_the_rfcs_are_right() {
        let rfc7616 = |algorithm: &str, response: &str| {
            format!(
                "Digest username=\"Mufasa\", realm=\"http-auth@example.org\", uri=\"/dir/index.html\", algorithm={algorithm}, \
                 nonce=\"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v\", nc=00000001, \
                 cnonce=\"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ\", qop=auth, response=\"{response}\", \
                 opaque=\"FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS\""
            )
        };
        let rfc2617 = "Digest username=\"Mufasa\", realm=\"testrealm@host.com\", \
                       nonce=\"dcd98b7102dd2f0e8b11d0f600bfb0c093\", uri=\"/dir/index.html\", qop=auth, nc=00000001, \
                       cnonce=\"0a4f113b\", response=\"6629fae49393a05397450978507c4ef1\", opaque=\"x\"";
        for (text, password) in [
            (rfc7616("MD5", "8ca523f5e9506fed4657c9700eebdbec"), "Circle of Life"),
            (rfc7616("SHA-256", "753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1"), "Circle of Life"),
            (rfc2617.to_owned(), "Circle Of Life"),
        ] {
            let credentials = Credentials::parse(&auth(&text)).unwrap();
            let (md5, sha256) = ha1s("Mufasa", &credentials.realm, password);
            let get = Method::Other("GET".into());
            assert!(credentials.verify(Ha1 { md5: &md5, sha256: &sha256 }, &get), "{text}");
            assert!(!credentials.verify(Ha1 { md5: &md5, sha256: &sha256 }, &Method::Invite));
            let (md5, sha256) = ha1s("Mufasa", &credentials.realm, "circle of life");
            assert!(!credentials.verify(Ha1 { md5: &md5, sha256: &sha256 }, &get));
        }
    }

    #[test]
    fn both_challenges_can_be_answered_and_the_legacy_form_too() {
        let [sha256, md5] = [Algorithm::Sha256, Algorithm::Md5].map(|a| challenge("nebula \"x\"", "n1", a, true));
        assert!(sha256.contains("algorithm=SHA-256") && md5.contains("algorithm=MD5") && md5.ends_with("stale=true"));
        let legacy = "Digest realm=\"nebula \\\"x\\\"\", nonce=\"n1\"".to_owned();
        let (md5_ha1, sha256_ha1) = ha1s("1000", "nebula \"x\"", "secret");
        for challenge in [sha256, md5, legacy] {
            let client = Client { user: "1000", password: "secret", cnonce: "c", count: 10 };
            let made = answer(&auth(&challenge), client, &Method::Register, "sip:nebula").unwrap();
            let read = Credentials::parse(&auth(&made.to_header())).unwrap();
            assert_eq!(read, made);
            assert_eq!(read.qop.as_ref().map(|qop| qop.count), challenge.contains("qop").then_some(10));
            assert!(read.verify(Ha1 { md5: &md5_ha1, sha256: &sha256_ha1 }, &Method::Register), "{challenge}");
        }
    }

    #[test]
    fn unusable_credentials_are_told_apart() {
        let whole = "Digest username=\"a\", realm=\"r\", nonce=\"n\", uri=\"sip:r\", response=\"0\"";
        let error = |text: &str| Credentials::parse(&auth(text)).unwrap_err();
        assert!(Credentials::parse(&auth(whole)).is_ok());
        assert_eq!(error("Basic abc"), CredentialsError::Scheme);
        assert_eq!(error("Digest username=\"a\""), CredentialsError::Param("realm"));
        assert_eq!(error(&format!("{whole}, algorithm=MD5-sess")), CredentialsError::NotOffered);
        assert_eq!(error(&format!("{whole}, qop=auth-int, nc=00000001, cnonce=\"c\"")), CredentialsError::NotOffered);
        assert_eq!(error(&format!("{whole}, qop=auth, nc=1, cnonce=\"c\"")), CredentialsError::Param("nc"));
        assert_eq!(error(&format!("{whole}, qop=auth, nc=0000000g, cnonce=\"c\"")), CredentialsError::Param("nc"));
        assert_eq!(error(&format!("{whole}, qop=auth, nc=00000001")), CredentialsError::Param("cnonce"));
    }

    #[test]
    fn comparison_wants_all_of_it() {
        assert!(same("ab12", "AB12"));
        for other in ["ab1", "ab123", "", "ab13"] {
            assert!(!same("ab12", other), "{other}");
        }
    }
}
