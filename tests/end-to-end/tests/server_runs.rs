//! Runs over HTTP: results, event streams, resumption, idempotency, and cancellation without a client.

use fumehood_end_to_end::server::{Client, Server, stdout_of};
use fumehood_end_to_end::within_deadline;
use serde_json::{Value, json};

fn shell(code: &str) -> Value {
    json!({ "language": "shell", "code": code })
}

async fn wait_for_end(client: &mut Client, id: &str) -> Value {
    let look = async {
        loop {
            let run = client
                .json("GET", &format!("/v1/runs/{id}"), &Value::Null, 200)
                .await;

            if run["state"] == "ended" || run["state"] == "failed" {
                return run;
            }

            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };

    within_deadline("the run's end", look).await
}

#[tokio::test]
async fn a_run_is_returned_as_one_object_and_as_events() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let body = json!({ "language": "python", "code": "import sys; print(sys.stdin.read()); 6*7", "stdin": "né", "display": true });
    let run = client.json("POST", "/v1/runs", &body, 200).await;
    assert_eq!(
        (&run["exit_code"], &run["stdout"]),
        (&json!(0), &json!("né\n"))
    );
    assert_eq!(run["results"], json!([{ "text/plain": "42" }]));
    assert_eq!(
        (&run["state"], &run["ended_by"]),
        (&json!("ended"), &json!("exited"))
    );
    assert!(run["timing"]["total_ms"].as_f64().unwrap() > 0.0);

    // The run can be fetched again by its ID.
    let id = run["id"].as_str().unwrap();
    let again = client
        .json("GET", &format!("/v1/runs/{id}"), &Value::Null, 200)
        .await;
    assert_eq!(again, run);

    // The same as events: numbered, from `run` to `ended`, with bytes that are no text in base64.
    let code = "printf 'a\\377'; printf '€' >&2; exit 3";
    let events = server
        .client()
        .await
        .events("POST", "/v1/runs", &[], &shell(code))
        .await
        .all()
        .await;

    let names: Vec<&str> = events.iter().map(|sent| sent.name.as_str()).collect();
    assert_eq!(
        (names[0], names[names.len() - 1]),
        ("run", "ended"),
        "{names:?}"
    );

    let numbers: Vec<u64> = events.iter().map(|sent| sent.id).collect();
    assert_eq!(numbers, (1..=events.len() as u64).collect::<Vec<_>>());
    assert!(
        events
            .iter()
            .any(|sent| sent.data == json!({ "base64": "Yf8=" })),
        "{events:?}"
    );
    assert!(
        events
            .iter()
            .any(|sent| sent.name == "stderr" && sent.data["text"] == "€")
    );
    assert_eq!(events[events.len() - 1].data["exit_code"], 3);

    // Runs are listed in pages, the newest first, without their output.
    let listed = client
        .json("GET", "/v1/runs?state=ended&limit=1", &Value::Null, 200)
        .await;
    assert_eq!(listed["runs"][0]["exit_code"], 3);
    assert!(listed["runs"][0].get("stdout").is_none());
    let before = listed["runs"][0]["id"].as_str().unwrap();
    let listed = client
        .json(
            "GET",
            &format!("/v1/runs?before={before}"),
            &Value::Null,
            200,
        )
        .await;
    assert_eq!(listed["runs"][0]["id"], id);
}

#[tokio::test]
async fn events_resume_where_the_connection_broke() {
    let server = Server::start(&[]);
    let code = "for i in $(seq 40); do echo line $i; sleep 0.05; done";
    let body = json!({ "language": "shell", "code": code, "detach": true });
    let mut client = server.client().await;
    let run = client.json("POST", "/v1/runs", &body, 202).await;
    let path = format!("/v1/runs/{}/events", run["id"].as_str().unwrap());
    let mut first = server
        .client()
        .await
        .events("GET", &path, &[], &Value::Null)
        .await;

    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.push(first.next().await.unwrap());
    }

    drop(first);
    let last = seen[4].id.to_string();
    let headers = [("last-event-id", last.as_str())];
    seen.extend(
        server
            .client()
            .await
            .events("GET", &path, &headers, &Value::Null)
            .await
            .all()
            .await,
    );

    let expected: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(stdout_of(&seen), expected);
    let numbers: Vec<u64> = seen.iter().map(|sent| sent.id).collect();
    assert_eq!(numbers, (1..=seen.len() as u64).collect::<Vec<_>>());
    let whole = server
        .client()
        .await
        .events("GET", &format!("{path}?after=3"), &[], &Value::Null)
        .await;
    assert_eq!(whole.all().await, seen[3..]);
}

#[tokio::test]
async fn an_idempotency_key_never_runs_anything_twice() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let path = format!("/v1/sandboxes/{}/runs", sandbox["id"].as_str().unwrap());
    let body = shell("echo once >> log; sleep 0.5; cat log");
    let mut asking = Vec::new();

    for _ in 0..4 {
        let (mut client, path, body) = (server.client().await, path.clone(), body.to_string());
        asking.push(tokio::spawn(async move {
            client
                .request_with_headers("POST", &path, &[("idempotency-key", "k1")], body)
                .await
        }));
    }

    let mut ids = std::collections::BTreeSet::new();
    for reply in asking {
        let reply = reply.await.unwrap();
        let run = reply.json();
        assert_eq!(
            (reply.status, &run["stdout"]),
            (200, &json!("once\n")),
            "{run}"
        );

        ids.insert(run["id"].to_string());
    }

    assert_eq!(ids.len(), 1);
    let other = shell("echo twice >> log").to_string();
    let reply = client
        .request_with_headers("POST", &path, &[("idempotency-key", "k1")], other)
        .await;
    assert_eq!(reply.status, 409, "{:?}", reply.json());
    let seen = client.json("POST", &path, &shell("cat log"), 200).await;
    assert_eq!(seen["stdout"], "once\n");

    for status in [201, 201] {
        let reply = client
            .request_with_headers("POST", "/v1/sandboxes", &[("idempotency-key", "k2")], "{}")
            .await;
        assert_eq!(reply.status, status);
    }

    let listed = client
        .json("GET", "/v1/sandboxes?state=running", &Value::Null, 200)
        .await;
    assert_eq!(listed["sandboxes"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_client_that_disconnects_cancels_only_its_run() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let path = format!("/v1/sandboxes/{}/runs", sandbox["id"].as_str().unwrap());
    let detached = json!({ "language": "shell", "code": "sleep 5; echo done", "detach": true });
    let detached = client.json("POST", &path, &detached, 202).await;

    // One whose caller waits for the end, and one whose caller follows.
    let mut waits = server.client().await;
    let (target, long) = (path.clone(), shell("sleep 60"));
    let text = long.to_string();
    let waiting = tokio::spawn(async move { waits.request("POST", &target, text).await.status });
    let mut follows = server
        .client()
        .await
        .events("POST", &path, &[], &long)
        .await;

    let followed = follows.until("run").await.data["id"]
        .as_str()
        .unwrap()
        .to_owned();

    let listed = within_deadline("three runs", async {
        loop {
            let listed = client
                .json("GET", "/v1/runs?state=running", &Value::Null, 200)
                .await;
            if listed["runs"].as_array().unwrap().len() == 3 {
                break listed;
            }
        }
    })
    .await;
    waiting.abort();
    drop(follows);

    for run in listed["runs"].as_array().unwrap() {
        let id = run["id"].as_str().unwrap();
        let ended = wait_for_end(&mut client, id).await;

        let expected = if run["id"] == detached["id"] {
            "exited"
        } else {
            "cancelled"
        };
        assert_eq!(ended["ended_by"], expected, "{followed} {ended}");
    }

    let seen = client.json("POST", &path, &shell("echo here"), 200).await;
    assert_eq!(seen["stdout"], "here\n");
}

#[tokio::test]
async fn programs_have_input_signals_and_terminals() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let path = format!(
        "/v1/sandboxes/{}/processes",
        sandbox["id"].as_str().unwrap()
    );

    let cat = json!({ "argv": ["cat"], "stdin": true, "tag": "cat" });
    let mut events = server.client().await.events("POST", &path, &[], &cat).await;
    let id = events.until("run").await.data["id"]
        .as_str()
        .unwrap()
        .to_owned();
    events.until("started").await;
    let listed = client.json("GET", &path, &Value::Null, 200).await;
    assert_eq!(listed["processes"][0]["tag"], "cat", "{listed}");
    let reply = client
        .request(
            "POST",
            &format!("/v1/runs/{id}/stdin?close=true"),
            "to the cat",
        )
        .await;
    assert_eq!(reply.status, 204, "{:?}", reply.json());
    let rest = events.all().await;
    assert_eq!(stdout_of(&rest), "to the cat");
    let reply = client
        .request("POST", &format!("/v1/runs/{id}/stdin"), "x")
        .await;
    assert_eq!(reply.status, 409);

    let shell =
        json!({ "argv": ["sh", "-c", "stty size; sleep 60"], "pty": { "rows": 7, "cols": 9 } });
    let mut events = server
        .client()
        .await
        .events("POST", &path, &[], &shell)
        .await;

    let id = events.until("run").await.data["id"]
        .as_str()
        .unwrap()
        .to_owned();
    assert_eq!(events.until("stdout").await.data["text"], "7 9\r\n");
    let resized = json!({ "rows": 8, "cols": 10 });
    client
        .json("POST", &format!("/v1/runs/{id}/resize"), &resized, 204)
        .await;

    client
        .json(
            "POST",
            &format!("/v1/runs/{id}/signal"),
            &json!({ "signal": "SIGKILL" }),
            204,
        )
        .await;

    let ended = events.until("ended").await.data;
    assert_eq!(ended["ended_by"], "signaled", "{ended}");
    client
        .json("POST", &format!("/v1/runs/{id}/cancel"), &Value::Null, 204)
        .await;

    client
        .json(
            "POST",
            &format!("/v1/runs/{id}/signal"),
            &json!({ "signal": "SIGNONE" }),
            400,
        )
        .await;
}

#[tokio::test]
async fn unread_output_blocks_the_program() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let code = "import sys\nfor i in range(40): sys.stdout.write('x' * (1 << 20)); sys.stdout.flush(); print(i, file=sys.stderr, flush=True)";
    let body = json!({ "language": "python", "code": code, "timeout_s": 120 });
    let mut events = server
        .client()
        .await
        .events("POST", "/v1/runs", &[], &body)
        .await;

    let id = events.until("run").await.data["id"]
        .as_str()
        .unwrap()
        .to_owned();

    let path = format!("/v1/runs/{id}");
    let stands = within_deadline("that it stands still", async {
        let mut last = 0;
        loop {
            tokio::time::sleep(std::time::Duration::from_secs(2)).await;
            let bytes = client.json("GET", &path, &Value::Null, 200).await["stdout_bytes"]
                .as_u64()
                .unwrap();

            if bytes == last && bytes > 0 {
                break bytes;
            }

            last = bytes;
        }
    })
    .await;
    assert!(stands < 30 << 20, "{stands}");
    let rest = events.all().await;
    assert_eq!(stdout_of(&rest).len(), 40 << 20);
    assert!(!rest.iter().any(|sent| sent.name == "gap"));
    let run = client.json("GET", &path, &Value::Null, 200).await;
    assert_eq!(
        (&run["stdout_truncated"], run["stdout_bytes"].as_u64()),
        (&json!(true), Some(40 << 20))
    );
}
