//! Sandboxes of a server that are paused, resumed by the next call, and survive the server.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use fumehood_end_to_end::server::{Client, Server};
use fumehood_end_to_end::{engine, repetitions};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long a change of a sandbox's state may take.
const TIMEOUT: Duration = Duration::from_secs(60);

async fn create(client: &mut Client, request: &Value) -> String {
    let sandbox = client.json("POST", "/v1/sandboxes", request, 201).await;
    sandbox["id"].as_str().unwrap().to_owned()
}

async fn python(client: &mut Client, sandbox: &str, code: &str) -> String {
    let body = json!({ "language": "python", "code": code, "context": "main" });
    run(client, sandbox, &body).await
}

async fn shell(client: &mut Client, sandbox: &str, code: &str) -> String {
    run(
        client,
        sandbox,
        &json!({ "language": "shell", "code": code, "context": "shell" }),
    )
    .await
}

async fn run(client: &mut Client, sandbox: &str, body: &Value) -> String {
    let path = format!("/v1/sandboxes/{sandbox}/runs");
    let run = client.json("POST", &path, body, 200).await;
    assert_eq!(run["exit_code"], 0, "{run}");
    run["stdout"].as_str().unwrap().to_owned()
}

async fn pause(client: &mut Client, sandbox: &str) -> Value {
    let path = format!("/v1/sandboxes/{sandbox}/pause");
    let paused = client.json("POST", &path, &Value::Null, 200).await;
    assert_eq!(paused["state"], "paused", "{paused}");
    paused
}

async fn get(client: &mut Client, sandbox: &str) -> Value {
    let path = format!("/v1/sandboxes/{sandbox}");
    client.json("GET", &path, &Value::Null, 200).await
}

/// Ends a sandbox: its state would otherwise stay in the store.
async fn end(client: &mut Client, sandbox: &str) {
    let path = format!("/v1/sandboxes/{sandbox}");
    client.json("DELETE", &path, &Value::Null, 200).await;
}

/// Waits until a sandbox has this state.
async fn wait_for(client: &mut Client, sandbox: &str, state: &str) -> Value {
    let start = Instant::now();
    loop {
        let current = get(client, sandbox).await;
        if current["state"] == state {
            return current;
        }
        assert!(start.elapsed() < TIMEOUT, "not {state}: {current}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn calls_resume_a_paused_sandbox() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let id = create(&mut client, &json!({ "language": "python", "name": "box" })).await;
    python(&mut client, "box", "x = 41").await;

    // Calls that only read leave it paused.
    let paused = pause(&mut client, "box").await;
    assert!(paused["state_bytes"].as_u64().unwrap() > 0, "{paused}");
    assert_eq!(
        pause(&mut client, &id).await["paused_at"],
        paused["paused_at"]
    );
    let listed = client.json("GET", "/v1/sandboxes?state=paused", &Value::Null, 200);
    assert_eq!(listed.await["sandboxes"][0]["id"], id.as_str());
    let patch = json!({ "idle_timeout_s": 200 });
    let patched = client.json("PATCH", "/v1/sandboxes/box", &patch, 200).await;
    assert_eq!(
        (&patched["state"], &patched["idle_timeout_s"]),
        (&json!("paused"), &json!(200))
    );

    // Each of these needs the VM.
    let at = format!("/v1/sandboxes/{id}");
    let calls = [
        ("POST", "/resume", Value::Null, 200),
        ("POST", "/processes", json!({ "argv": ["true"] }), 200),
        ("PUT", "/files/content?path=a.txt", json!({}), 200),
        ("GET", "/files/stat?path=a.txt", Value::Null, 200),
        ("GET", "/files/list?path=.", Value::Null, 200),
        ("GET", "/processes", Value::Null, 200),
        ("DELETE", "/contexts/other", Value::Null, 204),
        ("POST", "/checkpoints", Value::Null, 201),
        ("POST", "/fork", json!({ "count": 1 }), 201),
    ];
    for (method, path, body, status) in calls {
        pause(&mut client, &id).await;
        let path = format!("{at}{path}");
        client.json(method, &path, &body, status).await;
        assert_eq!(
            get(&mut client, &id).await["state"],
            "running",
            "{method} {path}"
        );
    }

    // Two callers share one resume.
    pause(&mut client, &id).await;
    let mut other = server.client().await;
    let both = tokio::join!(
        python(&mut client, &id, "print(x + 1)"),
        shell(&mut other, &id, "echo other")
    );
    assert_eq!(both, ("42\n".into(), "other\n".into()));

    // A paused sandbox can be ended, and its state goes with it.
    pause(&mut client, &id).await;
    let ended = client.json("DELETE", &at, &Value::Null, 200).await;
    assert_eq!(
        (&ended["state"], &ended["ended"]),
        (&json!("ended"), &json!("requested"))
    );
    client
        .json("POST", &format!("{at}/resume"), &Value::Null, 410)
        .await;
}

#[tokio::test]
async fn a_sandbox_that_works_is_not_idle() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let request = json!({ "language": "python", "idle_timeout_s": 1 });
    let id = create(&mut client, &request).await;

    // A run that takes longer than the timeout.
    assert_eq!(
        python(
            &mut client,
            &id,
            "import time; time.sleep(3); x = 1; print(x)"
        )
        .await,
        "1\n"
    );

    // A program that computes and that no caller follows: the sandbox is paused only after it has ended.
    let busy = "import time\nend = time.monotonic() + 4\nwhile time.monotonic() < end: pass\nopen('done', 'w').write('x')";
    let body = json!({ "argv": ["python3", "-c", busy], "detach": true });
    client
        .json("POST", &format!("/v1/sandboxes/{id}/processes"), &body, 202)
        .await;
    wait_for(&mut client, &id, "paused").await;
    assert_eq!(shell(&mut client, &id, "cat done").await, "x");
    assert_eq!(python(&mut client, &id, "print(x)").await, "1\n");

    // One that ends when it is idle.
    let request = json!({ "idle_timeout_s": 1, "on_idle": "end" });
    let id = create(&mut client, &request).await;
    assert_eq!(wait_for(&mut client, &id, "ended").await["ended"], "idle");
}

#[tokio::test]
async fn paused_sandboxes_survive_kills_of_the_server() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_in(&dir, &[]);
    let mut client = server.client().await;
    let id = create(
        &mut client,
        &json!({ "language": "python", "name": "kept" }),
    )
    .await;
    python(&mut client, &id, "x = 0").await;
    shell(
        &mut client,
        &id,
        "echo kept > file; (sleep 100000 & echo $! > pid)",
    )
    .await;
    let mut server = server;

    for round in 1..=repetitions("FUMEHOOD_SERVER_KILLS", 3, 20) {
        // Other work continues while the server ends, and the pause has been acknowledged.
        let mut other = server.client().await;
        let worker = tokio::spawn(async move {
            let request = json!({ "language": "shell" });
            let text = request.to_string();
            while let Ok(reply) = other.open("POST", "/v1/sandboxes", &[], text.clone()).await {
                drop(reply);
            }
        });
        python(&mut client, "kept", "x += 1").await;
        pause(&mut client, &id).await;
        drop(server);
        worker.await.unwrap();

        server = Server::start_in(&dir, &[]);
        client = server.client().await;
        let found = get(&mut client, "kept").await;
        assert_eq!(
            (&found["id"], &found["state"]),
            (&json!(id), &json!("paused")),
            "{found}"
        );
        assert_eq!(
            python(&mut client, "kept", "print(x)").await,
            format!("{round}\n")
        );
        let programs = "cat file; kill -0 $(cat pid) && echo lives";
        assert_eq!(shell(&mut client, &id, programs).await, "kept\nlives\n");
    }

    // SIGTERM pauses running sandboxes.
    python(&mut client, &id, "x = 'stopped'").await;
    assert_eq!(server.end(Signal::TERM), Some(0));
    let server = Server::start_in(&dir, &[]);
    let mut client = server.client().await;
    assert_eq!(get(&mut client, &id).await["state"], "paused");
    assert_eq!(python(&mut client, &id, "print(x)").await, "stopped\n");
    end(&mut client, &id).await;
}

#[tokio::test]
async fn a_killed_server_leaves_the_last_checkpoint() {
    let dir = Arc::new(tempfile::tempdir().unwrap());
    let server = Server::start_in(&dir, &[]);
    let mut client = server.client().await;
    let request = json!({ "language": "python", "checkpoint_every_s": 5 });
    let id = create(&mut client, &request).await;
    let lost = create(&mut client, &json!({})).await;
    python(&mut client, &id, "x = 'saved'").await;
    let named = format!("/v1/sandboxes/{lost}/checkpoints");
    client
        .json("POST", &named, &json!({ "name": "base" }), 201)
        .await;

    // The first save comes after 5 s. Later changes are lost with the server.
    let engine = engine();
    let start = Instant::now();
    let is_saved = async || {
        let states = engine.saved_states().await.unwrap();
        states.iter().any(|state| state.label.contains(&id))
    };
    while !is_saved().await {
        assert!(start.elapsed() < TIMEOUT, "the server saved nothing");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    python(&mut client, &id, "x = 'later'").await;
    drop(server);

    let server = Server::start_in(&dir, &[]);
    let mut client = server.client().await;
    let gone = get(&mut client, &lost).await;
    assert_eq!(
        (&gone["state"], &gone["ended"]),
        (&json!("ended"), &json!("server_lost"))
    );
    assert_eq!(python(&mut client, &id, "print(x)").await, "saved\n");
    let resumed = get(&mut client, &id).await;
    assert!(resumed["resumed_from"]["age_s"].is_u64(), "{resumed}");

    let copy = create(&mut client, &json!({ "checkpoint": "base" })).await;
    assert_eq!(shell(&mut client, &copy, "echo copy").await, "copy\n");
    client
        .json("DELETE", "/v1/checkpoints/base", &Value::Null, 204)
        .await;
}
