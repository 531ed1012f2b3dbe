//! Reading a message: start line, header lines, body (RFC 3261 section 7), then the check of what is mandatory.

use bytes::Bytes;

use super::check;
use super::error::{Fault, ParseError, ValueError};
use super::headers::{Header, Headers};
use super::lexer::Lexer;
use super::limits::{
    HEADER_LINE_BYTES_MAX, HEADERS_MAX, LEADING_CRLF_BYTES_MAX, MESSAGE_BYTES_MAX, START_LINE_BYTES_MAX,
};
use super::method::Method;
use super::names::Name;
use super::status::StatusCode;
use super::text::ByteStr;
use super::uri::Uri;
use super::{Message, Request, Response};

/// A message that could not be accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong with it.
    pub error: ParseError,
    /// What is needed to refuse it, if it is a request that may be answered.
    pub salvage: Option<Salvage>,
}

/// The readable rest of a broken request, for [`Response::to_salvage`]. Its Via may be unreadable: such a request can be
/// answered over its connection, if it came by one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvage {
    /// The method, never ACK.
    pub method: Method,
    /// Those of its headers that could be told apart, values unchecked.
    pub headers: Headers,
}

enum Start {
    Request(Method, Uri),
    Response(StatusCode, ByteStr),
}

pub(super) fn parse(datagram: Bytes) -> Result<Message, Malformed> {
    if datagram.len() > MESSAGE_BYTES_MAX {
        return Err(Malformed { error: ParseError::TooLarge, salvage: None });
    }
    let leading = datagram.iter().take_while(|&&b| b == b'\r' || b == b'\n').count();
    if leading == datagram.len() || leading > LEADING_CRLF_BYTES_MAX {
        return Err(Malformed { error: ParseError::Empty, salvage: None });
    }
    let bytes = datagram.slice(leading..);
    read(&bytes).map_err(|error| Malformed { error, salvage: salvage(&bytes) })
}

/// A message of a snapshot. One of ours may not have its Via yet.
pub(super) fn parse_stored(bytes: Bytes) -> Result<Message, ParseError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        return Err(ParseError::TooLarge);
    }
    let message = read_unchecked(&bytes)?;
    match &message {
        Message::Request(request) => check::stored_request(request)?,
        Message::Response(response) => check::response(response)?,
    }
    Ok(message)
}

fn read(bytes: &Bytes) -> Result<Message, ParseError> {
    let message = read_unchecked(bytes)?;
    match &message {
        Message::Request(request) => check::request(request)?,
        Message::Response(response) => check::response(response)?,
    }
    Ok(message)
}

fn read_unchecked(bytes: &Bytes) -> Result<Message, ParseError> {
    let line_end = find_crlf(bytes, 0).ok_or(ParseError::HeadOpen)?;
    let start = read_start_line(&bytes.slice(..line_end))?;
    let (headers, body_at) = read_headers(bytes, line_end + 2)?;
    let body = cut_body(&headers, bytes.slice(body_at..))?;
    Ok(match start {
        Start::Request(method, uri) => Message::Request(Request { method, uri, headers, body }),
        Start::Response(status, reason) => Message::Response(Response { status, reason, headers, body }),
    })
}

fn read_start_line(line: &Bytes) -> Result<Start, ParseError> {
    if line.len() > START_LINE_BYTES_MAX {
        return Err(ParseError::StartLine(ValueError { fault: Fault::TooMany, at: START_LINE_BYTES_MAX }));
    }
    if line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/")) {
        return read_status_line(line);
    }
    let mut lexer = Lexer::new(line);
    let read = |lexer: &mut Lexer<'_>| {
        let method = lexer.token().map(Method::from_token)?;
        lexer.expect(b' ')?;
        let uri_at = lexer.at();
        let uri = lexer.run(|b| b != b' ', Fault::Uri)?;
        lexer.expect(b' ')?;
        Ok((method, uri_at, uri))
    };
    let (method, uri_at, uri) = read(&mut lexer).map_err(ParseError::StartLine)?;
    // The version before the URI: another version may have other URIs.
    read_version(&lexer.rest(), lexer.at())?;
    let uri = Uri::parse(uri.as_bytes())
        .map_err(|error| ParseError::StartLine(ValueError { fault: error.fault, at: uri_at + error.at }))?;
    Ok(Start::Request(method, uri))
}

/// `SIP/2.0`, in any case (RFC 3261 section 7.1).
fn read_version(version: &ByteStr, at: usize) -> Result<(), ParseError> {
    if version.eq_ignore_ascii_case("SIP/2.0") {
        return Ok(());
    }
    let is_version = |text: &str| {
        text.split_once('.').is_some_and(|(major, minor)| {
            [major, minor].iter().all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
        })
    };
    match version.split_at_checked(4) {
        Some((sip, number)) if sip.eq_ignore_ascii_case("SIP/") && is_version(number) => Err(ParseError::Version),
        _ => Err(ParseError::StartLine(ValueError { fault: Fault::Trailing, at })),
    }
}

fn read_status_line(line: &Bytes) -> Result<Start, ParseError> {
    let mut lexer = Lexer::new(line);
    let version = lexer.run(|b| b != b' ', Fault::Token).map_err(ParseError::StartLine)?;
    read_version(&version, 0)?;
    lexer.expect(b' ').map_err(ParseError::StartLine)?;
    let code = lexer.run(|b| b.is_ascii_digit(), Fault::Number).map_err(ParseError::StartLine)?;
    let status = (code.len() == 3).then(|| code.parse().ok().and_then(StatusCode::new)).flatten();
    let status = status.ok_or(ParseError::Status)?;
    // The space is mandatory, the phrase after it is not; a missing space is a common slip.
    if !lexer.eat(b' ') && !lexer.is_end() {
        return lexer.fault(Fault::Expected(b' ')).map_err(ParseError::StartLine);
    }
    let reason = lexer.rest();
    check_text(reason.as_bytes()).map_err(ParseError::StartLine)?;
    Ok(Start::Response(status, reason))
}

/// Header lines from `at` to the blank line, and where the body begins.
fn read_headers(bytes: &Bytes, mut at: usize) -> Result<(Headers, usize), ParseError> {
    let mut headers = Headers::default();
    loop {
        let line = headers.len() + 1;
        let end = find_field_end(bytes, at).ok_or(ParseError::HeadOpen)?;
        if end == at {
            return Ok((headers, end + 2));
        }
        if headers.len() >= HEADERS_MAX {
            return Err(ParseError::HeadersTooMany);
        }
        if end - at > HEADER_LINE_BYTES_MAX {
            return Err(ParseError::HeaderTooLong { line });
        }
        let header = read_header(bytes.slice(at..end)).map_err(|error| ParseError::HeaderLine { line, error })?;
        headers.push_received(header);
        at = end + 2;
    }
}

/// One field with its folded lines: `name HCOLON value`.
fn read_header(field: Bytes) -> Result<Header, ValueError> {
    let mut lexer = Lexer::new(&field);
    let spelled = lexer.token()?;
    lexer.take_while(|b| b == b' ' || b == b'\t');
    lexer.expect(b':')?;
    lexer.skip_lws();
    let value = unfold(trim(field.slice(lexer.at()..)));
    check_text(&value).map_err(|error| ValueError { fault: error.fault, at: error.at + lexer.at() })?;
    Ok(Header { name: Name::from_token(&spelled), spelled, value: ByteStr::from_bytes_lossy(value) })
}

/// Folding becomes one space (RFC 3261 section 7.3.1); only a folded value is copied.
fn unfold(value: Bytes) -> Bytes {
    if !value.contains(&b'\n') {
        return value;
    }
    let mut out = Vec::with_capacity(value.len());
    let mut at = 0;
    while let Some(end) = find_crlf(&value, at) {
        out.extend_from_slice(trim_slice(&value[at..end]));
        out.push(b' ');
        at = end + 2;
    }
    out.extend_from_slice(trim_slice(&value[at..]));
    trim(Bytes::from(out))
}

/// No CR or LF may be left, and no other control character outside of a quoted string's escapes.
fn check_text(value: &[u8]) -> Result<(), ValueError> {
    let mut escaped = false;
    for (at, &byte) in value.iter().enumerate() {
        let is_break = byte == b'\r' || byte == b'\n';
        if is_break || (byte < b' ' && byte != b'\t' && !escaped) {
            return Err(ValueError { fault: Fault::Control, at });
        }
        escaped = byte == b'\\' && !escaped;
    }
    Ok(())
}

fn cut_body(headers: &Headers, rest: Bytes) -> Result<Bytes, ParseError> {
    match headers.content_length()? {
        None => Ok(rest),
        Some(declared) if declared > rest.len() => Err(ParseError::BodyShort { declared, available: rest.len() }),
        Some(declared) => Ok(rest.slice(..declared)),
    }
}

/// The length of the body that follows a complete head; a stream needs it before the body is there. None reads as 0
/// (RFC 3261 section 20.14 wants it over streams, but not all send it with empty bodies).
pub(super) fn content_length(head: &Bytes) -> Result<usize, ParseError> {
    let line_end = find_crlf(head, 0).ok_or(ParseError::HeadOpen)?;
    let lenient = lenient_headers(head, line_end + 2);
    Ok(lenient.content_length()?.unwrap_or(0))
}

/// What can be told of a request whose reading failed. Lenient: lines without a colon are passed over.
pub(super) fn salvage(bytes: &Bytes) -> Option<Salvage> {
    let line_end = find_crlf(bytes, 0)?;
    let start_line = bytes.slice(..line_end);
    if start_line.get(..4).is_some_and(|head| head.eq_ignore_ascii_case(b"SIP/")) {
        return None;
    }
    let method = Lexer::new(&start_line).token().map(Method::from_token).ok().filter(|m| *m != Method::Ack)?;
    let headers = lenient_headers(bytes, line_end + 2);
    // Without a Via and a CSeq an answer would match no request. A Via that cannot be read goes back as it came.
    (headers.has(Name::Via) && headers.has(Name::CSeq)).then_some(Salvage { method, headers })
}

/// The header lines that can be told apart, as far as there are any.
fn lenient_headers(bytes: &Bytes, mut at: usize) -> Headers {
    let mut headers = Headers::default();
    while at < bytes.len() && headers.len() < HEADERS_MAX {
        let end = find_field_end(bytes, at).unwrap_or(bytes.len());
        if end == at {
            break;
        }
        if let Ok(header) = read_header(bytes.slice(at..end))
            && end - at <= HEADER_LINE_BYTES_MAX
        {
            headers.push_received(header);
        }
        at = end + 2;
    }
    headers
}

/// Where the field that begins at `from` ends: the first CRLF that no white space follows.
fn find_field_end(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let end = find_crlf(bytes, at)?;
        let is_folded = end > from && matches!(bytes.get(end + 2), Some(b' ' | b'\t'));
        if !is_folded {
            return Some(end);
        }
        at = end + 2;
    }
}

pub(super) fn find_crlf(bytes: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    loop {
        let lf = at + bytes.get(at..)?.iter().position(|&b| b == b'\n')?;
        if lf > from && bytes[lf - 1] == b'\r' {
            return Some(lf - 1);
        }
        at = lf + 1;
    }
}

fn trim(bytes: Bytes) -> Bytes {
    let trimmed = trim_slice(&bytes);
    if trimmed.is_empty() { Bytes::new() } else { bytes.slice_ref(trimmed) }
}

fn trim_slice(bytes: &[u8]) -> &[u8] {
    let is_lws = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    let start = bytes.iter().position(|b| !is_lws(b)).unwrap_or(bytes.len());
    let end = bytes.iter().rposition(|b| !is_lws(b)).map_or(start, |last| last + 1);
    &bytes[start..end]
}
