//! What can be wrong with a message: where it stands and what it is, so that a 400 can say it.

use thiserror::Error;

use super::limits;
use super::names::Name;
use super::status::StatusCode;

/// What is wrong with a piece of text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Fault {
    /// A token was expected (RFC 3261 section 25.1).
    #[error("expected a token")]
    Token,
    /// This character was expected.
    #[error("expected '{}'", char::from(*.0))]
    Expected(u8),
    /// A quoted string does not end.
    #[error("unbalanced quote")]
    Quote,
    /// Something follows where the value should end.
    #[error("trailing characters")]
    Trailing,
    /// A number was expected.
    #[error("expected a number")]
    Number,
    /// A number does not fit.
    #[error("number too large")]
    NumberRange,
    /// A host name or address was expected.
    #[error("bad host")]
    Host,
    /// A port of 1 to 65535 was expected.
    #[error("bad port")]
    Port,
    /// A URI was expected, or its characters or escapes are wrong.
    #[error("bad URI")]
    Uri,
    /// A URI with '?' or ',' stands outside of angle brackets (RFC 3261 section 20).
    #[error("URI needs angle brackets")]
    Brackets,
    /// A parameter has no name, or its value is malformed.
    #[error("bad parameter")]
    Param,
    /// Headers in a place where a URI must have none.
    #[error("headers in URI")]
    UriHeaders,
    /// A date that is not an RFC 1123 date in GMT (RFC 3261 section 20.17).
    #[error("bad date")]
    Date,
    /// `*` among other contacts.
    #[error("'*' is not alone")]
    Star,
    /// Nothing stands where something must.
    #[error("empty")]
    Empty,
    /// More parameters or list elements than [`limits`] allows.
    #[error("too many elements")]
    TooMany,
    /// A control character outside of a quoted string.
    #[error("control character")]
    Control,
}

/// A fault and its byte offset in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{fault} at {at}")]
pub struct ValueError {
    /// What.
    pub fault: Fault,
    /// Where, bytes from the start of the value.
    pub at: usize,
}

/// Why a typed header could not be had.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// It is not there.
    #[error("missing {0}")]
    Missing(Name),
    /// It is there several times, but may only be once.
    #[error("repeated {0}")]
    Repeated(Name),
    /// Its value is malformed.
    #[error("bad {name}: {error}")]
    Bad {
        /// Which.
        name: Name,
        /// What and where.
        error: ValueError,
    },
}

/// Why bytes are no acceptable SIP message.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// Nothing but white space.
    #[error("empty message")]
    Empty,
    /// Larger than [`limits::MESSAGE_BYTES_MAX`].
    #[error("message larger than {} bytes", limits::MESSAGE_BYTES_MAX)]
    TooLarge,
    /// The blank line after the headers never came.
    #[error("no end of headers")]
    HeadOpen,
    /// The first line is neither a request line nor a status line.
    #[error("bad start line: {0}")]
    StartLine(ValueError),
    /// A request line of another protocol version; to be answered with 505.
    #[error("unsupported SIP version")]
    Version,
    /// The status code is not in 100 to 699.
    #[error("bad status code")]
    Status,
    /// A header line has no name or no colon, or a control character in it.
    #[error("bad header line {line}: {error}")]
    HeaderLine {
        /// Counted from 1, the start line being 0.
        line: usize,
        /// What and where.
        error: ValueError,
    },
    /// More than [`limits::HEADERS_MAX`] headers.
    #[error("more than {} headers", limits::HEADERS_MAX)]
    HeadersTooMany,
    /// A header longer than [`limits::HEADER_LINE_BYTES_MAX`].
    #[error("header line {line} longer than {} bytes", limits::HEADER_LINE_BYTES_MAX)]
    HeaderTooLong {
        /// Counted from 1, the start line being 0.
        line: usize,
    },
    /// A header that must be right is not.
    #[error(transparent)]
    Header(#[from] HeaderError),
    /// CSeq names another method than the request line (RFC 3261 section 8.1.1.5).
    #[error("CSeq method differs from request method")]
    MethodMismatch,
    /// The body is shorter than Content-Length says (RFC 3261 section 18.3).
    #[error("body of {available} bytes, Content-Length {declared}")]
    BodyShort {
        /// Content-Length.
        declared: usize,
        /// What came.
        available: usize,
    },
}

impl ParseError {
    /// The status to refuse the request with.
    pub fn status(&self) -> StatusCode {
        match self {
            ParseError::Version => StatusCode::VERSION_NOT_SUPPORTED,
            ParseError::TooLarge => StatusCode::MESSAGE_TOO_LARGE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// A word for metric labels.
    pub const fn kind(&self) -> &'static str {
        match self {
            ParseError::Empty => "empty",
            ParseError::TooLarge => "too_large",
            ParseError::HeadOpen => "head_open",
            ParseError::StartLine(_) => "start_line",
            ParseError::Version => "version",
            ParseError::Status => "status",
            ParseError::HeaderLine { .. } => "header_line",
            ParseError::HeadersTooMany => "headers_too_many",
            ParseError::HeaderTooLong { .. } => "header_too_long",
            ParseError::Header(_) => "header",
            ParseError::MethodMismatch => "method_mismatch",
            ParseError::BodyShort { .. } => "body_short",
        }
    }
}
