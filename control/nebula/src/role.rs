//! A role as a process of its own, over Redis and a shared database: `nebula proxy`, `switchboard`, `media` and `api`.
//!
//! All four begin and end alike. Start: configuration, state folder, ports, Redis, database, name; then the role. SIGTERM
//! or SIGINT drains: the instance says so, gets no new calls and leaves when its last has ended. When the time is up, or
//! another signal comes, it leaves its calls as they are: in the keep, for the next process of its name or (a
//! switchboard's) for another instance.

pub mod api;
pub mod media;
pub mod proxy;
pub mod switchboard;

use crate::admin::{self, Port};
use crate::backbone::{Backbone, Schema, require_fleet};
use crate::config::Config;
use crate::process::{Member, Process, fenced};
use crate::ready::Readiness;
use crate::runtime::RuntimeFile;
use crate::state::StateArguments;
use anyhow::Result;
use nebula_bus::Membership;
use nebula_bus::contract::Role;
use serde_json::{Map, Value};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;

/// The flags of every role. They win over environment and file.
#[derive(Debug, clap::Args)]
pub struct RoleArguments {
    #[command(flatten)]
    state: StateArguments,
    /// This host's name in the fleet, the same after a restart [sets network.node; default: the host's name].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Health, metrics and RPC; 0 takes any free port [sets network.ROLE_port].
    #[arg(long, value_name = "PORT")]
    admin_port: Option<u16>,
}

/// What a role's process has before it has the role.
struct Seat {
    role: Role,
    process: Process,
    admin: TcpListener,
}

impl Seat {
    /// Configuration, state folder, admin port; `flags` is the role's own part of the command line.
    async fn take(role: Role, arguments: &RoleArguments, flags: impl FnOnce(&mut Config)) -> Result<Self> {
        let mut config = arguments.state.configuration()?;
        if arguments.node.is_some() {
            config.network.node.clone_from(&arguments.node);
        }
        let (key, port) = config.network.admin_port(role);
        if let Some(given) = arguments.admin_port {
            *port = given;
        }
        let port = *port;
        flags(&mut config);
        config.check(|_| "command line".to_owned())?;
        require_fleet(role, &config)?;
        let mut process = Process::begin(Some(role), &arguments.state, config)?;
        let admin = admin::bind(key, process.config.network.admin_ip, port, &mut process.last).await?;
        Ok(Self { role, process, admin })
    }

    /// The connections, and the role's name.
    async fn connect(&mut self) -> Result<(Backbone, Membership, Member)> {
        let backbone = self.process.connect(Schema::Check).await?;
        let (membership, member) = backbone.enter(self.role).await?;
        Ok((backbone, membership, member))
    }
}

/// A role that works.
struct Running {
    process: Process,
    members: Vec<Member>,
    _runtime: RuntimeFile,
}

impl Seat {
    /// Serves the role's port and says where it is. `more` is what the runtime file shall tell beside that.
    fn serve(
        self,
        backbone: &Backbone,
        member: Member,
        readiness: Readiness,
        more: &[(&str, SocketAddr)],
        dataplane: Option<watch::Receiver<Option<i32>>>,
    ) -> Result<Running> {
        let Self { role, process, admin } = self;
        process.last.write();
        let mut runtime = Map::new();
        runtime.insert("pid".to_owned(), std::process::id().into());
        runtime.insert("node".to_owned(), process.node.as_str().into());
        runtime.insert("instance".to_owned(), member.instance.as_str().into());
        if let Some(pids) = &dataplane {
            runtime.insert("dataplane_pid".to_owned(), (*pids.borrow()).into());
        }
        let addresses = more.iter().copied().chain([(role.name(), admin.local_addr()?)]);
        runtime.extend(addresses.map(|(key, address)| (key.to_owned(), address.to_string().into())));
        let (instance, metrics) = (member.instance.clone(), process.metrics.clone());
        let (bus, store) = (backbone.bus.clone(), backbone.store.clone());
        admin::serve(admin, Port { role, instance, ready: readiness, bus, store, metrics });
        let file = RuntimeFile::publish(&process.folder, process.name, &Value::from(runtime), dataplane)?;
        println!("nebula {} is ready: {}", role.name(), member.instance);
        Ok(Running { process, members: vec![member], _runtime: file })
    }
}

impl Running {
    /// Waits until it is told to end.
    async fn until_told(&mut self, works: impl Fn() -> bool) -> Result<()> {
        self.process.until_told(&self.members, works).await
    }

    /// Waits until its last call has ended (true), or the patience has (false): then what is left is kept.
    async fn drain(&mut self, drained: impl Future<Output = ()>) -> Result<bool> {
        let patience = Duration::from_secs(self.process.config.tuning.drain_timeout_s.into());
        tracing::info!(
            patience_s = patience.as_secs(),
            "draining: no new calls; a second signal leaves the live ones to the next process of this name"
        );
        tokio::select! {
            () = drained => {
                tracing::info!("drained");
                return Ok(true);
            }
            fenced = fenced(&self.members) => return Err(fenced.into()),
            () = tokio::time::sleep(patience) => tracing::warn!("the drain's time is up; live calls are kept as they are"),
            () = self.process.signals.next() => tracing::warn!("told again; live calls are kept as they are"),
        }
        for member in &self.members {
            if tokio::time::timeout(FLUSH_MAX, member.snapshots.flush()).await.is_err() {
                tracing::error!(changes = member.snapshots.pending(), "the keep is away: the latest changes are lost");
            }
        }
        Ok(false)
    }
}

/// How long a process that leaves calls behind waits for its keep.
const FLUSH_MAX: Duration = Duration::from_secs(5);
