//! What a running system holds beside its roles: the state folder's lock, the admin ports, the file that says where it
//! listens, and the signals that stop it.

use crate::admin;
use crate::config::Config;
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use serde::Serialize;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

/// The file's name in the state folder: written when the system is ready, removed when it ends.
const RUNTIME_FILE: &str = "nebula.json";

/// Takes the state folder for this process. Two systems in one folder would share a database and a dataplane.
pub fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file
        .with_context(|| format!("state folder {} cannot be written; choose another with --state", folder.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!(
            "state folder {} is in use by another nebula; stop that one or choose another with --state",
            folder.display()
        );
    }
    Ok(file)
}

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
    pub async fn bind(config: &Config) -> Result<Self, admin::Taken> {
        let network = &config.network;
        let at = |port| SocketAddr::new(network.admin_ip, port);
        Ok(Self {
            http: admin::bind("api.port", at(config.api.port)).await?,
            roles: RolePorts {
                proxy: admin::bind("network.proxy_port", at(network.proxy_port)).await?,
                switchboard: admin::bind("network.switchboard_port", at(network.switchboard_port)).await?,
                media: admin::bind("network.media_port", at(network.media_port)).await?,
            },
        })
    }
}

/// Where a running system listens, for scripts and for people.
#[derive(Debug, Clone, Serialize)]
pub struct Runtime {
    /// This process.
    pub pid: u32,
    /// The dataplane's process.
    pub dataplane_pid: i32,
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
    pub fn new(ports: &Ports, sip: SocketAddr, dataplane_pid: i32) -> std::io::Result<Self> {
        Ok(Self {
            pid: std::process::id(),
            dataplane_pid,
            sip,
            http: ports.http.local_addr()?,
            proxy: ports.roles.proxy.local_addr()?,
            switchboard: ports.roles.switchboard.local_addr()?,
            media: ports.roles.media.local_addr()?,
        })
    }

    /// Writes `nebula.json`, whole or not at all. It is removed when the guard is dropped.
    pub fn publish(&self, folder: &Path) -> Result<RuntimeFile> {
        let path = folder.join(RUNTIME_FILE);
        let unfinished = path.with_extension("json.new");
        let text = serde_json::to_string_pretty(self)?;
        let written = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &path));
        written.with_context(|| path.display().to_string())?;
        Ok(RuntimeFile(path))
    }
}

/// `nebula.json`, as long as it is true.
pub struct RuntimeFile(PathBuf);

impl Drop for RuntimeFile {
    fn drop(&mut self) {
        if let Err(e) = std::fs::remove_file(&self.0) {
            tracing::warn!(file = %self.0.display(), error = %e, "cannot remove");
        }
    }
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
