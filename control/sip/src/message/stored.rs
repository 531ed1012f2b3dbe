//! Messages and their parts in snapshots: as the text that they are on the wire, read again by the same parsers.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use bytes::Bytes;

use super::lexer::is_token;
use super::{ByteStr, Message, Method, NameAddr, Request, Response, Uri, parse};
use crate::snapshot::{SnapshotError, wire};

impl Serialize for ByteStr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self)
    }
}

impl<'de> Deserialize<'de> for ByteStr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

macro_rules! as_text {
    ($type:ty, $read:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $read(&String::deserialize(deserializer)?).map_err(D::Error::custom)
            }
        }
    };
}

as_text!(Uri, |text: &str| text.parse::<Uri>());
as_text!(NameAddr, NameAddr::parse);
as_text!(Method, |text: &str| {
    let is_method = !text.is_empty() && text.bytes().all(is_token);
    if is_method { Ok(Method::from_token(text.into())) } else { Err(SnapshotError::Damaged("a method")) }
});

macro_rules! as_wire {
    ($type:ident) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                wire::serialize(&self.to_bytes(), serializer)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                match read(wire::deserialize(deserializer)?).map_err(D::Error::custom)? {
                    Message::$type(message) => Ok(message),
                    _ => Err(D::Error::custom(SnapshotError::Damaged("another message than was expected"))),
                }
            }
        }
    };
}

as_wire!(Request);
as_wire!(Response);

/// A message of ours may be without the Via that the layer puts on top; all else is checked as if it came from a peer.
fn read(bytes: Bytes) -> Result<Message, SnapshotError> {
    parse::parse_stored(bytes).map_err(|_| SnapshotError::Damaged("an unreadable message"))
}
