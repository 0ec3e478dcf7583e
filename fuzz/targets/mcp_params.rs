#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fumehood_server::fuzzing::mcp_params(bytes));
