//! Test data from elsewhere, beside the checkout.

use std::path::{Path, PathBuf};

/// A file or folder of `$NEBULA_TESTDATA` (`../shared/testdata` beside the checkout by default). Absent data is said
/// aloud, and the test counts as skipped.
pub fn find(path: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/testdata");
    let root = std::env::var_os("NEBULA_TESTDATA").map_or_else(beside, PathBuf::from);
    let found = root.join(path);
    if found.exists() {
        return Some(found);
    }
    eprintln!("skipped: {} is absent; set NEBULA_TESTDATA", found.display());
    None
}
