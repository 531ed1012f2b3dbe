//! `nebula capture STREAM --pcap FILE`: a stream's packets, for Wireshark and its like.

use crate::look::Where;
use nebula_operate::capture;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    options: capture::Options,
}

/// Captures until the stream, the time or the user's patience ends.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let place = &arguments.place;
    let agent = arguments.options.decrypt.then(|| place.keys()).transpose()?;
    capture::run(&place.socket()?, agent.as_deref(), &arguments.options)
}
