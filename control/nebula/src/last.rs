//! What the last process in this state folder chose where it had the choice: its ports and its name. The next one chooses
//! the same, so that calls find it where they left it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What was chosen, and where that is written.
#[derive(Debug)]
pub struct Last {
    file: PathBuf,
    chosen: Chosen,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
struct Chosen {
    node: Option<String>,
    /// By the key that was 0.
    ports: BTreeMap<String, u16>,
}

impl Last {
    /// Reads the choices of the last process called `name`; one that left none, or left them damaged, chose nothing.
    pub fn read(folder: &Path, name: &str) -> Self {
        let file = folder.join(format!("{name}.last"));
        let text = std::fs::read(&file).unwrap_or_default();
        Self { file, chosen: serde_json::from_slice(&text).unwrap_or_default() }
    }

    /// The port that was taken for a key.
    pub fn port(&self, key: &str) -> Option<u16> {
        self.chosen.ports.get(key).copied()
    }

    /// Notes the port that is taken for a key.
    pub fn take(&mut self, key: &str, port: u16) {
        self.chosen.ports.insert(key.to_owned(), port);
    }

    /// The node's name as it was, or as it is given now.
    pub fn node(&mut self, given: impl FnOnce() -> String) -> String {
        self.chosen.node.get_or_insert_with(given).clone()
    }

    /// Writes them, whole or not at all. A failure costs a later process its choices, nothing else.
    pub fn write(&self) {
        let unfinished = self.file.with_extension("last.new");
        let text = serde_json::to_vec_pretty(&self.chosen).unwrap_or_default();
        let written = std::fs::write(&unfinished, text).and_then(|()| std::fs::rename(&unfinished, &self.file));
        if let Err(error) = written {
            tracing::warn!(file = %self.file.display(), %error, "the ports that were chosen cannot be noted");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_found_again_and_damage_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let mut first = Last::read(folder.path(), "nebula");
        assert_eq!((first.port("sip.port"), first.node(|| "one".into()).as_str()), (None, "one"));
        first.take("sip.port", 5062);
        first.write();
        let mut second = Last::read(folder.path(), "nebula");
        assert_eq!((second.port("sip.port"), second.node(|| "two".into()).as_str()), (Some(5062), "one"));
        assert_eq!(Last::read(folder.path(), "proxy").port("sip.port"), None);
        std::fs::write(folder.path().join("nebula.last"), "{\"ports\": 7").unwrap();
        assert_eq!(Last::read(folder.path(), "nebula").port("sip.port"), None);
    }
}
