//! `nebula up`: every role in this process, and a supervised dataplane. Over an in-process bus and an embedded store, or
//! over Redis and Postgres where the configuration names them.
//!
//! Start: configuration, state folder, all ports, store, so that what an operator can get wrong is told before anything
//! runs; then, bottom up, dataplane, media agent, switchboard, proxy; then it says what to do next. SIGINT or SIGTERM drains: no new calls, live calls end or time out, then everything stops, top down. A
//! second signal cuts the drain short; the calls that are left are hung up and recorded all the same.

use crate::backbone::Schema;
use crate::config::Config;
use crate::process::Process;
use crate::roles::Roles;
use crate::runtime::{Ports, Runtime, RuntimeFile, SIP_PORT, bind_sip};
use crate::state::StateArguments;
use crate::{dataplane, demo, keys, welcome};
use anyhow::Result;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The flags of `nebula up`. They win over environment and file.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    state: StateArguments,
    /// This host's name in a fleet, the same after a restart [sets network.node].
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
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
        if self.node.is_some() {
            config.network.node.clone_from(&self.node);
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
    let mut process = Process::begin(None, &arguments.state, config)?;
    let ports = Ports::bind(&process.config, &mut process.last).await?;
    let sip = bind_sip(&process.config.sip, &mut process.last).await?;
    let backbone = process.connect(Schema::Migrate).await?;
    let fresh = demo::seed(&backbone.store, &process.config.sip.realm, "nebula up").await?;
    let dataplane = dataplane::begin(&mut process, arguments.dataplane.as_deref()).await?;

    let (roles, members) = match Roles::start(&process.config, sip, &backbone).await {
        Ok(started) => started,
        Err(e) => {
            // What flows in it may be calls that the next start takes up.
            dataplane.leave().await;
            return Err(e);
        }
    };
    let publishing = backbone.publish_events();
    process.last.take(SIP_PORT, roles.proxy.local_addr().port());
    process.last.write();
    let runtime = Runtime::new(&process.node, &ports, roles.proxy.local_addr(), *dataplane.pids().borrow())?;
    roles.serve(ports.roles, &backbone, &process.metrics);
    keys::serve(&process.folder, roles.media.keys());
    nebula_api::serve(ports.http, backbone.bus.clone(), backbone.store.clone());
    let file = RuntimeFile::publish(&process.folder, process.name, &runtime, Some(dataplane.pids()))?;
    welcome::print(&runtime, &process.folder, process.config.sip.advertised_address, &fresh);

    process.until_told(&members, || roles.proxy.is_running() && roles.switchboard.is_running()).await?;
    drop(file);
    let patience = Duration::from_secs(process.config.tuning.drain_timeout_s.into());
    roles.drain(&mut process.signals, patience).await;
    dataplane.stop().await;
    publishing.abort();
    backbone.store.close().await;
    tracing::info!("stopped");
    Ok(())
}
