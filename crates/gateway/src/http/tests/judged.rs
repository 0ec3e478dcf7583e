//! Refused requests, which must not reach a server.

use super::*;

/// Sends a request and checks the page that refuses it.
async fn refused(rig: &mut Rig, request: &str, reason: &str) -> String {
    rig.send(request).await;
    let head = head(&mut rig.guest).await;
    assert!(head.contains(" 403 Forbidden\r\n"), "{request:?}: {head}");
    assert!(
        head.contains(&format!("x-fumehood-denied: {reason}\r\n")),
        "{request:?}: {head}"
    );
    assert!(head.contains("connection: close\r\n"));
    assert!(head.contains("content-type: text/plain; charset=utf-8\r\n"));
    rig.guest.shutdown().await.unwrap();
    let body = rest(&mut rig.guest).await;
    assert!(head.contains(&format!("content-length: {}\r\n", body.len())));

    body
}

#[tokio::test]
async fn a_denied_request_gets_a_page_and_a_record() {
    let mut rig = Rig::plain();
    let request = "GET /x HTTP/1.1\r\nHost: evil.test\r\n\r\n";
    let body = refused(&mut rig, request, "not_allowed").await;
    assert_eq!(body, "policy \"test\" denies GET evil.test\n");
    rig.assert_no_server_contacted();
    let event = rig.event().await;
    assert_eq!(
        (event.status, event.refused),
        (Some(403), Some("not_allowed"))
    );

    assert_eq!(event.host, "evil.test");
}

/// Requests that name no host, several hosts, or one in a way that other readers may understand differently.
const UNCLEAR: [(&str, &str); 22] = [
    (
        "GET / HTTP/1.1\r\nHost: example.com\r\nHost: example.com\r\n\r\n",
        "host_count",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com\r\nhost: evil.test\r\n\r\n",
        "host_count",
    ),
    ("GET / HTTP/1.1\r\n\r\n", "host_count"),
    ("GET / HTTP/1.0\r\n\r\n", "host_count"),
    ("GET / HTTP/1.1\r\nHost:\r\n\r\n", "host_invalid"),
    (
        "GET / HTTP/1.1\r\nHost: example.com, evil.test\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com@evil.test\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com/x\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com:\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com:0\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com:080\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com:65536\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET / HTTP/1.1\r\nHost: example.com.\r\n\r\n",
        "host_invalid",
    ),
    ("GET / HTTP/1.1\r\nHost: 0x7f.1\r\n\r\n", "host_invalid"),
    (
        "GET / HTTP/1.1\r\nHost: [::1%25eth0]\r\n\r\n",
        "host_invalid",
    ),
    (
        "GET http://evil.test/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "host_disagrees",
    ),
    (
        "GET http://example.com:81/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "host_disagrees",
    ),
    (
        "GET http://a@example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "target_invalid",
    ),
    (
        "GET https://example.com/ HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "target_invalid",
    ),
    (
        "CONNECT example.com:443 HTTP/1.1\r\nHost: example.com:443\r\n\r\n",
        "connect_method",
    ),
    (
        "DELETE / HTTP/1.1\r\nHost: example.com\r\n\r\n",
        "not_allowed",
    ),
    (
        "GET / HTTP/1.1\r\nHost: [2001:db8::2]\r\n\r\n",
        "not_allowed",
    ),
];

#[tokio::test]
async fn a_request_must_name_one_host_in_one_way() {
    for (request, reason) in UNCLEAR {
        let mut rig = Rig::plain();
        refused(&mut rig, request, reason).await;
        rig.assert_no_server_contacted();
    }
}

#[tokio::test]
async fn a_matching_url_and_addresses_are_forwarded() {
    for (request, line, host) in [
        (
            "GET http://Example.com/a HTTP/1.1\r\nHost: example.com:80\r\n\r\n",
            "GET /a HTTP/1.1",
            "example.com:80",
        ),
        (
            "GET http://example.com HTTP/1.1\r\nHost: example.com\r\n\r\n",
            "GET / HTTP/1.1",
            "example.com",
        ),
        (
            "OPTIONS * HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
            "OPTIONS * HTTP/1.1",
            "192.0.2.1",
        ),
        (
            "GET / HTTP/1.1\r\nHost: [2001:DB8:0::1]:8080\r\n\r\n",
            "GET / HTTP/1.1",
            "[2001:db8::1]:8080",
        ),
    ] {
        let mut rig = Rig::plain();
        rig.send(request).await;
        let forwarded = head(&mut rig.server().await).await;
        assert!(forwarded.starts_with(line), "{forwarded}");
        assert!(
            forwarded.contains(&format!("host: {host}\r\n")),
            "{forwarded}"
        );
    }
}

#[tokio::test]
async fn a_connection_is_bound_to_its_host() {
    let mut rig = Rig::plain();
    rig.send("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n")
        .await;
    let mut server = rig.server().await;
    head(&mut server).await;
    say(&mut server, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
    head(&mut rig.guest).await;
    let request = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
    let body = refused(&mut rig, request, "host_changed").await;
    assert!(body.contains("example.com") && body.contains("other.test"));
    assert_eq!(rest(&mut server).await, "");
    rig.assert_no_server_contacted();
}

#[tokio::test]
async fn within_tls_the_host_is_the_one_of_the_client_hello() {
    let mut rig = Rig::new(Scheme::Tls("example.com".to_owned()), Secrets::default());
    let request = "GET / HTTP/1.1\r\nHost: other.test\r\n\r\n";
    refused(&mut rig, request, "host_changed").await;
    rig.assert_no_server_contacted();
}

#[tokio::test]
async fn http_2_without_negotiation_is_refused() {
    let mut rig = Rig::plain();
    rig.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    assert!(!rest(&mut rig.guest).await.contains(" 200 "));
    assert!(rig.proxy.await.unwrap().is_err());
    assert!(rig.servers.try_recv().is_err());
    assert!(rig.recorder.checked.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_page_arrives_although_the_guest_still_sends() {
    let mut rig = Rig::plain();
    rig.send("PUT / HTTP/1.1\r\nHost: evil.test\r\nContent-Length: 200000\r\n\r\n")
        .await;
    let (mut read, mut write) = tokio::io::split(&mut rig.guest);
    let sending = async move {
        // The gateway may stop reading at any point.
        let _ = write.write_all(&[b'x'; 200_000]).await;
        let _ = write.shutdown().await;
    };

    let mut page = String::new();
    let (_, read) = tokio::join!(sending, read.read_to_string(&mut page));
    read.unwrap();
    assert!(page.ends_with("denies PUT evil.test\n"), "{page}");
}

#[tokio::test]
async fn a_denied_request_gets_no_100_continue() {
    let mut rig = Rig::plain();
    let request =
        "PUT / HTTP/1.1\r\nHost: evil.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    refused(&mut rig, request, "not_allowed").await;
}

#[tokio::test]
async fn a_method_in_a_header_is_checked_as_well() {
    for header in [
        "X-HTTP-Method",
        "X-HTTP-Method-Override",
        "X-Method-Override",
    ] {
        let mut rig = Rig::plain();
        let request = "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 0\r\n";
        rig.send(&format!("{request}{header}: DELETE\r\n\r\n"))
            .await;
        let received = tokio::select! {
            received = last(&mut rig.guest) => received,
            _ = rig.servers.recv() => panic!("{header}: the request was forwarded"),
        };
        assert!(received.starts_with("HTTP/1.1 403 "), "{received}");
    }
}
