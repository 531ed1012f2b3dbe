//! Taking up what the last process of this name left: once, before the first message is read.
//!
//! What was answered goes on. What was in set-up ends, for its callers wait and nobody knows how far it had come: 503 with
//! Retry-After to who called, CANCEL to whom we called (ACK and BYE, if the answer was faster), and the switchboard is
//! told by ordinary reports. Reports that nobody confirmed are sent again under their old keys.

use std::time::Instant;

use bytes::Bytes;
use nebula_bus::contract::CauseKind;
use nebula_bus::snapshots::Unreadable;
use nebula_sip::digest::SavedNonces;

use super::Edge;
use super::core::Core;
use super::leg::Leg;
use super::outbox::Message;
use super::secrets::{self, Clock, Secrets};
use super::snapshot::{self, SavedLeg};
use crate::channel::{Command, Failure, Peer, Report, Sent, State, Weight, cause};

/// What the last process of this name left.
pub struct Left {
    /// Its secrets, or new ones.
    pub secrets: Secrets,
    /// Its clock, or a new one.
    pub clock: Clock,
    /// The nonces it had in use.
    pub nonces: Option<SavedNonces>,
    /// Its legs.
    pub legs: Vec<SavedLeg>,
}

impl Left {
    /// Reads it. A snapshot of another version stops the start: another binary can still take it up. A damaged one is
    /// lost. `fresh` are secrets for the first start.
    pub fn read(restored: &[(String, Bytes)], fresh: Secrets, now: Instant) -> Result<Self, Unreadable> {
        let find = |key| restored.iter().find(|(found, _)| found == key).map(|(_, bytes)| bytes);
        let wall_unix_s = u64::try_from(nebula_store::now_unix_ms() / 1000).unwrap_or(0);
        let kept = readable(secrets::KEY, find(secrets::KEY), |bytes| secrets::decode(bytes, wall_unix_s, now))?;
        let (secrets, clock) = kept.unwrap_or((fresh, Clock::new(wall_unix_s, now)));
        let nonces = readable(secrets::NONCES_KEY, find(secrets::NONCES_KEY), secrets::decode_nonces)?;
        let mut legs = Vec::new();
        for (key, bytes) in restored.iter().filter(|(key, _)| key.starts_with(snapshot::KEY_PREFIX)) {
            legs.extend(readable(key, Some(bytes), snapshot::decode)?);
        }
        Ok(Self { secrets, clock, nonces, legs })
    }
}

fn readable<T>(
    key: &str,
    bytes: Option<&Bytes>,
    read: impl Fn(&[u8]) -> Result<T, Unreadable>,
) -> Result<Option<T>, Unreadable> {
    match bytes.map(|bytes| read(bytes)).transpose() {
        Err(error @ Unreadable::Version { .. }) => Err(error),
        Err(error) => {
            tracing::error!(key, %error, "a snapshot is lost");
            Ok(None)
        }
        read => read,
    }
}

impl Edge {
    /// Takes them up.
    pub fn restore(&mut self, saved: Vec<SavedLeg>, now: Instant) {
        let (mut lives, mut ends) = (0_usize, 0_usize);
        for saved in saved {
            let id = saved.id().clone();
            self.taken_up.insert(id.clone());
            let core = &mut self.core;
            let key = match self.legs.try_insert(|key| saved.resume(key, core, now)) {
                Ok(key) => key,
                Err(error) => {
                    tracing::error!(channel_id = %id, %error, "leg lost");
                    self.core.metrics.restored("lost");
                    self.core.snapshots.delete(snapshot::key(&id));
                    continue;
                }
            };
            if let Some(leg) = self.legs.get_mut(key) {
                (leg.is_saved, leg.is_claimed) = (true, false);
                let was_setup = leg.take_up(&mut self.core, now);
                self.core.metrics.restored(if was_setup { "ended" } else { "live" });
                *(if was_setup { &mut ends } else { &mut lives }) += 1;
            }
            self.settle(key, now);
            self.drain_outputs(now);
        }
        if lives + ends > 0 {
            tracing::info!(lives, ends, "legs taken up; those in set-up are ended");
        }
    }
}

impl Leg {
    /// The first thing that a leg does in a new process; says whether it was in set-up.
    fn take_up(&mut self, core: &mut Core, now: Instant) -> bool {
        let was_setup = self.channel.state().is_setup();
        if was_setup {
            let cause = cause::own(503, CauseKind::Crash, "");
            let retry_after_s = Some(core.options.retry_after_s);
            // Hanging up is possible in every state.
            let _ = self.command(Command::Hangup { cause: cause.clone(), retry_after_s }, core, now);
            if self.outbox.switchboard().is_some() {
                self.outbox.push(Message::Report(Report::Hangup(cause)), self.key, core);
            }
        }
        // What waits for an answer whose transaction was not kept would wait for ever.
        let is_under_way = |what: Sent| self.sent.iter().any(|(sent, _)| *sent == what);
        let lost = match self.channel.state() {
            State::Cancelling if !is_under_way(Sent::Invite) => Some((Sent::Invite, Failure::Timeout)),
            State::Ending if !is_under_way(Sent::Bye) => Some((Sent::Bye, Failure::Timeout)),
            State::Confirmed
                if self.channel.awaits_change() && !is_under_way(Sent::Reinvite) && !is_under_way(Sent::Update) =>
            {
                Some((Sent::Reinvite, Failure::Refused))
            }
            _ => None,
        };
        if let Some((of, why)) = lost {
            let reason = "Lost in a restart".to_owned();
            self.peer(Peer::Failure { of, why, code: 500, reason }, None, core, now);
        }
        self.outbox.wake(self.key, core, now);
        self.touch(Weight::Soon);
        was_setup
    }
}
