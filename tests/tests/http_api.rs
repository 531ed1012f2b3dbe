//! What the ports over HTTP say: the gateway's calls, records and extensions; health, metrics and RPC of each role.

use nebula_tests::load::load;
use nebula_tests::sipp::{Sipp, Transport};
use nebula_tests::system::System;
use nebula_tests::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

const ROLES: [&str; 3] = ["proxy", "switchboard", "media"];

/// Status and body.
fn request(system: &System, method: &str, port: &str, path: &str, body: &str) -> (u16, String) {
    let url = format!("http://{}{path}", system.address(port));
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let response = match method {
        "GET" => agent.get(&url).call(),
        "DELETE" => agent.delete(&url).call(),
        _ => agent.post(&url).send(body),
    };
    let mut response = response.unwrap_or_else(|e| panic!("{method} {url}: {e}"));
    (response.status().as_u16(), response.body_mut().read_to_string().expect("text"))
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn rpc(system: &System, port: &str, body: &str) -> Value {
    let (status, text) = request(system, "POST", port, "/rpc", body);
    assert_eq!(status, 200, "JSON-RPC tells errors in its body");
    json_of(&text)
}

#[test]
fn a_live_call_is_shown_and_can_be_ended() {
    let system = System::start();
    assert_eq!(system.get("/v1.0/calls"), json!([]));
    let callee = Sipp::callee(&system, "callee", "1001", 1, Transport::Udp);
    let caller = Sipp::caller(&system, "caller_stays", "1000", "1001", 1, Transport::Udp);
    let calls = system.wait_for_talking(1);
    let id = calls[0]["call_id"].as_str().expect("an id").to_owned();
    let call = system.get(&format!("/v1.0/calls/{id}"));
    assert_eq!((&call["from"]["user"], &call["to"], &call["call_id"]), (&json!("1000"), &json!("1001"), &json!(id)));
    assert_eq!(call["channels"].as_array().map(Vec::len), Some(2), "{call:#}");
    assert_eq!(call["streams"].as_array().map(Vec::len), Some(2), "{call:#}");
    let listed = rpc(&system, "switchboard", r#"{"jsonrpc":"2.0","id":1,"method":"call.list","params":{}}"#);
    assert_eq!(listed["result"][0]["call_id"], json!(id), "{listed:#}");

    let (status, _) = request(&system, "DELETE", "http", &format!("/v1.0/calls/{id}"), "");
    assert_eq!(status, 202);
    // Both phones got a BYE.
    caller.succeeds();
    callee.succeeds();
    let cdrs = system.wait_for_cdrs(1, Duration::from_secs(5));
    assert_eq!((&cdrs[0]["cause"], &cdrs[0]["ended_by"]), (&json!("administrative"), &json!("system")));
    let record = system.get(&format!("/v1.0/cdrs/{id}"));
    assert_eq!(record, cdrs[0]);
    let (status, text) = request(&system, "DELETE", "http", &format!("/v1.0/calls/{id}"), "");
    assert_eq!((status, json_of(&text)["error"]["code"].clone()), (404, json!("not_found")));
}

#[test]
fn what_is_not_there_is_an_error_in_json() {
    let system = System::start();
    for (method, path, status) in [
        ("GET", "/v1.0/calls/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404),
        ("GET", "/v1.0/cdrs/01ARZ3NDEKTSV4RRFFQ69G5FAV", 404),
        ("DELETE", "/v1.0/calls/nonsense", 404),
        ("GET", "/v1.0/nothing", 404),
        ("GET", "/v1.0/calls?limit=many", 400),
        ("GET", "/v1.0/cdrs?limit=-1", 400),
        ("POST", "/v1.0/cdrs", 405),
    ] {
        let (got, text) = request(&system, method, "http", path, "");
        assert_eq!(got, status, "{method} {path}: {text}");
        let error = &json_of(&text)["error"];
        assert!(error["code"].is_string() && error["message"].is_string(), "{method} {path}: {text}");
    }
}

#[test]
fn extensions_are_listed_without_secrets() {
    let system = System::start();
    let extensions = system.get("/v1.0/extensions");
    let all = extensions.as_array().expect("an array");
    assert_eq!(all.len(), 10);
    let keys: Vec<&str> = all[0].as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(keys, ["customer_id", "display_name", "enabled", "srtp", "user"]);
    assert_eq!((&all[0]["user"], &all[9]["user"]), (&json!("1000"), &json!("1009")));
}

#[test]
fn each_role_tells_health_and_answers_rpc() {
    let system = System::start();
    for port in ROLES {
        assert_eq!(system.get_text(port, "/healthz"), "ok\n");
        wait_for("readiness", Duration::from_secs(5), || {
            (request(&system, "GET", port, "/readyz", "").0 == 200).then_some(())
        });
        let unknown = rpc(&system, port, r#"{"jsonrpc":"2.0","id":7,"method":"no.such","params":{}}"#);
        assert_eq!((&unknown["error"]["code"], &unknown["id"]), (&json!(-32601), &json!(7)), "{unknown:#}");
        assert_eq!(rpc(&system, port, "no json")["error"]["code"], json!(-32700));
        assert_eq!(rpc(&system, port, "{}")["error"]["code"], json!(-32600));
        assert_eq!(rpc(&system, port, "\u{0}\u{1}")["error"]["code"], json!(-32700));
        let (status, _) = request(&system, "POST", port, "/rpc", &"x".repeat(200 * 1024));
        assert_eq!(status, 413);
    }
    let wrong = rpc(&system, "switchboard", r#"{"jsonrpc":"2.0","id":1,"method":"call.get","params":{"call_id":7}}"#);
    assert_eq!(wrong["error"]["code"], json!(-32602), "{wrong:#}");
    assert_eq!(system.get_text("http", "/healthz"), "ok\n");
    assert_eq!(system.get_text("http", "/readyz"), "ready\n");
}

#[test]
fn metrics_are_described_and_move_with_a_call() {
    let system = System::start();
    let report = load(&system, "--to 1001 --calls 3 --rate 20 --duration-s 0.5");
    assert_eq!(report["established"], 3, "{report:#}");
    system.wait_for_cdrs(3, Duration::from_secs(5));
    assert_eq!(system.metric("nebula_switchboard_calls_total"), 3.0);
    assert_eq!(system.metric("nebula_switchboard_calls_answered_total"), 3.0);
    assert_eq!(system.metric("nebula_switchboard_calls"), 0.0);
    assert_eq!(system.metric("nebula_proxy_registrations_total"), 2.0);
    assert!(system.metric("nebula_proxy_requests_total") >= 3.0 * 5.0);
    // The agent reads the dataplane's tables every few seconds.
    wait_for("packets in the metrics", Duration::from_secs(15), || {
        let received = report["packets_received"].as_f64().expect("a number");
        (system.metric("nebula_media_rtp_packets_received_total") >= received).then_some(())
    });
    let text = system.get_text("media", "/metrics");
    let described: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("# HELP ")?.split(' ').next()).collect();
    let names = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next());
    let missing: Vec<&str> = names.filter(|name| name.starts_with("nebula_") && !described.contains(name)).collect();
    assert_eq!(missing, [] as [&str; 0], "every metric says what it is");
    for port in ROLES {
        assert!(system.get_text(port, "/metrics").contains("nebula_switchboard_calls_total"));
    }
}
