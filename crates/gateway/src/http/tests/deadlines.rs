//! Every wait has a deadline.

use tokio::time::{Instant, sleep};

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

async fn timed_out(rig: &mut Rig) {
    let ended = (&mut rig.proxy).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_times_out() {
    let mut rig = Rig::plain();
    let start = Instant::now();
    rig.send("GET / HTTP/1.1\r\nHost: example.com\r\n").await;

    while !rig.proxy.is_finished() {
        let _ = rig.guest.write_all(b"X: y\r\n").await;
        sleep(Duration::from_secs(1)).await;
    }

    timed_out(&mut rig).await;
    let waited = start.elapsed();
    assert!(
        waited >= HEAD_TIMEOUT && waited < HEAD_TIMEOUT + Duration::from_secs(3),
        "{waited:?}"
    );

    rig.assert_no_server_contacted();
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_be_idle_between_requests_until_the_deadline() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;

    for _ in 0..2 {
        head(&mut server).await;
        say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        head(&mut rig.guest).await;
        sleep(IDLE_TIMEOUT - Duration::from_secs(1)).await;
        rig.send(GET).await;
    }

    head(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    head(&mut rig.guest).await;
    let start = Instant::now();
    timed_out(&mut rig).await;
    assert_eq!(start.elapsed().as_secs(), IDLE_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_a_gateway_timeout() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    let start = Instant::now();
    let received = head(&mut rig.guest).await;
    assert!(received.starts_with("HTTP/1.1 504"), "{received}");
    assert_eq!(start.elapsed().as_secs(), ANSWER_TIMEOUT.as_secs());
    rig.guest.shutdown().await.unwrap();
    assert_eq!(
        rest(&mut rig.guest).await,
        "the server did not answer within 300 s\n"
    );

    assert_eq!(rest(&mut server).await, "");
}

#[tokio::test(start_paused = true)]
async fn the_answer_deadline_starts_after_the_last_byte_of_the_request() {
    let mut rig = Rig::plain();
    rig.send("PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\n")
        .await;
    let mut server = rig.server().await;
    head(&mut server).await;

    for _ in 0..4 {
        sleep(ANSWER_TIMEOUT - Duration::from_secs(1)).await;
        rig.send("x").await;
    }

    expect(&mut server, "xxxx").await;
    sleep(ANSWER_TIMEOUT - Duration::from_secs(1)).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn stalled_bodies_time_out() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc",
    )
    .await;
    timed_out(&mut rig).await;
    assert_eq!(rest(&mut server).await, "");
}

#[tokio::test]
async fn an_unreachable_server_is_a_bad_gateway() {
    let mut rig = Rig::failing(|| {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        Box::pin(async { Err(UpstreamError::Failed(refused)) })
    });
    rig.send(GET).await;
    let received = last(&mut rig.guest).await;
    assert!(
        received.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{received}"
    );

    assert!(received.contains("connection refused"), "{received}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_never_made_is_a_gateway_timeout() {
    let mut rig = Rig::failing(|| Box::pin(std::future::pending()));
    rig.send(GET).await;
    let received = head(&mut rig.guest).await;
    assert!(
        received.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"),
        "{received}"
    );
}

#[tokio::test]
async fn a_dropped_proxy_closes_both_connections() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    rig.proxy.abort();
    assert_eq!(rest(&mut server).await, "");
    assert_eq!(rest(&mut rig.guest).await, "");
}
