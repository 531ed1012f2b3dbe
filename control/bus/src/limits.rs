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

/// Bytes of one request, reply or event over Redis; a longer request is refused, what is longer in a stream is left out
/// and counted as malformed.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Requests kept in one instance's stream (about: Redis trims by whole nodes). A serving instance refuses them as `busy`
/// long before; the rest is for one that has died and not yet been missed. The oldest go first.
pub const REQUESTS_KEPT_MAX: usize = 2 * INBOX_REQUESTS_MAX;

/// Replies kept in one process's stream; it reads them at once and trims them. The oldest go first.
pub const REPLIES_KEPT_MAX: usize = 16_384;

/// Events kept, for subscribers whose connection was away for a moment. The oldest go first.
pub const EVENTS_KEPT_MAX: usize = 16_384;

/// Announcements kept in the stream of news; whoever missed some reads the registry anew each second.
pub const NEWS_KEPT_MAX: usize = 1024;

/// Commands that wait for the connection; one more is refused as transient `busy`.
pub const OPERATIONS_MAX: usize = 16_384;

/// Commands in one pipeline.
pub const PIPELINE_COMMANDS_MAX: usize = 256;

/// Pipelines under way at once.
pub const PIPELINES_MAX: usize = 16;

/// Entries that a reader takes from a stream at once.
pub const READ_ENTRIES_MAX: usize = 128;

/// Answers and acknowledgements that wait for Redis to come back; the oldest go first.
pub const ANSWERS_WAITING_MAX: usize = 8192;

/// Failures in a row after which a callee is left alone for a while.
pub const BREAKER_FAILURES_MAX: u32 = 5;

/// How long a callee that failed so often is left alone, before one request tries it.
pub const BREAKER_OPEN_MS: u64 = 1000;

/// Requests with a key whose chosen instance is remembered, so that a retry finds it; the oldest go first.
pub const CHOICES_MAX: usize = 4096;
