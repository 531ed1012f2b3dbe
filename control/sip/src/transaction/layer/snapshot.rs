//! Transactions over a restart: each is saved by itself, with what it has to send again and what is left of its timers,
//! and taken up by a new layer under a new id.
//!
//! The new layer needs the old one's keys ([`Layer::with_keys`]). Connections are gone: what went over one goes to where
//! the peer listens. A request of ours that waits for its answer is sent again at once, since nobody knows whether
//! the last sending left; so is a CANCEL.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::entry::{AnyMachine, Cancel, Transaction};
use super::super::key::Key;
use super::super::table::TransactionId;
use super::super::{client, invite_client, invite_server, server};
use super::Layer;
use crate::flow::Flow;
use crate::message::{Message, Method};
use crate::snapshot::{self, Left, Resume, SnapshotError};
use crate::timers::{Base, Pace, Timer};

/// A transaction in a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTransaction {
    machine: AnyMachine,
    flow: Flow,
    key: Key,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    merge: Option<Key>,
    /// The request (client) or the latest response (server).
    #[serde(with = "snapshot::wire")]
    kept: Bytes,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    repeat: Option<(Timer, Left)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<(Timer, Left)>,
    #[serde(default)]
    doublings: u8,
    #[serde(default = "no_cancel", skip_serializing_if = "is_no_cancel")]
    cancel: Cancel,
}

fn no_cancel() -> Cancel {
    Cancel::None
}

fn is_no_cancel(cancel: &Cancel) -> bool {
    *cancel == Cancel::None
}

impl Layer {
    /// A transaction as it is now; `None` if it is gone. CANCELs of ours are saved with their INVITE.
    pub fn save(&self, id: TransactionId, now: Instant) -> Option<SavedTransaction> {
        let transaction = self.table.get(id).filter(|transaction| !transaction.is_own)?;
        let left = |timer: Option<(Timer, Instant)>| timer.map(|(timer, at)| (timer, Left::of(at, now)));
        Some(SavedTransaction {
            machine: transaction.machine,
            flow: transaction.flow,
            key: transaction.key,
            merge: transaction.merge_key,
            kept: transaction.kept.clone(),
            repeat: left(transaction.repeat),
            deadline: left(transaction.deadline),
            doublings: transaction.doublings,
            cancel: transaction.cancel.clone(),
        })
    }

    /// The transactions that the user knows of, for saving all of them.
    pub fn ids(&self) -> impl Iterator<Item = TransactionId> {
        self.table.iter().filter(|(_, transaction)| !transaction.is_own).map(|(id, _)| id)
    }

    /// Takes a transaction up again and returns its new id. Drain the outputs afterwards.
    pub fn resume(&mut self, saved: SavedTransaction, resume: &Resume) -> Result<TransactionId, SnapshotError> {
        saved.check(&self.options.timers)?;
        if self.by_key.contains_key(&saved.key) {
            return Err(SnapshotError::Duplicate);
        }
        let at = |timer: Option<(Timer, Left)>| timer.map(|(timer, left)| (timer, resume.at(left)));
        let machine = saved.machine;
        let cancel = match (machine, saved.cancel) {
            (AnyMachine::InviteClient(invite_client::State::Proceeding), Cancel::Done) => Cancel::Wanted(None),
            (_, cancel) => cancel,
        };
        let transaction = Transaction {
            machine,
            flow: reachable(saved.flow, machine, &saved.kept),
            key: saved.key,
            merge_key: saved.merge,
            kept: saved.kept,
            repeat: at(saved.repeat),
            deadline: at(saved.deadline),
            doublings: saved.doublings,
            queued: None,
            cancel,
            is_own: false,
        };
        let full = SnapshotError::Full { transactions_max: self.options.transactions_max };
        let id = self.table.insert(transaction).ok_or(full)?;
        self.by_key.insert(saved.key, id);
        if let Some(merge_key) = saved.merge {
            self.by_merge_key.insert(merge_key, id);
        }
        if waits_for_answer(machine) {
            let again = self.table.get(id).and_then(|transaction| transaction.transmit(id));
            self.counters.retransmissions += u64::from(again.is_some());
            self.outputs.extend(again);
        }
        self.wake_in_time(id);
        self.send_wanted_cancel(resume.now, id);
        Ok(id)
    }
}

impl SavedTransaction {
    /// Whether a layer could have written it. Above all, each state that a timer must end has that timer.
    fn check(&self, base: &Base) -> Result<(), SnapshotError> {
        let damaged = |what| Err(SnapshotError::Damaged(what));
        let (deadline, repeat) = (self.deadline.map(|(timer, _)| timer), self.repeat.map(|(timer, _)| timer));
        if !self.machine.runs(deadline, repeat) {
            return damaged("a transaction without its timers");
        }
        // Twice, for the one that wrote it may have been told another T1.
        let bound = |timer: Timer| match timer.repeats() {
            true => Some(base.lifetime() * 2),
            false => base.duration(timer, Pace::First, 0, false).map(|runs| runs * 2),
        };
        let is_long = |&(timer, left): &(Timer, Left)| bound(timer).is_none_or(|bound| left.duration() > bound);
        if [self.deadline, self.repeat].iter().flatten().any(is_long) {
            return damaged("a timer that is too long");
        }
        let is_invite = matches!(self.machine, AnyMachine::InviteClient(_) | AnyMachine::InviteServer(_));
        match (Message::parse(self.kept.clone()), self.machine) {
            (Ok(Message::Request(request)), AnyMachine::InviteClient(_) | AnyMachine::Client(_))
                if (request.method == Method::Invite) == is_invite =>
            {
                Ok(())
            }
            (Ok(Message::Response(_)), AnyMachine::InviteServer(_) | AnyMachine::Server(_)) => Ok(()),
            (
                _,
                AnyMachine::Server(server::State::Trying) | AnyMachine::InviteServer(invite_server::State::Proceeding),
            ) if self.kept.is_empty() => Ok(()),
            _ => damaged("a transaction without its message"),
        }
    }
}

impl AnyMachine {
    /// Whether these timers may run in this state, after RFC 3261 figures 5 to 8 and RFC 6026.
    #[rustfmt::skip]
    fn runs(self, deadline: Option<Timer>, repeat: Option<Timer>) -> bool {
        use Timer::*;
        match self {
            AnyMachine::InviteClient(state) => match state {
                invite_client::State::Calling    => deadline == Some(B) && matches!(repeat, None | Some(A)),
                invite_client::State::Proceeding => matches!(deadline, Some(C | Abandon)) && repeat.is_none(),
                invite_client::State::Accepted   => deadline == Some(M) && repeat.is_none(),
                invite_client::State::Completed  => deadline == Some(D) && repeat.is_none(),
                invite_client::State::Terminated => false,
            },
            AnyMachine::Client(state) => match state {
                client::State::Trying | client::State::Proceeding
                                                 => deadline == Some(F) && matches!(repeat, None | Some(E)),
                client::State::Completed         => deadline == Some(K) && repeat.is_none(),
                client::State::Terminated        => false,
            },
            AnyMachine::InviteServer(state) => match state {
                invite_server::State::Proceeding => deadline.is_none() && matches!(repeat, None | Some(Trying)),
                invite_server::State::Accepted   => deadline == Some(L) && repeat.is_none(),
                invite_server::State::Completed  => deadline == Some(H) && matches!(repeat, None | Some(G)),
                invite_server::State::Confirmed  => deadline == Some(I) && repeat.is_none(),
                invite_server::State::Terminated => false,
            },
            AnyMachine::Server(state) => match state {
                server::State::Trying | server::State::Proceeding => deadline.is_none() && repeat.is_none(),
                server::State::Completed         => deadline == Some(J) && repeat.is_none(),
                server::State::Terminated        => false,
            },
        }
    }
}

/// Whether a request of ours is out and not answered finally.
fn waits_for_answer(machine: AnyMachine) -> bool {
    matches!(
        machine,
        AnyMachine::InviteClient(invite_client::State::Calling)
            | AnyMachine::Client(client::State::Trying | client::State::Proceeding)
    )
}

/// The flow without its connection. An answer then goes to where its Via says that the peer listens (18.2.2).
fn reachable(mut flow: Flow, machine: AnyMachine, kept: &Bytes) -> Flow {
    flow.connection = 0;
    if flow.protocol.is_reliable()
        && matches!(machine, AnyMachine::InviteServer(_) | AnyMachine::Server(_))
        && let Ok(Message::Response(response)) = Message::parse(kept.clone())
        && let Ok(via) = response.headers.via_top()
    {
        let ip = via.received().or(via.host.ip()).unwrap_or(flow.remote.ip());
        flow.remote = SocketAddr::new(ip, via.port_or_default());
    }
    flow
}
