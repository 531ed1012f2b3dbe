//! Roles as processes over Redis and Postgres: each role killed, a switchboard gone for good, each server gone for a while.

use nebula_tests::faults::test;

#[test]
fn each_killed_role_takes_its_part_of_the_calls_up_again() {
    test("role");
}

#[test]
fn one_of_two_of_each_role_takes_its_part_of_the_calls_up_again() {
    test("pair");
}

#[test]
fn another_switchboard_takes_the_calls_of_one_that_is_gone() {
    test("takeover");
}

#[test]
fn calls_live_through_a_redis_that_is_gone() {
    test("redis");
}

#[test]
fn calls_live_through_a_postgres_that_is_gone_and_are_recorded_once() {
    test("postgres");
}
