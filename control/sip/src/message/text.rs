//! [`ByteStr`]: text that is a slice of the received datagram. Cloning it counts a reference, nothing is copied.

use std::borrow::Cow;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::ops::Deref;

use bytes::Bytes;

/// Text in a shared buffer.
///
/// Bytes that are not UTF-8 read as U+FFFD text made once at construction (old phones send Latin-1 display names).
#[derive(Clone, Default)]
pub struct ByteStr(Bytes);

impl ByteStr {
    /// Text that lives as long as the program.
    pub const fn from_static(text: &'static str) -> Self {
        Self(Bytes::from_static(text.as_bytes()))
    }

    /// Takes received bytes; copies only if they are not UTF-8.
    pub fn from_bytes_lossy(bytes: Bytes) -> Self {
        let repaired = match String::from_utf8_lossy(&bytes) {
            Cow::Borrowed(_) => None,
            Cow::Owned(repaired) => Some(repaired),
        };
        match repaired {
            None => Self(bytes),
            Some(repaired) => Self(Bytes::from(repaired)),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        // Checked at construction; the second check is what a crate without `unsafe` pays for zero copy.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// The text's buffer.
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The text's buffer, owned.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for ByteStr {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for ByteStr {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl From<String> for ByteStr {
    fn from(text: String) -> Self {
        Self(Bytes::from(text))
    }
}

impl From<&str> for ByteStr {
    fn from(text: &str) -> Self {
        Self(Bytes::copy_from_slice(text.as_bytes()))
    }
}

impl From<&ByteStr> for ByteStr {
    fn from(text: &ByteStr) -> Self {
        text.clone()
    }
}

impl PartialEq for ByteStr {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for ByteStr {}

impl PartialEq<str> for ByteStr {
    fn eq(&self, other: &str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialEq<&str> for ByteStr {
    fn eq(&self, other: &&str) -> bool {
        self.0 == other.as_bytes()
    }
}

impl PartialOrd for ByteStr {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ByteStr {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

impl Hash for ByteStr {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl fmt::Display for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

impl fmt::Debug for ByteStr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}
