//! SIP messages (RFC 3261 section 7): bytes in, typed headers on demand, bytes out. Sans-IO.
//!
//! [`Message::parse`] reads a datagram, [`stream::Framer`] cuts a TCP stream; both check what RFC 3261 makes mandatory, so
//! that whoever holds a [`Message`] may rely on its Via, From, To, Call-ID and CSeq. A message that fails comes back as
//! [`Malformed`], with what a 400 needs as far as it could be made out.
//!
//! Cost: one allocation for the header list; names, values and body are slices of the received buffer.

mod check;
pub mod date;
pub mod error;
mod headers;
mod host;
pub mod lexer;
pub mod limits;
mod method;
mod name_addr;
mod names;
mod params;
mod parse;
mod status;
mod stored;
pub mod stream;
mod text;
mod uri;
mod values;
mod via;
mod write;

use bytes::Bytes;

pub use error::{Fault, HeaderError, ParseError, ValueError};
pub use headers::{Header, Headers};
pub use host::Host;
pub use method::Method;
pub use name_addr::{Contacts, NameAddr};
pub use names::Name;
pub use params::{Param, Params, quote, unquote};
pub use parse::{Malformed, Salvage};
pub use status::StatusCode;
pub use text::ByteStr;
pub use uri::{OtherUri, SipUri, TelUri, Uri, escape_user, unescape};
pub use values::{Auth, CSeq, MediaType, RAck, Refresher, SessionExpires};
pub use via::{BRANCH_COOKIE, Via};

/// A SIP message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    /// Asks for something.
    Request(Request),
    /// Answers a request.
    Response(Response),
}

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// What is asked for.
    pub method: Method,
    /// Of whom.
    pub uri: Uri,
    /// The headers in order.
    pub headers: Headers,
    /// The body, possibly empty; any bytes.
    pub body: Bytes,
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: StatusCode,
    /// The reason phrase, possibly empty.
    pub reason: ByteStr,
    /// The headers in order.
    pub headers: Headers,
    /// The body, possibly empty; any bytes.
    pub body: Bytes,
}

impl Message {
    /// Reads one message from a datagram: what follows Content-Length is cut off, a body shorter than it is an error
    /// (RFC 3261 section 18.3). Never panics, whatever the bytes.
    pub fn parse(datagram: Bytes) -> Result<Self, Malformed> {
        parse::parse(datagram)
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        match self {
            Message::Request(request) => &request.headers,
            Message::Response(response) => &response.headers,
        }
    }

    /// The headers, to be changed.
    pub fn headers_mut(&mut self) -> &mut Headers {
        match self {
            Message::Request(request) => &mut request.headers,
            Message::Response(response) => &mut response.headers,
        }
    }

    /// The message as it goes over the wire.
    pub fn to_bytes(&self) -> Bytes {
        match self {
            Message::Request(request) => request.to_bytes(),
            Message::Response(response) => response.to_bytes(),
        }
    }
}

impl From<Request> for Message {
    fn from(request: Request) -> Self {
        Message::Request(request)
    }
}

impl From<Response> for Message {
    fn from(response: Response) -> Self {
        Message::Response(response)
    }
}
