//! Streams on their way from one worker to another: two legs that met have to live together. The agent places the legs of a call
//! together from the start, so this is for those that meet later, one or two in a call's life.
//!
//! The worker that gives a stream away has what its sockets' receives had taken handled first, then closes its own descriptors;
//! the sockets stay bound by second ones, with all that comes meanwhile queued in them. The stream's configuration and its last
//! record are all that the other worker needs: it goes on as after a restart, with the sockets it was given. What protects it
//! goes along as it is (rollover counters, replay windows, the next index, the key before): so no number is left out and no
//! late packet refused.

use nebula_core::srtp::Keys;
use nebula_ring::command::{StreamConfig, StreamId};
use nebula_ring::table::StreamRecord;
use rustix::fd::OwnedFd;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Streams that may wait for a worker. One more is refused, and stays where it is.
const MIGRANTS_MAX: usize = 64;

/// A stream between two workers.
#[derive(Debug)]
pub struct Migrant {
    /// Its name.
    pub id: StreamId,
    /// As control last set it.
    pub config: StreamConfig,
    /// As it stood.
    pub record: StreamRecord,
    /// What protects it, if anything does. Some 4 KiB, so not among those that wait.
    pub keys: Option<Box<Keys>>,
    /// Its sockets, by their addresses.
    pub sockets: [Option<(SocketAddr, OwnedFd)>; 2],
}

/// The ways to all workers.
#[derive(Debug, Clone)]
pub struct Post(Arc<[Mailbox]>);

#[derive(Debug)]
struct Mailbox {
    sender: SyncSender<Migrant>,
    /// Ends the worker's wait.
    wakeup: OwnedFd,
}

impl Post {
    /// A mailbox for each worker, and what it reads from.
    pub fn new(wakeups: impl IntoIterator<Item = OwnedFd>) -> (Self, Vec<Receiver<Migrant>>) {
        let (boxes, receivers): (Vec<_>, Vec<_>) = wakeups
            .into_iter()
            .map(|wakeup| {
                let (sender, receiver) = sync_channel(MIGRANTS_MAX);
                (Mailbox { sender, wakeup }, receiver)
            })
            .unzip();
        (Self(boxes.into()), receivers)
    }

    /// Whether there is such a worker.
    pub fn reaches(&self, worker: usize) -> bool {
        worker < self.0.len()
    }

    /// Sends a stream; it comes back if the worker has too many waiting.
    #[expect(
        clippy::result_large_err,
        reason = "it is given back where there is no room, and a box would cost each that moves"
    )]
    pub fn send(&self, worker: usize, migrant: Migrant) -> Result<(), Migrant> {
        let Some(mailbox) = self.0.get(worker) else { return Err(migrant) };
        mailbox.sender.try_send(migrant).map_err(|error| match error {
            std::sync::mpsc::TrySendError::Full(migrant) | std::sync::mpsc::TrySendError::Disconnected(migrant) => {
                migrant
            }
        })?;
        // It fails only if the counter is full, and then the worker is awake already.
        let _ = rustix::io::write(&mailbox.wakeup, &1u64.to_ne_bytes());
        Ok(())
    }
}
