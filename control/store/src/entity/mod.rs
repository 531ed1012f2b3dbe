//! The tables, one file each. Times are Unix milliseconds; JSON is text, so that both databases store the same.

pub(crate) mod audit_log;
pub(crate) mod calls;
pub(crate) mod cdrs;
pub(crate) mod customers;
pub(crate) mod extensions;
pub(crate) mod locations;
pub(crate) mod outbox;

/// What a peer sent, as both databases take it: Postgres has no text with a NUL, and a record must not fail for one.
pub(crate) fn storable(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}
