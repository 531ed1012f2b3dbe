//! The roles of one process: started bottom up, drained and stopped top down.

use crate::admin::{self, Port};
use crate::config::Config;
use crate::runtime::{RolePorts, StopSignals};
use anyhow::Result;
use metrics_exporter_prometheus::PrometheusHandle;
use nebula_bus::contract::{InstanceId, Role};
use nebula_bus::{Bus, Membership};
use nebula_store::Store;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// How long the BYEs of the last calls may take to be answered.
const LAST_BYES: Duration = Duration::from_secs(2);

/// Running roles.
pub struct Roles {
    /// The media agent.
    pub media: nebula_media::Handle,
    /// The switchboard.
    pub switchboard: nebula_switchboard::Handle,
    /// The proxy.
    pub proxy: nebula_proxy::Handle,
}

impl Roles {
    /// Starts them. What has been started is stopped again when a later one fails.
    pub async fn start(config: &Config, sip: nebula_proxy::Bound, bus: &Bus, store: &Store) -> Result<Self> {
        let media = nebula_media::start(config.media.clone(), bus.clone(), Membership::alone(Role::Media)).await?;
        let member = Membership::alone(Role::Switchboard);
        let switchboard =
            match nebula_switchboard::start(config.calls.clone(), bus.clone(), store.clone(), member).await {
                Ok(switchboard) => switchboard,
                Err(e) => {
                    media.stop().await;
                    return Err(e.into());
                }
            };
        match sip.serve(bus.clone(), store.clone(), Membership::alone(Role::Proxy)) {
            Ok(proxy) => Ok(Self { media, switchboard, proxy }),
            Err(e) => {
                switchboard.stop().await;
                media.stop().await;
                Err(e.into())
            }
        }
    }

    /// No new calls; waits until the live ones have ended, the time is up or another signal comes; then stops. Calls
    /// that are left are hung up and recorded.
    pub async fn drain(self, signals: &mut StopSignals, patience: Duration) {
        self.proxy.drain();
        self.switchboard.drain();
        tracing::info!(patience_s = patience.as_secs(), "draining: no new calls; a second signal ends the live ones");
        tokio::select! {
            () = self.switchboard.drained() => tracing::info!("drained"),
            () = tokio::time::sleep(patience) => tracing::warn!("the drain's time is up; ending the calls that are left"),
            () = signals.next() => tracing::warn!("told again; ending the calls that are left"),
        }
        self.switchboard.stop().await;
        // The BYEs of the last calls are on their way; their answers, or their retransmissions, get a moment.
        timeout(LAST_BYES, self.proxy.drained()).await.ok();
        self.proxy.stop().await;
        self.media.stop().await;
    }

    /// Serves each role's own port.
    pub fn serve(&self, ports: RolePorts, bus: &Bus, metrics: &PrometheusHandle) {
        let port = |role, instance: &InstanceId, ready: Box<dyn Fn() -> bool + Send + Sync>| Port {
            role,
            instance: instance.clone(),
            ready: Arc::from(ready),
            bus: bus.clone(),
            metrics: metrics.clone(),
        };
        let announced = |role, instance: &InstanceId| {
            let (bus, instance) = (bus.clone(), instance.clone());
            Box::new(move || bus.instances(role).iter().any(|a| a.instance == instance && !a.draining))
        };
        let (proxy, switchboard, media) = (self.proxy.instance(), self.switchboard.instance(), self.media.instance());
        admin::serve(ports.proxy, port(Role::Proxy, proxy, announced(Role::Proxy, proxy)));
        admin::serve(
            ports.switchboard,
            port(Role::Switchboard, switchboard, announced(Role::Switchboard, switchboard)),
        );
        admin::serve(ports.media, port(Role::Media, media, announced(Role::Media, media)));
    }
}
