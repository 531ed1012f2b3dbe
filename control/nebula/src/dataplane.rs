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
    let tuning = &config.tuning;
    let numbers = [
        ("--streams-max", tuning.streams_max),
        ("--overload-cpu-permille", tuning.overload_cpu_permille),
        ("--overload-lateness-us", tuning.overload_lateness_us),
    ];
    let mut arguments: Vec<String> =
        numbers.into_iter().flat_map(|(option, number)| [option.to_owned(), number.to_string()]).collect();
    if !tuning.cores.is_empty() {
        let cores: Vec<String> = tuning.cores.iter().map(u16::to_string).collect();
        arguments.extend(["--cores".to_owned(), cores.join(",")]);
    }
    if !tuning.xdp.is_empty() {
        arguments.extend(["--xdp".to_owned(), tuning.xdp.join(",")]);
        arguments.extend(["--xdp-busy-poll-us".to_owned(), tuning.xdp_busy_poll_us.to_string()]);
    }
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_tuning_says_is_handed_on() {
        let mut config = Config::default();
        let defaults = "--streams-max 8192 --overload-cpu-permille 900 --overload-lateness-us 100000";
        assert_eq!(arguments(&config).join(" "), defaults);
        (config.tuning.cores, config.tuning.streams_max) = (vec![2, 3], 100);
        (config.tuning.xdp, config.tuning.xdp_busy_poll_us) = (vec!["eth0".into(), "eth1".into()], 20);
        (config.tuning.overload_cpu_permille, config.tuning.overload_lateness_us) = (700, 500);
        let wanted = "--streams-max 100 --overload-cpu-permille 700 --overload-lateness-us 500 --cores 2,3 \
                      --xdp eth0,eth1 --xdp-busy-poll-us 20";
        assert_eq!(arguments(&config).join(" "), wanted);
    }
}
