//! `nebula top`: workers and streams, live.

use crate::look::Where;
use nebula_operate::top;

/// The command line.
#[derive(Debug, Clone, clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    place: Where,
    #[command(flatten)]
    options: top::Options,
}

/// Shows them until somebody quits, or once.
pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    top::run(&arguments.place.socket()?, &arguments.options)
}
