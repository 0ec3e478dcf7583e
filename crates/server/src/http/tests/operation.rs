//! What concerns the operator: full disks, metrics, revoked keys.

use std::time::{Duration, Instant};

use super::*;
use crate::storage::full_disk_tests::Disk;

#[tokio::test]
async fn a_full_disk_of_the_state_is_explained_and_stops_only_what_needs_it() {
    let Some(disk) = Disk::new() else {
        return;
    };
    let server = test_server_with(tempfile::tempdir().unwrap(), disk.state());
    disk.fill();

    let create = |headers: &[(&str, &str)]| request(Method::POST, "/v1/sandboxes", headers, "");
    let app = app(&server.service, Transport::UnixSocket);
    let with_key = app.oneshot(create(&[("idempotency-key", "k")])).await;
    assert_eq!(with_key.unwrap().headers()["retry-after"], "30");

    let sent = create(&[("idempotency-key", "k")]);
    let (status, body) = send(&server.service, Transport::UnixSocket, sent).await;
    assert_eq!(status, 507, "{body}");
    assert_eq!(body["error"]["kind"], "storage_full");
    assert_eq!(body["error"]["retry"], "safe");

    // What needs no disk gets as far as on any host without an image.
    let (status, body) = send_local(&server.service, Method::POST, "/v1/sandboxes", "").await;
    assert_eq!(
        (status.as_u16(), &body["error"]["kind"]),
        (503, &json!("missing"))
    );
    assert_eq!(
        send_local(&server.service, Method::GET, "/v1/runs", "")
            .await
            .0,
        200
    );

    disk.free();
    let sent = create(&[("idempotency-key", "k")]);
    let (status, _) = send(&server.service, Transport::UnixSocket, sent).await;
    assert_eq!(status, 503);
}

async fn get(service: &Service, transport: Transport, key: &str, path: &str) -> (u16, String) {
    let bearer = format!("Bearer {key}");
    let sent = request(Method::GET, path, &[("authorization", &bearer)], "");
    let response = app(service, transport).oneshot(sent).await.unwrap();
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(bytes.to_vec()).unwrap())
}

#[tokio::test]
async fn a_key_sees_its_own_figures_and_an_operator_all() {
    let server = test_server();
    let service = &server.service;
    let create = |name, is_operator| api_keys::create(service.store(), name, is_operator).unwrap();
    let (one, other, operator) = (
        create("one", false),
        create("other", false),
        create("op", true),
    );

    for _ in 0..3 {
        get(service, Transport::Tcp, &one, "/v1/runs").await;
    }
    let (status, own) = get(service, Transport::Tcp, &one, "/metrics").await;
    assert!(
        status == 200 && own.contains("route=\"/v1/runs\",status=\"200\"} 3"),
        "{own}"
    );
    assert!(own.contains("fumehood_now{by=\"sandboxes\"} 0"), "{own}");

    let (_, foreign) = get(service, Transport::Tcp, &other, "/metrics").await;
    assert!(!foreign.contains("/v1/runs"), "{foreign}");
    assert!(
        !foreign.contains("memory") && !foreign.contains("fumehood_vms{"),
        "{foreign}"
    );

    let of_operator = get(service, Transport::Tcp, &operator, "/metrics").await;
    let of_local = get(service, Transport::UnixSocket, "", "/metrics").await;
    for (_, all) in [of_operator, of_local] {
        assert!(
            all.contains("route=\"/v1/runs\",status=\"200\"} 3"),
            "{all}"
        );
    }

    let path = "/v1/operator/sandboxes";
    let (status, body) = get(service, Transport::Tcp, &one, path).await;
    assert!(status == 403 && body.contains("--operator"), "{body}");
    assert_eq!(get(service, Transport::Tcp, &operator, path).await.0, 200);
    let (_, body) = get(service, Transport::UnixSocket, "", path).await;
    assert_eq!(body, "{\"sandboxes\":[]}");
}

#[tokio::test]
async fn an_open_stream_of_a_revoked_key_breaks_off() {
    let server = test_server();
    let service = &server.service;
    let key = api_keys::create(service.store(), "one", false).unwrap();
    let initialize = json!({
        "jsonrpc": "2.0", "id": 1, "method": "initialize",
        "params": { "protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": { "name": "t", "version": "1" } },
    });

    let bearer = format!("Bearer {key}");
    let mut headers = vec![
        ("authorization", bearer.as_str()),
        ("accept", "application/json, text/event-stream"),
        ("content-type", "application/json"),
    ];
    let app = app(service, Transport::Tcp);
    let sent = request(Method::POST, "/mcp", &headers, initialize.to_string());
    let started = app.clone().oneshot(sent).await.unwrap();
    let session = started.headers()["mcp-session-id"]
        .to_str()
        .unwrap()
        .to_owned();

    // The stream of the session itself has no end.
    headers.push(("mcp-session-id", &session));
    let stream = app
        .oneshot(request(Method::GET, "/mcp", &headers, ""))
        .await;
    let mut stream = stream.unwrap().into_body();
    let revoked = Instant::now();
    api_keys::revoke(service.store(), "one").unwrap();

    let broken = async { while let Some(Ok(_)) = stream.frame().await {} };
    tokio::time::timeout(Duration::from_secs(20), broken)
        .await
        .unwrap();
    assert!(revoked.elapsed() < Duration::from_secs(20));
}
