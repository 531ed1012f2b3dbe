//! Calls under SRTP between phones that protect with another implementation than the system's: every suite, two suites in one
//! call, one phone that protects and one that does not, and rollover counters.

use nebula_tests::load::load;
use nebula_tests::system::System;
use serde_json::Value;

/// Two calls with this `--srtp`, and more arguments of `nebula-load call`'s: all that was said must be heard.
fn calls(system: &System, srtp: &str, arguments: &str) -> Value {
    let report = load(system, &format!("--calls 2 --rate 20 --duration-s 1 --srtp {srtp} {arguments}"));
    assert_eq!(report["established"], 2, "{srtp} {arguments}: {report:#}");
    for key in ["packets_lost", "packets_wrong", "packets_unauthentic", "indices_reused", "crossed"] {
        assert_eq!(report[key], 0, "{srtp} {arguments}: {key}: {report:#}");
    }
    // Fifty packets a second.
    assert!(report["packets_received"].as_u64() >= Some(90), "{srtp} {arguments}: {report:#}");
    report
}

fn start(srtp: &str) -> System {
    System::start_with(&[("NEBULA__MEDIA__SRTP", srtp)])
}

#[test]
fn under_each_suite() {
    let system = start("required");
    for suite in [
        "AES_CM_128_HMAC_SHA1_80",
        "AES_CM_128_HMAC_SHA1_32",
        "AES_256_CM_HMAC_SHA1_80",
        "AES_256_CM_HMAC_SHA1_32",
        "AEAD_AES_128_GCM",
        "AEAD_AES_256_GCM",
    ] {
        calls(&system, suite, "");
    }
}

#[test]
fn from_one_suite_to_another() {
    let system = start("accepted");
    calls(&system, "AEAD_AES_256_GCM,AES_CM_128_HMAC_SHA1_32", "");
    calls(&system, "AES_256_CM_HMAC_SHA1_80,AEAD_AES_128_GCM", "");
}

#[test]
fn from_srtp_to_rtp_and_from_rtp_to_srtp() {
    let system = start("offered");
    calls(&system, "AES_CM_128_HMAC_SHA1_80,off", "");
    calls(&system, "off,AEAD_AES_128_GCM", "");
}

#[test]
fn the_echo_service_under_srtp() {
    let system = start("accepted");
    calls(&system, "AES_CM_128_HMAC_SHA1_80", "--to *43");
    calls(&system, "AEAD_AES_128_GCM", "--to *43");
}

#[test]
fn over_a_rollover_of_sequence_numbers() {
    let system = start("required");
    // The system moves what begins just below the wrap; what begins lower wraps on the way to the other phone as well.
    for (first, heard) in [("65500", 0), ("62535", 4)] {
        let numbers = format!("--first-sequence {first} --sequence-leap 2945 --duration-s 2.5");
        for suites in ["AES_CM_128_HMAC_SHA1_80", "AEAD_AES_128_GCM"] {
            let report = calls(&system, suites, &numbers);
            assert_eq!(report["rollovers"], heard, "{first}: {report:#}");
        }
    }
    // Without protection at the caller, and at the other one.
    let system = start("offered");
    let numbers = "--first-sequence 62535 --sequence-leap 2945 --duration-s 2.5";
    for suites in ["AEAD_AES_128_GCM,off", "off,AES_CM_128_HMAC_SHA1_80"] {
        assert_eq!(calls(&system, suites, numbers)["rollovers"], 2, "{suites}");
    }
}

#[test]
fn protection_that_is_missing_or_forbidden_is_refused() {
    let refused = |srtp: &str, phones: &str| {
        let system = start(srtp);
        let report = load(&system, &format!("--calls 1 --duration-s 1 {phones}"));
        assert_eq!(report["established"], 0, "{srtp} {phones}: {report:#}");
        assert_eq!(report["failed"]["488"], 1, "{srtp} {phones}: {report:#}");
    };
    refused("off", "--srtp AEAD_AES_128_GCM");
    refused("required", "");
    // Who is called has no suite of ours.
    refused("required", "--srtp AEAD_AES_128_GCM,off");
}
