//! Sessions over HTTP, as far as they need no VM.

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use fumehood_engine::{Config, Engine};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::auth::api_keys;
use crate::http::{Transport, app};
use crate::service::Service;
use crate::service::Settings;

fn service(dir: &std::path::Path) -> Service {
    let settings = Settings {
        state: dir.join("state.sqlite"),
        requests_per_second: 1000,
        ..Settings::default()
    };

    let store = dir.join("store");
    let start = move || {
        Engine::start(Config {
            store: Some(store.clone()),
            ..Config::default()
        })
    };

    Service::open_with(start, settings).unwrap()
}

async fn two_keys(service: &Service) -> (String, String) {
    let one = api_keys::create(&service.0.store, "one", false).unwrap();
    let other = api_keys::create(&service.0.store, "other", false).unwrap();
    (one, other)
}

fn request(method: Method, key: &str, session: Option<&str>, body: Body) -> Request<Body> {
    let mut request = Request::builder()
        .method(method)
        .uri("/mcp")
        .header("host", "localhost")
        .header("authorization", format!("Bearer {key}"))
        .header("accept", "application/json, text/event-stream")
        .header("content-type", "application/json");

    if let Some(session) = session {
        request = request.header("mcp-session-id", session);
    }

    request.body(body).unwrap()
}

fn initialize() -> Body {
    let initialize = json!({ "jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "test", "version": "0" },
    }});
    Body::from(initialize.to_string())
}

async fn parse_response(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap_or_default())
}

#[tokio::test]
async fn a_session_belongs_to_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path());
    let (one, other) = two_keys(&service).await;
    let app = app(&service, Transport::Tcp);
    let send = |request| app.clone().oneshot(request);
    let started = send(request(Method::POST, &one, None, initialize()))
        .await
        .unwrap();
    assert_eq!(started.status(), 200);
    let id = started.headers()["mcp-session-id"]
        .to_str()
        .unwrap()
        .to_owned();

    for method in [Method::GET, Method::POST, Method::DELETE] {
        let foreign = request(method, &other, Some(&id), Body::empty());
        let (status, body) = parse_response(send(foreign).await.unwrap()).await;
        assert_eq!(
            (status.as_u16(), &body["error"]["kind"]),
            (404, &json!("not_found"))
        );
    }

    let ended = send(request(Method::DELETE, &one, Some(&id), Body::empty()))
        .await
        .unwrap();
    // The official client accepts 200, 204 and 405.
    assert_eq!(ended.status(), 204);
    let gone = send(request(Method::GET, &one, Some(&id), Body::empty()))
        .await
        .unwrap();

    assert_eq!(gone.status(), 404);
}

#[tokio::test]
async fn the_sessions_of_a_key_are_limited() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path());
    let (one, other) = two_keys(&service).await;
    let app = app(&service, Transport::Tcp);
    let start = |key: &str| {
        app.clone()
            .oneshot(request(Method::POST, key, None, initialize()))
    };

    for _ in 0..super::sessions::MAX_SESSIONS {
        assert_eq!(start(&one).await.unwrap().status(), 200);
    }

    let refused = start(&one).await.unwrap();
    assert!(!refused.headers().contains_key("mcp-session-id"));
    let (status, body) = parse_response(refused).await;
    assert_eq!(
        (status.as_u16(), &body["error"]["kind"]),
        (429, &json!("busy"))
    );

    assert_eq!(start(&other).await.unwrap().status(), 200);
}

#[tokio::test]
async fn incomplete_and_large_bodies_are_client_errors() {
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path());
    let (one, _) = two_keys(&service).await;
    let app = app(&service, Transport::Tcp);
    let pieces = [Ok("{"), Err(std::io::Error::other("gone"))];
    let broken = Body::from_stream(futures_util::stream::iter(pieces));
    let large = Body::from(vec![b' '; super::http::MAX_CALL_BYTES + 1]);

    for (body, status) in [(broken, 400), (large, 413)] {
        let answer = app
            .clone()
            .oneshot(request(Method::POST, &one, None, body))
            .await;
        let (found, body) = parse_response(answer.unwrap()).await;
        assert_eq!(found.as_u16(), status, "{body}");
    }
}
