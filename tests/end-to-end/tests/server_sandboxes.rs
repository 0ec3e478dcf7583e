//! Sandboxes over HTTP: state, files, forks, and ownership by API keys.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use fumehood_end_to_end::server::Server;
use fumehood_end_to_end::{descendants, finish, fumehood, wait_until, within_deadline};
use serde_json::{Value, json};

fn python(code: &str) -> Value {
    json!({ "language": "python", "code": code, "context": "main" })
}

#[tokio::test]
async fn sandboxes_offer_contexts_forks_and_checkpoints() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let body = json!({ "language": "python", "name": "mine", "idle_timeout_s": 100 });
    let sandbox = client.json("POST", "/v1/sandboxes", &body, 201).await;
    assert_eq!(
        (&sandbox["name"], &sandbox["state"]),
        (&json!("mine"), &json!("running"))
    );

    let at = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    let runs = format!("{at}/runs");

    // The name stands for the id, and belongs to one sandbox.
    let taken = client.json("POST", "/v1/sandboxes", &body, 409).await;
    let message = taken["error"]["message"].as_str().unwrap();
    assert!(message.contains(sandbox["id"].as_str().unwrap()));
    let by_name = "/v1/sandboxes/mine/runs";
    let run = client.json("POST", by_name, &python("x = 20"), 200).await;
    assert_eq!(run["sandbox"], sandbox["id"]);
    let listed = client.json("GET", "/v1/runs?sandbox=mine", &Value::Null, 200);
    assert_eq!(listed.await["runs"][0]["id"], run["id"]);
    let saved = client
        .json("POST", &format!("{at}/checkpoints"), &Value::Null, 201)
        .await;

    let run = client
        .json("POST", &runs, &python("x += 1; print(x)"), 200)
        .await;
    assert_eq!(
        (&run["stdout"], &run["sandbox"]),
        (&json!("21\n"), &sandbox["id"])
    );

    let forked = client
        .json("POST", &format!("{at}/fork"), &json!({ "count": 2 }), 201)
        .await;

    let child = forked["sandboxes"][1]["id"].as_str().unwrap();
    assert_eq!(forked["sandboxes"][1]["idle_timeout_s"], 100);
    let run = client
        .json(
            "POST",
            &format!("/v1/sandboxes/{child}/runs"),
            &python("print(x)"),
            200,
        )
        .await;
    assert_eq!(run["stdout"], "21\n");
    let from = json!({ "checkpoint": saved["id"] });
    let other = client.json("POST", "/v1/sandboxes", &from, 201).await;
    let path = format!("/v1/sandboxes/{}/runs", other["id"].as_str().unwrap());
    assert_eq!(
        client.json("POST", &path, &python("print(x)"), 200).await["stdout"],
        "20\n"
    );

    client
        .json(
            "DELETE",
            &format!("/v1/checkpoints/{}", saved["id"].as_str().unwrap()),
            &Value::Null,
            204,
        )
        .await;

    client.json("POST", "/v1/sandboxes", &from, 404).await;
}

#[tokio::test]
async fn a_busy_sandbox_is_not_saved_and_an_ended_one_reports_why() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let body = json!({ "language": "python", "idle_timeout_s": 100 });
    let sandbox = client.json("POST", "/v1/sandboxes", &body, 201).await;
    let at = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    let runs = format!("{at}/runs");
    client.json("POST", &runs, &python("x = 1"), 200).await;

    // A busy sandbox cannot be saved.
    let long = json!({ "argv": ["sleep", "60"], "detach": true });
    let long = client
        .json("POST", &format!("{at}/processes"), &long, 202)
        .await;

    client
        .json("POST", &format!("{at}/fork"), &Value::Null, 409)
        .await;

    client
        .json(
            "POST",
            &format!("/v1/runs/{}/cancel", long["id"].as_str().unwrap()),
            &Value::Null,
            204,
        )
        .await;

    client
        .json("DELETE", &format!("{at}/contexts/main"), &Value::Null, 204)
        .await;

    let run = client.json("POST", &runs, &python("print(x)"), 200).await;
    assert_eq!(run["exit_code"], 1);
    let times = client
        .json("PATCH", &at, &json!({ "max_lifetime_s": 5000 }), 200)
        .await;
    assert_eq!(
        (&times["max_lifetime_s"], &times["idle_timeout_s"]),
        (&json!(5000), &json!(100))
    );

    client
        .json("PATCH", &at, &json!({ "idle_timeout_s": 0 }), 400)
        .await;

    let events = server
        .client()
        .await
        .events("GET", &format!("{at}/events"), &[], &Value::Null)
        .await;

    for _ in 0..2 {
        let ended = client.json("DELETE", &at, &Value::Null, 200).await;
        assert_eq!(
            (&ended["state"], &ended["ended"]),
            (&json!("ended"), &json!("requested"))
        );
    }

    let events = events.all().await;
    assert_eq!(events.last().unwrap().name, "ended");
    assert!(events.iter().any(|sent| sent.name == "run_ended"));
    let gone = client.json("POST", &runs, &python("1"), 410).await;
    assert_eq!(
        (&gone["error"]["kind"], &gone["error"]["ended"]),
        (&json!("lost"), &json!("requested"))
    );
}

#[tokio::test]
async fn an_idle_sandbox_ends_and_reports_it() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json(
            "POST",
            "/v1/sandboxes",
            &json!({ "idle_timeout_s": 1, "on_idle": "end" }),
            201,
        )
        .await;

    let at = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    let mut events = server
        .client()
        .await
        .events("GET", &format!("{at}/events"), &[], &Value::Null)
        .await;
    assert_eq!(events.until("ended").await.data["ended"], "idle");
    assert_eq!(
        client.json("GET", &at, &Value::Null, 200).await["ended"],
        "idle"
    );
}

#[tokio::test]
async fn files_are_read_exactly_and_in_ranges() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let at = format!("/v1/sandboxes/{}/files", sandbox["id"].as_str().unwrap());
    let bytes: Vec<u8> = (0..20_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();

    let put = client
        .request(
            "PUT",
            &format!("{at}/content?path=a/b/big.bin&parents=true&mode=600"),
            bytes.clone(),
        )
        .await;

    let stat = put.json();
    assert_eq!(
        (put.status, &stat["size"], &stat["mode"]),
        (200, &json!(20 << 20), &json!(0o600)),
        "{stat}"
    );
    assert_eq!(
        (&stat["name"], &stat["kind"]),
        (&json!("big.bin"), &json!("file"))
    );

    let path = format!("{at}/content?path=a/b/big.bin");
    let got = client.request("GET", &path, "").await;
    assert_eq!(got.headers["content-length"], (20 << 20).to_string());
    assert!(got.status == 200 && got.body == bytes);

    for (range, from, to) in [
        ("bytes=0-0", 0, 1),
        ("bytes=1000000-4000000", 1_000_000, 4_000_001),
        ("bytes=-5", bytes.len() - 5, bytes.len()),
    ] {
        let part = client
            .request_with_headers("GET", &path, &[("range", range)], "")
            .await;
        assert!(
            part.status == 206 && part.body == bytes[from..to],
            "{range} {}",
            part.status
        );

        let expected = format!("bytes {from}-{}/{}", to - 1, bytes.len());
        assert_eq!(part.headers["content-range"], expected);
    }

    let past = client
        .request_with_headers("GET", &path, &[("range", "bytes=20971520-")], "")
        .await;
    assert_eq!(
        (past.status, &past.headers["content-range"]),
        (416, &"bytes */20971520".parse().unwrap())
    );

    let head = client.request("HEAD", &path, "").await;
    assert!(head.status == 200 && head.body.is_empty());
    assert_eq!(head.headers["content-length"], (20 << 20).to_string());
}

#[tokio::test]
async fn files_are_moved_listed_and_removed() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let at = format!("/v1/sandboxes/{}/files", sandbox["id"].as_str().unwrap());
    let put = format!("{at}/content?path=a/b/big.bin&parents=true");
    assert_eq!(client.request("PUT", &put, "x").await.status, 200);
    client
        .json(
            "POST",
            &format!("{at}/directories"),
            &json!({ "path": "d/e" }),
            204,
        )
        .await;

    client
        .json(
            "POST",
            &format!("{at}/move"),
            &json!({ "from": "a/b/big.bin", "to": "d/small" }),
            204,
        )
        .await;

    client
        .request("PUT", &format!("{at}/content?path=d/empty"), "")
        .await;

    let taken = client
        .json(
            "POST",
            &format!("{at}/move"),
            &json!({ "from": "d/small", "to": "d/empty" }),
            409,
        )
        .await;
    assert_eq!(taken["error"]["io"], "already_exists");
    let listed = client
        .json(
            "GET",
            &format!("{at}/list?path=d&depth=2"),
            &Value::Null,
            200,
        )
        .await;

    let names: Vec<&str> = listed["entries"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|one| one["name"].as_str())
        .collect();
    assert_eq!(names, ["e", "empty", "small"]);
    let empty = client
        .request("GET", &format!("{at}/content?path=d/empty"), "")
        .await;
    assert!(empty.status == 200 && empty.body.is_empty());
    let kept = client.request("DELETE", &format!("{at}?path=d"), "").await;
    assert_eq!(kept.status, 400, "{:?}", kept.json());
    let gone = client
        .request("DELETE", &format!("{at}?path=d&recursive=true"), "")
        .await;
    assert_eq!(gone.status, 204);
}

#[tokio::test]
async fn file_errors_are_reported() {
    let server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let at = format!("/v1/sandboxes/{}/files", sandbox["id"].as_str().unwrap());
    let put = format!("{at}/content?path=d/empty&parents=true");
    assert_eq!(client.request("PUT", &put, "").await.status, 200);

    for (method, path, status, io) in [
        ("GET", "content?path=nothing", 404, "not_found"),
        ("GET", "stat?path=nothing", 404, "not_found"),
        ("GET", "content?path=d", 400, "is_a_directory"),
        ("PUT", "content?path=/etc/passwd", 403, "permission_denied"),
        ("GET", "list?path=d/empty", 400, "not_a_directory"),
        ("DELETE", "?path=nothing", 404, "not_found"),
    ] {
        let path = format!("{at}/{path}").replace("/?", "?");
        let reply = client.request(method, &path, "").await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["io"]),
            (status, &json!(io)),
            "{method} {path}"
        );
    }

    for path in ["content?path=", "content?path=%00", "content"] {
        let reply = client.request("GET", &format!("{at}/{path}"), "").await;
        assert_eq!(reply.status, 400, "{path} {:?}", reply.json());
    }
}

#[tokio::test]
async fn resources_of_another_key_do_not_exist() {
    let server = Server::start(&[]);
    let (one, other) = (server.key("one"), server.key("other"));
    let mut one = server.with_key(&one).await;
    let mut other = server.with_key(&other).await;
    let sandbox = one.json("POST", "/v1/sandboxes", &Value::Null, 201).await;
    let at = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    let run = one
        .json("POST", &format!("{at}/runs"), &python("print(1)"), 200)
        .await;

    let saved = one
        .json("POST", &format!("{at}/checkpoints"), &Value::Null, 201)
        .await;

    let run = format!("/v1/runs/{}", run["id"].as_str().unwrap());
    let saved = saved["id"].as_str().unwrap();

    // Neither another key nor a client of the Unix socket can access them.
    for client in [&mut other, &mut server.client().await] {
        for (method, path, body) in [
            ("GET", at.clone(), json!(null)),
            ("PATCH", at.clone(), json!({})),
            ("DELETE", at.clone(), json!(null)),
            ("POST", format!("{at}/runs"), python("1")),
            (
                "POST",
                format!("{at}/processes"),
                json!({ "argv": ["true"] }),
            ),
            ("POST", format!("{at}/fork"), json!(null)),
            ("POST", format!("{at}/checkpoints"), json!(null)),
            ("GET", format!("{at}/events"), json!(null)),
            ("GET", format!("{at}/files/stat?path=/"), json!(null)),
            ("POST", format!("{at}/ports"), json!({ "guest": 80 })),
            ("GET", run.clone(), json!(null)),
            ("GET", format!("{run}/events"), json!(null)),
            ("POST", format!("{run}/cancel"), json!(null)),
            (
                "POST",
                "/v1/sandboxes".into(),
                json!({ "checkpoint": saved }),
            ),
            ("DELETE", format!("/v1/checkpoints/{saved}"), json!(null)),
        ] {
            let answer = client.json(method, &path, &body, 404).await;
            assert_eq!(answer["error"]["kind"], "not_found");
        }

        // Lists do not contain them either.
        for (path, name) in [
            ("runs", "runs"),
            ("sandboxes", "sandboxes"),
            ("checkpoints", "checkpoints"),
        ] {
            assert_eq!(
                client
                    .json("GET", &format!("/v1/{path}"), &Value::Null, 200)
                    .await[name],
                json!([])
            );
        }
    }

    assert_eq!(
        one.json("GET", &at, &Value::Null, 200).await["state"],
        "running"
    );
}

/// Runs `fumehood` with these arguments, and returns its output.
fn operate(arguments: &[&str]) -> String {
    let mut command = fumehood();
    command.args(arguments);
    let output = finish(command);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// Counts the files in memory that a process has open: saved states, for one.
fn memory_files(pid: u32) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let targets = descriptors
        .flatten()
        .flat_map(|entry| entry.path().read_link());
    let in_memory = targets.filter(|target| target.to_string_lossy().starts_with("/memfd:"));
    in_memory.count()
}

#[tokio::test]
async fn the_operator_ends_sandboxes_and_a_revoked_key_loses_everything() {
    let server = Server::start(&[]);
    let (socket, state) = (server.socket(), server.dir().path().join("state.sqlite"));
    let (socket, state) = (socket.to_str().unwrap(), state.to_str().unwrap());
    let key = server.key("one");
    let mut client = server.with_key(&key).await;
    let mut ids = Vec::new();
    for _ in 0..2 {
        let sandbox = client.json("POST", "/v1/sandboxes", &json!({}), 201).await;
        ids.push(sandbox["id"].as_str().unwrap().to_owned());
    }

    let list = || operate(&["sandboxes", "list", "--key", "one", "--socket", socket]);
    let listed = list();
    assert!(
        listed.contains(&ids[0]) && listed.contains(&ids[1]),
        "{listed}"
    );
    assert_eq!(
        operate(&["sandboxes", "list", "--key", "x", "--socket", socket]),
        ""
    );

    operate(&["sandboxes", "end", &ids[0], "--socket", socket]);
    assert!(!list().contains(&ids[0]));
    let path = format!("/v1/sandboxes/{}", ids[0]);
    let ended = client.json("GET", &path, &Value::Null, 200).await;
    assert_eq!(ended["ended"], "operator");

    // A checkpoint, and detached programs, which nothing else would end.
    let path = format!("/v1/sandboxes/{}", ids[1]);
    let checkpoints = format!("{path}/checkpoints");
    let files_before = memory_files(server.pid());
    client.json("POST", &checkpoints, &Value::Null, 201).await;
    assert!(memory_files(server.pid()) > files_before);
    let sleep = json!({ "argv": ["sleep", "600"], "detach": true });
    let processes = format!("{path}/processes");
    client.json("POST", &processes, &sleep, 202).await;
    let mut sleep =
        json!({ "language": "shell", "code": "sleep 600", "timeout_s": 300, "detach": true });
    client.json("POST", "/v1/runs", &sleep, 202).await;

    // A request in progress.
    sleep["detach"] = json!(false);
    let waiting = client.request("POST", "/v1/runs", sleep.to_string());
    let mut other = server.with_key(&key).await;
    let revoke = async {
        let running = "/v1/runs?state=running";
        loop {
            let listed = other.json("GET", running, &Value::Null, 200).await;
            if listed["runs"].as_array().unwrap().len() == 3 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        operate(&["keys", "revoke", "one", "--state", state]);
    };
    let both = async { tokio::join!(waiting, revoke).0 };
    let reply = within_deadline("the end of a request", both).await;
    assert_eq!(reply.status, 401, "{}", reply.json());

    wait_until("the end of what the key had", || {
        let has_vms = !descendants(server.pid()).is_empty();
        let has_checkpoint = memory_files(server.pid()) > files_before;
        list().is_empty() && !has_vms && !has_checkpoint
    });
    other.json("GET", "/v1/runs", &Value::Null, 401).await;
}
