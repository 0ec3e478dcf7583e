//! `fumehood sandbox`, as a user works with it: one walk through all commands, with the server that the first one starts; and
//! folders of this host in a VM.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use fumehood_end_to_end::pty::Pty;
use fumehood_end_to_end::{finish, finish_child, fumehood, send, wait_for_exit, wait_until};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A user with an own server, which ends with the test.
struct User {
    dir: TempDir,
}

impl Drop for User {
    fn drop(&mut self) {
        let Ok(stream) = UnixStream::connect(self.socket()) else {
            return;
        };
        let Ok(server) = rustix::net::sockopt::socket_peercred(&stream) else {
            return;
        };
        let pid = u32::try_from(server.pid.as_raw_nonzero().get()).unwrap_or_default();
        send(pid, Signal::TERM);
        let socket = self.socket();
        wait_until("the server's end", || !socket.exists());
    }
}

impl User {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("project")).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.path("fumehood/server.sock")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fumehood();
        command
            .arg("sandbox")
            .args(args)
            .env("XDG_RUNTIME_DIR", self.dir.path())
            .env("XDG_STATE_HOME", self.path("state"))
            .current_dir(self.dir.path());
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        finish(self.command(args))
    }

    /// Runs a command that succeeds, and returns its output.
    fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that fails in fumehood, and returns its message.
    fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert_eq!(output.status.code(), Some(125), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.ok(args)).unwrap()
    }
}

#[test]
fn a_user_walks_through_all_commands() {
    let user = User::new();

    // Only `create` starts a server, and an id, a start of it or a name mean the sandbox.
    let error = user.fails(&["ls"]);
    assert!(
        error.contains("`fumehood sandbox create` starts one"),
        "{error}"
    );
    let id = user.ok(&["create", "--name", "web", "-l", "shell"]);
    let id = id.trim();
    assert!(user.socket().exists() && user.path("state/fumehood/server.log").exists());
    let taken = user.fails(&["create", "--name", "web"]);
    assert!(taken.contains(id), "{taken}");
    for word in [id, &id[..id.len() - 2], "web"] {
        assert_eq!(user.json(&["inspect", word])[0]["id"], id);
    }
    assert_eq!(user.ok(&["ls", "-q"]).trim(), id);
    assert_eq!(user.json(&["ls", "--json"])[0]["name"], "web");
    assert!(user.ok(&["ls"]).contains(" web "));

    code_and_programs(&user);
    signals_and_terminals(&user);
    copies(&user);
    forks_checkpoints_and_ports(&user);

    // A paused sandbox costs no VM, and the next command resumes it.
    user.ok(&["run", "web", "-c", "x=41"]);
    assert_eq!(user.ok(&["pause", "web"]), "web\n");
    assert!(user.ok(&["ls"]).contains(" paused "));
    assert_eq!(user.ok(&["run", "web", "-c", "echo $((x + 1))"]), "42\n");
    user.ok(&["pause", "web"]);
    user.ok(&["resume", "web"]);
    assert_eq!(user.json(&["inspect", "web"])[0]["state"], "running");

    // All end, and errors say so.
    let ended = user.ok(&["stop", "--all"]);
    assert_eq!(ended.lines().count(), 5);
    assert_eq!(user.ok(&["ls", "-q"]), "");
    assert!(user.ok(&["ls", "--all"]).contains("ended (requested)"));
    assert!(user.fails(&["exec", id, "true"]).contains("has ended"));
    user.ok(&["rm", id]);
    assert!(
        user.fails(&["rm", "none"])
            .contains("no sandbox has the ID")
    );
    assert!(user.ok(&["logs", id, "--events"]).contains("\"ended\""));
}

fn code_and_programs(user: &User) {
    // Code keeps its state in the context of its language.
    user.ok(&["run", "web", "-c", "x=41"]);
    assert_eq!(user.ok(&["run", "web", "-c", "echo $((x + 1))"]), "42\n");
    std::fs::write(user.path("double.py"), "import sys\nprint(sys.argv[1] * 2)").unwrap();
    assert_eq!(user.ok(&["run", "web", "double.py", "--", "ab"]), "abab\n");
    let none = user.ok(&["run", "web", "--no-context", "-c", "echo [$x]"]);
    assert_eq!(none, "[]\n");
    let failed = user.run(&["run", "web", "--json", "-c", "echo out; exit 3"]);
    assert_eq!(failed.status.code(), Some(3));
    let run: Value = serde_json::from_slice(&failed.stdout).unwrap();
    assert_eq!(
        (&run["stdout"], &run["exit_code"]),
        (&"out\n".into(), &3.into())
    );

    // A program has the three streams and its exit code, with or without `--`.
    let mut command = user.command(&["exec", "web", "sh", "-c", "cat; echo err >&2; exit 7"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let sent = child.stdin.take().unwrap().write_all(b"a\0b");
    sent.unwrap();
    let output = finish_child(child);
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"a\0b"[..], &b"err\n"[..])
    );
    let printed = user.ok(&[
        "exec",
        "-e",
        "A=b",
        "-w",
        "/tmp",
        "web",
        "--",
        "sh",
        "-c",
        "echo $A $PWD",
    ]);
    assert_eq!(printed, "b /tmp\n");

    // A detached one continues, and its output is followed.
    let code = "echo one; while [ ! -e go ]; do sleep 0.1; done; echo two";
    let run = user.ok(&["exec", "-d", "web", "sh", "-c", code]);
    let logs = user
        .command(&["logs", "-f", "web", run.trim()])
        .stdout(Stdio::piped())
        .spawn();
    let mut logs = logs.unwrap();
    let mut lines = BufReader::new(logs.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "one");
    user.ok(&["exec", "web", "touch", "go"]);
    assert_eq!(lines.next().unwrap().unwrap(), "two");
    assert_eq!(wait_for_exit(logs), Some(0));
    let all = user.run(&["logs", "web"]);
    assert!(String::from_utf8_lossy(&all.stdout).contains("abab\n"));
    assert!(String::from_utf8_lossy(&all.stderr).contains("exit code 7"));
}

fn signals_and_terminals(user: &User) {
    let code = "trap 'echo got; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    let mut command = user.command(&["exec", "web", "sh", "-c", code]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    send(child.id(), Signal::TERM);
    assert_eq!(lines.next().unwrap().unwrap(), "got");
    assert_eq!(wait_for_exit(child), Some(5));

    let state = user.path("state");
    let variables: [(&str, &OsStr); 2] = [
        ("XDG_RUNTIME_DIR", user.dir.path().as_os_str()),
        ("XDG_STATE_HOME", state.as_os_str()),
    ];
    let mut pty = Pty::new(31, 97);
    let shell = pty.run_with_env(&["sandbox", "shell", "web"], &variables);
    pty.type_in("stty size\r");
    pty.wait_for("31 97");
    pty.resize(20, 60);
    pty.type_in("while [ \"$(stty size)\" != '20 60' ]; do sleep 0.1; done; echo re''sized\r");
    pty.wait_for("resized");
    pty.type_in("exit 3\r");
    assert_eq!(wait_for_exit(shell), Some(3));
    assert!(!pty.is_raw());

    // The user leaves a program that does not end; the sandbox continues.
    let left = pty.run_with_env(
        &["sandbox", "exec", "-t", "web", "sleep", "1000"],
        &variables,
    );
    wait_until("raw mode", || pty.is_raw());
    pty.type_in("\r~.");
    assert_eq!(wait_for_exit(left), Some(130));
    user.ok(&["exec", "web", "true"]);
}

fn copies(user: &User) {
    std::fs::create_dir(user.path("tree")).unwrap();
    std::fs::write(user.path("tree/run"), "#!/bin/sh\necho ran\n").unwrap();
    let executable = PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(user.path("tree/run"), executable).unwrap();

    user.ok(&["cp", "tree", "web:copy"]);
    assert_eq!(user.ok(&["exec", "web", "./copy/run"]), "ran\n");
    user.ok(&["cp", "tree/run", "web:copy/"]);
    user.ok(&["cp", "tree", "web:copy"]);
    assert_eq!(user.ok(&["exec", "web", "ls", "copy"]), "run\ntree\n");

    // No file that comes back can leave the destination.
    let hostile =
        "cd copy; ln -s /etc/passwd abs; ln -s ../.. up; ln -s run in; mkfifo pipe; chmod u+s run";
    user.ok(&["exec", "web", "sh", "-c", hostile]);
    let output = user.run(&["cp", "web:copy", "back"]);
    assert!(output.status.success(), "{output:?}");
    let messages = String::from_utf8_lossy(&output.stderr);
    for left_out in ["skipped abs", "skipped up", "skipped pipe"] {
        assert!(messages.contains(left_out), "{messages}");
    }
    let mut names: Vec<_> = std::fs::read_dir(user.path("back")).unwrap().collect();
    names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
    let names: Vec<_> = names
        .iter()
        .map(|entry| entry.as_ref().unwrap().file_name())
        .collect();
    assert_eq!(names, ["in", "run", "tree"]);
    let mode = std::fs::metadata(user.path("back/run"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7022, 0);

    // A single file, and the standard streams.
    user.ok(&["cp", "web:copy/run", "back/again"]);
    assert_eq!(
        std::fs::read(user.path("back/again")).unwrap(),
        std::fs::read(user.path("tree/run")).unwrap()
    );
    let mut command = user.command(&["cp", "-", "web:new/dir/in"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"\xff\0").unwrap();
    assert!(finish_child(child).status.success());
    assert_eq!(user.run(&["cp", "web:new/dir/in", "-"]).stdout, b"\xff\0");
    assert!(
        user.fails(&["cp", "web:none", "x"])
            .contains("no file or directory")
    );
    assert!(user.fails(&["cp", "a", "b"]).contains("SANDBOX:PATH"));
}

fn forks_checkpoints_and_ports(user: &User) {
    user.ok(&["exec", "web", "sh", "-c", "echo saved > state"]);
    // The program that was left in its terminal may still be ending.
    let mut forks = String::new();
    wait_until("the fork", || {
        let output = user.run(&["fork", "web", "--count", "2"]);
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() || message.contains("is active"),
            "{message}"
        );
        forks = String::from_utf8(output.stdout).unwrap();
        output.status.success()
    });
    for fork in forks.lines() {
        assert_eq!(user.ok(&["exec", fork, "cat", "state"]), "saved\n");
    }

    let checkpoint = user.ok(&["checkpoint", "create", "web"]);
    let checkpoint = checkpoint.trim();
    assert_eq!(user.ok(&["checkpoint", "ls", "-q"]).trim(), checkpoint);
    let copy = user.ok(&["create", "--checkpoint", checkpoint, "--name", "copy"]);
    assert_eq!(user.ok(&["exec", copy.trim(), "cat", "state"]), "saved\n");
    user.ok(&["checkpoint", "rm", checkpoint]);
    assert_eq!(
        user.json(&["checkpoint", "ls", "--json"]),
        Value::Array(Vec::new())
    );

    user.ok(&["create", "--name", "net", "--allow", "example.com"]);
    let url = user.ok(&["ports", "net", "0:8000"]);
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert_eq!(user.json(&["ports", "net", "--json"])[0], url.trim());
    assert!(user.fails(&["ports", "web", "0:8000"]).contains("network"));
}

/// Writes files below a directory.
fn populate(root: &Path, files: &[(&str, &str)]) {
    for (path, content) in files {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }
}

const FILES: [(&str, &str); 4] = [
    ("a", "one\n"),
    ("b", "b\n"),
    ("gone", "gone\n"),
    (".git/config", "[core]\n"),
];

/// The changes of a hostile guest in a folder.
const CHANGES: &str = "cd /work && echo two >> a && echo guest > b && rm gone && mkdir new && echo n > new/n \
    && ln -s /etc/passwd abs && ln -s ../../etc out && echo '[alias]' > .git/config && mkdir -p .git/hooks \
    && echo '#!' > .git/hooks/pre-commit && touch A && touch \"$(printf 'x\\033[2Jy')\" && truncate -s 3G huge";

#[test]
fn changes_of_a_mounted_folder_come_back_as_a_patch() {
    let user = User::new();
    let project = user.path("project");
    populate(&project, &FILES);
    symlink("/etc", project.join("link")).unwrap();

    // The folder itself is out of reach, and nothing is written without --sync-back.
    let output = user.run(&["create", "--name", "work", "--mount", "./project:/work"]);
    assert!(output.status.success(), "{output:?}");
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(message.contains("link will not be compared"), "{message}");
    assert_eq!(user.ok(&["diff", "work"]), "");
    let error = user.fails(&["create", "--mount", "./project:/tmp"]);
    assert!(error.contains("exists in the VM already"), "{error}");
    user.ok(&["exec", "work", "sh", "-c", CHANGES]);
    std::fs::write(project.join("b"), "host\n").unwrap();

    let output = user.run(&["diff", "work", "/work"]);
    let patch = String::from_utf8(output.stdout).unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1,2 @@\n one\n+two\n\
        diff --git a/gone b/gone\ndeleted file mode 100644\n--- a/gone\n+++ /dev/null\n@@ -1 +0,0 @@\n-gone\n\
        new directory new\n\
        diff --git a/new/n b/new/n\nnew file mode 100644\n--- /dev/null\n+++ b/new/n\n@@ -0,0 +1 @@\n+n\n";
    assert_eq!(patch, expected);
    for reason in [
        "skipped abs: an absolute link",
        "skipped out: a link out of the directory",
        "skipped huge",
        "left out: .git/config: in .git",
        "left out: .git/hooks/pre-commit: in .git",
        "left out: A: its name differs from another one only by case",
        "left out: \"x\\033[2Jy\": its name has control characters",
        "left out: b: it changed on this host, too",
    ] {
        assert!(message.contains(reason), "{reason}: {message}");
    }
    assert!(!message.contains('\x1b'));
    assert_eq!(std::fs::read_to_string(project.join("a")).unwrap(), "one\n");

    // Without a terminal, only --yes takes something over. The rest makes the command fail.
    assert!(
        user.fails(&["diff", "work", "--sync-back"])
            .contains("--yes")
    );
    user.fails(&["diff", "work", "--sync-back", "--yes"]);
    let read = |path: &str| std::fs::read_to_string(project.join(path)).unwrap();
    assert_eq!(
        (read("a"), read("b"), read("new/n")),
        ("one\ntwo\n".into(), "host\n".into(), "n\n".into())
    );
    assert_eq!(read(".git/config"), "[core]\n");
    let mut names: Vec<_> = std::fs::read_dir(&project)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    assert_eq!(names, [".git", "a", "b", "link", "new"]);

    // A change that was taken over is no difference any more.
    assert_eq!(user.ok(&["diff", "work"]), "");
    user.fails(&["diff", "work", "--sync-back", "--yes", "--include-git"]);
    assert_eq!(read(".git/config"), "[alias]\n");
}

#[test]
fn a_run_with_a_mounted_folder() {
    let user = User::new();
    let project = user.path("project");
    populate(&project, &FILES);

    let run = |options: &[&str], code: &str| {
        let mut command = fumehood();
        command.args(["run", "-l", "shell", "--mount", "project:/work"]);
        command
            .args(options)
            .args(["-c", code])
            .current_dir(user.dir.path());
        finish(command)
    };
    let output = run(&[], "cat /work/a; rm /work/a");
    assert_eq!(output.stdout, b"one\n");
    assert!(project.join("a").exists());

    // The patch is not mixed with the output of the program.
    let output = run(&["--sync-back"], "echo out; echo two > /work/a");
    assert_eq!(
        (output.status.code(), &*output.stdout),
        (Some(125), &b"out\n"[..])
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("+two"));
    assert_eq!(std::fs::read(project.join("a")).unwrap(), b"one\n");

    let output = run(&["--sync-back", "--yes"], "echo two > /work/a; exit 3");
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(std::fs::read(project.join("a")).unwrap(), b"two\n");

    // A folder that is gone in the guest deletes nothing here.
    let output = run(&["--sync-back", "--yes"], "mv /work/* /tmp; chmod 0 /work");
    assert!(!output.status.success(), "{output:?}");
    assert!(project.join("a").exists());
}
