//! What a worker counts for the whole of itself, by its place in the segment. The order is ABI: append only.

/// What a worker counts apart from its streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Turns of the loop, that is system calls.
    Turns,
    /// Packets received on all sockets.
    PacketsReceived,
    /// Packets handed to the kernel to send.
    PacketsSent,
    /// Packets that the kernel refused to send.
    SendFailed,
    /// Packets not sent because a cap of the turn was reached.
    SendOverflow,
    /// Times that a receive stopped because no buffer was free.
    BuffersExhausted,
    /// Receives armed anew, for whatever reason.
    Rearmed,
    /// Completions for sockets that were closed already.
    Stale,
    /// Commands that did not parse.
    CommandsMalformed,
    /// Times that the command ring had to be emptied because it made no sense.
    CommandResyncs,
    /// Events dropped because the event ring was full.
    EventsDropped,
}

impl Counter {
    /// All of them, in the order of their place in the segment.
    pub const ALL: [Self; 11] = [
        Self::Turns,
        Self::PacketsReceived,
        Self::PacketsSent,
        Self::SendFailed,
        Self::SendOverflow,
        Self::BuffersExhausted,
        Self::Rearmed,
        Self::Stale,
        Self::CommandsMalformed,
        Self::CommandResyncs,
        Self::EventsDropped,
    ];

    /// Its name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Turns => "turns",
            Self::PacketsReceived => "packets_received",
            Self::PacketsSent => "packets_sent",
            Self::SendFailed => "send_failed",
            Self::SendOverflow => "send_overflow",
            Self::BuffersExhausted => "buffers_exhausted",
            Self::Rearmed => "rearmed",
            Self::Stale => "stale_completions",
            Self::CommandsMalformed => "commands_malformed",
            Self::CommandResyncs => "command_resyncs",
            Self::EventsDropped => "events_dropped",
        }
    }
}
