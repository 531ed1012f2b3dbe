//! Events: told to whoever listens, at least once, in the order each subject's were published.

use bytes::Bytes;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use crate::contract::Event;

/// The events from the moment of subscribing on. A subscriber that falls too far behind loses the oldest and can see it.
pub struct Subscription {
    events: broadcast::Receiver<Bytes>,
    lagged: u64,
    unreadable: u64,
}

impl Subscription {
    pub(crate) fn new(events: broadcast::Receiver<Bytes>) -> Self {
        Self { events, lagged: 0, unreadable: 0 }
    }

    /// The next event; none when the bus is gone. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Event> {
        loop {
            match self.events.recv().await {
                Ok(bytes) => match serde_json::from_slice(&bytes) {
                    Ok(event) => return Some(event),
                    Err(_) => self.unreadable += 1,
                },
                Err(RecvError::Lagged(count)) => self.lagged += count,
                Err(RecvError::Closed) => return None,
            }
        }
    }

    /// How many events this subscriber has lost because it was too slow.
    pub fn lagged(&self) -> u64 {
        self.lagged
    }

    /// How many events were not of the contract's shape (a newer peer's).
    pub fn unreadable(&self) -> u64 {
        self.unreadable
    }
}
