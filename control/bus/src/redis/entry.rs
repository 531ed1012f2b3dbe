//! What stands in the streams: fields of one letter, read with distrust. Whoever can write to Redis can write anything.
//!
//! | stream | fields |
//! |---|---|
//! | inbox | `q` the JSON-RPC request; `r` the process that waits; `n` its number there; `s` 1 if any instance may answer; `t` when it was sent; `o` the first id of one that was claimed |
//! | replies | `n` the number; `a` the JSON-RPC response, or `e` the bus's own error |
//! | events | `e` the event |
//! | news | `j` an announcement, or a farewell |

use bytes::Bytes;
use redis::{Cmd, Value};
use serde::{Deserialize, Serialize};

use crate::Error;
use crate::contract::{InstanceId, Role};
use crate::error::{ErrorObject, code};
use crate::limits::{EVENTS_KEPT_MAX, MESSAGE_BYTES_MAX, NEWS_KEPT_MAX, REPLIES_KEPT_MAX, REQUESTS_KEPT_MAX};
use crate::registry::Announcement;
use crate::snapshots::Moment;

/// A stream's id: milliseconds of Redis' clock and a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(super) struct EntryId {
    pub ms: u64,
    pub number: u64,
}

impl EntryId {
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (ms, number) = std::str::from_utf8(text).ok()?.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, number: number.parse().ok()? })
    }

    /// The first id that can follow.
    pub fn next(self) -> Self {
        Self { number: self.number.saturating_add(1), ..self }
    }
}

impl std::fmt::Display for EntryId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}", self.ms, self.number)
    }
}

/// An entry as Redis gives it: its id and its fields.
pub(super) struct Entry {
    pub id: EntryId,
    fields: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entry {
    /// Takes a field out.
    fn take(&mut self, name: &[u8]) -> Option<Vec<u8>> {
        let place = self.fields.iter().position(|(field, _)| field == name)?;
        Some(self.fields.swap_remove(place).1)
    }

    fn take_text(&mut self, name: &[u8]) -> Option<String> {
        String::from_utf8(self.take(name)?).ok()
    }

    fn take_number(&mut self, name: &[u8]) -> Option<u64> {
        self.take_text(name)?.parse().ok()
    }
}

/// Reads the answer to XREAD and XREADGROUP: entries by stream. What is not of that shape is left out; an entry that was
/// deleted while it was pending comes without fields.
pub(super) fn streams(answer: Value) -> Vec<(Vec<u8>, Vec<Entry>)> {
    let Value::Array(streams) = answer else { return Vec::new() };
    let of_stream = |stream| {
        let Value::Array(mut parts) = stream else { return None };
        let (Some(entries), Some(Value::BulkString(key)), true) = (parts.pop(), parts.pop(), parts.is_empty()) else {
            return None;
        };
        Some((key, self::entries(entries)))
    };
    streams.into_iter().filter_map(of_stream).collect()
}

/// Reads the answer to XRANGE, or one stream's part of the above.
pub(super) fn entries(answer: Value) -> Vec<Entry> {
    let Value::Array(entries) = answer else { return Vec::new() };
    let of_entry = |entry| {
        let Value::Array(mut parts) = entry else { return None };
        let (Some(fields), Some(Value::BulkString(id))) = (parts.pop(), parts.pop()) else { return None };
        let mut pairs = Vec::new();
        if let Value::Array(flat) = fields {
            let mut flat = flat.into_iter();
            while let (Some(Value::BulkString(name)), Some(Value::BulkString(value))) = (flat.next(), flat.next()) {
                pairs.push((name, value));
            }
        }
        Some(Entry { id: EntryId::parse(&id)?, fields: pairs })
    };
    entries.into_iter().filter_map(of_entry).collect()
}

/// A request in an inbox.
pub(super) struct RequestEntry {
    pub body: Bytes,
    /// The process that waits and its number there.
    pub from: Option<(String, u64)>,
    /// On the sender's clock, if it runs on this host.
    pub sent: Option<Moment>,
    /// When Redis took it, on Redis' clock.
    pub taken_ms: u64,
}

/// Writes a request into an inbox, if that is there.
pub(super) fn request(inbox: &str, body: &[u8], process: &str, number: u64, service: bool) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(inbox).arg("NOMKSTREAM").arg("MAXLEN").arg("~").arg(REQUESTS_KEPT_MAX).arg("*");
    command.arg("q").arg(body).arg("r").arg(process).arg("n").arg(number);
    command.arg("s").arg(u8::from(service)).arg("t").arg(Moment::now().to_string());
    command
}

/// Reads a request; none is what no sender of ours writes.
pub(super) fn read_request(mut entry: Entry) -> Option<RequestEntry> {
    let body = entry.take(b"q").filter(|body| body.len() <= MESSAGE_BYTES_MAX)?;
    let from = entry.take_text(b"r").zip(entry.take_number(b"n"));
    let sent = entry.take_text(b"t").and_then(|text| Moment::parse(&text));
    let first = entry.take(b"o").and_then(|id| EntryId::parse(&id)).unwrap_or(entry.id);
    Some(RequestEntry { body: body.into(), from, sent, taken_ms: first.ms })
}

/// Writes an answer into a process's replies, if that is there.
pub(super) fn reply(replies: &str, number: u64, outcome: &Result<Bytes, Error>) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(replies).arg("NOMKSTREAM").arg("MAXLEN").arg("~").arg(REPLIES_KEPT_MAX).arg("*").arg("n").arg(number);
    match outcome {
        Ok(body) => command.arg("a").arg(&body[..]),
        // Text and numbers: nothing in it that serde_json can refuse.
        Err(error) => command.arg("e").arg(serde_json::to_vec(&ErrorObject::from(error.clone())).unwrap_or_default()),
    };
    command
}

/// Reads an answer and whose it is.
pub(super) fn read_reply(mut entry: Entry) -> Option<(u64, Result<Bytes, Error>)> {
    let number = entry.take_number(b"n")?;
    if let Some(body) = entry.take(b"a") {
        let size = body.len();
        let too_long = || Error::permanent(code::INVALID_REPLY, format!("a reply of {size} bytes"));
        return Some((number, if size <= MESSAGE_BYTES_MAX { Ok(body.into()) } else { Err(too_long()) }));
    }
    let object: ErrorObject = serde_json::from_slice(&entry.take(b"e")?).ok()?;
    Some((number, Err(object.into())))
}

/// Adds an event.
pub(super) fn event(events: &str, body: &[u8]) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(events).arg("MAXLEN").arg("~").arg(EVENTS_KEPT_MAX).arg("*").arg("e").arg(body);
    command
}

/// Reads an event.
pub(super) fn read_event(mut entry: Entry) -> Option<Bytes> {
    entry.take(b"e").filter(|body| body.len() <= MESSAGE_BYTES_MAX).map(Bytes::from)
}

/// What is told of an instance: how it is, or that it has left.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct News {
    pub role: Role,
    pub instance: InstanceId,
    /// Rises with each process that takes the name.
    pub number: u64,
    pub announcement: Option<Announcement>,
}

/// Tells everybody.
pub(super) fn news(stream: &str, news: &News) -> Cmd {
    let mut command = redis::cmd("XADD");
    command.arg(stream).arg("MAXLEN").arg("~").arg(NEWS_KEPT_MAX).arg("*");
    // Text, numbers and a flag: nothing in it that serde_json can refuse.
    command.arg("j").arg(serde_json::to_vec(news).unwrap_or_default());
    command
}

/// Reads what was told.
pub(super) fn read_news(mut entry: Entry) -> Option<News> {
    serde_json::from_slice(&entry.take(b"j")?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: impl AsRef<[u8]>) -> Value {
        Value::BulkString(text.as_ref().to_vec())
    }

    /// What Redis would give back for what a command wrote.
    fn entry(command: &Cmd) -> Entry {
        let args: Vec<Vec<u8>> = command
            .args_iter()
            .filter_map(|arg| match arg {
                redis::Arg::Simple(bytes) => Some(bytes.to_vec()),
                _ => None,
            })
            .collect();
        let star = args.iter().position(|arg| arg == b"*").unwrap();
        let fields = args[star + 1..].chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
        Entry { id: EntryId { ms: 5, number: 1 }, fields }
    }

    #[test]
    fn a_request_is_read_as_it_was_written() {
        let read = read_request(entry(&request("inbox", b"{}", "me", 7, true))).unwrap();
        assert_eq!((&read.body[..], read.from, read.taken_ms), (&b"{}"[..], Some(("me".to_owned(), 7)), 5));
        assert!(read.sent.unwrap().elapsed().unwrap().as_secs() < 60);
    }

    #[test]
    fn an_answer_is_read_as_it_was_written() {
        let full = Error::transient(code::BUSY, "full").retry_after_s(2);
        for outcome in [Ok(Bytes::from_static(b"{}")), Err(full)] {
            assert_eq!(read_reply(entry(&reply("replies", 9, &outcome))), Some((9, outcome)));
        }
    }

    #[test]
    fn what_nobody_of_us_wrote_is_left_out() {
        let pair = |name: &str, value: &str| (name.as_bytes().to_vec(), value.as_bytes().to_vec());
        let with = |fields| Entry { id: EntryId::default(), fields };
        assert!(read_request(with(vec![])).is_none());
        assert!(read_request(with(vec![pair("Q", "{}")])).is_none());
        let odd = vec![pair("q", "{}"), pair("r", "me"), pair("n", "-1"), pair("t", "x"), pair("o", "y")];
        let odd = read_request(with(odd)).unwrap();
        assert!(odd.from.is_none() && odd.sent.is_none() && odd.taken_ms == 0);
        let huge = " ".repeat(MESSAGE_BYTES_MAX + 1);
        assert!(read_request(with(vec![pair("q", &huge)])).is_none());
        assert!(read_event(with(vec![pair("e", &huge)])).is_none());
        assert!(read_reply(with(vec![pair("n", "1"), pair("a", &huge)])).unwrap().1.is_err());
        assert!(read_reply(with(vec![pair("a", "{}")])).is_none());
        assert!(read_reply(with(vec![pair("n", "1"), pair("e", "[]")])).is_none());
        assert!(read_news(with(vec![pair("j", "{\"role\":\"king\"}")])).is_none());
        for odd in [Value::Nil, Value::Int(1), Value::Array(vec![Value::Nil, Value::Array(vec![Value::Int(1)])])] {
            assert!(streams(odd).is_empty());
        }
        // Deleted while pending (no fields), a bad id, an odd number of fields.
        let answer = Value::Array(vec![Value::Array(vec![
            bulk("key"),
            Value::Array(vec![
                Value::Array(vec![bulk("1-2"), Value::Nil]),
                Value::Array(vec![bulk("x"), Value::Array(vec![])]),
                Value::Array(vec![bulk("3-4"), Value::Array(vec![bulk("q"), bulk("{}"), bulk("r")])]),
            ]),
        ])]);
        let read = streams(answer);
        let ids: Vec<_> = read[0].1.iter().map(|entry| entry.id.to_string()).collect();
        assert_eq!((&read[0].0[..], ids), (&b"key"[..], vec!["1-2".to_owned(), "3-4".to_owned()]));
        assert_eq!(read[0].1[1].fields.len(), 1);
    }
}
