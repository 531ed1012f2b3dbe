//! Building and serialising messages.
//!
//! Content-Length is always written as the body's true length, in the place of the header if there is one, else last.

use std::io::Write as _;

use bytes::Bytes;

use super::headers::{Headers, single_line};
use super::method::Method;
use super::names::Name;
use super::parse::Salvage;
use super::status::StatusCode;
use super::text::ByteStr;
use super::uri::Uri;
use super::{Request, Response};

impl Request {
    /// A request without headers and body.
    pub fn new(method: Method, uri: Uri) -> Self {
        Self { method, uri, headers: Headers::default(), body: Bytes::new() }
    }

    /// The request as it goes over the wire.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(512 + self.body.len());
        put(&mut out, format_args!("{} {} SIP/2.0\r\n", self.method, self.uri));
        put_headers_and_body(&mut out, &self.headers, &self.body);
        out.into()
    }
}

/// What both kinds of message are built with.
macro_rules! builders {
    ($type:ty) => {
        impl $type {
            /// With one more header at the end.
            pub fn with(mut self, name: Name, value: impl Into<ByteStr>) -> Self {
                self.headers.push(name, value);
                self
            }

            /// With a body and its Content-Type.
            pub fn with_body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
                self.headers.set(Name::ContentType, content_type);
                self.body = body.into();
                self
            }
        }
    };
}

builders!(Request);
builders!(Response);

/// What a response takes over from its request (RFC 3261 section 8.2.6).
const COPIED: [Name; 6] = [Name::Via, Name::From, Name::To, Name::CallId, Name::CSeq, Name::Timestamp];

impl Response {
    /// A response to a request: its Via, From, To, Call-ID, CSeq and Timestamp, and the code's own phrase.
    ///
    /// The To tag is the caller's to add ([`Headers::set_to_tag`]), Record-Route likewise.
    pub fn to(request: &Request, status: StatusCode) -> Self {
        Self::to_headers(&request.headers, status)
    }

    /// A response to a request that could not be read.
    pub fn to_salvage(salvage: &Salvage, status: StatusCode) -> Self {
        Self::to_headers(&salvage.headers, status)
    }

    fn to_headers(received: &Headers, status: StatusCode) -> Self {
        let mut headers = Headers::default();
        for header in received.iter().filter(|h| COPIED.contains(&h.name)) {
            headers.push(header.name.clone(), header.value.clone());
        }
        Self { status, reason: ByteStr::from_static(status.reason()), headers, body: Bytes::new() }
    }

    /// With a reason phrase of its own.
    pub fn with_reason(mut self, reason: impl Into<ByteStr>) -> Self {
        self.reason = single_line(reason.into());
        self
    }

    /// The response as it goes over the wire.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::with_capacity(512 + self.body.len());
        put(&mut out, format_args!("SIP/2.0 {} {}\r\n", self.status, self.reason));
        put_headers_and_body(&mut out, &self.headers, &self.body);
        out.into()
    }
}

fn put_headers_and_body(out: &mut Vec<u8>, headers: &Headers, body: &Bytes) {
    let mut has_length = false;
    for header in headers.iter() {
        out.extend_from_slice(header.spelled.as_bytes());
        out.extend_from_slice(b": ");
        if header.name == Name::ContentLength {
            has_length = true;
            put(out, format_args!("{}", body.len()));
        } else {
            out.extend_from_slice(header.value.as_bytes());
        }
        out.extend_from_slice(b"\r\n");
    }
    if !has_length {
        put(out, format_args!("Content-Length: {}\r\n", body.len()));
    }
    out.extend_from_slice(b"\r\n");
    out.extend_from_slice(body);
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to a Vec cannot fail.
    let _ = out.write_fmt(text);
}
