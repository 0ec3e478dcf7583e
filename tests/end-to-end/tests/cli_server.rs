//! `fumehood run` by this user's server: the same results, and no run remains when the command ends early.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::process::{Command, Stdio};

use fumehood_end_to_end::server::{Client, Server};
use fumehood_end_to_end::{
    finish, finish_child, fumehood, send, wait_for_exit, wait_until, within_deadline,
};
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;

/// A server where commands look for one.
struct ServerEnvironment {
    server: Server,
    runtime: TempDir,
}

impl ServerEnvironment {
    fn start() -> Self {
        let server = Server::start(&[]);
        let runtime = tempfile::tempdir().unwrap();
        let dir = runtime.path().join("fumehood");
        std::fs::create_dir(&dir).unwrap();
        std::os::unix::fs::symlink(server.socket(), dir.join("server.sock")).unwrap();
        Self { server, runtime }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = fumehood();
        command
            .arg("run")
            .args(args)
            .env("XDG_RUNTIME_DIR", self.runtime.path())
            .env_remove("FUMEHOOD_NO_SERVER");

        command
    }

    async fn runs(&self, client: &mut Client) -> Vec<Value> {
        let listed = client.json("GET", "/v1/runs", &Value::Null, 200).await;
        listed["runs"].as_array().unwrap().clone()
    }
}

#[tokio::test]
async fn a_run_by_a_server_equals_one_without() {
    let environment = ServerEnvironment::start();
    let mut client = environment.server.client().await;
    let code = "import sys; print('é'); sys.stdout.buffer.write(bytes(range(256))); print('e', file=sys.stderr); sys.exit(3)";
    let args = ["-l", "python", "-c", code];
    let with = finish(environment.command(&args));
    assert_eq!(environment.runs(&mut client).await.len(), 1);
    let mut command = environment.command(&args);
    command.arg("--no-server");
    let without = finish(command);
    assert_eq!(environment.runs(&mut client).await.len(), 1);
    assert_eq!(with.status.code(), Some(3));
    assert_eq!(
        (with.status, with.stdout, with.stderr),
        (without.status, without.stdout, without.stderr)
    );

    let args = [
        "-l",
        "python",
        "--json",
        "--display",
        "-e",
        "A=b",
        "-c",
        "import os; os.environ['A']",
    ];

    let object =
        |output: std::process::Output| -> Value { serde_json::from_slice(&output.stdout).unwrap() };
    let with = object(finish(environment.command(&args)));
    let mut command = environment.command(&args);
    command.env("FUMEHOOD_NO_SERVER", "1");
    let without = object(finish(command));
    assert_eq!(environment.runs(&mut client).await.len(), 2);
    let names = |object: &Value| {
        object
            .as_object()
            .unwrap()
            .keys()
            .cloned()
            .collect::<Vec<_>>()
    };
    assert_eq!(names(&with), names(&without));
    for same in ["results", "exit_code", "ended_by", "stdout", "isolation"] {
        assert_eq!(with[same], without[same], "{same}");
    }

    // Errors have the same text.
    let args = ["-l", "python", "-c", "1", "-t", "301"];
    let with = finish(environment.command(&args));
    let mut command = environment.command(&args);
    command.arg("--no-server");
    assert_eq!(with.stderr, finish(command).stderr);
    assert_eq!(with.status.code(), Some(125));
}

#[tokio::test]
async fn input_is_forwarded_by_a_server() {
    let environment = ServerEnvironment::start();
    let mut command = environment.command(&["-l", "bash", "-c", "sha256sum"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();

    let bytes: Vec<u8> = (0..1_000_000_u32)
        .map(|n| n.to_le_bytes()[n as usize % 4])
        .collect();

    let mut stdin = child.stdin.take().unwrap();
    let sent = std::thread::spawn({
        let bytes = bytes.clone();
        move || stdin.write_all(&bytes)
    });

    let output = finish_child(child);
    sent.join().unwrap().unwrap();
    let local = finish_child({
        let mut local = Command::new("sha256sum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        local.stdin.take().unwrap().write_all(&bytes).unwrap();
        local
    });
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&local.stdout)
    );

    let mut client = environment.server.client().await;
    assert_eq!(environment.runs(&mut client).await.len(), 1);
}

#[tokio::test]
async fn an_interrupted_or_killed_command_leaves_no_run() {
    let environment = ServerEnvironment::start();
    let mut client = environment.server.client().await;

    for (signal, code) in [(Signal::INT, Some(130)), (Signal::KILL, None)] {
        let args = ["-l", "shell", "-c", "echo begun; sleep 100"];
        let mut child = environment
            .command(&args)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();

        let mut first = [0; 6];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut first).unwrap();
        send(child.id(), signal);
        assert_eq!(finish_child(child).status.code(), code);
        let ended = async {
            loop {
                let runs = environment.runs(&mut client).await;
                if runs.iter().all(|run| run["state"] == "ended") {
                    return runs;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };

        let runs = within_deadline("the run's end", ended).await;
        assert_eq!(runs[0]["ended_by"], "cancelled");
    }
}

#[tokio::test]
async fn a_log_on_a_full_disk_fails_no_request_and_no_command() {
    let full = || {
        std::fs::File::options()
            .write(true)
            .open("/dev/full")
            .unwrap()
    };
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("server.sock");
    let mut server = fumehood();
    server
        .args(["serve", "--no-tcp", "--socket"])
        .arg(&socket)
        .arg("--state")
        .arg(dir.path().join("state.sqlite"))
        .env("FUMEHOOD_LOG", "trace")
        .stdout(Stdio::null())
        .stderr(full());

    let server = server.spawn().unwrap();
    wait_until("the server's socket", || socket.exists());
    let mut client = Client::at(&socket).await;
    for _ in 0..3 {
        client.json("GET", "/v1/runs", &Value::Null, 200).await;
    }
    send(server.id(), Signal::TERM);
    assert_eq!(wait_for_exit(server), Some(0));

    // A command that only writes messages, and one that cannot write its result.
    let keys = |stdout: Stdio, arguments: &[&str]| {
        let mut keys = fumehood();
        keys.arg("keys").args(arguments).arg("--state");
        keys.arg(dir.path().join("state.sqlite"));
        keys.env("FUMEHOOD_LOG", "trace")
            .stdout(stdout)
            .stderr(full());
        wait_for_exit(keys.spawn().unwrap())
    };
    assert_eq!(keys(Stdio::null(), &["create", "one"]), Some(0));
    assert_eq!(keys(full().into(), &["list"]), Some(125));
}
