//! The dashboard and the metrics under a real Prometheus: it scrapes a system with calls, and every query of
//! `tuning/grafana/nebula.json` is asked through its API as Grafana would ask it. Each has to be understood, and to have data.

use nebula_tests::faults::hold::Hold;
use nebula_tests::process::Process;
use nebula_tests::system::System;
use nebula_tests::{free_port, wait_for};
use serde_json::Value;
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// The media agent reads the dataplane's table every five seconds, and a rate wants two of those.
const DEADLINE: Duration = Duration::from_secs(40);

/// What Grafana puts in, for scrapes as frequent as here.
const RATE_INTERVAL: &str = "20s";

/// A Prometheus of our own, which scrapes one address each second.
struct Prometheus {
    address: SocketAddr,
    _process: Process,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(scraped: SocketAddr) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let config = format!(
            "global: {{scrape_interval: 1s}}\nscrape_configs: [{{job_name: nebula, static_configs: [{{targets: \
             ['{scraped}']}}]}}]\n"
        );
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("written");
        let mut command = Command::new("prometheus");
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let prometheus = Self { address, _process: Process::spawn(command), _folder: folder };
        wait_for("Prometheus", DEADLINE, || ureq::get(prometheus.url("/-/ready")).call().ok());
        prometheus
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Its answer to a query: the values, or what is wrong with the query.
    fn ask(&self, query: &str) -> Result<Vec<f64>, String> {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let response = agent.get(self.url("/api/v1/query")).query("query", query).call();
        let mut response = response.map_err(|error| error.to_string())?;
        let text = response.body_mut().read_to_string().map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let result = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        Ok(result.iter().filter_map(|series| series["value"][1].as_str()?.parse().ok()).collect())
    }
}

/// Title and query of each target of the dashboard, as Grafana fills them in.
fn queries() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tuning/grafana/nebula.json");
    let dashboard: Value = serde_json::from_slice(&std::fs::read(path).expect("a dashboard")).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let of_panel = |panel: &Value| {
        let title = panel["title"].as_str().expect("a title").to_owned();
        let targets = panel["targets"].as_array().expect("targets").clone();
        targets.into_iter().map(move |target| (title.clone(), target["expr"].as_str().expect("a query").to_owned()))
    };
    let filled = |query: String| query.replace("$__rate_interval", RATE_INTERVAL).replace("$job", ".*");
    panels.iter().flat_map(of_panel).map(|(title, query)| (title, filled(query))).collect()
}

#[test]
fn every_panel_has_data_of_a_system_with_calls_and_prometheus_finds_nothing_wrong() {
    let system = System::start();
    let prometheus = Prometheus::start(system.address("media"));
    let mut phones = Hold::start(&[system.sip()], &[]);
    assert_eq!(phones.run("place 3 20", DEADLINE)["answered"], 3);

    let queries = queries();
    assert!(queries.len() > 25, "{queries:?}");
    for (title, query) in &queries {
        assert!(!query.contains('$'), "{title}: a variable that is not known here: {query}");
        prometheus.ask(query).unwrap_or_else(|why| panic!("{title}: {query}: {why}"));
    }
    // Numbers that are none (0 / 0) are no data.
    let has_data = |query: &str| prometheus.ask(query).is_ok_and(|values| values.iter().any(|value| value.is_finite()));
    wait_for("packets", DEADLINE, || {
        let rates = prometheus.ask("rate(nebula_dataplane_packets_received_total[20s])").unwrap_or_default();
        rates.iter().any(|rate| *rate > 50.0).then_some(())
    });
    let mut without: Vec<_> = queries.iter().collect();
    let end = std::time::Instant::now() + DEADLINE;
    while !without.is_empty() && std::time::Instant::now() < end {
        without.retain(|(_, query)| !has_data(query));
    }
    assert!(without.is_empty(), "no data: {without:#?}");
    assert_eq!(prometheus.ask("sum(nebula_switchboard_calls)"), Ok(vec![3.0]));
    assert_eq!(prometheus.ask("sum(nebula_media_streams)"), Ok(vec![6.0]));
    let cpu = prometheus.ask("rate(nebula_dataplane_cpu_seconds_total[20s])").expect("CPU");
    assert!(cpu.iter().all(|share| (0.0..1.0).contains(share)), "a share of a core: {cpu:?}");

    let text = system.get_text("media", "/metrics");
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut check = command.spawn().expect("promtool; `make test` installs it");
    check.stdin.take().expect("a pipe").write_all(text.as_bytes()).expect("it reads");
    let checked = check.wait_with_output().expect("its end");
    let said = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.trim().is_empty(), "{said}");
}
