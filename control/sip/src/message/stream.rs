//! Framing of a byte stream (RFC 3261 section 18.3, keepalive of RFC 5626 section 3.5.1): bytes in, messages out.
//!
//! Used by the proxy's TCP connections, one [`Framer`] each. Memory is bounded by one message: a head or body that would
//! exceed [`MESSAGE_BYTES_MAX`] ends the stream, as does a length that cannot be read, for then nobody knows where the
//! next message begins.

use bytes::{Bytes, BytesMut};

use super::Message;
use super::error::ParseError;
use super::limits::MESSAGE_BYTES_MAX;
use super::parse::{self, Malformed};

/// What asks for a sign of life between messages.
const PING: &[u8] = b"\r\n\r\n";

/// What the stream held next.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message, or one that was framed but is malformed; the stream goes on.
    Message(Result<Message, Malformed>),
    /// A double CRLF between messages: the peer wants a single one back.
    Ping,
    /// A single CRLF between messages: the answer to a ping of ours. Told when what follows shows that it is no ping.
    Pong,
    /// The stream cannot be followed any further; refuse what was salvaged and close.
    Fatal(Malformed),
}

/// Cuts a stream into frames.
#[derive(Debug, Default)]
pub struct Framer {
    buffer: BytesMut,
    /// How far the buffer was searched for the end of the head.
    searched: usize,
    /// The whole message's length, once its head is complete.
    message_len: Option<usize>,
    dead: bool,
}

impl Framer {
    /// The buffer that received bytes are appended to. Call [`Framer::next_frame`] until it yields none after each read.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Whether a message has begun and its end is missing.
    pub fn is_partial(&self) -> bool {
        !self.may_become_ping()
    }

    /// The next frame, if one is complete. After [`Frame::Fatal`] there is none any more.
    pub fn next_frame(&mut self) -> Option<Frame> {
        if self.dead {
            return None;
        }
        if self.message_len.is_none() {
            if let Some(keepalive) = self.take_keepalive() {
                return Some(keepalive);
            }
            match self.find_length()? {
                Ok(len) => self.message_len = Some(len),
                Err(error) => return Some(self.die(error)),
            }
        }
        let len = self.message_len.filter(|&len| len <= self.buffer.len())?;
        let bytes = self.buffer.split_to(len).freeze();
        self.message_len = None;
        self.searched = 0;
        Some(Frame::Message(parse::parse(bytes)))
    }

    fn take_keepalive(&mut self) -> Option<Frame> {
        if self.buffer.starts_with(PING) {
            let _ = self.buffer.split_to(PING.len());
            self.searched = 0;
            return Some(Frame::Ping);
        }
        if self.buffer.starts_with(b"\r\n") && !self.may_become_ping() {
            let _ = self.buffer.split_to(2);
            return Some(Frame::Pong);
        }
        None
    }

    fn may_become_ping(&self) -> bool {
        PING.starts_with(&self.buffer)
    }

    /// The length of the message at the start of the buffer; none while its head is open.
    fn find_length(&mut self) -> Option<Result<usize, ParseError>> {
        let Some(head_len) = self.find_head_end() else {
            return (self.buffer.len() > MESSAGE_BYTES_MAX).then_some(Err(ParseError::TooLarge));
        };
        let body_len = match parse::content_length(&Bytes::copy_from_slice(&self.buffer[..head_len])) {
            Ok(len) => len,
            Err(error) => return Some(Err(error)),
        };
        let len = head_len.saturating_add(body_len);
        Some(if len > MESSAGE_BYTES_MAX { Err(ParseError::TooLarge) } else { Ok(len) })
    }

    fn find_head_end(&mut self) -> Option<usize> {
        let from = self.searched.saturating_sub(3);
        let found = self.buffer.get(from..)?.windows(4).position(|window| window == b"\r\n\r\n");
        self.searched = self.buffer.len();
        found.map(|at| from + at + 4)
    }

    fn die(&mut self, error: ParseError) -> Frame {
        self.dead = true;
        let head = self.buffer.split_to(self.buffer.len().min(MESSAGE_BYTES_MAX)).freeze();
        self.buffer.clear();
        Frame::Fatal(Malformed { error, salvage: parse::salvage(&head) })
    }
}
