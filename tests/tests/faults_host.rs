//! What a host runs out of or gets wrong, and a client that is a burden: disk, clock, descriptors, a slow reader.

use nebula_tests::faults::test;

#[test]
fn a_full_disk_ends_no_call_and_halves_no_record() {
    test("disk");
}

#[test]
fn a_clock_that_jumps_moves_no_timer() {
    test("clock");
}

#[test]
fn without_descriptors_live_calls_go_on_and_new_ones_are_refused() {
    test("files");
}

#[test]
fn a_client_that_does_not_read_is_let_go_and_slows_nobody() {
    test("slow");
}
