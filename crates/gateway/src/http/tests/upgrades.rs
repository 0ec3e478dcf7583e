//! WebSocket passes; other protocols do not.

use super::*;

pub(super) const ASK: &str = "GET /ws HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\n\
    Upgrade: h2c, websocket\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n";

pub(super) const AGREE: &str =
    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

#[tokio::test]
async fn websocket_is_spliced_and_counted() {
    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    let forwarded = head(&mut server).await;
    assert!(
        forwarded.contains("upgrade: websocket\r\n") && !forwarded.contains("h2c"),
        "{forwarded}"
    );
    assert!(forwarded.contains("sec-websocket-extensions: permessage-deflate\r\n"));
    say(&mut server, AGREE).await;
    say(&mut server, "early").await;
    let received = head(&mut rig.guest).await;
    assert!(
        received.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{received}"
    );

    assert!(
        received.contains("upgrade: websocket\r\n") && received.contains("connection: upgrade\r\n")
    );
    expect(&mut rig.guest, "early").await;
    rig.send("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    expect(&mut server, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    say(&mut server, "late").await;
    expect(&mut rig.guest, "late").await;
    drop(server);
    rig.guest.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.guest).await, "");
    rig.proxy.await.unwrap().unwrap();
    let events = rig.recorder.events.lock().unwrap();
    assert_eq!((events[0].bytes_up, events[0].bytes_down), (35, 9));
    assert_eq!((events[0].status, events.len()), (Some(101), 1));
}

/// A client whose upgrade is refused receives the reason, even if it sends more.
#[tokio::test]
async fn a_refused_upgrade_ends_after_its_page() {
    for request in [
        ASK.replace("example.com", "evil.test"),
        ASK.replace("/ws", "/no-upgrades"),
        "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n".into(),
    ] {
        let mut rig = Rig::plain();
        rig.send(&request).await;
        assert!(head(&mut rig.guest).await.contains("403 Forbidden"));
        // The gateway still reads, so that nothing is reset before the guest has read the page.
        rig.send("and more").await;
        rig.guest.shutdown().await.unwrap();
        assert!(!rest(&mut rig.guest).await.is_empty());
        rig.proxy.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn an_upgrade_may_be_declined() {
    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(
        &mut server,
        "HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno",
    )
    .await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 400"));
    expect(&mut rig.guest, "no").await;
    rig.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        .await;
    assert!(head(&mut server).await.starts_with("GET / "));
}

#[tokio::test]
async fn another_protocol_is_neither_requested_nor_accepted() {
    for protocol in ["h2c", "tcp", "TLS/1.2"] {
        let mut rig = Rig::plain();
        rig.send(&ASK.replace("h2c, websocket", protocol)).await;
        let forwarded = head(&mut rig.server().await).await;
        assert!(
            !forwarded.contains("upgrade:") && !forwarded.contains("connection:"),
            "{forwarded}"
        );
    }

    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, &AGREE.replace("websocket", "h2c")).await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 502"));
}

#[tokio::test(start_paused = true)]
async fn an_upgraded_connection_may_be_idle_for_an_hour() {
    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, AGREE).await;
    head(&mut rig.guest).await;
    let start = tokio::time::Instant::now();
    let ended = rig.proxy.await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert_eq!(start.elapsed().as_secs(), UPGRADED_TIMEOUT.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_half_closed_upgrade_times_out() {
    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, AGREE).await;
    head(&mut rig.guest).await;
    server.shutdown().await.unwrap();
    let start = tokio::time::Instant::now();
    assert_eq!(rest(&mut rig.guest).await, "");
    let ended = rig.proxy.await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() <= IDLE_TIMEOUT + crate::stream::CLOSE_TIMEOUT);
}
