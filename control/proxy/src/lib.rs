//! The SIP edge: transports, transactions, registrar, routing and channels; one side SIP, the other the bus.
//!
//! [`start`] opens the sockets and the bus inbox and runs one actor (`edge`) that owns all legs. A request's path is
//! [`transport`] -> transaction layer of the SIP crate -> `edge/gate` (validate, authenticate, look up, `route`) ->
//! `edge/calls` -> `channel` -> `edge/outbox` -> switchboard; what the switchboard asks for comes by `edge/commands`
//! to the channel, and out as SIP by `edge/leg`.

#![forbid(unsafe_code)]

mod admission;
mod channel;
mod edge;
#[doc(hidden)]
pub mod fuzzing;
mod metrics;
pub mod options;
mod registrar;
mod route;
pub mod transport;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use nebula_bus::contract::InstanceId;
use nebula_bus::snapshots::Unreadable;
use nebula_bus::{Bus, Membership};
use nebula_store::Store;
use thiserror::Error;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use edge::{Edge, Input, Left, Parts, Secrets, Status};
use transport::{BindError, Inbound, Transports};

pub use options::{Options, OutOfRange};

/// How long an edge that ends waits for its keep.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// Why the edge did not start.
#[derive(Debug, Error)]
pub enum Error {
    /// An option is out of its range.
    #[error(transparent)]
    Options(#[from] OutOfRange),
    /// A socket could not be opened.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The system gave no random bytes.
    #[error("no random bytes from the system: {0}")]
    Random(getrandom::Error),
    /// What the last process of this name kept is of another version.
    #[error(transparent)]
    Snapshot(#[from] Unreadable),
}

/// A running edge. Dropping it leaves the edge running; [`Handle::stop`] ends it.
#[derive(Debug)]
pub struct Handle {
    instance: InstanceId,
    local_addr: SocketAddr,
    inputs: mpsc::UnboundedSender<Input>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

/// Open sockets that nobody answers on yet: what comes waits, or is dropped when too much waits.
pub struct Bound {
    options: Options,
    transports: Transports,
    inbound: mpsc::Receiver<Inbound>,
}

/// Opens the sockets, so that a taken port is known before anything else is started. Install the metrics recorder before,
/// or nothing is counted.
pub async fn bind(options: Options) -> Result<Bound, Error> {
    options.check()?;
    let (transports, inbound) = Transports::bind(options.transport()).await?;
    Ok(Bound { options, transports, inbound })
}

/// Opens the sockets and begins to answer.
pub async fn start(options: Options, bus: Bus, store: Store, member: Membership) -> Result<Handle, Error> {
    bind(options).await?.serve(bus, store, member)
}

impl Bound {
    /// Begins to answer.
    pub fn serve(self, bus: Bus, store: Store, member: Membership) -> Result<Handle, Error> {
        let Self { options, transports, inbound } = self;
        let mut random = [[0; 16]; 4];
        for seed in &mut random {
            getrandom::fill(seed).map_err(Error::Random)?;
        }
        let [branches, tags, transactions, nonces] = random;
        let left = Left::read(&member.restored, Secrets { transactions, nonces }, Instant::now())?;
        let ip = options.listen.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let local_addr = SocketAddr::new(ip, transports.port());
        let instance = member.instance.clone();
        let (status, watcher) = watch::channel(Status::default());
        tracing::info!(instance = %instance, address = %local_addr, "SIP edge listens");
        let parts = Parts {
            options,
            instance: instance.clone(),
            bus,
            store,
            transports: transports.clone(),
            inbound,
            seeds: [branches, tags],
            snapshots: member.snapshots,
            left,
            status,
        };
        let snapshots = parts.snapshots.clone();
        let (edge, inputs) = Edge::new(parts);
        let task = tokio::spawn(async move {
            edge.run().await;
            transports.close();
            // The ends of the last legs are not to be taken up by the next start.
            let _ = tokio::time::timeout(FLUSH_MAX, snapshots.flush()).await;
        });
        Ok(Handle { instance, local_addr, inputs, status: watcher, task })
    }
}

impl Handle {
    /// The name under which it answers on the bus.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// The first address it listens on, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// SIP legs right now.
    pub fn channels(&self) -> usize {
        self.status.borrow().channels
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Takes no new calls from phones (503 with Retry-After); those that are up go on.
    pub fn drain(&self) {
        // An edge that has ended takes no calls either.
        let _ = self.inputs.send(Input::Drain);
    }

    /// Returns when it drains and its last leg has ended.
    pub async fn drained(&self) {
        let mut status = self.status.clone();
        // It ended altogether, otherwise.
        let _ = status.wait_for(|status| status.draining && status.channels == 0).await;
    }

    /// Ends it as a crash would: in the middle of whatever it does. For tests of what survives.
    pub async fn abort(self) {
        self.task.abort();
        // It was aborted; whatever it says.
        let _ = self.task.await;
    }

    /// Ends it at once: sockets close, without a BYE. Legs that are left wait in their snapshots for the next start.
    pub async fn stop(self) {
        let _ = self.inputs.send(Input::Stop);
        // A panic there has been reported by the panic hook.
        let _ = self.task.await;
    }
}
