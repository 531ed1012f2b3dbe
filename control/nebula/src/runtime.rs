//! What a running process holds beside its roles: its ports, the file that says where it listens, and the signals that
//! stop it.

use crate::admin;
use crate::config::Config;
use crate::last::Last;
use anyhow::{Context, Result};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

/// The TCP ports of HTTP, taken before anything is started.
pub struct Ports {
    /// The gateway's.
    pub http: TcpListener,
    /// Those of the roles.
    pub roles: RolePorts,
}

/// Health, metrics and RPC of each role.
pub struct RolePorts {
    /// The proxy's.
    pub proxy: TcpListener,
    /// The switchboard's.
    pub switchboard: TcpListener,
    /// The media agent's.
    pub media: TcpListener,
}

impl Ports {
    /// Takes all of them, or says which one is not to be had.
    pub async fn bind(config: &Config, last: &mut Last) -> Result<Self, admin::Taken> {
        let network = &config.network;
        let ip = network.admin_ip;
        Ok(Self {
            http: admin::bind("api.port", ip, config.api.port, last).await?,
            roles: RolePorts {
                proxy: admin::bind("network.proxy_port", ip, network.proxy_port, last).await?,
                switchboard: admin::bind("network.switchboard_port", ip, network.switchboard_port, last).await?,
                media: admin::bind("network.media_port", ip, network.media_port, last).await?,
            },
        })
    }
}

/// Opens the SIP sockets. Port 0 takes the one of the last process again, where its phones and its calls look for it.
pub async fn bind_sip(options: &nebula_proxy::Options, last: &mut Last) -> Result<nebula_proxy::Bound> {
    if options.port == 0
        && let Some(port) = last.port(SIP_PORT)
    {
        match nebula_proxy::bind(nebula_proxy::Options { port, ..options.clone() }).await {
            Ok(bound) => return Ok(bound),
            Err(error) => tracing::warn!(%error, "the last SIP port is taken; phones and calls must find another"),
        }
    }
    Ok(nebula_proxy::bind(options.clone()).await?)
}

/// The key of the SIP port.
pub const SIP_PORT: &str = "sip.port";

/// Where a running system listens, for scripts and for people.
#[derive(Debug, Clone, Serialize)]
pub struct Runtime {
    /// This process.
    pub pid: u32,
    /// Its name in a fleet.
    pub node: String,
    /// The dataplane's process.
    pub dataplane_pid: Option<i32>,
    /// SIP, UDP and TCP alike.
    pub sip: SocketAddr,
    /// The HTTP gateway.
    pub http: SocketAddr,
    /// Health, metrics and RPC of the proxy.
    pub proxy: SocketAddr,
    /// The same of the switchboard.
    pub switchboard: SocketAddr,
    /// The same of the media agent.
    pub media: SocketAddr,
}

impl Runtime {
    /// Of the ports that were taken.
    pub fn new(node: &str, ports: &Ports, sip: SocketAddr, dataplane_pid: Option<i32>) -> std::io::Result<Self> {
        Ok(Self {
            pid: std::process::id(),
            node: node.to_owned(),
            dataplane_pid,
            sip,
            http: ports.http.local_addr()?,
            proxy: ports.roles.proxy.local_addr()?,
            switchboard: ports.roles.switchboard.local_addr()?,
            media: ports.roles.media.local_addr()?,
        })
    }
}

/// `nebula.json`, or `proxy.json` and its like: written when a process is ready, true while it is, removed when it ends.
pub struct RuntimeFile {
    path: PathBuf,
    following: Option<tokio::task::JoinHandle<()>>,
}

impl RuntimeFile {
    /// Removes what a process that was killed has left.
    pub fn clear(folder: &Path, name: &str) {
        // Mostly there is none.
        let _ = std::fs::remove_file(path(folder, name));
    }

    /// Writes it, and again whenever another dataplane is there.
    pub fn publish(
        folder: &Path,
        name: &str,
        runtime: &impl Serialize,
        dataplane: Option<watch::Receiver<Option<i32>>>,
    ) -> Result<Self> {
        let path = path(folder, name);
        let mut runtime = serde_json::to_value(runtime)?;
        write(&path, &runtime).with_context(|| path.display().to_string())?;
        let follow = |mut pids: watch::Receiver<Option<i32>>, path: PathBuf| async move {
            while pids.changed().await.is_ok() {
                runtime["dataplane_pid"] = (*pids.borrow_and_update()).into();
                if let Err(error) = write(&path, &runtime) {
                    tracing::warn!(file = %path.display(), %error, "the dataplane's pid there is stale");
                }
            }
        };
        let following = dataplane.map(|pids| tokio::spawn(follow(pids, path.clone())));
        Ok(Self { path, following })
    }
}

impl Drop for RuntimeFile {
    fn drop(&mut self) {
        if let Some(following) = &self.following {
            following.abort();
        }
        if let Err(e) = std::fs::remove_file(&self.path) {
            tracing::warn!(file = %self.path.display(), error = %e, "cannot remove");
        }
    }
}

fn path(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("{name}.json"))
}

/// Whole or not at all.
fn write(path: &Path, runtime: &serde_json::Value) -> Result<()> {
    let unfinished = path.with_extension("json.new");
    std::fs::write(&unfinished, serde_json::to_string_pretty(runtime)?)?;
    Ok(std::fs::rename(&unfinished, path)?)
}

/// SIGINT and SIGTERM.
pub struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
}

impl StopSignals {
    /// From now on neither ends the process by itself.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    /// Waits for the next one.
    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
