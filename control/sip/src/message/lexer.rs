//! A borrowed lexer over one header value or URI: the basic rules of RFC 3261 section 25.1.
//!
//! It never allocates and never reads past its end; what it yields are slices of the received buffer.

use bytes::Bytes;

use super::error::{Fault, ValueError};
use super::text::ByteStr;

/// A position in a value.
#[derive(Debug, Clone)]
pub struct Lexer<'a> {
    source: &'a Bytes,
    at: usize,
}

impl<'a> Lexer<'a> {
    /// At the start of a value.
    pub fn new(source: &'a Bytes) -> Self {
        Self { source, at: 0 }
    }

    /// Bytes from the start of the value.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The next byte.
    pub fn peek(&self) -> Option<u8> {
        self.source.get(self.at).copied()
    }

    /// Whether nothing is left.
    pub fn is_end(&self) -> bool {
        self.at >= self.source.len()
    }

    /// A fault at the current position.
    pub fn fault<T>(&self, fault: Fault) -> Result<T, ValueError> {
        Err(ValueError { fault, at: self.at })
    }

    /// Skips white space (LWS; folding was undone when the header was cut out).
    pub fn skip_lws(&mut self) {
        self.take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'));
    }

    /// Steps over this byte if it is next.
    pub fn eat(&mut self, byte: u8) -> bool {
        let is_next = self.peek() == Some(byte);
        if is_next {
            self.at += 1;
        }
        is_next
    }

    /// Steps over this byte.
    pub fn expect(&mut self, byte: u8) -> Result<(), ValueError> {
        if self.eat(byte) { Ok(()) } else { self.fault(Fault::Expected(byte)) }
    }

    /// Steps over this byte and the white space around it, if it is there (SLASH, EQUAL, SEMI, COMMA, COLON).
    pub fn eat_separator(&mut self, byte: u8) -> bool {
        let before = self.at;
        self.skip_lws();
        if self.eat(byte) {
            self.skip_lws();
            return true;
        }
        self.at = before;
        false
    }

    /// Steps over this byte and the white space around it.
    pub fn expect_separator(&mut self, byte: u8) -> Result<(), ValueError> {
        if self.eat_separator(byte) { Ok(()) } else { self.fault(Fault::Expected(byte)) }
    }

    /// A token.
    pub fn token(&mut self) -> Result<ByteStr, ValueError> {
        self.run(is_token, Fault::Token)
    }

    /// One or more bytes of a class, as text.
    pub fn run(&mut self, class: impl Fn(u8) -> bool, fault: Fault) -> Result<ByteStr, ValueError> {
        let start = self.at;
        self.take_while(class);
        if self.at == start { self.fault(fault) } else { Ok(self.text_from(start)) }
    }

    /// A quoted string, verbatim with its quotes and escapes.
    pub fn quoted(&mut self) -> Result<ByteStr, ValueError> {
        let start = self.at;
        self.expect(b'"')?;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') if self.at + 1 < self.source.len() => self.at += 2,
                Some(b'\\') | None => return Err(ValueError { fault: Fault::Quote, at: start }),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        Ok(self.text_from(start))
    }

    /// A comment in parentheses, which may nest; skipped.
    pub fn skip_comment(&mut self) -> Result<(), ValueError> {
        self.expect(b'(')?;
        let mut depth = 1usize;
        while depth > 0 {
            match self.peek() {
                None => return self.fault(Fault::Expected(b')')),
                Some(b'\\') => self.at += 1,
                Some(b'(') => depth += 1,
                Some(b')') => depth -= 1,
                Some(_) => {}
            }
            self.at += 1;
        }
        Ok(())
    }

    /// A decimal number that fits 32 bits.
    pub fn number(&mut self) -> Result<u32, ValueError> {
        let start = self.at;
        let digits = self.run(|b| b.is_ascii_digit(), Fault::Number)?;
        digits.parse().map_err(|_| ValueError { fault: Fault::NumberRange, at: start })
    }

    /// A decimal number; one too large reads as the largest (RFC 4475 section 3.1.2.4 leaves that choice).
    pub fn number_clamped(&mut self) -> Result<u32, ValueError> {
        let digits = self.run(|b| b.is_ascii_digit(), Fault::Number)?;
        Ok(digits.parse().unwrap_or(u32::MAX))
    }

    /// The slice from an earlier position to here.
    pub fn text_from(&self, start: usize) -> ByteStr {
        ByteStr::from_bytes_lossy(self.source.slice(start.min(self.at)..self.at.min(self.source.len())))
    }

    /// All that is left.
    pub fn rest(&mut self) -> ByteStr {
        let start = self.at.min(self.source.len());
        self.at = self.source.len();
        self.text_from(start)
    }

    /// Nothing but white space may be left.
    pub fn end(&mut self) -> Result<(), ValueError> {
        self.skip_lws();
        if self.is_end() { Ok(()) } else { self.fault(Fault::Trailing) }
    }

    /// Steps over bytes of a class.
    pub fn take_while(&mut self, class: impl Fn(u8) -> bool) {
        let rest = self.source.get(self.at..).unwrap_or_default();
        self.at += rest.iter().position(|&b| !class(b)).unwrap_or(rest.len());
    }
}

/// `token` of RFC 3261 section 25.1.
pub const fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'!' | b'%' | b'*' | b'_' | b'+' | b'`' | b'\'' | b'~')
}

/// `unreserved` of RFC 3261 section 25.1.
pub const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'!' | b'~' | b'*' | b'\'' | b'(' | b')')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_strings_keep_their_escapes_and_end_where_they_should() {
        let bytes = Bytes::from_static(br#""a \" b" rest"#);
        let mut lexer = Lexer::new(&bytes);
        assert_eq!(lexer.quoted().unwrap(), r#""a \" b""#);
        assert_eq!(lexer.rest(), " rest");
        for open in [&br#""abc"#[..], br#""abc\"#, br#""abc\""#] {
            let bytes = Bytes::copy_from_slice(open);
            assert_eq!(Lexer::new(&bytes).quoted().unwrap_err().fault, Fault::Quote);
        }
    }

    #[test]
    fn comments_nest_and_may_be_cut_short() {
        let bytes = Bytes::from_static(b"(a (b \\) c) d) e");
        let mut lexer = Lexer::new(&bytes);
        lexer.skip_comment().unwrap();
        assert_eq!(lexer.rest(), " e");
        for open in ["(", "(a", "(a\\", "((a)"] {
            let bytes = Bytes::from(open);
            assert!(Lexer::new(&bytes).skip_comment().is_err(), "{open}");
        }
    }

    #[test]
    fn numbers_have_their_range() {
        let bytes = Bytes::from_static(b"4294967296");
        assert_eq!(Lexer::new(&bytes).number().unwrap_err().fault, Fault::NumberRange);
        assert_eq!(Lexer::new(&bytes).number_clamped().unwrap(), u32::MAX);
    }
}
