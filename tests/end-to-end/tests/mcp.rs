//! The Model Context Protocol, used by its official Python client, with real VMs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use fumehood_end_to_end::server::{Client, Server};
use fumehood_end_to_end::{program, within_deadline};
use serde_json::{Value, json};

/// A Python that has the package `mcp`; `cargo xtask test` makes one.
fn python() -> PathBuf {
    let named = std::env::var_os("FUMEHOOD_MCP_PYTHON");
    PathBuf::from(named.expect(
        "FUMEHOOD_MCP_PYTHON names a Python with the package mcp; cargo xtask test sets it",
    ))
}

/// Has the official client make these calls.
fn converse(server: &Value, mode: &str, calls: &Value) -> Value {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("mcp_client.py");
    let mut client = Command::new(python())
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();

    let order = json!({ "server": server, "mode": mode, "calls": calls });
    let mut stdin = client.stdin.take().unwrap();
    stdin.write_all(order.to_string().as_bytes()).unwrap();
    drop(stdin);
    let output = client.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", output.status);

    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns the command line of `fumehood mcp` with these arguments, and the environment variables that it needs.
fn stdio(state: &Path, args: &[&str]) -> Value {
    let mut command = vec![program().to_string_lossy().into_owned(), "mcp".into()];
    command.extend(args.iter().map(ToString::to_string));
    let kept = std::env::vars()
        .filter(|(name, _)| name == "PATH" || name == "HOME" || name.starts_with("FUMEHOOD_"));
    let mut env: serde_json::Map<String, Value> =
        kept.map(|(name, value)| (name, value.into())).collect();
    env.insert("XDG_STATE_HOME".into(), state.to_string_lossy().into());

    if let Ok(data) = std::env::var("XDG_DATA_HOME") {
        env.insert("XDG_DATA_HOME".into(), data.into());
    }

    json!({ "command": command, "env": env })
}

fn text(result: &Value) -> String {
    let parts = result["content"].as_array().unwrap();
    let texts = parts.iter().filter_map(|part| part["text"].as_str());
    texts.collect::<Vec<_>>().join("|")
}

#[test]
fn an_mcp_client_works_in_a_session_over_stdio() {
    let state = tempfile::tempdir().unwrap();
    let calls = json!([
        { "tool": "run_code", "arguments": { "language": "python", "code": "print(6 * 7)\n'value'" } },
        { "tool": "start_session", "arguments": { "language": "python" } },
        { "tool": "run_code", "arguments": { "session": "$1.session", "language": "python", "code": "x = 20" } },
        { "tool": "run_code", "arguments": { "session": "$1.session", "language": "python", "code": "x + 22" } },
        { "tool": "write_file", "arguments": { "session": "$1.session", "path": "a/b.txt", "text": "hé" } },
        { "tool": "run_code", "arguments": { "session": "$1.session", "language": "shell", "code": "cat a/b.txt" } },
        { "tool": "read_file", "arguments": { "session": "$1.session", "path": "a/b.txt" } },
        { "tool": "list_files", "arguments": { "session": "$1.session", "path": "a" } },
        { "tool": "list_sessions", "arguments": {} },
        { "tool": "run_code", "arguments": { "session": "$1.session", "language": "python", "code": "1/0" } },
        { "tool": "end_session", "arguments": { "session": "$1.session" } },
        { "tool": "run_code", "arguments": { "session": "$1.session", "language": "python", "code": "x" } },
    ]);

    let answer = converse(&stdio(state.path(), &[]), "auto", &calls);
    assert_eq!(answer["server"], "fumehood");
    let names: Vec<_> = answer["tools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tool| tool["name"].as_str().unwrap())
        .collect();
    assert_eq!(names.len(), 8, "{names:?}");
    for tool in answer["tools"].as_array().unwrap() {
        assert!(tool["description"].as_str().unwrap().len() > 20, "{tool}");
        assert_eq!(tool["inputSchema"]["type"], "object");
    }

    let results = answer["results"].as_array().unwrap();
    assert_eq!(text(&results[0]), "42\n|'value'");
    assert_eq!(results[0]["structured"]["exit_code"], 0);
    assert_eq!(results[0]["structured"]["stdout"], "42\n");
    assert_eq!(text(&results[3]), "42");
    assert_eq!(text(&results[5]), "hé");
    assert_eq!(results[6]["structured"]["text"], "hé");
    assert_eq!(results[7]["structured"]["entries"][0]["path"], "b.txt");
    assert_eq!(
        results[8]["structured"]["sessions"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(results[9]["is_error"], true);
    assert!(
        text(&results[9]).contains("ZeroDivisionError"),
        "{}",
        results[9]
    );
    assert_eq!(results[10]["is_error"], false);
    assert_eq!(results[11]["is_error"], true);
    assert_eq!(results[11]["structured"]["error"]["kind"], "lost");
}

#[test]
fn figures_are_images_and_output_is_streamed_and_truncated() {
    let state = tempfile::tempdir().unwrap();
    let image = "import base64\nclass Figure:\n    def _repr_png_(self): return base64.b64decode('iVBORw0KGgo=')\nFigure()";
    let slow =
        "import time\nfor i in range(3):\n    print('step', i, flush=True)\n    time.sleep(0.5)";
    let calls = json!([
        { "tool": "run_code", "arguments": { "language": "python", "code": image } },
        { "tool": "run_code", "arguments": { "language": "python", "code": slow } },
        { "tool": "run_code", "arguments": { "language": "python", "code": "print('x' * 200_000)" } },
    ]);

    let answer = converse(&stdio(state.path(), &[]), "auto", &calls);
    let parts = answer["results"][0]["content"].as_array().unwrap();
    let image = parts
        .iter()
        .find(|part| part["type"] == "image")
        .expect("an image");
    assert_eq!(image["mimeType"], "image/png");
    assert_eq!(image["data"], "iVBORw0KGgo=");
    let progress = answer["results"][1]["progress"].as_array().unwrap();
    assert!(
        progress
            .iter()
            .any(|said| said.as_str().unwrap().contains("step")),
        "{progress:?}"
    );
    assert!(text(&answer["results"][2]).contains("bytes are left out"));
    assert_eq!(answer["results"][2]["structured"]["stdout_bytes"], 200_001);
}

#[test]
fn a_program_behaves_as_with_the_plain_interpreter() {
    let programs = [
        (
            "python",
            "python3 main.py",
            "main.py",
            "import sys\nprint(__name__, sys.argv[1:], sys.stdin.read())\nsys.exit('no')",
        ),
        (
            "typescript",
            "bun main.ts",
            "main.ts",
            "const text: string = await Bun.stdin.text()\n\
             console.log(process.argv.slice(2), text)\nprocess.exit(3)",
        ),
        (
            "bash",
            "bash main.sh",
            "main.sh",
            "printf '<%s>' \"$@\"; cat; echo no >&2; exit 4",
        ),
    ];

    let state = tempfile::tempdir().unwrap();
    let mut calls = vec![json!({ "tool": "start_session", "arguments": {} })];
    for (language, command, file, code) in programs {
        calls.extend([
            json!({ "tool": "write_file", "arguments": { "session": "$0.session", "path": file, "text": code } }),
            json!({ "tool": "run_code", "arguments": {
                "session": "$0.session", "language": "shell", "code": format!("printf 'in\nput' | {command} --n 'a b'"),
            } }),
            json!({ "tool": "run_code", "arguments": {
                "language": language, "code": code, "args": ["--n", "a b"], "stdin": "in\nput",
            } }),
        ]);
    }

    // The expected output is only what the plain interpreter prints.
    let answer = converse(&stdio(state.path(), &[]), "auto", &calls.into());
    let results = answer["results"].as_array().unwrap();
    for calls in results[1..].chunks(3) {
        let [_, plain, run] = calls else {
            panic!("{calls:?}");
        };
        for field in ["stdout", "stderr", "exit_code"] {
            let (plain, run) = (&plain["structured"][field], &run["structured"][field]);
            assert!(plain.is_string() || plain.is_number(), "{answer}");
            assert_eq!(run, plain, "{field}: {calls:?}");
        }
    }
}

#[test]
fn the_operator_sets_the_longest_timeout_and_packages_need_no_language() {
    let state = tempfile::tempdir().unwrap();
    let calls = json!([
        { "tool": "run_code", "arguments": { "language": "shell", "code": "true", "timeout_s": 7200 } },
        { "tool": "run_code", "arguments": { "language": "shell", "code": "true", "timeout_s": 7201 } },
        { "tool": "start_session", "arguments": { "packages": ["--no"] } },
        { "tool": "start_session", "arguments": {} },
        { "tool": "install_packages", "arguments": { "session": "$3.session", "language": "py", "packages": ["six==1.16.0"] } },
    ]);

    let answer = converse(
        &stdio(state.path(), &["--max-timeout", "7200"]),
        "auto",
        &calls,
    );
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["is_error"], false, "{}", results[0]);
    assert!(text(&results[1]).contains("7200"), "{}", results[1]);
    let tools = answer["tools"].as_array().unwrap();
    let run_code = tools.iter().find(|tool| tool["name"] == "run_code");
    let timeout = &run_code.unwrap()["inputSchema"]["properties"]["timeout_s"];
    assert_eq!(timeout["maximum"], 7200, "{timeout}");

    // The package is refused, and not the missing language.
    assert!(text(&results[2]).contains("options"), "{}", results[2]);
    let error = text(&results[4]);
    assert!(
        error.contains("without a network") && error.contains("index:python"),
        "{error}"
    );
}

#[test]
fn a_cancelled_call_ends_its_run_and_leaves_the_session() {
    let state = tempfile::tempdir().unwrap();
    let endless = "import time\nprint('begun', flush=True)\nwhile True: time.sleep(0.1)";
    let calls = json!([
        { "tool": "start_session", "arguments": { "language": "python" } },
        { "tool": "run_code", "arguments": { "session": "$0.session", "language": "python", "code": "x = 7" } },
        { "tool": "run_code", "arguments": { "session": "$0.session", "language": "python", "code": endless, "timeout_s": 120 },
          "cancel_on": "begun" },
        { "tool": "run_code", "arguments": { "session": "$0.session", "language": "python", "code": "x" } },
    ]);

    let answer = converse(&stdio(state.path(), &[]), "auto", &calls);
    assert_eq!(answer["results"][2]["cancelled"], true);
    assert_eq!(text(&answer["results"][3]), "7");
}

#[test]
fn only_the_operator_can_allow_the_network() {
    let state = tempfile::tempdir().unwrap();
    let calls = json!([
        { "tool": "run_code", "arguments": { "language": "shell", "code": "true", "network": true } },
        { "tool": "run_code", "arguments": { "language": "cobol", "code": "x" } },
        { "tool": "run_code", "arguments": { "language": "shell", "code": "true", "timeout_s": 100_000 } },
        { "tool": "read_file", "arguments": { "session": "sb_nobody", "path": "x" } },
    ]);

    let answer = converse(&stdio(state.path(), &[]), "auto", &calls);
    let results = answer["results"].as_array().unwrap();
    assert_eq!(results[0]["structured"]["error"]["kind"], "forbidden");
    assert!(text(&results[0]).contains("--mcp-allow"));
    assert!(
        results[1].get("refused").is_some() || results[1]["is_error"] == true,
        "{}",
        results[1]
    );
    assert!(text(&results[2]).contains("300"), "{}", results[2]);
    assert_eq!(results[3]["structured"]["error"]["kind"], "not_found");
    let calls = json!([
        { "tool": "run_code", "arguments": { "language": "shell", "code": "ls /sys/class/net", "network": true } },
    ]);

    let answer = converse(
        &stdio(state.path(), &["--mcp-allow", "api.example.com"]),
        "auto",
        &calls,
    );
    assert!(
        text(&answer["results"][0]).contains("eth0"),
        "{}",
        answer["results"][0]
    );
}

#[test]
fn over_http_each_key_has_its_own_sessions() {
    let server = Server::start(&[]);
    let url = format!("http://{}/mcp", server.address);
    let (one, other) = (server.key("one"), server.key("other"));
    let calls = json!([
        { "tool": "start_session", "arguments": {} },
        { "tool": "run_code", "arguments": { "session": "$0.session", "language": "javascript", "code": "let x = 41; x + 1" } },
    ]);

    for mode in ["auto", "legacy"] {
        let answer = converse(&json!({ "url": url, "key": one }), mode, &calls);
        assert_eq!(text(&answer["results"][1]), "42", "{answer}");
        let session = &answer["results"][0]["structured"]["session"];
        let calls = json!([
            { "tool": "list_sessions", "arguments": {} },
            { "tool": "end_session", "arguments": { "session": session } },
        ]);

        let answer = converse(&json!({ "url": url, "key": other }), mode, &calls);
        assert_eq!(answer["results"][0]["structured"]["sessions"], json!([]));
        assert_eq!(
            answer["results"][1]["structured"]["error"]["kind"],
            "not_found"
        );
    }
}

/// Waits until the only run there is has this state.
async fn wait_for_run_state(client: &mut Client, state: &str) {
    let look = async {
        loop {
            let listed = client.json("GET", "/v1/runs", &Value::Null, 200).await;
            if listed["runs"][0]["state"] == state {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };

    within_deadline("the run's state", look).await;
}

#[tokio::test]
async fn a_disconnected_client_ends_its_code() {
    let server = Server::start(&[]);
    let mut observer = server.client().await;
    let mut calls = server.client().await;
    let head = [
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
    ];

    let hello = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" },
    }});

    let start = calls
        .request_with_headers("POST", "/mcp", &head, hello.to_string())
        .await;

    let session = start.headers["mcp-session-id"].to_str().unwrap().to_owned();
    let mut head = head.to_vec();
    head.push(("mcp-session-id", session.as_str()));
    let ready = json!({ "jsonrpc": "2.0", "method": "notifications/initialized" });
    let answer = calls
        .request_with_headers("POST", "/mcp", &head, ready.to_string())
        .await;
    assert_eq!(answer.status, 202);
    let call = json!({ "jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {
        "name": "run_code", "arguments": { "language": "shell", "code": "sleep 250", "timeout_s": 300 },
    }});

    let answer = calls.open("POST", "/mcp", &head, call.to_string()).await;
    wait_for_run_state(&mut observer, "running").await;
    drop(answer);
    drop(calls);
    wait_for_run_state(&mut observer, "ended").await;
}
