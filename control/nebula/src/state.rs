//! Where configuration and state are, for every command: the file, the folder, its locks.

use crate::config::Config;
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::File;
use std::path::{Path, PathBuf};

/// Where state and configuration are; shared by all commands that touch the store.
#[derive(Debug, Clone, clap::Args)]
pub struct StateArguments {
    /// The configuration file; /etc/nebula/nebula.conf if it exists.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder: database, sockets, logs [default: ~/.local/state/nebula].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

impl StateArguments {
    /// The configuration: file, then environment.
    pub fn configuration(&self) -> Result<Config> {
        Ok(Config::load(self.config.as_deref(), std::env::vars())?)
    }

    /// The state folder, made if it isn't there.
    pub fn folder(&self) -> Result<PathBuf> {
        let home_state = || {
            let base = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
            base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))
        };
        let folder = self.state.clone().or_else(|| home_state().map(|base| base.join("nebula")));
        let folder = folder.context("no state folder: neither --state, XDG_STATE_HOME nor HOME is set")?;
        let made = std::fs::create_dir_all(&folder).and_then(|()| folder.canonicalize());
        made.with_context(|| {
            format!("state folder {}: not a folder that can be made; choose another with --state", folder.display())
        })
    }
}

/// A state folder that is this process's, until it is dropped.
pub struct Lock(#[expect(dead_code, reason = "held for its flock")] Vec<File>);

impl Lock {
    /// For a whole system: two of them in one folder would share a database and a dataplane.
    pub fn whole(folder: &Path) -> Result<Self> {
        Ok(Self(vec![taken(folder, "lock", FlockOperation::NonBlockingLockExclusive, "nebula")?]))
    }

    /// For one role: roles of different kinds may share a folder.
    pub fn role(folder: &Path, role: &str) -> Result<Self> {
        let shared = taken(folder, "lock", FlockOperation::NonBlockingLockShared, "nebula")?;
        let own = taken(folder, &format!("{role}.lock"), FlockOperation::NonBlockingLockExclusive, role)?;
        Ok(Self(vec![shared, own]))
    }
}

fn taken(folder: &Path, name: &str, how: FlockOperation, who: &str) -> Result<File> {
    let file = File::options().create(true).truncate(false).write(true).open(folder.join(name));
    let file = file
        .with_context(|| format!("state folder {} cannot be written; choose another with --state", folder.display()))?;
    if flock(&file, how).is_err() {
        let another = if who == "nebula" { "another nebula".to_owned() } else { format!("another nebula {who}") };
        bail!("state folder {} is in use by {another}; stop that one or choose another with --state", folder.display());
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_share_a_folder_and_a_whole_system_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let refusal = |lock: Result<Lock>| lock.err().map(|e| e.to_string()).unwrap_or_default();
        let roles = [Lock::role(folder.path(), "proxy").unwrap(), Lock::role(folder.path(), "media").unwrap()];
        assert!(refusal(Lock::role(folder.path(), "media")).contains("in use by another nebula media"));
        assert!(refusal(Lock::whole(folder.path())).contains("in use by another nebula;"));
        drop(roles);
        let whole = Lock::whole(folder.path()).unwrap();
        assert!(refusal(Lock::role(folder.path(), "media")).contains("in use by another nebula;"));
        drop(whole);
        assert!(Lock::role(folder.path(), "media").is_ok());
    }
}
