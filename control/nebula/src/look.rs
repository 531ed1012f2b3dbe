//! Which dataplane the looking commands look at: the one of the configuration and state folder, or one named by its socket.

use crate::config::Dataplane;
use crate::dataplane::SOCKET;
use crate::state::StateArguments;
use anyhow::Result;
use std::path::PathBuf;

/// Shared by `nebula top`, `stream` and `capture`.
#[derive(Debug, Clone, clap::Args)]
pub struct Where {
    #[command(flatten)]
    state: StateArguments,
    /// The dataplane's attach socket; it wins over the configuration.
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

impl Where {
    /// The attach socket.
    pub fn socket(&self) -> Result<PathBuf> {
        if let Some(socket) = &self.socket {
            return Ok(socket.clone());
        }
        let config = self.state.configuration()?;
        match config.tuning.dataplane {
            Dataplane::External => Ok(config.media.dataplane_socket),
            Dataplane::Own => Ok(self.state.folder()?.join(SOCKET)),
        }
    }

    /// Where the media agent has the keys of streams.
    pub fn keys(&self) -> Result<PathBuf> {
        Ok(self.state.folder()?.join(nebula_operate::capture::keys::SOCKET))
    }
}
