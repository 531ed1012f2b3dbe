//! `nebula stream ID`: one stream, and why it is silent.

use crate::look::Where;
use nebula_operate::stream;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    options: stream::Options,
}

/// Prints it.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    stream::run(&arguments.place.socket()?, &arguments.options)
}
