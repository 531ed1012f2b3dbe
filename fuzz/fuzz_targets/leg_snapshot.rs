#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nebula_fuzz::leg::leg_snapshot(bytes));
