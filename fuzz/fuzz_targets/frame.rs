#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| nebula_fuzz::frames::frame(bytes));
