//! VMs do not outlive the command that owns them, missing components are reported, and many commands run at once.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Child, Stdio};

use fumehood_end_to_end::{descendants, finish, fumehood, is_alive, json, send, wait_until};
use rustix::process::Signal;

/// Starts a shell program that says `up` first, and returns once it has.
fn start_until_up(code: &str, timeout_s: u32) -> (Child, Vec<u32>) {
    use std::io::Read;
    let mut child = fumehood();
    child.args([
        "run",
        "-t",
        &timeout_s.to_string(),
        "-l",
        "shell",
        "-c",
        code,
    ]);

    let mut child = child.stdout(Stdio::piped()).spawn().unwrap();
    let mut up = [0; 3];
    child.stdout.as_mut().unwrap().read_exact(&mut up).unwrap();
    let qemus = descendants(child.id());
    assert!(!qemus.is_empty(), "no QEMU was found");

    (child, qemus)
}

/// Starts a program that sleeps.
fn start_sleeper() -> (Child, Vec<u32>) {
    start_until_up("echo up; sleep 160", 170)
}

fn wait_until_gone(pids: &[u32]) {
    wait_until("the end of QEMU", || !pids.iter().any(|&pid| is_alive(pid)));
}

#[test]
fn an_interrupt_ends_the_run_with_130() {
    for signal in [Signal::INT, Signal::TERM] {
        let (mut child, qemus) = start_sleeper();
        send(child.id(), signal);
        assert_eq!(child.wait().unwrap().code(), Some(130));
        wait_until_gone(&qemus);
    }
}

#[test]
fn qemu_dies_with_an_owner_that_is_killed() {
    let (mut child, qemus) = start_sleeper();
    send(child.id(), Signal::KILL);
    child.wait().unwrap();
    wait_until_gone(&qemus);
}

/// Commands in other namespaces of processes and time see neither the owner's id nor its start.
#[test]
fn vms_of_owners_in_other_namespaces_stay() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: it needs root");
        return;
    }

    let (mut child, qemus) = start_sleeper();
    for namespaces in [
        ["--pid", "--fork", "--mount-proc"].as_slice(),
        &["--time", "--boottime", "1000000"],
    ] {
        let mut command = std::process::Command::new("unshare");
        command
            .args(namespaces)
            .arg("--")
            .arg(fumehood_end_to_end::program());
        command.args(["run", "--no-server", "-l", "shell", "-c", "echo hello"]);
        let output = finish(command);
        assert_eq!(output.stdout, b"hello\n", "{output:?}");
        assert!(qemus.iter().all(|&pid| is_alive(pid)), "{namespaces:?}");
    }

    send(child.id(), Signal::TERM);
    child.wait().unwrap();
}

#[test]
fn an_owner_detects_that_its_vm_died() {
    let (child, qemus) = start_sleeper();
    send(qemus[0], Signal::KILL);
    let output = fumehood_end_to_end::finish_child(child);
    assert_eq!(output.status.code(), Some(125));
}

#[test]
fn ten_concurrent_programs_succeed() {
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

/// Starts a program that writes endlessly into a pipe that is not read.
fn start_stuck() -> (Child, Vec<u32>) {
    let (mut child, qemus) = start_until_up("echo up; yes", 60);
    let unread = child.stdout.take().unwrap();

    // More than a pipe holds: the command waits in a write.
    std::thread::sleep(std::time::Duration::from_secs(2));
    std::mem::forget(unread);
    (child, qemus)
}

#[test]
fn interrupts_are_handled_while_output_is_unread() {
    let (mut child, qemus) = start_stuck();
    send(child.id(), Signal::INT);
    send(child.id(), Signal::TERM);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until_gone(&qemus);
}

#[test]
fn a_command_that_was_suspended_reports_the_right_outcome() {
    let (child, _) = start_until_up("echo up; sleep 2; echo end", 5);
    send(child.id(), Signal::STOP);

    // Longer than the timeout and all the time that a guest gets to end a program.
    std::thread::sleep(std::time::Duration::from_secs(20));
    send(child.id(), Signal::CONT);
    let output = fumehood_end_to_end::finish_child(child);
    assert_eq!(
        (output.status.code(), output.stdout.as_slice()),
        (Some(0), b"end\n".as_slice())
    );
}

#[test]
fn a_guest_that_hangs_can_be_cancelled() {
    let (mut child, qemus) = start_until_up("echo up; sleep 100", 100);
    send(qemus[0], Signal::STOP);
    send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    wait_until_gone(&qemus);
}

#[test]
fn an_operator_can_raise_the_longest_timeout() {
    let (outcome, exit) = json("shell", "echo ok", &["--max-timeout", "600", "-t", "400"]);
    assert_eq!(
        (exit, outcome["stdout"].as_str()),
        (0, Some("ok\n")),
        "{outcome:#}"
    );

    assert_fails(
        &[
            "run",
            "-l",
            "shell",
            "-c",
            "1",
            "-t",
            "0",
            "--max-timeout",
            "18446744073709551615",
        ],
        &[],
        &["maximum timeout"],
    );
}

#[test]
fn a_closed_reader_does_not_crash_the_command() {
    for args in [
        ["doctor"].as_slice(),
        &["man"],
        &["run", "--json", "-l", "shell", "-c", "1"],
    ] {
        let mut command = fumehood();
        command.args(args).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        drop(child.stdout.take());
        assert_eq!(child.wait().unwrap().code(), Some(141), "{args:?}");
    }
}

#[test]
fn root_of_a_user_namespace_can_run_code() {
    let mut command = std::process::Command::new("unshare");
    command.arg("-r").arg(fumehood_end_to_end::program()).args([
        "run",
        "-l",
        "shell",
        "-c",
        "echo hello",
    ]);

    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stderr);
    if text.contains("unshare failed") {
        println!("this host allows no user namespaces: {text}");
        return;
    }

    assert_eq!(output.stdout, b"hello\n", "{text}");
}

#[test]
fn invalid_arguments_are_reported_as_json() {
    let mut command = fumehood();
    command.args(["run", "--json", "/nonexistent.py"]);
    let output = finish(command);
    let value: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (value["error"]["kind"].as_str(), output.status.code()),
        (Some("invalid"), Some(125))
    );
}

fn assert_fails(args: &[&str], envs: &[(&str, &str)], words: &[&str]) {
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
fn missing_or_invalid_components_are_reported_with_a_fix() {
    let run = ["run", "-l", "python", "-c", "1"];
    let dir = tempfile::tempdir().unwrap();
    let empty = dir.path().to_str().unwrap();
    assert_fails(&run, &[("FUMEHOOD_HOME", empty)], &["fumehood image build"]);
    assert_fails(
        &run,
        &[("FUMEHOOD_QEMU", "/nonexistent")],
        &["/nonexistent"],
    );

    assert_fails(
        &run,
        &[("PATH", empty)],
        &["apt-get install qemu-system-x86"],
    );

    assert_fails(
        &["--accelerator", "quick", "run", "-c", "1"],
        &[],
        &["quick"],
    );
    assert_fails(&["run", "-c", "1"], &[], &["-l python"]);
    assert_fails(&["run", "/nonexistent.py"], &[], &["/nonexistent.py"]);
    assert_fails(&["run", "-l", "ruby", "-c", "1"], &[], &["ruby"]);
    assert_fails(
        &["run", "-l", "shell", "-c", "1", "-e", "LD_PRELOAD=x"],
        &[],
        &["LD_PRELOAD"],
    );

    assert_fails(
        &["run", "-l", "shell", "-c", "1", "-t", "301"],
        &[],
        &["301", "300"],
    );
    assert_fails(&["run", "-l", "shell", "-c", "1", "-m", "1"], &[], &["96"]);
    assert_fails(&["agent", "--listen", "192.0.2.1:80"], &[], &["loopback"]);
}

#[test]
fn a_limit_of_file_sizes_ends_no_command() {
    let mut command = std::process::Command::new("prlimit");
    command
        .args(["--fsize=1000000", "--"])
        .arg(fumehood_end_to_end::program());
    command.args(["run", "--no-server", "-l", "shell", "-c", "echo ran"]);

    let output = finish(command);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(output.stdout, b"ran\n");
}

#[test]
fn errors_of_qemu_are_quoted() {
    assert_fails(
        &["--qemu", "/bin/false", "run", "-l", "shell", "-c", "1"],
        &[],
        &["the VM did not start", "exit status: 1"],
    );
}

/// Before QEMU starts, a run takes less than 10 ms. A whole run with a "QEMU" that exits at
/// once takes that time and more. Other load of the machine only adds to it: one undisturbed run
/// shows it.
#[test]
fn qemu_starts_without_delay() {
    const LIMIT: std::time::Duration = std::time::Duration::from_millis(15);
    let run = || {
        let mut command = fumehood();
        command.args(["--qemu", "/bin/true", "run", "-l", "shell", "-c", "1"]);
        command.stderr(Stdio::null()).stdin(Stdio::null());
        let start = std::time::Instant::now();
        let status = command.status().unwrap();
        assert_eq!(status.code(), Some(125));
        start.elapsed()
    };

    let fastest = (0..500).map(|_| run()).find(|took| *took < LIMIT);
    assert!(
        fastest.is_some(),
        "not one run of 500 took less than {LIMIT:?}"
    );
}

#[test]
fn doctor_passes_on_this_machine() {
    let mut command = fumehood();
    command.arg("doctor");
    let output = finish(command);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}");

    for subject in [
        "QEMU",
        "accelerator",
        "image",
        "isolation",
        "memory",
        "disk",
    ] {
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
