//! Roles as processes: what they need, what they refuse, and what they find again. With a real Redis; calls are in the
//! end-to-end tests.

mod common;

use common::{Redis, Role, nebula, wait_for};
use std::process::Command;
use std::time::Duration;

const SECONDS: Duration = Duration::from_secs(20);

#[test]
fn a_role_without_redis_says_what_to_set() {
    let folder = tempfile::tempdir().expect("a folder");
    for role in ["proxy", "switchboard", "media", "api"] {
        let run = nebula(&[role], folder.path()).output().expect("nebula");
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!((run.status.code(), said.lines().count()), (Some(1), 1), "{said}");
        for part in [role, "redis.url", "NEBULA__REDIS__URL", "database.url", "nebula up"] {
            assert!(said.contains(part), "{said:?} should say {part:?}");
        }
    }
}

#[test]
fn a_redis_that_is_not_there_is_named_and_waited_for() {
    let mut redis = Redis::start();
    let folder = redis.with_schema();
    redis.kill();
    let log = std::fs::File::create(folder.path().join("first")).expect("a log");
    let mut command = redis.configure(nebula(&["switchboard", "--admin-port", "0"], folder.path()), folder.path());
    let mut first = command.stderr(log).spawn().expect("nebula");
    let said = || std::fs::read_to_string(folder.path().join("first")).expect("a log");
    wait_for("a word", SECONDS, || Some(said()).filter(|said| said.contains("waiting for Redis at redis://127.0.0.1")));
    assert!(said().contains("redis.url") && first.try_wait().expect("a child").is_none(), "{}", said());
    common::terminate(&first);
    let status = wait_for("its end", SECONDS, || first.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(0), "a stop is no failure: {}", said());

    // A command that somebody waits for does not wait.
    let list = redis.configure(nebula(&["extension", "list"], folder.path()), folder.path()).output().expect("nebula");
    assert_eq!(list.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&list.stderr).contains("redis.url"), "{list:?}");

    let waiting = std::thread::scope(|scope| {
        let started = scope.spawn(|| Role::start(&redis, folder.path(), &["switchboard"]));
        wait_for("the second to wait", SECONDS, || {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            log.contains("waiting for Redis").then_some(())
        });
        let _server = redis.another();
        started.join().expect("a role")
    });
    drop(waiting);
}

#[test]
fn a_password_that_is_wrong_is_told_at_once_and_not_shown() {
    let redis = Redis::start();
    redis.require_password("right");
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = redis.configure(nebula(&["switchboard", "--admin-port", "0"], folder.path()), folder.path());
    let run = command.env("NEBULA__REDIS__PASSWORD", "hidden").output().expect("nebula");
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(run.status.code() == Some(1) && said.contains("redis.password"), "{said}");
    assert!(!said.contains("hidden"), "{said}");
}

#[test]
fn a_schema_that_is_not_its_own_is_refused_by_name() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().expect("a folder");
    let run = |arguments: &[&str]| {
        let run = redis.configure(nebula(arguments, folder.path()), folder.path()).output().expect("nebula");
        let said = String::from_utf8_lossy(&run.stdout).into_owned() + &String::from_utf8_lossy(&run.stderr);
        (run.status.code(), said)
    };
    let (code, said) = run(&["switchboard", "--admin-port", "0"]);
    assert!(code == Some(1) && said.contains("m0003_extension_srtp") && said.contains("nebula migrate up"), "{said}");
    let (code, said) = run(&["migrate", "status"]);
    assert!(code == Some(1) && said.contains("m0001_spine") && said.contains("pending"), "{said}");
    let (code, said) = run(&["migrate", "up"]);
    assert!(code == Some(0) && said.contains("applied m0001_spine"), "{said}");
    let (code, said) = run(&["migrate", "up"]);
    assert!(code == Some(0) && said.contains("nothing to do"), "{said}");
    assert_eq!(run(&["migrate", "status"]).0, Some(0));

    let sql = "insert into seaql_migrations (version, applied_at) values ('m9999_future', 1)";
    let done = Command::new("sqlite3").arg(folder.path().join("shared.db")).arg(sql).status();
    assert!(done.expect("sqlite3; run `scripts/install test`").success());
    for arguments in [&["switchboard", "--admin-port", "0"][..], &["migrate", "status"], &["migrate", "up"]] {
        let (code, said) = run(arguments);
        assert!(code == Some(1) && said.contains("m9999_future") && said.contains("newer"), "{said}");
    }
}

#[test]
fn a_killed_role_finds_its_name_and_ports_again() {
    let redis = Redis::start();
    let folder = redis.with_schema();
    let mut proxy = Role::start(&redis, folder.path(), &["proxy", "--sip-port", "0"]);
    let before = proxy.runtime();
    proxy.kill();
    let proxy = Role::start(&redis, folder.path(), &["proxy", "--sip-port", "0"]);
    let after = proxy.runtime();
    for key in ["instance", "sip", "proxy"] {
        assert!(before[key].is_string(), "{before}");
        assert_eq!(before[key], after[key]);
    }
    assert_ne!(before["pid"], after["pid"]);
}

#[test]
fn of_two_processes_of_one_name_the_later_stays() {
    let redis = Redis::start();
    let (folder, other) = (redis.with_schema(), tempfile::tempdir().expect("a folder"));
    let mut first = Role::start(&redis, folder.path(), &["switchboard"]);
    let database = folder.path().join("shared.db");
    let url = format!("sqlite://{}", database.display());
    let second = Role::start_with(&redis, other.path(), &["switchboard"], &[("NEBULA__DATABASE__URL", &url)]);
    let status = first.ends(SECONDS);
    assert_eq!(status.code(), Some(3), "{}", first.log());
    assert!(first.log().contains("taken over by another process of that name"), "{}", first.log());
    assert!(!folder.path().join("switchboard.json").exists());
    assert_eq!(second.get("switchboard", "/readyz").1, "ready\n");
}

#[test]
fn a_role_that_loses_redis_says_so_and_is_ready_again_when_it_is_back() {
    let mut redis = Redis::start();
    let folder = redis.with_schema();
    let proxy = Role::start(&redis, folder.path(), &["proxy", "--sip-port", "0"]);
    let ready = || proxy.get("proxy", "/readyz");
    wait_for("readiness", SECONDS, || (ready().0 == 200).then_some(()));
    redis.kill();
    let said = wait_for("the lack of Redis", SECONDS, || Some(ready()).filter(|(code, _)| *code == 503)).1;
    assert!(said.contains("Redis"), "{said}");
    assert_eq!(proxy.get("proxy", "/healthz").0, 200);
    redis.again();
    wait_for("Redis again", SECONDS, || (ready().0 == 200).then_some(()));
    let metrics = proxy.get("proxy", "/metrics").1;
    assert!(metrics.contains("nebula_bus_events_total{event=\"connections_lost\"}"), "{metrics}");
    assert!(metrics.contains("nebula_database_up 1"), "{metrics}");
}

#[test]
fn a_media_agent_starts_its_dataplane_again_and_says_which_it_is() {
    let redis = Redis::start();
    let folder = redis.with_schema();
    let mut media = Role::start(&redis, folder.path(), &["media"]);
    let dataplane = |runtime: serde_json::Value| runtime["dataplane_pid"].as_i64();
    let first = dataplane(media.runtime()).expect("a pid");
    common::kill(first);
    let second = wait_for("another dataplane", SECONDS, || dataplane(media.runtime()).filter(|pid| *pid != first));
    wait_for("the agent", SECONDS, || (media.get("media", "/readyz").0 == 200).then_some(()));

    // A killed agent leaves it, and the next one finds it.
    media.kill();
    let mut media = Role::start(&redis, folder.path(), &["media"]);
    assert_eq!(dataplane(media.runtime()), Some(second));
    wait_for("the agent", SECONDS, || (media.get("media", "/readyz").0 == 200).then_some(()));
    media.terminate();
    assert_eq!(media.ends(SECONDS).code(), Some(0), "{}", media.log());
    assert!(!common::runs(second), "an orderly stop without streams stops the dataplane");
}
