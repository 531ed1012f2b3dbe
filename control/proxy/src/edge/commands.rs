//! What the switchboard asks for, and what came of what we asked it.

use std::time::Instant;

use nebula_bus::contract::to_proxy::*;
use nebula_bus::contract::{Accepted, CauseKind, ChannelId};
use nebula_bus::error::code::INVALID_PARAMS;
use nebula_bus::{Category, Error, Request, dispatch};

use super::Edge;
use super::legs::LegKey;
use super::outbox::{Outcome, Told};
use crate::channel::{Command, Weight, cause, dtmf};

impl Edge {
    /// A request from the bus.
    pub fn command(&mut self, request: Request, now: Instant) {
        let fence = request.context().fence;
        dispatch!(request; {
            ChannelDial => |dial, call| self.dial(dial, call, now),
            ChannelRing => |channel, call| call.reply(self.apply(&channel.channel_id, Command::Ring, fence, now)),
            ChannelProgress => |progress, call| {
                let command = Command::Progress { code: progress.sip_code, sdp: progress.sdp };
                call.reply(self.apply(&progress.channel_id, command, fence, now));
            },
            ChannelAnswer => |answer, call| {
                call.reply(self.apply(&answer.channel_id, Command::Answer { sdp: answer.sdp }, fence, now));
            },
            ChannelReject => |reject, call| {
                let Reject { channel_id, sip_code, reason, retry_after_s } = reject;
                let command = Command::Reject { code: sip_code, reason, retry_after_s };
                call.reply(self.apply(&channel_id, command, fence, now));
            },
            ChannelReinvite => |answer, call| {
                call.reply(self.apply(&answer.channel_id, Command::Reinvite { sdp: answer.sdp }, fence, now));
            },
            ChannelDtmf => |dtmf, call| {
                let command = Command::Dtmf { digit: dtmf.digit, duration_ms: dtmf.duration_ms };
                call.reply(match dtmf::is_key(dtmf.digit) {
                    true => self.apply(&dtmf.channel_id, command, fence, now),
                    false => Err(Error::permanent(INVALID_PARAMS, format!("no key {:?}", dtmf.digit))),
                });
            },
            ChannelHangup => |ended, call| {
                let command = Command::Hangup { cause: ended.cause, retry_after_s: None };
                // A leg that is gone has what was wanted.
                let done = match self.apply(&ended.channel_id, command, fence, now) {
                    Err(error) if error.is(UNKNOWN_CHANNEL) => Ok(Accepted {}),
                    done => done,
                };
                call.reply(done);
            },
            ChannelAdopt => |adopt, call| call.reply(self.adopt(adopt, now)),
        });
    }

    fn apply(&mut self, id: &ChannelId, command: Command, fence: Option<u64>, now: Instant) -> Result<Accepted, Error> {
        let unknown = || Error::business(UNKNOWN_CHANNEL, format!("no channel {id}"));
        let key = self.legs.by_channel(id).ok_or_else(unknown)?;
        let leg = self.legs.get_mut(key).ok_or_else(unknown)?;
        leg.admit(fence)?;
        let done = leg.command(command, &mut self.core, now);
        self.settle(key, now);
        done.map(|()| Accepted {}).map_err(|error| Error::business(WRONG_STATE, error.to_string()))
    }

    /// A switchboard is the owner of these legs, from now on or again. One that was so before gets none of them.
    fn adopt(&mut self, adopt: Adopt, now: Instant) -> Result<Adopted, Error> {
        let Adopt { switchboard, fence, channels } = adopt;
        let keys: Vec<_> = channels.iter().map(|(id, _)| self.legs.by_channel(id)).collect();
        for key in keys.iter().flatten() {
            if let Some(leg) = self.legs.get_mut(*key) {
                leg.admit(Some(fence))?;
            }
        }
        let phases = channels.into_iter().zip(keys).map(|((id, call_id), key)| {
            let Some((key, leg)) = key.and_then(|key| Some((key, self.legs.get_mut(key)?))) else {
                return (id, Phase::Gone);
            };
            tracing::debug!(%call_id, channel_id = %id, %switchboard, fence, "leg adopted");
            leg.outbox.adopted(switchboard.clone(), call_id, key, &self.core);
            leg.touch(Weight::Now);
            let phase = leg.phase();
            self.settle(key, now);
            (id, phase)
        });
        let channels = phases.collect();
        self.drain_outputs(now);
        Ok(Adopted { channels })
    }

    /// The owner said whether it still has the call of a leg that was taken up. If it ended while we were away, or at the
    /// very moment of our end, nobody else will end the leg.
    pub fn asked_after(&mut self, key: LegKey, result: Result<(), Error>, now: Instant) {
        let Some(leg) = self.legs.get_mut(key) else { return };
        match result {
            Ok(()) => leg.is_claimed = true,
            Err(error) if error.category == Category::Business && !leg.is_claimed => {
                tracing::warn!(channel_id = %leg.channel.id, sip_call_id = %leg.sip_call_id, %error,
                    "its switchboard has no such call; the leg ends");
                self.core.metrics.legs_orphaned.increment(1);
                leg.outbox.give_up();
                leg.abandon(cause::own(503, CauseKind::Crash, ""), None, &mut self.core, now);
            }
            Err(error) => tracing::debug!(channel_id = %leg.channel.id, %error, "asked after again later"),
        }
        self.settle(key, now);
    }

    /// A request of a leg to the switchboard came back.
    pub fn told(&mut self, told: Told, now: Instant) {
        let key = told.leg;
        let Some(leg) = self.legs.get_mut(key) else { return };
        let channel_id = leg.channel.id.clone();
        match leg.outbox.told(told, &self.core, now) {
            Outcome::Stale => {}
            // Without it a report is repeated under its old key.
            Outcome::Taken(None) => leg.touch(Weight::Soon),
            Outcome::Taken(Some(_)) => {
                leg.touch(Weight::Now);
                if let Some(open) = &leg.open {
                    self.core.setups.taken(open.id, now);
                }
            }
            Outcome::Again(error) => tracing::debug!(%channel_id, %error, "the switchboard is told again later"),
            Outcome::Passed(error) => tracing::debug!(%channel_id, %error, "the switchboard did not take it"),
            Outcome::Fatal(error) => {
                self.core.metrics.rpc_failed.increment(1);
                tracing::warn!(%channel_id, sip_call_id = %leg.sip_call_id, %error,
                    "the switchboard did not take it; the leg ends");
                leg.outbox.give_up();
                // Overload, a drain, a dead process: it may be better later. Else it is a fault of ours.
                let passes = error.is_transient() || error.retry_after_s.is_some();
                let cause = cause::own(if passes { 503 } else { 500 }, CauseKind::Internal, "");
                leg.abandon(cause, error.retry_after_s, &mut self.core, now);
            }
        }
        self.settle(key, now);
    }
}

/// Business error: there is no such leg (any more).
pub const UNKNOWN_CHANNEL: &str = "unknown_channel";
/// Business error: the leg's state does not allow it.
pub const WRONG_STATE: &str = "wrong_state";
