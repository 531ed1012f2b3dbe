//! Extensions with a setting of their own for SRTP, whatever the configuration says for the others.

use nebula_tests::load::Load;
use nebula_tests::system::{PASSWORD, System, extension};
use serde_json::Value;

/// What callers and called phones can.
const BOTH: &str = "AEAD_AES_128_GCM,AES_CM_128_HMAC_SHA1_80";
const CALLER: &str = "AEAD_AES_128_GCM,off";
const CALLED: &str = "off,AES_CM_128_HMAC_SHA1_80";
const NEITHER: &str = "off,off";

fn set(system: &System, user: u16, srtp: &str) {
    let (status, out, err) = extension(system.state(), &["set", &user.to_string(), "--srtp", srtp]);
    assert!(status.success(), "{err}");
    assert_eq!(out.trim(), format!("extension {user} has srtp {srtp}"));
}

fn call(system: &System, from: u16, to: u16, phones: &str) -> Value {
    let arguments = format!("--calls 1 --duration-s 1 --to {to} --srtp {phones}");
    Load::start_with(system, &from.to_string(), PASSWORD, &arguments).report()
}

/// It is answered, and all that was said is heard.
fn talks(system: &System, from: u16, to: u16, phones: &str) {
    let report = call(system, from, to, phones);
    assert_eq!(report["established"], 1, "{from} calls {to}, {phones}: {report:#}");
    for key in ["packets_lost", "packets_wrong", "packets_unauthentic", "indices_reused", "crossed"] {
        assert_eq!(report[key], 0, "{from} calls {to}, {phones}: {key}: {report:#}");
    }
    assert!(report["packets_received"].as_u64() >= Some(45), "{report:#}");
}

fn is_refused(system: &System, from: u16, to: u16, phones: &str) {
    let report = call(system, from, to, phones);
    assert_eq!(
        (&report["established"], &report["failed"]["488"]),
        (&0.into(), &1.into()),
        "{from} calls {to}, {phones}: {report:#}"
    );
}

#[test]
fn each_extension_has_its_own_say() {
    let system = System::start();
    // Before anybody registers: a proxy remembers an extension for seconds. 1000 and 1001 follow the configuration: who offers
    // it gets it.
    for (user, srtp) in
        [(1002, "required"), (1003, "required"), (1004, "off"), (1005, "off"), (1006, "optional"), (1007, "optional")]
    {
        set(&system, user, srtp);
    }
    let (_, list, _) = extension(system.state(), &["list"]);
    let rows =
        ["default", "default", "required", "required", "off", "off", "optional", "optional", "default", "default"];
    for (user, srtp) in (1000..).zip(rows) {
        let row = list.lines().find(|line| line.contains(&user.to_string())).expect("a row");
        assert!(row.contains(srtp), "{row}");
    }
    talks(&system, 1000, 1001, CALLER);
    talks(&system, 1000, 1001, NEITHER);

    // Who requires it is called with nothing else, and calls with nothing else.
    talks(&system, 1000, 1003, CALLED);
    talks(&system, 1000, 1003, BOTH);
    is_refused(&system, 1000, 1003, NEITHER);
    is_refused(&system, 1000, 1003, CALLER);
    talks(&system, 1002, 1001, CALLER);
    is_refused(&system, 1002, 1001, NEITHER);
    is_refused(&system, 1002, 1001, CALLED);
    talks(&system, 1002, 1003, BOTH);

    // Who has it off is offered none, and none of his is taken.
    talks(&system, 1004, 1005, NEITHER);
    is_refused(&system, 1004, 1001, CALLER);
    talks(&system, 1000, 1005, CALLER);
    talks(&system, 1004, 1003, CALLED);

    // Who has it as an option is offered it though his caller has none, and may decline.
    talks(&system, 1000, 1007, CALLED);
    talks(&system, 1000, 1007, NEITHER);
    talks(&system, 1006, 1001, NEITHER);
    talks(&system, 1006, 1001, CALLER);
}

#[test]
fn an_extension_may_have_less_than_the_others_must() {
    let system = System::start_with(&[("NEBULA__MEDIA__SRTP", "required")]);
    let (status, _, err) = extension(system.state(), &["add", "2000", "--password", PASSWORD, "--srtp", "off"]);
    assert!(status.success(), "{err}");
    talks(&system, 2000, 1001, CALLED);
    is_refused(&system, 2000, 1001, NEITHER);
    is_refused(&system, 1000, 1001, NEITHER);
    let (status, _, err) = extension(system.state(), &["set", "9999", "--srtp", "off"]);
    assert!(!status.success() && err.contains("no extension 9999"), "{err}");
}
