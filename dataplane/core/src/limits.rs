//! Every cap of the engine, named, with its derivation and what happens beyond it.

use nebula_ring::command::PAYLOAD_TYPES_MAX;

/// Sizes chosen by the operator, fixed for the engine's life: all memory is taken in `Engine::new`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Streams of this worker, 1 to `STREAMS_MAX`. One more is refused with `Reason::TableFull`.
    pub streams_max: u32,
}

impl Default for Limits {
    /// 2,000 calls of two legs: what one core relays with room to spare.
    fn default() -> Self {
        Self { streams_max: 4096 }
    }
}

/// The most streams a worker may be configured for: 30,000 UDP port pairs per address, rounded up.
pub const STREAMS_MAX: u32 = 1 << 15;

/// Streams that must be destroyed after one before its index is given away again, while fresh ones are left: so long its
/// final statistics can be read.
pub const REUSE_DISTANCE: usize = 256;

/// The longest packet that is looked at: an Ethernet frame's UDP payload. Longer ones are `drop_too_long`.
pub const PACKET_BYTES_MAX: usize = 1500 - 20 - 8;

/// In-order packets of one source that prove it to be the peer behind NAT (RFC 3550 A.1 asks two of any source).
pub const LATCH_PACKETS: u8 = 4;

/// How long the source that has proved itself must then talk without a pause before it is the peer: five packets of 20 ms,
/// less their jitter.
pub const LATCH_STEADY_MS: u64 = 90;

/// What is a pause: longer than any packet time in use, shorter than what a sprayer of all ports needs for a round.
pub const LATCH_PAUSE_MS: u64 = 150;

/// Packets that come sooner than this after the last are no further proof: who sprays all ports sends bursts, who talks does
/// not.
pub const LATCH_SPACING_MS: u64 = 5;

/// Packets that sources may have relayed before they have lasted, and packets that may be sent to them: each so many for a
/// stream, whoever tries how often.
pub const TRIAL_PACKETS: u8 = 5;

/// How long a peer must be silent before it may be found again at another port (`StreamConfig::relatch_interval_ms`).
pub const RELATCH_SILENCE_MS: u64 = 1_000;

/// How long after a change the SRTP key before it is still believed: packets in flight, and a peer that changes when it has
/// our answer. Some round trips.
pub const KEY_OVERLAP_MS: u64 = 2_000;

/// Foreign sources that are watched at once while the latch is open. When another comes, the least proven one goes.
pub const LATCH_CANDIDATES_MAX: usize = 4;

/// RFC 3550 A.1: packets in sequence before a source is valid.
pub const MIN_SEQUENTIAL: u16 = 2;

/// RFC 3550 A.1: the largest jump forward that still counts as loss, in packets (a minute at 50 a second).
pub const MAX_DROPOUT: u16 = 3000;
const _: () = assert!(nebula_ring::command::RESUME_SEQUENCE_AHEAD < MAX_DROPOUT / 2);

/// RFC 3550 A.1: the farthest back that a packet still counts as late, in packets.
pub const MAX_MISORDER: u16 = 100;

/// How far back duplicates are told from late packets, in packets: one bit each. Covers `MAX_MISORDER`.
pub const DUPLICATE_WINDOW: u16 = 128;
const _: () = assert!(DUPLICATE_WINDOW as u32 == u128::BITS && DUPLICATE_WINDOW > MAX_MISORDER);

/// RFC 3550 6.2: the least mean interval between our reports. Its bandwidth rule never asks for more of two members:
/// 2 x 128 bytes each 5 s are 410 bit/s, less than 5% of the slowest codec we relay (8 kbit/s).
pub const RTCP_INTERVAL_MS_MIN: u64 = 5_000;
const _: () = assert!(2 * RTCP_BYTES_MAX as u64 * 8 * 1000 / RTCP_INTERVAL_MS_MIN <= 8_000 / 20 + 100);

/// The longest RTCP packet we make: SR with one block (52), SDES with CNAME (40), BYE (8), rounded up.
pub const RTCP_BYTES_MAX: usize = 128;

/// Packets in a compound that are looked at; a longer one is `drop_bad_rtcp`.
pub const RTCP_COMPOUND_MAX: usize = 32;

/// Timers served in one tick; the rest are served in the next, which `next_timeout` asks for at once.
pub const TIMERS_PER_TICK_MAX: usize = 1024;

/// Slots of the timer wheel, 1 ms each. A timer farther away is looked at once per revolution.
pub const WHEEL_SLOTS: usize = 4096;
const _: () = assert!(WHEEL_SLOTS.is_power_of_two() && WHEEL_SLOTS.is_multiple_of(64));

const _: () = assert!(PAYLOAD_TYPES_MAX <= 16, "found by linear search");
