//! The switchboard: calls. A sans-IO call machine ([`call`]) and its shell, one actor that owns all calls of this
//! instance, answers the bus and carries out what the machine asks for.
//!
//! A call's path here: `shell/serve` (a request of the bus) -> [`call`] (the machine) -> `shell/rpc` (requests to the
//! proxy and the media agent) and `shell/record` (the store: row, answer, CDR). `shell/resume` takes up what a process
//! that died has left.

#![forbid(unsafe_code)]

pub mod call;
pub mod cdr;
mod metrics;
mod options;
pub mod services;
mod shell;

use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::{Bus, Membership};
use nebula_store::Store;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use options::{Error, Options};
use shell::{Order, Shell, Status};

/// A running switchboard. Dropping it leaves the switchboard running; [`Handle::stop`] ends it.
#[derive(Debug)]
pub struct Handle {
    instance: InstanceId,
    orders: mpsc::UnboundedSender<Order>,
    status: watch::Receiver<Status>,
    task: JoinHandle<()>,
}

/// Takes up the calls that its predecessor of the same name left, and begins to answer on the bus. It also takes over from
/// switchboards that are gone. Install the metrics recorder before, or nothing is counted.
///
/// Errors: an option out of range; a call of another version that this one cannot read.
pub async fn start(options: Options, bus: Bus, store: Store, member: Membership) -> Result<Handle, Error> {
    options.check()?;
    let instance = member.instance.clone();
    // Before anybody is told that calls are ours: their reports wait in it.
    let inbox = bus.serve(Role::Switchboard, instance.clone());
    let (shell, orders, status) = Shell::new(options, bus, store, member)?;
    let task = tokio::spawn(shell.run(inbox));
    tracing::info!(%instance, "switchboard serves");
    Ok(Handle { instance, orders, status, task })
}

impl Handle {
    /// The name under which it answers on the bus.
    pub fn instance(&self) -> &InstanceId {
        &self.instance
    }

    /// Calls right now, those among them whose record is still being written.
    pub fn calls(&self) -> usize {
        self.status.borrow().calls
    }

    /// Whether it still runs.
    pub fn is_running(&self) -> bool {
        !self.task.is_finished()
    }

    /// Takes no new calls: `channel.invite` fails with business error `draining`. Those that are up go on.
    pub fn drain(&self) {
        // A switchboard that has ended takes no calls either.
        let _ = self.orders.send(Order::Drain);
    }

    /// Returns when it drains and the record of its last call is written.
    pub async fn drained(&self) {
        let mut status = self.status.clone();
        // It ended altogether, otherwise.
        let _ = status.wait_for(|status| status.draining && status.calls == 0).await;
    }

    /// Hangs up what is left, writes the records and ends; bounded by the options' `stop_timeout_ms`.
    pub async fn stop(self) {
        let _ = self.orders.send(Order::Stop);
        // A panic there has been reported by the panic hook.
        let _ = self.task.await;
    }
}
