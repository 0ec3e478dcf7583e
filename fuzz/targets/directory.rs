#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fumehood_engine::fuzzing::directory(bytes));
