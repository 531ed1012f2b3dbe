//! What every long-running command is made of: its configuration, log, state folder, name, metrics and signals.

use crate::backbone::{Backbone, Place, Schema};
use crate::config::Config;
use crate::last::Last;
use crate::runtime::{RuntimeFile, StopSignals};
use crate::state::{Lock, StateArguments};
use crate::{gauges, logging, node};
use anyhow::{Context, Result, anyhow, bail};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nebula_bus::Snapshots;
use nebula_bus::contract::{InstanceId, Role};
use std::path::PathBuf;
use std::time::Duration;
use tracing_appender::non_blocking::WorkerGuard;

/// Prometheus histograms drop what is older than they keep; this must run now and then.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// A key that nobody has.
const PROBE: &str = "probe";

/// How long the keep may take to say that a process is fenced.
const FENCE_TOLD_MAX: Duration = Duration::from_secs(1);

/// How often a role is asked whether it still works.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The name of a process that has all roles.
const WHOLE: &str = "nebula";

/// A process on its way to be a role, or all of them.
pub struct Process {
    /// File, environment and command line, checked.
    pub config: Config,
    /// The state folder, locked.
    pub folder: PathBuf,
    /// Its name in a fleet.
    pub node: String,
    /// What its files in the state folder are called.
    pub name: &'static str,
    /// What the last process here chose.
    pub last: Last,
    /// The process's one recorder of metrics.
    pub metrics: PrometheusHandle,
    /// What stops it.
    pub signals: StopSignals,
    _lock: Lock,
    _logs: WorkerGuard,
}

/// Told to end before it was ready.
#[derive(Debug, thiserror::Error)]
#[error("told to end before it was ready")]
pub struct Stopped;

/// Another process runs under our name, and has our calls.
#[derive(Debug, thiserror::Error)]
#[error(
    "{0} was taken over by another process of that name, which has its calls now; ending. Names are given by \
     network.node, or --node: no two processes of a role may share one"
)]
pub struct Fenced(InstanceId);

impl Process {
    /// With one role, or with all. From here on nothing is printed but by the log.
    pub fn begin(role: Option<Role>, state: &StateArguments, config: Config) -> Result<Self> {
        let logs = logging::start(&config.logging).map_err(|e| anyhow!(e))?;
        let signals = StopSignals::new()?;
        let folder = state.folder()?;
        let (name, lock) = match role {
            Some(role) => (role.name(), Lock::role(&folder, role.name())?),
            None => (WHOLE, Lock::whole(&folder)?),
        };
        RuntimeFile::clear(&folder, name);
        let mut last = Last::read(&folder, name);
        let node = match &config.network.node {
            Some(node) => node.clone(),
            // A container may have another host name with each start. Embedded, nobody else needs to tell it from others.
            None if role.is_none() && config.redis.url.is_none() => last.node(node::of_host),
            None => node::of_host(),
        };
        let metrics = record_metrics()?;
        Ok(Self { config, folder, node, name, last, metrics, signals, _lock: lock, _logs: logs })
    }

    /// Opens what roles stand on; [`Stopped`] if it is told to end meanwhile.
    pub async fn connect(&mut self, schema: Schema) -> Result<Backbone> {
        let Self { config, folder, node, name, signals, .. } = self;
        let place = Place { config, folder, process: name, node };
        tokio::select! {
            opened = Backbone::open(place, schema) => opened,
            () = signals.next() => Err(Stopped.into()),
        }
    }

    /// Waits until it is told to end; an error if another process has taken over one of these names, or if a role has
    /// ended by itself: then the next process takes its calls up.
    pub async fn until_told(&mut self, members: &[Member], works: impl Fn() -> bool) -> Result<()> {
        let broken = async {
            while works() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        tokio::select! {
            () = self.signals.next() => Ok(()),
            fenced = fenced(members) => Err(fenced.into()),
            () = broken => {
                // The bus may have told the role that it is fenced, and nobody us: the keep says so to whoever writes.
                members.iter().for_each(|member| member.snapshots.delete(PROBE));
                match tokio::time::timeout(FENCE_TOLD_MAX, fenced(members)).await {
                    Ok(fenced) => Err(fenced.into()),
                    Err(_) => bail!("a role has ended by itself, see the log; the next start takes its calls up"),
                }
            }
        }
    }
}

/// What is left of a membership when its role has it.
pub struct Member {
    /// The name on the bus.
    pub instance: InstanceId,
    /// Where its state is kept.
    pub snapshots: Snapshots,
}

/// Waits until another process has taken over one of the names.
pub async fn fenced(members: &[Member]) -> Fenced {
    if members.is_empty() {
        return std::future::pending().await;
    }
    let each = members.iter().map(|member| {
        Box::pin(async {
            member.snapshots.fenced().await;
            Fenced(member.instance.clone())
        })
    });
    futures_util::future::select_all(each).await.0
}

/// The process's one recorder of metrics.
fn record_metrics() -> Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder().context("metrics")?;
    gauges::describe();
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}
