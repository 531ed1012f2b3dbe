//! `nebula switchboard`: call control by itself. It also carries the outbox of the database to the bus: of all processes
//! that do, the store's lock lets one at a time.

use super::{RoleArguments, Seat};
use crate::ready::Readiness;
use anyhow::Result;
use nebula_bus::contract::Role;

/// The flags of `nebula switchboard`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    role: RoleArguments,
}

/// Runs a switchboard until it is told to stop.
pub async fn run(arguments: Arguments) -> Result<()> {
    let mut seat = Seat::take(Role::Switchboard, &arguments.role, |_| {}).await?;
    let (backbone, membership, member) = seat.connect().await?;
    let options = seat.process.config.calls.clone();
    let (bus, store) = (backbone.bus.clone(), backbone.store.clone());
    let switchboard = nebula_switchboard::start(options, bus, store, membership).await?;
    let publishing = backbone.publish_events();

    let readiness = Readiness::new(Role::Switchboard, switchboard.instance(), &backbone, || Ok(()));
    let mut running = seat.serve(&backbone, member, readiness, &[], None)?;
    running.until_told(|| switchboard.is_running()).await?;
    switchboard.drain();
    let idle = running.drain(switchboard.drained()).await?;
    if idle {
        switchboard.stop().await;
    }
    publishing.abort();
    backbone.store.close().await;
    Ok(())
}
