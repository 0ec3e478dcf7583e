//! Callers that take much and give nothing: answers that nobody reads, bodies that never end, connections without requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::body::Body;
use axum::extract::FromRequest;
use axum::http::{Method, Request, StatusCode};
use axum::response::Response;
use bytes::Bytes;
use fumehood_engine::{Event, Retry, Run};
use futures_util::stream::{self, StreamExt};
use hyper_util::server::graceful::GracefulShutdown;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tower::ServiceExt;

use super::{TestServer, request, run_record, test_server};
use crate::api::requests::{OneShotRunRequest, Stdin};
use crate::api::responses::{RunError, RunKind};
use crate::auth::api_keys;
use crate::error::ApiErrorKind;
use crate::http::connections::Connections;
use crate::http::extract::{
    DRAIN_TIMEOUT, MAX_BODY_BYTES, MAX_DRAINED_BYTES, RequestBody, RunJson, read_body,
};
use crate::http::listeners::serve_connection;
use crate::http::{Listeners, Transport, app};
use crate::owner::Owner;
use crate::service::Service;
use crate::state::memory_budget::MAX_BYTES_PER_KEY;
use crate::state::run_task::{RunSpec, RunTask};
use crate::storage::records;
use crate::sync::lock;

const DEADLINE: Duration = Duration::from_secs(60);
const MIB: usize = 1024 * 1024;

fn run_spec(id: &str, owner: &Owner) -> RunSpec {
    RunSpec {
        id: id.into(),
        owner: owner.clone(),
        sandbox: None,
        kind: RunKind::Code,
        detach: true,
        stdin: Stdin::default(),
        has_pty: false,
    }
}

/// Adds a run that has ended and whose output is 10 MiB of control characters: six times as much in JSON.
async fn add_run(service: &Service, owner: &Owner) {
    let chunk = Bytes::from(vec![0; MIB]);
    let run = Run::from_events(vec![Event::Stdout(chunk); 10]);

    let spec = run_spec("run_1", owner);
    let task = RunTask::new(&spec, &run, Arc::default());
    task.clone().drive(run, |_| {}).await;
    lock(&service.0.runs).by_id.insert(spec.id, task);
}

/// Returns the memory of this process, in bytes.
fn resident_bytes() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// Listens on a TCP port, and serves in the background.
async fn listen(service: &Service, listeners: Listeners) -> std::net::SocketAddr {
    let at = ([127, 0, 0, 1], 0).into();
    let (listeners, address) = listeners.bind_tcp(service, at).await.unwrap();
    let service = service.clone();
    tokio::spawn(async move { listeners.serve(&service, std::future::pending()).await });
    address
}

/// Sends a request and reads the first line of its response.
async fn first_line(stream: &mut TcpStream, head: &str) -> Option<String> {
    let head = format!("{head}\r\nhost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).await.ok()?;

    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        let byte = timeout(DEADLINE, stream.read_u8()).await.unwrap();
        line.push(byte.ok()?);
    }
    Some(String::from_utf8(line).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_cost_little_and_stall_no_one() {
    const READERS: usize = 16;

    let TestServer { service, .. } = test_server();
    let key = api_keys::create(&service.0.store, "ci", false).unwrap();
    let caller = service.0.key_cache.find(&service.0.store, &key);
    add_run(&service, &caller.unwrap().unwrap().owner).await;

    let address = listen(&service, Listeners::default()).await;
    let before = resident_bytes();

    let mut readers = Vec::new();
    for path in ["/v1/runs/run_1", "/v1/runs/run_1/events"] {
        for _ in 0..READERS / 2 {
            let mut reader = TcpStream::connect(address).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nauthorization: Bearer {key}");
            let line = first_line(&mut reader, &head).await;
            assert_eq!(line.as_deref(), Some("HTTP/1.1 200 OK\r\n"));
            readers.push(reader);
        }
    }

    let mut other = TcpStream::connect(address).await.unwrap();
    let healthy = first_line(&mut other, "GET /healthz HTTP/1.1").await;
    assert_eq!(healthy.as_deref(), Some("HTTP/1.1 200 OK\r\n"));

    // Half of the answers take 60 MiB each, and as many events 60 MiB altogether.
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 * MIB, "{} MiB", grown / MIB);

    // The answer of one who reads is complete.
    let mut rest = Vec::new();
    let reader = &mut readers[0];
    while rest.len() < 60 * MIB {
        let read = timeout(DEADLINE, reader.read_buf(&mut rest)).await;
        assert!(read.unwrap().unwrap() > 0);
    }
}

/// Serves a connection in memory, and returns the client's end.
fn serve_duplex(service: &Service) -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 * 1024);
    let connection = Connections::new(1).admit(None).unwrap();
    let app = app(service, Transport::UnixSocket);
    tokio::spawn(async move {
        // Dropping it would close the connection.
        let graceful = GracefulShutdown::new();
        serve_connection(server, app, graceful.watcher(), connection).await;
    });
    client
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_disconnected() {
    let TestServer { service, .. } = test_server();
    add_run(&service, &Owner::local()).await;

    for path in ["/v1/runs/run_1", "/v1/runs/run_1/events"] {
        let mut client = serve_duplex(&service);
        let head = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        client.write_all(head.as_bytes()).await.unwrap();

        let start = Instant::now();
        tokio::time::sleep(Duration::from_secs(61)).await;
        let mut answer = Vec::new();
        let read = timeout(DEADLINE, client.read_to_end(&mut answer)).await;
        assert!(
            read.is_ok(),
            "{path}: still connected after {:?}",
            start.elapsed()
        );
        assert!(answer.starts_with(b"HTTP/1.1 200 OK"), "{path}");
        assert!(answer.len() < MIB, "{path}");
    }
}

#[tokio::test]
async fn bodies_that_wait_count_for_their_key() {
    let TestServer { service, .. } = test_server();
    let keys = ["a", "b"].map(|name| api_keys::create(&service.0.store, name, false).unwrap());
    let send = |key: &str| {
        let bearer = format!("Bearer {key}");
        let chunk = Bytes::from(vec![b' '; MIB]);
        let chunks = stream::repeat(chunk).take(MAX_BODY_BYTES / MIB);
        let chunks = chunks.chain(stream::pending());
        let body = Body::from_stream(chunks.map(Ok::<_, std::io::Error>));
        let request = request(
            Method::POST,
            "/v1/runs",
            &[("authorization", &bearer)],
            body,
        );
        Box::pin(app(&service, Transport::Tcp).oneshot(request))
    };

    let mut waiting = Vec::new();
    for _ in 0..MAX_BYTES_PER_KEY / MAX_BODY_BYTES {
        let mut sent = send(&keys[0]);
        assert!(futures_util::poll!(&mut sent).is_pending());
        waiting.push(sent);
    }
    assert_eq!(service.0.memory.total(), MAX_BYTES_PER_KEY);

    let refused = send(&keys[0]).await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(futures_util::poll!(&mut send(&keys[1])).is_pending());

    drop(waiting);
    assert_eq!(service.0.memory.total(), 0);
    assert!(futures_util::poll!(&mut send(&keys[0])).is_pending());
}

#[tokio::test]
async fn large_answers_that_wait_count_for_their_key() {
    let TestServer { service, .. } = test_server();
    let key = api_keys::create(&service.0.store, "ci", false).unwrap();
    let caller = service.0.key_cache.find(&service.0.store, &key);
    let owner = caller.unwrap().unwrap().owner;

    let mut run = run_record("run_1");
    run.error = Some(RunError {
        kind: ApiErrorKind::Lost,
        retry: Retry::Never,
        message: "x".repeat(8 * MIB),
    });
    records::insert_run(&service.0.store, &owner, &run).unwrap();

    let bearer = format!("Bearer {key}");
    let list = async || -> Response {
        let sent = request(Method::GET, "/v1/runs", &[("authorization", &bearer)], "");
        app(&service, Transport::Tcp).oneshot(sent).await.unwrap()
    };

    let mut unread = Vec::new();
    loop {
        let answer = list().await;
        if answer.status() == StatusCode::TOO_MANY_REQUESTS {
            break;
        }
        unread.push(answer);
        assert!(unread.len() < 16, "no answer is refused");
    }
    assert_eq!(unread.len(), 7);

    unread.pop();
    assert_eq!(list().await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_large_answer_counts_until_it_has_been_sent() {
    let TestServer { service, .. } = test_server();
    let mut run = run_record("run_1");
    run.error = Some(RunError {
        kind: ApiErrorKind::Lost,
        retry: Retry::Never,
        message: "x".repeat(8 * MIB),
    });
    records::insert_run(&service.0.store, &Owner::local(), &run).unwrap();

    let mut client = serve_duplex(&service);
    let head = "GET /v1/runs HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; MIB];
    client.read_exact(&mut answer).await.unwrap();
    assert!(service.0.memory.total() > 8 * MIB);

    let rest = timeout(DEADLINE, client.read_to_end(&mut answer)).await;
    assert!(rest.unwrap().unwrap() > 7 * MIB);
    assert_eq!(service.0.memory.total(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_arrives_too_slowly_is_refused() {
    // It never pauses for long.
    let bytes = stream::repeat_with(|| Ok::<_, std::io::Error>(Bytes::from_static(b" ")));
    let bytes = bytes.then(async |byte| {
        tokio::time::sleep(Duration::from_secs(20)).await;
        byte
    });

    let start = Instant::now();
    let refused = read_body(Body::from_stream(bytes), MAX_BODY_BYTES, None).await;
    assert_eq!(refused.unwrap_err().kind, ApiErrorKind::Timeout);
    assert_eq!(start.elapsed(), Duration::from_secs(5 * 60));
}

#[tokio::test]
async fn heavy_work_leaves_the_runtime_to_others() {
    let TestServer { service, .. } = test_server();
    let here = std::thread::current().id();
    let there = service.do_heavy_work(|| std::thread::current().id()).await;
    assert_ne!(there.unwrap(), here);
}

#[tokio::test]
async fn the_outputs_of_one_owner_do_not_evict_those_of_others() {
    let TestServer { service, .. } = test_server();
    let mut tasks = Vec::new();
    for (id, owner, bytes) in [
        ("other", "b", MIB),
        ("first", "a", 100 * MIB),
        ("second", "a", 100 * MIB),
    ] {
        let run = Run::from_events(vec![Event::Stdout(Bytes::from_static(b"x"))]);
        let task = RunTask::new(&run_spec(id, &Owner::key(owner)), &run, Arc::default());
        task.clone().drive(run, |_| {}).await;
        tasks.push(task.clone());
        let mut runs = lock(&service.0.runs);
        runs.by_id.insert(id.into(), task);
        let ended = std::time::Instant::now();
        runs.ended.push_back((ended, id.into(), bytes));
        runs.ended_bytes += bytes;
    }

    service.retain_output("second");
    let runs = lock(&service.0.runs);
    let kept = ["other", "first", "second"].map(|id| runs.by_id.contains_key(id));
    assert_eq!(kept, [true, false, true]);

    // Those who still read an output do not keep it in memory.
    let held = tasks.iter().map(|task| task.output_bytes());
    assert_eq!(held.collect::<Vec<_>>(), [1, 0, 1]);
}

#[tokio::test]
async fn connections_without_requests_do_not_shut_the_door() {
    let TestServer { service, .. } = test_server();
    let key = api_keys::create(&service.0.store, "ci", false).unwrap();
    let address = listen(&service, Listeners::default().with_max_connections(8)).await;

    let mut idle = Vec::new();
    for _ in 0..20 {
        idle.push(TcpStream::connect(address).await.unwrap());
    }

    let mut client = TcpStream::connect(address).await.unwrap();
    let head = format!("GET /v1/runs HTTP/1.1\r\nauthorization: Bearer {key}");
    for _ in 0..2 {
        let line = timeout(DEADLINE, first_line(&mut client, &head)).await;
        assert_eq!(line.unwrap().as_deref(), Some("HTTP/1.1 200 OK\r\n"));
        client = TcpStream::connect(address).await.unwrap();
    }

    // Those that gave way are closed.
    for stream in &mut idle[..12] {
        let read = timeout(DEADLINE, stream.read(&mut [0; 1])).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))));
    }
}

#[tokio::test]
async fn the_body_of_a_run_counts_beside_the_run() {
    let TestServer { service, .. } = test_server();
    for (bytes, is_counted) in [(MIB, true), (1000, false)] {
        let body = json!({ "language": "shell", "code": "x".repeat(bytes) });
        let mut sent = request(Method::POST, "/v1/runs", &[], body.to_string());
        sent.extensions_mut()
            .insert(service.quota(&Owner::key("a")));
        let parsed = RunJson::<OneShotRunRequest>::from_request(sent, &service).await;
        let RunJson(_, charge) = parsed.unwrap();
        assert_eq!(charge.is_some(), is_counted);
        assert_eq!(service.0.memory.total() >= MIB, is_counted);
    }
}

#[tokio::test]
async fn the_request_of_a_run_counts_until_it_has_ended() {
    let TestServer { service, .. } = test_server();
    let quota = service.quota(&Owner::key("a"));

    let run = Run::from_events(vec![Event::Stdout(Bytes::from_static(b"x"))]);
    let spec = run_spec("run_1", &Owner::key("a"));
    let task = RunTask::new(&spec, &run, Arc::default());
    task.hold_request(quota.charge(MIB).unwrap());
    assert_eq!(service.0.memory.total(), MIB);

    task.clone().drive(run, |_| {}).await;
    assert_eq!(service.0.memory.total(), 0);

    // One that has ended before holds nothing.
    task.hold_request(quota.charge(MIB).unwrap());
    assert_eq!(service.0.memory.total(), 0);
}

/// A request whose body never ends. Returns it with the number of pieces that were read.
fn endless(headers: &[(&str, &str)]) -> (Request<RequestBody<Body>>, Arc<AtomicUsize>) {
    let read = Arc::new(AtomicUsize::new(0));
    let count = read.clone();
    let pieces = stream::repeat_with(move || {
        count.fetch_add(1, Ordering::Relaxed);
        Ok::<_, io::Error>(Bytes::from_static(&[0; MIB]))
    });

    let mut request = Request::builder();
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from_stream(pieces)).unwrap();
    (RequestBody::wrap(request), read)
}

#[tokio::test(start_paused = true)]
async fn the_rest_of_a_body_is_read_within_bounds() {
    let (request, read) = endless(&[]);
    drop(request);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read.load(Ordering::Relaxed), MAX_DRAINED_BYTES / MIB);

    let (request, read) = endless(&[("expect", "100-continue")]);
    drop(request);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stops_is_not_waited_for() {
    let held = Arc::new(());
    let captured = held.clone();
    let pieces = stream::pending::<Result<Bytes, io::Error>>().map(move |piece| {
        let _ = &captured;
        piece
    });
    drop(RequestBody::wrap(Request::new(Body::from_stream(pieces))));

    tokio::time::sleep(DRAIN_TIMEOUT - Duration::from_secs(1)).await;
    assert_eq!(Arc::strong_count(&held), 2);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(Arc::strong_count(&held), 1);
}

#[tokio::test]
async fn an_answer_that_does_not_wait_for_the_body_arrives() {
    let TestServer { service, .. } = test_server();
    let key = api_keys::create(&service.0.store, "ci", false).unwrap();
    let address = listen(&service, Listeners::default()).await;

    for (key, status) in [(key.as_str(), 404), ("wrong", 401)] {
        let mut client = TcpStream::connect(address).await.unwrap();
        let body = vec![0; 16 * MIB];
        let head = format!(
            "PUT /v1/sandboxes/sb_lost/files/content?path=x HTTP/1.1\r\nhost: localhost\r\n\
             authorization: Bearer {key}\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );

        // As many clients do: everything is sent first.
        client.write_all(head.as_bytes()).await.unwrap();
        timeout(DEADLINE, client.write_all(&body))
            .await
            .unwrap()
            .unwrap();
        let mut line = vec![0; "HTTP/1.1 404".len()];
        timeout(DEADLINE, client.read_exact(&mut line))
            .await
            .unwrap()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"));
    }
}
