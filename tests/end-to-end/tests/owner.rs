//! Nothing outlives its owner; what is missing is said; many run at once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]


use std::process::{Child, Stdio};

use fumehood_end_to_end::{descendants, finish, fumehood, is_alive, json, send, wait_until};
use rustix::process::Signal;

/// Starts a program that sleeps, and returns once its VM runs it.
fn sleeper() -> (Child, Vec<u32>) {
    use std::io::Read;
    let mut child = fumehood();
    child.args(["run", "-t", "170", "-l", "raw", "-c", "echo up; sleep 160"]);
    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let qemus = descendants(child.id());
    assert!(!qemus.is_empty(), "no QEMU was found");
    (child, qemus)
}

fn gone(pids: &[u32]) {
    wait_until("the end of QEMU", || !pids.iter().any(|&pid| is_alive(pid)));
}

#[test]
fn an_interrupt_ends_the_run_with_130() {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut child, qemus) = sleeper();
        send(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        gone(&qemus);
    }
}

#[test]
fn qemu_dies_with_an_owner_that_is_killed() {
    let (mut child, qemus) = sleeper();
    send(child.id(), Signal::KILL);
    child.wait().unwrap();
    gone(&qemus);
}

#[test]
fn an_owner_notices_that_its_vm_has_died() {
    let (child, qemus) = sleeper();
    send(qemus[0], Signal::KILL);
    let output = fumehood_end_to_end::finish_child(child);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn ten_programs_at_once_all_end_right() {
    let runs: Vec<_> = (0..10)
        .map(|n| {
            std::thread::spawn(move || json("python", &format!("print({n} * {n})"), &["-t", "120"]))
        })
        .collect();
    for (n, run) in runs.into_iter().enumerate() {
        let (outcome, exit) = run.join().unwrap();
        assert_eq!(
            (exit, outcome["stdout"].as_str().unwrap()),
            (0, format!("{}\n", n * n).as_str()),
            "{outcome:#}"
        );
    }
}

fn fails(args: &[&str], envs: &[(&str, &str)], words: &[&str]) {
    let mut command = fumehood();
    command.args(args).envs(envs.iter().copied());
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(125), "{args:?}: {text}");
    for word in words {
        assert!(text.contains(word), "{args:?}: `{word}` is not in: {text}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_said_with_its_mend() {
    let run = ["run", "-l", "python", "-c", "1"];
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    fails(&run, &[("FUMEHOOD_HOME", empty)], &["fumehood image build"]);
    fails(
        &run,
        &[("FUMEHOOD_QEMU", "/nonexistent")],
        &["/nonexistent"],
    );
    fails(
        &run,
        &[("PATH", empty)],
        &["apt-get install qemu-system-x86"],
    );
    fails(
        &["--accelerator", "quick", "run", "-c", "1"],
        &[],
        &["quick"],
    );
    fails(&["run", "-c", "1"], &[], &["-l python"]);
    fails(&["run", "/nonexistent.py"], &[], &["/nonexistent.py"]);
    fails(&["run", "-l", "ruby", "-c", "1"], &[], &["ruby"]);
    fails(
        &["run", "-l", "raw", "-c", "1", "-e", "LD_PRELOAD=x"],
        &[],
        &["LD_PRELOAD"],
    );
    fails(
        &["run", "-l", "raw", "-c", "1", "-t", "301"],
        &[],
        &["301", "300"],
    );
    fails(&["run", "-l", "raw", "-c", "1", "-m", "1"], &[], &["96"]);
    fails(&["agent", "--listen", "192.0.2.1:80"], &[], &["loopback"]);
}

#[test]
fn a_qemu_that_fails_is_quoted() {
    fails(
        &["--qemu", "/bin/false", "run", "-l", "raw", "-c", "1"],
        &[],
        &["the VM did not start", "exit status: 1"],
    );
}

/// Before QEMU starts, a run spends under 10 ms of its own. The whole of a run whose "QEMU" ends at
/// once holds that time and more; of several the fastest counts, since other tests run beside it.
#[test]
fn little_time_is_spent_before_qemu_starts() {
    let fastest = (0..20)
        .map(|_| {
            let mut command = fumehood();
            command.args(["--qemu", "/bin/true", "run", "-l", "raw", "-c", "1"]);
            command.stderr(Stdio::null()).stdin(Stdio::null());
            let start = std::time::Instant::now();
            let status = command.status().unwrap();
            assert_eq!(status.code(), Some(125));
            start.elapsed()
        })
        .min()
        .unwrap();
    assert!(fastest.as_millis() < 10, "{fastest:?}");
}

#[test]
fn the_doctor_finds_this_machine_fit() {
    let mut command = fumehood();
    command.arg("doctor");
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");
    for subject in ["QEMU", "accelerator", "image", "walls", "memory", "disk"] {
        assert!(text.contains(subject), "{text}");
    }
}

#[test]
fn completions_and_manual_come_from_the_same_definitions() {
    for args in [
        ["completions", "bash"].as_slice(),
        &["completions", "zsh"],
        &["man"],
    ] {
        let mut command = fumehood();
        command.args(args);
        let output = finish(command);
        assert!(output.status.success());
        assert!(String::from_utf8_lossy(&output.stdout).contains("doctor"));
    }
}
