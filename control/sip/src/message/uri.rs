//! URIs: sip, sips (RFC 3261 section 19.1), tel (RFC 3966), and any other scheme verbatim.
//!
//! Parts are slices of the received text with their escapes; [`Uri::user`] decodes. Comparison after section 19.1.4.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::error::{Fault, ValueError};
use super::host::{Host, lex_port};
use super::lexer::{Lexer, is_unreserved};
use super::limits::URI_BYTES_MAX;
use super::params::{Params, escapes_are_whole};
use super::text::ByteStr;

/// A URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Uri {
    /// `sip:` and `sips:`.
    Sip(SipUri),
    /// `tel:`.
    Tel(TelUri),
    /// Any other scheme.
    Other(OtherUri),
}

/// A `sip:` or `sips:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SipUri {
    /// Whether it is `sips:`.
    pub secure: bool,
    /// The user part, escaped as on the wire.
    pub user: Option<ByteStr>,
    /// The password, escaped as on the wire.
    pub password: Option<ByteStr>,
    /// The host.
    pub host: Host,
    /// The port, if it is named.
    pub port: Option<u16>,
    /// The parameters.
    pub params: Params,
    /// The headers after `?`, verbatim.
    pub headers: Option<ByteStr>,
}

/// A `tel:` URI.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TelUri {
    /// The number with its visual separators.
    pub number: ByteStr,
    /// The parameters.
    pub params: Params,
}

/// A URI of a scheme we know nothing of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherUri {
    /// The scheme as spelled.
    pub scheme: ByteStr,
    /// What follows the colon.
    pub rest: ByteStr,
}

impl Uri {
    /// A `sip:` URI of a user (any text, escaped here) at a host.
    pub fn sip(user: Option<&str>, host: Host, port: Option<u16>) -> Self {
        Uri::Sip(SipUri {
            secure: false,
            user: user.map(|user| escape_user(user).into()),
            password: None,
            host,
            port,
            params: Params::default(),
            headers: None,
        })
    }

    /// From text that must be nothing but a URI.
    pub fn parse(text: &Bytes) -> Result<Self, ValueError> {
        if text.len() > URI_BYTES_MAX {
            return Err(ValueError { fault: Fault::TooMany, at: URI_BYTES_MAX });
        }
        let mut lexer = Lexer::new(text);
        let scheme = lexer.run(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'), Fault::Uri)?;
        if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err(ValueError { fault: Fault::Uri, at: 0 });
        }
        if !lexer.eat(b':') {
            return lexer.fault(Fault::Uri);
        }
        if scheme.eq_ignore_ascii_case("sip") {
            SipUri::lex(&mut lexer, text, false).map(Uri::Sip)
        } else if scheme.eq_ignore_ascii_case("sips") {
            SipUri::lex(&mut lexer, text, true).map(Uri::Sip)
        } else if scheme.eq_ignore_ascii_case("tel") {
            TelUri::lex(&mut lexer).map(Uri::Tel)
        } else {
            let rest = lexer.run(is_uri_char, Fault::Uri)?;
            if !lexer.is_end() {
                return lexer.fault(Fault::Uri);
            }
            Ok(Uri::Other(OtherUri { scheme, rest }))
        }
    }

    /// The scheme in lower case, unless it is unknown.
    pub fn scheme(&self) -> &str {
        match self {
            Uri::Sip(uri) if uri.secure => "sips",
            Uri::Sip(_) => "sip",
            Uri::Tel(_) => "tel",
            Uri::Other(uri) => &uri.scheme,
        }
    }

    /// The `sip:` or `sips:` URI, if it is one.
    pub fn as_sip(&self) -> Option<&SipUri> {
        match self {
            Uri::Sip(uri) => Some(uri),
            _ => None,
        }
    }

    /// The user part or the telephone number, unescaped.
    pub fn user(&self) -> Option<Cow<'_, str>> {
        match self {
            Uri::Sip(uri) => uri.user.as_deref().map(unescape),
            Uri::Tel(uri) => Some(Cow::Borrowed(&uri.number)),
            Uri::Other(_) => None,
        }
    }

    /// The host, if it has one.
    pub fn host(&self) -> Option<&Host> {
        self.as_sip().map(|uri| &uri.host)
    }

    /// The port, if it is named.
    pub fn port(&self) -> Option<u16> {
        self.as_sip().and_then(|uri| uri.port)
    }

    /// The parameters, if the scheme has any.
    pub fn params(&self) -> Option<&Params> {
        match self {
            Uri::Sip(uri) => Some(&uri.params),
            Uri::Tel(uri) => Some(&uri.params),
            Uri::Other(_) => None,
        }
    }

    /// A parameter's value, verbatim; `""` for one without a value.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params().and_then(|params| params.get(name))
    }

    /// Whether both are equivalent after RFC 3261 section 19.1.4; that relation is not transitive.
    pub fn is_equivalent(&self, other: &Uri) -> bool {
        match (self, other) {
            (Uri::Sip(a), Uri::Sip(b)) => a.is_equivalent(b),
            (Uri::Tel(a), Uri::Tel(b)) => digits(&a.number).eq(digits(&b.number)),
            (Uri::Other(a), Uri::Other(b)) => a.scheme.eq_ignore_ascii_case(&b.scheme) && a.rest == b.rest,
            _ => false,
        }
    }
}

/// Parameters that, when only one side has them, make two URIs differ.
const DISTINGUISHING_PARAMS: [&str; 4] = ["user", "ttl", "method", "maddr"];

impl SipUri {
    fn lex(lexer: &mut Lexer<'_>, text: &Bytes, secure: bool) -> Result<Self, ValueError> {
        let (user, password) = if text.contains(&b'@') { lex_userinfo(lexer)? } else { (None, None) };
        let host = Host::lex(lexer)?;
        let port = lex_port(lexer, false)?;
        let params = Params::of_uri(lexer)?;
        let headers = if lexer.eat(b'?') { Some(lexer.run(is_header_char, Fault::Uri)?) } else { None };
        if !lexer.is_end() || !headers.as_deref().is_none_or(escapes_are_whole) {
            return lexer.fault(Fault::Uri);
        }
        Ok(Self { secure, user, password, host, port, params, headers })
    }

    /// The port to use when none is named, RFC 3263 section 4.2.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(if self.secure { 5061 } else { 5060 })
    }

    fn is_equivalent(&self, other: &SipUri) -> bool {
        self.secure == other.secure
            && same_escaped(self.user.as_deref(), other.user.as_deref())
            && same_escaped(self.password.as_deref(), other.password.as_deref())
            && self.host.is(&other.host)
            && self.port == other.port
            && params_agree(&self.params, &other.params)
            && same_headers(self.headers.as_deref(), other.headers.as_deref())
    }
}

fn lex_userinfo(lexer: &mut Lexer<'_>) -> Result<(Option<ByteStr>, Option<ByteStr>), ValueError> {
    let at = lexer.at();
    let user = lexer.run(is_user_char, Fault::Uri)?;
    // An empty password (`sip:user:@host`) is allowed by the grammar.
    let password = lexer.eat(b':').then(|| {
        let start = lexer.at();
        lexer.take_while(is_password_char);
        lexer.text_from(start)
    });
    if !lexer.eat(b'@') {
        return lexer.fault(Fault::Uri);
    }
    if !escapes_are_whole(&user) || !password.as_deref().is_none_or(escapes_are_whole) {
        return Err(ValueError { fault: Fault::Uri, at });
    }
    Ok((Some(user), password))
}

impl TelUri {
    fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let number = lexer.run(
            |b| b.is_ascii_hexdigit() || matches!(b, b'+' | b'-' | b'.' | b'(' | b')' | b'*' | b'#'),
            Fault::Uri,
        )?;
        let params = Params::of_uri(lexer)?;
        if !lexer.is_end() {
            return lexer.fault(Fault::Uri);
        }
        Ok(Self { number, params })
    }
}

fn params_agree(a: &Params, b: &Params) -> bool {
    let known_by_one = |name: &str| DISTINGUISHING_PARAMS.iter().any(|d| d.eq_ignore_ascii_case(name));
    let one_way = |a: &Params, b: &Params| {
        a.iter().all(|p| match b.get(&p.name) {
            Some(other) => unescape(p.value.as_deref().unwrap_or("")).eq_ignore_ascii_case(&unescape(other)),
            None => !known_by_one(&p.name),
        })
    };
    one_way(a, b) && one_way(b, a)
}

/// Header components match as sets, their order being of no account.
fn same_headers(a: Option<&str>, b: Option<&str>) -> bool {
    let sorted = |headers: Option<&str>| {
        let mut parts: Vec<String> = headers.into_iter().flat_map(|h| h.split('&')).map(normal_header).collect();
        parts.sort_unstable();
        parts
    };
    sorted(a) == sorted(b)
}

fn normal_header(header: &str) -> String {
    let (name, value) = header.split_once('=').unwrap_or((header, ""));
    format!("{}={}", unescape(name).to_ascii_lowercase(), unescape(value))
}

fn same_escaped(a: Option<&str>, b: Option<&str>) -> bool {
    a.map(unescape) == b.map(unescape)
}

fn digits(number: &str) -> impl Iterator<Item = char> {
    number.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')')).map(|c| c.to_ascii_lowercase())
}

/// `user` of RFC 3261, and `#`, which phones send unescaped when it is dialled.
const fn is_user_char(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'%' | b'&' | b'=' | b'+' | b'$' | b',' | b';' | b'?' | b'/' | b'#')
}

const fn is_password_char(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'%' | b'&' | b'=' | b'+' | b'$' | b',')
}

const fn is_header_char(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'%' | b'[' | b']' | b'/' | b'?' | b':' | b'+' | b'$' | b'=' | b'&')
}

const fn is_uri_char(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !matches!(byte, b'<' | b'>' | b'"')
}

/// Undoes `%HH`; escapes that make no UTF-8 stay as they are.
pub fn unescape(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        match bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(hex_pair) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).map_or(Cow::Borrowed(text), Cow::Owned)
}

fn hex_pair(digits: &[u8]) -> Option<u8> {
    let digit = |b: u8| char::from(b).to_digit(16);
    let (high, low) = (digit(*digits.first()?)?, digit(*digits.get(1)?)?);
    u8::try_from(high * 16 + low).ok()
}

/// Escapes text for a user part.
pub fn escape_user(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        if byte != b'%' && byte != b'#' && is_user_char(byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl FromStr for Uri {
    type Err = ValueError;

    fn from_str(text: &str) -> Result<Self, ValueError> {
        Self::parse(&Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Uri::Sip(uri) => uri.fmt(f),
            Uri::Tel(uri) => write!(f, "tel:{}{}", uri.number, uri.params),
            Uri::Other(uri) => write!(f, "{}:{}", uri.scheme, uri.rest),
        }
    }
}

impl fmt::Display for SipUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secure { "sips:" } else { "sip:" })?;
        if let Some(user) = &self.user {
            f.write_str(user)?;
            if let Some(password) = &self.password {
                write!(f, ":{password}")?;
            }
            f.write_str("@")?;
        }
        write!(f, "{}", self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.params)?;
        match &self.headers {
            Some(headers) => write!(f, "?{headers}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn every_part_is_found_and_written_back() {
        let text = "sips:ali%63e:se%20cret@[2001:db8::1]:5071;transport=tcp;lr?subject=a%20b&priority=urgent";
        let parsed = uri(text);
        let sip = parsed.as_sip().unwrap();
        assert!(sip.secure);
        assert_eq!(parsed.user().unwrap(), "alice");
        assert_eq!(sip.password.as_deref(), Some("se%20cret"));
        assert_eq!(parsed.host().unwrap().ip(), "2001:db8::1".parse().ok());
        assert_eq!(parsed.port(), Some(5071));
        assert_eq!((parsed.param("Transport"), parsed.param("lr"), parsed.param("x")), (Some("tcp"), Some(""), None));
        assert_eq!(parsed.to_string(), text);
        assert_eq!(uri("SIP:*43@h").to_string(), "sip:*43@h");
        assert_eq!(uri("tel:+1-201-555-0123;phone-context=x").to_string(), "tel:+1-201-555-0123;phone-context=x");
        assert_eq!(uri("soap.beep://192.0.2.103:3002").scheme(), "soap.beep");
        assert_eq!(uri("sip:user;par=u%40example.net@example.com").user().unwrap(), "user;par=u@example.net");
    }

    #[test]
    fn broken_ones_are_refused() {
        for bad in [
            "",
            "sip",
            "sip:",
            ":a@b",
            "1a:b",
            "sip:a b@c",
            "sip:@host",
            "sip:a@",
            "sip:a@b:0",
            "sip:a@b:99999",
            "sip:a@b:",
            "sip:a@b@c",
            "sip:a@b;",
            "sip:a@b;;lr",
            "sip:a%4@b",
            "sip:a@b?",
            "sip:2001:db8::10",
            "<sip:a@b>",
            "sip:a@b>",
            "tel:",
            "tel:abcxyz",
            "x:",
            "sip:a@b;x=%g1",
        ] {
            assert!(bad.parse::<Uri>().is_err(), "{bad}");
        }
        assert!(format!("sip:{}@h", "a".repeat(URI_BYTES_MAX)).parse::<Uri>().is_err());
    }

    /// The lists of RFC 3261 section 19.1.4.
    #[test]
    fn comparison_follows_the_rfc() {
        for (a, b) in [
            ("sip:%61lice@atlanta.com;transport=TCP", "sip:alice@AtLanTa.CoM;Transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;security=on"),
            ("sip:carol@chicago.com;newparam=5", "sip:carol@chicago.com;security=on"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("tel:+1-201-555", "tel:+1(201)555"),
        ] {
            assert!(uri(a).is_equivalent(&uri(b)) && uri(b).is_equivalent(&uri(a)), "{a} {b}");
        }
        for (a, b) in [
            ("SIP:ALICE@AtLanTa.CoM;Transport=udp", "sip:alice@AtLanTa.CoM;Transport=UDP"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;security=off"),
            ("sip:a@b", "sip:a@b;user=phone"),
            ("sip:a@b", "sips:a@b"),
            ("sip:a@b", "tel:1"),
        ] {
            assert!(!uri(a).is_equivalent(&uri(b)), "{a} {b}");
        }
    }

    #[test]
    fn users_are_escaped_to_come_back_the_same() {
        for user in ["1000", "*43", "a b", "50%", "#21#", "ü@x"] {
            let made = Uri::sip(Some(user), Host::parse("h").unwrap(), None);
            assert_eq!(uri(&made.to_string()).user().unwrap(), user);
        }
    }
}
