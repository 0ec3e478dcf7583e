#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fumehood_gateway::fuzzing::http_head(bytes));
