//! The dialogs of one INVITE of ours. A proxy may fork it: several phones ring, each with an early dialog of its own, and
//! more than one may answer (RFC 3261 13.2.2.4). The first 2xx wins; each other is acknowledged and ended with BYE.
//!
//! Kept by the owner of the INVITE until its transaction is terminated: until then a 2xx may come again, and its ACK is
//! sent again.

use bytes::Bytes;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize};

use super::{Dialog, DialogId, Error};
use crate::message::{ByteStr, HeaderError, Name, Request, Response};
use crate::reliable::{self, Receiver, Verdict};
use crate::snapshot;

/// Dialogs kept of one INVITE. Responses of further forks are ignored and counted: no ring group is that large, and a
/// peer must not make us grow.
pub const FORKS_MAX: usize = 32;

/// What a response to our INVITE means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// 100, or a provisional response without a tag.
    Trying,
    /// A provisional response of this early dialog.
    Early {
        /// The fork.
        remote_tag: ByteStr,
        /// If it is reliable: act on it and send PRACK only on [`Verdict::Acknowledge`].
        reliable: Option<Verdict>,
    },
    /// The first 2xx: the call's dialog. Send ACK and tell [`Forks::acknowledged`].
    Answered(Box<Dialog>),
    /// Another fork's 2xx: send ACK, tell [`Forks::acknowledged`], and send BYE.
    Surplus(Box<Dialog>),
    /// A 2xx that was seen: send its ACK again, if it was sent already.
    Repeated {
        /// The ACK as it was sent.
        ack: Option<Bytes>,
    },
    /// 300 to 699: no dialog comes of it.
    Refused,
    /// One fork too many.
    Ignored,
}

/// One INVITE of ours and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forks {
    invite: Request,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few")]
    early: Vec<Early>,
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "few")]
    answered: Vec<Answered>,
    #[serde(skip)]
    ignored: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Early {
    dialog: Dialog,
    receiver: Receiver,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Answered {
    remote_tag: ByteStr,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "snapshot::wire::maybe")]
    ack: Option<Bytes>,
}

/// Of a snapshot: no more forks than are ever kept.
fn few<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Vec<T>, D::Error> {
    let damaged = || D::Error::custom(snapshot::SnapshotError::Damaged("too many forks"));
    Some(Vec::deserialize(deserializer)?).filter(|forks| forks.len() <= FORKS_MAX).ok_or_else(damaged)
}

impl Forks {
    /// For an INVITE that is being sent (its Via does not matter).
    pub fn new(mut invite: Request) -> Self {
        invite.body = Bytes::new();
        Self { invite, early: Vec::new(), answered: Vec::new(), ignored: 0 }
    }

    /// A response to it.
    pub fn receive(&mut self, response: &Response) -> Result<Heard, Error> {
        let remote_tag = DialogId::of_response(response)?.remote_tag;
        match response.status.get() {
            300.. => Ok(Heard::Refused),
            200..300 => self.receive_success(response, remote_tag),
            101..200 if !remote_tag.is_empty() => self.receive_provisional(response, remote_tag),
            _ => Ok(Heard::Trying),
        }
    }

    /// The ACK of a fork's 2xx was sent, as these bytes.
    pub fn acknowledged(&mut self, remote_tag: &str, ack: Bytes) {
        if let Some(answered) = self.answered.iter_mut().find(|answered| answered.remote_tag == *remote_tag) {
            answered.ack = Some(ack);
        }
    }

    /// An early dialog, for PRACK, UPDATE and requests of the peer in it.
    pub fn early_mut(&mut self, remote_tag: &str) -> Option<&mut Dialog> {
        self.early.iter_mut().map(|early| &mut early.dialog).find(|dialog| dialog.id().remote_tag == *remote_tag)
    }

    /// The early dialogs in the order they were made.
    pub fn early(&self) -> impl Iterator<Item = &Dialog> {
        self.early.iter().map(|early| &early.dialog)
    }

    /// Responses of forks beyond [`FORKS_MAX`].
    pub fn ignored(&self) -> u64 {
        self.ignored
    }

    fn receive_provisional(&mut self, response: &Response, remote_tag: ByteStr) -> Result<Heard, Error> {
        let at = match self.early.iter().position(|early| early.dialog.id().remote_tag == remote_tag) {
            Some(at) => at,
            // A late provisional of a fork that has answered opens nothing.
            None if self.answered.iter().any(|answered| answered.remote_tag == remote_tag) => return Ok(Heard::Trying),
            None if self.is_full() => return Ok(self.ignore()),
            None => {
                let dialog = Dialog::uac(&self.invite, response)?;
                self.early.push(Early { dialog, receiver: Receiver::default() });
                self.early.len() - 1
            }
        };
        let rseq = rseq_if_reliable(response)?;
        let reliable = self.early.get_mut(at).zip(rseq).map(|(early, rseq)| early.receiver.receive(rseq));
        Ok(Heard::Early { remote_tag, reliable })
    }

    fn receive_success(&mut self, response: &Response, remote_tag: ByteStr) -> Result<Heard, Error> {
        if let Some(answered) = self.answered.iter().find(|answered| answered.remote_tag == remote_tag) {
            return Ok(Heard::Repeated { ack: answered.ack.clone() });
        }
        let dialog = match self.early.iter().position(|early| early.dialog.id().remote_tag == remote_tag) {
            Some(at) => {
                // Read before the early dialog is given up: an unreadable 2xx leaves it.
                let mut dialog = self.early[at].dialog.clone();
                dialog.receive_response(response)?;
                self.early.remove(at);
                dialog
            }
            None if self.is_full() => return Ok(self.ignore()),
            None => Dialog::uac(&self.invite, response)?,
        };
        let is_first = self.answered.is_empty();
        self.answered.push(Answered { remote_tag, ack: None });
        Ok(if is_first { Heard::Answered(Box::new(dialog)) } else { Heard::Surplus(Box::new(dialog)) })
    }

    fn is_full(&self) -> bool {
        self.early.len() + self.answered.len() >= FORKS_MAX
    }

    fn ignore(&mut self) -> Heard {
        self.ignored += 1;
        Heard::Ignored
    }
}

fn rseq_if_reliable(response: &Response) -> Result<Option<u32>, HeaderError> {
    if response.headers.lists(Name::Require, reliable::OPTION_TAG) { response.headers.rseq() } else { Ok(None) }
}
