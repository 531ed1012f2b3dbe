//! Who may know whom: the edges between the crates, and where unsafe code may live.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A crate, and every crate of ours it may depend on. An edge that is missing here is a decision for ARCHITECTURE.md.
const ALLOWED: &[(&str, &[&str])] = &[
    ("nebula-ring", &[]),
    ("nebula-core", &["nebula-ring", "nebula-simd"]),
    ("nebula-io", &["nebula-core", "nebula-ring"]),
    ("nebula-dataplane", &["nebula-core", "nebula-io", "nebula-ring"]),
    ("nebula-simd", &[]),
    ("nebula-sip", &[]),
    ("nebula-bus", &[]),
    ("nebula-store", &[]),
    ("nebula-proxy", &["nebula-bus", "nebula-sip", "nebula-store"]),
    ("nebula-switchboard", &["nebula-bus", "nebula-store"]),
    ("nebula-media", &["nebula-bus", "nebula-ring"]),
    ("nebula-api", &["nebula-bus", "nebula-store"]),
    ("nebula-operate", &["nebula-core", "nebula-ring"]),
    (
        "nebula",
        &[
            "nebula-api",
            "nebula-bus",
            "nebula-media",
            "nebula-operate",
            "nebula-proxy",
            "nebula-store",
            "nebula-switchboard",
        ],
    ),
    ("nebula-load", &[]),
    ("nebula-bench", &["nebula-core", "nebula-io", "nebula-ring", "nebula-simd"]),
    ("nebula-tests", &[]),
];

/// The crates that touch memory and syscalls by themselves. All others forbid unsafe code.
const UNSAFE: &[&str] = &["nebula-ring", "nebula-simd", "nebula-io"];

/// What keeps the dataplane's binary small: no runtime, no database, no TLS, no HTTP.
const NOT_IN_THE_DATAPLANE: &[&str] = &["tokio", "sea-orm", "axum", "rustls", "redis", "tracing"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace is the parent folder").to_owned()
}

fn read(path: &Path) -> toml::Table {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    text.parse().unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Each member's folder, name and the names of what it depends on, tests included.
fn members() -> BTreeMap<String, (PathBuf, BTreeSet<String>)> {
    let workspace = read(&root().join("Cargo.toml"));
    let folders = workspace["workspace"]["members"].as_array().expect("members");
    let member = |folder: &toml::Value| {
        let folder = root().join(folder.as_str().expect("a folder"));
        let manifest = read(&folder.join("Cargo.toml"));
        let name = manifest["package"]["name"].as_str().expect("a name").to_owned();
        let sections = ["dependencies", "dev-dependencies", "build-dependencies"];
        let on = sections.iter().filter_map(|s| manifest.get(*s)?.as_table()).flat_map(|t| t.keys().cloned()).collect();
        (name, (folder, on))
    };
    folders.iter().map(member).collect()
}

#[test]
fn crates_know_only_whom_they_may() {
    let members = members();
    let allowed: BTreeMap<&str, &[&str]> = ALLOWED.iter().copied().collect();
    assert_eq!(
        members.keys().map(String::as_str).collect::<Vec<_>>(),
        allowed.keys().copied().collect::<Vec<_>>(),
        "every member of the workspace is named here"
    );
    for (name, (_, on)) in &members {
        let ours = on.iter().filter(|d| members.contains_key(*d));
        let wrong: Vec<_> = ours.filter(|d| !allowed[name.as_str()].contains(&d.as_str())).collect();
        assert!(wrong.is_empty(), "{name} must not know {wrong:?}");
    }
}

#[test]
fn the_dataplane_stays_small() {
    for name in ["nebula-ring", "nebula-core", "nebula-io", "nebula-dataplane"] {
        let manifest = read(&members()[name].0.join("Cargo.toml"));
        for library in NOT_IN_THE_DATAPLANE {
            assert!(manifest["dependencies"].get(library).is_none(), "{name} must not depend on {library}");
        }
    }
}

#[test]
fn unsafe_code_lives_where_it_may() {
    for (name, (folder, _)) in &members() {
        let crate_root = ["src/lib.rs", "src/main.rs"].map(|f| folder.join(f)).into_iter().find(|f| f.exists());
        let crate_root = crate_root.unwrap_or_else(|| panic!("{name} has no root"));
        let text = std::fs::read_to_string(&crate_root).expect("readable");
        let forbids = text.contains("#![forbid(unsafe_code)]");
        assert_eq!(forbids, !UNSAFE.contains(&name.as_str()), "{name} and forbid(unsafe_code)");
    }
}
