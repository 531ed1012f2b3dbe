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
    /// Ticks that left timers for the next one, because more were due than a tick serves.
    TicksCutShort,
    /// Nanoseconds spent in turns, from waking up to sleeping again; `Turns` is their number.
    TurnNanos,
    /// The longest turn of the last whole second, in nanoseconds.
    TurnNanosMax,
    /// Turns in which something was due by the clock.
    Ticks,
    /// Nanoseconds that these came later than what was due.
    TickLatenessNanos,
    /// The latest of the last whole second, in nanoseconds.
    TickLatenessNanosMax,
    /// The most packets that waited for one turn, in the last whole second; `PacketsReceived` over `Turns` is the mean.
    QueueDepthMax,
    /// CPU time of the worker's thread in nanoseconds, as of the last whole second.
    CpuNanos,
    /// The mean turn of the last whole second, in nanoseconds.
    TurnNanosMean,
    /// The mean lateness of the last whole second's ticks, in nanoseconds.
    TickLatenessNanosMean,
    /// CPU time of the worker's thread in thousandths of the last whole second.
    CpuPermille,
    /// Of the packets received, those that came as frames, by AF_XDP.
    FramesReceived,
    /// Of the packets sent, those that left as frames.
    FramesSent,
    /// Frames that were no datagrams, or damaged.
    FramesRefused,
    /// Packets of a worker with AF_XDP that a socket sent, because no way to the peer was known, or none was free.
    FramesLeftToKernel,
    /// Frames handed to the worker that has their port open.
    FramesHandedOver,
    /// Frames dropped because that worker's queue was full.
    FramesHandedOverDropped,
    /// 1 while the worker has more to do than it should: see `Event::Overload`.
    Overloaded,
}

impl Counter {
    /// All of them, in the order of their place in the segment.
    pub const ALL: [Self; 29] = [
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
        Self::TicksCutShort,
        Self::TurnNanos,
        Self::TurnNanosMax,
        Self::Ticks,
        Self::TickLatenessNanos,
        Self::TickLatenessNanosMax,
        Self::QueueDepthMax,
        Self::CpuNanos,
        Self::TurnNanosMean,
        Self::TickLatenessNanosMean,
        Self::CpuPermille,
        Self::FramesReceived,
        Self::FramesSent,
        Self::FramesRefused,
        Self::FramesLeftToKernel,
        Self::FramesHandedOver,
        Self::FramesHandedOverDropped,
        Self::Overloaded,
    ];

    /// Whether it goes up and down; all others only rise while the dataplane lives.
    pub const fn is_gauge(self) -> bool {
        matches!(
            self,
            Self::TurnNanosMax
                | Self::TurnNanosMean
                | Self::TickLatenessNanosMax
                | Self::TickLatenessNanosMean
                | Self::QueueDepthMax
                | Self::CpuPermille
                | Self::Overloaded
        )
    }

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
            Self::TicksCutShort => "ticks_cut_short",
            Self::TurnNanos => "turn_nanoseconds",
            Self::TurnNanosMax => "turn_nanoseconds_max",
            Self::Ticks => "ticks",
            Self::TickLatenessNanos => "tick_lateness_nanoseconds",
            Self::TickLatenessNanosMax => "tick_lateness_nanoseconds_max",
            Self::QueueDepthMax => "queue_depth_max",
            Self::CpuNanos => "cpu_nanoseconds",
            Self::TurnNanosMean => "turn_nanoseconds_mean",
            Self::TickLatenessNanosMean => "tick_lateness_nanoseconds_mean",
            Self::CpuPermille => "cpu_permille",
            Self::FramesReceived => "frames_received",
            Self::FramesSent => "frames_sent",
            Self::FramesRefused => "frames_refused",
            Self::FramesLeftToKernel => "frames_left_to_kernel",
            Self::FramesHandedOver => "frames_handed_over",
            Self::FramesHandedOverDropped => "frames_handed_over_dropped",
            Self::Overloaded => "overloaded",
        }
    }
}
