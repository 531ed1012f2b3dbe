//! The dataplane that a process uses: one that it keeps alive itself, in its state folder, or somebody else's.

use crate::config::{self, Config};
use crate::process::Process;
use crate::supervise::{self, Handle};
use anyhow::{Context, Result};
use std::path::{Path, PathBuf};

/// Its attach socket, and its messages, in the state folder.
pub const SOCKET: &str = "dataplane.sock";
const LOG: &str = "dataplane.log";

/// Adopts or starts a dataplane, or looks for the one that the configuration names. The configuration knows its socket
/// from then on.
pub async fn begin(process: &mut Process, program: Option<&Path>) -> Result<Handle> {
    if process.config.tuning.dataplane == config::Dataplane::External {
        return Ok(supervise::observe(process.config.media.dataplane_socket.clone()));
    }
    let socket = process.folder.join(SOCKET);
    process.config.media.dataplane_socket.clone_from(&socket);
    let program = match program {
        Some(program) => program.to_owned(),
        None => std::env::current_exe().context("this program's own path")?.with_file_name("nebula-dataplane"),
    };
    let log: PathBuf = process.folder.join(LOG);
    let options = supervise::Options { program, socket, arguments: arguments(&process.config), log };
    Ok(supervise::start(options).await?)
}

/// The dataplane's command line, but for its socket.
fn arguments(config: &Config) -> Vec<String> {
    let mut arguments = vec!["--streams-max".to_owned(), config.tuning.streams_max.to_string()];
    if !config.tuning.cores.is_empty() {
        let cores: Vec<String> = config.tuning.cores.iter().map(u16::to_string).collect();
        arguments.extend(["--cores".to_owned(), cores.join(",")]);
    }
    if !config.tuning.xdp.is_empty() {
        arguments.extend(["--xdp".to_owned(), config.tuning.xdp.join(",")]);
        arguments.extend(["--xdp-busy-poll-us".to_owned(), config.tuning.xdp_busy_poll_us.to_string()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tuning_says_is_handed_on() {
        let mut config = Config::default();
        assert_eq!(arguments(&config), ["--streams-max", "8192"]);
        (config.tuning.cores, config.tuning.streams_max) = (vec![2, 3], 100);
        (config.tuning.xdp, config.tuning.xdp_busy_poll_us) = (vec!["eth0".into(), "eth1".into()], 20);
        let wanted = "--streams-max 100 --cores 2,3 --xdp eth0,eth1 --xdp-busy-poll-us 20";
        assert_eq!(arguments(&config).join(" "), wanted);
    }
}
