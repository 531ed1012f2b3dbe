//! `nebula up`: every role in this process over an in-process bus and an embedded store, and a supervised dataplane.
//!
//! Start: configuration, state folder, all ports, store, so that what an operator can get wrong is told before anything
//! runs; then, bottom up, dataplane, media agent, switchboard, proxy; then it says what to do next. SIGINT or SIGTERM drains: no new calls, live calls end or time out, then everything stops, top down. A
//! second signal cuts the drain short; the calls that are left are hung up and recorded all the same.

use crate::config::Config;
use crate::roles::Roles;
use crate::runtime::{Ports, Runtime, StopSignals, lock};
use crate::{demo, logging, supervise, welcome};
use anyhow::{Context, Result, anyhow};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nebula_bus::{Bus, contract};
use nebula_store::extensions::{self, Customer, Ha1, NewExtension};
use nebula_store::outbox::OutboxEvent;
use nebula_store::{Store, now_unix_ms, publisher};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Prometheus histograms drop what is older than they keep; this must run now and then.
const METRICS_UPKEEP: Duration = Duration::from_secs(5);

/// The one customer of an embedded system.
pub const CUSTOMER: &str = "default";

/// Where state and configuration are; shared by all commands that touch the store.
#[derive(Debug, Clone, clap::Args)]
pub struct StateArguments {
    /// The configuration file; /etc/nebula/nebula.conf if it exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder: database, sockets, logs [default: ~/.local/state/nebula].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

impl StateArguments {
    /// The configuration: file, then environment.
    pub fn configuration(&self) -> Result<Config> {
        Ok(Config::load(self.config.as_deref(), std::env::vars())?)
    }

    /// The state folder, made if it isn't there.
    pub fn folder(&self) -> Result<PathBuf> {
        let home_state = || {
            let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
        };
        let folder = self.state.clone().or_else(|| home_state().map(|base| base.join("nebula")));
        let folder = folder.context("no state folder: neither --state, XDG_STATE_HOME nor HOME is set")?;
        let made = std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
        made.with_context(|| {
            format!("state folder {}: not a folder that can be made; choose another with --state", folder.display())
        })
    }

    /// The store that the configuration names, or the one in the state folder.
    pub async fn store(&self, config: &Config, folder: &Path) -> Result<Store> {
        let options = match &config.database.url {
            Some(url) => nebula_store::Options { url: url.clone() },
            None => nebula_store::Options::file(folder.join("nebula.db")),
        };
        Ok(Store::open(&options).await?)
    }
}

/// The flags of `nebula up`. They win over environment and file.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    state: StateArguments,
    /// Where SIP and RTP listen [sets network.bind_ip].
    #[arg(long, value_name = "IP")]
    bind_ip: Option<IpAddr>,
    /// SIP over UDP and TCP; 0 takes any free port [sets sip.port].
    #[arg(long, value_name = "PORT")]
    sip_port: Option<u16>,
    /// The HTTP gateway [sets api.port].
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
    /// Health, metrics and RPC of the proxy [sets network.proxy_port].
    #[arg(long, value_name = "PORT")]
    proxy_port: Option<u16>,
    /// Health, metrics and RPC of the switchboard [sets network.switchboard_port].
    #[arg(long, value_name = "PORT")]
    switchboard_port: Option<u16>,
    /// Health, metrics and RPC of the media agent [sets network.media_port].
    #[arg(long, value_name = "PORT")]
    media_port: Option<u16>,
    /// The first UDP port for RTP [sets media.rtp_port_min].
    #[arg(long, value_name = "PORT")]
    rtp_port_min: Option<u16>,
    /// The last UDP port for RTP [sets media.rtp_port_max].
    #[arg(long, value_name = "PORT")]
    rtp_port_max: Option<u16>,
    /// The dataplane's binary [default: nebula-dataplane beside this one].
    #[arg(long, value_name = "FILE")]
    dataplane: Option<PathBuf>,
}

impl Arguments {
    fn override_configuration(&self, config: &mut Config) -> Result<()> {
        fn set<T: Copy>(flag: Option<T>, key: &mut T) {
            if let Some(value) = flag {
                *key = value;
            }
        }
        if let Some(ip) = self.bind_ip {
            config.sip.listen = vec![ip];
            config.media.local_ip = Some(ip);
        }
        set(self.sip_port, &mut config.sip.port);
        set(self.http_port, &mut config.api.port);
        set(self.proxy_port, &mut config.network.proxy_port);
        set(self.switchboard_port, &mut config.network.switchboard_port);
        set(self.media_port, &mut config.network.media_port);
        set(self.rtp_port_min, &mut config.media.rtp_port_min);
        set(self.rtp_port_max, &mut config.media.rtp_port_max);
        config.check(|_| "command line".to_owned())?;
        Ok(())
    }
}

/// Runs the system until it is told to stop.
pub async fn run(arguments: Arguments) -> Result<()> {
    let mut config = arguments.state.configuration()?;
    arguments.override_configuration(&mut config)?;
    let _logs = logging::start(&config.logging).map_err(|e| anyhow!(e))?;
    let mut signals = StopSignals::new()?;

    let folder = arguments.state.folder()?;
    let _lock = lock(&folder)?;
    let metrics = record_metrics()?;
    let ports = Ports::bind(&config).await?;
    let sip = nebula_proxy::bind(config.sip.clone()).await?;
    let store = arguments.state.store(&config, &folder).await?;
    let fresh = seed(&store, &config).await?;
    config.media.dataplane_socket = folder.join("dataplane.sock");
    let dataplane = supervise::start(dataplane_options(&arguments, &config, &folder)?).await?;

    let bus = Bus::local();
    let roles = match Roles::start(&config, sip, &bus, &store).await {
        Ok(roles) => roles,
        Err(e) => {
            dataplane.stop().await;
            return Err(e);
        }
    };
    let publishing = tokio::spawn(publish(store.clone(), bus.clone()));
    let runtime = Runtime::new(&ports, roles.proxy.local_addr(), dataplane.pid())?;
    roles.serve(ports.roles, &bus, &metrics);
    nebula_api::serve(ports.http, bus.clone(), store.clone());
    let runtime_file = runtime.publish(&folder)?;
    welcome::print(&runtime, &folder, config.sip.advertised_address, &fresh);

    signals.next().await;
    drop(runtime_file);
    roles.drain(&mut signals, Duration::from_secs(config.tuning.drain_timeout_s.into())).await;
    dataplane.stop().await;
    publishing.abort();
    store.close().await;
    tracing::info!("stopped");
    Ok(())
}

/// The process's one recorder of metrics.
fn record_metrics() -> Result<PrometheusHandle> {
    let handle = PrometheusBuilder::new().install_recorder().context("metrics")?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(METRICS_UPKEEP).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Makes the demo extensions if there is no extension yet; returns those that were made.
async fn seed(store: &Store, config: &Config) -> Result<Vec<demo::Extension>> {
    let all = demo::extensions()?;
    let new = |e: &demo::Extension| NewExtension {
        user: e.user.clone(),
        display_name: format!("Demo {}", e.user),
        ha1: Ha1::new(&e.user, &config.sip.realm, &e.password),
    };
    let customer = Customer { id: CUSTOMER.to_owned(), name: "Default".to_owned(), created_unix_ms: now_unix_ms() };
    let seeded = extensions::seed(store, customer, all.iter().map(new).collect(), "nebula up").await?;
    Ok(if seeded { all } else { Vec::new() })
}

fn dataplane_options(arguments: &Arguments, config: &Config, folder: &Path) -> Result<supervise::Options> {
    let program = match &arguments.dataplane {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("this program's own path")?.with_file_name("nebula-dataplane"),
    };
    let mut options = vec!["--streams-max".to_owned(), config.tuning.streams_max.to_string()];
    if !config.tuning.cores.is_empty() {
        let cores: Vec<String> = config.tuning.cores.iter().map(u16::to_string).collect();
        options.extend(["--cores".to_owned(), cores.join(",")]);
    }
    Ok(supervise::Options {
        program,
        socket: config.media.dataplane_socket.clone(),
        arguments: options,
        log: folder.join("dataplane.log"),
    })
}

/// Carries events from the outbox to the bus.
async fn publish(store: Store, bus: Bus) {
    let hand_over = |event: OutboxEvent| {
        let bus = bus.clone();
        let event = contract::Event {
            sequence: event.sequence,
            kind: event.kind,
            subject: event.subject,
            at_unix_ms: event.at_unix_ms,
            data: event.data,
        };
        async move { bus.publish(&event).await }
    };
    publisher::run(store, hand_over).await;
}
