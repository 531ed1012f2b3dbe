//! The tables, one file each. Times are Unix milliseconds; JSON is text, so that both databases store the same.

pub(crate) mod audit_log;
pub(crate) mod calls;
pub(crate) mod cdrs;
pub(crate) mod customers;
pub(crate) mod extensions;
pub(crate) mod locations;
pub(crate) mod outbox;
