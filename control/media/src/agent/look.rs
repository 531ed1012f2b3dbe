//! What its own process asks the agent about streams, outside of any call.

use super::Agent;
use nebula_ring::command::StreamId;
use nebula_ring::srtp::SrtpConfig;

impl Agent {
    /// Whether a new call would find a worker that is not overloaded.
    pub fn takes_calls(&self) -> bool {
        self.workers.take_calls()
    }

    /// The keys of a stream as the dataplane was last told; none within if it is plain.
    pub fn keys(&self, id: StreamId) -> Option<Option<SrtpConfig>> {
        Some(self.streams.get(&id)?.config.srtp.clone())
    }
}
