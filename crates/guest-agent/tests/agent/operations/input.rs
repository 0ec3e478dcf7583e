//! Standard input.

use fumehood_protocol::{ActionTag, Chunk, ErrorType, InputData, Language, OpId, Request, Stdin};

use crate::interpreters::prepared::run_with;
use crate::support::{Agent, Client, exec};

pub fn stdin(client: &mut Client, id: u64, bytes: &[u8], eof: bool) {
    client.send(&Request::Stdin(Stdin {
        action: ActionTag,
        op_id: OpId::try_from(id).unwrap(),
        chunk: Some(Chunk::from(bytes.to_vec())),
        eof,
    }));
}

pub fn frame(client: &mut Client, id: u64, bytes: &[u8], eof: bool) {
    use std::io::Write;
    client.send(&Request::Data(InputData {
        action: ActionTag,
        op_id: OpId::try_from(id).unwrap(),
        len: bytes.len() as u64,
        eof,
    }));
    client.stream.write_all(bytes).unwrap();
}

#[test]
fn input_reaches_a_program_and_ends() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    let programs = [
        (
            Language::Python,
            "import sys\nfor line in sys.stdin: print(line.strip()[::-1])",
        ),
        (
            Language::Shell,
            "while read -r line; do echo $line | rev; done",
        ),
    ];
    for (language, code) in programs {
        let mut request = exec(Some(1), language, code);
        request.stdin = true;
        client.send(&Request::Exec(request));
        stdin(&mut client, 1, b"ab", false);
        frame(&mut client, 1, b"c\n12", false);
        frame(&mut client, 1, b"", false);
        frame(&mut client, 1, b"3\n", true);
        stdin(&mut client, 1, b"late\n", false);
        let outcome = client.outcome();
        assert_eq!(outcome.out(), "cba\n321\n", "{language} {}", outcome.err());
    }
    client.ping();
}

/// A megabyte is sent, one credit window at a time.
#[test]
fn much_input_needs_credit() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames", "credit"]);
    let mut request = exec(Some(1), Language::Shell, "md5sum; sleep 0.01");
    request.stdin = true;
    client.send(&Request::Exec(request));
    let mut allowed = 262_144;
    for piece in 0..64 {
        while allowed < 32_768 {
            let fumehood_protocol::Response::Credit(credit) = client.response() else {
                panic!("no credit")
            };
            allowed += credit.bytes;
        }
        allowed -= 32_768;
        frame(&mut client, 1, &[b'x'; 32_768], piece == 63);
    }
    let outcome = client.outcome();
    assert_eq!(outcome.out().split(' ').next().unwrap().len(), 32);
    assert_eq!(outcome.complete().exit_code, 0);
    // Beyond the credit, input is rejected and the program continues.
    let mut request = exec(Some(2), Language::Shell, "sleep 60 <&0");
    request.stdin = true;
    client.send(&Request::Exec(request));
    for _ in 0..6 {
        frame(&mut client, 2, &[0; 65_536], false);
    }
    assert_eq!(client.error().error_type, ErrorType::ProtocolError);
    client.cancel(2);
}

#[test]
fn without_input_stdin_is_at_its_end() {
    let agent = Agent::open();
    let mut client = agent.connect();
    for context in [None, Some("c")] {
        let run = |client: &mut Client, language, code: &str| {
            run_with(client, language, code, |request| {
                let name = context.map(|name| format!("{name}-{language}"));
                request.context = name.map(fumehood_protocol::ContextName::new);
            })
        };
        for _ in 0..2 {
            let python = run(
                &mut client,
                Language::Python,
                "import sys; print(sys.stdin.read() == '')",
            );
            assert_eq!(python.out(), "True\n");
            assert_eq!(
                run(&mut client, Language::Shell, "cat; echo end").out(),
                "end\n"
            );
        }
    }
}

#[test]
fn frames_are_limited_and_need_the_feature() {
    let agent = Agent::open();
    let mut client = agent.hello(&[]);
    let line = r#"{"action":"data","op_id":1,"len":4}"#;
    client.expect_error(line, ErrorType::RequestError, &["raw frames"]);
    let mut client = agent.hello(&["raw_frames"]);
    let line = r#"{"action":"data","op_id":1,"len":65537}"#;
    client.expect_error(line, ErrorType::RequestError, &["65537", "65536"]);
    // The bytes of a frame are never parsed as requests.
    let mut bytes = br#"{"action":"ping"}"#.to_vec();
    bytes.resize(65_536, b'\n');
    client.line(bytes);
    // Input for an operation that has ended is dropped.
    client.line("{\"action\":\"data\",\"op_id\":1,\"len\":4}\nabcd");
    assert_eq!(client.error().error_type, ErrorType::RequestError);
    client.ping();
}
