//! Hosts: names, IPv4 addresses, and IPv6 references with their brackets (RFC 3261 section 25.1, RFC 5118).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytes::Bytes;

use super::error::{Fault, ValueError};
use super::lexer::Lexer;
use super::text::ByteStr;

/// A host as it was spelled, and the address it is if it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    text: ByteStr,
    ip: Option<IpAddr>,
}

impl Host {
    /// As spelled; an IPv6 address with its brackets.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The address, if it is one and no name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.ip
    }

    /// Whether both are the same address, or the same name without regard to case.
    pub fn is(&self, other: &Host) -> bool {
        match (self.ip, other.ip) {
            (Some(a), Some(b)) => a == b,
            (None, None) => self.text.eq_ignore_ascii_case(&other.text),
            _ => false,
        }
    }

    /// From text that must be nothing but a host.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let mut lexer = Lexer::new(&bytes);
        let host = Self::lex(&mut lexer)?;
        if lexer.is_end() { Ok(host) } else { lexer.fault(Fault::Trailing) }
    }

    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let start = lexer.at();
        if lexer.eat(b'[') {
            let inner = lexer.run(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'), Fault::Host)?;
            lexer.expect(b']')?;
            let ip = parse_v6(&inner).ok_or(ValueError { fault: Fault::Host, at: start })?;
            return Ok(Self { text: lexer.text_from(start), ip: Some(IpAddr::V6(ip)) });
        }
        // Underscores are in no RFC, but in host names of real phones.
        let text = lexer.run(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'), Fault::Host)?;
        let ip = text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
        Ok(Self { text, ip })
    }
}

/// RFC 5118 section 4.10: the ABNF of RFC 3261 allowed `2001:db8:::192.0.2.1`, so it must be read.
fn parse_v6(text: &str) -> Option<Ipv6Addr> {
    text.parse().ok().or_else(|| text.replacen(":::", "::", 1).parse().ok())
}

impl From<IpAddr> for Host {
    fn from(ip: IpAddr) -> Self {
        let text = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        Self { text: text.into(), ip: Some(ip) }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// `[ ":" port ]`; white space around the colon is allowed in a Via, not in a URI.
pub(super) fn lex_port(lexer: &mut Lexer<'_>, spaced: bool) -> Result<Option<u16>, ValueError> {
    let has_port = if spaced { lexer.eat_separator(b':') } else { lexer.eat(b':') };
    if !has_port {
        return Ok(None);
    }
    let at = lexer.at();
    let port = lexer.run(|b| b.is_ascii_digit(), Fault::Port)?;
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(Some(port)),
        _ => Err(ValueError { fault: Fault::Port, at }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_apart() {
        assert_eq!(Host::parse("example.com").unwrap().ip(), None);
        assert_eq!(Host::parse("192.0.2.1").unwrap().ip(), "192.0.2.1".parse().ok());
        assert_eq!(Host::parse("[2001:db8::1]").unwrap().ip(), "2001:db8::1".parse().ok());
        assert_eq!(Host::parse("[2001:db8:::192.0.2.1]").unwrap().ip(), "2001:db8::192.0.2.1".parse().ok());
        for bad in ["", "2001:db8::1", "[2001:db8::1", "[1.2.3.4]", "a b", "[]", "[::1]x"] {
            assert!(Host::parse(bad).is_err(), "{bad}");
        }
        assert!(Host::parse("Example.COM").unwrap().is(&Host::parse("example.com").unwrap()));
        assert!(Host::parse("[::1]").unwrap().is(&Host::parse("[0:0::1]").unwrap()));
    }
}
