//! Where the messages of RFC 4475 and 5118 are: `$NEBULA_TESTDATA`, or beside the checkout.
#![allow(dead_code, reason = "each test file uses what it needs")]

use std::path::{Path, PathBuf};

use bytes::Bytes;

fn root() -> PathBuf {
    std::env::var_os("NEBULA_TESTDATA")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/testdata"), PathBuf::from)
}

fn read(folder: &str, file: &str) -> Option<Bytes> {
    let path = root().join(folder).join(file);
    match std::fs::read(&path) {
        Ok(bytes) => Some(bytes.into()),
        Err(error) => {
            eprintln!("skipped: {}: {error}", path.display());
            None
        }
    }
}

/// One message of RFC 4475, by the RFC's name for it.
pub fn rfc4475(name: &str) -> Option<Bytes> {
    read("rfc4475", &format!("{name}.dat"))
}

/// One message of RFC 5118.
pub fn rfc5118(name: &str) -> Option<Bytes> {
    read("rfc5118", name)
}

/// The names of all messages in a folder, sorted.
pub fn names(folder: &str, suffix: &str) -> Option<Vec<String>> {
    let Ok(entries) = std::fs::read_dir(root().join(folder)) else {
        eprintln!("skipped: no {folder}");
        return None;
    };
    let files = entries.flatten().filter(|e| e.path().is_file()).filter_map(|e| e.file_name().into_string().ok());
    let mut names: Vec<String> =
        files.filter_map(|f| f.strip_suffix(suffix).map(str::to_owned)).filter(|f| !f.ends_with(".txt")).collect();
    names.sort();
    Some(names)
}

/// All messages of both RFCs.
pub fn all() -> Vec<(String, Bytes)> {
    let of = |folder: &'static str, suffix: &'static str| {
        let names = names(folder, suffix).unwrap_or_default();
        names.into_iter().filter_map(move |name| read(folder, &format!("{name}{suffix}")).map(|bytes| (name, bytes)))
    };
    of("rfc4475", ".dat").chain(of("rfc5118", "")).collect()
}
