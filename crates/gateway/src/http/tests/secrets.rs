//! A secret reaches its host, and never the guest.

use bytes::Bytes;
use hyper::header::HeaderName;

use super::upgrades::{AGREE, ASK};
use super::*;
use crate::secret::{Secret, SecretText};
use crate::tls::{Authority, terminate};

const VALUE: &str = "sk-live-0123456789";

fn rig(host: &str, for_host: &str) -> (Rig, String) {
    let (secrets, placeholder) = secrets(for_host);
    (Rig::new(Scheme::Tls(host.to_owned()), secrets), placeholder)
}

fn secrets(host: &str) -> (Secrets, String) {
    let value = SecretText::new(VALUE.to_owned()).unwrap();
    let header = vec![HeaderName::from_static("authorization")];
    let secret = Secret::new("key".to_owned(), value, vec![host.to_owned()], header).unwrap();
    let placeholder = secret.placeholder().to_owned();
    (Secrets::new(vec![secret]), placeholder)
}

fn ask(placeholder: &str) -> String {
    format!(
        "GET / HTTP/1.1\r\nHost: example.com\r\nAuthorization: Bearer {placeholder}\r\nAccept-Encoding: br\r\n\r\n"
    )
}

#[tokio::test]
async fn an_echo_is_redacted_wherever_it_is_split() {
    for cut in 1..VALUE.len() {
        let (mut rig, placeholder) = rig("example.com", "example.com");
        rig.send(&ask(&placeholder)).await;
        let mut server = rig.server().await;
        let forwarded = head(&mut server).await;
        assert!(
            forwarded.contains(&format!("authorization: Bearer {VALUE}\r\n")),
            "{forwarded}"
        );
        assert!(forwarded.contains("accept-encoding: identity\r\n"));
        let (one, two) = VALUE.split_at(cut);
        say(
            &mut server,
            &format!("HTTP/1.1 200 OK\r\nX-Echo: {VALUE}\r\nContent-Length: 22\r\n\r\nA {one}"),
        )
        .await;

        let received = head(&mut rig.guest).await;
        assert!(
            received.contains("x-echo: ********\r\n") && !received.contains("content-length"),
            "{received}"
        );
        say(&mut server, &format!("{two} B")).await;
        expect(&mut rig.guest, "C\r\nA ******** B\r\n0\r\n\r\n").await;
        drop((server, rig.guest));
        rig.proxy.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn chunks_are_redacted_to_the_end() {
    let (mut rig, placeholder) = rig("example.com", "example.com");
    rig.send(&ask(&placeholder)).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    let (one, two) = VALUE.split_at(5);
    say(
        &mut server,
        &format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
             5\r\n{one}\r\nd\r\n{two}\r\n4\r\nsk-l\r\n0\r\nx-end: {VALUE}\r\n\r\n"
        ),
    )
    .await;

    let received = rest(&mut rig.guest).await;
    assert!(
        received.ends_with("C\r\n********sk-l\r\n0\r\n\r\n"),
        "{received}"
    );
}

#[tokio::test]
async fn a_placeholder_for_another_host_is_refused() {
    let (mut rig, placeholder) = rig("example.com", "other.test");
    rig.send(&ask(&placeholder)).await;
    let received = last(&mut rig.guest).await;
    assert!(
        received.starts_with("HTTP/1.1 403 ")
            && received.contains("x-fumehood-denied: secret_elsewhere\r\n"),
        "{received}"
    );

    rig.assert_no_server_contacted();
}

#[tokio::test]
async fn plain_http_and_bodies_get_no_value() {
    let (secrets, placeholder) = secrets("example.com");
    let mut rig = Rig::new(Scheme::Plain, secrets);
    rig.send(&ask(&placeholder)).await;
    assert!(head(&mut rig.server().await).await.contains(&placeholder));
    let (secrets, placeholder) = self::secrets("example.com");
    let mut rig = Rig::new(Scheme::Tls("example.com".to_owned()), secrets);
    rig.send(&format!(
        "POST /{placeholder} HTTP/1.1\r\nHost: example.com\r\nX: {placeholder}\r\nContent-Length: 48\r\n\r\n{placeholder}"
    ))
    .await;

    let mut server = rig.server().await;
    let forwarded = head(&mut server).await;
    assert_eq!(forwarded.matches(&placeholder).count(), 2, "{forwarded}");
    expect(&mut server, &placeholder).await;
}

#[tokio::test]
async fn only_whole_answers_without_an_encoding_are_requested_and_passed_on() {
    for (status, header) in [
        ("200 OK", "Content-Encoding: gzip"),
        ("200 OK", "Content-Encoding: identity, br"),
        ("206 Partial Content", "Content-Range: bytes 0-1/5"),
    ] {
        let (mut rig, placeholder) = rig("example.com", "example.com");
        let request = ask(&placeholder).replace("\r\n\r\n", "\r\nRange: bytes=0-1\r\n\r\n");
        rig.send(&request).await;
        let mut server = rig.server().await;
        let forwarded = head(&mut server).await;
        assert!(!forwarded.contains("range"), "{forwarded}");

        let answer = format!("HTTP/1.1 {status}\r\n{header}\r\nContent-Length: 2\r\n\r\nhi");
        say(&mut server, &answer).await;
        let received = last(&mut rig.guest).await;
        assert!(received.starts_with("HTTP/1.1 502 "), "{received}");
    }
}

#[tokio::test]
async fn an_empty_answer_has_no_body() {
    for answer in [
        "204 No Content\r\n\r\n",
        "200 OK\r\nContent-Length: 0\r\n\r\n",
    ] {
        let (mut rig, placeholder) = rig("example.com", "example.com");
        rig.send(&ask(&placeholder)).await;
        let mut server = rig.server().await;
        head(&mut server).await;
        say(&mut server, &format!("HTTP/1.1 {answer}")).await;
        let received = last(&mut rig.guest).await;
        assert!(!received.contains("chunked"), "{received}");
    }
}

#[tokio::test]
async fn websocket_is_redacted_on_the_way_down() {
    let (mut rig, _) = rig("example.com", "example.com");
    rig.send(ASK).await;
    let mut server = rig.server().await;
    assert!(!head(&mut server).await.contains("deflate"));
    say(&mut server, AGREE).await;
    head(&mut rig.guest).await;

    // The value in two frames of one message, with a ping between them, and the next message.
    let (one, two) = VALUE.split_at(7);
    server.write_all(b"\x01\x08<").await.unwrap();
    say(&mut server, one).await;
    server.write_all(b"\x89\x12").await.unwrap();
    say(&mut server, VALUE).await;
    server.write_all(b"\x80\x0c").await.unwrap();
    say(&mut server, &format!("{two}>")).await;
    server.write_all(b"\x81\x00\x82\x7e\x00\x80").await.unwrap();
    say(&mut server, &"x".repeat(128)).await;

    let last = format!("\x7e\x00\u{80}{}", "x".repeat(128)).replace('\u{80}', "?");
    let expected = format!("?\x08********?\x0a<********>?\x00?{last}");
    let mut received = vec![0; expected.len()];
    rig.guest.read_exact(&mut received).await.unwrap();
    for byte in &mut received {
        if !byte.is_ascii() {
            *byte = b'?';
        }
    }
    assert_eq!(String::from_utf8(received).unwrap(), expected);
}

/// Each of these would hide a value, or break the framing.
#[tokio::test]
async fn websocket_frames_that_cannot_be_redacted_end_the_connection() {
    let cases: [&[u8]; 6] = [
        b"\xc1\x01x",
        b"\x81\x81\x00\x00\x00\x00x",
        b"\x80\x01x",
        b"\x01\x01x\x81\x01x",
        b"\x09\x01x",
        b"\x89\x7e\x00\x7e",
    ];
    for frames in cases {
        let (mut rig, _) = rig("example.com", "example.com");
        rig.send(ASK).await;
        let mut server = rig.server().await;
        head(&mut server).await;
        say(&mut server, AGREE).await;
        head(&mut rig.guest).await;
        server.write_all(frames).await.unwrap();
        let error = rig.proxy.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{frames:?}");
    }
}

/// Returns what a guest receives after each piece that a host sends, until nothing more comes.
async fn received_after_each(start: &str, pieces: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let (mut rig, placeholder) = rig("example.com", "example.com");
    let request = if start == AGREE {
        ASK.to_owned()
    } else {
        ask(&placeholder)
    };
    rig.send(&request).await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, start).await;
    head(&mut rig.guest).await;

    let mut received = Vec::new();
    for piece in pieces {
        server.write_all(piece).await.unwrap();
        let mut after_piece = Vec::new();
        // The clock is paused: it moves when all tasks wait.
        let second = std::time::Duration::from_secs(1);
        while let Ok(byte) = tokio::time::timeout(second, rig.guest.read_u8()).await {
            after_piece.push(byte.unwrap());
        }
        received.push(after_piece);
    }
    received
}

/// The guest makes the host say the start of the value, or the same number of other bytes, and watches what arrives when.
#[tokio::test(start_paused = true)]
async fn a_guest_cannot_see_whether_a_host_said_a_part_of_a_value() {
    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
    let frame = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        [&[1, length], text.as_bytes()].concat()
    };
    let sizes = |received: Vec<Vec<u8>>| received.iter().map(Vec::len).collect::<Vec<_>>();

    let cut = VALUE.len() - 1;
    let other = "x".repeat(cut);
    for said in [&VALUE[..4], &VALUE[..cut]] {
        let texts =
            [&other[..said.len()], said].map(|said| [format!("a\n{said}"), "b\n".to_owned()]);
        let pages = texts.clone().map(|texts| texts.map(|text| chunk(&text)));
        let [without, with] = pages;
        assert_eq!(
            sizes(received_after_each(CHUNKED, &without).await),
            sizes(received_after_each(CHUNKED, &with).await)
        );

        let frames = texts.map(|[first, second]| {
            let mut next = frame(&second);
            next[0] = 0x80;
            [frame(&first), next]
        });
        let [without, with] = frames;
        assert_eq!(
            sizes(received_after_each(AGREE, &without).await),
            sizes(received_after_each(AGREE, &with).await)
        );
    }
}

/// Returns the answer that a guest receives through TLS on both sides from a server of `authority`.
async fn through(authority: &Authority, trusted: &Authority) -> String {
    let sandbox = Authority::new().unwrap();
    let (asks, mut servers) = mpsc::unbounded_channel();
    let trust = crate::tls::tests::trust_in(trusted);
    let connect: Connector = Box::new(move || {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let _ = asks.send(far);
        let trust = trust.clone();
        Box::pin(async move {
            let tls = trust.connect(near, "example.com").await?;
            Ok(Box::new(tls) as Box<dyn Stream>)
        })
    });

    let (secrets, placeholder) = secrets("example.com");
    let recorder = Arc::new(Recorder::default());
    let proxy = Proxy {
        scheme: Scheme::Tls("example.com".to_owned()),
        filter: Arc::clone(&recorder) as Arc<dyn RequestFilter>,
        observer: recorder,
        secrets: Arc::new(secrets),
        answer_timeout: ANSWER_TIMEOUT,
        connect,
    };

    let (guest, near) = tokio::io::duplex(64 * 1024);
    let client = async {
        let trust = crate::tls::tests::trust_in(&sandbox);
        let mut tls = trust.connect(guest, "example.com").await.unwrap();
        tls.write_all(ask(&placeholder).as_bytes()).await.unwrap();
        let mut received = String::new();
        tls.read_to_string(&mut received).await.unwrap();
        received
    };

    let gateway = async {
        let tls = terminate(near, Bytes::new(), "example.com", &sandbox).await;
        proxy.serve(tls.unwrap()).await.unwrap();
    };

    let server = async {
        let far: DuplexStream = servers.recv().await.unwrap();
        if let Ok(mut tls) = terminate(far, Bytes::new(), "example.com", authority).await {
            let mut forwarded = vec![0; 4096];
            let length = tls.read(&mut forwarded).await.unwrap();
            let forwarded = std::str::from_utf8(&forwarded[..length]).unwrap();
            assert!(forwarded.contains(VALUE) && !forwarded.contains(&placeholder));
            let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nyou sent {VALUE}");
            tls.write_all(answer.as_bytes()).await.unwrap();
            tls.shutdown().await.unwrap();
        }
    };

    tokio::join!(client, gateway, server).0
}

#[tokio::test]
async fn tls_is_terminated_and_opened_again() {
    let public = Authority::new().unwrap();
    let received = through(&public, &public).await;
    assert!(received.starts_with("HTTP/1.1 200 OK\r\n"), "{received}");
    assert!(
        received.contains("you sent ") && !received.contains(VALUE),
        "{received}"
    );
}

#[tokio::test]
async fn an_untrusted_server_receives_nothing() {
    let (stranger, public) = (Authority::new().unwrap(), Authority::new().unwrap());
    let received = through(&stranger, &public).await;
    assert!(
        received.starts_with("HTTP/1.1 502 Bad Gateway\r\n"),
        "{received}"
    );

    assert!(
        received.contains("certificate is not trusted"),
        "{received}"
    );
}
