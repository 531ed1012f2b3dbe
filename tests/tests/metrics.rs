//! What operators are promised about metrics: each one is named in docs/metrics.md, with its HELP text in /metrics, and the
//! dashboard asks for nothing that a running system does not have.

use nebula_tests::faults::hold::Hold;
use nebula_tests::system::System;
use nebula_tests::wait_for;
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Looks like a metric in the sources, and is the name of a thread.
const NO_METRICS: [&str; 1] = ["nebula_outbox"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All words of a text that begin so.
fn names(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && !c.is_ascii_digit() && c != '_');
    words.filter(|word| word.starts_with("nebula_")).map(str::to_owned).collect()
}

/// Names at the head of a line of the page's tables.
fn documented() -> BTreeSet<String> {
    let page = read("docs/metrics.md");
    page.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned())).collect()
}

/// Quoted names in control's sources.
fn in_sources() -> BTreeSet<String> {
    fn walk(folder: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
            if entry.is_dir() {
                walk(&entry, found);
            } else if entry.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&entry).expect("a source");
                let quoted = text.split('"').filter(|part| part.starts_with("nebula_"));
                let is_name =
                    |part: &&str| part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
                // One that ends so is the front of names, in a test.
                let names = quoted.filter(is_name).filter(|name| !name.ends_with('_'));
                found.extend(names.map(str::to_owned));
            }
        }
    }
    let mut found = BTreeSet::new();
    for member in std::fs::read_dir(root().join("control")).expect("a folder") {
        walk(&member.expect("an entry").path().join("src"), &mut found);
    }
    found.into_iter().filter(|name| !NO_METRICS.contains(&name.as_str())).collect()
}

/// Families as /metrics has them, each with whether its HELP text says something.
fn families(text: &str) -> Vec<(String, bool)> {
    let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_whitespace().next());
    let has_help = |name: &str| {
        let help = text.lines().find_map(|line| line.strip_prefix(&format!("# HELP {name} ")));
        help.is_some_and(|help| help.split_whitespace().count() >= 2)
    };
    kinds.map(|name| (name.to_owned(), has_help(name))).collect()
}

#[test]
fn the_page_names_what_the_sources_name_and_no_other() {
    let (page, sources) = (documented(), in_sources());
    let missing: Vec<_> = sources.difference(&page).collect();
    assert!(missing.is_empty(), "docs/metrics.md lacks {missing:?}");
    // The dataplane's are put together from the names of its counters: the running system knows them.
    let gone: Vec<_> = page.difference(&sources).filter(|name| !name.starts_with("nebula_dataplane_")).collect();
    assert!(gone.is_empty(), "docs/metrics.md names what is no more: {gone:?}");
}

#[test]
fn a_running_system_has_what_the_dashboard_asks_for_and_every_metric_its_help_and_its_line() {
    let system = System::start();
    // What is sampled of streams is there once one talks.
    let mut phones = Hold::start(&[system.sip()], &[]);
    let placed = phones.run("place 1 50 *43", Duration::from_secs(30));
    assert_eq!(placed["answered"], 1, "{placed}");
    // The media agent reads the tables every few seconds.
    let text = wait_for("the figures of dataplane and stream", Duration::from_secs(30), || {
        let text = system.get_text("media", "/metrics");
        let all = ["nebula_dataplane_turns_total{", "nebula_media_rtp_jitter_seconds"];
        all.iter().all(|name| text.lines().any(|line| line.starts_with(name))).then_some(text)
    });
    let families = families(&text);
    let page = documented();
    for (name, has_help) in &families {
        assert!(page.contains(name), "docs/metrics.md lacks {name}");
        assert!(has_help, "{name} has no HELP text");
    }
    let running: BTreeSet<&String> = families.iter().map(|(name, _)| name).collect();
    let gone = page.iter().filter(|name| name.starts_with("nebula_dataplane_") && !running.contains(name));
    let gone: Vec<_> = gone.collect();
    assert!(gone.is_empty(), "docs/metrics.md names what is no more: {gone:?}");

    let dashboard: Value = serde_json::from_str(&read("tuning/grafana/nebula.json")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut asked = names(&dashboard["templating"].to_string());
    for panel in panels {
        let targets = panel["targets"].as_array().expect("targets");
        assert!(!targets.is_empty() && panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{panel}");
        for target in targets {
            let found = names(target["expr"].as_str().expect("a query"));
            assert!(!found.is_empty(), "{target}");
            asked.extend(found);
        }
    }
    assert!(asked.len() > 25, "{asked:?}");
    let missing: Vec<_> = asked.iter().filter(|name| !running.contains(name)).collect();
    // One that counts kinds of things is there once the first of them was.
    assert!(missing.is_empty(), "the dashboard asks for what is not there: {missing:?}");
}
