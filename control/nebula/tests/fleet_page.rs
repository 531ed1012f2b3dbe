//! `docs/fleet.md`, followed to the letter: its first block sets up a fleet with Redis and Postgres, places calls, kills
//! a switchboard under some of them and stops it all. What it needs to be built and installed is there already.

use std::path::Path;
use std::process::{Command, Stdio};

/// The first `sh` block behind a heading.
fn block<'a>(page: &'a str, heading: &str) -> &'a str {
    let behind = page.split_once(&format!("\n## {heading}\n")).expect("the heading").1;
    behind.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```")).expect("a block").0
}

#[test]
fn a_fleet_in_one_minute() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = std::fs::read_to_string(root.join("docs/fleet.md")).expect("the page");
    // Postgres' user must be able to come to its data.
    let folder = tempfile::Builder::new().permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755)).tempdir();
    let folder = folder.expect("a folder");
    let programs = Path::new(env!("CARGO_BIN_EXE_nebula")).parent().expect("a folder");
    for program in ["nebula-dataplane", "nebula-load"] {
        assert!(programs.join(program).exists(), "build {program} first: cargo build --workspace");
    }
    let text = block(&page, "In one minute");
    let lines = text.lines().filter(|line| !line.starts_with("make ") && !line.starts_with("scripts/install "));
    let lines = lines.map(|line| match line.strip_prefix("bin=") {
        Some(_) => format!("bin={}", programs.display()),
        // How many packets may be lost is the fault table's concern; here a host may be starved by other tests.
        None => line
            .replace("/tmp/fleet", &folder.path().join("fleet").display().to_string())
            .replace("--max-loss 0 ", "--max-loss 5 "),
    });
    // The shell ends with the first failure, and takes the fleet along.
    let stop = format!("trap 'scripts/fleet $bin {} stop' EXIT\n", folder.path().join("fleet").display());
    let script = lines.fold(format!("set -eu\n{stop}"), |script, line| script + &line + "\n");
    let log = folder.path().join("log");
    let file = std::fs::File::create(&log).expect("a log");
    // A file, not a pipe: what the script leaves running, should it fail, would hold a pipe open.
    let mut bash = Command::new("bash");
    bash.arg("-c").arg(&script).current_dir(&root).stdin(Stdio::null());
    let status = bash.stdout(file.try_clone().expect("dup")).stderr(file).status().expect("bash");
    let said = std::fs::read_to_string(&log).expect("a log");
    assert!(status.success(), "{said}");
    assert!(said.contains("the fleet is up") && said.contains("switchboard was killed and runs again"), "{said}");
    let established: Vec<&str> = said.lines().filter(|line| line.contains("established")).collect();
    assert!(established.len() == 2 && established.iter().all(|line| line.contains("20")), "{said}");
    assert!(said.contains("the fleet has ended"), "{said}");
}
