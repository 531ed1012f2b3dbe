//! Who may pass the edge, and what is refused at it: the first two steps of the routing diagram, validate and
//! authenticate. Look-up and routing follow in `edge/gate` and [`route`](crate::route).
//!
//! [`validate`] is pure. [`Admission`] keeps the nonces; it is owned by the edge's actor. What is malformed never comes
//! here: the transports hand it on with what a 400 needs. RFC 3261 sections 8.2.1 to 8.2.3, 16.3 and 22, RFC 8760.

use std::net::SocketAddr;

use nebula_sip::digest::{Algorithm, Credentials, Freshness, Ha1, Nonces, challenge};
use nebula_sip::message::{ByteStr, Via};
use nebula_sip::{Flow, Method, Name, Request, Response, StatusCode, Uri};
use nebula_store::extensions::Extension;

/// The methods we answer, as Allow says them.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, INFO";
/// The extensions that may be required of us: RFC 4028, 3262 and, of the registrar, 3327.
const EXTENSIONS: [&str; 3] = ["timer", "100rel", "path"];
/// The only body we take in a session.
const SDP: (&str, &str) = ("application", "sdp");

/// Checks a request in the order of RFC 3261 section 16.3 and 8.2: scheme (416), hops (483), extensions (420), method (405,
/// 501), body (415, 406). The refusal lacks only its To tag.
pub fn validate(request: &Request) -> Result<(), Box<Response>> {
    const CHECKS: [fn(&Request) -> Option<Response>; 5] =
        [check_scheme, check_hops, check_extensions, check_method, check_body];
    match CHECKS.iter().find_map(|check| check(request)) {
        None => Ok(()),
        Some(refusal) => Err(Box::new(refusal)),
    }
}

/// `sips:` promises TLS on every hop, which no transport here can keep.
fn check_scheme(request: &Request) -> Option<Response> {
    let is_known = matches!(request.uri.scheme(), "sip" | "tel");
    (!is_known).then(|| Response::to(request, StatusCode::UNSUPPORTED_URI_SCHEME))
}

/// What is at its last hop goes nowhere, except where we ourselves are the end: inside a dialog. Loops end here too: each
/// leg we open hands the count on, less one.
fn check_hops(request: &Request) -> Option<Response> {
    let is_spent = request.headers.max_forwards() == Ok(Some(0));
    let in_dialog = request.headers.to().is_ok_and(|to| to.tag().is_some());
    (is_spent && !in_dialog).then(|| Response::to(request, StatusCode::TOO_MANY_HOPS))
}

fn check_extensions(request: &Request) -> Option<Response> {
    if request.method == Method::Cancel {
        // RFC 3261 section 8.2.2.3.
        return None;
    }
    let required = [Name::Require, Name::ProxyRequire].into_iter().flat_map(|name| request.headers.tokens(name).ok());
    let unknown: Vec<ByteStr> =
        required.flatten().filter(|tag| !EXTENSIONS.iter().any(|known| tag.eq_ignore_ascii_case(known))).collect();
    if unknown.is_empty() {
        return None;
    }
    let unsupported = unknown.iter().map(ByteStr::as_str).collect::<Vec<_>>().join(", ");
    Some(Response::to(request, StatusCode::BAD_EXTENSION).with(Name::Unsupported, unsupported))
}

/// 405 for what SIP knows and we do not, 501 for what nobody knows.
fn check_method(request: &Request) -> Option<Response> {
    if ALLOW.split(", ").any(|allowed| allowed == request.method.as_str()) {
        return None;
    }
    let status = match request.method {
        Method::Other(_) => StatusCode::NOT_IMPLEMENTED,
        _ => StatusCode::METHOD_NOT_ALLOWED,
    };
    Some(Response::to(request, status).with(Name::Allow, ByteStr::from_static(ALLOW)))
}

fn check_body(request: &Request) -> Option<Response> {
    let carries_sdp = matches!(request.method, Method::Invite | Method::Update | Method::Prack);
    if !carries_sdp {
        return None;
    }
    let headers = &request.headers;
    let accept = || ByteStr::from(format!("{}/{}", SDP.0, SDP.1));
    if !request.body.is_empty() {
        let is_sdp = headers.content_type().is_ok_and(|t| t.is_some_and(|t| t.is(SDP.0, SDP.1)));
        let is_plain =
            headers.get(Name::ContentEncoding).is_none_or(|e| e.is_empty() || e.eq_ignore_ascii_case("identity"));
        if !is_sdp || !is_plain {
            let refusal = Response::to(request, StatusCode::UNSUPPORTED_MEDIA_TYPE).with(Name::Accept, accept());
            return Some(refusal.with(Name::AcceptEncoding, ByteStr::from_static("identity")));
        }
    }
    // Our answer to an INVITE can only be SDP.
    let takes_sdp = match headers.accept() {
        Ok(Some(ranges)) => ranges.iter().any(|range| range.covers(SDP.0, SDP.1)),
        _ => true,
    };
    (request.method == Method::Invite && !takes_sdp).then(|| Response::to(request, StatusCode::NOT_ACCEPTABLE))
}

/// What came of checking credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The account's password was proved.
    Admitted,
    /// It was proved, but with a nonce that is spent: challenge again with `stale=true`.
    Stale,
    /// It was not: challenge again.
    Wrong,
    /// It was proved, but the request speaks for another address of record: 403.
    Forbidden,
}

/// The request has no usable credentials for our realm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unauthenticated;

/// The user whose account the request's credentials claim to be of.
pub fn claimed_user(request: &Request, realm: &str) -> Result<String, Unauthenticated> {
    credentials(request, realm).map(|credentials| credentials.username).ok_or(Unauthenticated)
}

/// The digest for our realm; other schemes and realms are passed over (RFC 4475 section 3.3.7).
fn credentials(request: &Request, realm: &str) -> Option<Credentials> {
    let auths = request.headers.auths(Name::Authorization).ok()?;
    auths.iter().filter_map(|auth| Credentials::parse(auth).ok()).find(|credentials| credentials.realm == realm)
}

/// Challenges, and judges what comes back.
#[derive(Debug)]
pub struct Admission {
    realm: String,
    algorithms: Vec<Algorithm>,
    nonces: Nonces,
    spent: u64,
}

impl Admission {
    /// For a realm. Nonces of another secret, as after a restart without snapshots, cost each phone one more challenge.
    pub fn new(realm: &str, algorithms: Vec<Algorithm>, nonces: Nonces) -> Self {
        Self { realm: realm.to_owned(), algorithms, nonces, spent: 0 }
    }

    /// Its nonces, for a snapshot.
    pub fn nonces(&self) -> &Nonces {
        &self.nonces
    }

    /// How many uses of nonces were proved: when it has not changed, their snapshot is as good as new.
    pub fn spent(&self) -> u64 {
        self.spent
    }

    /// Judges a request's credentials against the account they claim to be of; none or a disabled one is `Wrong`, after
    /// the same work. Spends the nonce's count: ask once per request.
    pub fn check(&mut self, request: &Request, account: Option<&Extension>, now_unix_s: u64) -> Verdict {
        let Some(credentials) = credentials(request, &self.realm) else { return Verdict::Wrong };
        let ha1 = match account {
            Some(account) => Ha1 { md5: &account.ha1_md5, sha256: &account.ha1_sha256 },
            None => Ha1 { md5: "", sha256: "" },
        };
        let is_offered = self.algorithms.contains(&credentials.algorithm);
        let is_proved =
            is_offered && credentials.verify(ha1, &request.method) && is_for(&credentials.uri, &request.uri);
        let Some(account) =
            account.filter(|account| is_proved && account.enabled && account.user == credentials.username)
        else {
            return Verdict::Wrong;
        };
        let count = credentials.qop.as_ref().map(|qop| qop.count);
        self.spent += 1;
        match self.nonces.spend(&credentials.nonce, count, now_unix_s) {
            Freshness::Stale => Verdict::Stale,
            Freshness::Fresh if speaks_for(request, &account.user) => Verdict::Admitted,
            Freshness::Fresh => Verdict::Forbidden,
        }
    }

    /// Adds the challenges to a 401, one for each algorithm.
    pub fn challenge(&mut self, response: &mut Response, is_stale: bool, now_unix_s: u64) {
        let nonce = self.nonces.issue(now_unix_s);
        for algorithm in &self.algorithms {
            response.headers.push(Name::WwwAuthenticate, challenge(&self.realm, &nonce, *algorithm, is_stale));
        }
    }
}

/// Whether a digest was made for this Request-URI. Its user must be the same, if it names one: hosts and parameters are
/// rewritten on the way by outbound proxies, and some phones (and SIPp) always name the server alone (RFC 7616 section
/// 3.4.6 leaves that to us). The nonce's count keeps a captured digest from being played again.
fn is_for(digest_uri: &str, request_uri: &Uri) -> bool {
    match digest_uri.parse::<Uri>() {
        Ok(uri) => uri.user().is_none() || uri.user() == request_uri.user(),
        // SIPp names a server by IPv6 without brackets. Where there is no user part, there is none to differ.
        Err(_) => digest_uri.starts_with("sip:") && !digest_uri.contains('@'),
    }
}

/// An account speaks for its own address of record only: To of a REGISTER (RFC 3261 section 10.3 step 4), From of others.
fn speaks_for(request: &Request, user: &str) -> bool {
    let headers = &request.headers;
    let address = if request.method == Method::Register { headers.to() } else { headers.from() };
    address.is_ok_and(|address| address.uri.user().as_deref() == Some(user))
}

/// Where the answer to a request goes that has no transaction: over a connection to where it came from, by datagram to
/// what the Via says (RFC 3261 section 18.2.2, RFC 3581 section 4).
pub fn reply_flow(via: &Via, flow: Flow) -> Flow {
    let (host, port) = via.response_target();
    match host.ip() {
        Some(ip) if !flow.protocol.is_reliable() => Flow { remote: SocketAddr::new(ip, port), ..flow },
        _ => flow,
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
