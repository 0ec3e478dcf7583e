//! The server under load, when it is killed, and when it shuts down.

use std::time::{Duration, Instant};

use fumehood_end_to_end::server::{Client, Server};
use fumehood_end_to_end::{descendants, is_alive, wait_until, within_deadline};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_200_runs_succeeds_or_is_rejected() {
    let server = Server::start(&[]);
    let start = Instant::now();
    let mut requests = Vec::new();

    for n in 0..200_u32 {
        let socket = server.socket();
        requests.push(tokio::spawn(async move {
            let mut client = Client::at(&socket).await;
            let body = json!({ "language": "shell", "code": format!("echo {n}") }).to_string();
            let reply = client.request("POST", "/v1/runs", body).await;
            let (json, after) = (reply.json(), reply.headers.get("retry-after").cloned());

            match reply.status {
                200 => {
                    assert_eq!(
                        (&json["stdout"], &json["exit_code"]),
                        (&json!(format!("{n}\n")), &json!(0)),
                        "{json}"
                    );
                    true
                }
                429 => {
                    assert!(
                        after.is_some() && json["error"]["retry"] == "safe",
                        "{json}"
                    );
                    false
                }
                other => panic!("{other} {json}"),
            }
        }));
    }

    let mut health = server.client().await;
    let mut slowest = Duration::ZERO;
    while requests.iter().any(|one| !one.is_finished()) {
        let request_start = Instant::now();
        assert_eq!(health.request("GET", "/healthz", "").await.status, 200);
        slowest = slowest.max(request_start.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let mut right = 0;
    for one in requests {
        right += u32::from(one.await.unwrap());
    }

    println!(
        "{right} of 200 ended right, in {:?}; the slowest /healthz took {slowest:?}",
        start.elapsed()
    );
    assert!(right >= 64, "{right}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(
        start.elapsed() < Duration::from_secs(150),
        "{:?}",
        start.elapsed()
    );
}

#[tokio::test]
async fn connections_leave_descriptors_for_runs() {
    const DESCRIPTORS: u32 = 256;

    let server = Server::start_with_descriptors(DESCRIPTORS);
    let mut idle = Vec::new();
    for _ in 0..DESCRIPTORS + 64 {
        idle.push(TcpStream::connect(&server.address).await.unwrap());
    }

    let mut client = server.client().await;
    let body = json!({ "language": "shell", "code": "echo well" });
    let run = client.json("POST", "/v1/runs", &body, 200).await;
    assert_eq!(run["stdout"], "well\n", "{run}");
}

async fn get_run(client: &mut Client, run: &Value) -> Value {
    let path = format!("/v1/runs/{}", run["id"].as_str().unwrap_or_default());
    client.json("GET", &path, &Value::Null, 200).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_leaves_no_vm_and_its_runs_are_reported_as_lost() {
    let mut server = Server::start(&[]);
    let mut client = server.client().await;
    let sandbox = client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let at = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    let done = json!({ "language": "shell", "code": "echo done" });
    let done = client.json("POST", &format!("{at}/runs"), &done, 200).await;
    let mut start = Vec::new();

    for _ in 0..3 {
        let long = json!({ "language": "shell", "code": "sleep 100", "detach": true });
        start.push(client.json("POST", "/v1/runs", &long, 202).await);
        start.push(client.json("POST", &format!("{at}/runs"), &long, 202).await);
    }

    let keyed = json!({ "language": "shell", "code": "sleep 100", "detach": true }).to_string();
    let kept = client
        .request_with_headers(
            "POST",
            "/v1/runs",
            &[("idempotency-key", "k")],
            keyed.clone(),
        )
        .await
        .json();

    let vms = |pid| {
        descendants(pid)
            .into_iter()
            .filter(|pid| is_alive(*pid))
            .collect::<Vec<_>>()
    };
    wait_until("VMs", || vms(server.pid()).len() >= 3);
    let before = vms(server.pid());
    server.end(Signal::KILL);
    wait_until("the VMs' end", || !before.iter().any(|pid| is_alive(*pid)));

    let dir = server.dir().clone();
    let again = Server::start_in(&dir, &[]);
    let mut client = again.client().await;

    for run in &start {
        let run = get_run(&mut client, run).await;
        assert_eq!(
            (&run["state"], &run["ended_by"]),
            (&json!("ended"), &json!("server_lost")),
            "{run}"
        );
    }

    let answer = client.json("GET", &at, &Value::Null, 200).await;
    assert_eq!(
        (&answer["state"], &answer["ended"]),
        (&json!("ended"), &json!("server_lost"))
    );

    let answer = get_run(&mut client, &done).await;
    assert_eq!(
        (&answer["exit_code"], &answer["ended_by"]),
        (&json!(0), &json!("exited"))
    );

    // The key still names the run that was lost, and starts no other.
    let reply = client
        .request_with_headers("POST", "/v1/runs", &[("idempotency-key", "k")], keyed)
        .await;

    let same = reply.json();
    assert_eq!(
        (&same["id"], &same["ended_by"]),
        (&kept["id"], &json!("server_lost"))
    );

    let path = format!("/v1/runs/{}/events", kept["id"].as_str().unwrap());
    let follower = again.client().await;
    let events = follower.events("GET", &path, &[], &Value::Null).await;
    let events = events.all().await;
    assert_eq!(events.last().unwrap().data["ended_by"], "server_lost");
    assert_eq!(
        client
            .json("GET", "/v1/runs?state=running", &Value::Null, 200)
            .await["runs"],
        json!([])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draining_server_finishes_runs_and_accepts_no_new_ones() {
    let mut server = Server::start(&["--drain-s", "3"]);
    let mut client = server.client().await;
    client
        .json("POST", "/v1/sandboxes", &Value::Null, 201)
        .await;

    let request = |code: &'static str| {
        let socket = server.socket();
        tokio::spawn(async move {
            let mut client = Client::at(&socket).await;
            let body = json!({ "language": "shell", "code": code }).to_string();
            client.request("POST", "/v1/runs", body).await.json()
        })
    };

    let (short, long) = (request("sleep 1; echo whole"), request("sleep 100"));
    within_deadline("two runs", async {
        while client
            .json("GET", "/v1/runs?state=running", &Value::Null, 200)
            .await["runs"]
            .as_array()
            .unwrap()
            .len()
            < 2
        {}
    })
    .await;

    let start = Instant::now();
    let ended = tokio::task::spawn_blocking(move || (server.end(Signal::TERM), server));
    within_deadline("a refusal", async {
        loop {
            let reply = client.request("POST", "/v1/sandboxes", "{}").await;
            if reply.status == 503 {
                assert_eq!(reply.json()["error"]["kind"], "draining");
                break;
            }
        }
    })
    .await;
    assert_eq!(short.await.unwrap()["stdout"], "whole\n");
    assert_eq!(long.await.unwrap()["ended_by"], "cancelled");
    let (code, server) = ended.await.unwrap();
    assert_eq!(code, Some(0));
    assert!(start.elapsed() < Duration::from_secs(40));
    assert!(!server.socket().exists());
    let again = Server::start_in(server.dir(), &[]);
    let mut client = again.client().await;
    let listed = client.json("GET", "/v1/sandboxes", &Value::Null, 200).await;
    let sandbox = &listed["sandboxes"][0];
    assert_eq!(sandbox["state"], "paused", "{sandbox}");
    let at = format!("/v1/sandboxes/{}", sandbox["id"].as_str().unwrap());
    client.json("DELETE", &at, &Value::Null, 200).await;
}

#[tokio::test]
async fn an_idle_server_exits() {
    let server = Server::start(&["--exit-when-idle", "2"]);
    let mut client = server.client().await;
    let sandbox = client
        .json(
            "POST",
            "/v1/sandboxes",
            &json!({ "idle_timeout_s": 5, "on_idle": "end" }),
            201,
        )
        .await;

    let start = Instant::now();
    assert!(sandbox["id"].is_string());
    drop(client);
    wait_until("its end", || !server.socket().exists());
    assert!(
        start.elapsed() > Duration::from_secs(5),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn listening_beyond_loopback_requires_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = fumehood_end_to_end::fumehood();
    command
        .args(["serve", "--listen", "0.0.0.0:0", "--socket"])
        .arg(dir.path().join("s"));
    command.arg("--state").arg(dir.path().join("state.sqlite"));
    let output = fumehood_end_to_end::finish(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && said.contains("fumehood keys create"),
        "{said}"
    );
}
