//! Many operations at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fumehood_protocol::{Language, Ping, Request, Response};

use crate::support::{Agent, Outcome, op_id};

#[test]
fn ten_programs_at_once_end_correctly() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames"]);
    for id in 0..10 {
        let code = format!("import sys\nfor n in range(2000): print({id}, n)\nsys.exit({id})");
        client.exec(id, Language::Python, &code);
    }
    let mut outcomes: BTreeMap<u64, Outcome> = BTreeMap::new();
    let mut ended = 0;
    while ended < 10 {
        let (response, bytes) = client.message();
        let id = op_id(&response).unwrap();
        ended += usize::from(outcomes.entry(id).or_default().add(response, bytes));
    }
    for (id, outcome) in outcomes {
        assert_eq!(u64::try_from(outcome.complete().exit_code).unwrap(), id);
        assert_eq!(outcome.out().lines().count(), 2000);
        assert!(
            outcome
                .out()
                .lines()
                .all(|line| line.starts_with(&id.to_string()))
        );
        outcome.check_summaries();
    }
}

#[test]
fn heavy_output_does_not_starve_others() {
    let agent = Agent::open();
    let mut client = agent.hello(&["raw_frames", "cancel"]);
    for id in 0..3 {
        client.exec(id, Language::Shell, "exec yes");
    }
    let mut bytes: BTreeMap<u64, u64> = BTreeMap::new();
    while bytes.len() < 3 || bytes.values().any(|bytes| *bytes < 10_000_000) {
        let Response::Data(data) = client.response() else {
            panic!("no output")
        };
        *bytes.entry(data.op_id.unwrap().get()).or_default() += data.len;
    }
    let (least, most) = (bytes.values().min().unwrap(), bytes.values().max().unwrap());
    assert!(most / least < 10, "one took it all: {bytes:?}");
    let mut slowest = Duration::ZERO;
    for number in 100..120 {
        let asked = Instant::now();
        let id = fumehood_protocol::OpId::try_from(number).ok();
        client.send(&Request::Ping(Ping {
            op_id: id,
            ..Ping::default()
        }));
        loop {
            match client.response() {
                Response::Pong(_) => break,
                Response::Data(data) => {
                    *bytes.entry(data.op_id.unwrap().get()).or_default() += data.len
                }
                other => panic!("{other:?}"),
            }
        }
        slowest = slowest.max(asked.elapsed());
    }
    assert!(slowest < Duration::from_secs(5), "a ping took {slowest:?}");
    client.exec(9, Language::Shell, "echo quick");
    (0..3).for_each(|id| client.cancel(id));
    let mut ended = 0;
    let mut quick = Vec::new();
    while ended < 4 {
        match client.message() {
            (Response::Complete(_), _) => ended += 1,
            (Response::Data(data), frame) if data.op_id.unwrap().get() == 9 => quick.extend(frame),
            (Response::Data(_), _) => {}
            (other, _) => panic!("{other:?}"),
        }
    }
    assert_eq!(quick, b"quick\n");
}

#[test]
fn clients_do_not_block_each_other() {
    let agent = Agent::open();
    let mut busy = agent.connect();
    busy.line(r#"{"action":"exec","language":"shell","code":"sleep 60","timeout":60}"#);
    let mut other = agent.connect();
    assert_eq!(other.shell("echo free").out(), "free\n");
    let mut half = agent.connect();
    std::io::Write::write_all(&mut half.stream, b"{\"action\":").unwrap();
    other.ping();
}
