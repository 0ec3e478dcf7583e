//! Parses every request as an agent does, with all checks of its fields, and every response as a host does.
#![no_main]

use fumehood_protocol::{Limits, Request, Response, encode_line};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    match Request::parse(bytes) {
        Ok(request) => {
            check(&request);
            let line = encode_line(&request);
            let again = Request::parse(&line[..line.len() - 1]);
            assert_eq!(again.as_ref(), Ok(&request), "a request changes on its way");
        }
        Err(rejected) => assert_message(&rejected.error.message),
    }

    match Response::parse(bytes) {
        Ok(response) => {
            let line = encode_line(&response);
            let again = Response::parse(&line[..line.len() - 1]);
            assert_eq!(
                again.as_ref(),
                Ok(&response),
                "a response changes on its way"
            );
        }
        Err(error) => assert_message(&error.message),
    }
});

/// Checks a request against the limits, as an agent does before it starts anything.
fn check(request: &Request) {
    let limits = Limits::default();
    let checked = match request {
        Request::Exec(exec) => exec.check(&limits),
        Request::Spawn(spawn) => spawn.check(&limits),
        Request::InstallPackages(install) => install.check(&limits).map(|_| ()),
        Request::Refresh(refresh) => refresh.check().map(|_| ()),
        Request::WriteFile(write) => write.check(&limits),
        Request::ReadFile(read) => read.check(&limits),
        Request::Signal(signal) => signal.signal.number().map(|_| ()),
        _ => Ok(()),
    };
    if let Err(error) = checked {
        assert_message(&error.message);
    }
}

/// A message explains, and does not repeat a long input.
fn assert_message(message: &str) {
    assert!(
        !message.is_empty() && message.len() < 16 * 1024,
        "{message}"
    );
}
