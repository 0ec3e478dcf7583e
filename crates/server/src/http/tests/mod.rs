use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use fumehood_engine::{Config, Engine};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::extract::MAX_BODY_BYTES;
use super::{Transport, app};
use crate::api::responses::{RunKind, RunResponse, RunState};
use crate::api::sandbox_responses::SandboxResponse;
use crate::auth::api_keys;
use crate::id::new_id;
use crate::owner::Owner;
use crate::service::{Service, Settings};
use crate::storage::records;
use crate::storage::resume::ResumeRecord;

mod headers;
mod load;
mod operation;

/// A service on a host without an image: all that needs no VM.
struct TestServer {
    service: Service,
    dir: tempfile::TempDir,
}

fn test_server() -> TestServer {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state.sqlite");
    test_server_with(dir, state)
}

fn test_server_with(dir: tempfile::TempDir, state: std::path::PathBuf) -> TestServer {
    let settings = Settings {
        state,
        allowed_hosts: vec!["vm.example".into()],
        requests_per_second: 1000,
        ..Settings::default()
    };

    let store = dir.path().join("store");
    let start = move || {
        Engine::start(Config {
            store: Some(store.clone()),
            ..Config::default()
        })
    };

    let service = Service::open_with(start, settings).unwrap();

    TestServer { service, dir }
}

fn request(
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(path);
    if !headers.iter().any(|(name, _)| *name == "host") {
        request = request.header("host", "localhost");
    }

    for (name, value) in headers {
        request = request.header(*name, *value);
    }

    request.body(body.into()).unwrap()
}

async fn send(
    service: &Service,
    transport: Transport,
    request: Request<Body>,
) -> (StatusCode, Value) {
    let response: Response = app(service, transport).oneshot(request).await.unwrap();
    let status = response.status();
    assert!(response.headers().contains_key("x-request-id"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

async fn send_local(
    service: &Service,
    method: Method,
    path: &str,
    body: &str,
) -> (StatusCode, Value) {
    send(
        service,
        Transport::UnixSocket,
        request(method, path, &[], body.to_owned()),
    )
    .await
}

#[tokio::test]
async fn valid_keys_are_accepted_and_others_rejected() {
    let TestServer { service, .. } = test_server();
    let key = api_keys::create(&service.0.store, "ci", false).unwrap();
    let with_key = |authorization: &str| {
        request(
            Method::GET,
            "/v1/sandboxes",
            &[("authorization", authorization)],
            "",
        )
    };

    let bearer = format!("Bearer {key}");
    assert_eq!(
        send(&service, Transport::Tcp, with_key(&bearer)).await.0,
        200
    );

    for wrong in ["Bearer fh_wrong", "Bearer", "Basic eA==", &key] {
        let (status, body) = send(&service, Transport::Tcp, with_key(wrong)).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["kind"]),
            (401, &json!("unauthorized")),
            "{wrong}"
        );
    }

    for open in ["/healthz", "/readyz"] {
        let (status, _) = send(
            &service,
            Transport::Tcp,
            request(Method::GET, open, &[], ""),
        )
        .await;

        assert_ne!(status, 401, "{open}");
    }

    for closed in ["/metrics", "/openapi.json", "/v1/info", "/nothing"] {
        let (status, _) = send(
            &service,
            Transport::Tcp,
            request(Method::GET, closed, &[], ""),
        )
        .await;

        assert_eq!(status, 401, "{closed}");
    }

    api_keys::revoke(&service.0.store, "ci").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(
        send(&service, Transport::Tcp, with_key(&bearer)).await.0,
        401
    );
}

#[tokio::test]
async fn foreign_host_names_are_rejected() {
    let TestServer { service, .. } = test_server();
    for (host, expected) in [
        ("vm.example:80", 200),
        ("127.0.0.1:7474", 200),
        ("evil.example", 403),
        ("", 403),
    ] {
        let sent = request(Method::GET, "/healthz", &[("host", host)], "");
        assert_eq!(
            send(&service, Transport::Tcp, sent).await.0,
            expected,
            "{host}"
        );
    }

    let sent = request(Method::GET, "/healthz", &[("host", "evil.example")], "");
    assert_eq!(send(&service, Transport::UnixSocket, sent).await.0, 200);
}

#[tokio::test]
async fn invalid_bodies_are_explained() {
    let TestServer { service, .. } = test_server();
    let many = format!(
        "{{\"language\":\"python\",\"code\":\"{}\"}}",
        "x".repeat(MAX_BODY_BYTES)
    );

    for (body, status, part) in [
        ("{", 400, "EOF"),
        ("[]", 400, "invalid"),
        ("{\"language\":\"python\"}", 400, "code"),
        ("{\"language\":\"cobol\",\"code\":\"\"}", 400, "language"),
        ("{\"language\":\"python\",\"code\":1}", 400, "`code`"),
        (
            "{\"language\":\"python\",\"code\":\"\",\"nonsense\":1}",
            400,
            "nonsense",
        ),
        (
            "{\"language\":\"python\",\"code\":\"\",\"context\":\"main\"}",
            400,
            "context",
        ),
        (
            "{\"language\":\"python\",\"code\":\"\",\"timeout_s\":-1}",
            400,
            "timeout_s",
        ),
        (
            "{\"language\":\"python\",\"code\":\"\",\"network\":{\"policy\":{\"alow\":[]}}}",
            400,
            "alow",
        ),
        ("{\"language\":\"python\",\"code\":\"\"} x", 400, "trailing"),
        (&many, 413, "8388608"),
    ] {
        let (got, body) = send_local(&service, Method::POST, "/v1/runs", body).await;
        assert_eq!(got, status, "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        assert!(body["error"]["request_id"].is_string());
    }

    let text_body = request(
        Method::POST,
        "/v1/runs",
        &[("content-type", "text/plain")],
        "x",
    );

    assert_eq!(
        send(&service, Transport::UnixSocket, text_body).await.0,
        415
    );

    let html_only = request(
        Method::POST,
        "/v1/runs",
        &[("accept", "text/html")],
        "{\"language\":\"python\",\"code\":\"\"}",
    );

    assert_eq!(
        send(&service, Transport::UnixSocket, html_only).await.0,
        406
    );
}

#[tokio::test]
async fn a_body_at_the_limit_is_read() {
    let TestServer { service, .. } = test_server();
    let request_json = "{\"language\":\"python\",\"code\":\"\"}";
    let body = format!(
        "{request_json}{}",
        " ".repeat(MAX_BODY_BYTES - request_json.len())
    );

    let (status, body) = send_local(&service, Method::POST, "/v1/runs", &body).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["kind"]),
        (503, &json!("missing")),
        "{body}"
    );
}

#[tokio::test]
async fn invalid_paths_queries_and_methods_are_explained() {
    let TestServer { service, .. } = test_server();
    for (method, path, status) in [
        (Method::GET, "/v1/runs?limit=0", 400),
        (Method::GET, "/v1/runs?limit=1001", 400),
        (Method::GET, "/v1/runs?limit=1000", 200),
        (Method::GET, "/v1/runs?nonsense=1", 400),
        (Method::GET, "/v1/runs?state=lazy", 400),
        (Method::GET, "/v1/runs/%ff", 400),
        (Method::GET, "/v1/runs/run_no", 404),
        (Method::GET, "/v1/sandboxes/sb_no/files/stat?path=x", 404),
        (Method::GET, "/v1/sandboxes/sb_no/files/stat", 400),
        (Method::PUT, "/v1/runs", 405),
        (Method::DELETE, "/v1/checkpoints/cp_no", 404),
        (Method::GET, "/", 404),
    ] {
        let (got, body) = send_local(&service, method, path, "").await;
        assert_eq!(got, status, "{path} {body}");
        assert!(
            status < 400 || body["error"]["message"].is_string(),
            "{path} {body}"
        );
    }
}

#[tokio::test]
async fn a_host_without_an_image_says_so_and_is_not_ready() {
    let TestServer { service, .. } = test_server();
    let (status, body) = send_local(&service, Method::GET, "/readyz", "").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(
        send_local(&service, Method::GET, "/healthz", "").await.0,
        200
    );

    let (status, body) = send_local(&service, Method::POST, "/v1/sandboxes", "").await;
    assert_eq!(
        (status.as_u16(), &body["error"]["kind"]),
        (503, &json!("missing"))
    );
    service.drain().await;
    let (_, body) = send_local(&service, Method::POST, "/v1/sandboxes", "").await;
    assert_eq!(body["error"]["kind"], "draining");
}

#[tokio::test]
async fn a_rate_limited_key_receives_retry_after() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        state: dir.path().join("s"),
        requests_per_second: 2,
        ..Settings::default()
    };

    let nowhere = Config {
        store: Some(dir.path().join("store")),
        ..Config::default()
    };

    let service = Service::open_with(move || Engine::start(nowhere.clone()), settings).unwrap();
    let key = api_keys::create(&service.0.store, "ci", false).unwrap();
    let bearer = format!("Bearer {key}");
    let sent = || request(Method::GET, "/v1/runs", &[("authorization", &bearer)], "");

    for _ in 0..4 {
        assert_eq!(
            app(&service, Transport::Tcp)
                .oneshot(sent())
                .await
                .unwrap()
                .status(),
            200
        );
    }

    let refused = app(&service, Transport::Tcp).oneshot(sent()).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
}

fn run_record(id: &str) -> RunResponse {
    RunResponse {
        id: id.into(),
        sandbox: None,
        kind: RunKind::Code,
        state: RunState::Running,
        created_at: "2026-01-01T00:00:00.000Z".into(),
        ended_at: None,
        outcome: None,
        output: None,
        error: None,
    }
}

fn sandbox_record(id: &str) -> SandboxResponse {
    SandboxResponse::starting(id, "2026-01-01T00:00:00.000Z".into())
}

#[tokio::test]
async fn runs_of_a_killed_server_are_lost_and_visible_to_their_owner_only() {
    let TestServer { service, dir } = test_server();
    let (run, sandbox) = (new_id("run").unwrap(), new_id("sb").unwrap());
    let owner = Owner::local();
    records::insert_run(&service.0.store, &owner, &run_record(&run)).unwrap();
    let record = sandbox_record(&sandbox);
    records::insert_sandbox(
        &service.0.store,
        &owner,
        &record,
        &ResumeRecord::new_running(),
    )
    .unwrap();
    let settings = service.0.settings.clone();
    drop(service);
    // The task that forgets lets go of the last clone at once.
    let nowhere = Config {
        store: Some(dir.path().join("store")),
        ..Config::default()
    };

    let start = move || Engine::start(nowhere.clone());
    let service = loop {
        match Service::open_with(start.clone(), settings.clone()) {
            Ok(service) => break service,
            Err(_) => tokio::task::yield_now().await,
        }
    };

    let (_, body) = send_local(&service, Method::GET, &format!("/v1/runs/{run}"), "").await;
    assert_eq!(
        (&body["state"], &body["ended_by"]),
        (&json!("ended"), &json!("server_lost"))
    );

    let (_, body) = send_local(
        &service,
        Method::GET,
        &format!("/v1/sandboxes/{sandbox}"),
        "",
    )
    .await;

    assert_eq!(
        (&body["state"], &body["ended"]),
        (&json!("ended"), &json!("server_lost"))
    );

    let (status, body) = send_local(
        &service,
        Method::DELETE,
        &format!("/v1/sandboxes/{sandbox}"),
        "",
    )
    .await;

    assert_eq!(
        (status.as_u16(), &body["ended"]),
        (200, &json!("server_lost"))
    );

    let (status, body) = send_local(
        &service,
        Method::GET,
        &format!("/v1/sandboxes/{sandbox}/processes"),
        "",
    )
    .await;

    assert_eq!(
        (status.as_u16(), &body["error"]["ended"]),
        (410, &json!("server_lost"))
    );

    let (_, body) = send_local(&service, Method::GET, "/v1/runs?state=ended", "").await;
    assert_eq!(body["runs"][0]["id"], json!(run));
    let (_, body) = send_local(&service, Method::GET, "/v1/runs?state=running", "").await;
    assert_eq!(body["runs"], json!([]));
    let key = format!(
        "Bearer {}",
        api_keys::create(&service.0.store, "other", false).unwrap()
    );

    for path in [
        format!("/v1/runs/{run}"),
        format!("/v1/sandboxes/{sandbox}"),
        format!("/v1/runs/{run}/events"),
    ] {
        let sent = request(Method::GET, &path, &[("authorization", &key)], "");
        assert_eq!(send(&service, Transport::Tcp, sent).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_request() {
    let TestServer { service, .. } = test_server();
    let with_key = |key: &str, path: &str, body: &str| {
        request(
            Method::POST,
            path,
            &[("idempotency-key", key)],
            body.to_owned(),
        )
    };

    let path = "/v1/runs/run_no/signal";
    let first = send(
        &service,
        Transport::UnixSocket,
        with_key("a", path, "{\"signal\":2}"),
    )
    .await;

    let again = send(
        &service,
        Transport::UnixSocket,
        with_key("a", path, "{\"signal\":2}"),
    )
    .await;

    assert_eq!(
        (first.0, &first.1["error"]["kind"]),
        (again.0, &again.1["error"]["kind"])
    );

    let other = send(
        &service,
        Transport::UnixSocket,
        with_key("a", path, "{\"signal\":9}"),
    )
    .await;
    assert_eq!(other.0, 409);
    let as_run = send(
        &service,
        Transport::UnixSocket,
        with_key("a", "/v1/runs", "{\"language\":\"shell\",\"code\":\"\"}"),
    )
    .await;
    // There is no image here; a key that was used is looked at first where there is one.
    assert!(as_run.0 == 409 || as_run.0 == 503, "{as_run:?}");
    assert_eq!(
        send(&service, Transport::UnixSocket, with_key("a b", path, "{}"))
            .await
            .0,
        400
    );

    // What was not done is not held against the key.
    for _ in 0..2 {
        let (status, body) = send(
            &service,
            Transport::UnixSocket,
            with_key("c", "/v1/sandboxes", "{}"),
        )
        .await;

        assert_eq!(
            (status.as_u16(), &body["error"]["kind"]),
            (503, &json!("missing"))
        );
    }
}

#[tokio::test]
async fn a_valid_request_id_of_a_caller_is_kept() {
    let TestServer { service, .. } = test_server();
    for (given, is_accepted) in [("abc-1", true), ("a b", false), (&*"x".repeat(65), false)] {
        let sent = request(Method::GET, "/healthz", &[("x-request-id", given)], "");
        let response = app(&service, Transport::UnixSocket)
            .oneshot(sent)
            .await
            .unwrap();

        assert_eq!(
            response.headers()["x-request-id"] == given,
            is_accepted,
            "{given}"
        );
    }
}
