//! The stream table: what every stream of a worker is and has seen. Written by the worker alone, each entry under a sequence
//! lock; read by control without asking, with bounded retries; it outlives either process.
//!
//! The engine keeps a `StreamRecord` per stream and publishes it at the end of a turn in which it changed: 96 relaxed words.

use crate::command::StreamId;
use crate::drops::{DROP_REASONS, DropCounters};
use crate::word::Word;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Words of an entry: the sequence, then the record.
pub const ENTRY_WORDS: usize = 96;
const RECORD_WORDS: usize = ENTRY_WORDS - 1;
/// Where the record's first field stands.
const ID_WORD: usize = 1;
const _: () = assert!(std::mem::offset_of!(StreamRecord, id) == 0);
/// Drop counters an entry has room for.
const DROPS_ROOM: usize = 32;
const _: () = assert!(DROP_REASONS <= DROPS_ROOM);
const _: () = assert!(size_of::<StreamRecord>() == RECORD_WORDS * 8);
const _: () = assert!(ENTRY_WORDS * 8 == 768, "twelve cache lines an entry");

/// SRTP sources that an entry shows of those received, the one heard last first.
pub const SRTP_SOURCES_IN: usize = 4;
/// SRTP sources that an entry shows of those sent: all that a key was ever used for.
pub const SRTP_SOURCES_OUT: usize = 8;

/// Attempts at a consistent read before an entry is passed over: a writer needs well under a microsecond.
const READ_ATTEMPTS_MAX: usize = 64;

/// The stream lives. Down once it was destroyed: the entry then shows its final counts until another stream needs it.
pub const FLAG_OPEN: u32 = 1 << 0;
/// The stream's peer is known; its packets flow.
pub const FLAG_LATCHED: u32 = 1 << 1;
/// No RTP came for the stream's timeout, and none since.
pub const FLAG_TIMED_OUT: u32 = 1 << 2;
/// The stream echoes while it has no bridge.
pub const FLAG_ECHO: u32 = 1 << 3;
/// The RTCP port of the stream's peer is known, apart from its RTP port.
pub const FLAG_RTCP_LATCHED: u32 = 1 << 4;
/// RTP from the peer is let in, as negotiated.
pub const FLAG_RECEIVE: u32 = 1 << 5;
/// RTP to the peer is let out, as negotiated. Down while the peer has us on hold.
pub const FLAG_SEND: u32 = 1 << 6;

/// One stream, as it stands in the table. Times are CLOCK_MONOTONIC in milliseconds, zero for never.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct StreamRecord {
    /// The `StreamId`; zero in a free entry.
    pub id: u64,
    /// The stream it is bridged with, or zero.
    pub bridged_with: u64,
    /// `FLAG_*`.
    pub flags: u32,
    /// Our RTP port.
    pub rtp_port: u16,
    /// Our RTCP port, equal to `rtp_port` with rtcp-mux.
    pub rtcp_port: u16,
    /// Our address; IPv4 is written as mapped. See `local_rtp`.
    pub local_ip: [u8; 16],
    /// Where RTP goes. See `remote_rtp`.
    pub remote_rtp_ip: [u8; 16],
    /// Where RTCP goes. See `remote_rtcp`.
    pub remote_rtcp_ip: [u8; 16],
    /// Zero while unknown.
    pub remote_rtp_port: u16,
    /// Zero while unknown.
    pub remote_rtcp_port: u16,
    /// The peer's SSRC, as last accepted.
    pub ssrc_in: u32,
    /// The SSRC of what was last sent to the peer.
    pub ssrc_out: u32,
    /// Highest sequence number received, with its cycles in the upper half (RFC 3550 A.1).
    pub sequence_in_highest: u32,
    /// Sequence number last sent.
    pub sequence_out_last: u32,
    /// RTP timestamp last received.
    pub timestamp_in_last: u32,
    /// RTP timestamp last sent.
    pub timestamp_out_last: u32,
    /// SRTP rollover counter, receiving (RFC 3711 3.3.1).
    pub rollover_in: u32,
    /// SRTP rollover counter, sending.
    pub rollover_out: u32,
    /// Interarrival jitter now (RFC 3550 A.8), in microseconds.
    pub jitter_us: u32,
    /// RTP packets accepted from the peer.
    pub packets_in: u64,
    /// Their UDP payload bytes.
    pub bytes_in: u64,
    /// RTP packets sent to the peer.
    pub packets_out: u64,
    /// Their UDP payload bytes.
    pub bytes_out: u64,
    /// Expected and not received (RFC 3550 A.3); negative when duplicates outnumber losses.
    pub lost: i64,
    /// Came later than a higher sequence number.
    pub reordered: u64,
    /// Came twice.
    pub duplicated: u64,
    /// The highest jitter seen, in microseconds.
    pub jitter_us_max: u64,
    /// RTCP packets received.
    pub rtcp_in: u64,
    /// RTCP packets sent.
    pub rtcp_out: u64,
    /// When the stream was created.
    pub created_at_ms: u64,
    /// When RTP was last accepted.
    pub rtp_in_at_ms: u64,
    /// Refused packets by reason, in the order of `DropReason::ALL`. See `drops`.
    pub drop_counts: [u64; DROPS_ROOM],
    /// Times the peer began anew with another SSRC or sequence.
    pub source_changes: u64,
    /// The SSRC of our own source (echo).
    pub own_ssrc: u32,
    /// The highest sequence number that our own source has sent.
    pub own_sequence_last: u32,
    /// Its RTP timestamp.
    pub own_timestamp_last: u32,
    /// The clock of that timestamp.
    pub own_clock_rate_hz: u32,
    /// Packets that our own source has sent, modulo 2^32 (RFC 3550 6.4.1).
    pub own_packets: u32,
    /// Their payload bytes, modulo 2^32.
    pub own_octets: u32,
    /// When it last spoke.
    pub own_sent_at_ms: u64,
    /// The payload type last accepted, as the peer numbers it. Means nothing before the first packet.
    pub payload_type_in: u8,
    /// The payload type last refused because it was not negotiated. Means nothing before the first such packet.
    pub payload_type_refused: u8,
    /// The port of the source last refused, or zero. See `refused_source`.
    pub refused_port: u16,
    /// The clock of `payload_type_in`; zero before the first packet.
    pub clock_rate_in_hz: u32,
    /// The address of the source last refused.
    pub refused_ip: [u8; 16],
    /// Times that the network said the peer's port or host cannot be reached (ICMP).
    pub unreachable: u64,
    /// When it last did.
    pub unreachable_at_ms: u64,
    /// The serial of the SRTP key that the following say something of, receiving; zero without one. No key is ever shown.
    pub srtp_key_in: u32,
    /// The same, sending.
    pub srtp_key_out: u32,
    /// The peer's sources.
    pub srtp_ssrc_in: [u32; SRTP_SOURCES_IN],
    /// Of each, the SRTCP index after the highest that was read; zero before the first.
    pub srtcp_next_in: [u32; SRTP_SOURCES_IN],
    /// Of each, the packet index (rollover counter and sequence number) after the highest that was read; zero before the first.
    pub srtp_next_in: [u64; SRTP_SOURCES_IN],
    /// The sources that we protect.
    pub srtp_ssrc_out: [u32; SRTP_SOURCES_OUT],
    /// Of each, the highest packet index that may have been used: never less than what was sent. Zero for none.
    pub srtp_used_out: [u64; SRTP_SOURCES_OUT],
    /// The highest SRTCP index that may have been used, in all sources together.
    pub srtcp_used_out: u32,
    /// What is put over the SSRCs of what we protect (exclusive or). Zero, unless an agent and its dataplane died together: the
    /// successor cannot know which indices were used, and under other SSRCs none is.
    pub srtp_rename_out: u32,
    /// Room for more; zero.
    pub reserved: [u64; 5],
}

impl StreamRecord {
    /// Whose record it is, unless the entry is free.
    pub fn stream(&self) -> Option<StreamId> {
        (self.id != 0).then_some(StreamId(self.id))
    }

    /// Whether the stream lives.
    pub fn is_open(&self) -> bool {
        self.is(FLAG_OPEN)
    }

    /// All of it as words, to be kept elsewhere.
    pub fn words(&self) -> [u64; ENTRY_WORDS - 1] {
        zerocopy::transmute!(*self)
    }

    /// A record that was kept.
    pub fn from_words(words: [u64; ENTRY_WORDS - 1]) -> Self {
        zerocopy::transmute!(words)
    }

    /// Our RTP address.
    pub fn local_rtp(&self) -> SocketAddr {
        SocketAddr::new(unmapped(self.local_ip), self.rtp_port)
    }

    /// The peer's RTP address, once known.
    pub fn remote_rtp(&self) -> Option<SocketAddr> {
        (self.remote_rtp_port != 0).then(|| SocketAddr::new(unmapped(self.remote_rtp_ip), self.remote_rtp_port))
    }

    /// The peer's RTCP address, once known.
    pub fn remote_rtcp(&self) -> Option<SocketAddr> {
        (self.remote_rtcp_port != 0).then(|| SocketAddr::new(unmapped(self.remote_rtcp_ip), self.remote_rtcp_port))
    }

    /// Who was last refused as a stranger, or as somebody who has yet to prove to be the peer.
    pub fn refused_source(&self) -> Option<SocketAddr> {
        (self.refused_port != 0).then(|| SocketAddr::new(unmapped(self.refused_ip), self.refused_port))
    }

    /// Writes it.
    pub fn set_refused_source(&mut self, source: Option<SocketAddr>) {
        (self.refused_ip, self.refused_port) = source.map_or(([0; 16], 0), |from| (mapped(from.ip()), from.port()));
    }

    /// Writes our address.
    pub fn set_local(&mut self, ip: IpAddr, rtp_port: u16, rtcp_port: u16) {
        (self.local_ip, self.rtp_port, self.rtcp_port) = (mapped(ip), rtp_port, rtcp_port);
    }

    /// Writes the peer's RTP address.
    pub fn set_remote_rtp(&mut self, remote: Option<SocketAddr>) {
        (self.remote_rtp_ip, self.remote_rtp_port) = remote.map_or(([0; 16], 0), |to| (mapped(to.ip()), to.port()));
    }

    /// Writes the peer's RTCP address.
    pub fn set_remote_rtcp(&mut self, remote: Option<SocketAddr>) {
        (self.remote_rtcp_ip, self.remote_rtcp_port) = remote.map_or(([0; 16], 0), |to| (mapped(to.ip()), to.port()));
    }

    /// Refused packets by reason.
    pub fn drops(&self) -> DropCounters {
        let mut drops = DropCounters::default();
        drops.0.copy_from_slice(&self.drop_counts[..DROP_REASONS]);
        drops
    }

    /// Writes them.
    pub fn set_drops(&mut self, drops: &DropCounters) {
        self.drop_counts[..DROP_REASONS].copy_from_slice(&drops.0);
    }

    /// Whether a flag is up.
    pub fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    /// Puts a flag up or down.
    pub fn set(&mut self, flag: u32, up: bool) {
        self.flags = if up { self.flags | flag } else { self.flags & !flag };
    }
}

/// A worker's table where it lies.
#[derive(Debug, Clone, Copy)]
pub struct Table<'a, W = std::sync::atomic::AtomicU64, const ENTRY: usize = ENTRY_WORDS> {
    /// The entries.
    pub entries: &'a [[W; ENTRY]],
}

impl<W: Word> Table<'_, W> {
    /// Publishes a stream's record. Only the worker that owns the table may call it. An index beyond the table is ignored.
    pub fn write(&self, index: usize, record: &StreamRecord) {
        let Some(entry) = self.entries.get(index) else { return };
        let words: &[u64; RECORD_WORDS] = zerocopy::transmute_ref!(record);
        write_locked(entry, words);
    }

    /// A consistent copy of an entry, of a living stream or the last that had it; none if it never had one, or if its writer kept writing (or died while writing).
    pub fn read(&self, index: usize) -> Option<StreamRecord> {
        let words: [u64; RECORD_WORDS] = read_locked(self.entries.get(index)?)?;
        let record: StreamRecord = zerocopy::transmute!(words);
        (record.id != 0).then_some(record)
    }

    /// All streams alive.
    pub fn iter(&self) -> impl Iterator<Item = StreamRecord> + '_ {
        self.all().filter(|record| record.is(FLAG_OPEN))
    }

    /// Streams alive, and those destroyed whose entries have not been reused yet.
    pub fn all(&self) -> impl Iterator<Item = StreamRecord> + '_ {
        (0..self.entries.len()).filter_map(|index| self.read(index))
    }

    /// The entries that a dead writer has left, even the one it died over: that one may be of two moments, each word true of
    /// one of them. Only for a table that nobody writes any more.
    pub fn remains(&self) -> impl Iterator<Item = StreamRecord> + '_ {
        self.entries.iter().filter_map(|entry| {
            // Relaxed: the writer's end was learned from the kernel, which orders its stores before.
            let words: [u64; RECORD_WORDS] = std::array::from_fn(|word| entry[word + 1].load(Relaxed));
            let record: StreamRecord = zerocopy::transmute!(words);
            (record.id != 0 && record.is(FLAG_OPEN)).then_some(record)
        })
    }

    /// One stream, alive or just destroyed, by a walk over the table: a word of each entry, and all of the one.
    pub fn find(&self, id: StreamId) -> Option<StreamRecord> {
        // Relaxed: only a hint, `read` decides.
        let may_be = |index: &usize| self.entries[*index][ID_WORD].load(Relaxed) == id.0;
        (0..self.entries.len()).filter(may_be).filter_map(|index| self.read(index)).find(|record| record.id == id.0)
    }
}

/// `entry[0]` is the sequence: odd while a write is under way.
fn write_locked<W: Word, const ENTRY: usize>(entry: &[W; ENTRY], record: &[u64]) {
    let sequence = entry[0].load(Relaxed);
    let odd = sequence | 1;
    entry[0].store(odd, Relaxed);
    // Release: pairs with the Acquire fence in `read_locked`; who sees a word below also sees the odd sequence.
    W::fence(Release);
    for (word, value) in entry[1..].iter().zip(record) {
        word.store(*value, Relaxed);
    }
    // Release: pairs with the Acquire load in `read_locked`; who sees the even sequence sees all words.
    entry[0].store(odd.wrapping_add(1), Release);
}

fn read_locked<W: Word, const ENTRY: usize, const RECORD: usize>(entry: &[W; ENTRY]) -> Option<[u64; RECORD]> {
    (0..READ_ATTEMPTS_MAX).find_map(|_| {
        let record = read_attempt(entry);
        if record.is_none() {
            std::hint::spin_loop();
        }
        record
    })
}

fn read_attempt<W: Word, const ENTRY: usize, const RECORD: usize>(entry: &[W; ENTRY]) -> Option<[u64; RECORD]> {
    // Acquire: pairs with the Release store in `write_locked`.
    let before = entry[0].load(Acquire);
    if before & 1 == 1 {
        return None;
    }
    let mut record = [0; RECORD];
    for (value, word) in record.iter_mut().zip(&entry[1..]) {
        *value = word.load(Relaxed);
    }
    // Acquire: pairs with the Release fence in `write_locked`.
    W::fence(Acquire);
    (entry[0].load(Relaxed) == before).then_some(record)
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn unmapped(octets: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(octets).to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, AtomicU64};

    fn table(entries: usize) -> Vec<[AtomicU64; ENTRY_WORDS]> {
        (0..entries).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect()
    }

    #[test]
    fn what_is_written_is_read_and_free_entries_are_skipped() {
        let entries = table(4);
        let table = Table { entries: &entries };
        let mut record = StreamRecord { id: 7, packets_in: 3, lost: -2, ..Default::default() };
        record.set_local("127.0.0.1".parse().unwrap(), 4000, 4001);
        record.set_remote_rtp(Some("[2001:db8::1]:9".parse().unwrap()));
        record.set(FLAG_LATCHED | FLAG_OPEN, true);
        table.write(2, &record);
        table.write(9, &record);
        assert_eq!(table.iter().collect::<Vec<_>>(), [record]);
        let read = table.find(StreamId(7)).unwrap();
        assert_eq!(read.local_rtp().to_string(), "127.0.0.1:4000");
        assert_eq!(read.remote_rtp().unwrap().to_string(), "[2001:db8::1]:9");
        assert_eq!(read.remote_rtcp(), None);
        assert!(read.is(FLAG_LATCHED) && !read.is(FLAG_TIMED_OUT));
        record.set(FLAG_OPEN, false);
        table.write(2, &record);
        assert_eq!(table.iter().count(), 0);
        assert_eq!(table.find(StreamId(7)), Some(record));
    }

    #[test]
    fn a_writer_that_died_while_writing_costs_the_entry_and_no_more() {
        let entries = table(1);
        let table = Table { entries: &entries };
        table.write(0, &StreamRecord { id: 1, ..Default::default() });
        entries[0][0].store(5, Relaxed);
        assert_eq!(table.read(0), None);
        assert_eq!(table.remains().count(), 0, "it was not open");
        entries[0][3].store(FLAG_OPEN.into(), Relaxed);
        assert_eq!(table.remains().map(|record| record.id).collect::<Vec<_>>(), [1]);
        table.write(0, &StreamRecord { id: 2, ..Default::default() });
        assert_eq!(table.read(0).unwrap().id, 2);
    }

    #[test]
    fn readers_never_see_half_a_record() {
        let entries = table(1);
        let (stop, started) = (AtomicBool::new(false), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let table = Table { entries: &entries };
                let mut n = 1;
                while !stop.load(Relaxed) {
                    let record =
                        StreamRecord { id: n, packets_in: n, bytes_out: n, own_sent_at_ms: n, ..Default::default() };
                    table.write(0, &record);
                    started.store(true, Relaxed);
                    n += 1;
                }
            });
            let table = Table { entries: &entries };
            while !started.load(Relaxed) {
                std::thread::yield_now();
            }
            let mut read = 0;
            while read < 20_000 {
                let Some(record) = table.read(0) else { continue };
                assert_eq!([record.packets_in, record.bytes_out, record.own_sent_at_ms], [record.id; 3]);
                read += 1;
            }
            stop.store(true, Relaxed);
        });
    }

    /// A writer that is killed after any of its stores leaves a whole record, or an entry that is passed over.
    #[test]
    fn loom_a_writer_dies_anywhere_and_nothing_torn_is_read() {
        use loom::sync::atomic::AtomicU64;
        /// Ignores what its writer stores after its death.
        struct Mortal(AtomicU64, std::sync::Arc<std::sync::atomic::AtomicU32>);

        impl Word for Mortal {
            fn load(&self, ordering: std::sync::atomic::Ordering) -> u64 {
                self.0.load(ordering)
            }

            fn store(&self, value: u64, ordering: std::sync::atomic::Ordering) {
                // Relaxed, and not of loom: it is the model's own count.
                if self.1.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    self.0.store(value, ordering);
                }
            }

            fn fence(ordering: std::sync::atomic::Ordering) {
                loom::sync::atomic::fence(ordering);
            }
        }

        // Two records of two words: an odd sequence, the words, an even sequence, twice.
        for life in 0..=8 {
            loom::model(move || {
                let left = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(life));
                let entry =
                    loom::sync::Arc::new(std::array::from_fn::<_, 3, _>(|_| Mortal(AtomicU64::new(0), left.clone())));
                let theirs = entry.clone();
                let writer = loom::thread::spawn(move || {
                    write_locked(&theirs, &[1, 1]);
                    write_locked(&theirs, &[2, 2]);
                });
                let seen: Option<[u64; 2]> = read_attempt(&entry);
                assert!(seen.is_none_or(|[a, b]| a == b), "{seen:?}");
                writer.join().unwrap();
                let last: Option<[u64; 2]> = read_attempt(&entry);
                assert!(last.is_none_or(|[a, b]| a == b), "{last:?}");
                assert_eq!(last.is_some(), life % 4 == 0, "unreadable only if it died over it");
            });
        }
    }

    #[test]
    fn loom_a_record_is_never_torn() {
        loom::model(|| {
            use loom::sync::atomic::AtomicU64;
            let entry = loom::sync::Arc::new(std::array::from_fn::<_, 3, _>(|_| AtomicU64::new(0)));
            let theirs = entry.clone();
            let writer = loom::thread::spawn(move || {
                write_locked(&theirs, &[1, 1]);
                write_locked(&theirs, &[2, 2]);
            });
            let read: Option<[u64; 2]> = read_attempt(&entry);
            if let Some([a, b]) = read {
                assert_eq!(a, b);
            }
            writer.join().unwrap();
        });
    }
}
