//! The roles of one process: started bottom up, drained and stopped top down.

use crate::admin::{self, Port};
use crate::backbone::Backbone;
use crate::config::Config;
use crate::process::Member;
use crate::ready::Readiness;
use crate::runtime::{RolePorts, StopSignals};
use anyhow::Result;
use metrics_exporter_prometheus::PrometheusHandle;
use nebula_bus::contract::{InstanceId, Role};
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
    /// Takes their names and starts them. What has been started is left as it is when a later one fails: its calls are
    /// the next start's.
    pub async fn start(config: &Config, sip: nebula_proxy::Bound, backbone: &Backbone) -> Result<(Self, Vec<Member>)> {
        let (bus, store) = (&backbone.bus, &backbone.store);
        let (membership, media_member) = backbone.enter(Role::Media).await?;
        let media = nebula_media::start(config.media.clone(), bus.clone(), membership).await?;
        let (membership, switchboard_member) = backbone.enter(Role::Switchboard).await?;
        let switchboard =
            nebula_switchboard::start(config.calls.clone(), bus.clone(), store.clone(), membership).await?;
        let (membership, proxy_member) = backbone.enter(Role::Proxy).await?;
        let proxy = sip.serve(bus.clone(), store.clone(), membership)?;
        Ok((Self { media, switchboard, proxy }, vec![media_member, switchboard_member, proxy_member]))
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
    pub fn serve(&self, ports: RolePorts, backbone: &Backbone, metrics: &PrometheusHandle) {
        let port = |role, instance: &InstanceId| Port {
            role,
            instance: instance.clone(),
            ready: Readiness::new(role, instance, backbone, || Ok(())),
            bus: backbone.bus.clone(),
            store: backbone.store.clone(),
            metrics: metrics.clone(),
        };
        admin::serve(ports.proxy, port(Role::Proxy, self.proxy.instance()));
        admin::serve(ports.switchboard, port(Role::Switchboard, self.switchboard.instance()));
        admin::serve(ports.media, port(Role::Media, self.media.instance()));
    }
}
