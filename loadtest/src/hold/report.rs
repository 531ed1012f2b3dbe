//! What `report` and `sums` print: each call with both its ends, and the sums over all.

use super::record::{Entry, Handle, Stage, edit};
use super::{Board, origins};
use crate::media::{Heard, Media};
use serde_json::{Value, json};

/// Packets that may be under way, or wait for their turn, when one looks at both ends one after the other.
const UNDER_WAY_PACKETS: u64 = 10;

/// Both ends of a call as they are now.
pub struct Look {
    /// Caller, callee.
    heard: [Option<Heard>; 2],
    /// Whether it goes on.
    live: [bool; 2],
}

impl Look {
    /// Takes one.
    pub async fn at(handles: [Option<&Handle>; 2]) -> Self {
        let mut look = Self { heard: [None; 2], live: [false; 2] };
        for (end, handle) in handles.into_iter().enumerate() {
            let Some(handle) = handle else { continue };
            look.heard[end] = handle.probe.heard().await;
            look.live[end] = look.heard[end].is_some();
            if look.heard[end].is_none() {
                look.heard[end] = edit(&handle.record, |record| record.heard);
            }
        }
        look
    }

    /// How long one end has been hearing nothing of what its peer has said since. Each packet stands for `ptime_ns`, so that
    /// a peer that was late itself makes no silence.
    fn silent_ns(&self, end: usize, echoes: bool, ptime_ns: u64) -> u64 {
        let (Some(heard), Some(peer)) = (self.heard[end], self.heard[if echoes { end } else { 1 - end }]) else {
            return 0;
        };
        match heard.last.map(|last| peer.sent.saturating_sub(last + 1)) {
            None | Some(0) => 0,
            Some(missing) => heard.silent_ns.min((missing + 1) * ptime_ns),
        }
    }

    /// Packets that one end should have heard and hasn't, since the call's beginning.
    pub fn lost(&self, end: usize, echoes: bool) -> u64 {
        let (Some(heard), Some(peer)) = (self.heard[end], self.heard[if echoes { end } else { 1 - end }]) else {
            return 0;
        };
        let reached = heard.last.map_or(0, |last| last + 1);
        // What is sent to an end that has hung up is nobody's loss.
        let sent = if self.live[end] { peer.sent.saturating_sub(UNDER_WAY_PACKETS) } else { 0 };
        reached.max(sent).saturating_sub(heard.received)
    }
}

/// The whole answer to `report`, or with `each` unset to `sums`.
pub async fn report(board: &Board, media: &Media, each: bool) -> Value {
    let mut sums = Sums::default();
    let mut calls = Vec::new();
    for n in 0..board.len() {
        let Some((entry, handles)) = board.handles(n) else { continue };
        let look = Look::at([handles[0].as_ref(), handles[1].as_ref()]).await;
        let ends = [0, 1].map(|end| handles[end].as_ref().map(|handle| told(n, end, handle, &look, &entry, media)));
        let ends_told: Vec<&Told> = ends.iter().flatten().collect();
        sums.add(&entry, &ends_told);
        if each {
            let [caller, callee] = ends.map(|end| end.map_or(Value::Null, |told| told.json));
            calls.push(json!({
                "n": n, "trickled": entry.trickled, "doubled": entry.doubled, "caller": caller, "callee": callee,
            }));
        }
    }
    let mut sums = json!(sums);
    if each {
        sums["calls"] = calls.into();
    }
    sums
}

/// One end of a call.
struct Told {
    json: Value,
    stage: Stage,
    code: Option<u16>,
    is_caller: bool,
    sent: u64,
    received: u64,
    lost: u64,
    wrong: u64,
    gap_ms: f64,
    gap_over_unix_ms: f64,
    call: usize,
    crossed: bool,
    ssrc_changes: u64,
    sequence_breaks: u64,
    unauthentic: u64,
    indices_reused: u64,
    rollovers: u64,
    media_moved: u32,
    keys_changed: u32,
    unacknowledged: u32,
    ended_by_system: bool,
}

fn told(n: usize, end: usize, handle: &Handle, look: &Look, entry: &Flags, media: &Media) -> Told {
    let record = edit(&handle.record, |record| record.clone());
    let heard = look.heard[end].unwrap_or_default();
    let lost_in_all = handle.lost_at_end.unwrap_or_else(|| look.lost(end, entry.echoes));
    let lost = lost_in_all.saturating_sub(handle.lost_before);
    // A gap that isn't over yet, of a peer that should be heard.
    let silent_ns = look.silent_ns(end, entry.echoes, media.ptime_ms() as u64 * 1_000_000);
    let waits = look.live[end] && handle.lost_at_end.is_none();
    let (mut gap_ns, mut raw_ns, mut over_ns) = (heard.gap.ns, heard.gap.raw_ns, heard.gap.over_ns);
    if over_ns < handle.marked_ns {
        // Of a call that had ended before the mark: nothing measures it anew.
        (gap_ns, raw_ns) = (0, 0);
    }
    if waits && silent_ns > gap_ns {
        (gap_ns, raw_ns, over_ns) = (silent_ns, silent_ns, heard.last_ns + silent_ns);
    }
    let expected = origins(n)[if entry.echoes { end } else { 1 - end }];
    let crossed = heard.origin.is_some_and(|origin| origin != expected);
    let is_up_and_deaf = record.stage == Stage::Up && heard.origin.is_none();
    let (gap_ms, gap_over_unix_ms) = (gap_ns as f64 / 1e6, media.unix_ms(over_ns));
    let json = json!({
        "stage": record.stage,
        "sip_call_id": record.sip_call_id,
        "setup": record.setup,
        "ended": record.ended,
        "failure": record.failure,
        "sent": heard.sent,
        "received": heard.received,
        "lost": lost,
        "duplicates": heard.duplicates,
        "wrong": heard.wrong,
        "crossed": crossed,
        "deaf": is_up_and_deaf,
        "gap_ms": gap_ms,
        "gap_raw_ms": raw_ns as f64 / 1e6,
        "gap_over_unix_ms": gap_over_unix_ms,
        "ssrc_changes": heard.ssrc_changes,
        "sequence_breaks": heard.sequence_breaks,
        "sequence_ahead_max": heard.sequence_ahead_max,
        "unauthentic": heard.unauthentic,
        "indices_reused": heard.indices_reused,
        "rollovers": heard.rollovers,
        "media_moved": record.media_moved,
        "keys_changed": record.keys_changed,
        "unacknowledged": record.unacknowledged,
    });
    Told {
        json,
        stage: record.stage,
        code: record.setup.map(|setup| setup.code),
        is_caller: end == 0,
        sent: heard.sent,
        received: heard.received,
        lost,
        wrong: heard.wrong,
        gap_ms,
        gap_over_unix_ms,
        call: n,
        crossed: crossed || is_up_and_deaf,
        ssrc_changes: heard.ssrc_changes,
        sequence_breaks: heard.sequence_breaks,
        unauthentic: heard.unauthentic,
        indices_reused: heard.indices_reused,
        rollovers: heard.rollovers,
        media_moved: record.media_moved,
        keys_changed: record.keys_changed,
        unacknowledged: record.unacknowledged,
        ended_by_system: record.ended.is_some_and(|ended| !ended.by_us),
    }
}

/// What a call's entry says, without its handles.
pub struct Flags {
    /// See `Entry`.
    pub trickled: bool,
    /// See `Entry`.
    pub echoes: bool,
    /// See `Entry`.
    pub doubled: u32,
}

impl From<&Entry> for Flags {
    fn from(entry: &Entry) -> Self {
        Self { trickled: entry.trickled, echoes: entry.echoes, doubled: entry.doubled }
    }
}

/// Over all calls.
#[derive(Default, serde::Serialize)]
struct Sums {
    /// Calls whose caller is up, without those of trickles.
    up: u64,
    /// Calls in set-up.
    in_setup: u64,
    /// Calls that were refused, or never answered.
    refused: u64,
    /// Of these, those that nobody answered at all in the time of `--setup-timeout-s`.
    hanging: u64,
    /// Ends to which the system said BYE while their call's other end had not. Without trickles, as the next two.
    hung_up_by_system: u64,
    /// Calls of trickles: INVITEs for one whose called end was there already.
    trickles_doubled: u64,
    /// Calls of trickles to whose ends the system said BYE though their caller was answered. That the called end answered
    /// and nobody heard it, so that the caller was refused, is no loss of a call.
    trickles_hung_up: u64,
    /// Calls of trickles that heard another call, or nobody.
    trickles_crossed: u64,
    failed: u64,
    doubled: u64,
    packets_sent: u64,
    packets_received: u64,
    packets_lost: u64,
    packets_wrong: u64,
    /// Ends that heard another call, or are up and heard nobody.
    crossed: u64,
    /// Without trickles.
    gap_ms: f64,
    gap_over_unix_ms: f64,
    /// The call that had it.
    gap_call: usize,
    /// Whether its end that placed it.
    gap_is_callers: bool,
    ssrc_changes: u64,
    sequence_breaks: u64,
    /// Under SRTP, not made with the peer's key.
    packets_unauthentic: u64,
    /// Packets under an index that another packet had: nonces that were used twice.
    indices_reused: u64,
    /// How often ends heard a rollover counter go on.
    rollovers: u64,
    media_moved: u64,
    keys_changed: u64,
    unacknowledged: u64,
}

impl Sums {
    fn add(&mut self, entry: &Flags, ends: &[&Told]) {
        let told_by_system = ends.iter().filter(|end| end.ended_by_system).count();
        let told_by_us = ends.iter().any(|end| end.stage == Stage::Ended && !end.ended_by_system);
        let hung_up_by_system = if told_by_us { 0 } else { told_by_system as u64 };
        let crossed = ends.iter().filter(|end| end.crossed).count() as u64;
        if entry.trickled {
            let is_answered = ends.iter().any(|end| end.is_caller && end.code == Some(200));
            self.trickles_doubled += u64::from(entry.doubled > 0);
            self.trickles_hung_up += u64::from(hung_up_by_system > 0 && is_answered);
            self.trickles_crossed += u64::from(crossed > 0);
        } else {
            self.doubled += u64::from(entry.doubled);
            self.hung_up_by_system += hung_up_by_system;
            self.crossed += crossed;
        }
        for end in ends {
            if end.is_caller {
                self.up += u64::from(end.stage == Stage::Up && !entry.trickled);
                self.in_setup += u64::from(end.stage == Stage::Setup);
                self.refused += u64::from(end.stage == Stage::Refused);
                self.hanging += u64::from(end.stage == Stage::Refused && end.code == Some(0));
            }
            self.failed += u64::from(end.stage == Stage::Failed);
            self.packets_sent += end.sent;
            self.packets_received += end.received;
            self.packets_wrong += end.wrong;
            self.ssrc_changes += end.ssrc_changes;
            self.sequence_breaks += end.sequence_breaks;
            self.packets_unauthentic += end.unauthentic;
            self.indices_reused += end.indices_reused;
            self.rollovers += end.rollovers;
            self.media_moved += u64::from(end.media_moved);
            self.keys_changed += u64::from(end.keys_changed);
            self.unacknowledged += u64::from(end.unacknowledged);
            // Calls that begin and end all the time have losses at their edges; they are told one by one.
            if !entry.trickled {
                self.packets_lost += end.lost;
                if end.gap_ms > self.gap_ms {
                    (self.gap_ms, self.gap_over_unix_ms) = (end.gap_ms, end.gap_over_unix_ms);
                    (self.gap_call, self.gap_is_callers) = (end.call, end.is_caller);
                }
            }
        }
    }
}
