//! Where messages start and end; both sides must agree on it.

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n";

#[tokio::test]
async fn two_lengths_smuggle_nothing() {
    let mut rig = Rig::plain();
    rig.send(
        "POST /outer HTTP/1.1\r\nHost: example.com\r\nContent-Length: 49\r\nTransfer-Encoding: chunked\r\n\r\n\
         0\r\n\r\nGET /inner HTTP/1.1\r\nHost: example.com\r\n\r\n",
    )
    .await;

    let mut server = rig.server().await;
    let forwarded = head(&mut server).await;
    assert!(forwarded.starts_with("POST /outer"));
    assert!(!forwarded.contains("content-length"), "{forwarded}");
    expect(&mut server, "0\r\n\r\n").await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    assert!(head(&mut rig.guest).await.contains("connection: close\r\n"));
    // Bytes after the body are not parsed as a request: the connection ends after such a message.
    rig.guest.shutdown().await.unwrap();
    assert_eq!(rest(&mut rig.guest).await, "");
    assert_eq!(rest(&mut server).await, "");
    assert_eq!(
        *rig.recorder.checked.lock().unwrap(),
        ["POST example.com/outer"]
    );
}

#[tokio::test]
async fn an_ambiguous_framing_is_refused() {
    for header in [
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: chunked, identity",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
        "Content-Length: 1\r\nContent-Length: 2",
        "Content-Length: +1",
        "Content-Length : 1",
        "Bad\0: 1",
        "Folded: a\r\n b",
    ] {
        let mut rig = Rig::plain();
        rig.send(&format!(
            "POST / HTTP/1.1\r\nHost: example.com\r\n{header}\r\n\r\n"
        ))
        .await;
        rig.guest.shutdown().await.unwrap();
        let answer = rest(&mut rig.guest).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{header}: {answer}");
        rig.assert_no_server_contacted();
    }
}

#[tokio::test]
async fn hop_by_hop_headers_are_removed() {
    let mut rig = Rig::plain();
    rig.send(
        "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: keep-alive, X-Private, Host\r\nX-Private: 1\r\n\
         Keep-Alive: 5\r\nTE: trailers\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nUpgrade: h2c\r\n\
         HTTP2-Settings: x\r\nX-Public: 1\r\n\r\n",
    )
    .await;

    let mut server = rig.server().await;
    let forwarded = head(&mut server).await;
    assert_eq!(
        forwarded,
        "GET / HTTP/1.1\r\nx-public: 1\r\nhost: example.com\r\n\r\n"
    );

    say(
        &mut server,
        "HTTP/1.1 200 OK\r\nConnection: close, X-Private\r\nX-Private: 1\r\nTransfer-Encoding: chunked\r\n\
         Trailer: x-end\r\nX-Public: 1\r\n\r\n2\r\nhi\r\n0\r\nx-end: 1\r\n\r\n",
    )
    .await;

    let received = head(&mut rig.guest).await;
    assert!(
        received.contains("x-public: 1\r\n") && received.contains("connection: close\r\n"),
        "{received}"
    );

    assert!(
        !received.contains("private") && !received.contains("trailer"),
        "{received}"
    );

    assert_eq!(rest(&mut rig.guest).await, "2\r\nhi\r\n0\r\n\r\n");
}

#[tokio::test]
async fn chunks_pass_both_ways_even_with_get() {
    let mut rig = Rig::plain();
    rig.send(
        "GET / HTTP/1.1\r\nHost: example.com\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    )
    .await;

    let mut server = rig.server().await;
    assert!(
        head(&mut server)
            .await
            .contains("transfer-encoding: chunked\r\n")
    );
    expect(&mut server, "3\r\nabc\r\n").await;
    rig.send("0\r\n\r\n").await;
    expect(&mut server, "0\r\n\r\n").await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n",
    )
    .await;
    head(&mut rig.guest).await;
    expect(&mut rig.guest, "1\r\nx\r\n").await;
    say(&mut server, "0\r\n\r\n").await;
    expect(&mut rig.guest, "0\r\n\r\n").await;
    assert_eq!((rig.event().await.bytes_up, rig.event_count()), (3, 0));
}

impl Rig {
    fn event_count(&self) -> usize {
        self.recorder.events.lock().unwrap().len()
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_length() {
    for (method, answer, length) in [
        (
            "HEAD",
            "HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n",
            Some("content-length: 7\r\n"),
        ),
        (
            "GET",
            "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
            None,
        ),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\n", None),
    ] {
        let mut rig = Rig::plain();
        for _ in 0..2 {
            rig.send(&GET.replace("GET", method)).await;
        }

        let mut server = rig.server().await;
        for _ in 0..2 {
            head(&mut server).await;
            say(&mut server, answer).await;
            let received = head(&mut rig.guest).await;
            assert!(
                length.is_none_or(|length| received.contains(length)),
                "{received}"
            );
        }
    }
}

#[tokio::test]
async fn the_guest_receives_100_continue() {
    let mut rig = Rig::plain();
    rig.send(
        "POST / HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n",
    )
    .await;
    expect(&mut rig.guest, "HTTP/1.1 100 Continue\r\n\r\n").await;
    rig.send("abc").await;
    let mut server = rig.server().await;
    assert!(!head(&mut server).await.contains("expect"));
    expect(&mut server, "abc").await;
    say(
        &mut server,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n",
    )
    .await;

    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 201"));
}

#[tokio::test]
async fn an_answer_may_come_before_the_request_ends() {
    let mut rig = Rig::plain();
    rig.send("POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 10\r\n\r\nabc")
        .await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(
        &mut server,
        "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno",
    )
    .await;
    assert!(head(&mut rig.guest).await.starts_with("HTTP/1.1 413"));
    expect(&mut rig.guest, "no").await;
}

#[tokio::test]
async fn a_broken_off_answer_is_broken_off_for_the_guest() {
    for (answer, whole) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", "abc"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "3\r\nabc\r\n",
        ),
    ] {
        let mut rig = Rig::plain();
        rig.send(GET).await;
        let mut server = rig.server().await;
        head(&mut server).await;
        say(&mut server, answer).await;
        drop(server);
        head(&mut rig.guest).await;
        assert_eq!(rest(&mut rig.guest).await, whole);
        assert!(rig.proxy.await.unwrap().is_err());
    }
}

#[tokio::test]
async fn an_answer_that_is_too_long_is_cut_at_its_length() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    let more = "HTTP/1.1 200 OK\r\nX-Evil: 1\r\nContent-Length: 0\r\n\r\n";
    say(
        &mut server,
        &format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{more}"),
    )
    .await;
    head(&mut rig.guest).await;
    expect(&mut rig.guest, "ok").await;
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(
        &mut server,
        "HTTP/1.1 200 OK\r\nX-Good: 1\r\nContent-Length: 0\r\n\r\n",
    )
    .await;

    let received = head(&mut rig.guest).await;
    assert!(
        received.contains("x-good") && !received.contains("x-evil"),
        "{received}"
    );
}

#[tokio::test]
async fn a_server_that_speaks_no_http_is_a_bad_gateway() {
    for answer in [
        "SSH-2.0-Open\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: a\0b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ] {
        let mut rig = Rig::plain();
        rig.send(GET).await;
        let mut server = rig.server().await;
        head(&mut server).await;
        say(&mut server, answer).await;
        assert!(
            head(&mut rig.guest).await.starts_with("HTTP/1.1 502"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn a_head_at_the_limit_is_accepted_and_one_past_it_is_not() {
    let request = |size: usize| {
        let frame = "GET / HTTP/1.1\r\nHost: example.com\r\nX: \r\n\r\n";
        frame.replace("X: ", &format!("X: {}", "x".repeat(size - frame.len())))
    };

    let headers = |count: usize| {
        GET.replace(
            "\r\n\r\n",
            &format!("\r\n{}\r\n", "X: 1\r\n".repeat(count - 1)),
        )
    };

    for fits in [request(MAX_HEAD_BYTES), headers(MAX_HEADERS)] {
        let mut rig = Rig::plain();
        rig.send(&fits).await;
        let forwarded = head(&mut rig.server().await).await;
        assert!(forwarded.starts_with("GET / "));
    }

    for past in [request(MAX_HEAD_BYTES + 1), headers(MAX_HEADERS + 1)] {
        let mut rig = Rig::plain();
        rig.send(&past).await;
        let received = head(&mut rig.guest).await;
        assert!(received.starts_with("HTTP/1.1 431"), "{received}");
        rig.assert_no_server_contacted();
    }
}

#[tokio::test]
async fn endless_headers_are_not_collected() {
    let mut rig = Rig::plain();
    rig.send("GET / HTTP/1.1\r\nHost: example.com\r\n").await;
    let (mut read, mut write) = tokio::io::split(&mut rig.guest);
    let sending = async move {
        let mut sent = 0;
        while write.write_all(&[b'x'; 1024]).await.is_ok() && sent < 10 << 20 {
            sent += 1024;
        }
        sent
    };

    let mut answer = Vec::new();
    let (sent, _) = tokio::join!(sending, read.read_to_end(&mut answer));
    assert!(sent < 1 << 20, "{sent} bytes were accepted");
    assert!(answer.starts_with(b"HTTP/1.1 431"));
}

#[tokio::test]
async fn large_bodies_stream_both_ways() {
    const SIZE: usize = 4 << 20;
    let mut rig = Rig::plain();
    rig.send(&format!(
        "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: {SIZE}\r\n\r\n"
    ))
    .await;

    let mut server = rig.server().await;
    let echo = async {
        head(&mut server).await;
        say(
            &mut server,
            &format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"),
        )
        .await;

        let (mut read, mut write) = tokio::io::split(&mut server);
        let copied = tokio::io::copy(&mut (&mut read).take(SIZE as u64), &mut write).await;
        assert_eq!(copied.unwrap(), SIZE as u64);
    };

    let (mut read, mut write) = tokio::io::split(&mut rig.guest);
    let sending = async { write.write_all(&vec![7; SIZE]).await.unwrap() };
    let reading = async {
        let mut bytes = vec![0; SIZE + 100];
        let mut received = 0;
        while received < SIZE {
            received += read.read(&mut bytes[received..]).await.unwrap();
        }
    };
    tokio::join!(echo, sending, reading);
    drop(read);
    drop(write);
    drop(rig.guest);
    rig.proxy.await.unwrap().unwrap();
    let event = rig.recorder.events.lock().unwrap().pop().unwrap();
    assert_eq!(
        (event.bytes_up, event.bytes_down),
        (SIZE as u64, SIZE as u64)
    );
}

#[tokio::test]
async fn a_connection_that_was_closed_meanwhile_is_opened_again() {
    let mut rig = Rig::plain();
    for _ in 0..2 {
        rig.send(GET).await;
        let mut server = rig.server().await;
        head(&mut server).await;
        say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
        head(&mut rig.guest).await;
    }
}

#[tokio::test]
async fn a_connection_that_is_closed_under_a_request_is_closed_to_the_guest() {
    let mut rig = Rig::plain();
    rig.send(GET).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    head(&mut rig.guest).await;
    rig.send(GET).await;
    head(&mut server).await;
    drop(server);
    assert_eq!(rest(&mut rig.guest).await, "");
    assert!(rig.proxy.await.unwrap().is_err());
}
