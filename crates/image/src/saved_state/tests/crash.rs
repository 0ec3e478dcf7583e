//! Processes that are killed while they save and consume states. They run in separate processes of this test program.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::*;

const ROOT: &str = "FUMEHOOD_TEST_STATES";
/// How many processes are killed; `FUMEHOOD_TEST_LONG` stands for more.
const KILLS: u32 = 10;
const LONG_KILLS: u32 = 100;

/// Says what happens, before the next step starts.
fn report(what: &str, id: &StateId) {
    let mut out = std::io::stdout();
    let line = format!("\n{what} {id}\n");
    out.write_all(line.as_bytes())
        .and_then(|()| out.flush())
        .unwrap();
}

#[test]
#[ignore = "run by another test"]
fn saves_and_consumes_states_in_a_loop() {
    let Some(root) = std::env::var_os(ROOT) else {
        return;
    };
    let setup = Setup::at(root.as_ref());
    setup.store.remove_leftovers().unwrap();

    // The bound ends the loop if the parent did not.
    for _ in 0..10_000 {
        report("saved", &setup.id());
        let listed = setup.states.list().unwrap();
        let oldest = listed.into_iter().flatten().next().unwrap().manifest.id;
        let claim = setup.states.claim(&oldest).unwrap();
        claim.open().unwrap().pages().verify().unwrap();
        report("consuming", &oldest);
        claim.consume().unwrap();
        report("consumed", &oldest);
    }
}

/// Every acknowledged state is complete, none is visible in part, and none is consumed twice.
#[test]
fn a_kill_at_any_moment_loses_no_acknowledged_state_and_consumes_none_twice() {
    let directory = tempfile::tempdir().unwrap();
    let setup = Setup::at(directory.path());
    let is_long = std::env::var_os("FUMEHOOD_TEST_LONG").is_some_and(|value| value == "1");
    let kills = if is_long { LONG_KILLS } else { KILLS };

    let (mut saved, mut consumed) = (BTreeSet::new(), BTreeSet::new());
    for n in 0..kills {
        let lines = killed_after(directory.path(), Duration::from_micros(u64::from(n) * 1700));
        let mut perhaps_consumed = BTreeSet::new();
        for line in &lines {
            let Some((what, id)) = line.split_once(' ') else {
                continue;
            };
            match what {
                "saved" => drop(saved.insert(id.to_owned())),
                "consuming" => drop(perhaps_consumed.insert(id.to_owned())),
                "consumed" => assert!(consumed.insert(id.to_owned()), "kill {n}: {id} twice"),
                _ => {}
            }
        }

        let listed = setup.states.list().unwrap();
        let mut there = BTreeSet::new();
        for state in listed {
            let id = state.unwrap().manifest.id;
            let claim = setup.states.claim(&id).unwrap();
            claim.open().unwrap().pages().verify().unwrap();
            there.insert(id.to_string());
        }
        assert!(
            there.is_disjoint(&consumed),
            "kill {n}: a consumed state is there"
        );
        for id in &saved {
            let is_known = there.contains(id) || consumed.contains(id);
            assert!(
                is_known || perhaps_consumed.contains(id),
                "kill {n}: {id} was lost"
            );
        }
        consumed.extend(
            perhaps_consumed
                .into_iter()
                .filter(|id| !there.contains(id)),
        );
    }
    assert!(!consumed.is_empty());
    setup.store.remove_leftovers().unwrap();
    assert!(!setup.store.has_leftovers());
}

/// Runs the loop, kills it some time after its first state, and returns its output.
fn killed_after(root: &std::path::Path, time: Duration) -> Vec<String> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture"])
        .arg("saved_state::tests::crash::saves_and_consumes_states_in_a_loop")
        .env(ROOT, root)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut lines = Vec::new();
    for line in output.by_ref() {
        let line = line.unwrap();
        let is_first = line.starts_with("saved ");
        lines.push(line);
        if is_first {
            break;
        }
    }

    // Any moment is fine; these differ.
    std::thread::sleep(time);
    child.kill().unwrap();
    child.wait().unwrap();
    lines.extend(output.map_while(Result::ok));
    lines
}
