//! What must be right in a message before anybody looks at it: RFC 3261 section 8.1.1 (mandatory headers), 20 (which may
//! be there once), and the syntax of every header that we act on.

use super::error::{HeaderError, ParseError};
use super::headers::Headers;
use super::names::Name;
use super::uri::Uri;
use super::{Fault, Request, Response, ValueError};

pub(super) fn request(request: &Request) -> Result<(), ParseError> {
    via(&request.headers)?;
    stored_request(request)
}

/// A request in a snapshot, which may be one of ours that has no Via yet.
pub(super) fn stored_request(request: &Request) -> Result<(), ParseError> {
    let headers = &request.headers;
    mandatory(headers)?;
    if headers.cseq()?.method != request.method {
        return Err(ParseError::MethodMismatch);
    }
    // RFC 3261 table 1: a Request-URI has no headers (RFC 4475 section 3.1.2.11).
    if let Uri::Sip(uri) = &request.uri
        && uri.headers.is_some()
    {
        return Err(ParseError::StartLine(ValueError {
            fault: Fault::UriHeaders,
            at: request.method.as_str().len() + 1,
        }));
    }
    headers.max_forwards()?;
    headers.routes()?;
    headers.paths()?;
    headers.rack()?;
    headers.accept()?;
    for name in [Name::Require, Name::ProxyRequire, Name::Supported] {
        headers.tokens(name)?;
    }
    for name in [Name::Authorization, Name::ProxyAuthorization] {
        headers.auths(name)?;
    }
    headers.expires()?;
    headers.session_expires()?;
    headers.min_se()?;
    headers.date()?;
    routing(headers)
}

/// Only what its call would fail without: a phone's odd Date must not cost it the answer.
pub(super) fn response(response: &Response) -> Result<(), ParseError> {
    let headers = &response.headers;
    via(headers)?;
    mandatory(headers)?;
    headers.rseq()?;
    routing(headers)
}

fn via(headers: &Headers) -> Result<(), HeaderError> {
    if headers.vias()?.is_empty() { Err(HeaderError::Missing(Name::Via)) } else { Ok(()) }
}

fn mandatory(headers: &Headers) -> Result<(), HeaderError> {
    headers.from()?;
    headers.to()?;
    headers.call_id()?;
    headers.cseq().map(|_| ())
}

/// Where the dialog goes on, and what the body is.
fn routing(headers: &Headers) -> Result<(), ParseError> {
    headers.contacts()?;
    headers.record_routes()?;
    headers.content_type()?;
    Ok(())
}
