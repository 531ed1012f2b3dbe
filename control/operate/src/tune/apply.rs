//! Writing what `check` found, and putting it back. What was there is on the disk before anything is changed, so a crash
//! in between loses nothing; what somebody else has changed since is left alone.

use super::check::Finding;
use super::host::chosen;
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

/// What became of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It has another value now.
    Changed {
        /// Which, from the root of the host.
        path: PathBuf,
        /// Its value before.
        before: String,
        /// Its value now, which the kernel may have made less than what was asked for.
        after: String,
    },
    /// The system refused.
    Refused {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// Not put back, because somebody else has changed it since.
    Left {
        /// Which.
        path: PathBuf,
        /// What it is now.
        is: String,
    },
}

impl Outcome {
    /// Whether something is not as it was asked for.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Refused { .. })
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Changed { path, before, after } => write!(f, "{}: {before} -> {after}", path.display()),
            Self::Refused { path, why } => write!(f, "{}: not changed: {why}", path.display()),
            Self::Left { path, is } => write!(f, "{}: left at {is}, which somebody else has set", path.display()),
        }
    }
}

/// A line of the state file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    path: PathBuf,
    before: String,
    /// None until it was written: then `revert` puts `before` back whatever is there.
    after: Option<String>,
}

/// Writes what the findings ask for, those that people must mend apart.
pub fn apply(root: &Path, state_file: &Path, findings: &[Finding]) -> Result<Vec<Outcome>> {
    let mut kept = read_state(state_file)?;
    let mut outcomes = Vec::new();
    for (path, value) in findings.iter().filter_map(|finding| finding.mend.file()) {
        let file = under(root, &path);
        let before = match fs::read_to_string(&file) {
            Ok(text) => chosen(&text),
            Err(error) => {
                outcomes.push(Outcome::Refused { path, why: error.to_string() });
                continue;
            }
        };
        // Changed twice: what was there first is what counts.
        let index = kept.iter().position(|it| it.path == path).unwrap_or_else(|| {
            kept.push(Kept { path: path.clone(), before: before.clone(), after: None });
            kept.len() - 1
        });
        kept[index].after = None;
        write_state(state_file, &kept)?;
        if let Err(error) = fs::write(&file, value) {
            outcomes.push(Outcome::Refused { path, why: error.to_string() });
            if kept[index].before == before {
                kept.remove(index);
            } else {
                kept[index].after = Some(before);
            }
            write_state(state_file, &kept)?;
            continue;
        }
        let after = fs::read_to_string(&file).map_or_else(|_| value.to_owned(), |text| chosen(&text));
        kept[index].after = Some(after.clone());
        write_state(state_file, &kept)?;
        outcomes.push(Outcome::Changed { path, before, after });
    }
    Ok(outcomes)
}

/// Puts back what was there, the last change first. What was refused stays in the state file.
pub fn revert(root: &Path, state_file: &Path) -> Result<Vec<Outcome>> {
    let mut kept = read_state(state_file)?;
    let (mut outcomes, mut refused) = (Vec::new(), Vec::new());
    while let Some(it) = kept.pop() {
        let file = under(root, &it.path);
        let is = fs::read_to_string(&file).map(|text| chosen(&text)).unwrap_or_default();
        if it.after.as_ref().is_some_and(|after| *after != is) {
            outcomes.push(Outcome::Left { path: it.path, is });
            continue;
        }
        match fs::write(&file, &it.before) {
            Ok(()) => outcomes.push(Outcome::Changed { path: it.path, before: is, after: it.before }),
            Err(error) => {
                outcomes.push(Outcome::Refused { path: it.path.clone(), why: error.to_string() });
                refused.push(it);
            }
        }
    }
    refused.reverse();
    write_state(state_file, &refused)?;
    Ok(outcomes)
}

fn under(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

fn read_state(file: &Path) -> Result<Vec<Kept>> {
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("state file {}", file.display())),
    };
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).with_context(|| format!("state file {}: {line}", file.display())))
        .collect()
}

/// All of it in one step, on the disk when this returns; none is no file.
fn write_state(file: &Path, kept: &[Kept]) -> Result<()> {
    let context = || {
        format!(
            "state file {}: nothing is changed that could not be put back; choose another with --state-file",
            file.display()
        )
    };
    if kept.is_empty() {
        return match fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).with_context(context),
            _ => Ok(()),
        };
    }
    let write = || {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder)?;
        }
        let new = file.with_extension("new");
        let mut out = File::create(&new)?;
        for it in kept {
            writeln!(out, "{}", serde_json::to_string(it)?)?;
        }
        out.sync_all()?;
        fs::rename(&new, file)
    };
    write().with_context(context)
}
