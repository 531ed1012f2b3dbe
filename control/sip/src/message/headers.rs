//! [`Headers`]: the header fields of a message in their order, names and values as received, and typed views on demand.
//!
//! A look-up walks the list: a message has 10 to 20 headers. A typed view parses its value each time it is asked for;
//! ask once and keep the result. Values never contain CR or LF, whoever set them.

use std::borrow::Borrow;
use std::net::SocketAddr;

use bytes::Bytes;

use super::date;
use super::error::{Fault, HeaderError, ValueError};
use super::lexer::{Lexer, is_token};
use super::limits::LIST_ELEMENTS_MAX;
use super::name_addr::{Contacts, NameAddr};
use super::names::Name;
use super::text::ByteStr;
use super::values::{Auth, CSeq, MediaType, RAck, SessionExpires};
use super::via::Via;

/// One header field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What it is.
    pub name: Name,
    /// How it was spelled; what is written.
    pub spelled: ByteStr,
    /// Its value, unfolded, without surrounding white space.
    pub value: ByteStr,
}

/// The header fields of a message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<Header>);

/// The list itself.
impl Headers {
    /// The first value of that name.
    pub fn get(&self, name: impl Borrow<Name>) -> Option<&str> {
        self.find(name.borrow()).map(|h| h.value.as_str())
    }

    /// The values of that name, one per line; a line may hold a comma list.
    pub fn get_all(&self, name: impl Borrow<Name>) -> impl Iterator<Item = &str> {
        self.lines(name).map(ByteStr::as_str)
    }

    /// Like [`Headers::get_all`], as shared text.
    pub fn lines(&self, name: impl Borrow<Name>) -> impl Iterator<Item = &ByteStr> {
        self.0.iter().filter(move |h| h.name.is(name.borrow())).map(|h| &h.value)
    }

    /// Whether there is such a header.
    pub fn has(&self, name: impl Borrow<Name>) -> bool {
        self.find(name.borrow()).is_some()
    }

    /// All of them in order.
    pub fn iter(&self) -> impl Iterator<Item = &Header> {
        self.0.iter()
    }

    /// How many lines.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a header at the end.
    pub fn push(&mut self, name: Name, value: impl Into<ByteStr>) {
        self.0.push(Header::new(name, value.into()));
    }

    /// Adds a header before the first of its name, or before all others if there is none: Via, Record-Route, Route.
    pub fn insert_first(&mut self, name: Name, value: impl Into<ByteStr>) {
        let at = self.0.iter().position(|h| h.name.is(&name)).unwrap_or(0);
        self.0.insert(at, Header::new(name, value.into()));
    }

    /// Replaces all headers of that name by one, in the place of the first, or at the end.
    pub fn set(&mut self, name: Name, value: impl Into<ByteStr>) {
        let at = self.0.iter().position(|h| h.name.is(&name)).unwrap_or(self.0.len());
        self.remove(&name);
        self.0.insert(at, Header::new(name, value.into()));
    }

    /// Removes all headers of that name; whether there were any.
    pub fn remove(&mut self, name: impl Borrow<Name>) -> bool {
        let before = self.0.len();
        self.0.retain(|h| !h.name.is(name.borrow()));
        self.0.len() != before
    }

    pub(super) fn push_received(&mut self, header: Header) {
        self.0.push(header);
    }

    fn find(&self, name: &Name) -> Option<&Header> {
        self.0.iter().find(|h| h.name.is(name))
    }
}

impl Header {
    fn new(name: Name, value: ByteStr) -> Self {
        let spelled = match &name {
            Name::Other(other) => single_line(other.clone()),
            known => ByteStr::from(known.as_str()),
        };
        Self { name, spelled, value: single_line(value) }
    }
}

/// Text that cannot begin a new header.
pub(super) fn single_line(text: ByteStr) -> ByteStr {
    if text.contains(['\r', '\n']) { text.replace(['\r', '\n'], " ").into() } else { text }
}

/// What every message has.
impl Headers {
    /// The topmost Via.
    pub fn via_top(&self) -> Result<Via, HeaderError> {
        self.first(Name::Via, Via::lex)
    }

    /// All Vias, topmost first.
    pub fn vias(&self) -> Result<Vec<Via>, HeaderError> {
        self.list(Name::Via, Via::lex)
    }

    /// From.
    pub fn from(&self) -> Result<NameAddr, HeaderError> {
        self.only(Name::From, NameAddr::lex)
    }

    /// To.
    pub fn to(&self) -> Result<NameAddr, HeaderError> {
        self.only(Name::To, NameAddr::lex)
    }

    /// Call-ID, verbatim.
    pub fn call_id(&self) -> Result<&str, HeaderError> {
        let value = self.single(&Name::CallId)?.ok_or(HeaderError::Missing(Name::CallId))?;
        let is_word = |b: u8| b > b' ' && b != 0x7f && b != b',' && b != b';';
        if !value.is_empty() && value.bytes().all(is_word) {
            return Ok(value.as_str());
        }
        Err(bad(Name::CallId, ValueError { fault: Fault::Token, at: 0 }))
    }

    /// CSeq.
    pub fn cseq(&self) -> Result<CSeq, HeaderError> {
        self.only(Name::CSeq, CSeq::lex)
    }

    /// Max-Forwards; one above 255 reads as 255 (RFC 4475 section 3.1.2.4), none if it is missing (RFC 2543).
    pub fn max_forwards(&self) -> Result<Option<u8>, HeaderError> {
        let hops = self.maybe(Name::MaxForwards, |lexer| lexer.number_clamped())?;
        Ok(hops.map(|hops| u8::try_from(hops).unwrap_or(u8::MAX)))
    }

    /// Content-Length in bytes.
    pub fn content_length(&self) -> Result<Option<usize>, HeaderError> {
        let bytes = self.maybe(Name::ContentLength, |lexer| lexer.number_clamped())?;
        Ok(bytes.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)))
    }

    /// Content-Type.
    pub fn content_type(&self) -> Result<Option<MediaType>, HeaderError> {
        self.maybe(Name::ContentType, MediaType::lex)
    }
}

/// Addresses and routes.
impl Headers {
    /// All Contacts.
    pub fn contacts(&self) -> Result<Contacts, HeaderError> {
        let mut stars = self.lines(Name::Contact).filter(|value| value.as_str() == "*");
        if stars.next().is_none() {
            return self.list(Name::Contact, NameAddr::lex).map(Contacts::List);
        }
        if self.lines(Name::Contact).count() == 1 {
            return Ok(Contacts::Star);
        }
        Err(bad(Name::Contact, ValueError { fault: Fault::Star, at: 0 }))
    }

    /// The first Contact that is an address: where a dialog's peer is reached.
    pub fn contact(&self) -> Result<Option<NameAddr>, HeaderError> {
        Ok(match self.contacts()? {
            Contacts::Star => None,
            Contacts::List(list) => list.into_iter().next(),
        })
    }

    /// Route values, the next hop first.
    pub fn routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.list(Name::Route, NameAddr::lex)
    }

    /// Record-Route values in order of appearance.
    pub fn record_routes(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.list(Name::RecordRoute, NameAddr::lex)
    }

    /// Path values in order of appearance (RFC 3327).
    pub fn paths(&self) -> Result<Vec<NameAddr>, HeaderError> {
        self.list(Name::Path, NameAddr::lex)
    }

    /// The addresses of another header that holds a list of them (P-Asserted-Identity, Refer-To, ...).
    pub fn addresses(&self, name: Name) -> Result<Vec<NameAddr>, HeaderError> {
        self.list(name, NameAddr::lex)
    }
}

/// Times, extensions, credentials.
impl Headers {
    /// Expires in seconds; one too large reads as the largest, a malformed one as 3600 (RFC 3261 section 10.3).
    pub fn expires(&self) -> Result<Option<u32>, HeaderError> {
        match self.maybe(Name::Expires, |lexer| lexer.number_clamped()) {
            Err(HeaderError::Bad { .. }) => Ok(Some(3600)),
            other => other,
        }
    }

    /// Min-Expires in seconds.
    pub fn min_expires(&self) -> Result<Option<u32>, HeaderError> {
        self.maybe(Name::MinExpires, |lexer| lexer.number_clamped())
    }

    /// Session-Expires (RFC 4028).
    pub fn session_expires(&self) -> Result<Option<SessionExpires>, HeaderError> {
        self.maybe(Name::SessionExpires, SessionExpires::lex)
    }

    /// Min-SE in seconds (RFC 4028).
    pub fn min_se(&self) -> Result<Option<u32>, HeaderError> {
        self.maybe(Name::MinSe, |lexer| {
            let interval_s = lexer.number_clamped()?;
            super::params::Params::of_header(lexer).map(|_| interval_s)
        })
    }

    /// RSeq (RFC 3262).
    pub fn rseq(&self) -> Result<Option<u32>, HeaderError> {
        self.maybe(Name::RSeq, |lexer| lexer.number())
    }

    /// RAck (RFC 3262).
    pub fn rack(&self) -> Result<Option<RAck>, HeaderError> {
        self.maybe(Name::RAck, RAck::lex)
    }

    /// Retry-After in seconds; its comment and parameters are passed over.
    pub fn retry_after(&self) -> Result<Option<u32>, HeaderError> {
        self.maybe(Name::RetryAfter, |lexer| {
            let delay_s = lexer.number_clamped()?;
            lexer.skip_lws();
            if lexer.peek() == Some(b'(') {
                lexer.skip_comment()?;
            }
            super::params::Params::of_header(lexer).map(|_| delay_s)
        })
    }

    /// Date as seconds of Unix time.
    pub fn date(&self) -> Result<Option<u64>, HeaderError> {
        let value = self.single(&Name::Date)?;
        value.map(|value| date::parse(value)).transpose().map_err(|error| bad(Name::Date, error))
    }

    /// The tokens of a header that lists them: Require, Supported, Proxy-Require, Unsupported, Allow, Allow-Events, ...
    /// Parameters of an element are passed over; empty elements too (RFC 3261 section 7.3.1, `Supported:`).
    pub fn tokens(&self, name: Name) -> Result<Vec<ByteStr>, HeaderError> {
        let fault = |fault| bad(name.clone(), ValueError { fault, at: 0 });
        let mut tokens = Vec::new();
        for token in self.elements(&name).filter(|token| !token.is_empty()) {
            if !token.bytes().all(is_token) {
                return Err(fault(Fault::Token));
            }
            if tokens.len() >= LIST_ELEMENTS_MAX {
                return Err(fault(Fault::TooMany));
            }
            tokens.push(ByteStr::from(token));
        }
        Ok(tokens)
    }

    /// Whether such a list names this token, in any case (`Supported` and `100rel`).
    pub fn lists(&self, name: Name, token: &str) -> bool {
        self.elements(&name).any(|element| element.eq_ignore_ascii_case(token))
    }

    fn elements<'a>(&'a self, name: &'a Name) -> impl Iterator<Item = &'a str> {
        let elements = self.lines(name).flat_map(|value| value.as_str().split(','));
        elements.map(|element| element.split(';').next().unwrap_or_default().trim())
    }

    /// The media ranges of Accept; none if there is no such header, empty if it is there and empty.
    pub fn accept(&self) -> Result<Option<Vec<MediaType>>, HeaderError> {
        if !self.has(Name::Accept) {
            return Ok(None);
        }
        self.list(Name::Accept, MediaType::lex).map(Some)
    }

    /// All challenges or credentials of a header, one per line.
    pub fn auths(&self, name: Name) -> Result<Vec<Auth>, HeaderError> {
        self.lines(&name).map(|value| Auth::parse(value.as_bytes())).collect::<Result<_, _>>().map_err(|e| bad(name, e))
    }
}

/// Changes to typed values.
impl Headers {
    /// Notes in the topmost Via where the request came from (RFC 3261 section 18.2.1, RFC 3581).
    pub fn stamp_via(&mut self, source: SocketAddr) -> Result<(), HeaderError> {
        self.edit_via_top(|via| via.stamp(source))
    }

    /// Changes the topmost Via, leaving those behind it as they are.
    pub fn edit_via_top(&mut self, edit: impl FnOnce(&mut Via)) -> Result<(), HeaderError> {
        let Some(header) = self.0.iter_mut().find(|h| h.name == Name::Via) else {
            return Err(HeaderError::Missing(Name::Via));
        };
        let source = header.value.as_bytes().clone();
        let mut lexer = Lexer::new(&source);
        let mut via = Via::lex(&mut lexer).map_err(|error| bad(Name::Via, error))?;
        edit(&mut via);
        header.value = single_line(format!("{via}{}", lexer.rest().as_str()).into());
        Ok(())
    }

    /// Takes the topmost Via off.
    pub fn pop_via(&mut self) -> Result<Via, HeaderError> {
        let Some(at) = self.0.iter().position(|h| h.name == Name::Via) else {
            return Err(HeaderError::Missing(Name::Via));
        };
        let source = self.0[at].value.as_bytes().clone();
        let mut lexer = Lexer::new(&source);
        let via = Via::lex(&mut lexer).map_err(|error| bad(Name::Via, error))?;
        if lexer.eat_separator(b',') {
            self.0[at].value = lexer.rest();
        } else {
            self.0.remove(at);
        }
        Ok(via)
    }

    /// Adds or replaces To's tag.
    pub fn set_to_tag(&mut self, tag: &str) -> Result<(), HeaderError> {
        let to = self.to()?.with_tag(tag);
        self.set(Name::To, to.to_string());
        Ok(())
    }
}

/// How typed views are had.
impl Headers {
    /// The value of a header that may be there once.
    fn single(&self, name: &Name) -> Result<Option<&ByteStr>, HeaderError> {
        let mut lines = self.lines(name);
        let first = lines.next();
        if lines.next().is_some() { Err(HeaderError::Repeated(name.clone())) } else { Ok(first) }
    }

    fn maybe<T>(
        &self,
        name: Name,
        lex: impl Fn(&mut Lexer<'_>) -> Result<T, ValueError>,
    ) -> Result<Option<T>, HeaderError> {
        let Some(value) = self.single(&name)? else { return Ok(None) };
        let mut lexer = Lexer::new(value.as_bytes());
        let parsed = lex(&mut lexer).and_then(|value| lexer.end().map(|()| value));
        parsed.map(Some).map_err(|error| bad(name, error))
    }

    fn only<T>(&self, name: Name, lex: impl Fn(&mut Lexer<'_>) -> Result<T, ValueError>) -> Result<T, HeaderError> {
        self.maybe(name.clone(), lex)?.ok_or(HeaderError::Missing(name))
    }

    fn first<T>(&self, name: Name, lex: impl Fn(&mut Lexer<'_>) -> Result<T, ValueError>) -> Result<T, HeaderError> {
        let Some(value) = self.lines(&name).next() else { return Err(HeaderError::Missing(name)) };
        lex(&mut Lexer::new(value.as_bytes())).map_err(|error| bad(name, error))
    }

    /// The elements of a comma list over all lines of a name.
    fn list<T>(
        &self,
        name: Name,
        lex: impl Fn(&mut Lexer<'_>) -> Result<T, ValueError>,
    ) -> Result<Vec<T>, HeaderError> {
        let mut elements = Vec::new();
        for value in self.lines(&name) {
            lex_list(value.as_bytes(), &lex, &mut elements).map_err(|error| bad(name.clone(), error))?;
        }
        Ok(elements)
    }
}

fn lex_list<T>(
    value: &Bytes,
    lex: impl Fn(&mut Lexer<'_>) -> Result<T, ValueError>,
    elements: &mut Vec<T>,
) -> Result<(), ValueError> {
    let mut lexer = Lexer::new(value);
    lexer.skip_lws();
    if lexer.is_end() {
        return Ok(());
    }
    loop {
        if elements.len() >= LIST_ELEMENTS_MAX {
            return lexer.fault(Fault::TooMany);
        }
        elements.push(lex(&mut lexer)?);
        if !lexer.eat_separator(b',') {
            return lexer.end();
        }
    }
}

fn bad(name: Name, error: ValueError) -> HeaderError {
    HeaderError::Bad { name, error }
}
