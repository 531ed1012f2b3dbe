//! How the system starts, refuses to start, drains and ends, as its operator sees it.

use nebula_tests::load::{Load, load};
use nebula_tests::sipp::{Sipp, Transport};
use nebula_tests::system::{System, extension, run, running_in, up};
use nebula_tests::wait_for;
use rustix::process::Signal;
use std::ffi::OsStr;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// It must end with code 1 and one line that says all `parts`, and leave nothing running and nothing that says it runs.
#[track_caller]
fn refused(state: &Path, command: Command, parts: &[&str]) {
    let (status, out, err) = run(command);
    assert_eq!(status.code(), Some(1), "{out}\n{err}");
    assert_eq!(out, "", "nothing is promised");
    assert_eq!(err.lines().count(), 1, "one line: {err}");
    assert!(err.starts_with("nebula: "), "{err}");
    for part in parts {
        assert!(err.contains(part), "{err:?} should say {part:?}");
        assert!(err.matches(part).count() == 1, "{err:?} says {part:?} twice");
    }
    for file in ["nebula.json", "dataplane.sock"] {
        assert!(!state.join(file).exists(), "{file} is left");
    }
    assert_eq!(running_in(state), [] as [i32; 0], "still running");
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

/// `nebula up` with an option that must be refused. A flag that `up` gives already is given here instead.
#[track_caller]
fn refused_with(arguments: &[&str], environment: &[(&str, &str)], parts: &[&str]) {
    let state = folder();
    let usual = up(state.path());
    let mut command = Command::new(usual.get_program());
    let given: Vec<&OsStr> = usual.get_args().collect();
    command.arg(given[0]);
    for flag in given[1..].chunks(2).filter(|flag| !arguments.iter().any(|a| flag[0] == *a)) {
        command.args(flag);
    }
    command.args(arguments);
    command.envs(usual.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.envs(environment.iter().copied());
    refused(state.path(), command, parts);
}

#[test]
fn a_taken_port_is_named_with_its_key() {
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let port = udp.local_addr().expect("an address").port().to_string();
    refused_with(&["--sip-port", &port], &[], &["udp 127.0.0.1", &port, "sip.port", "in use"]);

    let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = tcp.local_addr().expect("an address").port().to_string();
    refused_with(&["--sip-port", &port], &[], &["tcp 127.0.0.1", &port, "sip.port", "in use"]);
    for (flag, key) in [
        ("--http-port", "api.port"),
        ("--proxy-port", "network.proxy_port"),
        ("--switchboard-port", "network.switchboard_port"),
        ("--media-port", "network.media_port"),
    ] {
        refused_with(&[flag, &port], &[], &[key, &port, "in use", "choose another"]);
    }
    refused_with(&["--bind-ip", "192.0.2.77"], &[], &["192.0.2.77", "sip.listen"]);
}

#[test]
fn a_wrong_configuration_is_named_with_file_line_and_what_would_be_right() {
    let configuration = folder();
    let file = configuration.path().join("n.conf");
    let path = file.to_str().expect("text");
    for (text, parts) in [
        ("[sip]\nprot = 1\n", &["n.conf line 2", "prot`", "`port`"][..]),
        ("[telephony]\n", &["n.conf line 1", "telephony", "`sip`"]),
        ("\n[sip]\nport = \"x\"\n", &["n.conf line 3", "u16"]),
        ("[tuning]\nstreams_max = 1\n", &["n.conf line 2", "tuning.streams_max = 1", "2 to 32768"]),
        ("[calls]\nno_answer_timeout_s = 0\n", &["n.conf line 2", "calls.no_answer_timeout_s = 0", "1 to 3600"]),
        ("[media]\nrtp_port_min = 80\n", &["n.conf line 2", "media.rtp_port_min", "1024"]),
        ("[logging]\nfilter = \"===\"\n", &["logging.filter"]),
        ("[database]\nurl = \"mysql://x\"\n", &["mysql://x", "sqlite:///"]),
        ("[sip\n", &["n.conf line 1"]),
    ] {
        std::fs::write(&file, text).expect("written");
        refused_with(&["--config", path], &[], parts);
    }
    refused_with(&["--config", "/nonexistent/n.conf"], &[], &["/nonexistent/n.conf", "No such file"]);
    refused_with(&["--config", "/"], &[], &["configuration /", "directory"]);
    refused_with(&[], &[("NEBULA__SIP__PROT", "1")], &["NEBULA__SIP__PROT", "`port`"]);
    refused_with(&[], &[("NEBULA__SIP__PORT", "many")], &["NEBULA__SIP__PORT", "u16"]);
    refused_with(&[], &[("NEBULA__TUNING__STREAMS_MAX", "1")], &["NEBULA__TUNING__STREAMS_MAX", "2 to 32768"]);
    refused_with(&["--rtp-port-min", "80"], &[], &["command line", "media.rtp_port_min", "1024"]);
}

#[test]
fn a_broken_database_is_named() {
    let state = folder();
    let file = state.path().join("nebula.db");
    std::fs::write(&file, vec![7; 8192]).expect("written");
    refused(state.path(), up(state.path()), &[file.to_str().expect("text"), "not a database", "move it away"]);
}

#[test]
fn a_database_of_a_newer_nebula_is_left_alone() {
    let mut system = System::start();
    assert!(system.stop().success());
    let file = system.state().join("nebula.db");
    let sql = "insert into seaql_migrations (version, applied_at) values ('m9999_future', 1)";
    let (status, _, err) = run({
        let mut command = Command::new("sqlite3");
        command.arg(&file).arg(sql);
        command
    });
    assert!(status.success(), "{err}");
    let before = std::fs::read(&file).expect("the database");
    refused(system.state(), up(system.state()), &["nebula.db", "m9999_future", "newer nebula"]);
    assert_eq!(std::fs::read(&file).expect("the database"), before);
}

#[test]
fn a_state_folder_that_cannot_be_one_is_named() {
    let blocked = folder();
    let file = blocked.path().join("file");
    std::fs::write(&file, "").expect("written");
    for path in [file.as_path(), Path::new("/proc/nebula-state"), Path::new("/proc/self")] {
        refused(path, up(path), &["state folder /", "--state"]);
    }
}

#[test]
fn a_dataplane_that_is_missing_or_broken_is_named() {
    refused_with(&["--dataplane", "/nonexistent"], &[], &["dataplane /nonexistent", "No such file", "--dataplane"]);
    refused_with(&["--dataplane", "/bin/false"], &[], &["did not come up", "exit status: 1", "dataplane.log"]);
}

#[test]
fn a_second_system_in_one_folder_is_refused_and_the_first_lives() {
    let system = System::start();
    let (status, out, err) = run(up(system.state()));
    assert_eq!((status.code(), out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
    assert!(err.contains("in use by another nebula") && err.contains("--state"), "{err}");
    assert_eq!(load(&system, "--to *43 --calls 1 --duration-s 0.2")["established"], 1);
}

#[test]
fn a_first_start_shows_ten_extensions_once_and_a_second_finds_them() {
    let mut system = System::start_with(&[("NEBULA_DEMO_PASSWORD", "")]);
    let log = system.log();
    assert!(log.contains("Nebula is up.") && log.contains("*43"), "{log}");
    let row = |log: &str, user: &str| -> Option<String> {
        let line = log.lines().find(|line| line.split_whitespace().nth(1) == Some(user))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    let passwords: Vec<String> = (1000..1010).map(|user| row(&log, &user.to_string()).expect("a row")).collect();
    assert!(passwords.iter().all(|p| p.len() == 12), "{passwords:?}");
    assert!((1..10).all(|i| passwords[i] != passwords[0]), "{passwords:?}");
    assert!(log.contains(&format!("1000@{}", system.sip())), "what to type: {log}");
    assert!(!log.contains('\u{1b}'), "no colours in a file: {log}");
    assert!(!log.contains("migration"), "{log}");

    let echo = "--to *43 --calls 1 --duration-s 0.2";
    assert_eq!(Load::start_with(&system, "1003", &passwords[3], echo).report()["established"], 1);
    assert!(system.stop().success());
    let before = system.log().len();
    system.restart(&[("NEBULA_DEMO_PASSWORD", "")]);
    let log = system.log()[before..].to_owned();
    assert!(log.contains("Nebula is up.") && !log.contains(&passwords[3]), "{log}");
    assert_eq!(Load::start_with(&system, "1003", &passwords[3], echo).report()["established"], 1);
    assert_eq!(system.wait_for_cdrs(2, Duration::from_secs(5)).len(), 2, "the record of the first run is still there");
}

#[test]
fn extensions_are_changed_while_the_system_runs() {
    let system = System::start_with(&[("NEBULA__SIP__ACCOUNT_TTL_MS", "200")]);
    let works = |user: &str, password: &str| {
        let report = Load::start_with(&system, user, password, "--to *43 --calls 1 --duration-s 0.1").report();
        report["established"] == 1
    };
    assert!(!works("2000", "secret"));
    let (status, out, err) = extension(system.state(), &["add", "2000", "--password", "secret", "--name", "Lobby"]);
    assert!(status.success() && out.contains("2000") && out.contains("secret"), "{out}{err}");
    wait_for("the new extension", Duration::from_secs(5), || works("2000", "secret").then_some(()));
    let (status, out, _) = extension(system.state(), &["list"]);
    assert!(status.success() && out.contains("Lobby") && out.contains("1009") && !out.contains("secret"), "{out}");
    let (status, out, err) = extension(system.state(), &["password", "2000", "--password", "other"]);
    assert!(status.success() && out.contains("other"), "{out}{err}");
    wait_for("the new password", Duration::from_secs(5), || works("2000", "other").then_some(()));
    assert!(!works("2000", "secret"), "the old password is void");

    for (arguments, says) in [
        (&["add", "2000"][..], "2000"),
        (&["add", "a b"], "a b"),
        (&["password", "4711"], "no extension 4711"),
        (&["add", "2001", "--password", ""], "empty"),
    ] {
        let (status, out, err) = extension(system.state(), arguments);
        assert_eq!((status.code(), out.as_str(), err.lines().count()), (Some(1), "", 1), "{err}");
        assert!(err.contains(says), "{err}");
    }
}

/// Nothing of it runs, and nothing says that it does.
#[track_caller]
fn gone(system: &System) {
    for file in ["nebula.json", "dataplane.sock"] {
        assert!(!system.state().join(file).exists(), "{file} is left");
    }
    assert_eq!(running_in(system.state()), [] as [i32; 0]);
}

#[test]
fn a_stop_without_calls_is_immediate() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut system = System::start_with(&[("NEBULA__TUNING__DRAIN_TIMEOUT_S", "60")]);
        let begun = Instant::now();
        system.signal(signal);
        assert_eq!(system.wait().code(), Some(0));
        assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
        gone(&system);
    }
}

#[test]
fn a_drain_refuses_new_calls_and_lets_live_ones_end() {
    let mut system = System::start_with(&[("NEBULA__TUNING__DRAIN_TIMEOUT_S", "60")]);
    let talk = Load::start(&system, "--to 1001 --calls 1 --duration-s 4");
    system.wait_for_talking(1);
    system.signal(Signal::TERM);
    wait_for("the drain", Duration::from_secs(5), || system.log().contains("draining").then_some(()));
    let late = load(&system, "--to *43 --calls 1 --duration-s 0.1");
    let refused_with = late["failed"].to_string();
    assert!(late["established"] == 0 && refused_with.contains("503"), "{late:#}");
    let report = talk.report();
    assert_eq!((&report["established"], &report["packets_lost"]), (&1.into(), &0.into()), "{report:#}");
    assert_eq!(system.wait().code(), Some(0));
    gone(&system);
    system.restart(&[]);
    let cdrs = system.cdrs();
    assert_eq!(cdrs.len(), 1, "{cdrs:#?}");
    assert_eq!((&cdrs[0]["cause"], &cdrs[0]["ended_by"]), (&"normal".into(), &"caller".into()));
}

/// A call that lasts until `hurry` or the drain's time ends it.
fn cut_short(drain_timeout_s: &str, hurry: impl Fn(&System)) {
    let mut system = System::start_with(&[("NEBULA__TUNING__DRAIN_TIMEOUT_S", drain_timeout_s)]);
    let callee = Sipp::callee(&system, "callee", "1001", 1, Transport::Udp);
    let caller = Sipp::caller(&system, "caller_stays", "1000", "1001", 1, Transport::Udp);
    system.wait_for_talking(1);
    let begun = Instant::now();
    system.signal(Signal::TERM);
    hurry(&system);
    assert_eq!(system.wait().code(), Some(0));
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    // Both scenarios end with the system's BYE.
    caller.succeeds();
    callee.succeeds();
    gone(&system);
    system.restart(&[]);
    let cdrs = system.cdrs();
    assert_eq!(cdrs.len(), 1, "{cdrs:#?}");
    assert_eq!((&cdrs[0]["cause"], &cdrs[0]["ended_by"]), (&"administrative".into(), &"system".into()));
    assert!(cdrs[0]["billed_ms"].as_i64().is_some_and(|ms| ms > 0), "{:#}", cdrs[0]);
}

#[test]
fn a_drain_ends_what_is_left_when_its_time_is_up() {
    cut_short("1", |_| {});
}

#[test]
fn a_second_signal_ends_a_drain() {
    cut_short("3600", |system| {
        wait_for("the drain", Duration::from_secs(5), || system.log().contains("draining").then_some(()));
        system.signal(Signal::INT);
    });
}

#[test]
fn the_demo_runs_and_leaves_nothing() {
    let (temporary, mut command) = (folder(), Command::new("bash"));
    let bin = nebula_tests::process::binary("nebula");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo");
    command.arg(script).arg(bin.parent().expect("a folder")).args(["--calls", "5", "--min-established", "5"]);
    command.args(["--duration-s", "1"]).env("TMPDIR", temporary.path());
    let (status, out, err) = run(command);
    assert!(status.success(), "{out}\n{err}");
    for row in ["established", "set-up, ms", "packets", "loss", "latency, ms", "jitter, ms"] {
        assert!(out.contains(row), "{row}: {out}");
    }
    assert_eq!(std::fs::read_dir(temporary.path()).expect("a folder").count(), 0);
    assert_eq!(running_in(temporary.path()), [] as [i32; 0]);
}

#[test]
fn the_demo_says_why_it_failed() {
    let (temporary, mut command) = (folder(), Command::new("bash"));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/demo");
    let bin = nebula_tests::process::binary("nebula");
    command.arg(script).arg(bin.parent().expect("a folder")).env("TMPDIR", temporary.path());
    command.env("NEBULA__SIP__PROT", "1");
    let (status, _, err) = run(command);
    assert_eq!(status.code(), Some(1));
    assert!(err.contains("NEBULA__SIP__PROT"), "{err}");
    assert_eq!(std::fs::read_dir(temporary.path()).expect("a folder").count(), 0);
}

#[test]
fn help_names_every_flag_with_its_key() {
    let mut command = Command::new(nebula_tests::process::binary("nebula"));
    command.args(["up", "--help"]);
    let (status, out, _) = run(command);
    assert!(status.success());
    for part in ["--state", "--sip-port", "sip.port", "--http-port", "api.port", "--config"] {
        assert!(out.contains(part), "{part}: {out}");
    }
}
