//! What the switchboard asks for, and what came of what we asked it.

use std::time::Instant;

use nebula_bus::contract::to_proxy::*;
use nebula_bus::contract::{Accepted, CauseKind, ChannelId};
use nebula_bus::error::code::INVALID_PARAMS;
use nebula_bus::{Error, Request, dispatch};

use super::Edge;
use super::outbox::Told;
use crate::channel::{Command, cause, dtmf};

impl Edge {
    /// A request from the bus.
    pub fn command(&mut self, request: Request, now: Instant) {
        dispatch!(request; {
            ChannelDial => |dial, call| self.dial(dial, call, now),
            ChannelRing => |channel, call| call.reply(self.apply(&channel.channel_id, Command::Ring, now)),
            ChannelProgress => |progress, call| {
                let command = Command::Progress { code: progress.sip_code, sdp: progress.sdp };
                call.reply(self.apply(&progress.channel_id, command, now));
            },
            ChannelAnswer => |answer, call| {
                call.reply(self.apply(&answer.channel_id, Command::Answer { sdp: answer.sdp }, now));
            },
            ChannelReject => |reject, call| {
                let Reject { channel_id, sip_code, reason, retry_after_s } = reject;
                let command = Command::Reject { code: sip_code, reason, retry_after_s };
                call.reply(self.apply(&channel_id, command, now));
            },
            ChannelReinvite => |answer, call| {
                call.reply(self.apply(&answer.channel_id, Command::Reinvite { sdp: answer.sdp }, now));
            },
            ChannelDtmf => |dtmf, call| {
                let command = Command::Dtmf { digit: dtmf.digit, duration_ms: dtmf.duration_ms };
                call.reply(match dtmf::is_key(dtmf.digit) {
                    true => self.apply(&dtmf.channel_id, command, now),
                    false => Err(Error::permanent(INVALID_PARAMS, format!("no key {:?}", dtmf.digit))),
                });
            },
            ChannelHangup => |ended, call| {
                let command = Command::Hangup { cause: ended.cause, retry_after_s: None };
                // A leg that is gone has what was wanted.
                let done = match self.apply(&ended.channel_id, command, now) {
                    Err(error) if error.is(UNKNOWN_CHANNEL) => Ok(Accepted {}),
                    done => done,
                };
                call.reply(done);
            },
        });
    }

    fn apply(&mut self, id: &ChannelId, command: Command, now: Instant) -> Result<Accepted, Error> {
        let unknown = || Error::business(UNKNOWN_CHANNEL, format!("no channel {id}"));
        let key = self.legs.by_channel(id).ok_or_else(unknown)?;
        let leg = self.legs.get_mut(key).ok_or_else(unknown)?;
        let done = leg.command(command, &mut self.core, now);
        self.legs.settle(key);
        done.map(|()| Accepted {}).map_err(|error| Error::business(WRONG_STATE, error.to_string()))
    }

    /// A request of a leg to the switchboard came back.
    pub fn told(&mut self, told: Told, now: Instant) {
        let Told { leg: key, result, vital } = told;
        let Some(leg) = self.legs.get_mut(key) else { return };
        match result {
            Ok(invited) => leg.outbox.told(invited, key, &self.core),
            Err(error) if vital => {
                self.core.metrics.rpc_failed.increment(1);
                tracing::warn!(channel_id = %leg.channel.id, sip_call_id = %leg.sip_call_id, %error,
                    "the switchboard did not take it; the leg ends");
                leg.outbox.give_up();
                // Overload, a drain, a dead process: it may be better later. Else it is a fault of ours.
                let passes = error.is_transient() || error.retry_after_s.is_some();
                let cause = cause::own(if passes { 503 } else { 500 }, CauseKind::Internal, "");
                leg.abandon(cause, error.retry_after_s, &mut self.core, now);
            }
            Err(error) => {
                tracing::debug!(channel_id = %leg.channel.id, %error, "the switchboard did not take it");
                leg.outbox.told(None, key, &self.core);
            }
        }
        self.legs.settle(key);
    }
}

/// Business error: there is no such leg (any more).
pub const UNKNOWN_CHANNEL: &str = "unknown_channel";
/// Business error: the leg's state does not allow it.
pub const WRONG_STATE: &str = "wrong_state";
