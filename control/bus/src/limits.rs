//! The caps of the bus. Each has a stated overflow policy and a counter in [`crate::Counts`] or [`crate::Subscription`].

/// Requests waiting in one instance's inbox; one more is refused at once as transient `busy`.
/// 8192 requests are about 20 s of 100 calls/s at four requests a call: more would only be answered too late.
pub const INBOX_REQUESTS_MAX: usize = 8192;

/// Idempotency keys an inbox remembers; the oldest answered one is forgotten first. With all of them unanswered, a new
/// one is refused as transient `busy`.
pub const RECENT_KEYS_MAX: usize = 4096;

/// Duplicates that may wait for the first delivery's answer, per key; one more is refused as transient `busy`.
pub const RECENT_WAITERS_MAX: usize = 16;

/// Events a slow subscriber may be behind; then its oldest are dropped and counted in [`crate::Subscription::lagged`].
pub const EVENTS_BEHIND_MAX: usize = 4096;

/// Requests in one JSON-RPC batch that comes from outside; a longer batch is refused whole.
pub const BATCH_REQUESTS_MAX: usize = 64;

/// Bytes of a request from outside; a longer one is refused.
pub const GATEWAY_BYTES_MAX: usize = 1 << 20;

/// The first pause before a retry; it doubles each time.
pub const RETRY_PAUSE_MS_MIN: u64 = 10;

/// The longest pause before a retry.
pub const RETRY_PAUSE_MS_MAX: u64 = 1000;
