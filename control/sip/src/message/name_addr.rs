//! Addresses with a display name and parameters: From, To, Contact, Route, Record-Route, Path, Refer-To, P-Asserted-...
//! (RFC 3261 section 20.10 and 25.1: `name-addr / addr-spec`).

use std::borrow::Cow;
use std::fmt;

use bytes::Bytes;

use super::error::{Fault, ValueError};
use super::lexer::{Lexer, is_token};
use super::params::{Params, quote, unquote};
use super::text::ByteStr;
use super::uri::Uri;

/// An address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameAddr {
    /// The display name as it stood on the wire, with its quotes.
    pub display: Option<ByteStr>,
    /// The URI.
    pub uri: Uri,
    /// The header's parameters (`tag`, `expires`, `q`, ...), not the URI's.
    pub params: Params,
}

/// The value of all Contact headers of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Contacts {
    /// `*`, alone: all bindings (RFC 3261 section 10.2.2).
    Star,
    /// The addresses; none if there is no Contact.
    List(Vec<NameAddr>),
}

impl NameAddr {
    /// An address without a display name.
    pub fn new(uri: Uri) -> Self {
        Self { display: None, uri, params: Params::default() }
    }

    /// With a display name, quoted here; an empty one is none.
    pub fn with_display(mut self, display: &str) -> Self {
        self.display = (!display.is_empty()).then(|| quote(display).into());
        self
    }

    /// With a tag.
    pub fn with_tag(mut self, tag: &str) -> Self {
        self.params.set("tag", Some(tag));
        self
    }

    /// The tag, if it has one.
    pub fn tag(&self) -> Option<&str> {
        self.params.get("tag").filter(|tag| !tag.is_empty())
    }

    /// The display name without quotes.
    pub fn display_name(&self) -> Option<Cow<'_, str>> {
        self.display.as_deref().map(unquote)
    }

    /// From text that must be one address.
    pub fn parse(text: &str) -> Result<Self, ValueError> {
        let bytes = Bytes::copy_from_slice(text.as_bytes());
        let mut lexer = Lexer::new(&bytes);
        let address = Self::lex(&mut lexer)?;
        lexer.end()?;
        Ok(address)
    }

    pub(super) fn lex(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        lexer.skip_lws();
        let display = lex_display(lexer)?;
        let uri = if lexer.eat(b'<') {
            let uri = lex_uri(lexer, |b| b != b'>')?;
            lexer.expect(b'>')?;
            uri
        } else {
            let uri = lex_uri(lexer, |b| !matches!(b, b' ' | b'\t' | b'\r' | b'\n' | b';' | b',' | b'?' | b'>'))?;
            if lexer.peek() == Some(b'?') {
                return lexer.fault(Fault::Brackets);
            }
            uri
        };
        let params = Params::of_header(lexer)?;
        Ok(Self { display, uri, params })
    }
}

/// A display name, which only counts as one if `<` follows.
fn lex_display(lexer: &mut Lexer<'_>) -> Result<Option<ByteStr>, ValueError> {
    if lexer.peek() == Some(b'"') {
        let display = lexer.quoted()?;
        lexer.skip_lws();
        return if lexer.peek() == Some(b'<') { Ok(Some(display)) } else { lexer.fault(Fault::Expected(b'<')) };
    }
    let mut ahead = lexer.clone();
    // Beyond tokens: phones send names in UTF-8 without quotes.
    ahead.take_while(|b| is_token(b) || b == b' ' || b == b'\t' || b >= 0x80);
    if ahead.peek() != Some(b'<') {
        return Ok(None);
    }
    let text = ahead.text_from(lexer.at());
    *lexer = ahead;
    let trimmed_bytes = text.trim_end().len();
    let display = ByteStr::from_bytes_lossy(text.as_bytes().slice(..trimmed_bytes));
    Ok((!display.is_empty()).then_some(display))
}

fn lex_uri(lexer: &mut Lexer<'_>, class: impl Fn(u8) -> bool) -> Result<Uri, ValueError> {
    let at = lexer.at();
    let text = lexer.run(class, Fault::Uri)?;
    Uri::parse(text.as_bytes()).map_err(|error| ValueError { fault: error.fault, at: at + error.at })
}

impl fmt::Display for NameAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(display) = &self.display {
            write!(f, "{display} ")?;
        }
        write!(f, "<{}>{}", self.uri, self.params)
    }
}

impl From<Uri> for NameAddr {
    fn from(uri: Uri) -> Self {
        Self::new(uri)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read() {
        for (text, display, uri, tag) in [
            ("sip:a@b;tag=1", None, "sip:a@b", Some("1")),
            ("sip:vivekg@chair ;   tag    = 1918181833n", None, "sip:vivekg@chair", Some("1918181833n")),
            ("<sip:a@b;lr>;tag=1", None, "sip:a@b;lr", Some("1")),
            ("Bob <sip:b@c>", Some("Bob"), "sip:b@c", None),
            (
                "token1~` token2'+_ token3*%!.- <sip:m@e>;x=\"y;z\";tag=t",
                Some("token1~` token2'+_ token3*%!.-"),
                "sip:m@e",
                Some("t"),
            ),
            ("\"J \\\\\\\"\"       <sip:j@e> ;tag = 9", Some("J \\\""), "sip:j@e", Some("9")),
            ("\"\"<sip:j@e>", Some(""), "sip:j@e", None),
            ("<http://www.example.com>;tag=1", None, "http://www.example.com", Some("1")),
            ("Jürgen <sip:j@e>", Some("Jürgen"), "sip:j@e", None),
        ] {
            let address = NameAddr::parse(text).unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(address.display_name().as_deref(), display, "{text}");
            assert_eq!(address.uri.to_string(), uri);
            assert_eq!(address.tag(), tag);
            assert_eq!(NameAddr::parse(&address.to_string()).unwrap(), address);
        }
    }

    #[test]
    fn broken_ones_are_refused() {
        for (text, fault) in [
            ("\"Mr. J. User <sip:j.user@example.com>", Fault::Quote),
            ("Bell, Alexander <sip:a@b>", Fault::Uri),
            ("< sip:t.watson@example.org >", Fault::Uri),
            ("sip:user@example.com?Route=%3Csip:sip.example.com%3E", Fault::Brackets),
            ("<sip:a@b", Fault::Expected(b'>')),
            ("\"Joe\" <sip:joe@example.org>;;;;", Fault::Param),
            ("<sip:a@b> x", Fault::Trailing),
            ("", Fault::Uri),
        ] {
            assert_eq!(NameAddr::parse(text).unwrap_err().fault, fault, "{text}");
        }
    }

    #[test]
    fn display_names_cannot_break_out() {
        let address = NameAddr::new("sip:a@b".parse().unwrap()).with_display("x\" <sip:evil@e>\r\nTo: y");
        let back = NameAddr::parse(&address.to_string()).unwrap();
        assert_eq!(back.uri, address.uri);
        assert_eq!(back.display_name().unwrap(), "x\" <sip:evil@e>  To: y");
    }
}
