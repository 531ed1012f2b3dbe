//! Every bound of the message layer. What exceeds one is refused with a [`ParseError`](super::ParseError), never cut.

/// A whole message, bytes: what a UDP datagram can hold (RFC 3261 section 18.1.1 asks for 65,535).
pub const MESSAGE_BYTES_MAX: usize = 65_535;
/// Header fields of one message, counted as lines after unfolding.
pub const HEADERS_MAX: usize = 256;
/// One header field with its name, bytes, unfolded.
pub const HEADER_LINE_BYTES_MAX: usize = 8 * 1024;
/// The start line, bytes.
pub const START_LINE_BYTES_MAX: usize = 8 * 1024;
/// A URI, bytes.
pub const URI_BYTES_MAX: usize = 4 * 1024;
/// Parameters of one URI, Via, address or credential.
pub const PARAMS_MAX: usize = 64;
/// Elements of one comma list (a Via, Contact or Route header's) over all lines of that name.
pub const LIST_ELEMENTS_MAX: usize = 128;
/// Leading CRLFs skipped before a start line (RFC 3261 section 7.5), bytes; more is refused.
pub const LEADING_CRLF_BYTES_MAX: usize = 64;
