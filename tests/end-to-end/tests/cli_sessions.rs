//! Interactive use of the command: files in and out, standard input, values, a terminal.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use fumehood_end_to_end::pty::Pty;
use fumehood_end_to_end::{
    descendants, finish, finish_child, fumehood, is_alive, send, wait_for_exit, wait_until,
};
use rustix::process::Signal;
use serde_json::Value;

/// `fumehood run` of a shell program in a directory.
fn run_in(dir: &Path, code: &str, options: &[&str]) -> Output {
    let mut command = fumehood();
    command.current_dir(dir);
    command.args(["run", "-t", "120", "-l", "shell", "-c", code]);
    command.args(options);
    finish(command)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn object(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// Runs a command to its end with this standard input.
fn run_with_input(mut command: Command, input: Vec<u8>) -> Output {
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();

    // A program that ends before it has read all of it is no failure of this.
    let writing = std::thread::spawn(move || stdin.write_all(&input).is_ok());
    let output = finish_child(child);
    let _ = writing.join();
    output
}

#[test]
fn files_and_directories_go_in_and_come_out() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    fs::create_dir_all(here.join("tree/below")).unwrap();
    fs::write(here.join("tree/below/leaf"), "leaf\n").unwrap();
    fs::write(here.join("run.sh"), "echo ran; cat tree/below/leaf\n").unwrap();
    fs::set_permissions(here.join("run.sh"), PermissionsExt::from_mode(0o755)).unwrap();
    fs::write(here.join("out"), "old").unwrap();

    // Files and directories, under their own and other names, in both directions.
    let code = "bash ./run.sh; stat -c %a run.sh; cat new/place/run.sh | wc -l; ls /tmp/run.sh
        seq 300000 > out; mkdir -p made/deep; echo x > made/deep/file; ln -s deep made/link";
    let output = run_in(
        here,
        code,
        &[
            "--upload=run.sh",
            "--upload=tree",
            "--upload=run.sh:new/place/",
            "--upload=run.sh:/tmp",
            "--download=out",
            "--download=made",
            "--download=made/deep/file:tree",
            "--json",
        ],
    );

    let outcome = object(&output);
    assert_eq!(
        outcome["stdout"], "ran\nleaf\n755\n1\n/tmp/run.sh\n",
        "{outcome:#}"
    );
    assert_eq!(output.status.code(), Some(0));

    // The downloads exist, and links have their old targets.
    let numbers: String = (1..=300_000).map(|n| format!("{n}\n")).collect();
    assert!(fs::read_to_string(here.join("out")).unwrap() == numbers);
    assert_eq!(fs::read(here.join("made/link/file")).unwrap(), b"x\n");
    assert_eq!(fs::read(here.join("tree/file")).unwrap(), b"x\n");

    // The object lists the downloads.
    let bytes = numbers.len();
    let expected = serde_json::json!([
        { "remote": "out", "local": "out", "bytes": bytes },
        { "remote": "made", "local": "made" },
        { "remote": "made/deep/file", "local": "tree/file", "bytes": 2 },
    ]);
    assert_eq!(outcome["downloads"], expected);

    // Once more, into existing files.
    let again = run_in(
        here,
        "mkdir made; echo y > made/more",
        &[
            "--download=made",
            "--upload=tree:t/u",
            "--download=t/u:copy",
        ],
    );
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert_eq!(fs::read(here.join("made/more")).unwrap(), b"y\n");
    assert_eq!(fs::read(here.join("made/deep/file")).unwrap(), b"x\n");
    assert_eq!(fs::read(here.join("copy/below/leaf")).unwrap(), b"leaf\n");
    let left: Vec<_> = fs::read_dir(here).unwrap().flatten().collect();
    assert_eq!(left.len(), 5, "nothing else is left: {left:?}");
}

#[test]
fn downloads_happen_after_failures_and_missing_files_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let here = dir.path();
    let output = run_in(
        here,
        "echo kept > a; exit 3",
        &["--download=a", "--download=none"],
    );
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(fs::read(here.join("a")).unwrap(), b"kept\n");
    let said = text(&output.stderr);
    assert!(said.contains("--download none: "), "{said}");
    assert!(said.contains("No such file"), "{said}");

    let options = ["-t", "1", "--download=b"];
    let mut command = fumehood();
    command.current_dir(here).args(["run", "-l", "shell", "-c"]);
    command.arg("echo late > b; sleep 100").args(options);
    let output = finish(command);
    assert_eq!(output.status.code(), Some(124));
    assert_eq!(fs::read(here.join("b")).unwrap(), b"late\n");

    let output = run_in(here, "true", &["--download=none", "--json"]);
    assert_eq!(output.status.code(), Some(125));
    let outcome = object(&output);
    assert_eq!(outcome["exit_code"], 0);
    let error = outcome["downloads"][0]["error"].as_str().unwrap();
    assert!(error.contains("No such file"), "{outcome:#}");
    assert!(!here.join("none").exists());
}

#[test]
fn a_download_replaces_links_and_rejects_sparse_files() {
    let dir = tempfile::tempdir().unwrap();
    let (here, other) = (dir.path(), tempfile::tempdir().unwrap());
    fs::write(other.path().join("victim"), "untouched").unwrap();
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, here.join(name)).unwrap();
    link(&other.path().join("victim"), "a");
    link(other.path(), "d");
    let code = "echo new > a; echo new > d; truncate -s 3G holes";
    let output = run_in(
        here,
        code,
        &["--download=a", "--download=d", "--download=holes"],
    );
    assert_eq!(output.status.code(), Some(125));
    assert!(!here.join("a").is_symlink());
    assert_eq!(fs::read(here.join("a")).unwrap(), b"new\n");
    let victim = fs::read_to_string(other.path().join("victim")).unwrap();
    assert_eq!(victim, "untouched");
    let said = text(&output.stderr);
    assert!(said.contains("d is a link to a directory"), "{said}");
    assert!(said.contains("--download holes: "), "{said}");
    assert_eq!(fs::read_dir(here).unwrap().count(), 2, "{said}");
}

#[test]
fn uploads_are_checked_before_a_vm_starts() {
    let dir = tempfile::tempdir().unwrap();
    for option in ["--upload=none", "--download=a:no/place", "--download=/"] {
        let output = run_in(dir.path(), "echo ran", &[option]);
        assert_eq!(output.status.code(), Some(125), "{option}");
        assert!(output.stdout.is_empty() && !output.stderr.is_empty());
    }

    // Errors of the guest come later, but before the program runs.
    fs::write(dir.path().join("f"), "").unwrap();
    let output = run_in(dir.path(), "echo ran", &["--upload=f:/proc/f", "--json"]);
    assert_eq!(output.status.code(), Some(125));
    let outcome = object(&output);
    assert_eq!(outcome["error"]["kind"], "invalid", "{outcome:#}");
}

#[test]
fn standard_input_reaches_the_program() {
    let bytes: Vec<u8> = (0_u32..5 << 20).map(|n| (n % 251) as u8).collect();
    for more in [&[][..], &["--upload=/dev/null:x"][..]] {
        let mut command = fumehood();
        command.args(["run", "-t", "120", "-l", "shell", "-c", "cat", "-i"]);
        command.args(more);
        let output = run_with_input(command, bytes.clone());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(output.stdout == bytes, "{} bytes", output.stdout.len());
    }

    // A program that does not read all of it ends when it likes.
    let mut command = fumehood();
    command.args(["run", "-l", "python", "-c", "print(input())", "-i"]);
    let output = run_with_input(command, b"first\n".repeat(1 << 20));
    assert_eq!(text(&output.stdout), "first\n");

    // On request it is empty.
    let mut command = fumehood();
    command.args(["run", "-l", "shell", "-c", "wc -c", "--no-stdin"]);
    assert_eq!(text(&run_with_input(command, b"x".to_vec()).stdout), "0\n");
    let mut command = fumehood();
    command.args(["run", "-l", "shell", "-i", "-"]);
    assert_eq!(
        run_with_input(command, b"true".to_vec()).status.code(),
        Some(125)
    );
}

#[test]
fn values_are_shown() {
    let mut command = fumehood();
    command.args(["run", "--display", "-l", "python", "-c"]);
    command.arg("print('out')\ndisplay([1])\n6 * 7");
    let output = finish(command);
    assert_eq!(text(&output.stdout), "out\n[1]\n42\n");
    let mut command = fumehood();
    command.args([
        "run",
        "--display",
        "--json",
        "--cwd",
        "/tmp",
        "-l",
        "python",
        "-c",
    ]);
    command.arg("import os\nprint('out')\nos.getcwd()");
    let output = finish(command);
    let outcome = object(&output);
    let expected = serde_json::json!([{ "text/plain": "'/tmp'" }]);
    assert_eq!(
        (&outcome["results"], &outcome["stdout"]),
        (&expected, &"out\n".into())
    );
    assert_eq!(outcome["results_truncated"], false);
}

/// A shell on a terminal, after its first prompt.
fn shell(args: &[&str]) -> (Pty, Child) {
    let mut pty = Pty::new(37, 91);
    let child = pty.run(&[&["shell"], args].concat());
    pty.wait_for("$ ");
    (pty, child)
}

#[test]
fn a_shell_has_the_terminals_size_and_passes_keys_on() {
    let mut pty = Pty::new(37, 91);
    let found = format!("{:?}", pty.modes());
    let child = pty.run(&["shell"]);
    pty.wait_for("$ ");
    assert!(pty.is_raw());
    let qemus = descendants(child.id());
    pty.type_in("stty size; echo $TERM\r");
    pty.wait_for("37 91\r\n");
    pty.wait_for("xterm-256color\r\n");
    pty.resize(50, 132);
    pty.type_in("until [ \"$(stty size)\" = '50 132' ]; do sleep 0.1; done; echo re''sized\r");
    pty.wait_for("resized\r\n");
    pty.type_in("echo sl''eeps; sleep 100; echo over\r");
    pty.wait_for("sleeps\r\n");
    pty.type_in("\x03");
    pty.wait_for("^C");
    pty.type_in("echo st''ill there; exit 7\r");
    pty.wait_for("still there\r\n");
    assert_eq!(wait_for_exit(child), Some(7));
    assert_eq!(format!("{:?}", pty.modes()), found);
    assert!(!qemus.is_empty() && !qemus.into_iter().any(is_alive));
}

#[test]
fn every_way_out_of_a_shell_restores_the_terminal_and_ends_the_vm() {
    for signal in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT] {
        let (pty, child) = shell(&[]);
        let qemus = descendants(child.id());
        assert!(pty.is_raw());
        send(child.id(), signal);
        assert_eq!(wait_for_exit(child), Some(130), "{signal:?}");
        assert!(!pty.is_raw(), "{signal:?}");
        wait_until("the VM's end", || !qemus.iter().any(|pid| is_alive(*pid)));
    }

    // The VM dies.
    let (mut pty, child) = shell(&[]);
    send(descendants(child.id())[0], Signal::KILL);
    pty.wait_for("fumehood: the VM was lost");
    assert_eq!(wait_for_exit(child), Some(125));
    assert!(!pty.is_raw());

    // The user can leave a program that ignores signals.
    let mut pty = Pty::new(24, 80);
    let stubborn = "trap '' INT TERM HUP QUIT; stty raw; echo re''ady; while :; do sleep 1; done";
    let child = pty.run(&["shell", "--", "bash", "-c", stubborn]);
    pty.wait_for("ready");
    pty.type_in("\x03\x04\r~.");
    assert_eq!(wait_for_exit(child), Some(130));
    assert!(!pty.is_raw());
}

#[test]
fn a_shell_runs_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("file"), "content\n").unwrap();
    let mut command = fumehood();
    command.current_dir(dir.path());
    command.args(["shell", "--upload=file", "-m", "256"]);
    let output = run_with_input(command, b"cat file; tty; exit 7\n".to_vec());
    let seen = text(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{seen}");
    assert!(
        seen.contains("content\r\n") && seen.contains("/dev/pts/0\r\n"),
        "{seen}"
    );

    // Input that ends is the end of what reads it, also in the middle of a line.
    for (args, input, seen) in [
        (&["shell"][..], "echo hel''lo\n", "hello\r\n"),
        (&["shell", "--", "cat"][..], "one\nhalf", "one\r\nhalf"),
        (&["shell"][..], "cat; echo o''ver\nhello\n", "over"),
    ] {
        let mut command = fumehood();
        command.args(args);
        let output = run_with_input(command, input.into());
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains(seen), "{output:?}");
    }

    let mut command = fumehood();
    command.args(["shell", "--root", "--", "sh", "-c", "id -u; exit 5"]);
    let output = finish(command);
    assert_eq!(
        (&*output.stdout, output.status.code()),
        (&b"0\r\n"[..], Some(5))
    );
}

fn repl(language: &str, input: &str) -> (String, String, Option<i32>) {
    let mut command = fumehood();
    command.args(["repl", "-l", language]);
    let output = run_with_input(command, input.into());
    let code = output.status.code();
    (text(&output.stdout), text(&output.stderr), code)
}

#[test]
fn pieces_of_code_share_their_state() {
    let python = "x = 6\ndef f():\n  return x * 7\n\nf()\nprint([\n1])\nimport sys; sys.exit(4)\n";
    let (out, _, code) = repl("python", python);
    assert_eq!((&*out, code), ("42\n[1]\n", Some(4)));
    let (out, err, code) = repl(
        "python",
        "x = 1\nimport os; os._exit(3)\nprint('x' in globals())",
    );
    assert_eq!((&*out, code), ("False\n", Some(0)));
    assert!(err.contains("state is lost"), "{err}");
    let javascript = "const a = [\n1,2]\na.length\nprocess.exit(3)\n";
    let (out, _, code) = repl("javascript", javascript);
    assert_eq!((&*out, code), ("2\n", Some(3)));
    let shell = "cd /tmp\nfor i in 1 2; do\necho $i\ndone\ncat <<E\n$PWD\nE\n(exit 5)\n";
    let (out, _, code) = repl("shell", shell);
    assert_eq!((&*out, code), ("1\n2\n/tmp\n", Some(5)));
    let (out, _, code) = repl("python", "");
    assert_eq!((&*out, code), ("", Some(0)));
}

#[test]
fn an_interrupt_at_the_prompt_of_a_repl_keeps_the_state() {
    let mut pty = Pty::new(24, 80);
    let found = format!("{:?}", pty.modes());
    let state = tempfile::tempdir().unwrap();
    let child = pty.run_repl("python", state.path());
    let qemus = |child: &Child| descendants(child.id());
    pty.wait_for_prompt();
    pty.type_in("x = 41\r");
    pty.wait_for_prompt();
    pty.type_in("def f():\r  return x + 1\r\r");
    pty.wait_for_prompt();
    pty.type_in("import time; print('be' + 'gun', end='', flush=True); time.sleep(100)\r");
    pty.wait_for("begun");
    pty.type_in("\x03");
    pty.wait_for("KeyboardInterrupt");
    pty.wait_for("fumehood: cancelled");
    pty.wait_for_prompt();

    // Dropped where it stands.
    pty.type_in("f(\x03");
    pty.wait_for_prompt();
    pty.type_in("'is', f()\r");
    pty.wait_for("('is', 42)\r\n");
    pty.wait_for_prompt();
    pty.type_in("import os; os._exit(1)\r");
    pty.wait_for("state is lost");
    pty.wait_for_prompt();
    let vm = qemus(&child);
    pty.type_in("\x04");
    assert_eq!(wait_for_exit(child), Some(0));
    assert_eq!(format!("{:?}", pty.modes()), found);
    assert!(!vm.is_empty() && !vm.into_iter().any(is_alive));
}

#[test]
fn every_way_out_of_a_repl_restores_the_terminal_and_ends_the_vm() {
    let state = tempfile::tempdir().unwrap();
    for (typed, seen) in [("", ""), ("sleep 100 & echo be''gun; wait\r", "begun\r\n")] {
        let mut pty = Pty::new(24, 80);
        let child = pty.run_repl("shell", state.path());
        pty.wait_for("$ ");
        let vm = descendants(child.id());
        pty.type_in(typed);
        pty.wait_for(seen);
        send(child.id(), Signal::TERM);
        assert_eq!(wait_for_exit(child), Some(130), "{}", pty.screen());
        assert!(!pty.is_raw());
        wait_until("the VM's end", || !vm.iter().any(|pid| is_alive(*pid)));
    }

    let mut pty = Pty::new(24, 80);
    let child = pty.run_repl("shell", state.path());
    pty.wait_for("$ ");
    send(descendants(child.id())[0], Signal::KILL);
    pty.wait_for("fumehood: the VM was lost");
    assert_eq!(wait_for_exit(child), Some(125));
    assert!(!pty.is_raw());
}
