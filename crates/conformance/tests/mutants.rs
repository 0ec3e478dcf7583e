//! Deliberately broken agents: each must fail in the clause that it violates, and in no unrelated one.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a test fails by panicking"
)]

use std::collections::{BTreeSet, VecDeque};
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use fumehood_conformance::{Address, Options, Report, Verdict, run};

/// Each mutant of the reference agent, the clause that it must fail in, and others that it may fail in.
const MUTANTS: &[(&str, &str, &[&str])] = &[
    ("one-request-per-read", "FRAME-3", &[]),
    ("request-at-end-of-file", "FRAME-4", &[]),
    ("no-line-limit", "FRAME-5", &[]),
    ("closes-after-long-line", "FRAME-6", &[]),
    ("ignores-unknown-fields", "FRAME-7", &[]),
    ("last-duplicate-wins", "FRAME-8", &[]),
    (
        "two-completes",
        "REQ-2",
        &["REQ-3", "EXEC-4", "END-1", "LIMIT-6"],
    ),
    ("numeric-version", "RESP-1", &[]),
    ("answers-at-once", "OP-1", &[]),
    ("one-program", "OP-7", &[]),
    ("reads-ahead", "FLOW-1", &[]),
    ("silent-until-end", "OUT-1", &[]),
    ("small-pieces", "OUT-2", &[]),
    ("splits-characters", "OUT-7", &[]),
    ("drops-invalid-bytes", "OUT-8", &[]),
    ("merges-streams", "OUT-10", &[]),
    ("large-chunks", "LIMIT-27", &[]),
    ("waiting-input", "EXEC-3", &[]),
    ("keeps-variables", "EXEC-4", &[]),
    ("waits-for-pipes", "EXEC-5", &[]),
    ("leaves-processes", "EXEC-7", &[]),
    ("drops-tail", "EXEC-8", &[]),
    ("outlives-connection", "EXEC-10", &[]),
    ("always-zero", "END-1", &[]),
    ("negative-signals", "END-2", &[]),
    ("timeout-is-137", "END-3", &[]),
    ("kills-at-once", "END-8", &[]),
    ("no-kill", "END-8", &[]),
    ("lenient-numbers", "ERR-2", &[]),
    ("replaces-invalid-requests", "ERR-3", &[]),
    ("accepts-control-characters", "ERR-5", &[]),
    ("accepts-loader-variables", "ERR-6", &[]),
    ("accepts-bare-packages", "ERR-7", &[]),
    ("shell-packages", "ERR-8", &[]),
    (
        "closes-after-error",
        "ERR-12",
        &["FRAME-2", "REQ-3", "ERR-1", "ERR-2", "ERR-4", "ERR-6"],
    ),
    ("code-in-characters", "LIMIT-2", &[]),
    ("timeout-301", "LIMIT-3", &[]),
    ("minute-by-default", "LIMIT-4", &[]),
    ("ninety-nine-variables", "LIMIT-6", &[]),
    ("value-in-characters", "LIMIT-8", &[]),
];

/// Quick clauses that each mutant is tested for as well.
const CORE: &[&str] = &[
    "FRAME-2", "FRAME-9", "REQ-1", "REQ-3", "RESP", "OUT-10", "EXEC-4", "END-1", "ERR-1", "ERR-2",
    "ERR-4", "ERR-6", "LIMIT-6",
];

/// Mutants that are tested at the same time. Most of the time they wait.
const WORKERS: usize = 8;

/// The reference agent, which is killed at the end.
struct Reference {
    child: Child,
    address: Address,
    _directory: tempfile::TempDir,
}

impl Reference {
    fn start(mutant: Option<&str>) -> Self {
        // A stand-in for the installer: no index is contacted.
        let directory = tempfile::tempdir().unwrap();
        let installer = directory.path().join("uv");
        std::fs::write(&installer, "#!/bin/sh\necho no index >&2\nexit 7\n").unwrap();
        std::fs::set_permissions(&installer, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = format!(
            "{}:{}",
            directory.path().display(),
            std::env::var("PATH").unwrap()
        );

        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/reference-agent/agent.py"
        );
        let mut child = Command::new("python3")
            .arg(script)
            .args(mutant.map(|mutant| format!("--mutant={mutant}")))
            .env("PATH", path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        let place = line
            .trim()
            .strip_prefix("listening on ")
            .expect("no address");
        let address = format!("tcp://{place}").parse().unwrap();

        Self {
            child,
            address,
            _directory: directory,
        }
    }

    fn test(&self, only: &[&str], deadline: Duration) -> Report {
        run(&Options {
            address: self.address.clone(),
            token: None,
            version: 0,
            only: only.iter().map(ToString::to_string).collect(),
            packages: true,
            deadline,
        })
        .unwrap()
    }
}

impl Drop for Reference {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn failed(report: &Report) -> BTreeSet<&str> {
    let failed = report
        .clauses
        .iter()
        .filter(|clause| clause.verdict == Verdict::Fail);
    failed.map(|clause| clause.id).collect()
}

#[test]
fn the_reference_agent_passes_version_0() {
    let report = Reference::start(None).test(&[], Duration::from_secs(60));
    assert!(report.passed(), "{}", report.to_text());
    // There is no token; everything else is tested.
    assert_eq!(report.count(Verdict::NotOffered), 2, "{}", report.to_text());
}

/// What is wrong with the verdicts on a mutant.
fn fault(mutant: &str, clause: &str, others: &[&str]) -> Option<String> {
    let mut only = CORE.to_vec();
    only.push(clause);
    let report = Reference::start(Some(mutant)).test(&only, Duration::from_secs(10));

    let failed = failed(&report);
    let unrelated: Vec<_> = failed
        .iter()
        .filter(|id| **id != clause && !others.contains(id))
        .collect();
    if failed.contains(clause) && unrelated.is_empty() {
        return None;
    }
    Some(format!(
        "{mutant} must fail in {clause}, and failed in {failed:?}\n{}",
        report.to_text()
    ))
}

#[test]
fn every_mutant_fails_in_its_clause() {
    let left = Mutex::new(VecDeque::from(MUTANTS.to_vec()));
    let next = || left.lock().unwrap().pop_front();

    let faults: Vec<String> = std::thread::scope(|scope| {
        let work = || {
            std::iter::from_fn(next)
                .filter_map(|(mutant, clause, others)| fault(mutant, clause, others))
                .collect::<Vec<_>>()
        };
        let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .flat_map(|worker| worker.join().unwrap())
            .collect()
    });
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_mutant_of_the_reference_agent_is_tested() {
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../tests/reference-agent/agent.py"
    );
    let output = Command::new("python3")
        .args([script, "--list"])
        .output()
        .unwrap();
    let listed: BTreeSet<String> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    let tested: BTreeSet<String> = MUTANTS
        .iter()
        .map(|(mutant, ..)| (*mutant).to_owned())
        .collect();
    assert_eq!(listed, tested);
}
