//! The whole suite, in each version and with a token.

use std::time::Duration;

use fumehood_conformance::{Options, Report, Verdict, run};

use crate::agent::Agent;

fn options(agent: &Agent, version: u32) -> Options {
    Options {
        address: agent.address.clone(),
        token: None,
        version,
        only: Vec::new(),
        packages: true,
        deadline: Duration::from_secs(60),
    }
}

/// Fails with the violated clauses.
fn assert_passes(report: &Report) {
    let violated: Vec<_> = report
        .clauses
        .iter()
        .filter(|clause| clause.verdict == Verdict::Fail)
        .collect();
    assert!(report.passed(), "{violated:#?}");
}

#[test]
fn version_0() {
    let agent = Agent::start(&["--no-token"]);
    assert_passes(&run(&options(&agent, 0)).unwrap());
}

#[test]
fn version_1() {
    let agent = Agent::start(&["--no-token"]);
    assert_passes(&run(&options(&agent, 1)).unwrap());
}

#[test]
fn with_a_token() {
    let agent = Agent::start(&["--no-token"]);
    let file = agent.directory().join("token");
    std::fs::write(&file, "a secret\n").unwrap();
    let agent = Agent::start(&["--token-file", file.to_str().unwrap()]);

    let only = ["TOKEN", "FRAME", "VER", "LIMIT-26"]
        .map(str::to_owned)
        .to_vec();
    let report = run(&Options {
        token: Some("a secret".into()),
        only,
        ..options(&agent, 1)
    })
    .unwrap();
    assert_passes(&report);
    let tokens = report
        .clauses
        .iter()
        .filter(|clause| clause.id.starts_with("TOKEN"));
    assert_eq!(
        tokens
            .filter(|clause| clause.verdict == Verdict::Pass)
            .count(),
        2
    );
}
