//! What phones say: requests, responses, digest credentials and SDP, built with `rsip`.

use super::Failure;
use crate::srtp::Terms;
use rsip::headers::auth::{Algorithm, AuthQop, Qop};
use rsip::headers::{ToTypedHeader, UntypedHeader};
use rsip::prelude::{HasHeaders, HeadersExt};
use rsip::services::DigestGenerator;
use rsip::typed::WwwAuthenticate;
use rsip::{Header, Headers, Method, Request, Response, SipMessage};
use std::net::{IpAddr, SocketAddr};

/// An account at the system under test.
#[derive(Debug, Clone)]
pub struct Account {
    /// The extension.
    pub user: String,
    /// Its password.
    pub password: String,
    /// The system's address.
    pub server: SocketAddr,
}

impl Account {
    /// The address of record.
    pub fn address(&self) -> String {
        format!("sip:{}@{}", self.user, self.server)
    }
}

/// One side of a dialog, as the next request needs it.
#[derive(Debug, Clone)]
pub struct Side {
    /// Our address and where we listen.
    pub local: SocketAddr,
    /// Request-URI.
    pub target: String,
    /// From, with its tag.
    pub from: String,
    /// To, with its tag once known.
    pub to: String,
    /// Call-ID.
    pub call_id: String,
    /// The user part of our Contact.
    pub user: String,
    /// The last CSeq number that was used.
    pub cseq: u32,
}

impl Side {
    /// A request with a branch of its own; ACK keeps the number of its INVITE.
    pub fn request(&mut self, method: Method, branch: &str, more: Vec<Header>, body: &str) -> Result<Request, Failure> {
        if method != Method::Ack && method != Method::Cancel {
            self.cseq += 1;
        }
        let mut headers = Headers::default();
        headers.push(via(self.local, branch));
        headers.push(rsip::headers::From::new(&self.from).into());
        headers.push(rsip::headers::To::new(&self.to).into());
        headers.push(rsip::headers::CallId::new(&self.call_id).into());
        headers.push(rsip::headers::CSeq::new(format!("{} {method}", self.cseq)).into());
        headers.push(rsip::headers::MaxForwards::new("70").into());
        headers.push(contact(&self.user, self.local));
        headers.push(rsip::headers::UserAgent::new("nebula-load").into());
        more.into_iter().for_each(|header| headers.push(header));
        body_headers(&mut headers, body);
        let uri = rsip::Uri::try_from(self.target.as_str()).map_err(|_| Failure::Malformed("Contact URI"))?;
        Ok(Request { method, uri, version: rsip::Version::V2, headers, body: body.into() })
    }
}

fn via(local: SocketAddr, branch: &str) -> Header {
    rsip::headers::Via::new(format!("SIP/2.0/UDP {local};rport;branch=z9hG4bK{branch}")).into()
}

/// Our Contact.
pub fn contact(user: &str, local: SocketAddr) -> Header {
    rsip::headers::Contact::new(format!("<sip:{user}@{local}>")).into()
}

fn body_headers(headers: &mut Headers, body: &str) {
    if !body.is_empty() {
        headers.push(rsip::headers::ContentType::new("application/sdp").into());
    }
    headers.push(rsip::headers::ContentLength::new(body.len().to_string()).into());
}

/// A response to a request; `to_tag` is added to its To if that has none.
pub fn response(request: &Request, code: u16, to_tag: &str, contact: Option<Header>, body: &str) -> Response {
    let mut headers = Headers::default();
    for header in request.headers().iter() {
        let copied = match header {
            Header::Via(_) | Header::From(_) | Header::CallId(_) | Header::CSeq(_) | Header::RecordRoute(_) => {
                header.clone()
            }
            Header::To(to) if !to.value().contains("tag=") => {
                rsip::headers::To::new(format!("{};tag={to_tag}", to.value())).into()
            }
            Header::To(_) => header.clone(),
            _ => continue,
        };
        headers.push(copied);
    }
    contact.into_iter().for_each(|header| headers.push(header));
    body_headers(&mut headers, body);
    Response { status_code: code.into(), version: rsip::Version::V2, headers, body: body.into() }
}

/// The method of a message's CSeq, and its number.
pub fn cseq(message: &impl HasHeaders) -> Option<(u32, Method)> {
    let cseq = message.headers().iter().find_map(|h| if let Header::CSeq(c) = h { Some(c) } else { None })?;
    let typed = cseq.clone().typed().ok()?;
    Some((typed.seq, typed.method))
}

/// The Call-ID of a message.
pub fn call_id(message: &SipMessage) -> Option<String> {
    Some(message.call_id_header().ok()?.value().to_owned())
}

/// The value of To, with its tag.
pub fn to(response: &Response) -> Result<String, Failure> {
    Ok(response.to_header().map_err(|_| Failure::Malformed("no To"))?.value().to_owned())
}

/// The URI in Contact.
pub fn contact_uri(message: &impl HasHeaders) -> Result<String, Failure> {
    let header = message.headers().iter().find_map(|h| if let Header::Contact(c) = h { Some(c.value()) } else { None });
    let value = header.ok_or(Failure::Malformed("no Contact"))?;
    let inner = value.split_once('<').and_then(|(_, rest)| rest.split_once('>')).map_or(value, |(uri, _)| uri);
    Ok(inner.trim().to_owned())
}

/// Credentials for the challenge of a 401: SHA-256 before MD5.
pub fn authorization(
    account: &Account,
    refusal: &Response,
    method: &Method,
    uri: &str,
    cnonce: &str,
) -> Result<Header, Failure> {
    let challenges = refusal.headers().iter().filter_map(|header| match header {
        Header::WwwAuthenticate(challenge) => challenge.clone().typed().ok(),
        _ => None,
    });
    let strength = |c: &WwwAuthenticate| match c.algorithm.unwrap_or(Algorithm::Md5) {
        Algorithm::Sha256 => 2,
        Algorithm::Md5 => 1,
        _ => 0,
    };
    let best = challenges.filter(|c| strength(c) > 0).max_by_key(strength);
    let challenge = best.ok_or(Failure::Malformed("no challenge that we know"))?;
    let target = rsip::Uri::try_from(uri).map_err(|_| Failure::Malformed("URI"))?;
    let qop = challenge.qop.as_ref().map(|qop| match qop {
        Qop::AuthInt => AuthQop::AuthInt { cnonce: cnonce.to_owned(), nc: 1 },
        Qop::Auth => AuthQop::Auth { cnonce: cnonce.to_owned(), nc: 1 },
    });
    let algorithm = challenge.algorithm.unwrap_or(Algorithm::Md5);
    let response = DigestGenerator {
        username: &account.user,
        password: &account.password,
        nonce: &challenge.nonce,
        uri: &target,
        realm: &challenge.realm,
        method,
        qop: qop.as_ref(),
        algorithm,
    }
    .compute();
    let (user, realm, nonce) = (&account.user, &challenge.realm, &challenge.nonce);
    let mut value = format!(
        "Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{target}\", response=\"{response}\", \
         algorithm={algorithm}"
    );
    if qop.is_some() {
        value.push_str(&format!(", qop=auth, nc=00000001, cnonce=\"{cnonce}\""));
    }
    if let Some(opaque) = &challenge.opaque {
        value.push_str(&format!(", opaque=\"{opaque}\""));
    }
    Ok(rsip::headers::Authorization::new(value).into())
}

/// An offer or answer of PCMU in packets of 20 ms, the first of its session.
pub fn sdp(media: SocketAddr, terms: &Terms) -> String {
    session(media, 1, 20, terms)
}

/// A session's description, in its version.
pub fn session(media: SocketAddr, version: u32, ptime_ms: usize, Terms { profile, line }: &Terms) -> String {
    let (ip, port) = (media.ip(), media.port());
    let family = if ip.is_ipv6() { "IP6" } else { "IP4" };
    format!(
        "v=0\r\no=nebula-load 1 {version} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\n\
         m=audio {port} {profile} 0\r\na=rtpmap:0 PCMU/8000\r\na=ptime:{ptime_ms}\r\na=sendrecv\r\n{line}"
    )
}

/// The seconds in Retry-After.
pub fn retry_after(message: &impl HasHeaders) -> Option<u32> {
    let value = message.headers().iter().find_map(|h| match h {
        Header::RetryAfter(r) => Some(r.value().to_owned()),
        _ => None,
    })?;
    value.split([' ', ';', '(']).next()?.parse().ok()
}

/// The address in a URI such as `sip:1000@127.0.0.1:5070;transport=udp`.
pub fn uri_address(uri: &str) -> Option<SocketAddr> {
    let rest = uri.strip_prefix("sip:")?;
    let place = rest.split_once('@').map_or(rest, |(_, place)| place).split([';', '?']).next()?;
    place.parse().ok().or_else(|| Some(SocketAddr::new(place.trim_matches(['[', ']']).parse().ok()?, 5060)))
}

/// Where the author of an SDP wants its RTP.
pub fn media_address(sdp: &[u8]) -> Result<SocketAddr, Failure> {
    let text = std::str::from_utf8(sdp).map_err(|_| Failure::Malformed("SDP is not text"))?;
    let line = |prefix: &str| text.lines().filter_map(|l| l.strip_prefix(prefix)).next_back();
    let ip = line("c=IN IP4 ").or_else(|| line("c=IN IP6 ")).and_then(|ip| ip.trim().parse::<IpAddr>().ok());
    let port = line("m=audio ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    match (ip, port) {
        (Some(ip), Some(port)) if port != 0 => Ok(SocketAddr::new(ip, port)),
        _ => Err(Failure::Malformed("SDP without an address")),
    }
}
