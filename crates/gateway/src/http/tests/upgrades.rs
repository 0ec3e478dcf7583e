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
    let asked = head(&mut server).await;
    assert!(
        asked.contains("upgrade: websocket\r\n") && !asked.contains("h2c"),
        "{asked}"
    );
    assert!(asked.contains("sec-websocket-extensions: permessage-deflate\r\n"));
    say(&mut server, AGREE).await;
    say(&mut server, "early").await;
    let got = head(&mut rig.guest).await;
    assert!(
        got.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{got}"
    );
    assert!(got.contains("upgrade: websocket\r\n") && got.contains("connection: upgrade\r\n"));
    expect(&mut rig.guest, "early").await;
    rig.send("GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    expect(&mut server, "GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n").await;
    say(&mut server, "late").await;
    expect(&mut rig.guest, "late").await;
    drop(server);
    rig.guest.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.guest).await, "");
    rig.proxy.await.unwrap().unwrap();
    let events = rig.both.events.lock().unwrap();
    assert_eq!((events[0].up, events[0].down), (35, 9));
    assert_eq!((events[0].status, events.len()), (Some(101), 1));
}

/// Who asks for another protocol and is refused reads why, also when it has more to say.
#[tokio::test]
async fn a_refused_upgrade_ends_after_its_page() {
    for asked in [
        ASK.replace("example.com", "evil.test"),
        "CONNECT evil.test:443 HTTP/1.1\r\nHost: evil.test:443\r\n\r\n".into(),
    ] {
        let mut rig = Rig::plain();
        rig.send(&asked).await;
        assert!(head(&mut rig.guest).await.contains("403 Forbidden"));
        // It is still listened to, so that nothing is reset before the page is read.
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
async fn another_protocol_is_neither_asked_for_nor_taken() {
    for protocol in ["h2c", "tcp", "TLS/1.2"] {
        let mut rig = Rig::plain();
        rig.send(&ASK.replace("h2c, websocket", protocol)).await;
        let asked = head(&mut rig.server().await).await;
        assert!(
            !asked.contains("upgrade:") && !asked.contains("connection:"),
            "{asked}"
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
async fn an_upgraded_connection_may_rest_for_an_hour() {
    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, AGREE).await;
    head(&mut rig.guest).await;
    let begun = tokio::time::Instant::now();
    let ended = rig.proxy.await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert_eq!(begun.elapsed().as_secs(), UPGRADED.as_secs());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_has_ended_is_not_spoken_to_for_long() {
    let mut rig = Rig::plain();
    rig.send(ASK).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, AGREE).await;
    head(&mut rig.guest).await;
    server.shutdown().await.unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(rest(&mut rig.guest).await, "");
    let ended = rig.proxy.await.unwrap().unwrap_err();
    assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
    assert!(begun.elapsed() <= IDLE + crate::stream::LINGER);
}
