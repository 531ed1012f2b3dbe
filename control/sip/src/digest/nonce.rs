//! Nonces that prove themselves, and the counts of those in use.
//!
//! A nonce is time, a counter and an HMAC-SHA256 over both, in hexadecimal. Only nonces that were answered with the right
//! password are remembered, each with a window of the counts it was used with, so that a captured request cannot be
//! played again. RFC 7616 sections 3.3 (nonce) and 3.4 (nc).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use sha2::{Digest as _, Sha256};

/// Nonces whose counts are remembered. When there are more, the oldest are forgotten and count as expired.
pub const NONCES_TRACKED_MAX: usize = 65_536;
/// How far a count may lie behind the highest one: requests of one phone overtake each other.
const WINDOW: u32 = 64;

const STAMP_BYTES: usize = 16;
const MAC_BYTES: usize = 16;

/// What a nonce is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Ours, in time, and this count was not used before.
    Fresh,
    /// Expired, played again, or not ours: a new one is due (`stale=true`, if the password was right).
    Stale,
}

/// Issues nonces and judges those that come back.
#[derive(Debug)]
pub struct Nonces {
    secret: [u8; 16],
    lifetime_s: u64,
    issued: u64,
    /// By time of issue and counter, so that the oldest comes first.
    used: BTreeMap<Stamp, Window>,
    /// Nonces up to this one that are not in `used` were forgotten.
    forgotten: Option<Stamp>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Stamp {
    issued_unix_s: u64,
    counter: u64,
}

#[derive(Debug, Clone, Copy)]
struct Window {
    highest: u32,
    /// Bit n: `highest - n` was used.
    seen: u64,
}

/// [`Nonces`] in a snapshot, without their secret: the counter, and the newest windows as `(issued, counter, highest,
/// seen)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedNonces {
    issued: u64,
    used: Vec<(u64, u64, u32, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    forgotten: Option<(u64, u64)>,
}

/// Counters stay far below their end.
const COUNTER_MASK: u64 = u64::MAX >> 1;
/// Nonces that may have been issued between a snapshot and its process's end: the counter goes on beyond them.
const ISSUED_SINCE_MAX: u64 = 1 << 32;

impl Nonces {
    /// The state that a restart needs to know what was played already. Of the nonces in use the newest `newest` are
    /// kept; older ones then count as expired, and their phones are challenged once more.
    pub fn save(&self, newest: usize) -> SavedNonces {
        let cut = self.used.len().saturating_sub(newest);
        let last_cut = cut.checked_sub(1).and_then(|at| self.used.keys().nth(at)).copied();
        let forgotten = last_cut.max(self.forgotten).map(|stamp| (stamp.issued_unix_s, stamp.counter));
        let one =
            |(stamp, window): (&Stamp, &Window)| (stamp.issued_unix_s, stamp.counter, window.highest, window.seen);
        SavedNonces { issued: self.issued, used: self.used.iter().skip(cut).map(one).collect(), forgotten }
    }

    /// Goes on with the same secret. A use after the snapshot is not known of: such a request could be played once more.
    pub fn resume(secret: [u8; 16], lifetime_s: u32, saved: &SavedNonces) -> Self {
        let one = |&(issued_unix_s, counter, highest, seen): &(u64, u64, u32, u64)| {
            (Stamp { issued_unix_s, counter }, Window { highest, seen })
        };
        Self {
            secret,
            lifetime_s: lifetime_s.into(),
            issued: saved.issued.saturating_add(ISSUED_SINCE_MAX) & COUNTER_MASK,
            used: saved.used.iter().take(NONCES_TRACKED_MAX).map(one).collect(),
            forgotten: saved.forgotten.map(|(issued_unix_s, counter)| Stamp { issued_unix_s, counter }),
        }
    }

    /// With a random secret, which several proxies may share; nonces then hold at each of them.
    pub fn new(secret: [u8; 16], lifetime_s: u32) -> Self {
        Self { secret, lifetime_s: lifetime_s.into(), issued: 0, used: BTreeMap::new(), forgotten: None }
    }

    /// A new nonce.
    pub fn issue(&mut self, now_unix_s: u64) -> String {
        self.issued += 1;
        let stamp = Stamp { issued_unix_s: now_unix_s, counter: self.issued };
        let bytes = stamp.to_bytes();
        format!("{}{}", hex::encode(bytes), hex::encode(self.mac(&bytes)))
    }

    /// Judges a nonce that came back with the right password, and notes its use. `count` is none without `qop`: then the
    /// nonce holds for its whole life, for such clients cannot count.
    pub fn spend(&mut self, nonce: &str, count: Option<u32>, now_unix_s: u64) -> Freshness {
        let Some(stamp) = self.read(nonce) else { return Freshness::Stale };
        let is_alive =
            |stamp: &Stamp| stamp.issued_unix_s <= now_unix_s && now_unix_s - stamp.issued_unix_s < self.lifetime_s;
        if !is_alive(&stamp) || (self.forgotten >= Some(stamp) && !self.used.contains_key(&stamp)) {
            return Freshness::Stale;
        }
        let Some(count) = count else { return Freshness::Fresh };
        if let Some(window) = self.used.get_mut(&stamp) {
            return if window.take(count) { Freshness::Fresh } else { Freshness::Stale };
        }
        while self.used.first_key_value().is_some_and(|(oldest, _)| !is_alive(oldest)) {
            self.used.pop_first();
        }
        if self.used.len() >= NONCES_TRACKED_MAX {
            self.forgotten = self.used.pop_first().map(|(oldest, _)| oldest).max(self.forgotten);
        }
        self.used.insert(stamp, Window { highest: count, seen: 1 });
        Freshness::Fresh
    }

    fn read(&self, nonce: &str) -> Option<Stamp> {
        let mut bytes = [0; STAMP_BYTES + MAC_BYTES];
        hex::decode_to_slice(nonce, &mut bytes).ok()?;
        let (stamp, mac) = bytes.split_at(STAMP_BYTES);
        let differing = self.mac(stamp).iter().zip(mac).fold(0, |acc, (a, b)| acc | (a ^ b));
        if differing != 0 {
            return None;
        }
        let (issued, counter) = stamp.split_at(8);
        Some(Stamp {
            issued_unix_s: u64::from_be_bytes(issued.try_into().ok()?),
            counter: u64::from_be_bytes(counter.try_into().ok()?),
        })
    }

    fn mac(&self, stamp: &[u8]) -> [u8; MAC_BYTES] {
        let full = hmac_sha256(&self.secret, stamp);
        let mut cut = [0; MAC_BYTES];
        cut.copy_from_slice(&full[..MAC_BYTES]);
        cut
    }
}

impl Stamp {
    fn to_bytes(self) -> [u8; STAMP_BYTES] {
        (u128::from(self.issued_unix_s) << 64 | u128::from(self.counter)).to_be_bytes()
    }
}

impl Window {
    /// Notes a count; whether it was new.
    fn take(&mut self, count: u32) -> bool {
        if count > self.highest {
            let ahead = count - self.highest;
            self.seen = if ahead < WINDOW { self.seen << ahead | 1 } else { 1 };
            self.highest = count;
            return true;
        }
        let behind = self.highest - count;
        let is_new = behind < WINDOW && self.seen & (1 << behind) == 0;
        if is_new {
            self.seen |= 1 << behind;
        }
        is_new
    }
}

/// RFC 2104 with SHA-256, for keys of at most one block.
fn hmac_sha256(key: &[u8], message: &[u8]) -> [u8; 32] {
    let pad = |byte: u8| {
        let mut block = [byte; 64];
        block.iter_mut().zip(key).for_each(|(b, k)| *b ^= k);
        block
    };
    let inner = Sha256::new().chain_update(pad(0x36)).chain_update(message).finalize();
    Sha256::new().chain_update(pad(0x5c)).chain_update(inner).finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn nonces() -> Nonces {
        Nonces::new([7; 16], 300)
    }

    /// RFC 4231 section 4.2 (test case 1).
    #[test]
    fn the_hmac_is_right() {
        assert_eq!(
            hex::encode(hmac_sha256(&[0x0b; 20], b"Hi There")),
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
        );
    }

    #[test]
    fn a_nonce_lives_its_time_and_cannot_be_forged() {
        let mut nonces = nonces();
        let nonce = nonces.issue(NOW);
        assert_ne!(nonce, nonces.issue(NOW));
        assert_eq!(nonces.spend(&nonce, None, NOW + 299), Freshness::Fresh);
        assert_eq!(nonces.spend(&nonce, None, NOW + 300), Freshness::Stale);
        assert_eq!(nonces.spend(&nonce, None, NOW - 1), Freshness::Stale);
        assert_eq!(Nonces::new([8; 16], 300).spend(&nonce, None, NOW), Freshness::Stale);
        let first = if nonce.starts_with('0') { "1" } else { "0" };
        for forged in [format!("{first}{}", &nonce[1..]), String::new(), "x".to_owned(), format!("{nonce}00")] {
            assert_eq!(nonces.spend(&forged, None, NOW), Freshness::Stale, "{forged}");
        }
    }

    #[test]
    fn no_count_is_taken_twice_but_requests_may_overtake_each_other() {
        let mut nonces = nonces();
        let nonce = nonces.issue(NOW);
        let mut spend = |count| nonces.spend(&nonce, Some(count), NOW) == Freshness::Fresh;
        for (count, fresh) in
            [(1, true), (1, false), (3, true), (2, true), (2, false), (3, false), (100, true), (37, true), (36, false)]
        {
            assert_eq!(spend(count), fresh, "{count}");
        }
        assert!(spend(u32::MAX) && !spend(u32::MAX) && !spend(100));
    }

    #[test]
    fn a_restart_knows_what_was_played_and_repeats_no_nonce() {
        let mut nonces = nonces();
        let all: Vec<String> = (0..5).map(|_| nonces.issue(NOW)).collect();
        for nonce in &all[..4] {
            assert_eq!(nonces.spend(nonce, Some(1), NOW), Freshness::Fresh);
        }
        let text = serde_json::to_string(&nonces.save(3)).unwrap();
        let mut again = Nonces::resume([7; 16], 300, &serde_json::from_str(&text).unwrap());
        assert_eq!(again.spend(&all[3], Some(1), NOW), Freshness::Stale, "played");
        assert_eq!(again.spend(&all[3], Some(2), NOW), Freshness::Fresh);
        assert_eq!(again.spend(&all[0], Some(2), NOW), Freshness::Stale, "forgotten");
        assert_eq!(again.spend(&all[4], Some(1), NOW), Freshness::Fresh, "issued before, used first after");
        assert!(!all.contains(&again.issue(NOW)));
        let hostile = SavedNonces { issued: u64::MAX, used: vec![(0, 0, 0, 0)], forgotten: Some((1, 1)) };
        Nonces::resume([7; 16], 300, &hostile).issue(NOW);
    }

    #[test]
    fn the_table_is_bounded_and_what_it_forgets_counts_as_expired() {
        let mut nonces = nonces();
        let all: Vec<String> = (0..NONCES_TRACKED_MAX + 2).map(|_| nonces.issue(NOW)).collect();
        for nonce in &all {
            assert_eq!(nonces.spend(nonce, Some(1), NOW), Freshness::Fresh);
        }
        assert_eq!(nonces.used.len(), NONCES_TRACKED_MAX);
        assert_eq!(nonces.spend(&all[0], Some(2), NOW), Freshness::Stale);
        assert_eq!(nonces.spend(&all[2], Some(2), NOW), Freshness::Fresh);
        // What expired makes room.
        let later = nonces.issue(NOW + 400);
        assert_eq!(nonces.spend(&later, Some(1), NOW + 400), Freshness::Fresh);
        assert_eq!(nonces.used.len(), 1);
    }
}
