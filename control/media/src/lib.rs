//! The media agent: the one place that reads SDP, and the dataplane's only client.
//!
//! Answers `stream.*` and `bridge.*` (see `nebula_bus::contract::to_media`) and reports streams to the switchboards that
//! own them. A step of a call comes in at `service`, is decided by `agent` (sans-IO: `offer_answer`, `placement`, `nat`),
//! and goes out by `ring_client`; `reconcile` and `metrics` read the dataplane's stream tables.
//!
//! The agent may end and start again at any time: the dataplane keeps every stream flowing.
#![forbid(unsafe_code)]

pub mod agent;
pub mod error;
mod metrics;
pub mod nat;
pub mod offer_answer;
pub mod options;
pub mod placement;
pub mod reconcile;
pub mod ring_client;
mod route;
mod service;
mod stats;

pub use options::{Error, Options};

use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::{Bus, Membership};
use nebula_ring::command::StreamId;
use nebula_ring::srtp::SrtpConfig;
use ring_client::RingClient;
use service::Service;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a stop waits for the last snapshots to be kept.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// A running media agent. Dropping it leaves the agent running.
pub struct Handle {
    service: Arc<Service>,
    instance: InstanceId,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// Says the SRTP keys of streams. Who has one decides whom they are said to: they are on no bus.
#[derive(Clone)]
pub struct Keys(Arc<Service>);

impl Keys {
    /// Those of a stream; none within if it is plain, none at all if the agent does not have it.
    pub fn of(&self, stream: u64) -> Option<Option<SrtpConfig>> {
        self.0.keys(StreamId(stream))
    }
}

/// Starts an agent. It serves at once and is ready when it has attached to the dataplane, which it keeps trying.
pub async fn start(options: Options, bus: Bus, member: Membership) -> Result<Handle, Error> {
    options.check()?;
    let instance = member.instance.clone();
    let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
    let timeout = Duration::from_millis(options.command_timeout_ms.into());
    let (ring, news, stay_attached) = RingClient::new(options.dataplane_socket.clone(), timeout, stop.clone());
    let inbox = bus.serve(Role::Media, instance.clone());
    let service = Arc::new(Service::new(options, bus, member, ring, stop.clone()));
    tasks.spawn(stay_attached);
    tasks.spawn(service.clone().run(inbox, news));
    tasks.close();
    Ok(Handle { service, instance, stop, tasks })
}

impl Handle {
    /// Its name on the bus.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Whether it can take new streams: attached to a dataplane, and not draining.
    pub fn ready(&self) -> bool {
        self.service.is_ready()
    }

    /// What says the keys of its streams.
    pub fn keys(&self) -> Keys {
        Keys(self.service.clone())
    }

    /// No new calls from the service queue. Requests addressed to this agent are still answered, so that the calls it
    /// has can end (or grow a leg).
    pub fn drain(&self) {
        self.service.drain();
    }

    /// Waits until it owns no stream.
    pub async fn drained(&self) {
        // The sender lives in `self`.
        let _ = self.service.streams().wait_for(|count| *count == 0).await;
    }

    /// Waits until all that is to survive this process is kept elsewhere.
    pub async fn kept(&self) {
        self.service.kept().await;
    }

    /// Stops it. Streams that are left flow on in the dataplane.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
        // What has ended must not come back; but nobody waits for a keep that is away.
        let _ = tokio::time::timeout(FLUSH_TIMEOUT, self.service.kept()).await;
    }
}
