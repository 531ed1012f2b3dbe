//! What is known of a held call: written by its legs, read by the driver.

use super::client::Outcome;
use crate::media::{Heard, Probe};
use serde::Serialize;
use std::sync::{Arc, Mutex, PoisonError};

/// How far a leg is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Not answered yet.
    Setup,
    /// Answered.
    Up,
    /// Never answered.
    Refused,
    /// Cancelled while it rang.
    Cancelled,
    /// Hung up.
    Ended,
    /// Given up for what the system said, or for want of sockets.
    Failed,
}

/// A leg's BYE.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ended {
    /// Or the system's.
    pub by_us: bool,
    /// When the first BYE was sent or came.
    pub unix_ms: f64,
    /// What our own came to.
    pub outcome: Option<Outcome>,
}

/// A leg.
#[derive(Debug, Clone)]
pub struct Record {
    /// How far it is.
    pub stage: Stage,
    /// Its Call-ID.
    pub sip_call_id: String,
    /// How its INVITE ended.
    pub setup: Option<Outcome>,
    /// How it ended.
    pub ended: Option<Ended>,
    /// What it had heard at its end.
    pub heard: Option<Heard>,
    /// How often the other side named another address for its media.
    pub media_moved: u32,
    /// How often it named another key.
    pub keys_changed: u32,
    /// Answers of ours that got no ACK.
    pub unacknowledged: u32,
    /// Why it failed.
    pub failure: Option<String>,
}

/// Shared by a leg's task and the driver.
pub type Shared = Arc<Mutex<Record>>;

impl Record {
    /// Of a leg that begins.
    pub fn begin(sip_call_id: String) -> Shared {
        Arc::new(Mutex::new(Self {
            stage: Stage::Setup,
            sip_call_id,
            setup: None,
            ended: None,
            heard: None,
            media_moved: 0,
            keys_changed: 0,
            unacknowledged: 0,
            failure: None,
        }))
    }

    /// It cannot go on.
    pub fn fail(&mut self, why: String) {
        (self.stage, self.failure) = (Stage::Failed, Some(why));
    }
}

/// Reads or writes one.
pub fn edit<T>(record: &Shared, change: impl FnOnce(&mut Record) -> T) -> T {
    change(&mut record.lock().unwrap_or_else(PoisonError::into_inner))
}

/// A leg as the driver holds it.
#[derive(Clone)]
pub struct Handle {
    /// What it writes.
    pub record: Shared,
    /// Looks into its sound.
    pub probe: Probe,
    /// Asks it.
    pub orders: tokio::sync::mpsc::Sender<super::leg::Order>,
    /// Losses before the last mark.
    pub lost_before: u64,
    /// Losses when its call was hung up: what comes after that doesn't count.
    pub lost_at_end: Option<u64>,
    /// When the last mark was, as gaps are timed: one that was over by then was told before.
    pub marked_ns: u64,
}

impl Handle {
    /// Of an end that begins.
    pub fn new(record: Shared, probe: Probe, orders: tokio::sync::mpsc::Sender<super::leg::Order>) -> Self {
        Self { record, probe, orders, lost_before: 0, lost_at_end: None, marked_ns: 0 }
    }
}

/// A call: the end that placed it, and the one that answered it, if that is ours.
#[derive(Default)]
pub struct Entry {
    /// The end that placed it.
    pub caller: Option<Handle>,
    /// The end that answered it.
    pub callee: Option<Handle>,
    /// Whether it is of a trickle.
    pub trickled: bool,
    /// Whether nobody of ours answers it: it hears itself.
    pub echoes: bool,
    /// INVITEs for a call whose called end was there already.
    pub doubled: u32,
}

impl Entry {
    /// The ends that there are: 0 is the caller.
    pub fn ends(&mut self) -> impl Iterator<Item = (usize, &mut Handle)> {
        [&mut self.caller, &mut self.callee].into_iter().enumerate().filter_map(|(at, end)| Some((at, end.as_mut()?)))
    }
}
