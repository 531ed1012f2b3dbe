//! One process for all of control, and its dataplane: killed, frozen, started without their memory. Media outlives control, and
//! control outlives media.

use nebula_tests::faults::test;

#[test]
fn a_killed_control_takes_its_calls_up_again() {
    test("control");
}

#[test]
fn a_killed_dataplane_goes_on_in_another() {
    test("dataplane");
}

#[test]
fn a_killed_dataplane_goes_on_in_another_under_srtp() {
    test("srtp");
}

#[test]
fn control_and_dataplane_killed_at_once_use_no_index_twice() {
    test("both");
}

#[test]
fn a_frozen_control_costs_no_packet_and_goes_on() {
    test("cut");
}

#[test]
fn streams_that_nobody_claims_are_closed_when_they_fall_silent() {
    test("unclaimed");
}
