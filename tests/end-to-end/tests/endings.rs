//! Exit code and cause for each way in which a program can end.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fumehood_end_to_end::json;
use serde_json::Value;

fn assert_ends(
    language: &str,
    code: &str,
    options: &[&str],
    ended_by: &str,
    exit_code: i32,
) -> Value {
    let (outcome, exit) = json(language, code, options);
    assert_eq!(outcome["ended_by"], ended_by, "{code}\n{outcome:#}");
    assert_eq!(outcome["exit_code"], exit_code, "{code}\n{outcome:#}");
    assert_eq!(exit, exit_code, "{code}\n{outcome:#}");
    outcome
}

#[test]
fn exit_codes_are_reported() {
    assert_ends("python", "import sys; sys.exit(7)", &[], "exited", 7);
    assert_ends("python", "import os; os._exit(7)", &[], "exited", 7);
    assert_ends("python", "def (", &[], "exited", 1);
    assert_ends("javascript", "process.exit(7)", &[], "exited", 7);
    assert_ends("javascript", "throw new Error('x')", &[], "exited", 1);
    assert_ends("shell", "exit 7", &[], "exited", 7);
    assert_ends("shell", "if", &[], "exited", 2);
}

#[test]
fn closing_standard_output_loses_nothing_that_was_written() {
    let outcome = assert_ends(
        "python",
        "import os, sys\nprint('before', flush=True)\nos.close(1)\nsys.stdout = None\n",
        &[],
        "exited",
        0,
    );
    assert_eq!(outcome["stdout"], "before\n");
}

#[test]
fn signals_are_reported() {
    let killed = assert_ends("shell", "kill -9 $$", &[], "signaled", 137);
    assert_eq!(killed["evidence"]["signal"], 9);
    let crashed = assert_ends(
        "python",
        "import ctypes; ctypes.string_at(0)",
        &[],
        "signaled",
        139,
    );
    assert_eq!(crashed["evidence"]["signal"], 11);
}

/// The interpreter reports its end on a descriptor of its process. A program that writes to it can end only
/// itself, and is killed then.
#[test]
fn a_forged_exit_ends_only_the_forger() {
    let forge = "import os, time
print('first', flush=True)
for fd in os.listdir('/proc/self/fd'):
    if int(fd) > 2:
        try:
            os.write(int(fd), b'7\\n')
        except OSError:
            pass
time.sleep(60)
";
    let outcome = assert_ends("python", forge, &["-t", "90"], "exited", 7);
    assert_eq!(outcome["stdout"], "first\n");
    assert!(
        outcome["timing"]["execute_ms"].as_f64().unwrap() < 30_000.0,
        "{outcome:#}"
    );
    let noise = "import os
for fd in os.listdir('/proc/self/fd'):
    if int(fd) > 2:
        try:
            os.write(int(fd), b'\\x01\\x02\\x00\\x00\\x00 nonsense without an end')
        except OSError:
            pass
";
    assert_ends("python", noise, &[], "exited", 1);
}

#[test]
fn a_program_that_closes_all_descriptors_or_forks_keeps_its_exit_code() {
    let closes = "import os, sys\nos.closerange(3, 4096)\nprint('closed')\nsys.exit(5)";
    assert_eq!(
        assert_ends("python", closes, &[], "exited", 5)["stdout"],
        "closed\n"
    );
    let forks = "import os, sys
child = os.fork()
if child == 0:
    sys.exit(3)
status = os.waitpid(child, 0)[1]
print(os.waitstatus_to_exitcode(status))
sys.exit(6)
";
    assert_eq!(
        assert_ends("python", forks, &[], "exited", 6)["stdout"],
        "3\n"
    );
}

#[test]
fn running_out_of_memory_is_distinguished_from_a_crash() {
    let outcome = assert_ends(
        "python",
        "x = []\nwhile True: x.append(bytearray(1 << 20))",
        &["-m", "192", "-t", "120"],
        "out_of_memory",
        137,
    );
    assert!(
        outcome["evidence"]["oom_kills"].as_u64().unwrap() >= 1,
        "{outcome:#}"
    );
    assert!(
        outcome["evidence"]["peak_memory_bytes"].as_u64().unwrap() > 64 << 20,
        "{outcome:#}"
    );
}

#[test]
fn a_full_disk_is_an_error_in_the_program() {
    let code = "try:\n    with open('/tmp/x', 'wb') as f:\n        while True: f.write(bytes(1 << 20))\nexcept OSError as e: print(e.strerror)";
    let outcome = assert_ends("python", code, &["-m", "192", "-t", "120"], "exited", 0);
    assert_eq!(
        outcome["stdout"], "No space left on device\n",
        "{outcome:#}"
    );
}

#[test]
fn a_fork_bomb_ends_and_is_counted() {
    let (outcome, _) = json("shell", ":(){ :|:& };:; sleep 5", &["-t", "20"]);
    let ended_by = outcome["ended_by"].as_str().unwrap();
    assert!(
        ["exited", "timeout", "out_of_memory", "signaled"].contains(&ended_by),
        "{outcome:#}"
    );
    assert!(
        outcome["evidence"]["left_processes"].as_u64().unwrap_or(0) > 1,
        "{outcome:#}"
    );
}

#[test]
fn timeouts_are_reported() {
    assert_ends("python", "while True: pass", &["-t", "2"], "timeout", 124);
    let stubborn = "trap '' INT TERM; while true; do sleep 100; done";
    let outcome = assert_ends("shell", stubborn, &["-t", "1"], "timeout", 124);
    assert_eq!(outcome["evidence"]["signal"], 9);
}

#[test]
fn a_background_child_does_not_delay_the_end_of_the_run() {
    let outcome = assert_ends("shell", "sleep 100 & echo done", &["-t", "60"], "exited", 0);
    assert_eq!(outcome["stdout"], "done\n");
    assert_eq!(outcome["evidence"]["left_processes"], 1);
    assert!(
        outcome["timing"]["execute_ms"].as_f64().unwrap() < 30_000.0,
        "{outcome:#}"
    );
}

#[test]
fn a_vm_that_shuts_itself_down_is_reported_as_lost() {
    // The program is no root: it can only make the kernel give up by taking all of its memory's reserve,
    // which the agent's limits prevent. What can be shown is the host's side: see `owner.rs`.
    let outcome = assert_ends(
        "shell",
        "echo o > /proc/sysrq-trigger; echo b > /proc/sysrq-trigger; echo alive",
        &[],
        "exited",
        0,
    );
    assert_eq!(outcome["stdout"], "alive\n");
}
