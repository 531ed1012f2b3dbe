//! Parameters (`;name=value`) of URIs, Vias, addresses and credentials: ordered, verbatim, names without regard to case.

use std::borrow::Cow;
use std::fmt;

use super::error::{Fault, ValueError};
use super::lexer::{Lexer, is_token, is_unreserved};
use super::limits::PARAMS_MAX;
use super::text::ByteStr;

/// One parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Param {
    /// Its name as spelled.
    pub name: ByteStr,
    /// Its value verbatim (with quotes, with escapes), if it has one.
    pub value: Option<ByteStr>,
}

/// Parameters in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Params(Vec<Param>);

impl Params {
    /// The value of a parameter, verbatim; `""` for one without a value.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.find(name).map(|p| p.value.as_deref().unwrap_or(""))
    }

    /// The value of a parameter without the quotes it may have.
    pub fn get_unquoted(&self, name: &str) -> Option<Cow<'_, str>> {
        self.get(name).map(unquote)
    }

    /// Whether it is there, with or without a value.
    pub fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Sets a parameter, in its place if it is there, else at the end.
    pub fn set(&mut self, name: &str, value: Option<&str>) {
        let value = value.map(ByteStr::from);
        match self.0.iter_mut().find(|p| p.name.eq_ignore_ascii_case(name)) {
            Some(param) => param.value = value,
            None => self.0.push(Param { name: name.into(), value }),
        }
    }

    /// Removes a parameter; whether it was there.
    pub fn remove(&mut self, name: &str) -> bool {
        let before = self.0.len();
        self.0.retain(|p| !p.name.eq_ignore_ascii_case(name));
        self.0.len() != before
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Param> {
        self.0.iter()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn find(&self, name: &str) -> Option<&Param> {
        self.0.iter().find(|p| p.name.eq_ignore_ascii_case(name))
    }

    fn add(&mut self, param: Param, at: usize) -> Result<(), ValueError> {
        if self.0.len() >= PARAMS_MAX {
            return Err(ValueError { fault: Fault::TooMany, at });
        }
        self.0.push(param);
        Ok(())
    }

    /// `*( SEMI generic-param )` of a header value; stops before anything else.
    pub(super) fn of_header(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let mut params = Self::default();
        while lexer.eat_separator(b';') {
            let param = header_param(lexer)?;
            params.add(param, lexer.at())?;
        }
        Ok(params)
    }

    /// `*( COMMA auth-param )` of a challenge or of credentials; the lexer stands on the first name.
    pub(super) fn of_auth(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let mut params = Self::default();
        loop {
            let param = header_param(lexer)?;
            if param.value.is_none() {
                return lexer.fault(Fault::Expected(b'='));
            }
            params.add(param, lexer.at())?;
            if !lexer.eat_separator(b',') {
                return Ok(params);
            }
        }
    }

    /// `*( ";" uri-parameter )` of a URI: no white space, no quotes.
    pub(super) fn of_uri(lexer: &mut Lexer<'_>) -> Result<Self, ValueError> {
        let mut params = Self::default();
        while lexer.eat(b';') {
            let at = lexer.at();
            let name = lexer.run(is_uri_param_char, Fault::Param)?;
            let value = if lexer.eat(b'=') { Some(lexer.run(is_uri_param_char, Fault::Param)?) } else { None };
            if !escapes_are_whole(&name) || !value.as_deref().is_none_or(escapes_are_whole) {
                return Err(ValueError { fault: Fault::Param, at });
            }
            params.add(Param { name, value }, at)?;
        }
        Ok(params)
    }
}

impl fmt::Display for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for param in &self.0 {
            match &param.value {
                None => write!(f, ";{}", param.name)?,
                Some(value) => write!(f, ";{}={}", param.name, value)?,
            }
        }
        Ok(())
    }
}

fn header_param(lexer: &mut Lexer<'_>) -> Result<Param, ValueError> {
    let name = lexer.run(is_token, Fault::Param)?;
    if !lexer.eat_separator(b'=') {
        return Ok(Param { name, value: None });
    }
    let value = if lexer.peek() == Some(b'"') { lexer.quoted()? } else { lexer.run(is_bare_value, Fault::Param)? };
    Ok(Param { name, value: Some(value) })
}

/// What an unquoted parameter value is made of: token, host and a little more that phones put there (`/`, `=`, `@`).
const fn is_bare_value(byte: u8) -> bool {
    byte > b' ' && byte != 0x7f && !matches!(byte, b';' | b',' | b'"' | b'<' | b'>' | b'\\')
}

const fn is_uri_param_char(byte: u8) -> bool {
    is_unreserved(byte) || matches!(byte, b'%' | b'[' | b']' | b'/' | b':' | b'&' | b'+' | b'$')
}

/// Whether every `%` is followed by two hexadecimal digits.
pub(super) fn escapes_are_whole(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().filter(|&(_, &b)| b == b'%').all(|(i, _)| {
        let digits = bytes.get(i + 1..i + 3).unwrap_or_default();
        digits.len() == 2 && digits.iter().all(u8::is_ascii_hexdigit)
    })
}

/// The content of a quoted string; other text unchanged.
pub fn unquote(text: &str) -> Cow<'_, str> {
    let Some(inner) = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')) else {
        return Cow::Borrowed(text);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.push(if c == '\\' { chars.next().unwrap_or('\\') } else { c });
    }
    Cow::Owned(out)
}

/// Text as a quoted string; control characters, which no quoted string may carry over a line, become spaces.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting_goes_both_ways() {
        for text in ["", "plain", r#"a "b" \c"#, "ü"] {
            assert_eq!(unquote(&quote(text)), text);
        }
        assert_eq!(quote("a\r\nb"), "\"a  b\"");
    }

    #[test]
    fn half_escapes_are_found() {
        assert!(escapes_are_whole("a%41b%5a"));
        for broken in ["%", "%4", "a%4", "%zz", "%4g"] {
            assert!(!escapes_are_whole(broken), "{broken}");
        }
    }
}
