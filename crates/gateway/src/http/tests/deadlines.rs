//! That nothing is waited for without end.

use tokio::time::{Instant, sleep};

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

async fn timed_out(rig: &mut Rig) {
    let ended = (&mut rig.proxy).await.unwrap();
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
}

#[tokio::test(start_paused = true)]
async fn a_head_that_trickles_is_given_up() {
    let mut rig = Rig::plain();
    let begun = Instant::now();
    rig.send("GET / HTTP/1.1\r\nHost: example.com\r\n").await;
    while !rig.proxy.is_finished() {
        let _ = rig.guest.write_all(b"X: y\r\n").await;
        sleep(Duration::from_secs(1)).await;
    }
    timed_out(&mut rig).await;
    let waited = begun.elapsed();
    assert!(
        waited >= HEAD && waited < HEAD + Duration::from_secs(3),
        "{waited:?}"
    );
    rig.nobody_was_asked();
}

#[tokio::test(start_paused = true)]
async fn a_connection_may_rest_between_requests_and_no_longer() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    for _ in 0..2 {
        head(&mut server).await;
        say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        head(&mut rig.guest).await;
        sleep(IDLE - Duration::from_secs(1)).await;
        rig.send(GET).await;
    }
    head(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    head(&mut rig.guest).await;
    let begun = Instant::now();
    timed_out(&mut rig).await;
    assert_eq!(begun.elapsed().as_secs(), IDLE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_silent_is_a_timeout() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    let begun = Instant::now();
    let got = head(&mut rig.guest).await;
    assert!(got.starts_with("HTTP/1.1 504"), "{got}");
    assert_eq!(begun.elapsed().as_secs(), ANSWER.as_secs());
    rig.guest.shutdown().await.unwrap();
    assert_eq!(
        rest(&mut rig.guest).await,
        "the server did not answer within 300 s\n"
    );
    assert_eq!(rest(&mut server).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_server_has_its_time_after_the_last_byte_of_the_request() {
    let mut rig = Rig::plain();
    rig.send("PUT / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\n\r\n")
        .await;
    let mut server = rig.server().await;
    head(&mut server).await;
    for _ in 0..4 {
        sleep(ANSWER - Duration::from_secs(1)).await;
        rig.send("x").await;
    }
    expect(&mut server, "xxxx").await;
    sleep(ANSWER - Duration::from_secs(1)).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(start_paused = true)]
async fn bodies_that_stand_still_are_given_up() {
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
async fn a_server_that_is_not_there_is_a_bad_gateway() {
    let mut rig = Rig::failing(|| {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        Box::pin(async { Err(Unreachable::Failed(refused)) })
    });
    rig.send(GET).await;
    let got = last(&mut rig.guest).await;
    assert!(got.starts_with("HTTP/1.1 502 Bad Gateway\r\n"), "{got}");
    assert!(got.contains("connection refused"), "{got}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_never_made_is_a_timeout() {
    let mut rig = Rig::failing(|| Box::pin(std::future::pending()));
    rig.send(GET).await;
    let got = head(&mut rig.guest).await;
    assert!(got.starts_with("HTTP/1.1 504 Gateway Timeout\r\n"), "{got}");
}

#[tokio::test]
async fn a_proxy_that_is_dropped_ends_both_connections() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    rig.proxy.abort();
    assert_eq!(rest(&mut server).await, "");
    assert_eq!(rest(&mut rig.guest).await, "");
}
