//! `nebula proxy`: the SIP edge by itself.

use super::{RoleArguments, Seat};
use crate::ready::Readiness;
use crate::runtime::{SIP_PORT, bind_sip};
use anyhow::Result;
use nebula_bus::contract::Role;
use std::net::IpAddr;

/// The flags of `nebula proxy`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    role: RoleArguments,
    /// Where SIP listens [sets sip.listen].
    #[arg(long, value_name = "IP")]
    bind_ip: Option<IpAddr>,
    /// SIP over UDP and TCP; 0 takes any free port [sets sip.port].
    #[arg(long, value_name = "PORT")]
    sip_port: Option<u16>,
}

/// Runs a proxy until it is told to stop.
pub async fn run(arguments: Arguments) -> Result<()> {
    let mut seat = Seat::take(Role::Proxy, &arguments.role, |config| {
        if let Some(ip) = arguments.bind_ip {
            config.sip.listen = vec![ip];
        }
        config.sip.port = arguments.sip_port.unwrap_or(config.sip.port);
    })
    .await?;
    let sip = bind_sip(&seat.process.config.sip, &mut seat.process.last).await?;
    let (backbone, membership, member) = seat.connect().await?;
    let proxy = sip.serve(backbone.bus.clone(), backbone.store.clone(), membership)?;
    seat.process.last.take(SIP_PORT, proxy.local_addr().port());

    let readiness = Readiness::new(Role::Proxy, proxy.instance(), &backbone, || Ok(()));
    let mut running = seat.serve(&backbone, member, readiness, &[("sip", proxy.local_addr())], None)?;
    running.until_told(|| proxy.is_running()).await?;
    proxy.drain();
    if running.drain(proxy.drained()).await? {
        proxy.stop().await;
    }
    Ok(())
}
