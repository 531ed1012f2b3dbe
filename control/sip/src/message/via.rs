//! Via header values (RFC 3261 section 20.42, RFC 3581): who sent the request, and where the answer goes.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;

use super::error::{Fault, ValueError};
use super::host::{Host, lex_port};
use super::lexer::Lexer;
use super::params::Params;
use super::text::ByteStr;

/// How every branch of RFC 3261 begins (section 8.1.1.7).
pub const BRANCH_COOKIE: &str = "z9hG4bK";

/// One Via value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Via {
    /// `SIP`.
    pub protocol: ByteStr,
    /// `2.0`.
    pub version: ByteStr,
    /// `UDP`, `TCP`, ...; any token.
    pub transport: ByteStr,
    /// Where the sender says it is.
    pub host: Host,
    /// The port it named.
    pub port: Option<u16>,
    /// `branch`, `received`, `rport`, `maddr`, `ttl` and whatever else.
    pub params: Params,
}

impl Via {
    /// A Via of our own that asks for `rport`.
    pub fn new(transport: &str, sent_by: SocketAddr, branch: &str) -> Self {
        let mut params = Params::default();
        params.set("branch", Some(branch));
        params.set("rport", None);
        Self {
            protocol: ByteStr::from_static("SIP"),
            version: ByteStr::from_static("2.0"),
            transport: transport.into(),
            host: sent_by.ip().into(),
            port: Some(sent_by.port()),
            params,
        }
    }

    /// The branch, if it has one.
    pub fn branch(&self) -> Option<&str> {
        self.params.get("branch").filter(|branch| !branch.is_empty())
    }

    /// The branch if it identifies a transaction by itself: cookie and something after it (RFC 3261 section 17.2.3;
    /// the bare cookie is to be taken as none, RFC 4475 section 3.2.1).
    pub fn rfc3261_branch(&self) -> Option<&str> {
        self.branch().filter(|branch| branch.len() > BRANCH_COOKIE.len() && branch.starts_with(BRANCH_COOKIE))
    }

    /// The address the request really came from, with or without brackets (RFC 5118 section 4.5).
    pub fn received(&self) -> Option<IpAddr> {
        let text = self.params.get("received")?;
        text.trim_start_matches('[').trim_end_matches(']').parse().ok()
    }

    /// The port the request really came from; none if it was not filled in.
    pub fn rport(&self) -> Option<u16> {
        self.params.get("rport")?.parse().ok()
    }

    /// The port named, or that of the transport.
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(if self.transport.eq_ignore_ascii_case("TLS") { 5061 } else { 5060 })
    }

    /// Notes where the request really came from: `received` if it differs from sent-by or `rport` was asked for, and
    /// `rport` if it was asked for (RFC 3261 section 18.2.1, RFC 3581 section 4).
    pub fn stamp(&mut self, source: SocketAddr) {
        let asked = self.params.has("rport");
        if asked || self.host.ip() != Some(source.ip()) {
            self.params.set("received", Some(&source.ip().to_string()));
        }
        if asked {
            self.params.set("rport", Some(&source.port().to_string()));
        }
    }

    /// Where a response goes over an unreliable transport (RFC 3261 section 18.2.2, RFC 3581 section 4): an address, or
    /// a name that is to be resolved. `maddr` is not followed: it would let a stranger aim our packets.
    pub fn response_target(&self) -> (Host, u16) {
        match self.received() {
            Some(ip) => (ip.into(), self.rport().unwrap_or_else(|| self.port_or_default())),
            None => (self.host.clone(), self.port_or_default()),
        }
    }

    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let protocol = lexer.token()?;
        lexer.expect_separator(b'/')?;
        let version = lexer.token()?;
        lexer.expect_separator(b'/')?;
        let transport = lexer.token()?;
        if !matches!(lexer.peek(), Some(b' ' | b'\t')) {
            return lexer.fault(Fault::Expected(b' '));
        }
        lexer.skip_lws();
        let host = Host::lex(lexer)?;
        let port = lex_port(lexer, true)?;
        let params = Params::of_header(lexer)?;
        Ok(Self { protocol, version, transport, host, port, params })
    }

    /// From text that must be one Via value.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let mut lexer = Lexer::new(&bytes);
        let via = Self::lex(&mut lexer)?;
        lexer.end()?;
        Ok(via)
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{} {}", self.protocol, self.version, self.transport, self.host)?;
        if let Some(port) = self.port {
            write!(f, ":{port}")?;
        }
        write!(f, "{}", self.params)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spaces_are_allowed_where_the_grammar_allows_them() {
        let via = Via::parse("SIP  / 2.0  / TCP     spindle.example.com : 5070  ;  branch  =   z9hG4bK9ikj8").unwrap();
        assert_eq!(via.to_string(), "SIP/2.0/TCP spindle.example.com:5070;branch=z9hG4bK9ikj8");
        for bad in [
            "",
            "SIP/2.0/UDP",
            "SIP/2.0 h",
            "SIP/2.0/UDP h;;,;,,",
            "SIP/2.0/UDPh",
            "SIP/2.0/UDP h:0",
            "SIP/2.0/UDP h x",
        ] {
            assert!(Via::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_source_is_stamped_as_rfc3581_says() {
        let source: SocketAddr = "192.0.2.1:40000".parse().unwrap();
        let stamped = |text: &str| {
            let mut via = Via::parse(text).unwrap();
            via.stamp(source);
            via.to_string()
        };
        assert_eq!(stamped("SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa"), "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bKa");
        assert_eq!(stamped("SIP/2.0/UDP 10.1.1.1;branch=x"), "SIP/2.0/UDP 10.1.1.1;branch=x;received=192.0.2.1");
        assert_eq!(
            stamped("SIP/2.0/UDP 192.0.2.1;rport;branch=x"),
            "SIP/2.0/UDP 192.0.2.1;rport=40000;branch=x;received=192.0.2.1"
        );
        // What a sender claims about itself is overwritten.
        assert_eq!(
            stamped("SIP/2.0/UDP h;received=203.0.113.9;rport=1"),
            "SIP/2.0/UDP h;received=192.0.2.1;rport=40000"
        );
    }

    #[test]
    fn answers_go_where_the_request_came_from() {
        let target = |text: &str| {
            let (host, port) = Via::parse(text).unwrap().response_target();
            format!("{host}:{port}")
        };
        assert_eq!(target("SIP/2.0/UDP h"), "h:5060");
        assert_eq!(target("SIP/2.0/TLS h"), "h:5061");
        assert_eq!(target("SIP/2.0/UDP h:5070;received=192.0.2.1"), "192.0.2.1:5070");
        assert_eq!(target("SIP/2.0/UDP h:5070;received=[2001:db8::1];rport=9"), "[2001:db8::1]:9");
        assert_eq!(target("SIP/2.0/UDP h;maddr=203.0.113.9"), "h:5060");
    }

    #[test]
    fn only_a_branch_of_its_own_identifies() {
        let branch = |text: &str| Via::parse(text).unwrap().rfc3261_branch().map(str::to_owned);
        assert_eq!(branch("SIP/2.0/UDP h;branch=z9hG4bKx").as_deref(), Some("z9hG4bKx"));
        assert_eq!(branch("SIP/2.0/UDP h;branch=z9hG4bK"), None);
        assert_eq!(branch("SIP/2.0/UDP h;branch=1"), None);
        assert_eq!(branch("SIP/2.0/UDP h"), None);
    }
}
