//! Nothing is left behind: no process, no descriptor, no file.

use std::time::Instant;

use fumehood_protocol::Language;

use crate::support::{Agent, wait_until};

/// More descriptors than one operation needs, and far fewer than two hundred leaking ones would.
const FEW: u32 = 40;

#[test]
fn two_hundred_execs_leak_nothing() {
    let agent = Agent::with_open_files(FEW);
    let mut client = agent.hello(&["raw_frames"]);
    let begun = Instant::now();
    for round in 0..200 {
        client.exec(1, Language::Shell, "echo x; exit 3");
        let outcome = client.outcome();
        assert_eq!(
            (outcome.out(), outcome.complete().exit_code),
            ("x\n", 3),
            "round {round}"
        );
    }
    eprintln!(
        "{:.2} ms an exec of bash",
        begun.elapsed().as_secs_f64() * 5.0
    );
    for _ in 0..50 {
        agent.connect().ping();
    }
    client.ping();
    wait_until("no zombies", || agent.children().is_empty());
}

#[test]
fn lack_of_descriptors_is_reported() {
    let agent = Agent::with_open_files(FEW);
    let mut client = agent.hello(&[]);
    for id in 0..20 {
        client.exec(id, Language::Shell, "sleep 60");
    }
    let error = client.error();
    assert_eq!(error.error_type.as_str(), "agent_error");
    assert!(error.message.contains("open files"), "{}", error.message);
}

#[test]
fn exit_removes_the_directory_and_kills_programs() {
    let mut agent = Agent::open();
    let mut client = agent.hello(&[]);
    client.exec(
        1,
        Language::Python,
        "import os; print(os.getpid(), open('/proc/self/environ').read().split('PYTHONPATH=')[1].split('\\0')[0])\nwhile True: pass",
    );
    let fumehood_protocol::Response::Stdout(output) = client.response() else {
        panic!("no output")
    };
    let text = String::from_utf8(output.chunk.into_bytes()).unwrap();
    let (pid, runner) = text.trim().split_once(' ').unwrap();
    let runner = std::path::Path::new(runner).parent().unwrap();
    assert!(runner.is_dir());
    agent.terminate();
    assert!(!runner.exists());
    let pid = pid.parse().unwrap();
    wait_until("the program dies", || !crate::support::is_alive(pid));
}
