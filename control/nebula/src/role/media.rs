//! `nebula media`: the media agent by itself, with a dataplane that it supervises or that another program (systemd) does.

use super::{RoleArguments, Seat};
use crate::config::Dataplane;
use crate::dataplane;
use crate::keys;
use crate::ready::Readiness;
use anyhow::Result;
use nebula_bus::contract::Role;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The flags of `nebula media`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    role: RoleArguments,
    /// Where RTP listens [sets media.local_ip].
    #[arg(long, value_name = "IP")]
    bind_ip: Option<IpAddr>,
    /// The first UDP port for RTP [sets media.rtp_port_min].
    #[arg(long, value_name = "PORT")]
    rtp_port_min: Option<u16>,
    /// The last UDP port for RTP [sets media.rtp_port_max].
    #[arg(long, value_name = "PORT")]
    rtp_port_max: Option<u16>,
    /// The dataplane's binary [default: nebula-dataplane beside this one].
    #[arg(long, value_name = "FILE", conflicts_with = "dataplane_socket")]
    dataplane: Option<PathBuf>,
    /// Use the dataplane at this socket, and leave its life to others [sets media.dataplane_socket, tuning.dataplane].
    #[arg(long, value_name = "FILE")]
    dataplane_socket: Option<PathBuf>,
}

/// Runs a media agent until it is told to stop.
pub async fn run(arguments: Arguments) -> Result<()> {
    let mut seat = Seat::take(Role::Media, &arguments.role, |config| {
        if arguments.bind_ip.is_some() {
            config.media.local_ip = arguments.bind_ip;
        }
        config.media.rtp_port_min = arguments.rtp_port_min.unwrap_or(config.media.rtp_port_min);
        config.media.rtp_port_max = arguments.rtp_port_max.unwrap_or(config.media.rtp_port_max);
        if let Some(socket) = &arguments.dataplane_socket {
            config.media.dataplane_socket.clone_from(socket);
            config.tuning.dataplane = Dataplane::External;
        }
    })
    .await?;
    let dataplane = dataplane::begin(&mut seat.process, arguments.dataplane.as_deref()).await?;
    let (backbone, membership, member) = seat.connect().await?;
    let media = nebula_media::start(seat.process.config.media.clone(), backbone.bus.clone(), membership).await?;

    keys::serve(&seat.process.folder, media.keys());
    let media = Arc::new(media);
    let agent = media.clone();
    let own = move || if agent.ready() { Ok(()) } else { Err("no dataplane is attached, or draining") };
    let readiness = Readiness::new(Role::Media, media.instance(), &backbone, own);
    let mut running = seat.serve(&backbone, member, readiness, &[], Some(dataplane.pids()))?;
    running.until_told(|| true).await?;
    media.drain();
    if running.drain(media.drained()).await? {
        dataplane.stop().await;
    } else {
        // Its streams flow on, and the next process of this name finds them.
        dataplane.leave().await;
    }
    Ok(())
}
