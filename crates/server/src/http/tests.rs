use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use fumehood_engine::{Config, Engine};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::api::responses::{RunKind, RunState, RunView, SandboxState, SandboxView};
use crate::auth::api_keys as keys;
use crate::id::fresh_id;
use crate::owner::Owner;
use crate::service::Settings;
use crate::storage::records;

/// A service on a host without an image: all that needs no VM.
struct Bench {
    service: Service,
    dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        state: dir.path().join("state.sqlite"),
        hosts: vec!["vm.example".into()],
        rate: 1000,
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
    Bench { service, dir }
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

async fn ask(service: &Service, door: Door, request: Request<Body>) -> (StatusCode, Value) {
    let response: Response = app(service, door).oneshot(request).await.unwrap();
    let status = response.status();
    assert!(response.headers().contains_key("x-request-id"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (
        status,
        serde_json::from_slice(&bytes).unwrap_or(Value::Null),
    )
}

async fn local(service: &Service, method: Method, path: &str, body: &str) -> (StatusCode, Value) {
    ask(
        service,
        Door::Local,
        request(method, path, &[], body.to_owned()),
    )
    .await
}

#[tokio::test]
async fn keys_open_and_others_do_not() {
    let Bench { service, .. } = bench();
    let key = keys::create(&service.0.store, "ci").unwrap();
    let by = |authorization: &str| {
        request(
            Method::GET,
            "/v1/sandboxes",
            &[("authorization", authorization)],
            "",
        )
    };
    let bearer = format!("Bearer {key}");
    assert_eq!(ask(&service, Door::Keyed, by(&bearer)).await.0, 200);
    for wrong in ["Bearer fh_wrong", "Bearer", "Basic eA==", &key] {
        let (status, body) = ask(&service, Door::Keyed, by(wrong)).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["kind"]),
            (401, &json!("unauthorized")),
            "{wrong}"
        );
    }
    for open in ["/healthz", "/readyz"] {
        let (status, _) = ask(&service, Door::Keyed, request(Method::GET, open, &[], "")).await;
        assert_ne!(status, 401, "{open}");
    }
    for closed in ["/metrics", "/openapi.json", "/v1/info", "/nothing"] {
        let (status, _) = ask(&service, Door::Keyed, request(Method::GET, closed, &[], "")).await;
        assert_eq!(status, 401, "{closed}");
    }
    keys::revoke(&service.0.store, "ci").unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(ask(&service, Door::Keyed, by(&bearer)).await.0, 401);
}

#[tokio::test]
async fn other_names_are_turned_away() {
    let Bench { service, .. } = bench();
    for (host, expected) in [
        ("vm.example:80", 200),
        ("127.0.0.1:7474", 200),
        ("evil.example", 403),
        ("", 403),
    ] {
        let asked = request(Method::GET, "/healthz", &[("host", host)], "");
        assert_eq!(
            ask(&service, Door::Keyed, asked).await.0,
            expected,
            "{host}"
        );
    }
    let asked = request(Method::GET, "/healthz", &[("host", "evil.example")], "");
    assert_eq!(ask(&service, Door::Local, asked).await.0, 200);
}

#[tokio::test]
async fn bodies_that_are_wrong_are_explained() {
    let Bench { service, .. } = bench();
    let many = format!(
        "{{\"language\":\"python\",\"code\":\"{}\"}}",
        "x".repeat(BODY_BYTES)
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
        let (got, body) = local(&service, Method::POST, "/v1/runs", body).await;
        assert_eq!(got, status, "{body}");
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(part), "{message}");
        assert!(body["error"]["request_id"].is_string());
    }
    let typed = request(
        Method::POST,
        "/v1/runs",
        &[("content-type", "text/plain")],
        "x",
    );
    assert_eq!(ask(&service, Door::Local, typed).await.0, 415);
    let html = request(
        Method::POST,
        "/v1/runs",
        &[("accept", "text/html")],
        "{\"language\":\"python\",\"code\":\"\"}",
    );
    assert_eq!(ask(&service, Door::Local, html).await.0, 406);
}

#[tokio::test]
async fn a_body_at_the_limit_is_read() {
    let Bench { service, .. } = bench();
    let frame = "{\"language\":\"python\",\"code\":\"\"}";
    let body = format!("{frame}{}", " ".repeat(BODY_BYTES - frame.len()));
    let (status, body) = local(&service, Method::POST, "/v1/runs", &body).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["kind"]),
        (503, &json!("missing")),
        "{body}"
    );
}

#[tokio::test]
async fn paths_queries_and_methods_that_are_wrong_are_explained() {
    let Bench { service, .. } = bench();
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
        let (got, body) = local(&service, method, path, "").await;
        assert_eq!(got, status, "{path} {body}");
        assert!(
            status < 400 || body["error"]["message"].is_string(),
            "{path} {body}"
        );
    }
}

#[tokio::test]
async fn a_host_without_an_image_says_so_and_is_not_ready() {
    let Bench { service, .. } = bench();
    let (status, body) = local(&service, Method::GET, "/readyz", "").await;
    assert_eq!(status, 503, "{body}");
    assert_eq!(local(&service, Method::GET, "/healthz", "").await.0, 200);
    let (status, body) = local(&service, Method::POST, "/v1/sandboxes", "").await;
    assert_eq!(
        (status.as_u16(), &body["error"]["kind"]),
        (503, &json!("missing"))
    );
    service.drain().await;
    let (_, body) = local(&service, Method::POST, "/v1/sandboxes", "").await;
    assert_eq!(body["error"]["kind"], "draining");
}

#[tokio::test]
async fn too_many_requests_of_a_key_are_told_when_to_come_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        state: dir.path().join("s"),
        rate: 2,
        ..Settings::default()
    };
    let nowhere = Config {
        store: Some(dir.path().join("store")),
        ..Config::default()
    };
    let service = Service::open_with(move || Engine::start(nowhere.clone()), settings).unwrap();
    let key = keys::create(&service.0.store, "ci").unwrap();
    let bearer = format!("Bearer {key}");
    let asked = || request(Method::GET, "/v1/runs", &[("authorization", &bearer)], "");
    for _ in 0..4 {
        assert_eq!(
            app(&service, Door::Keyed)
                .oneshot(asked())
                .await
                .unwrap()
                .status(),
            200
        );
    }
    let refused = app(&service, Door::Keyed).oneshot(asked()).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
}

fn a_run(id: &str) -> RunView {
    RunView {
        id: id.into(),
        sandbox: None,
        kind: RunKind::Code,
        state: RunState::Running,
        created_at: "2026-01-01T00:00:00.000Z".into(),
        ended_at: None,
        outcome: crate::OutcomeView::default(),
        output: None,
        error: None,
    }
}

fn a_sandbox(id: &str) -> SandboxView {
    SandboxView {
        id: id.into(),
        name: None,
        state: SandboxState::Running,
        created_at: "2026-01-01T00:00:00.000Z".into(),
        ended_at: None,
        ended: None,
        ended_why: None,
        memory_mib: 512,
        idle_timeout_s: 1,
        max_lifetime_s: 1,
        source: "boot".into(),
        isolation: "full".into(),
        urls: Vec::new(),
    }
}

#[tokio::test]
async fn what_a_server_before_has_left_is_told_as_what_it_is_and_to_its_owner_alone() {
    let Bench { service, dir } = bench();
    let (run, sandbox) = (fresh_id("run").unwrap(), fresh_id("sb").unwrap());
    let owner = Owner::local();
    records::run_begins(&service.0.store, &owner, &a_run(&run)).unwrap();
    records::sandbox_begins(&service.0.store, &owner, &a_sandbox(&sandbox)).unwrap();
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
    let (_, told) = local(&service, Method::GET, &format!("/v1/runs/{run}"), "").await;
    assert_eq!(
        (&told["state"], &told["ended_by"]),
        (&json!("ended"), &json!("server_lost"))
    );
    let (_, told) = local(
        &service,
        Method::GET,
        &format!("/v1/sandboxes/{sandbox}"),
        "",
    )
    .await;
    assert_eq!(
        (&told["state"], &told["ended"]),
        (&json!("ended"), &json!("server_lost"))
    );
    let (status, told) = local(
        &service,
        Method::DELETE,
        &format!("/v1/sandboxes/{sandbox}"),
        "",
    )
    .await;
    assert_eq!(
        (status.as_u16(), &told["ended"]),
        (200, &json!("server_lost"))
    );
    let (status, told) = local(
        &service,
        Method::GET,
        &format!("/v1/sandboxes/{sandbox}/processes"),
        "",
    )
    .await;
    assert_eq!(
        (status.as_u16(), &told["error"]["ended"]),
        (410, &json!("server_lost"))
    );
    let (_, told) = local(&service, Method::GET, "/v1/runs?state=ended", "").await;
    assert_eq!(told["runs"][0]["id"], json!(run));
    let (_, told) = local(&service, Method::GET, "/v1/runs?state=running", "").await;
    assert_eq!(told["runs"], json!([]));
    let key = format!(
        "Bearer {}",
        keys::create(&service.0.store, "other").unwrap()
    );
    for path in [
        format!("/v1/runs/{run}"),
        format!("/v1/sandboxes/{sandbox}"),
        format!("/v1/runs/{run}/events"),
    ] {
        let asked = request(Method::GET, &path, &[("authorization", &key)], "");
        assert_eq!(ask(&service, Door::Keyed, asked).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn an_idempotency_key_is_for_one_request() {
    let Bench { service, .. } = bench();
    let by = |key: &str, path: &str, body: &str| {
        request(
            Method::POST,
            path,
            &[("idempotency-key", key)],
            body.to_owned(),
        )
    };
    let path = "/v1/runs/run_no/signal";
    let first = ask(&service, Door::Local, by("a", path, "{\"signal\":2}")).await;
    let again = ask(&service, Door::Local, by("a", path, "{\"signal\":2}")).await;
    assert_eq!(
        (first.0, &first.1["error"]["kind"]),
        (again.0, &again.1["error"]["kind"])
    );
    let other = ask(&service, Door::Local, by("a", path, "{\"signal\":9}")).await;
    assert_eq!(other.0, 409);
    let as_run = ask(
        &service,
        Door::Local,
        by("a", "/v1/runs", "{\"language\":\"shell\",\"code\":\"\"}"),
    )
    .await;
    // There is no image here; a key that was used is looked at first where there is one.
    assert!(as_run.0 == 409 || as_run.0 == 503, "{as_run:?}");
    assert_eq!(
        ask(&service, Door::Local, by("a b", path, "{}")).await.0,
        400
    );
    // What was not done is not held against the key.
    for _ in 0..2 {
        let (status, body) = ask(&service, Door::Local, by("c", "/v1/sandboxes", "{}")).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["kind"]),
            (503, &json!("missing"))
        );
    }
}

#[tokio::test]
async fn a_callers_request_id_is_taken_where_it_is_one() {
    let Bench { service, .. } = bench();
    for (given, taken) in [("abc-1", true), ("a b", false), (&*"x".repeat(65), false)] {
        let asked = request(Method::GET, "/healthz", &[("x-request-id", given)], "");
        let response = app(&service, Door::Local).oneshot(asked).await.unwrap();
        assert_eq!(
            response.headers()["x-request-id"] == given,
            taken,
            "{given}"
        );
    }
}

#[test]
fn the_description_has_every_operation_with_errors_and_a_name_of_its_own() {
    let api = serde_json::to_value(openapi()).unwrap();
    let mut ids = std::collections::BTreeSet::new();
    let mut count = 0;
    for (path, item) in api["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            count += 1;
            assert!(
                operation["responses"]["default"].is_object(),
                "{method} {path}"
            );
            assert!(
                ids.insert(operation["operationId"].to_string()),
                "{method} {path}: {}",
                operation["operationId"]
            );
        }
    }
    assert_eq!(count, 36);
}
