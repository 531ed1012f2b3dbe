//! The small typed header values: CSeq, RAck, Session-Expires, Content-Type, credentials and challenges.

use std::fmt;

use bytes::Bytes;

use super::error::{Fault, ValueError};
use super::lexer::Lexer;
use super::method::Method;
use super::params::Params;
use super::text::ByteStr;

/// CSeq (RFC 3261 section 20.16).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct CSeq {
    /// The sequence number.
    pub number: u32,
    /// The method.
    pub method: Method,
}

impl CSeq {
    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let number = lexer.number()?;
        let method = lex_spaced_method(lexer)?;
        Ok(Self { number, method })
    }
}

impl fmt::Display for CSeq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.number, self.method)
    }
}

/// RAck (RFC 3262 section 7.2).
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RAck {
    /// The RSeq of the provisional response.
    pub rseq: u32,
    /// The CSeq of the provisional response.
    pub cseq: CSeq,
}

impl RAck {
    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let rseq = lexer.number()?;
        lexer.skip_lws();
        Ok(Self { rseq, cseq: CSeq::lex(lexer)? })
    }
}

impl fmt::Display for RAck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.rseq, self.cseq)
    }
}

fn lex_spaced_method(lexer: &mut Lexer<'_>) -> Result<Method, ValueError> {
    if !matches!(lexer.peek(), Some(b' ' | b'\t')) {
        return lexer.fault(Fault::Expected(b' '));
    }
    lexer.skip_lws();
    lexer.token().map(Method::from_token)
}

/// Which end refreshes a session (RFC 4028 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Refresher {
    /// Who sent the request.
    Uac,
    /// Who answers it.
    Uas,
}

/// Session-Expires (RFC 4028 section 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionExpires {
    /// The session interval, seconds.
    pub interval_s: u32,
    /// Who refreshes, if it is said.
    pub refresher: Option<Refresher>,
}

impl SessionExpires {
    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let interval_s = lexer.number_clamped()?;
        let params = Params::of_header(lexer)?;
        let refresher = match params.get("refresher") {
            Some(who) if who.eq_ignore_ascii_case("uac") => Some(Refresher::Uac),
            Some(who) if who.eq_ignore_ascii_case("uas") => Some(Refresher::Uas),
            _ => None,
        };
        Ok(Self { interval_s, refresher })
    }
}

impl fmt::Display for SessionExpires {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.interval_s)?;
        match self.refresher {
            None => Ok(()),
            Some(Refresher::Uac) => f.write_str(";refresher=uac"),
            Some(Refresher::Uas) => f.write_str(";refresher=uas"),
        }
    }
}

/// A media type: Content-Type (RFC 3261 section 20.15), and a range of Accept (20.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// `application`
    pub kind: ByteStr,
    /// `sdp`
    pub subtype: ByteStr,
    /// `charset`, `boundary`, ...
    pub params: Params,
}

impl MediaType {
    /// Whether it is `kind/subtype`, in any case.
    pub fn is(&self, kind: &str, subtype: &str) -> bool {
        self.kind.eq_ignore_ascii_case(kind) && self.subtype.eq_ignore_ascii_case(subtype)
    }

    /// Whether, as a range of Accept, it covers `kind/subtype`.
    pub fn covers(&self, kind: &str, subtype: &str) -> bool {
        (self.kind == "*" || self.kind.eq_ignore_ascii_case(kind))
            && (self.subtype == "*" || self.subtype.eq_ignore_ascii_case(subtype))
    }

    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let kind = lexer.token()?;
        lexer.expect_separator(b'/')?;
        let subtype = lexer.token()?;
        let params = Params::of_header(lexer)?;
        Ok(Self { kind, subtype, params })
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.kind, self.subtype, self.params)
    }
}

/// A challenge or credentials: WWW-Authenticate, Authorization and their Proxy siblings (RFC 3261 section 25.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// `Digest`, or another scheme.
    pub scheme: ByteStr,
    /// The parameters of a Digest; empty for other schemes.
    pub params: Params,
    /// What follows the scheme, verbatim.
    pub rest: ByteStr,
}

impl Auth {
    /// Whether it is a digest.
    pub fn is_digest(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("Digest")
    }

    /// From one header value.
    pub fn parse(value: &Bytes) -> Result<Self, ValueError> {
        let mut lexer = Lexer::new(value);
        let scheme = lexer.token()?;
        lexer.skip_lws();
        let rest = lexer.clone().rest();
        let params = if scheme.eq_ignore_ascii_case("Digest") {
            let params = Params::of_auth(&mut lexer)?;
            lexer.end()?;
            params
        } else {
            Params::default()
        };
        Ok(Self { scheme, params, rest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn session_expires_is_read_with_its_refresher() {
        let read = |text: &'static str| SessionExpires::lex(&mut Lexer::new(&Bytes::from_static(text.as_bytes())));
        let value = read("1800 ; Refresher=UAC").unwrap();
        assert_eq!((value.interval_s, value.refresher), (1800, Some(Refresher::Uac)));
        assert_eq!(value.to_string(), "1800;refresher=uac");
        assert_eq!(read("90").unwrap().refresher, None);
        assert!(read("x").is_err());
    }

    #[test]
    fn only_digests_are_taken_apart() {
        let digest = Auth::parse(&Bytes::from_static(b"Digest username=\"a\", nc=00000001 ,qop=auth")).unwrap();
        assert_eq!(
            (digest.params.get_unquoted("username").as_deref(), digest.params.get("qop")),
            (Some("a"), Some("auth"))
        );
        let other = Auth::parse(&Bytes::from_static(b"NoOneKnowsThisScheme opaque-data=here")).unwrap();
        assert!(!other.is_digest() && other.rest == "opaque-data=here");
        assert!(Auth::parse(&Bytes::from_static(b"Digest username=\"a\",,")).is_err());
    }
}
