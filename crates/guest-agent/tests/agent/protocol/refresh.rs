//! `quiesce` and `refresh` on a machine that the agent does not own, and many requests in one write.

use std::io::Write;

use fumehood_protocol::{ErrorType, Response};

use crate::support::Agent;

const REFRESH: &str = r#"{"action":"refresh","wall_clock_us":1795000000000000,"entropy":"000102030405060708090a0b0c0d0e0f000102030405060708090a0b0c0d0e0f","machine_id":"0123456789abcdef0123456789abcdef","hostname":"h"}"#;

#[test]
fn foreign_machine_is_neither_quiesced_nor_refreshed() {
    let agent = Agent::open();
    let mut client = agent.connect();
    client.line(r#"{"action":"hello","protocol":1,"features":["refresh","contexts"]}"#);
    let Response::Hello(hello) = client.response() else {
        panic!("no hello")
    };
    assert_eq!(hello.features, ["contexts"]);
    let not_ours = &["does not own its machine"][..];
    client.expect_error(r#"{"action":"quiesce"}"#, ErrorType::RequestError, not_ours);
    client.expect_error(REFRESH, ErrorType::RequestError, not_ours);
    assert_eq!(client.python("print('on')").out(), "on\n");
}

#[test]
fn refresh_errors_name_the_field() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let request = ErrorType::RequestError;
    let with = |limits: &str| REFRESH.replace("\"h\"}", &format!("\"h\",\"limits\":{limits}}}"));
    client.expect_error(
        with(r#"{"timeout_s":18446744073709551615}"#),
        request,
        &["timeout_s"],
    );
    client.expect_error(with(r#"{"chunk_bytes":0}"#), request, &["chunk_bytes"]);
    client.expect_error(with(r#"{"nothing":1}"#), request, &["nothing"]);
    client.expect_error(REFRESH.replace("000102", "x"), request, &["entropy"]);
    client.ping();
}

#[test]
fn requests_in_one_write_are_answered_in_order() {
    let agent = Agent::open();
    let mut client = agent.connect();
    let exec = r#"{"action":"exec","language":"shell","code":"echo run","op_id":2}"#;
    let all =
        format!("\n{{\"action\":\"hello\",\"protocol\":1,\"nonce\":\"n\"}}\n{REFRESH}\n{exec}\n");
    client.stream.write_all(all.as_bytes()).unwrap();
    // The empty line that starts a session on a port is not a request.
    assert_eq!(client.error().error_type, ErrorType::RequestError);
    assert!(matches!(client.response(), Response::Hello(_)));
    assert_eq!(client.error().error_type, ErrorType::RequestError);
    assert_eq!(client.outcome().out(), "run\n");
}
