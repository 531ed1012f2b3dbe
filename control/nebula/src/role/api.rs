//! `nebula api`: the HTTP gateway by itself.

use super::{RoleArguments, Seat};
use crate::admin;
use crate::ready::Readiness;
use anyhow::Result;
use nebula_bus::contract::Role;

/// The flags of `nebula api`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    role: RoleArguments,
    /// The gateway; 0 takes any free port [sets api.port].
    #[arg(long, value_name = "PORT")]
    http_port: Option<u16>,
}

/// Runs a gateway until it is told to stop.
pub async fn run(arguments: Arguments) -> Result<()> {
    let mut seat = Seat::take(Role::Api, &arguments.role, |config| {
        config.api.port = arguments.http_port.unwrap_or(config.api.port);
    })
    .await?;
    let (ip, port) = (seat.process.config.network.admin_ip, seat.process.config.api.port);
    let http = admin::bind("api.port", ip, port, &mut seat.process.last).await?;
    let address = http.local_addr()?;
    let (backbone, membership, member) = seat.connect().await?;
    // It answers no requests of the bus; being announced it can be counted, and is known to be there.
    let _inbox = backbone.bus.serve(Role::Api, membership.instance.clone());
    nebula_api::serve(http, backbone.bus.clone(), backbone.store.clone());

    let readiness = Readiness::new(Role::Api, &membership.instance, &backbone, || Ok(()));
    let mut running = seat.serve(&backbone, member, readiness, &[("http", address)], None)?;
    running.until_told(|| true).await
}
